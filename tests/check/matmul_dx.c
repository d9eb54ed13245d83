/* SPDX-License-Identifier: Apache-2.0
 * Cases of matmul_dx, matmul_dw and bias_db: int8 weights have the bits of what they stand for;
 * gradients of weights are sums over tokens. */
#include "tests/check/check.h"
#include <math.h>
#include <stddef.h>
#include <string.h>

static double norm(const check_operand *o, int64_t at, int axis) {
    int64_t i[WEFT_DIMS] = {0};
    double sum = 0;
    i[1 - axis] = at;
    for (; i[axis] < o->at->shape[axis]; i[axis]++) {
        double v = check_load(o, o->image, i);
        sum += v * v;
    }
    return sqrt(sum);
}

static float scale_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed + 77, (uint64_t)i[0]);
    return h % 16 == 0 ? 0.0f : 1e-3f * (1.0f + (float)(h >> 40) * 0x1p-24f);
}

/* ---- matmul_dx ------------------------------------------------------------------------------ */

static bool valid(const check_case *c) {
    int64_t l = check_get(c, "leaves");
    return (l == 0 || l == 1 || l == 2 || l == 4 || l == 8) && check_get(c, "N") % (l ? l : 1) == 0;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_matmul_dx_args *a = &s->args.matmul_dx;
    int64_t T = check_get(c, "T"), N = check_get(c, "N"), K = check_get(c, "K");
    int64_t pad = check_get(c, "pad"), w = check_get(c, "w"), dx = check_get(c, "dx");
    int wtype = check_get(c, "int8") ? WEFT_I8 : w ? (int)w - 1 : c->dtype;
    check_spec out = {dx ? (int)dx - 1 : c->dtype, 2, {T, K}, .row = 1, .pad = pad};
    a->leaves = check_get(c, "leaves") ? (int32_t)check_get(c, "leaves") : 1;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->dy, (check_spec){c->dtype, 2, {T, N}, .row = 1, .pad = pad});
    check_operand *weight = check_add(s, &a->w, (check_spec){wtype, 2, {N, K}, .pad = pad});
    double *most = s->story = arena_alloc(&s->mem, sizeof *most);
    for (int64_t k = 0; k < K && !s->aligned; k++)
        *most = fmax(*most, norm(weight, k, 0));
    if (check_get(c, "int8")) {
        check_add(s, &a->wscale, (check_spec){WEFT_F32, 1, {N}, .value = scale_value});
        *most *= 2e-3;
    }
    if (check_get(c, "res"))
        check_add(s, &a->res, out);
    check_add(s, &a->dx, out);
}

/* Rounding grows with the terms, whatever is left of them: about norm(dy) norm(w) / sqrt(N). */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_matmul_dx_args *a = &s->args.matmul_dx;
    (void)out;
    return norm(check_find(s, &a->dy), row, 1) * *(const double *)s->story /
           sqrt((double)a->dy.shape[1]);
}

/* The integers as numbers of dy's type, their scales in dy: the same bits. */
static void unscaled(check_state *k, const check_set *s) {
    check_set v;
    int64_t i[WEFT_DIMS] = {0};
    check_share(s, &v);
    weft_matmul_dx_args *a = &v.args.matmul_dx;
    check_operand *dy = check_find(&v, &a->dy), *w = check_find(&v, &a->w);
    const check_operand *scale = check_find(&v, &a->wscale),
                        *from = check_find(s, &s->args.matmul_dx.w);
    char *old = dy->image;
    dy->image = arena_alloc(&v.mem, dy->bytes);
    memcpy(dy->image, old, dy->bytes);
    do {
        if (s->rows >= 0 && i[0] >= s->rows)
            break;
        double f = check_load(scale, scale->image, (int64_t[WEFT_DIMS]){i[1]});
        check_store(dy, dy->image, i, (float)check_load(dy, old, i) * (float)f);
    } while (check_next(a->dy.shape, i));
    w->spec.dtype = dy->spec.dtype;
    check_remake(&v, w);
    memset(i, 0, sizeof i);
    do
        check_store(w, w->image, i, (float)check_load(from, from->image, i));
    while (check_next(a->w.shape, i));
    a->wscale.id = 0;
    const weft_kernel *row = check_row_for(k, WEFT_OP_matmul_dx, &v.args);
    if (row && check_same_arith(row, k->row) && (!k->row->ok || k->row->ok(&v.args)))
        check_variant(k, &v, "int8 weights differ from the numbers they stand for", NULL,
                      check_map_same, NULL);
    check_set_fini(&v);
}

