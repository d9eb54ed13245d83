/* SPDX-License-Identifier: Apache-2.0
 * Sorted sets of strings and the added tokens found with them: leftmost, then longest. */
#include "host/model/tokenizer/tok.h"
#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *a, const void *b) {
    const tok_word *x = a, *y = b;
    size_t n = x->s.n < y->s.n ? x->s.n : y->s.n;
    int c = memcmp(x->s.s, y->s.s, n);
    return c ? c : (x->s.n > y->s.n) - (x->s.n < y->s.n);
}

void tok_set_build(tok_set *set, arena *a, const tok_word *words, size_t n) {
    set->word = ARENA_NEW(a, tok_word, n + 1);
    set->n = 0;
    for (size_t i = 0; i < n; i++)
        if (words[i].s.n)
            set->word[set->n++] = words[i];
    qsort(set->word, set->n, sizeof *set->word, by_bytes);
    uint32_t at = 0;
    for (int b = 0; b <= 256; b++) {
        while (at < set->n && (unsigned char)set->word[at].s.s[0] < b)
            at++;
        set->first[b] = at;
    }
}

/* First word of [lo, hi) whose byte at `depth` is at least `byte`; words that end there are
 * less. */
static uint32_t lower(const tok_set *set, uint32_t lo, uint32_t hi, size_t depth, int byte) {
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        json_str s = set->word[mid].s;
        if (s.n <= depth || (unsigned char)s.s[depth] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool tok_set_step(const tok_set *set, uint32_t *lo, uint32_t *hi, size_t depth, uint8_t byte) {
    if (depth == 0) {
        *lo = set->first[byte];
        *hi = set->first[byte + 1];
    } else if (*hi - *lo == 1) { /* the usual case deep down: one word left */
        json_str s = set->word[*lo].s;
        *lo += s.n <= depth || (unsigned char)s.s[depth] != byte;
    } else {
        *lo = lower(set, *lo, *hi, depth, byte);
        *hi = lower(set, *lo, *hi, depth, byte + 1);
    }
    return *lo < *hi;
}

int64_t tok_set_longest(const tok_set *set, const char *s, size_t n) {
    uint32_t lo = 0, hi = set->n;
    int64_t best = -1;
    for (size_t d = 0; d < n; d++) {
        if (!tok_set_step(set, &lo, &hi, d, (uint8_t)s[d]))
            break;
        if (set->word[lo].s.n == d + 1)
            best = lo;
    }
    return best;
}

/* Keys sorted once tell of every token whether it is there twice. */
static weft_status check_twice(const char *name, const tok_word *word, size_t n) {
    for (size_t i = 1; i < n; i++)
        if (!by_bytes(&word[i - 1], &word[i]))
            return weft_fail(WEFT_BAD_FILE, "%s: added token \"%.*s\" is given twice", name,
                             (int)(word[i].s.n < 64 ? word[i].s.n : 64), word[i].s.s);
    return WEFT_OK;
}

static weft_status check_added(const tokenizer *t, const char *name, const tok_added *x,
                               size_t count) {
    int shown = (int)(x->s.n < 64 ? x->s.n : 64);
    if (!x->s.n || x->s.n > TOK_MAX_ADDED_BYTES)
        return weft_fail(WEFT_BAD_FILE, "%s: added token %d has %zu bytes (1 to %d)", name, x->id,
                         x->s.n, TOK_MAX_ADDED_BYTES);
    if (x->id < 0 || (size_t)x->id > 16 * ((size_t)t->vocab.n + count) + 65536)
        return weft_fail(WEFT_BAD_FILE, "%s: added token \"%.*s\": id %d is out of range", name,
                         shown, x->s.s, x->id);
    return WEFT_OK;
}

static weft_status place_added(tokenizer *t, const char *name, tok_added *x) {
    int shown = (int)(x->s.n < 64 ? x->s.n : 64);
    int32_t known = tok_vocab_find(&t->vocab, x->s.s, x->s.n);
    json_str *old = &t->vocab.piece[x->id];
    if (known >= 0 && known != x->id)
        return weft_fail(WEFT_BAD_FILE, "%s: added token \"%.*s\" has id %d, in the vocabulary %d",
                         name, shown, x->s.s, x->id, known);
    if (old->s && !tok_same(*old, x->s))
        return weft_fail(WEFT_BAD_FILE, "%s: added token \"%.*s\" has id %d, which is \"%.*s\"",
                         name, shown, x->s.s, x->id, (int)(old->n < 64 ? old->n : 64), old->s);
    *old = x->s;
    if (t->vocab.type[x->id] == TOK_ABSENT)
        t->vocab.type[x->id] = TOK_NORMAL;
    return WEFT_OK;
}

weft_status tok_add_added(tokenizer *t, const char *name, const tok_added *tokens, size_t n) {
    tok_word *words = ARENA_NEW(&t->arena, tok_word, n + 1);
    int32_t top = t->vocab.n;
    t->added = ARENA_NEW(&t->arena, tok_added, n + 1);
    for (size_t i = 0; i < n; i++) {
        WEFT_TRY(check_added(t, name, &tokens[i], n));
        t->added[i] = tokens[i];
        t->added[i].s.s = arena_copy(&t->arena, tokens[i].s.s, tokens[i].s.n);
        words[i] = (tok_word){t->added[i].s, (int32_t)i};
        top = tokens[i].id >= top ? tokens[i].id + 1 : top;
    }
    t->nadded = n;
    tok_set_build(&t->names, &t->arena, words, n);
    WEFT_TRY(check_twice(name, t->names.word, t->names.n));
    WEFT_TRY(tok_vocab_extend(&t->vocab, &t->arena, top));
    for (size_t i = 0; i < n; i++)
        WEFT_TRY(place_added(t, name, &t->added[i]));
    return WEFT_OK;
}
