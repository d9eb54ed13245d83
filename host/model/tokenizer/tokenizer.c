/* SPDX-License-Identifier: Apache-2.0
 * Opening a tokenizer: which file of a folder speaks, and what others may ask of it. */
#include "host/base/file.h"
#include "host/model/tokenizer/tok.h"
#include <string.h>

enum { MAX_FILE_BYTES = 512 << 20, MAX_CONFIG_BYTES = 16 << 20 };

static bool ends_with(const char *s, const char *what) {
    size_t n = strlen(s), k = strlen(what);
    return n >= k && !strcmp(s + n - k, what);
}

static tokenizer *tokenizer_new(void) {
    tokenizer *t = mem_alloc(sizeof *t);
    t->bos = t->eos = t->unk = -1;
    t->kind = "";
    return t;
}

void tokenizer_close(tokenizer *t) {
    if (!t)
        return;
    for (int i = 0; i < t->nnorm; i++)
        tok_regex_close(t->norm[i].re);
    for (int i = 0; i < t->nsplit; i++)
        tok_regex_close(t->split[i].re);
    for (int i = 0; i < t->ndec; i++)
        tok_regex_close(t->dec[i].re);
    arena_fini(&t->arena);
    mem_free(t);
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A protobuf starts with the tag of a piece, JSON with a brace, ranks with base64 and a space. */
static tok_file look(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && is_blank(s[i]))
        i++;
    if (i < n && s[i] == '{')
        return TOK_FILE_JSON;
    const char *space = memchr(s, ' ', n < 4096 ? n : 4096);
    for (const char *p = s; space && p < space; p++)
        if (!((*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') ||
              *p == '+' || *p == '/' || *p == '='))
            return TOK_FILE_SENTENCEPIECE;
    return space && space > s ? TOK_FILE_TIKTOKEN : TOK_FILE_SENTENCEPIECE;
}

static weft_status read_into(tokenizer *t, const char *name, tok_file kind, const char *data,
                             size_t n) {
    if (n > MAX_FILE_BYTES)
        return weft_fail(WEFT_BAD_FILE, "%s: %zu bytes (at most %d)", name, n, MAX_FILE_BYTES);
    if (!n)
        return weft_fail(WEFT_BAD_FILE, "%s: empty file", name);
    kind = kind == TOK_FILE_AUTO ? look(data, n) : kind;
    if (kind == TOK_FILE_JSON)
        return tok_json_read(t, name, data, n);
    if (kind == TOK_FILE_TIKTOKEN)
        return tok_ranks_read(t, name, data, n);
    return tok_spm_read(t, name, data, n);
}

weft_status tokenizer_open_memory(const char *name, tok_file kind, const char *data, size_t n,
                                  tokenizer **out) {
    tokenizer *t = tokenizer_new();
    weft_status s = read_into(t, name, kind, data, n);
    if (s == WEFT_OK)
        *out = t;
    else
        tokenizer_close(t);
    return s;
}

/* ---- files and folders ---- */

static weft_status read_one(tokenizer *t, const char *path) {
    file_map m;
    WEFT_TRY(file_map_open(path, &m));
    tok_file kind = ends_with(path, ".json")       ? TOK_FILE_JSON
                    : ends_with(path, ".tiktoken") ? TOK_FILE_TIKTOKEN
                                                   : TOK_FILE_AUTO;
    weft_status s = read_into(t, path, kind, m.data, m.size);
    file_map_close(&m);
    return s;
}

/* The family's name from config.json's model_type, where there is one. */
static weft_status read_family(arena *a, const char *folder, const char **family) {
    const char *path = file_join(a, folder, "config.json"), *data;
    size_t n;
    json j;
    json_str key;
    *family = "";
    if (!file_exists(path))
        return WEFT_OK;
    WEFT_TRY(file_read(path, MAX_CONFIG_BYTES, a, &data, &n));
    json_init(&j, path, data, n, a);
    json_object(&j);
    while (json_key(&j, &key)) {
        if (json_is(key, "model_type") && json_peek(&j) == JSON_STRING)
            *family = json_dup(a, json_string(&j));
        else
            json_skip(&j);
    }
    return json_done(&j);
}

static weft_status read_pair(tokenizer *t, arena *a, const char *folder, const char *vocab,
                             const char *merges) {
    file_map v, m;
    const char *family;
    tok_text tv = {.name = vocab}, tm = {.name = merges};
    WEFT_TRY(read_family(a, folder, &family));
    WEFT_TRY(file_map_open(vocab, &v));
    weft_status s = file_map_open(merges, &m);
    if (s == WEFT_OK) {
        tv.data = v.data;
        tv.n = v.size;
        tm.data = m.data;
        tm.n = m.size;
        s = tok_pair_read(t, tv, tm, family);
        file_map_close(&m);
    }
    file_map_close(&v);
    return s;
}

static weft_status read_config(tokenizer *t, arena *a, const char *folder, bool template_wins) {
    const char *path = file_join(a, folder, "tokenizer_config.json");
    tok_text file = {.name = path};
    if (!file_exists(path))
        return WEFT_OK;
    WEFT_TRY(file_read(path, MAX_CONFIG_BYTES, a, &file.data, &file.n));
    return tok_config_read(t, file, template_wins);
}

static const struct {
    const char *file, *beside; /* beside: vocab.json needs its merges */
} folder_rows[] = {{"tokenizer.json", NULL},
                   {"tokenizer.model", NULL},
                   {"spiece.model", NULL},
                   {"vocab.json", "merges.txt"},
                   {"encoder.json", "vocab.bpe"}};

static weft_status read_folder(tokenizer *t, arena *a, const char *folder) {
    for (size_t i = 0; i < sizeof folder_rows / sizeof *folder_rows; i++) {
        const char *path = file_join(a, folder, folder_rows[i].file), *beside = NULL;
        if (folder_rows[i].beside)
            beside = file_join(a, folder, folder_rows[i].beside);
        if (!file_exists(path) || (beside && !file_exists(beside)))
            continue;
        WEFT_TRY(beside ? read_pair(t, a, folder, path, beside) : read_one(t, path));
        return read_config(t, a, folder, i == 0);
    }
    return weft_fail(WEFT_BAD_FILE,
                     "%s: no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with "
                     "merges.txt)",
                     folder);
}

bool tokenizer_exists(const char *folder) {
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "spiece.model",
                                        "vocab.json", "encoder.json"};
    arena a = {0};
    bool there = false;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        there |= file_exists(file_join(&a, folder, files[i]));
    arena_fini(&a);
    return there;
}

