/* SPDX-License-Identifier: Apache-2.0
 * Unigram model of one word: the split into pieces with the highest sum of scores (Viterbi). */
#include "host/model/tokenizer/tok.h"
#include <string.h>

typedef struct {
    double score; /* of the best split of what ends here */
    uint32_t from;
    int32_t id; /* its last piece; -1: nothing ends here */
} lattice;

/* SentencePiece sums in float, the library behind tokenizer.json in double. */
static void offer(const tokenizer *t, lattice *best, size_t from, size_t to, double piece,
                  int32_t id) {
    double score = best[from].score + piece;
    if (t->spm)
        score = (double)((float)best[from].score + (float)piece);
    if (best[to].id < 0 || score > best[to].score)
        best[to] = (lattice){score, (uint32_t)from, id};
}

static void extend(const tokenizer *t, lattice *best, const char *s, size_t n, size_t at) {
    uint32_t lo = 0, hi = t->units.n;
    const char *p = s + at;
    tok_utf8_get(&p);
    size_t one = (size_t)(p - s) - at;
    bool single = false;
    for (size_t d = 0; at + d < n; d++) {
        if (!tok_set_step(&t->units, &lo, &hi, d, (uint8_t)s[at + d]))
            break;
        const tok_word *w = &t->units.word[lo];
        if (w->s.n != d + 1)
            continue;
        bool user = t->vocab.type[w->id] == TOK_USER; /* a user-defined piece wins */
        double piece = user && t->spm ? (double)((float)(d + 1) * t->top_score - 0.1f)
                                      : t->score[w->id];
        offer(t, best, at, at + d + 1, piece, w->id);
        single |= d + 1 == one;
    }
    if (!single)
        offer(t, best, at, at + one, t->unk_score, t->unk);
}

static bool put_bytes(const tokenizer *t, const char *s, size_t n, tok_ids *out) {
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        tok_ids_add(out, t->byte_id[(unsigned char)s[i]]);
    return true;
}

/* Follows the best split back to its start, leaving in `id` and `from` the chain forwards. */
static void put_path(const tokenizer *t, lattice *best, const char *s, size_t n, tok_ids *out) {
    size_t to = n;
    uint32_t next = (uint32_t)n;
    while (to) { /* reverse the links: best[x].from becomes where the piece at x ends */
        uint32_t from = best[to].from;
        int32_t id = best[to].id;
        best[to].from = next;
        next = (uint32_t)to;
        best[from].score = id; /* exact: ids are below 2^24 */
        to = from;
    }
    bool unknown = false;
    size_t at = 0;
    while (at < n) {
        size_t end = at == 0 ? next : best[at].from;
        int32_t id = (int32_t)best[at].score;
        if (id != t->unk)
            tok_ids_add(out, id);
        else if (!(t->byte_fallback && put_bytes(t, s + at, end - at, out)) && !unknown)
            tok_ids_add(out, id);
        unknown = id == t->unk;
        at = end;
    }
}

weft_status tok_unigram_word(const tokenizer *t, const char *s, size_t n, tok_ids *out) {
    lattice *best = mem_alloc((n + 1) * sizeof *best);
    for (size_t i = 0; i <= n; i++)
        best[i].id = -1;
    for (size_t at = 0; at < n;) {
        const char *p = s + at;
        extend(t, best, s, n, at);
        tok_utf8_get(&p);
        at = (size_t)(p - s);
    }
    put_path(t, best, s, n, out);
    mem_free(best);
    return WEFT_OK;
}
