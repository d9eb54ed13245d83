/* SPDX-License-Identifier: Apache-2.0
 * Cases of attention. A story says which queries of which sequences are asked for and how the cache
 * lies in memory; every number is a function of (sequence, position, head, feature). Stories that
 * ask for the same query must get the same bits, whatever else they say: that is every invariance
 * here. */
#include "tests/check/check.h"
#include <math.h>
#include <string.h>

enum { MOST_SEQS = 66 };

typedef struct {
    int64_t id;                 /* of the sequence: its numbers */
    int64_t first, count, keys; /* queries [first, first + count); keys [0, keys) */
    int64_t row;                /* of its first query */
    int64_t page;               /* its first page, before shuffling */
} att_seq;

typedef struct {
    att_seq seq[MOST_SEQS];
    int64_t seqs, tokens, pages;
    int64_t H, Hkv, head_off, kv_off, head0; /* of the heads here, and which of all they are */
    int64_t tile;                            /* queries of a work item */
    int64_t page;                            /* keys of a page */
    int fill, type;                          /* of the case; storage of K and V */
    bool swap, paged;
    uint64_t shuffle;
    int64_t poison_seq; /* the last key of this sequence is NaN; -1: none */
    int64_t *owner;     /* by physical page: seq * 2^20 + logical page, -1: nobody's */
} att_story;

/* ---- numbers -------------------------------------------------------------------------------- */

static float number(const check_set *s, uint64_t what, int64_t seq, int64_t pos, int64_t head,
                    int64_t d) {
    uint64_t key = ((uint64_t)seq << 48) ^ ((uint64_t)pos << 24) ^ ((uint64_t)head << 12) ^
                   (uint64_t)d;
    return check_normal(check_hash(s->seed + what, key));
}

static float value_q(const check_set *s, const int64_t i[WEFT_DIMS]) {
    const att_story *a = s->story;
    for (int64_t q = 0; q < a->seqs; q++) {
        const att_seq *u = &a->seq[q];
        if (i[0] >= u->row && i[0] < u->row + u->count)
            return number(s, 1, u->id, u->first + i[0] - u->row, a->head_off + i[1], i[2]) *
                   (a->fill == FILL_LARGE ? 3.0f : 1.0f);
    }
    return NAN;
}

/* Keys that no query of the sequence may see are NaN: past the end, and before every window. */
static bool hidden(const check_set *s, const att_story *a, const att_seq *u, int64_t pos) {
    int64_t window = s->args.attention.window;
    return pos >= u->keys || (window > 0 && pos <= u->first - window) ||
           (u->id == a->poison_seq && pos == u->keys - 1);
}

static float value_kv(const check_set *s, const int64_t i[WEFT_DIMS], uint64_t what) {
    const att_story *a = s->story;
    const att_seq *u = NULL;
    int64_t pos = 0, d = i[a->paged ? 3 : 2];
    if (a->paged && a->owner[i[0]] >= 0) {
        u = &a->seq[a->owner[i[0]] >> 20];
        pos = (a->owner[i[0]] & 0xfffff) * a->page + i[2];
    }
    for (int64_t q = 0; q < a->seqs && !a->paged; q++)
        if (i[0] >= a->seq[q].row && i[0] < a->seq[q].row + a->seq[q].keys) {
            u = &a->seq[q];
            pos = i[0] - u->row;
        }
    if (!u || hidden(s, a, u, pos))
        return NAN;
    if (what != 3 || a->fill == FILL_NORMAL)
        return number(s, what, u->id, pos, a->kv_off + i[1], d);
    return check_fill_value(
        a->fill, a->type,
        check_hash((uint64_t)(pos * 4099 + d), (uint64_t)(u->id * 64 + a->kv_off + i[1])), 1);
}

static float value_k(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return value_kv(s, i, 2);
}

static float value_v(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return value_kv(s, i, 3);
}

