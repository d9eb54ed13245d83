/* SPDX-License-Identifier: Apache-2.0
 * N-grams as sorted places: equal ones are neighbours, and a count is two binary searches. */
#include "host/model/eval/ngram.h"
#include "host/base/utf8.h"
#include <stdlib.h>
#include <string.h>

static uint64_t hash(text t) {
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < t.n; i++)
        h = (h ^ (unsigned char)t.s[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

/* Slots hold a word's number + 1, 0 if free. */
static int32_t *place(const word_table *t, text w) {
    uint64_t mask = (uint64_t)t->nslot - 1, i = hash(w) & mask;
    for (; t->slot[i]; i = (i + 1) & mask) {
        text have = t->word[t->slot[i] - 1];
        if (have.n == w.n && memcmp(have.s, w.s, w.n) == 0)
            break;
    }
    return &t->slot[i];
}

static void grow(word_table *t) {
    int32_t size = t->nslot ? 2 * t->nslot : 256;
    text *old = t->word;
    t->word = ARENA_NEW(t->a, text, size / 2);
    if (t->n)
        memcpy(t->word, old, sizeof *old * (size_t)t->n);
    t->slot = ARENA_NEW(t->a, int32_t, size);
    t->nslot = size;
    for (int32_t i = 0; i < t->n; i++)
        *place(t, t->word[i]) = i + 1;
}

int32_t word_number(word_table *t, text word) {
    if (2 * t->n >= t->nslot)
        grow(t);
    int32_t *slot = place(t, word);
    if (!*slot) {
        t->word[t->n] = word;
        *slot = ++t->n;
    }
    return *slot - 1;
}

words words_split(word_table *t, text line) {
    words w = {ARENA_NEW(t->a, int32_t, line.n / 2 + 1), 0};
    text word;
    while (text_word(&line, &word))
        w.id[w.n++] = word_number(t, word);
    return w;
}

words words_chars(arena *a, text line) {
    words w = {ARENA_NEW(a, int32_t, line.n + 1), 0};
    text word;
    while (text_word(&line, &word)) {
        const char *p = word.s, *end = p + word.n;
        for (uint32_t cp; p < end;) {
            p += utf8_next(p, end, &cp);
            w.id[w.n++] = (int32_t)cp;
        }
    }
    return w;
}

static int compare_ids(const int32_t *a, const int32_t *b, int n) {
    for (int i = 0; i < n; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

static int compare_places(const void *a, const void *b, void *user) {
    const ngrams *g = user;
    return compare_ids(g->w->id + *(const int32_t *)a, g->w->id + *(const int32_t *)b, g->length);
}

ngrams ngrams_of(arena *a, const words *w, int length) {
    ngrams g = {.w = w, .n = w->n >= length ? w->n - length + 1 : 0, .length = length};
    g.at = ARENA_NEW(a, int32_t, g.n + 1);
    for (int32_t i = 0; i < g.n; i++)
        g.at[i] = i;
    qsort_r(g.at, (size_t)g.n, sizeof *g.at, compare_places, &g);
    return g;
}

/* First place of g that is not before ids (past = 0), or that is behind it (past = 1). */
static int32_t bound(const ngrams *g, const int32_t *ids, int past) {
    int32_t low = 0, high = g->n;
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if (compare_ids(g->w->id + g->at[mid], ids, g->length) < past)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int64_t ngrams_shared(const ngrams *hyp, const ngrams *ref, int nref) {
    int64_t shared = 0;
    for (int32_t i = 0, end; i < hyp->n; i = end) {
        const int32_t *ids = hyp->w->id + hyp->at[i];
        int32_t most = 0;
        end = bound(hyp, ids, 1);
        for (int k = 0; k < nref; k++) {
            int32_t count = bound(&ref[k], ids, 1) - bound(&ref[k], ids, 0);
            most = count > most ? count : most;
        }
        shared += most < end - i ? most : end - i;
    }
    return shared;
}
