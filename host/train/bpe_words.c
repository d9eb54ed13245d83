/* SPDX-License-Identifier: Apache-2.0
 * Text cut into words, each counted. */
#include "host/train/bpe_words.h"
#include "host/base/hash.h"
#include "host/train/doc.h"

enum { PIECE_BYTES = 1 << 20 };

/* As the files of these models spell them: tokenizer.json's engine is Oniguruma. */
const char *const bpe_pattern[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"};

weft_status bpe_words_open(bpe_split split, bpe_words **out) {
    const char *pattern = bpe_pattern[split];
    tok_regex *re;
    WEFT_TRY(tok_regex_open("pre-tokenizer", (json_str){pattern, strlen(pattern)}, TOK_RUBY, &re));
    bpe_words *w = mem_alloc(sizeof *w);
    w->split = split;
    w->re = re;
    w->mask = (1 << 12) - 1;
    w->slot = mem_alloc((w->mask + 1) * sizeof *w->slot);
    *out = w;
    return WEFT_OK;
}

void bpe_words_close(bpe_words *w) {
    if (!w)
        return;
    tok_regex_close(w->re);
    arena_fini(&w->text);
    mem_free(w->word);
    mem_free(w->slot);
    mem_free(w);
}

int64_t bpe_words_count(const bpe_words *w) {
    return (int64_t)w->n;
}

static uint32_t *slot_of(const bpe_words *w, const char *s, size_t n, uint64_t hash) {
    uint64_t i = hash & w->mask;
    for (; w->slot[i]; i = (i + 1) & w->mask) {
        const bpe_word *x = &w->word[w->slot[i] - 1];
        if (x->hash == hash && x->n == n && memcmp(x->s, s, n) == 0)
            break;
    }
    return &w->slot[i];
}

static void grow(bpe_words *w) {
    mem_free(w->slot);
    w->mask = 2 * w->mask + 1;
    w->slot = mem_alloc((w->mask + 1) * sizeof *w->slot);
    for (size_t k = 0; k < w->n; k++) {
        uint64_t i = w->word[k].hash & w->mask;
        while (w->slot[i])
            i = (i + 1) & w->mask;
        w->slot[i] = (uint32_t)(k + 1);
    }
}

static void count_word(bpe_words *w, const char *s, size_t n) {
    uint64_t hash = hash_xxh3(s, n);
    uint32_t *slot = slot_of(w, s, n, hash);
    if (*slot) {
        w->word[*slot - 1].count++;
        return;
    }
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 1024;
        w->word = mem_grow(w->word, w->cap * sizeof *w->word);
    }
    w->word[w->n++] = (bpe_word){
        .s = arena_copy(&w->text, s, n), .n = (uint32_t)n, .hash = hash, .count = 1};
    *slot = (uint32_t)w->n;
    if (2 * w->n > w->mask)
        grow(w);
}

weft_status bpe_words_add(bpe_words *w, const char *text, size_t n) {
    if (n >= TOK_MAX_TEXT || w->n > UINT32_MAX / 4)
        return weft_fail(WEFT_BAD_FILE, "the text is too long (%zu bytes); cut it into documents",
                         n);
    tok_match *m = tok_match_open();
    weft_status s = WEFT_OK;
    for (size_t at = 0; at < n;) {
        size_t begin = n, end = n;
        bool found;
        s = tok_regex_next(w->re, m, text, n, at, &begin, &end, &found);
        if (s != WEFT_OK)
            break;
        if (!found)
            begin = end = n;
        if (begin > at) /* what no alternative takes is a word too */
            count_word(w, text + at, begin - at);
        if (end > begin)
            count_word(w, text + begin, end - begin);
        at = end > at ? end : at + 1;
    }
    tok_match_close(m);
    return s;
}

static weft_status add_document(bpe_words *w, const doc *d) {
    arena a = {0};
    const char *text;
    size_t n;
    weft_status s = doc_text(d, &a, &text, &n);
    /* No word of either split reaches over such a line break. */
    for (size_t at = 0, cut; s == WEFT_OK && at < n; at += cut) {
        cut = doc_line_cut(text + at, n - at, PIECE_BYTES);
        s = bpe_words_add(w, text + at, cut);
        if (s != WEFT_OK)
            s = err_prefix(s, "%s", d->path);
    }
    arena_fini(&a);
    return s;
}

weft_status bpe_words_read(bpe_words *w, const char *path,
                           void (*progress)(void *ctx, int64_t done, int64_t total), void *ctx) {
    doc_reader r;
    doc d = {.kind = DOC_TEXT};
    WEFT_TRY(doc_open(path, &r));
    weft_status s = WEFT_OK;
    while (s == WEFT_OK && d.kind != DOC_NONE) {
        s = doc_next(&r, &d);
        if (s == WEFT_OK && d.kind != DOC_NONE)
            s = add_document(w, &d);
        if (progress)
            progress(ctx, r.read, r.bytes);
        doc_release(&r);
    }
    doc_close(&r);
    return s;
}
