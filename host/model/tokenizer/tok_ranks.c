/* SPDX-License-Identifier: Apache-2.0
 * tiktoken's files: a line a token, "base64 rank". The split pattern and the special tokens are
 * not in the file; the published encodings are rows here, told by the file's name. */
#include "host/model/tokenizer/tok.h"
#include <string.h>

typedef struct {
    const char *text;
    int32_t id;
} special_row;

#define R50K \
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s"
#define CL100K \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+|" \
    " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s"
#define O200K_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SUFFIXES "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define O200K \
    "[^\\r\\n\\p{L}\\p{N}]?" O200K_UPPER "*" O200K_LOWER "+" SUFFIXES "?|" \
    "[^\\r\\n\\p{L}\\p{N}]?" O200K_UPPER "+" O200K_LOWER "*" SUFFIXES "?|\\p{N}{1,3}|" \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 \
    SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" \
             " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const special_row r50k_special[] = {{"<|endoftext|>", 50256}, {NULL, 0}};
static const special_row p50k_edit_special[] = {{"<|endoftext|>", 50256},
                                                {"<|fim_prefix|>", 50281},
                                                {"<|fim_middle|>", 50282},
                                                {"<|fim_suffix|>", 50283},
                                                {NULL, 0}};
static const special_row cl100k_special[] = {
    {"<|endoftext|>", 100257},  {"<|fim_prefix|>", 100258},  {"<|fim_middle|>", 100259},
    {"<|fim_suffix|>", 100260}, {"<|endofprompt|>", 100276}, {NULL, 0}};
