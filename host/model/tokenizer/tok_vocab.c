/* SPDX-License-Identifier: Apache-2.0
 * The vocabulary (spelling <-> id) and the merge table: two open-addressing tables in the
 * tokenizer's arena, built once. */
#include "host/model/tokenizer/tok.h"
#include <string.h>

void tok_entries_add(tok_entries *e, json_str s, int64_t id, double score, int type) {
    if (e->n == e->cap) {
        e->cap = e->cap ? 2 * e->cap : 4096;
        e->v = mem_grow(e->v, e->cap * sizeof *e->v);
    }
    int32_t small = id < 0 ? -1 : id > TOK_MAX_ID ? TOK_MAX_ID : (int32_t)id;
    e->v[e->n++] = (tok_entry){s, score, small, (uint8_t)type};
}

static uint32_t hash_bytes(uint64_t seed, const char *s, size_t n) {
    uint64_t h = seed ^ n * 0x9E3779B97F4A7C15u, w;
    for (; n >= 8; n -= 8, s += 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    w = 0;
    for (size_t i = 0; i < n; i++)
        w = w << 8 | (unsigned char)s[i];
    h = (h ^ w) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    h *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

/* The slot of a spelling, or the free slot where it belongs. */
static tok_slot *vocab_slot(const tok_vocab *v, const char *s, size_t n, uint32_t hash) {
    for (uint32_t i = hash & v->mask;; i = (i + 1) & v->mask) {
        tok_slot *slot = &v->slot[i];
        if (!slot->id1)
            return slot;
        if (slot->hash == hash) {
            json_str p = v->piece[slot->id1 - 1];
            if (p.n == n && !memcmp(p.s, s, n))
                return slot;
        }
    }
}

int32_t tok_vocab_find(const tok_vocab *v, const char *s, size_t n) {
    if (n > v->longest)
        return -1;
    return (int32_t)vocab_slot(v, s, n, hash_bytes(v->seed, s, n))->id1 - 1;
}

static weft_status entries_check(const char *name, const tok_entries *e, int32_t *ids,
                                 size_t *bytes) {
    int32_t top = -1;
    *bytes = 0;
    for (size_t i = 0; i < e->n; i++) {
        const tok_entry *x = &e->v[i];
        if (x->id < 0 || x->id >= TOK_MAX_ID)
            return weft_fail(WEFT_BAD_FILE, "%s: id of token \"%.*s\" is out of range (0 to %d)",
                             name, (int)(x->s.n < 64 ? x->s.n : 64), x->s.s, TOK_MAX_ID - 1);
        if (x->s.n > TOK_MAX_PIECE_BYTES)
            return weft_fail(WEFT_BAD_FILE, "%s: token %d has %zu bytes (at most %d)", name, x->id,
                             x->s.n, TOK_MAX_PIECE_BYTES);
        top = x->id > top ? x->id : top;
        *bytes += x->s.n;
    }
    if (!e->n)
        return weft_fail(WEFT_BAD_FILE, "%s: the vocabulary is empty", name);
    if ((size_t)top > 16 * e->n + 65536)
        return weft_fail(WEFT_BAD_FILE, "%s: id %d in a vocabulary of %zu tokens", name, top, e->n);
    *ids = top + 1;
    return WEFT_OK;
}

static uint32_t table_size(size_t count) {
    uint32_t size = 16;
    while (size < 2 * count)
        size *= 2;
    return size;
}

weft_status tok_vocab_build(tok_vocab *v, arena *a, const char *name, const tok_entries *e) {
    size_t bytes;
    WEFT_TRY(entries_check(name, e, &v->n, &bytes));
    char *pool = arena_alloc(a, bytes + 1);
    uint32_t size = table_size(e->n);
    v->piece = ARENA_NEW(a, json_str, v->n);
    v->type = ARENA_NEW(a, uint8_t, v->n);
    v->slot = ARENA_NEW(a, tok_slot, size);
    v->mask = size - 1;
    v->seed = (uint64_t)(uintptr_t)v->slot * 0x9E3779B97F4A7C15u;
    for (size_t i = 0; i < e->n; i++) {
        const tok_entry *x = &e->v[i];
        if (v->piece[x->id].s)
            return weft_fail(WEFT_BAD_FILE, "%s: id %d is given twice", name, x->id);
        uint32_t hash = hash_bytes(v->seed, x->s.s, x->s.n);
        tok_slot *slot = vocab_slot(v, x->s.s, x->s.n, hash);
        if (slot->id1)
            return weft_fail(WEFT_BAD_FILE, "%s: token \"%.*s\" has the ids %u and %d", name,
                             (int)(x->s.n < 64 ? x->s.n : 64), x->s.s, slot->id1 - 1, x->id);
        *slot = (tok_slot){hash, (uint32_t)x->id + 1};
        memcpy(pool, x->s.s, x->s.n);
        v->piece[x->id] = (json_str){pool, x->s.n};
        v->type[x->id] = x->type;
        v->longest = x->s.n > v->longest ? (uint32_t)x->s.n : v->longest;
        pool += x->s.n;
    }
    return WEFT_OK;
}

weft_status tok_vocab_extend(tok_vocab *v, arena *a, int32_t n) {
    if (n <= v->n)
        return WEFT_OK;
    json_str *piece = ARENA_NEW(a, json_str, n);
    uint8_t *type = ARENA_NEW(a, uint8_t, n);
    if (v->n) {
        memcpy(piece, v->piece, (size_t)v->n * sizeof *piece);
        memcpy(type, v->type, (size_t)v->n);
    }
    v->piece = piece;
    v->type = type;
    v->n = n;
    return WEFT_OK;
}

void tok_merges_init(tok_merges *m, arena *a, size_t count) {
    uint32_t size = table_size(count);
    m->slot = ARENA_NEW(a, tok_merge, size);
    m->mask = size - 1;
    for (uint32_t i = 0; i < size; i++)
        m->slot[i].key = UINT64_MAX;
}

/* A pair that is listed twice keeps its last rank, as in the library that writes such files. */
void tok_merges_set(tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t into) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & m->mask;
    while (m->slot[i].key != key && m->slot[i].key != UINT64_MAX)
        i = (i + 1) & m->mask;
    m->slot[i] = (tok_merge){key, rank, into};
}

static int shown(json_str s) {
    return (int)(s.n < 64 ? s.n : 64);
}

static weft_status merge_fail(const char *name, size_t i, const char *what, json_str s) {
    return weft_fail(WEFT_BAD_FILE, "%s: merge %zu: %s \"%.*s\" is not in the vocabulary", name, i,
                     what, shown(s), s.s);
}

static bool is_joined(const tok_vocab *v, int32_t id, json_str a, json_str b) {
    if (id >= v->n || v->piece[id].n != a.n + b.n || !v->piece[id].s)
        return false;
    const char *s = v->piece[id].s;
    return !memcmp(s, a.s, a.n) && !memcmp(s + a.n, b.s, b.n);
}

/* Tokens are numbered as they were learned, so the result of a merge is most often the token of
 * the merge before or the next one; only else it is looked up. */
static int32_t find_joined(const tok_vocab *v, json_str a, json_str b, int32_t last, buf *joined) {
    if (is_joined(v, last + 1, a, b))
        return last + 1;
    if (last >= 0 && is_joined(v, last, a, b))
        return last;
    buf_clear(joined);
    buf_add(joined, a.s, a.n);
    buf_add(joined, b.s, b.n);
    return tok_vocab_find(v, joined->data, joined->len);
}

static weft_status merge_one(tokenizer *t, const char *name, size_t i, json_str a, json_str b,
                             int32_t *last, buf *joined) {
    int32_t left = tok_vocab_find(&t->vocab, a.s, a.n), right = tok_vocab_find(&t->vocab, b.s, b.n);
    if (left < 0 || right < 0)
        return merge_fail(name, i, "part", left < 0 ? a : b);
    if (b.n < t->word_prefix.n)
        return weft_fail(WEFT_BAD_FILE, "%s: merge %zu: \"%.*s\" is shorter than the prefix", name,
                         i, (int)b.n, b.s);
    b.s += t->word_prefix.n;
    b.n -= t->word_prefix.n;
    *last = find_joined(&t->vocab, a, b, *last, joined);
    if (*last < 0)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: merge %zu: result \"%.*s%.*s\" is not in the vocabulary", name, i,
                         shown(a), a.s, shown(b), b.s);
    tok_merges_set(&t->merges, left, right, (uint32_t)i, *last);
    return WEFT_OK;
}

weft_status tok_merges_build(tokenizer *t, const char *name, const json_str *pairs, size_t n) {
    buf joined;
    int32_t last = -1;
    weft_status s = WEFT_OK;
    tok_merges_init(&t->merges, &t->arena, n);
    t->nmerges = (int32_t)n;
    buf_init(&joined, 4 * TOK_MAX_PIECE_BYTES);
    for (size_t i = 0; i < n && s == WEFT_OK; i++)
        s = merge_one(t, name, i, pairs[2 * i], pairs[2 * i + 1], &last, &joined);
    buf_fini(&joined);
    return s;
}
