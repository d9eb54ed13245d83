/* SPDX-License-Identifier: Apache-2.0
 * The vocabulary that is learned, and the files it becomes. */
#include "host/train/bpe_model.h"
#include "host/base/file.h"
#include "host/base/hash.h"

/* ---- Tokens by spelling ---- */

static uint32_t *slot_of(const bpe_model *m, const char *s, size_t n) {
    uint64_t i = hash_xxh3(s, n) & m->mask;
    for (; m->slot[i]; i = (i + 1) & m->mask) {
        json_str x = m->token[m->slot[i] - 1];
        if (x.n == n && memcmp(x.s, s, n) == 0)
            break;
    }
    return &m->slot[i];
}

static int32_t add_token(bpe_model *m, const char *s, size_t n) {
    uint32_t *slot = slot_of(m, s, n);
    if (*slot)
        return (int32_t)*slot - 1;
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 1024;
        m->token = mem_grow(m->token, (size_t)m->cap * sizeof *m->token);
    }
    m->token[m->n] = (json_str){arena_copy(&m->text, s, n), n};
    *slot = (uint32_t)++m->n;
    return m->n - 1;
}

int32_t model_join(bpe_model *m, int32_t left, int32_t right) {
    json_str a = m->token[left], b = m->token[right];
    buf s;
    buf_init(&s, SIZE_MAX);
    buf_add(&s, a.s, a.n);
    buf_add(&s, b.s, b.n);
    int32_t id = add_token(m, s.data, s.len);
    buf_fini(&s);
    return id;
}

void model_add_merge(bpe_model *m, bpe_merge merge) {
    if (m->n_merge == m->cap_merge) {
        m->cap_merge = m->cap_merge ? 2 * m->cap_merge : 1024;
        m->merge = mem_grow(m->merge, (size_t)m->cap_merge * sizeof *m->merge);
    }
    m->merge[m->n_merge++] = merge;
}

/* ---- Opening ---- */

static weft_status add_specials(bpe_model *m, const bpe_options *o) {
    for (int i = 0; i < o->n_special; i++) {
        const char *s = o->special[i];
        size_t n = strlen(s);
        if (n == 0 || n > BPE_MAX_SPECIAL_BYTES || utf8_invalid_at(s, n) < n)
            return weft_fail(WEFT_USAGE,
                             "--special: \"%.100s\" is empty, no UTF-8, or longer than "
                             "%d bytes",
                             s, BPE_MAX_SPECIAL_BYTES);
        if (add_token(m, s, n) != i)
            return weft_fail(WEFT_USAGE, "--special: \"%.100s\" is given twice", s);
    }
    m->n_special = o->n_special;
    return WEFT_OK;
}

/* The visible alphabet in the order of its characters. */
static weft_status add_bytes(bpe_model *m) {
    for (uint32_t cp = 0; cp < 0x144; cp++) {
        int byte = tok_char_to_byte(cp);
        char s[4];
        if (byte < 0)
            continue;
        m->byte[byte] = add_token(m, s, (size_t)utf8_put(s, cp));
        if (m->byte[byte] < m->n_special)
            return weft_fail(WEFT_USAGE, "--special: \"%.100s\" is a byte's own token",
                             m->token[m->byte[byte]].s);
    }
    return WEFT_OK;
}

weft_status model_open(bpe_split split, const bpe_options *o, bpe_model **out) {
    if (o->n_special > BPE_MAX_SPECIAL)
        return weft_fail(WEFT_USAGE, "--special: %d tokens (limit %d)", o->n_special,
                         BPE_MAX_SPECIAL);
    if (o->vocab < 256 + o->n_special || o->vocab > BPE_MAX_VOCAB)
        return weft_fail(WEFT_USAGE,
                         "--train-tokenizer: %d tokens; %d are the 256 bytes and the special "
                         "tokens (limit %d)",
                         o->vocab, 256 + o->n_special, BPE_MAX_VOCAB);
    if (o->add_bos && o->n_special == 0)
        return weft_fail(WEFT_USAGE, "--add-bos: no special token to add");
    bpe_model *m = mem_alloc(sizeof *m);
    m->split = split;
    m->add_bos = o->add_bos;
    m->mask = 1023;
    while (m->mask < 2 * (uint64_t)o->vocab)
        m->mask = 2 * m->mask + 1;
    m->slot = mem_alloc((m->mask + 1) * sizeof *m->slot);
    weft_status s = add_specials(m, o);
    if (s == WEFT_OK)
        s = add_bytes(m);
    if (s == WEFT_OK)
        *out = m;
    else
        bpe_model_close(m);
    return s;
}

void bpe_model_close(bpe_model *m) {
    if (!m)
        return;
    arena_fini(&m->text);
    mem_free(m->token);
    mem_free(m->slot);
    mem_free(m->merge);
    mem_free(m);
}

int bpe_model_vocab(const bpe_model *m) {
    return m->n;
}

int bpe_model_merges(const bpe_model *m) {
    return m->n_merge;
}

/* ---- Files ---- */

