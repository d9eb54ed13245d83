/* SPDX-License-Identifier: Apache-2.0
 * Cases of attention_dx. Every number is a function of (sequence, position, head, feature), so a
 * sequence alone, sequences in another order and some heads alone must have the bits of the whole.
 * Results and log-sum-exp of the forward pass are the reference's. */
#include "tests/check/check.h"
#include <math.h>
#include <stddef.h>
#include <string.h>

enum { MOST_SEQS = 20 };

typedef struct {
    int64_t id, row, count, keys;
} dx_seq;

typedef struct {
    dx_seq seq[MOST_SEQS];
    int64_t seqs, tokens, slack;
    int64_t H, Hkv, head_off, kv_off, head0; /* heads here, and which of all they are */
    weft_tensor y, lse;                      /* of the forward pass, dense */
    int fill, type;
} dx_story;

/* ---- numbers -------------------------------------------------------------------------------- */

/* The sequence of a row, and the position in it. NULL: none. */
static const dx_seq *owner(const dx_story *a, int64_t row, int64_t *pos) {
    for (int64_t q = 0; q < a->seqs; q++)
        if (row >= a->seq[q].row && row < a->seq[q].row + a->seq[q].count) {
            *pos = row - a->seq[q].row;
            return &a->seq[q];
        }
    return NULL;
}

static float number(const check_set *s, uint64_t what, const int64_t i[WEFT_DIMS], int64_t head) {
    const dx_story *a = s->story;
    int64_t pos;
    const dx_seq *u = owner(a, i[0], &pos);
    if (!u || (what != 1 && what != 4 && pos >= u->keys)) /* keys past the end are not read */
        return NAN;
    uint64_t key = ((uint64_t)u->id << 48) ^ ((uint64_t)pos << 24) ^ ((uint64_t)head << 12) ^
                   (uint64_t)i[2];
    if (what < 3 || a->fill == FILL_NORMAL)
        return check_normal(check_hash(s->seed + what, key));
    return check_fill_value(a->fill, a->type, check_hash(s->seed + what, key), 1);
}

static float value_q(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return number(s, 1, i, ((dx_story *)s->story)->head_off + i[1]);
}

static float value_k(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return number(s, 2, i, ((dx_story *)s->story)->kv_off + i[1]);
}

static float value_v(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return number(s, 3, i, ((dx_story *)s->story)->kv_off + i[1]);
}

static float value_dy(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return number(s, 4, i, ((dx_story *)s->story)->head_off + i[1]);
}

static float value_y(const check_set *s, const int64_t i[WEFT_DIMS]) {
    const dx_story *a = s->story;
    int64_t pos;
    if (!owner(a, i[0], &pos))
        return NAN;
    return ((const float *)a->y.data)[(i[0] * a->y.shape[1] + i[1]) * a->y.shape[2] + i[2]];
}

static float value_lse(const check_set *s, const int64_t i[WEFT_DIMS]) {
    const dx_story *a = s->story;
    int64_t pos;
    return owner(a, i[0], &pos) ? ((const float *)a->lse.data)[i[0] * a->lse.shape[1] + i[1]] : NAN;
}

static float value_slope(const check_set *s, const int64_t i[WEFT_DIMS]) {
    return exp2f(-(float)(((dx_story *)s->story)->head_off + i[0] + 1));
}

static float value_bias(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t head = (uint64_t)(((dx_story *)s->story)->head_off + i[0]);
    return check_normal(check_hash(s->seed + 5, head << 32 | (uint64_t)i[1]));
}

static float value_sink(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t head = (uint64_t)(((dx_story *)s->story)->head_off + i[0]);
    return 2.0f * check_normal(check_hash(s->seed + 6, head));
}

/* ---- operands ------------------------------------------------------------------------------- */

static void add_batch(check_set *s, const dx_story *a) {
    weft_attention_dx_args *t = &s->args.attention_dx;
    int32_t *start = arena_alloc(&s->mem, 4 * (MOST_SEQS + 2));
    int32_t *pos = arena_alloc(&s->mem, 4 * (MOST_SEQS + 1));
    int32_t *len = arena_alloc(&s->mem, 4 * (MOST_SEQS + 1));
    int64_t seqs = a->seqs + (a->slack ? 1 : 0); /* a bucket of more sequences than there are */
    for (int64_t q = 0; q < seqs; q++) {
        start[q] = (int32_t)(q < a->seqs ? a->seq[q].row : a->tokens);
        len[q] = (int32_t)(q < a->seqs ? a->seq[q].keys : 0);
    }
    start[seqs] = (int32_t)a->tokens;
    check_add(s, &t->qstart, (check_spec){WEFT_I32, 1, {seqs + 1}, .ints = start});
    check_add(s, &t->qpos, (check_spec){WEFT_I32, 1, {seqs}, .ints = pos});
    check_add(s, &t->kvlen, (check_spec){WEFT_I32, 1, {seqs}, .ints = len});
}

