/* SPDX-License-Identifier: Apache-2.0
 * What every tokenizer needs once its file is read: tables by byte and by character, the sets of
 * added tokens, and tokenizer_config.json's say. */
#include "host/model/tokenizer/tok.h"
#include <string.h>

/* ---- tables ---- */

static int hex_value(int c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static weft_status check_byte_pieces(const tokenizer *t, const char *name) {
    for (int32_t id = 0; id < t->vocab.n; id++) {
        if (t->vocab.type[id] != TOK_BYTE)
            continue;
        json_str s = t->vocab.piece[id];
        bool ok = s.n == 6 && !memcmp(s.s, "<0x", 3) && hex_value(s.s[3]) >= 0 &&
                  hex_value(s.s[4]) >= 0 && s.s[5] == '>';
        if (!ok || !t->byte_fallback)
            return weft_fail(WEFT_BAD_FILE, "%s: piece %d: bad byte piece \"%.*s\"", name, id,
                             (int)(s.n < 64 ? s.n : 64), s.s);
    }
    for (int b = 0; b < 256 && t->byte_fallback; b++)
        if (t->byte_id[b] < 0 || t->vocab.type[t->byte_id[b]] != TOK_BYTE)
            return weft_fail(WEFT_BAD_FILE, "%s: no byte piece <0x%02X>", name, (unsigned)b);
    return WEFT_OK;
}

static void fill_tables(tokenizer *t) {
    static const char hex[] = "0123456789ABCDEF";
    char s[8] = "<0x00>";
    for (int b = 0; b < 256; b++) {
        s[3] = hex[b >> 4];
        s[4] = hex[b & 15];
        t->byte_id[b] = tok_vocab_find(&t->vocab, s, 6);
    }
    for (uint32_t c = 0; c < 512; c++)
        t->low_id[c] = tok_vocab_find(&t->vocab, s, (size_t)utf8_put(s, c));
}

static bool marks_inside(json_str s) {
    for (size_t i = 3; i + 3 <= s.n; i++)
        if (tok_is_mark(s.s + i) && !tok_is_mark(s.s + i - 3))
            return true;
    return s.n > 3 && !tok_is_mark(s.s) && (memmem(s.s, s.n < 5 ? s.n : 5, TOK_SPACE, 3) != NULL);
}

/* Without a split a text is one long word; where no token reaches across a space, its words are
 * nevertheless independent, which saves most of the work. */
static bool words_are_apart(const tokenizer *t) {
    if (t->whole_first || t->word_prefix.n || t->word_suffix.n || t->model != TOK_MODEL_BPE ||
        tok_vocab_find(&t->vocab, TOK_SPACE, 3) < 0)
        return false;
    for (int32_t id = 0; t->by_pieces && id < t->vocab.n; id++) {
        uint8_t type = t->vocab.type[id];
        if ((type == TOK_NORMAL || type == TOK_USER || type == TOK_UNUSED) &&
            marks_inside(t->vocab.piece[id]))
            return false;
    }
    for (uint32_t i = 0; !t->by_pieces && i <= t->merges.mask; i++) {
        const tok_merge *m = &t->merges.slot[i];
        if (m->key != UINT64_MAX && marks_inside(t->vocab.piece[m->into]))
            return false;
    }
    return true;
}

static weft_status fill_sets(tokenizer *t) {
    tok_word *words = ARENA_NEW(&t->arena, tok_word, 2 * t->nadded + 1), *late = words + t->nadded;
    size_t nraw = 0, nlate = 0;
    weft_status st = WEFT_OK;
    tok_match *m = tok_match_open();
    buf normal;
    buf_init(&normal, TOK_MAX_TEXT);
    for (size_t i = 0; i < t->nadded && st == WEFT_OK; i++) {
        const tok_added *x = &t->added[i];
        if (!x->normalized || t->spm) {
            words[nraw++] = (tok_word){x->s, (int32_t)i};
            continue;
        }
        buf_clear(&normal);
        st = tok_norm_apply(t, m, x->s.s, x->s.n, &normal, NULL);
        late[nlate++] = (tok_word){{arena_copy(&t->arena, normal.data, normal.len), normal.len},
                                   (int32_t)i};
    }
    tok_set_build(&t->raw, &t->arena, words, nraw);
    tok_set_build(&t->normalized, &t->arena, late, nlate);
    buf_fini(&normal);
    tok_match_close(m);
    return st;
}

/* ---- bytes of a token ---- */

static bool has_decoder(const tokenizer *t, tok_dec_kind kind) {
    for (int i = 0; i < t->ndec; i++)
        if (t->dec[i].kind == kind)
            return true;
    return false;
}

/* Byte-level spellings as bytes, for those who ask what a token looks like. */
static void fill_text(tokenizer *t) {
    if (!has_decoder(t, TOK_DEC_BYTELEVEL))
        return;
    size_t total = 0;
    for (int32_t id = 0; id < t->vocab.n; id++)
        total += t->vocab.piece[id].n;
    char *pool = arena_alloc(&t->arena, total + 1);
    t->text = ARENA_NEW(&t->arena, json_str, t->vocab.n);
    for (int32_t id = 0; id < t->vocab.n; id++) {
        json_str s = t->vocab.piece[id];
        size_t n = 0;
        const char *p = s.s;
        while (p && p < s.s + s.n) {
            int b = tok_char_to_byte(tok_utf8_get(&p));
            if (b < 0)
                break;
            pool[n++] = (char)b;
        }
        bool whole = p == s.s + s.n;
        t->text[id] = whole ? (json_str){pool, n} : s;
        pool += whole ? n : 0;
    }
}

/* ---- BOS and EOS ---- */

static int32_t first_known(const tokenizer *t, const char *const *names) {
    for (; *names; names++) {
        int32_t id = tokenizer_find(t, *names, strlen(*names));
        if (id >= 0)
            return id;
    }
    return -1;
}

static void guess_ends(tokenizer *t) {
    static const char *const bos[] = {"<s>",   "<|begin_of_text|>", "<bos>", "<|startoftext|>",
                                      "[CLS]", "<|endoftext|>",     NULL};
    static const char *const eos[] = {"</s>",  "<|end_of_text|>", "<eos>", "<|im_end|>",
                                      "[SEP]", "<|endoftext|>",   NULL};
    if (t->bos < 0)
        t->bos = t->nprefix ? t->prefix[0] : first_known(t, bos);
    if (t->eos < 0)
        t->eos = t->nsuffix ? t->suffix[t->nsuffix - 1] : first_known(t, eos);
}

static void name_kind(tokenizer *t) {
    bool bytes = false;
    for (int i = 0; i < t->nsplit; i++)
        bytes |= t->split[i].kind == TOK_SPLIT_BYTES;
    if (strcmp(t->kind, "BPE") == 0)
        t->kind = bytes ? "byte-level BPE" : t->byte_fallback ? "SentencePiece BPE" : "BPE";
}

/* Everything that depends on the added tokens. */
static weft_status finish_added(tokenizer *t) {
    t->special = ARENA_NEW(&t->arena, uint8_t, t->vocab.n);
    for (int32_t id = 0; id < t->vocab.n; id++)
        t->special[id] = t->vocab.type[id] == TOK_CONTROL;
    for (size_t i = 0; i < t->nadded; i++)
        t->special[t->added[i].id] |= t->added[i].special;
    fill_text(t);
    return fill_sets(t);
}

weft_status tok_finish(tokenizer *t, const char *name) {
    fill_tables(t);
    if (t->spm)
        WEFT_TRY(check_byte_pieces(t, name));
    t->cut_at_space = words_are_apart(t);
    if (!t->ndec)
        WEFT_TRY(tok_dec_add(t, name, (tok_dec){.kind = TOK_DEC_JOIN}));
    name_kind(t);
    WEFT_TRY(finish_added(t));
    guess_ends(t);
    return WEFT_OK;
}

/* ---- tokenizer_config.json ---- */

typedef struct {
    json_str cls, bos, eos;
    int add_bos, add_eos; /* -1: not said */
    tok_added *added;
    size_t nadded, cap;
} config;

/* "<s>" or {"content": "<s>", ...} or null. */
static json_str read_token(json *j) {
    json_str s = {NULL, 0}, key;
    json_kind kind = json_peek(j);
    if (kind == JSON_STRING)
        return json_string(j);
    if (kind != JSON_OBJECT) {
        json_skip(j);
        return s;
    }
    json_object(j);
    while (json_key(j, &key)) {
        if (json_is(key, "content"))
            s = json_string(j);
        else
            json_skip(j);
    }
    return s;
}

static int read_maybe(json *j) {
    if (json_peek(j) == JSON_BOOL)
        return json_bool(j);
    json_skip(j);
    return -1;
}

static int32_t parse_id(json *j, json_str key) {
    int64_t id = key.n && key.n < 9 ? 0 : -1;
    for (size_t i = 0; i < key.n && id >= 0; i++)
        id = key.s[i] >= '0' && key.s[i] <= '9' ? 10 * id + (key.s[i] - '0') : -1;
    if (id < 0 || id >= TOK_MAX_ID)
        json_fail(j, "added_tokens_decoder: \"%.*s\" is not an id", (int)(key.n < 40 ? key.n : 40),
                  key.s);
    return (int32_t)id;
}

static void read_decoder(json *j, config *c) {
    json_str id, key;
    json_object(j);
    while (json_key(j, &id)) {
        tok_added x = {.id = parse_id(j, id)};
        struct {
            const char *name;
            bool *b;
        } rows[] = {{"special", &x.special},
                    {"lstrip", &x.lstrip},
                    {"rstrip", &x.rstrip},
                    {"single_word", &x.single_word},
                    {"normalized", &x.normalized}};
        json_object(j);
        while (json_key(j, &key)) {
            size_t r = 0, n = sizeof rows / sizeof *rows;
            while (r < n && !json_is(key, rows[r].name))
                r++;
            if (r < n)
                *rows[r].b = json_bool(j);
            else if (json_is(key, "content"))
                x.s = json_string(j);
            else
                json_skip(j);
        }
        if (c->nadded == c->cap) {
            c->cap = c->cap ? 2 * c->cap : 64;
            c->added = mem_grow(c->added, c->cap * sizeof *c->added);
        }
        c->added[c->nadded++] = x;
    }
}

static void read_config(json *j, config *c) {
    json_str key;
    json_object(j);
    while (json_key(j, &key)) {
        if (json_is(key, "tokenizer_class"))
            c->cls = json_peek(j) == JSON_STRING ? json_string(j) : (json_skip(j), c->cls);
        else if (json_is(key, "bos_token"))
            c->bos = read_token(j);
        else if (json_is(key, "eos_token"))
            c->eos = read_token(j);
        else if (json_is(key, "add_bos_token"))
            c->add_bos = read_maybe(j);
        else if (json_is(key, "add_eos_token"))
            c->add_eos = read_maybe(j);
        else if (json_is(key, "added_tokens_decoder"))
            read_decoder(j, c);
        else
            json_skip(j);
    }
}

/* Tokens of the configuration behind those that the model's own file gave. */
static weft_status merge_added(tokenizer *t, const char *name, const config *c) {
    tok_added *all = mem_alloc((t->nadded + c->nadded + 1) * sizeof *all);
    size_t n = t->nadded;
    memcpy(all, t->added, n * sizeof *all);
    for (size_t i = 0; i < c->nadded; i++) {
        json_str s = c->added[i].s;
        int64_t k = s.n ? tok_set_longest(&t->names, s.s, s.n) : -1;
        if (k >= 0 && t->names.word[k].s.n == s.n)
            continue;
        all[n++] = c->added[i];
    }
    weft_status st = n > t->nadded ? tok_add_added(t, name, all, n) : WEFT_OK;
    mem_free(all);
    return st == WEFT_OK ? finish_added(t) : st;
}

static void set_side(int32_t *side, int *n, int say, int32_t id) {
    if (say < 0)
        return;
    *n = say && id >= 0;
    side[0] = id;
}

/* Families whose tokenizer class puts BOS and EOS around a text by these two switches, whatever the
 * template in tokenizer.json says. */
static bool switches_rule(json_str cls) {
    static const char *const families[] = {"Llama", "CodeLlama", "Gemma"};
    for (size_t i = 0; i < 3; i++)
        if (cls.n >= strlen(families[i]) && !memcmp(cls.s, families[i], strlen(families[i])))
            return true;
    return false;
}

static weft_status apply_config(tokenizer *t, const char *name, const config *c,
                                bool template_wins) {
    if (!template_wins && c->nadded)
        WEFT_TRY(merge_added(t, name, c));
    int32_t bos = c->bos.s ? tokenizer_find(t, c->bos.s, c->bos.n) : -1;
    int32_t eos = c->eos.s ? tokenizer_find(t, c->eos.s, c->eos.n) : -1;
    t->bos = bos >= 0 ? bos : t->bos;
    t->eos = eos >= 0 ? eos : t->eos;
    if (template_wins && !switches_rule(c->cls))
        return WEFT_OK;
    set_side(t->prefix, &t->nprefix, c->add_bos, t->bos);
    set_side(t->suffix, &t->nsuffix, c->add_eos, t->eos);
    return WEFT_OK;
}

weft_status tok_config_read(tokenizer *t, tok_text file, bool template_wins) {
    arena scratch = {0};
    config c = {.add_bos = -1, .add_eos = -1};
    json j;
    json_init(&j, file.name, file.data, file.n, &scratch);
    read_config(&j, &c);
    weft_status s = json_done(&j);
    if (s == WEFT_OK)
        s = apply_config(t, file.name, &c, template_wins);
    mem_free(c.added);
    arena_fini(&scratch);
    return s;
}