static float value_slope(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return exp2f(-(float)(((att_story *)s->story)->head_off + i[0] + 1));
}

static float value_bias(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return number(s, 4, 0, i[1], ((att_story *)s->story)->head_off + i[0], 0);
}

static float value_sink(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return 2.0f * number(s, 5, 0, 0, ((att_story *)s->story)->head_off + i[0], 0);
}

/* ---- operands ------------------------------------------------------------------------------- */

static int32_t *shuffled_pages(check_set *s, att_story *a, int64_t page, int64_t P) {
    int32_t *place = arena_alloc(&s->mem, (size_t)a->pages * 4);
    int32_t *pages = arena_alloc(&s->mem, (size_t)(MOST_SEQS * P) * 4);
    a->owner = arena_alloc(&s->mem, (size_t)a->pages * sizeof *a->owner);
    for (int64_t p = 0; p < a->pages; p++) {
        place[p] = (int32_t)p;
        a->owner[p] = -1;
    }
    for (int64_t p = a->pages - 1; p > 0 && a->shuffle; p--) {
        int64_t j = (int64_t)(check_hash(a->shuffle, (uint64_t)p) % (uint64_t)(p + 1));
        int32_t t = place[p];
        place[p] = place[j];
        place[j] = t;
    }
    for (int64_t q = 0; q < MOST_SEQS; q++)
        for (int64_t p = 0; p < P; p++) {
            bool used = q < a->seqs && p * page < a->seq[q].keys;
            pages[q * P + p] = used ? place[a->seq[q].page + p] : 0x7fe57fe5;
            if (used)
                a->owner[place[a->seq[q].page + p]] = q << 20 | p;
        }
    return pages;
}

static int32_t *work_list(check_set *s, const att_story *a, int64_t slack, int32_t *n) {
    int32_t *work = arena_alloc(&s->mem, (size_t)(a->tokens * a->Hkv + slack) * 16), *w = work;
    *n = 0;
    for (int64_t q = 0; q < a->seqs; q++)
        for (int64_t from = 0; from < a->seq[q].count; from += a->tile)
            for (int64_t h = 0; h < a->Hkv; h++, ++*n) {
                int64_t left = a->seq[q].count - from;
                *w++ = (int32_t)q;
                *w++ = (int32_t)from;
                *w++ = (int32_t)(left < a->tile ? left : a->tile);
                *w++ = (int32_t)h;
            }
    for (int64_t i = 0; i < slack * 4; i++)
        *w++ = 0x7fe57fe5;
    return work;
}

static void add_batch(check_set *s, att_story *a, int64_t seqs) {
    weft_attention_args *t = &s->args.attention;
    int32_t *start = arena_alloc(&s->mem, 4 * (MOST_SEQS + 1)),
            *pos = arena_alloc(&s->mem, 4 * MOST_SEQS);
    int32_t *len = arena_alloc(&s->mem, 4 * MOST_SEQS), *n = arena_alloc(&s->mem, 4);
    int64_t slack = check_get(&s->c, "slack");
    for (int64_t q = 0; q < seqs; q++) {
        bool real = q < a->seqs;
        start[q] = (int32_t)(real ? a->seq[q].row : a->tokens);
        pos[q] = (int32_t)(real ? a->seq[q].first : 0);
        len[q] = (int32_t)(real ? a->seq[q].keys : 0);
    }
    start[seqs] = (int32_t)a->tokens;
    int32_t *work = work_list(s, a, slack, n);
    check_add(s, &t->qstart, (check_spec){WEFT_I32, 1, {seqs + 1}, .ints = start});
    check_add(s, &t->qpos, (check_spec){WEFT_I32, 1, {seqs}, .ints = pos});
    check_add(s, &t->kvlen, (check_spec){WEFT_I32, 1, {seqs}, .ints = len});
    check_add(s, &t->work, (check_spec){WEFT_I32, 2, {*n + slack, 4}, .ints = work});
    check_add(s, &t->nwork, (check_spec){WEFT_I32, 1, {1}, .ints = n});
}