/* Every query of every head is an item of the forward pass. */
static weft_tensor work_list(const dx_story *a, arena *mem, weft_tensor *n) {
    weft_tensor work = check_blank(2, (int64_t[]){a->seqs * a->Hkv, 4}, mem);
    int32_t *w = work.data;
    for (int64_t q = 0; q < a->seqs; q++)
        for (int64_t h = 0; h < a->Hkv; h++) {
            *w++ = (int32_t)q;
            *w++ = 0;
            *w++ = (int32_t)a->seq[q].count;
            *w++ = (int32_t)h;
        }
    work.dtype = WEFT_I32;
    *n = check_blank(1, (int64_t[]){1}, mem);
    n->dtype = WEFT_I32;
    *(int32_t *)n->data = (int32_t)work.shape[0];
    return work;
}

/* The forward pass of what the set holds. */
static void forward_args(const check_set *s, weft_attention_args *f, arena *mem) {
    const weft_attention_dx_args *a = &s->args.attention_dx;
    f->q = check_dense(s, &a->q, mem);
    f->k = check_dense(s, &a->k, mem);
    f->v = check_dense(s, &a->v, mem);
    f->qstart = check_dense(s, &a->qstart, mem);
    f->qpos = check_dense(s, &a->qpos, mem);
    f->kvlen = check_dense(s, &a->kvlen, mem);
    f->work = work_list(s->story, mem, &f->nwork);
    if (weft_has(&a->slopes))
        f->slopes = check_dense(s, &a->slopes, mem);
    if (weft_has(&a->bias))
        f->bias = check_dense(s, &a->bias, mem);
    if (weft_has(&a->sinks))
        f->sinks = check_dense(s, &a->sinks, mem);
    f->y = check_blank(3, (int64_t[]){a->q.shape[0], a->q.shape[1], a->v.shape[2]}, mem);
    f->lse = check_blank(2, a->q.shape, mem);
    f->scale = a->scale;
    f->softcap = a->softcap;
    f->causal = a->causal;
    f->window = a->window;
    f->group = a->group;
    f->head0 = a->head0;
}

static void set_scalars(check_set *s, const dx_story *a) {
    const check_case *c = &s->c;
    weft_attention_dx_args *t = &s->args.attention_dx;
    t->scale = 1.0f / sqrtf((float)check_get(c, "D"));
    t->softcap = (float)check_get(c, "cap") / 10.0f;
    t->causal = !check_get(c, "both");
    t->window = (int32_t)check_get(c, "window");
    t->group = check_get(c, "group") ? (int32_t)check_get(c, "group") : 1;
    t->head0 = (int32_t)a->head0;
}

static void add_masks(check_set *s, const dx_story *a) {
    weft_attention_dx_args *t = &s->args.attention_dx;
    int64_t R = check_get(&s->c, "R");
    if (check_get(&s->c, "alibi"))
        check_add(s, &t->slopes, (check_spec){WEFT_F32, 1, {a->H}, .value = value_slope});
    if (R)
        check_add(s, &t->bias, (check_spec){WEFT_F32, 2, {a->H, 2 * R + 1}, .value = value_bias});
    if (check_get(&s->c, "sinks"))
        check_add(s, &t->sinks, (check_spec){WEFT_F32, 1, {a->H}, .value = value_sink});
}