static const special_row o200k_special[] = {
    {"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}, {NULL, 0}};

/* name: of NAME.tiktoken; special NULL: Llama 3's, which stand behind the ranks. */
static const struct {
    const char *name, *pattern;
    const special_row *special;
} encodings[] = {{"r50k_base", R50K, r50k_special},       {"gpt2", R50K, r50k_special},
                 {"p50k_base", R50K, r50k_special},       {"p50k_edit", R50K, p50k_edit_special},
                 {"cl100k_base", CL100K, cl100k_special}, {"o200k_base", O200K, o200k_special},
                 {"tokenizer.model", LLAMA3, NULL}};

static int base64_value(unsigned char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes s to `out` (room for 3/4 of it); bytes, or -1. */
static int64_t base64_decode(const char *s, size_t n, char *out) {
    uint32_t bits = 0;
    int have = 0;
    size_t k = 0, pad = 0;
    while (n && s[n - 1] == '=' && pad < 2) {
        n--;
        pad++;
    }
    if ((n + pad) % 4 || !n)
        return -1;
    for (size_t i = 0; i < n; i++) {
        int v = base64_value((unsigned char)s[i]);
        if (v < 0)
            return -1;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[k++] = (char)(bits >> have);
        }
    }
    return (int64_t)k;
}

/* One line; *pool moves behind the token's bytes. */
static weft_status read_line(const char *name, size_t line, json_str text, char **pool,
                             tok_entries *e) {
    const char *space = memchr(text.s, ' ', text.n), *end = text.s + text.n;
    int64_t bytes = space ? base64_decode(text.s, (size_t)(space - text.s), *pool) : -1;
    int64_t rank = 0;
    const char *p = space ? space + 1 : end;
    if (p == end)
        bytes = -1;
    for (; p < end && bytes >= 0; p++) {
        if (*p < '0' || *p > '9' || rank > TOK_MAX_ID)
            bytes = -1;
        rank = 10 * rank + (*p - '0');
    }
    if (bytes < 0)
        return weft_fail(WEFT_BAD_FILE, "%s: line %zu is not \"base64 rank\"", name, line);
    if (rank >= TOK_MAX_ID)
        return weft_fail(WEFT_BAD_FILE, "%s: line %zu: rank above %d", name, line, TOK_MAX_ID - 1);
    tok_entries_add(e, (json_str){*pool, (size_t)bytes}, rank, 0, TOK_NORMAL);
    *pool += bytes;
    return WEFT_OK;
}

static weft_status read_lines(const char *name, const char *data, size_t n, char *pool,
                              tok_entries *e) {
    size_t line = 1;
    for (size_t at = 0; at < n; line++) {
        const char *s = data + at, *stop = memchr(s, '\n', n - at);
        size_t len = stop ? (size_t)(stop - s) : n - at;
        at += len + 1;
        len -= len && s[len - 1] == '\r';
        if (len)
            WEFT_TRY(read_line(name, line, (json_str){s, len}, &pool, e));
    }
    return WEFT_OK;
}

/* What no token covers could not be written down: all 256 bytes have to be there. */
static weft_status check_bytes(const tokenizer *t, const char *name) {
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        if (tok_vocab_find(&t->vocab, &c, 1) < 0)
            return weft_fail(WEFT_BAD_FILE, "%s: byte 0x%02X has no token", name, (unsigned)b);
    }
    return WEFT_OK;
}

enum { LLAMA3_SPECIAL = 256 };

static void llama3_special(tokenizer *t, tok_added *added) {
    static const char *const named[] = {
        "<|begin_of_text|>",   "<|end_of_text|>",   NULL, NULL,        NULL, NULL,
        "<|start_header_id|>", "<|end_header_id|>", NULL, "<|eot_id|>"};
    int reserved = 0;
    for (int i = 0; i < LLAMA3_SPECIAL; i++) {
        const char *s = i < 10 ? named[i] : NULL;
        if (!s)
            s = arena_printf(&t->arena, "<|reserved_special_token_%d|>", reserved++);
        added[i] = (tok_added){.s = {s, strlen(s)}, .id = t->vocab.n + i, .special = true};
    }
}

static weft_status add_special(tokenizer *t, const char *name, const special_row *rows) {
    tok_added added[LLAMA3_SPECIAL];
    size_t n = 0;
    memset(added, 0, sizeof added);
    if (!rows) {
        llama3_special(t, added);
        n = LLAMA3_SPECIAL;
    }
    for (; rows && rows[n].text; n++)
        added[n] = (tok_added){
            .s = {rows[n].text, strlen(rows[n].text)}, .id = rows[n].id, .special = true};
    return tok_add_added(t, name, added, n);
}

static weft_status find_encoding(const char *name, size_t *row) {
    const char *base = strrchr(name, '/');
    base = base ? base + 1 : name;
    const char *dot = strrchr(base, '.');
    size_t n = sizeof encodings / sizeof *encodings;
    bool model = dot && !strcmp(dot, ".model");
    for (*row = 0; *row < n; ++*row) {
        const char *want = encodings[*row].name;
        if (model ? !strcmp(want, "tokenizer.model")
                  : dot && !strcmp(dot, ".tiktoken") && strlen(want) == (size_t)(dot - base) &&
                        !memcmp(want, base, (size_t)(dot - base)))
            return WEFT_OK;
    }
    return weft_fail(WEFT_UNSUPPORTED,
                     "%s: the name tells no encoding (r50k_base, p50k_base, p50k_edit, "
                     "cl100k_base, o200k_base .tiktoken, or tokenizer.model of Llama 3)",
                     name);
}

static weft_status build(tokenizer *t, const char *name, const tok_entries *e, size_t row) {
    WEFT_TRY(tok_vocab_build(&t->vocab, &t->arena, name, e));
    WEFT_TRY(check_bytes(t, name));
    t->by_pieces = t->whole_first = t->added_need_special = true;
    t->rank = ARENA_NEW(&t->arena, uint32_t, t->vocab.n);
    for (int32_t i = 0; i < t->vocab.n; i++)
        t->rank[i] = (uint32_t)i;
    t->nmerges = (int32_t)e->n - 256;
    t->kind = "byte-level BPE (tiktoken ranks)";
    WEFT_TRY(add_special(t, name, encodings[row].special));
    const char *pattern = encodings[row].pattern;
    WEFT_TRY(tok_split_pattern(t, name, (json_str){pattern, strlen(pattern)}, TOK_RUST));
    WEFT_TRY(tok_dec_add(t, name, (tok_dec){.kind = TOK_DEC_RAW}));
    return tok_finish(t, name);
}

weft_status tok_ranks_read(tokenizer *t, const char *name, const char *data, size_t n) {
    size_t row;
    tok_entries e = {0};
    WEFT_TRY(find_encoding(name, &row));
    char *pool = mem_alloc(n + 4);
    weft_status s = read_lines(name, data, n, pool, &e);
    if (s == WEFT_OK)
        s = build(t, name, &e, row);
    mem_free(pool);
    mem_free(e.v);
    return s;
}
