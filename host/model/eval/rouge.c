/* SPDX-License-Identifier: Apache-2.0
 * ROUGE. Words are runs of a-z and 0-9 after lower-casing: everything else separates. */
#include "host/model/eval/rouge.h"
#include "host/model/eval/porter.h"
#include <string.h>

static const int64_t table_max = 1 << 28; /* cells of one table of common subsequences */

static words tokens(word_table *t, bool stem, text line) {
    line = text_lower(t->a, line);
    words w = {ARENA_NEW(t->a, int32_t, line.n + 1), 0};
    for (size_t i = 0; i < line.n;) {
        size_t from = i;
        while (i < line.n &&
               ((line.s[i] >= 'a' && line.s[i] <= 'z') || (line.s[i] >= '0' && line.s[i] <= '9')))
            i++;
        int n = (int)(i - from);
        i += n == 0;
        if (n == 0)
            continue;
        char *word = arena_copy(t->a, line.s + from, (size_t)n);
        if (stem && n > 3)
            n = porter_stem(word, n);
        if (n > 0)
            w.id[w.n++] = word_number(t, (text){word, (size_t)n});
    }
    return w;
}

static rouge_score score(double hits, double hyp, double ref) {
    rouge_score s = {hyp > 0 ? hits / hyp : 0, ref > 0 ? hits / ref : 0, 0};
    double sum = s.precision + s.recall;
    s.f = sum > 0 ? 2 * s.precision * s.recall / sum : 0;
    return s;
}

static rouge_score score_ngrams(arena *a, const words *hyp, const words *ref, int length) {
    ngrams h = ngrams_of(a, hyp, length), r = ngrams_of(a, ref, length);
    return score((double)ngrams_shared(&h, &r, 1), h.n, r.n);
}

/* ---- Longest common subsequences ---- */

/* [(x.n + 1) * (y.n + 1)] lengths for all prefixes. */
static int32_t *lcs_table(const words *x, const words *y) {
    size_t width = (size_t)y->n + 1;
    int32_t *t = mem_alloc(((size_t)x->n + 1) * width * sizeof *t);
    for (int32_t i = 1; i <= x->n; i++) {
        int32_t *here = t + (size_t)i * width, *above = here - width;
        for (int32_t j = 1; j <= y->n; j++)
            here[j] = x->id[i - 1] == y->id[j - 1] ? above[j - 1] + 1
                      : above[j] > here[j - 1]     ? above[j]
                                                   : here[j - 1];
    }
    return t;
}

static rouge_score score_lcs(const words *hyp, const words *ref) {
    int32_t *t = lcs_table(ref, hyp);
    int32_t hits = t[((size_t)ref->n + 1) * ((size_t)hyp->n + 1) - 1];
    mem_free(t);
    return score(hits, hyp->n, ref->n);
}

/* Marks the words of x that are in one longest common subsequence with y. */
static void mark_lcs(const words *x, const words *y, bool *mark) {
    int32_t *t = lcs_table(x, y), i = x->n, j = y->n;
    size_t width = (size_t)y->n + 1;
    while (i > 0 && j > 0) {
        if (x->id[i - 1] == y->id[j - 1]) {
            mark[--i] = true;
            j--;
        } else if (t[(size_t)i * width + (size_t)j - 1] > t[(size_t)(i - 1) * width + (size_t)j]) {
            j--;
        } else {
            i--;
        }
    }
    mem_free(t);
}

typedef struct {
    words *w;
    int n, total;
} sentences;

static sentences lines_of(word_table *t, bool stem, text all) {
    sentences s = {0};
    int64_t lines = 1;
    for (size_t i = 0; i < all.n; i++)
        lines += all.s[i] == '\n';
    s.w = ARENA_NEW(t->a, words, lines);
    for (size_t from = 0, end; from < all.n; from = end + 1) {
        for (end = from; end < all.n && all.s[end] != '\n';)
            end++;
        if (end > from)
            s.total += (s.w[s.n++] = tokens(t, stem, (text){all.s + from, end - from})).n;
    }
    return s;
}

/* Words that both sides still have: one is used up by each hit. */
static int32_t *word_counts(const word_table *t, const sentences *s) {
    int32_t *count = ARENA_NEW(t->a, int32_t, t->n + 1);
    for (int i = 0; i < s->n; i++)
        for (int32_t k = 0; k < s->w[i].n; k++)
            count[s->w[i].id[k]]++;
    return count;
}

static rouge_score score_lsum(word_table *t, bool stem, text hyp, text ref) {
    sentences h = lines_of(t, stem, hyp), r = lines_of(t, stem, ref);
    int32_t *in_h = word_counts(t, &h), *in_r = word_counts(t, &r), hits = 0;
    for (int i = 0; i < r.n && h.total; i++) {
        bool *mark = ARENA_NEW(t->a, bool, r.w[i].n + 1);
        for (int k = 0; k < h.n; k++)
            mark_lcs(&r.w[i], &h.w[k], mark);
        for (int32_t k = 0; k < r.w[i].n; k++) {
            int32_t id = r.w[i].id[k];
            if (!mark[k] || in_h[id] <= 0 || in_r[id] <= 0)
                continue;
            hits++;
            in_h[id]--;
            in_r[id]--;
        }
    }
    return score(hits, h.total, r.total);
}

static bool against(word_table *t, bool stem, text hyp, text ref, rouge_score out[ROUGE_KINDS]) {
    words h = tokens(t, stem, hyp), r = tokens(t, stem, ref);
    if ((int64_t)h.n * r.n > table_max)
        return false;
    out[ROUGE_1] = score_ngrams(t->a, &h, &r, 1);
    out[ROUGE_2] = score_ngrams(t->a, &h, &r, 2);
    out[ROUGE_L] = score_lcs(&h, &r);
    out[ROUGE_LSUM] = score_lsum(t, stem, hyp, ref);
    return true;
}

bool rouge_count(arena *a, bool stem, text hyp, const text *ref, int nref,
                 rouge_score out[ROUGE_KINDS]) {
    word_table t = {.a = a};
    for (int i = 0; i < nref; i++) {
        rouge_score s[ROUGE_KINDS];
        if (!against(&t, stem, hyp, ref[i], s))
            return false;
        for (int k = 0; k < ROUGE_KINDS; k++)
            if (i == 0 || s[k].f > out[k].f)
                out[k] = s[k];
    }
    return true;
}