static void build_story(check_set *s, dx_story *a) {
    const check_case *c = &s->c;
    weft_attention_dx_args *t = &s->args.attention_dx;
    int64_t D = check_get(c, "D"), Dv = check_get(c, "Dv") ? check_get(c, "Dv") : D;
    int64_t pad = check_get(c, "pad"), rows = a->slack;
    weft_args f = {0};
    s->story = a;
    a->tokens = 0;
    for (int64_t q = 0; q < a->seqs; q++) {
        a->seq[q].row = a->tokens;
        a->tokens += a->seq[q].count;
    }
    rows += a->tokens;
    check_spec q = {c->dtype, 3, {rows, a->H, D}, .row = 1, .pad = pad, .value = value_q};
    check_spec k = {c->dtype, 3, {rows, a->Hkv, D}, .row = 1, .pad = pad, .value = value_k};
    check_spec v = {c->dtype, 3, {rows, a->Hkv, Dv}, .row = 1, .pad = pad, .value = value_v};
    check_spec y = {c->dtype, 3, {rows, a->H, Dv}, .row = 1, .value = value_dy};
    set_scalars(s, a);
    check_add(s, &t->q, q);
    check_add(s, &t->k, k);
    check_add(s, &t->v, v);
    check_add(s, &t->dy, y);
    add_batch(s, a);
    add_masks(s, a);
    if (!s->no_images) {
        forward_args(s, &f.attention, &s->mem);
        check_forward(WEFT_OP_attention, &f);
        a->y = f.attention.y;
        a->lse = f.attention.lse;
    }
    y.value = value_y;
    check_add(s, &t->y, y);
    check_add(s, &t->lse, (check_spec){WEFT_F32, 2, {rows, a->H}, .row = 1, .value = value_lse});
    if (!check_get(c, "only") || check_get(c, "only") == 1)
        check_add(s, &t->dq, (check_spec){c->dtype, 3, {rows, a->H, D}, .row = 1, .pad = pad});
    if (!check_get(c, "only") || check_get(c, "only") == 2) {
        check_add(s, &t->dk, (check_spec){c->dtype, 3, {rows, a->Hkv, D}, .row = 1});
        check_add(s, &t->dv, (check_spec){c->dtype, 3, {rows, a->Hkv, Dv}, .row = 1, .pad = pad});
    }
}

static bool valid(const check_case *c) {
    int64_t group = check_get(c, "group");
    return check_get(c, "S") < MOST_SEQS && check_get(c, "keys") < 1 << 20 &&
           check_get(c, "head0") < (group ? group : 1);
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    dx_story *a = arena_alloc(&s->mem, sizeof *a);
    int64_t keys = check_get(c, "keys"), group = check_get(c, "group") ? check_get(c, "group") : 1;
    a->seqs = check_get(c, "S");
    a->slack = check_get(c, "slack");
    a->H = check_get(c, "H");
    a->head0 = check_get(c, "head0");
    a->Hkv = (a->H - 1 + a->head0) / group + 1;
    a->fill = (int)check_get(c, "fill");
    a->type = c->dtype;
    for (int64_t q = 0; q < a->seqs; q++) {
        dx_seq *u = &a->seq[q];
        u->id = q;
        u->count = q == 0 || s->aligned
                       ? keys
                       : (int64_t)(check_hash(s->seed, (uint64_t)q) % (uint64_t)(keys + 1));
        u->keys = check_get(c, "short") && u->count > 1 ? u->count - 1 : u->count;
    }
    build_story(s, a);
}

/* Differences p (dp - sum of p dp) may be far smaller than what they are differences of. */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_attention_dx_args *a = &s->args.attention_dx;
    double large = check_get(&s->c, "fill") == FILL_LARGE ? (s->c.dtype == WEFT_F16 ? 30 : 300) : 1;
    double tiny = check_get(&s->c, "fill") == FILL_TINY ? 0 : 1;
    int64_t pos;
    if (!owner(s->story, row / out->shape[1], &pos))
        return 0;
    return out == &a->dv ? tiny * large * 0.1
                         : tiny * large * large * (double)a->scale * sqrt((double)a->v.shape[2]);
}