static void add_cache(check_set *s, att_story *a, int64_t rows, int64_t seqs, int64_t Dv) {
    weft_attention_args *t = &s->args.attention;
    const check_case *c = &s->c;
    int64_t page = a->page, D = check_get(c, "D"), P = 1;
    int type = a->type;
    if (!a->paged) {
        int64_t pad = check_get(c, "pad");
        check_add(s, &t->k,
                  (check_spec){type, 3, {rows, a->Hkv, D}, .row = 1, .pad = pad, .value = value_k});
        check_add(
            s, &t->v,
            (check_spec){type, 3, {rows, a->Hkv, Dv}, .row = 1, .pad = pad, .value = value_v});
        return;
    }
    a->pages = 3; /* nobody's */
    for (int64_t q = 0; q < a->seqs; q++) {
        int64_t n = (a->seq[q].keys + page - 1) / page;
        a->seq[q].page = a->pages - 2;
        a->pages += n;
        P = n + !s->aligned > P ? n + !s->aligned : P;
    }
    const int32_t *pages = shuffled_pages(s, a, page, P);
    check_add(s, &t->pages, (check_spec){WEFT_I32, 2, {seqs, P}, .ints = pages});
    check_add(
        s, &t->k,
        (check_spec){type, 4, {a->pages, a->Hkv, page, D}, .swap = a->swap, .value = value_k});
    check_add(s, &t->v, (check_spec){type, 4, {a->pages, a->Hkv, page, Dv}, .value = value_v});
}

static void set_scalars(check_set *s, const att_story *a) {
    const check_case *c = &s->c;
    weft_attention_args *t = &s->args.attention;
    t->scale = 1.0f / sqrtf((float)check_get(c, "D"));
    t->softcap = (float)check_get(c, "cap") / 10.0f;
    t->causal = !check_get(c, "both");
    t->window = (int32_t)check_get(c, "window");
    t->group = check_get(c, "group") ? (int32_t)check_get(c, "group") : 1;
    t->head0 = (int32_t)a->head0;
}

static void build_story(check_set *s, att_story *a) {
    const check_case *c = &s->c;
    weft_attention_args *t = &s->args.attention;
    int64_t slack = check_get(c, "slack"), D = check_get(c, "D"), R = check_get(c, "R"),
            rows = slack;
    int64_t Dv = check_get(c, "Dv") ? check_get(c, "Dv") : D, seqs = a->seqs + (slack ? 1 : 0);
    s->story = a;
    a->tokens = 0;
    for (int64_t q = 0; q < a->seqs; q++) {
        a->seq[q].row = a->tokens;
        a->tokens += a->seq[q].count;
    }
    rows += a->tokens;
    set_scalars(s, a);
    s->rows = a->tokens;
    check_add(
        s, &t->q,
        (check_spec){
            c->dtype, 3, {rows, a->H, D}, .row = 1, .pad = check_get(c, "pad"), .value = value_q});
    add_cache(s, a, rows, seqs, Dv);
    add_batch(s, a, seqs);
    if (check_get(c, "alibi"))
        check_add(s, &t->slopes, (check_spec){WEFT_F32, 1, {a->H}, .value = value_slope});
    if (R)
        check_add(s, &t->bias, (check_spec){WEFT_F32, 2, {a->H, 2 * R + 1}, .value = value_bias});
    if (check_get(c, "sinks"))
        check_add(s, &t->sinks, (check_spec){WEFT_F32, 1, {a->H}, .value = value_sink});
    check_add(s, &t->y, (check_spec){c->dtype, 3, {rows, a->H, Dv}, .row = 1});
    if (check_get(c, "lse"))
        check_add(s, &t->lse, (check_spec){WEFT_F32, 2, {rows, a->H}, .row = 1});
}

