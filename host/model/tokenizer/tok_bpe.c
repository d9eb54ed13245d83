/* SPDX-License-Identifier: Apache-2.0
 * Byte-pair encoding of one word: of all neighbours that may join, the lowest rank, then the
 * leftmost, joins first. Short words look for it by scanning, long ones with a heap: n log n for a
 * megabyte of one letter. What joins is told by pairs of ids (tokenizer.json) or by what both
 * sides spell together (tiktoken ranks, SentencePiece). */
#include "host/model/tokenizer/tok.h"
#include <stdlib.h>
#include <string.h>

enum {
    SHORT_WORD = 48,   /* symbols; below, a scan is faster than a heap */
    CACHED_BYTES = 48, /* longest word that is remembered */
    CACHED_IDS = 12,
    CACHE_FROM_BYTES = 4096 /* shorter texts have too few repeated words */
};
#define NO_RANK UINT32_MAX

#define FROZEN (1u << 31) /* in `off`: a user-defined piece, which never joins */

typedef struct {
    int32_t id;         /* -1: bytes that are no token */
    uint32_t off;       /* in the word; it ends where the next one starts */
    int32_t prev, next; /* -1: none */
    uint32_t rank;      /* of joining with `next`; NO_RANK too once joined into another */
    int32_t into;       /* and the token that gives */
} symbol;

typedef struct {
    uint8_t bytes, ids;
    char word[CACHED_BYTES];
    int32_t id[CACHED_IDS];
} cached;

struct tok_bpe {
    const tokenizer *t;
    const char *word;
    size_t word_bytes;
    symbol *sym;
    size_t n, cap;
    uint64_t *heap; /* rank << 32 | index of the left symbol */
    size_t nheap, heap_cap;
    cached *cache;
    uint32_t cache_mask;
    uint32_t *left_part; /* by id of an unused piece: bytes of its left half */
    bool last_unknown;   /* SentencePiece: a run of unknown pieces is one */
    buf spell;
};

tok_bpe *tok_bpe_open(const tokenizer *t, size_t text_bytes) {
    tok_bpe *b = mem_alloc(sizeof *b);
    b->t = t;
    buf_init(&b->spell, 4 * TOK_MAX_PIECE_BYTES);
    if (text_bytes >= CACHE_FROM_BYTES && !t->has_unused) {
        uint32_t size = 512;
        while (size < text_bytes / 16 && size < 8192)
            size *= 2;
        b->cache = mem_alloc(size * sizeof *b->cache);
        b->cache_mask = size - 1;
    }
    if (t->has_unused)
        b->left_part = mem_alloc((size_t)t->vocab.n * sizeof *b->left_part);
    return b;
}

void tok_bpe_close(tok_bpe *b) {
    mem_free(b->sym);
    mem_free(b->heap);
    mem_free(b->cache);
    mem_free(b->left_part);
    buf_fini(&b->spell);
    mem_free(b);
}

/* ---- symbols ---- */

static void add_symbol(tok_bpe *b, int32_t id, size_t off) {
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 256;
        b->sym = mem_grow(b->sym, b->cap * sizeof *b->sym);
    }
    int32_t i = (int32_t)b->n++;
    b->sym[i] = (symbol){id, (uint32_t)off, i - 1, i + 1, NO_RANK, -1};
}

static uint32_t start_of(const symbol *s) {
    return s->off & ~FROZEN;
}

static uint32_t end_of(const tok_bpe *b, const symbol *s) {
    return s->next < 0 ? (uint32_t)b->word_bytes : start_of(&b->sym[s->next]);
}

static int32_t char_id(const tok_bpe *b, const char *s, size_t n) {
    const tokenizer *t = b->t;
    if (n <= 2 && !t->word_prefix.n && !t->word_suffix.n) {
        const char *p = s;
        uint32_t c = tok_utf8_get(&p);
        if (c < 512)
            return t->low_id[c];
    }
    return tok_vocab_find(&t->vocab, s, n);
}

static int32_t affixed_id(tok_bpe *b, const char *s, size_t n, bool first, bool last) {
    const tokenizer *t = b->t;
    if ((first || !t->word_prefix.n) && (!last || !t->word_suffix.n))
        return t->word_prefix.n || t->word_suffix.n ? tok_vocab_find(&t->vocab, s, n)
                                                    : char_id(b, s, n);
    buf_clear(&b->spell);
    if (!first)
        buf_add(&b->spell, t->word_prefix.s, t->word_prefix.n);
    buf_add(&b->spell, s, n);
    if (last)
        buf_add(&b->spell, t->word_suffix.s, t->word_suffix.n);
    return tok_vocab_find(&t->vocab, b->spell.data, b->spell.len);
}