static void put_token(buf *b, const bpe_model *m, int32_t id) {
    buf_json_string(b, m->token[id].s, m->token[id].n);
}

static void put_added(buf *b, const bpe_model *m) {
    for (int i = 0; i < m->n_special; i++) {
        buf_printf(b, "%s\n    {\"id\": %d, \"content\": ", i ? "," : "", i);
        put_token(b, m, i);
        buf_puts(b, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                    "\"normalized\": false, \"special\": true}");
    }
}

static void put_splits(buf *b, const bpe_model *m) {
    const char *pattern = bpe_pattern[m->split];
    if (m->split == BPE_SPLIT_GPT2) {
        buf_puts(b, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true,"
                    " \"use_regex\": true}");
        return;
    }
    buf_puts(b, "{\"type\": \"Sequence\", \"pretokenizers\": [\n    {\"type\": \"Split\", "
                "\"pattern\": {\"Regex\": ");
    buf_json_string(b, pattern, strlen(pattern));
    buf_puts(b, "}, \"behavior\": \"Isolated\", \"invert\": false},\n    {\"type\": \"ByteLevel\", "
                "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]}");
}

static void put_bos(buf *b, const bpe_model *m) {
    static const char *const part[] = {
        "{\"type\": \"TemplateProcessing\",\n    \"single\": [{\"SpecialToken\": {\"id\": ",
        ", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],\n    \"pair\": "
        "[{\"SpecialToken\": {\"id\": ",
        ", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": "
        "{\"id\": ",
        ", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 0}}],\n    "
        "\"special_tokens\": {",
        ": {\"id\": ",
        ", \"ids\": [0], \"tokens\": [",
    };
    if (!m->add_bos) {
        buf_puts(b, "null");
        return;
    }
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        buf_puts(b, part[i]);
        put_token(b, m, 0);
    }
    buf_puts(b, "]}}}");
}

/* A pair that was joined twice stands once, where it was joined last. */
static void put_merges(buf *b, const bpe_model *m) {
    arena a = {0};
    tok_merges last;
    bool first = true;
    tok_merges_init(&last, &a, (size_t)m->n_merge + 1);
    for (int i = 0; i < m->n_merge; i++)
        tok_merges_set(&last, m->merge[i].left, m->merge[i].right, (uint32_t)i, m->merge[i].into);
    for (int i = 0; i < m->n_merge; i++) {
        const tok_merge *at = tok_merges_find(&last, m->merge[i].left, m->merge[i].right);
        if (at->rank != (uint32_t)i)
            continue;
        buf_puts(b, first ? "\n      [" : ",\n      [");
        put_token(b, m, m->merge[i].left);
        buf_puts(b, ", ");
        put_token(b, m, m->merge[i].right);
        buf_putc(b, ']');
        first = false;
    }
    arena_fini(&a);
}

static void put_tokenizer(buf *b, const bpe_model *m) {
    buf_puts(b, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
                "  \"added_tokens\": [");
    put_added(b, m);
    buf_puts(b, "],\n  \"normalizer\": null,\n  \"pre_tokenizer\": ");
    put_splits(b, m);
    buf_puts(b, ",\n  \"post_processor\": ");
    put_bos(b, m);
    buf_puts(b, ",\n  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                "\"trim_offsets\": true, \"use_regex\": true},\n  \"model\": {\n    \"type\": "
                "\"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": "
                "null, \"end_of_word_suffix\": null,\n    \"fuse_unk\": false, \"byte_fallback\": "
                "false, \"ignore_merges\": false,\n    \"vocab\": {");
    for (int i = 0; i < m->n; i++) {
        buf_puts(b, i ? ",\n      " : "\n      ");
        put_token(b, m, i);
        buf_printf(b, ": %d", i);
    }
    buf_puts(b, "},\n    \"merges\": [");
    put_merges(b, m);
    buf_puts(b, "]}\n}\n");
}

static void put_config(buf *b, const bpe_model *m) {
    buf_printf(b,
               "{\n  \"add_bos_token\": %s,\n  \"add_eos_token\": false,\n"
               "  \"clean_up_tokenization_spaces\": false,\n",
               m->add_bos ? "true" : "false");
    if (m->n_special) {
        buf_puts(b, "  \"bos_token\": ");
        put_token(b, m, 0);
        buf_puts(b, ",\n  \"eos_token\": ");
        put_token(b, m, m->n_special - 1);
        buf_puts(b, ",\n");
    }
    buf_puts(b, "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

weft_status bpe_model_write(const bpe_model *m, const char *dir) {
    arena a = {0};
    buf vocab, config;
    buf_init(&vocab, SIZE_MAX);
    buf_init(&config, SIZE_MAX);
    put_tokenizer(&vocab, m);
    put_config(&config, m);
    weft_status s = file_write_atomic(file_join(&a, dir, "tokenizer_config.json"), config.data,
                                      config.len);
    if (s == WEFT_OK)
        s = file_write_atomic(file_join(&a, dir, "tokenizer.json"), vocab.data, vocab.len);
    buf_fini(&vocab);
    buf_fini(&config);
    arena_fini(&a);
    return s;
}