static void invariants(check_state *k, const check_set *s) {
    if (weft_has(&s->args.matmul_dx.wscale))
        unscaled(k, s);
}

static bool gradient(const check_set *s, check_gradient *g) {
    const weft_matmul_dx_args *a = &s->args.matmul_dx;
    g->op = WEFT_OP_matmul;
    weft_matmul_args *f = &g->args.matmul;
    if (weft_has(&a->wscale))
        return false;
    weft_tensor dy = check_dense(s, &a->dy, &g->mem);
    f->x = check_blank(2, (int64_t[]){dy.shape[0], a->w.shape[1]}, &g->mem);
    f->w = check_dense(s, &a->w, &g->mem);
    f->y = check_blank(2, dy.shape, &g->mem);
    f->leaves = 1;
    g->wrt[0].field = offsetof(weft_args, matmul.x);
    g->wrt[0].gradient = &a->dx;
    g->wrt[0].anywhere = true;
    if (weft_has(&a->res))
        g->wrt[0].direct = check_dense(s, &a->res, &g->mem);
    g->out[0].field = offsetof(weft_args, matmul.y);
    g->out[0].dy = dy;
    return true;
}

static const char *const shapes[] = {"T=1,N=1,K=1",
                                     "T=1,N=33,K=17",
                                     "T=7,N=16,K=129",
                                     "T=17,N=40,K=64",
                                     "T=33,N=129,K=65",
                                     "T=70,N=64,K=200",
                                     "T=5,N=32,K=24",
                                     "T=35,N=64,K=40",
                                     "T=3,N=257,K=8",
                                     "T=261,N=96,K=136",
                                     NULL};
static const char *const variants[] = {
    "",    "res=1,pad=3", "fill=1", "fill=2,res=1",        "fill=3", "fill=4",
    "w=1", "w=3,dx=1",    "int8=1", "int8=1,fill=1,res=1", NULL};
static const char *const split[] = {
    "T=1,N=128,K=24",  "T=19,N=144,K=70", "T=40,N=200,K=136", "T=131,N=256,K=136", "T=3,N=256,K=8",
    "T=18,N=256,K=40", "T=33,N=256,K=24", "T=9,N=512,K=16",   "T=66,N=256,K=72",   NULL};
static const char *const leaves[] = {"leaves=2",        "leaves=4,res=1",  "leaves=8,pad=5",
                                     "leaves=8,fill=1", "leaves=4,int8=1", NULL};
static const char *const few[] = {"T=9,N=48,K=40", "T=40,N=64,K=72", NULL};
static const char *const bucket[] = {"rows=1,res=1", "rows=8,leaves=2,pad=2", "rows=7,int8=1",
                                     NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 fp16 bf16", split, leaves, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,N=4096,K=4096", "fp32:T=256,N=768,K=3072", NULL};

const check_op check_matmul_dx = {.op = WEFT_OP_matmul_dx,
                                  .keys = "T! N! K! leaves w^ int8 dx^ res rows pad fill",
                                  .groups = groups,
                                  .bench = bench,
                                  .valid = valid,
                                  .build = build,
                                  .magnitude = magnitude,
                                  .invariants = invariants,
                                  .gradient = gradient};

/* ---- matmul_dw ------------------------------------------------------------------------------ */

static bool valid_sum(const check_case *c) {
    int64_t n = check_get(c, "shards");
    return (n == 0 || n == 1 || n == 2 || n == 4 || n == 8) && check_get(c, "T") % (n ? n : 1) == 0;
}