static bool add_bytes(tok_bpe *b, size_t off, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (b->t->byte_id[(unsigned char)b->word[off + i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        add_symbol(b, b->t->byte_id[(unsigned char)b->word[off + i]], off + i);
    return true;
}

/* Characters of a word that tokenizer.json describes; without an unknown token what is not in the
 * vocabulary is left out, as its library does. */
static void chars_by_pairs(tok_bpe *b, size_t n) {
    const tokenizer *t = b->t;
    const char *end = b->word + n;
    bool unknown = false; /* waits for what follows, which may belong to it */
    for (const char *p = b->word; p < end;) {
        const char *s = p;
        size_t off = (size_t)(s - b->word);
        tok_utf8_get(&p);
        int32_t id = affixed_id(b, s, (size_t)(p - s), off == 0, p == end);
        if (id < 0 && t->byte_fallback && add_bytes(b, off, (size_t)(p - s)))
            continue;
        if (id < 0 && t->unk < 0)
            continue;
        if (unknown && (id >= 0 || !t->fuse_unk))
            add_symbol(b, t->unk, off);
        unknown = id < 0;
        if (id >= 0)
            add_symbol(b, id, off);
    }
    if (unknown)
        add_symbol(b, t->unk, n);
}

static void chars_by_pieces(tok_bpe *b, size_t n) {
    const tokenizer *t = b->t;
    for (size_t off = 0; off < n;) {
        const char *p = b->word + off;
        int64_t user = t->spm && t->sp.user.n ? tok_set_longest(&t->sp.user, p, n - off) : -1;
        size_t len = 1;
        if (user >= 0)
            len = t->sp.user.word[user].s.n;
        else if (t->spm)
            len = (tok_utf8_get(&p), (size_t)(p - b->word) - off);
        add_symbol(b, tok_vocab_find(&t->vocab, b->word + off, len),
                   user >= 0 ? off | FROZEN : off);
        off += len;
    }
}

/* ---- joining ---- */

static bool may_join(uint8_t type) {
    return type == TOK_NORMAL || type == TOK_USER || type == TOK_UNUSED;
}

static void rate_by_pieces(tok_bpe *b, symbol *l, const symbol *r) {
    const tokenizer *t = b->t;
    if ((l->off | r->off) & FROZEN)
        return;
    int32_t id = tok_vocab_find(&t->vocab, b->word + l->off, end_of(b, r) - l->off);
    if (id < 0 || !may_join(t->vocab.type[id]))
        return;
    l->rank = t->rank[id];
    l->into = id;
    if (b->left_part && t->vocab.type[id] == TOK_UNUSED)
        b->left_part[id] = r->off - l->off;
}

/* Finds what symbol i and its right neighbour may become. */
static void rate(tok_bpe *b, int32_t i) {
    symbol *l = &b->sym[i];
    l->rank = NO_RANK;
    if (l->next < 0)
        return;
    const symbol *r = &b->sym[l->next];
    if (b->t->by_pieces) {
        rate_by_pieces(b, l, r);
        return;
    }
    const tok_merge *m = tok_merges_find(&b->t->merges, l->id, r->id);
    if (m) {
        l->rank = m->rank;
        l->into = m->into;
    }
}

static void join(tok_bpe *b, int32_t i) {
    symbol *l = &b->sym[i], *r = &b->sym[l->next];
    l->id = l->into;
    l->next = r->next;
    r->rank = NO_RANK;
    if (l->next >= 0)
        b->sym[l->next].prev = i;
    rate(b, i);
    if (l->prev >= 0)
        rate(b, l->prev);
}

static void join_by_scan(tok_bpe *b) {
    for (;;) {
        int32_t best = -1;
        uint32_t rank = NO_RANK;
        for (int32_t i = 0; i >= 0; i = b->sym[i].next)
            if (b->sym[i].rank < rank) {
                rank = b->sym[i].rank;
                best = i;
            }
        if (best < 0)
            return;
        join(b, best);
    }
}

/* Four children a node: half the levels of two, each on one cache line. */
static void heap_down(uint64_t *h, size_t n, uint64_t x) {
    size_t i = 0;
    for (size_t c; (c = 4 * i + 1) < n;) {
        size_t end = c + 4 < n ? c + 4 : n, best = c;
        while (++c < end)
            best = h[c] < h[best] ? c : best;
        if (h[best] >= x)
            break;
        h[i] = h[best];
        i = best;
    }
    h[i] = x;
}

static void heap_push(tok_bpe *b, int32_t i) {
    if (i < 0 || b->sym[i].rank == NO_RANK)
        return;
    if (b->nheap == b->heap_cap) {
        b->heap_cap = b->heap_cap ? 2 * b->heap_cap : 1024;
        b->heap = mem_grow(b->heap, b->heap_cap * sizeof *b->heap);
    }
    uint64_t x = (uint64_t)b->sym[i].rank << 32 | (uint32_t)i;
    size_t at = b->nheap++;
    for (; at && b->heap[(at - 1) / 4] > x; at = (at - 1) / 4)
        b->heap[at] = b->heap[(at - 1) / 4];
    b->heap[at] = x;
}

static void join_by_heap(tok_bpe *b) {
    b->nheap = 0;
    for (int32_t i = 0; i >= 0; i = b->sym[i].next)
        heap_push(b, i);
    while (b->nheap) {
        uint64_t top = b->heap[0];
        if (--b->nheap)
            heap_down(b->heap, b->nheap, b->heap[b->nheap]);
        int32_t i = (int32_t)(uint32_t)top;
        if (b->sym[i].rank != (uint32_t)(top >> 32))
            continue; /* joined meanwhile, or its neighbour changed */
        join(b, i);
        heap_push(b, i);
        heap_push(b, b->sym[i].prev);
    }
}

/* ---- ids ---- */

static void put_unknown(tok_bpe *b, size_t off, size_t len, tok_ids *out) {
    const tokenizer *t = b->t;
    if (t->byte_fallback) {
        for (size_t i = 0; i < len; i++)
            tok_ids_add(out, t->byte_id[(unsigned char)b->word[off + i]]);
        return;
    }
    if (!b->last_unknown)
        tok_ids_add(out, t->unk);
    b->last_unknown = true;
}

/* A piece that must not be given out falls apart into what it was joined from. */
static void put_piece(tok_bpe *b, int32_t id, size_t off, size_t len, tok_ids *out) {
    const tokenizer *t = b->t;
    if (id < 0 || t->vocab.type[id] == TOK_UNKNOWN) {
        put_unknown(b, off, len, out);
        return;
    }
    b->last_unknown = false;
    uint32_t left = b->left_part ? b->left_part[id] : 0;
    if (t->vocab.type[id] != TOK_UNUSED || !left || left >= len) {
        tok_ids_add(out, id);
        return;
    }
    put_piece(b, tok_vocab_find(&t->vocab, b->word + off, left), off, left, out);
    put_piece(b, tok_vocab_find(&t->vocab, b->word + off + left, len - left), off + left,
              len - left, out);
}

static void put_symbols(tok_bpe *b, tok_ids *out) {
    for (int32_t i = b->n ? 0 : -1; i >= 0; i = b->sym[i].next) {
        const symbol *s = &b->sym[i];
        if (b->t->by_pieces)
            put_piece(b, s->id, start_of(s), end_of(b, s) - start_of(s), out);
        else
            tok_ids_add(out, s->id);
    }
}

static weft_status encode_new(tok_bpe *b, const char *s, size_t n, tok_ids *out) {
    const tokenizer *t = b->t;
    if (t->whole_first) {
        int32_t id = tok_vocab_find(&t->vocab, s, n);
        if (id >= 0) {
            tok_ids_add(out, id);
            return WEFT_OK;
        }
    }
    if (n > INT32_MAX)
        return weft_fail(WEFT_BAD_FILE, "text: a word of %zu bytes (at most %d)", n, INT32_MAX);
    b->word = s;
    b->word_bytes = n;
    b->n = 0;
    if (t->by_pieces)
        chars_by_pieces(b, n);
    else
        chars_by_pairs(b, n);
    if (!b->n)
        return WEFT_OK;
    b->sym[b->n - 1].next = -1;
    for (size_t i = 0; i < b->n; i++)
        rate(b, (int32_t)i);
    if (b->n <= SHORT_WORD)
        join_by_scan(b);
    else
        join_by_heap(b);
    put_symbols(b, out);
    return WEFT_OK;
}

static cached *cache_entry(tok_bpe *b, const char *s, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001B3u;
    return &b->cache[(uint32_t)(h ^ h >> 29) & b->cache_mask];
}

static weft_status encode_part(tok_bpe *b, const char *s, size_t n, tok_ids *out) {
    if (!b->cache || n > CACHED_BYTES)
        return encode_new(b, s, n, out);
    cached *c = cache_entry(b, s, n);
    if (c->bytes == n && !memcmp(c->word, s, n)) {
        for (int i = 0; i < c->ids; i++)
            tok_ids_add(out, c->id[i]);
        b->last_unknown = false;
        return WEFT_OK;
    }
    size_t start = out->n;
    bool unknown = b->last_unknown;
    WEFT_TRY(encode_new(b, s, n, out));
    if (out->n - start > CACHED_IDS || unknown || b->last_unknown)
        return WEFT_OK;
    c->bytes = (uint8_t)n;
    c->ids = (uint8_t)(out->n - start);
    memcpy(c->word, s, n);
    memcpy(c->id, out->v + start, c->ids * sizeof *c->id);
    return WEFT_OK;
}

/* Where the next space mark stands behind something else: what is left of it joins with nothing on
 * the right. */
static size_t cut_at(const char *s, size_t n) {
    for (size_t i = 1; i + 2 < n; i++) {
        const char *hit = memchr(s + i, (unsigned char)TOK_SPACE[0], n - i);
        if (!hit || (size_t)(hit - s) + 2 >= n)
            return n;
        i = (size_t)(hit - s);
        if (tok_is_mark(s + i) && (i < 3 || !tok_is_mark(s + i - 3)))
            return i;
    }
    return n;
}

weft_status tok_bpe_word(tok_bpe *b, const char *s, size_t n, tok_ids *out) {
    b->last_unknown = false;
    if (!b->t->cut_at_space || (b->t->whole_first && !b->t->by_pieces))
        return encode_part(b, s, n, out);
    while (n) {
        size_t k = cut_at(s, n);
        WEFT_TRY(encode_part(b, s, k, out));
        s += k;
        n -= k;
    }
    return WEFT_OK;
}