static bool gradient(const check_set *s, check_gradient *g) {
    const weft_attention_dx_args *a = &s->args.attention_dx;
    static const size_t field[] = {offsetof(weft_args, attention.q),
                                   offsetof(weft_args, attention.k),
                                   offsetof(weft_args, attention.v)};
    const weft_tensor *of[] = {&a->dq, &a->dk, &a->dv};
    if (((dx_story *)s->story)->slack || check_get(&s->c, "short"))
        return false; /* operands hold NaN */
    g->op = WEFT_OP_attention;
    forward_args(s, &g->args.attention, &g->mem);
    for (int i = 0, n = 0; i < 3; i++)
        if (weft_has(of[i])) {
            g->wrt[n].field = field[i];
            g->wrt[n++].gradient = of[i];
        }
    g->out[0].field = offsetof(weft_args, attention.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    return true;
}

/* ---- invariances ---------------------------------------------------------------------------- */

typedef struct {
    const dx_story *v, *base;
    int64_t head_off; /* of the output's heads in the base's */
} dx_map;

static bool map_story(const void *ctx, const int64_t i[WEFT_DIMS], int64_t out[WEFT_DIMS]) {
    const dx_map *m = ctx;
    int64_t pos;
    const dx_seq *u = owner(m->v, i[0], &pos);
    memcpy(out, i, WEFT_DIMS * sizeof *i);
    out[1] = i[1] + m->head_off;
    for (int64_t q = 0; u && q < m->base->seqs; q++)
        if (m->base->seq[q].id == u->id) {
            out[0] = m->base->seq[q].row + pos;
            return true;
        }
    return false;
}

/* `shared`: the variant has all query heads of its kv heads. */
static void tell(check_state *k, const check_set *s, dx_story *a, bool shared, const char *what) {
    check_set v;
    const dx_story *base = s->story;
    if (k->bad)
        return;
    memset(&v, 0, sizeof v);
    v.c = s->c;
    v.seed = s->seed;
    v.rows = -1;
    build_story(&v, a);
    const weft_attention_dx_args *t = &v.args.attention_dx;
    if (weft_has(&t->dq))
        check_variant(k, &v, what, &t->dq, map_story,
                      &(dx_map){a, base, a->head_off - base->head_off});
    if (weft_has(&t->dk) && shared) {
        dx_map m = {a, base, a->kv_off - base->kv_off};
        check_variant(k, &v, what, &t->dk, map_story, &m);
        check_variant(k, &v, what, &t->dv, map_story, &m);
    }
    check_set_fini(&v);
}

static void heads(check_state *k, const check_set *s, int64_t from, int64_t n) {
    dx_story a = *(const dx_story *)s->story;
    int64_t group = s->args.attention_dx.group, first = a.head0 + from;
    bool whole = first % group == 0 && n % group == 0;
    a.H = n;
    a.head_off = from;
    a.kv_off = first / group;
    a.head0 = first % group;
    a.Hkv = (n - 1 + a.head0) / group + 1;
    tell(k, s, &a, whole, "some heads alone differ from the whole");
}

static void invariants(check_state *k, const check_set *s) {
    const dx_story *base = s->story;
    int64_t group = s->args.attention_dx.group;
    dx_story a = *base;
    a.seqs = 1;
    a.seq[0] = base->seq[s->seed % (uint64_t)base->seqs];
    a.slack = base->slack + 1;
    if (base->seqs > 1)
        tell(k, s, &a, true, "a sequence alone differs from the sequence in its batch");
    a = *base;
    for (int64_t q = 0; q < base->seqs; q++)
        a.seq[q] = base->seq[base->seqs - 1 - q];
    tell(k, s, &a, true, "sequences in another order differ");
    if (base->H > group && !base->head0)
        heads(k, s, group, base->H - group);
    if (base->H > 1)
        heads(k, s, base->H - 1, 1);
}

static const char *const shapes[] = {"S=1,H=1,D=16,keys=1",          "S=3,H=2,D=64,keys=33",
                                     "S=2,H=4,group=2,D=33,keys=40", "S=4,H=4,group=4,D=16,keys=20",
                                     "S=2,H=6,group=3,D=80,keys=20", "S=1,H=2,D=128,keys=37",
                                     "S=4,H=3,D=40,Dv=24,keys=33",   "S=2,H=2,D=8,Dv=20,keys=17",
                                     "S=1,H=5,group=5,D=1,keys=17",  NULL};
static const char *const variants[] = {"",
                                       "slack=5,pad=3",
                                       "window=9",
                                       "cap=30",
                                       "alibi=1,short=1",
                                       "R=8",
                                       "sinks=1",
                                       "fill=1",
                                       "fill=2",
                                       "window=20,cap=20,sinks=1,both=1",
                                       "both=1,R=3,slack=2",
                                       "window=1,short=1",
                                       NULL};
static const char *const few[] = {"S=3,H=4,group=2,D=24,keys=30", NULL};
static const char *const half[] = {"only=1", "only=2,both=1", NULL};
static const char *const ranks[] = {"S=2,H=2,group=4,head0=2,D=32,keys=30",
                                    "S=3,H=3,group=4,head0=2,D=20,keys=40", NULL};
static const char *const rank_variants[] = {"", "alibi=1,sinks=1,R=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, half, false},
                                     {"fp32 bf16", ranks, rank_variants, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:S=1,H=32,group=4,D=128,keys=2048",
                                    "fp32:S=4,H=12,group=1,D=64,keys=64", NULL};

const check_op check_attention_dx = {
    .op = WEFT_OP_attention_dx,
    .keys = "S! H! group head0 D! Dv keys! both window cap alibi R sinks short only slack pad fill",
    .groups = groups,
    .bench = bench,
    .valid = valid,
    .build = build,
    .magnitude = magnitude,
    .invariants = invariants,
    .gradient = gradient};