/* q: 0 whole prompts, n the last n tokens of each sequence, -1 all kinds in one batch. */
static void choose_queries(const check_set *s, att_seq *u, int64_t index) {
    int64_t q = check_get(&s->c, "q"), n = u->keys;
    uint64_t h = check_hash(s->seed, 300 + (uint64_t)index);
    if (q > 0)
        n = q;
    if (q < 0)
        n = index % 3 == 0 ? 1 : index % 3 == 1 ? 1 + (int64_t)(h % 40) : u->keys;
    u->count = n < u->keys ? n : u->keys;
    u->first = u->keys - u->count;
}

/* Without pages a batch holds its own keys, so every query of a sequence is there. */
static bool valid(const check_case *c) {
    int64_t group = check_get(c, "group");
    return check_get(c, "S") < MOST_SEQS && check_get(c, "keys") < 1 << 20 &&
           check_get(c, "head0") < (group ? group : 1) &&
           (check_get(c, "page") || !check_get(c, "q"));
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    att_story *a = arena_alloc(&s->mem, sizeof *a);
    int64_t keys = check_get(c, "keys"), group = check_get(c, "group") ? check_get(c, "group") : 1;
    a->seqs = check_get(c, "S");
    a->H = check_get(c, "H");
    a->head0 = check_get(c, "head0");
    a->Hkv = (a->H - 1 + a->head0) / group + 1;
    a->tile = check_get(c, "tile") ? check_get(c, "tile") : 16;
    a->swap = check_get(c, "swap");
    a->page = check_get(c, "page");
    a->paged = a->page > 0;
    a->fill = (int)check_get(c, "fill");
    a->type = check_get(c, "kv") ? (int)check_get(c, "kv") - 1 : c->dtype;
    a->shuffle = check_get(c, "page") ? s->seed | 1 : 0;
    a->poison_seq = -1;
    for (int64_t q = 0; q < a->seqs; q++) {
        att_seq *u = &a->seq[q];
        u->id = q;
        u->keys = q == 0 || s->aligned
                      ? keys
                      : 1 + (int64_t)(check_hash(s->seed, (uint64_t)q) % (uint64_t)keys);
        choose_queries(s, u, q);
    }
    build_story(s, a);
}

/* A row without enough keys to average over is as large as its values; with n keys 1 / sqrt(n). */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    double large = check_get(&s->c, "fill") == FILL_LARGE ? (s->c.dtype == WEFT_F16 ? 30 : 300) : 1;
    double tiny = check_get(&s->c, "fill") == FILL_TINY ? 0 : 1;
    (void)row;
    return out == &s->args.attention.lse ? 4
                                         : tiny * large / sqrt((double)check_get(&s->c, "keys"));
}

/* ---- invariances ---------------------------------------------------------------------------- */

typedef struct {
    const att_story *v, *base;
} story_map;

/* The same (sequence, position, head) in the base's output. */
static bool map_story(const void *ctx, const int64_t i[WEFT_DIMS], int64_t out[WEFT_DIMS]) {
    const story_map *m = ctx;
    memcpy(out, i, WEFT_DIMS * sizeof *i);
    out[1] = i[1] + m->v->head_off;
    for (int64_t q = 0; q < m->v->seqs; q++) {
        const att_seq *u = &m->v->seq[q], *b = NULL;
        if (i[0] < u->row || i[0] >= u->row + u->count)
            continue;
        int64_t pos = u->first + i[0] - u->row;
        for (int64_t p = 0; p < m->base->seqs; p++)
            if (m->base->seq[p].id == u->id)
                b = &m->base->seq[p];
        if (!b || pos < b->first || pos >= b->first + b->count ||
            (m->v->poison_seq == u->id && pos >= u->keys - 1))
            return false;
        out[0] = b->row + pos - b->first;
        return true;
    }
    return false;
}

