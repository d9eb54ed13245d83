/* SPDX-License-Identifier: Apache-2.0
 * vocab.json and merges.txt, as GPT-2 and its heirs are published: the files hold the model, the
 * normaliser and the split belong to the family. */
#include "host/model/tokenizer/tok.h"
#include <string.h>

#define QWEN2 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" \
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

typedef struct {
    json_str *v;
    size_t n, cap;
} pairs;

/* "left right" a line; a first line "#version: ..." and empty lines do not count. */
static weft_status read_merges(tok_text file, pairs *out) {
    size_t line = 0;
    for (size_t at = 0; at < file.n;) {
        const char *s = file.data + at, *stop = memchr(s, '\n', file.n - at);
        size_t n = stop ? (size_t)(stop - s) : file.n - at;
        at += n + 1;
        line++;
        n -= n && s[n - 1] == '\r';
        if (!n || (n >= 8 && !memcmp(s, "#version", 8)))
            continue;
        const char *space = memchr(s, ' ', n);
        size_t left = space ? (size_t)(space - s) : 0;
        if (!left || left + 1 == n || memchr(space + 1, ' ', n - left - 1))
            return weft_fail(WEFT_BAD_FILE, "%s: line %zu is not \"left right\"", file.name, line);
        if (out->n == out->cap) {
            out->cap = out->cap ? 2 * out->cap : 4096;
            out->v = mem_grow(out->v, 2 * out->cap * sizeof *out->v);
        }
        out->v[2 * out->n] = (json_str){s, left};
        out->v[2 * out->n++ + 1] = (json_str){space + 1, n - left - 1};
    }
    return WEFT_OK;
}

/* A vocabulary without any two digits side by side was trained with digits apart: Qwen's split.
 * GPT-2's keeps numbers whole. */
static bool digits_apart(const tok_vocab *v) {
    for (int32_t id = 0; id < v->n; id++) {
        json_str s = v->piece[id];
        for (size_t i = 1; s.s && i < s.n; i++)
            if (s.s[i] >= '0' && s.s[i] <= '9' && s.s[i - 1] >= '0' && s.s[i - 1] <= '9' &&
                memcmp(s.s, "<|", 2) != 0)
                return false;
    }
    return true;
}

static weft_status build_family(tokenizer *t, tok_text vocab, const char *family) {
    bool qwen = !strncmp(family, "qwen", 4) || (!*family && digits_apart(&t->vocab));
    if (!qwen)
        return tok_split_bytelevel(t, vocab.name, false, true);
    tok_norm_form(t, "NFC");
    WEFT_TRY(tok_split_pattern(t, vocab.name, (json_str){QWEN2, sizeof QWEN2 - 1}, TOK_RUBY));
    return tok_split_bytelevel(t, vocab.name, false, false);
}

/* The end-of-text token both families have; behind the vocabulary where that lacks it. */
static weft_status add_end(tokenizer *t, tok_text vocab) {
    static const char end[] = "<|endoftext|>";
    tok_added x = {.s = {end, sizeof end - 1}, .special = true};
    x.id = tok_vocab_find(&t->vocab, end, sizeof end - 1);
    x.id = x.id < 0 ? t->vocab.n : x.id;
    return tok_add_added(t, vocab.name, &x, 1);
}

static weft_status build(tokenizer *t, tok_text vocab, tok_text merges, const tok_entries *e,
                         const pairs *p, const char *family) {
    WEFT_TRY(tok_vocab_build(&t->vocab, &t->arena, vocab.name, e));
    WEFT_TRY(tok_merges_build(t, merges.name, p->v, p->n));
    WEFT_TRY(build_family(t, vocab, family));
    WEFT_TRY(add_end(t, vocab));
    WEFT_TRY(tok_dec_add(t, vocab.name, (tok_dec){.kind = TOK_DEC_BYTELEVEL}));
    t->kind = "byte-level BPE";
    return tok_finish(t, vocab.name);
}

weft_status tok_pair_read(tokenizer *t, tok_text vocab, tok_text merges, const char *family) {
    arena scratch = {0};
    tok_entries e = {0};
    pairs p = {0};
    json j;
    json_init(&j, vocab.name, vocab.data, vocab.n, &scratch);
    tok_json_vocab(&j, &e);
    weft_status s = json_done(&j);
    size_t bad = utf8_invalid_at(merges.data, merges.n);
    if (s == WEFT_OK && bad != merges.n)
        s = weft_fail(WEFT_BAD_FILE, "%s: byte %zu: invalid UTF-8", merges.name, bad);
    if (s == WEFT_OK)
        s = read_merges(merges, &p);
    if (s == WEFT_OK)
        s = build(t, vocab, merges, &e, &p, family);
    mem_free(e.v);
    mem_free(p.v);
    arena_fini(&scratch);
    return s;
}