/* What a gradient held before: never 0, so that signs of zero are none of the case's business. */
static float old_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    float x = check_normal(check_hash(s->seed + 55, (uint64_t)(i[0] * 100003 + i[1])));
    return x == 0 ? 1.0f : x;
}

static void build_dw(check_set *s) {
    const check_case *c = &s->c;
    weft_matmul_dw_args *a = &s->args.matmul_dw;
    int64_t T = check_get(c, "T"), N = check_get(c, "N"), K = check_get(c, "K");
    int64_t pad = check_get(c, "pad"), x = check_get(c, "x");
    a->shards = check_get(c, "shards") ? (int32_t)check_get(c, "shards") : 1;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->dy, (check_spec){c->dtype, 2, {T, N}, .row = 1, .pad = pad});
    check_add(
        s, &a->x,
        (check_spec){x ? (int)x - 1 : c->dtype, 2, {T, K}, .row = 1, .pad = pad, .twin = true});
    check_add(s, &a->dw, (check_spec){WEFT_F32, 2, {N, K}, .pad = pad, .value = old_value});
}

static double magnitude_dw(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_matmul_dw_args *a = &s->args.matmul_dw;
    const check_operand *dy = check_find(s, &a->dy);
    int64_t T = s->rows >= 0 ? s->rows : a->dy.shape[0];
    double sum = 0;
    (void)out;
    for (int64_t t = 0; t < T; t++)
        sum += fabs(check_load(dy, dy->image, (int64_t[WEFT_DIMS]){t, row})) *
               check_row_max(s, &a->x, t);
    return sum;
}

static void invariants_dw(check_state *k, const check_set *s) {
    check_token_sum(k, s, &s->args.matmul_dw.dy, NULL);
}

static bool gradient_dw(const check_set *s, check_gradient *g) {
    const weft_matmul_dw_args *a = &s->args.matmul_dw;
    g->op = WEFT_OP_matmul;
    weft_matmul_args *f = &g->args.matmul;
    f->x = check_dense(s, &a->x, &g->mem);
    f->w = check_blank(2, a->dw.shape, &g->mem);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    f->y = check_blank(2, g->out[0].dy.shape, &g->mem);
    f->leaves = 1;
    g->wrt[0].field = offsetof(weft_args, matmul.w);
    g->wrt[0].gradient = &a->dw;
    g->wrt[0].anywhere = true;
    g->out[0].field = offsetof(weft_args, matmul.y);
    return true;
}

static const char *const shapes_dw[] = {"T=1,N=1,K=1",
                                        "T=1,N=33,K=17",
                                        "T=7,N=16,K=129",
                                        "T=17,N=40,K=64",
                                        "T=33,N=65,K=70",
                                        "T=100,N=24,K=40",
                                        "T=64,N=129,K=136",
                                        "T=45,N=264,K=136",
                                        "T=37,N=72,K=104",
                                        "T=16,N=8,K=8",
                                        NULL};
static const char *const variants_dw[] = {"",       "pad=3",      "fill=1",    "fill=2",
                                          "fill=3", "fill=4,x=1", "x=3,pad=8", NULL};
static const char *const split_dw[] = {
    "T=8,N=17,K=40",  "T=40,N=30,K=33",   "T=128,N=40,K=72", "T=264,N=136,K=136",
    "T=72,N=64,K=40", "T=200,N=24,K=264", "T=64,N=8,K=16",   NULL};
static const char *const shards[] = {"shards=2",        "shards=4,pad=3",  "shards=8",
                                     "shards=8,fill=1", "shards=4,rows=5", NULL};
static const char *const few_dw[] = {"T=9,N=48,K=40", "T=40,N=64,K=72", NULL};
static const char *const bucket_dw[] = {"rows=1", "rows=8,pad=2", "rows=7", NULL};
static const check_group groups_dw[] = {{"fp32 fp16 bf16", shapes_dw, variants_dw, false},
                                        {"fp32 fp16 bf16", split_dw, shards, false},
                                        {"fp32 bf16", few_dw, bucket_dw, false},
                                        {.dtypes = NULL}};