weft_status tokenizer_open(const char *path, tokenizer **out) {
    arena scratch = {0};
    tokenizer *t = tokenizer_new();
    weft_status s = file_is_dir(path) ? read_folder(t, &scratch, path) : read_one(t, path);
    arena_fini(&scratch);
    if (s == WEFT_OK)
        *out = t;
    else
        tokenizer_close(t);
    return s;
}

/* ---- questions ---- */

int tokenizer_vocab_size(const tokenizer *t) {
    return t->vocab.n;
}

int tokenizer_bos(const tokenizer *t) {
    return t->bos;
}

int tokenizer_eos(const tokenizer *t) {
    return t->eos;
}

int tokenizer_unk(const tokenizer *t) {
    return t->unk;
}

int tokenizer_merges(const tokenizer *t) {
    return t->nmerges;
}

int tokenizer_added(const tokenizer *t) {
    return (int)t->nadded;
}

const char *tokenizer_kind(const tokenizer *t) {
    return t->kind;
}

static bool exists(const tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.n && t->vocab.piece[id].s;
}

bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    return exists(t, id) && t->special[id];
}

bool tokenizer_adds_bos(const tokenizer *t) {
    return t->bos >= 0 && t->nprefix && t->prefix[0] == t->bos;
}

const char *tokenizer_piece(const tokenizer *t, int32_t id, size_t *n) {
    *n = 0;
    if (!exists(t, id))
        return NULL;
    json_str s = t->text ? t->text[id] : t->vocab.piece[id];
    for (int b = 0; t->byte_fallback && s.n == 6 && s.s[0] == '<' && b < 256; b++)
        if (t->byte_id[b] == id)
            s = (json_str){&tok_bytes[b], 1};
    *n = s.n;
    return s.s;
}

int32_t tokenizer_find(const tokenizer *t, const char *s, size_t n) {
    int64_t k = tok_set_longest(&t->names, s, n);
    if (k >= 0 && t->names.word[k].s.n == n)
        return t->added[t->names.word[k].id].id;
    return tok_vocab_find(&t->vocab, s, n);
}