static void tell(check_state *k, const check_set *s, att_story *a, const char *what) {
    check_set v;
    if (k->bad)
        return;
    memset(&v, 0, sizeof v);
    v.c = s->c;
    v.seed = s->seed;
    build_story(&v, a);
    check_variant(k, &v, what, NULL, map_story, &(story_map){a, s->story});
    check_set_fini(&v);
}

/* One sequence alone, then in pieces: a cache that holds only what the piece may see. */
static void alone(check_state *k, const check_set *s, int64_t which) {
    static const int64_t sizes[] = {1, 7, 16, 64};
    const att_story *base = s->story;
    att_story a = *base;
    a.seqs = 1;
    a.seq[0] = base->seq[which];
    tell(k, s, &a, "a sequence alone differs from the sequence in its batch");
    for (int i = 0; i < 2 && base->paged; i++) { /* single tokens, and one size by the seed */
        int64_t n = a.seq[0].count, size = i == 0 ? 1 : sizes[1 + s->seed / 4 % 3];
        int64_t pieces = (n + size - 1) / size;
        for (int64_t p = 0; p < 3 && p < pieces; p++) {
            int64_t piece = p == 0   ? pieces - 1
                            : p == 1 ? (int64_t)(s->seed / 16 % (uint64_t)pieces)
                                     : pieces / 2;
            att_story b = a;
            b.seq[0].first += piece * size;
            b.seq[0].count = n - piece * size < size ? n - piece * size : size;
            if (s->args.attention.causal)
                b.seq[0].keys = b.seq[0].first + b.seq[0].count;
            tell(k, s, &b,
                 size == 1 ? "decoding a token differs from its prefill"
                           : "a chunk of queries differs from the whole");
        }
    }
}

static void layouts(check_state *k, const check_set *s) {
    att_story a = *(const att_story *)s->story;
    if (a.paged) {
        a.shuffle += 17;
        tell(k, s, &a, "pages at other places give other results");
        a.swap = !a.swap;
        tell(k, s, &a, "the other layout of K pages gives other results");
        bool whole = true;
        for (int64_t q = 0; q < a.seqs; q++)
            whole &= a.seq[q].first == 0;
        a.paged = false;
        if (whole)
            tell(k, s, &a, "the batch's own keys and values differ from the same in pages");
    }
    a = *(const att_story *)s->story;
    a.tile = (int64_t[]){1, 7, 64, 4096}[s->seed % 4];
    tell(k, s, &a, "another cut of the work list gives other results");
}

/* Some heads alone, as a rank holds them. */
static void heads(check_state *k, const check_set *s, int64_t from, int64_t n) {
    att_story a = *(const att_story *)s->story;
    int64_t group = s->args.attention.group, first = a.head0 + from;
    a.H = n;
    a.head_off = from;
    a.kv_off = first / group;
    a.head0 = first % group;
    a.Hkv = (n - 1 + a.head0) / group + 1;
    tell(k, s, &a, "some heads alone differ from the whole");
}

static void invariants(check_state *k, const check_set *s) {
    const att_story *base = s->story;
    att_story a = *base;
    alone(k, s, 0);
    if (base->seqs > 1)
        alone(k, s, 1 + (int64_t)(s->seed / 64 % (uint64_t)(base->seqs - 1)));
    for (int64_t q = 0; q < base->seqs; q++)
        a.seq[q] = base->seq[base->seqs - 1 - q];
    tell(k, s, &a, "sequences in another order differ");
    layouts(k, s);
    if (base->H > 1) {
        heads(k, s, 0, base->H / 2);
        heads(k, s, base->H - 1, 1);
    }
    if (s->args.attention.causal) {
        a = *base;
        a.poison_seq = 0;
        tell(k, s, &a, "a masked key or value was used (it is NaN)");
    }
}