static const char *const bench_dw[] = {"bf16:T=512,N=4096,K=4096", "fp32:T=256,N=768,K=3072", NULL};

const check_op check_matmul_dw = {.op = WEFT_OP_matmul_dw,
                                  .keys = "T! N! K! shards x^ rows pad fill",
                                  .groups = groups_dw,
                                  .bench = bench_dw,
                                  .valid = valid_sum,
                                  .build = build_dw,
                                  .magnitude = magnitude_dw,
                                  .invariants = invariants_dw,
                                  .gradient = gradient_dw};

/* ---- bias_db -------------------------------------------------------------------------------- */

static void build_db(check_set *s) {
    const check_case *c = &s->c;
    weft_bias_db_args *a = &s->args.bias_db;
    int64_t T = check_get(c, "T"), N = check_get(c, "N");
    a->shards = check_get(c, "shards") ? (int32_t)check_get(c, "shards") : 1;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->dy, (check_spec){c->dtype, 2, {T, N}, .row = 1, .pad = check_get(c, "pad")});
    check_add(s, &a->db, (check_spec){WEFT_F32, 1, {N}, .value = old_value});
}

static double magnitude_db(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_tensor *dy = &s->args.bias_db.dy;
    int64_t T = s->rows >= 0 ? s->rows : dy->shape[0];
    double sum = 0;
    (void)out, (void)row;
    for (int64_t t = 0; t < T; t++)
        sum += check_row_max(s, dy, t);
    return sum;
}

static void invariants_db(check_state *k, const check_set *s) {
    check_token_sum(k, s, &s->args.bias_db.dy, NULL);
}

/* A matmul by nothing: its bias alone. */
static bool gradient_db(const check_set *s, check_gradient *g) {
    const weft_bias_db_args *a = &s->args.bias_db;
    g->op = WEFT_OP_matmul;
    weft_matmul_args *f = &g->args.matmul;
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    int64_t T = g->out[0].dy.shape[0], N = g->out[0].dy.shape[1];
    f->x = check_blank(2, (int64_t[]){T, 1}, &g->mem);
    f->w = check_blank(2, (int64_t[]){N, 1}, &g->mem);
    f->bias = check_blank(1, (int64_t[]){N}, &g->mem);
    f->y = check_blank(2, (int64_t[]){T, N}, &g->mem);
    f->leaves = 1;
    g->wrt[0].field = offsetof(weft_args, matmul.bias);
    g->wrt[0].gradient = &a->db;
    g->wrt[0].anywhere = true;
    g->out[0].field = offsetof(weft_args, matmul.y);
    return true;
}

static const char *const shapes_db[] = {"T=1,N=1",   "T=1,N=33",   "T=7,N=16",    "T=17,N=300",
                                        "T=65,N=64", "T=300,N=40", "T=33,N=1030", NULL};
static const char *const split_db[] = {"T=8,N=40", "T=48,N=33", NULL};
static const char *const bucket_db[] = {"rows=1", "rows=8,pad=2", NULL};
static const char *const few_db[] = {"T=9,N=48", "T=40,N=64", NULL};
static const char *const variants_db[] = {"", "pad=3", "fill=1", "fill=2", "fill=4", NULL};
static const check_group groups_db[] = {{"fp32 fp16 bf16", shapes_db, variants_db, false},
                                        {"fp32 bf16", split_db, shards, false},
                                        {"fp32 bf16", few_db, bucket_db, false},
                                        {.dtypes = NULL}};

const check_op check_bias_db = {.op = WEFT_OP_bias_db,
                                .keys = "T! N! shards rows pad fill",
                                .groups = groups_db,
                                .valid = valid_sum,
                                .build = build_db,
                                .magnitude = magnitude_db,
                                .invariants = invariants_db,
                                .gradient = gradient_db};
