/* SPDX-License-Identifier: Apache-2.0
 * Cases of layernorm: as rmsnorm's, and rows whose mean is far from zero. */
#include "tests/check/check.h"
#include <math.h>

static float far_from_zero(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed, (uint64_t)(i[0] * 100003 + i[1]));
    return 30.0f + check_normal(h);
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_layernorm_args *a = &s->args.layernorm;
    int64_t T = check_get(c, "T"), H = check_get(c, "H"), res = check_get(c, "res");
    int64_t g = check_get(c, "g");
    check_spec x = {c->dtype, 2, {T, H}, .row = 1, .pad = check_get(c, "pad")}, y = x;
    check_spec gain = {g ? (int)g - 1 : c->dtype, 1, {H}, .row = 0},
               one = {WEFT_F32, 1, {T}, .row = 1};
    x.value = check_get(c, "mean") ? far_from_zero : NULL;
    a->eps = 1e-5f;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, x);
    if (res)
        check_add(s, &a->res, y);
    check_add(s, &a->g, gain);
    if (!check_get(c, "nobias"))
        check_add(s, &a->b, gain);
    check_add(s, &a->y, y);
    if (res)
        check_add(s, &a->r, y);
    if (check_get(c, "stats")) {
        check_add(s, &a->mean, one);
        check_add(s, &a->inv, one);
    }
}

/* Subtracting a mean loses what the mean is larger than the spread. */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_layernorm_args *a = &s->args.layernorm;
    double most = check_row_max(s, &a->x, row);
    if (weft_has(&a->res))
        most += check_row_max(s, &a->res, row);
    if (out == &a->mean || out == &a->r)
        return most;
    int64_t H = a->x.shape[1], i[WEFT_DIMS] = {row};
    const check_operand *x = check_find(s, &a->x), *r = check_find(s, &a->res);
    double sum = 0, square = 0;
    for (i[1] = 0; i[1] < H; i[1]++) {
        double v = check_load(x, x->image, i) + (r ? check_load(r, r->image, i) : 0);
        sum += v / (double)H;
        square += v * v / (double)H;
    }
    double inv = 1 / sqrt(fmax(square - sum * sum, 0) + (double)a->eps);
    return out == &a->inv ? inv * most * inv : most * inv * check_row_max(s, &a->g, 0);
}

static void invariants(check_state *k, const check_set *s) {
    check_set v;
    if (!weft_has(&s->args.layernorm.res))
        return;
    check_share(s, &v);
    weft_layernorm_args *b = &v.args.layernorm;
    check_operand *r = check_find(&v, &b->r), *x = check_find(&v, &b->x);
    x->image = k->base->image[r - v.operand];
    x->first = r->first;
    x->bytes = r->bytes;
    b->res.id = 0;
    b->r.id = 0;
    r->role = 'I';
    check_variant(k, &v, "the fused sum differs from the sum stored first", &b->y, check_map_same,
                  NULL);
    check_set_fini(&v);
}

static const char *const shapes[] = {"T=1,H=1",    "T=1,H=33",   "T=7,H=16",   "T=3,H=15",
                                     "T=5,H=129",  "T=33,H=64",  "T=2,H=3072", "T=2,H=8712",
                                     "T=17,H=257", "T=64,H=511", NULL};
static const char *const variants[] = {
    "",       "res=1",        "res=1,pad=3,stats=1", "nobias=1,stats=1",
    "g=1",    "pad=7,mean=1", "res=1,fill=1",        "res=1,fill=2",
    "fill=3", "res=1,fill=4", "mean=1,stats=1",      NULL};
static const char *const few[] = {"T=9,H=48", NULL};
static const char *const bucket[] = {"rows=1,res=1,stats=1", "rows=8,pad=2", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,H=4096,res=1", NULL};

const check_op check_layernorm = {.op = WEFT_OP_layernorm,
                                  .keys = "T! H! res nobias stats g^ mean rows pad fill",
                                  .groups = groups,
                                  .bench = bench,
                                  .build = build,
                                  .magnitude = magnitude,
                                  .invariants = invariants};