static const char *const shapes[] = {"S=1,H=1,D=16,keys=1,page=16,q=1",
                                     "S=3,H=2,D=64,keys=33,page=16",
                                     "S=2,H=4,group=2,D=33,keys=70,page=16,q=1",
                                     "S=5,H=4,group=4,D=64,keys=100,page=16,q=-1",
                                     "S=2,H=6,group=3,D=80,keys=65,page=64,q=9",
                                     "S=1,H=2,D=128,keys=129,page=4,q=17",
                                     "S=2,H=2,D=256,keys=40,page=16",
                                     "S=4,H=3,D=40,Dv=24,keys=63,page=16,q=-1",
                                     "S=3,H=2,D=24,keys=50",
                                     "S=1,H=5,group=5,D=1,keys=17,page=1",
                                     NULL};
static const char *const variants[] = {"swap=1,lse=1",
                                       "slack=5,pad=3",
                                       "window=9,swap=1",
                                       "cap=300,lse=1",
                                       "alibi=1",
                                       "R=8",
                                       "sinks=1,lse=1",
                                       "fill=1,swap=1",
                                       "window=20,cap=200,sinks=1",
                                       "kv=2,swap=1",
                                       "kv=3",
                                       "kv=1,fill=2",
                                       "slack=2,swap=1,alibi=1,window=33",
                                       NULL};
static const char *const long_shapes[] = {"S=2,H=2,group=2,D=64,keys=1100,page=16,swap=1,q=3",
                                          "S=1,H=1,D=32,keys=600,page=16,swap=1",
                                          "S=1,H=2,D=16,keys=530,page=64", NULL};
static const char *const long_variants[] = {"", "window=513,lse=1", "sinks=1,lse=1", "window=40",
                                            NULL};
static const char *const both[] = {"S=3,H=2,D=64,keys=40,both=1",
                                   "S=2,H=2,D=32,keys=70,page=16,both=1", NULL};
static const char *const both_variants[] = {"", "R=5,lse=1", "window=9", "slack=3,fill=1", NULL};
static const char *const ranks[] = {"S=2,H=2,group=4,head0=2,D=32,keys=30,page=16",
                                    "S=3,H=3,group=4,head0=2,D=20,keys=40,page=16,q=-1", NULL};
static const char *const rank_variants[] = {"", "swap=1,alibi=1,sinks=1,R=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", long_shapes, long_variants, false},
                                     {"fp32 fp16 bf16", both, both_variants, false},
                                     {"fp32 bf16", ranks, rank_variants, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:S=1,H=32,group=4,D=128,keys=4096,page=16,swap=1,q=1",
                                    "bf16:S=8,H=32,group=4,D=128,keys=1024,page=16,swap=1,q=1",
                                    "bf16:S=1,H=32,group=4,D=128,keys=1024,page=16,q=1",
                                    "bf16:S=1,H=32,group=4,D=128,keys=8192,page=16,q=1",
                                    "bf16:S=1,H=32,group=4,D=128,keys=32768,page=16,q=1",
                                    "bf16:S=11,H=32,group=4,D=128,keys=8192,page=16,q=1",
                                    "bf16:S=1,H=32,group=4,D=128,keys=2048,page=16,tile=32",
                                    "bf16:S=1,H=32,group=4,D=128,keys=8192,page=16,tile=32",
                                    "bf16:S=1,H=32,group=4,D=64,keys=8192,page=16,tile=32",
                                    "bf16:S=1,H=8,group=4,D=128,keys=512,page=16,swap=1,both=1",
                                    "fp32:S=1,H=8,group=1,D=64,keys=512,page=16,swap=1,both=1",
                                    NULL};

const check_op check_attention = {
    .op = WEFT_OP_attention,
    .keys = "S! H! group head0 D! Dv keys! page q both window cap alibi R sinks kv^ swap lse "
            "slack tile pad fill",
    .groups = groups,
    .bench = bench,
    .valid = valid,
    .build = build,
    .magnitude = magnitude,
    .invariants = invariants};
