/* SPDX-License-Identifier: Apache-2.0
 * Cases of quantize: every float type, slices, numbers halfway between two integers, rows of zeros,
 * denormals, and rows that hold a NaN or an infinity. A rank's slice is the whole's. */
#include "tests/check/check.h"
#include <math.h>

/* Multiples of 1/2 under a largest element of 127, so that the scale is 1 and ties abound; row 1 is
 * zeros and every fifth row holds what is not finite. */
static float edges(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed, (uint64_t)(i[0] * 100003 + i[1]));
    if (i[0] == 1)
        return h % 2 ? 0.0f : -0.0f;
    if (i[0] % 5 == 4 && i[1] == (int64_t)(s->seed % (uint64_t)check_get(&s->c, "K")))
        return i[0] % 2 ? NAN : -INFINITY;
    float half = (float)(int64_t)(h % 509) * 0.5f - 127.0f;
    return i[1] % 7 == 0 ? 127.0f : half;
}

static bool valid(const check_case *c) {
    int64_t leaves = check_get(c, "leaves");
    return !leaves || check_get(c, "K") % leaves == 0;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_quantize_args *a = &s->args.quantize;
    int64_t T = check_get(c, "T"), K = check_get(c, "K"), pad = check_get(c, "pad");
    int64_t leaves = check_get(c, "leaves") ? check_get(c, "leaves") : 1;
    check_spec x = {c->dtype, 2, {T, K}, .row = 1, .pad = pad};
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    x.value = check_get(c, "edges") ? edges : NULL;
    check_add(s, &a->x, x);
    check_add(s, &a->y, (check_spec){WEFT_I8, 2, {T, K}, .row = 1, .pad = pad});
    check_add(s, &a->scale, (check_spec){WEFT_F32, 2, {T, leaves}, .row = 1, .pad = pad});
}

static bool map_half(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]) {
    const int64_t *at = ctx;
    base[0] = i[0];
    base[1] = i[1] + *at;
    base[2] = base[3] = 0;
    return true;
}

/* The second of two ranks: half of K with half of the slices. */
static void half(check_state *k, const check_set *s, bool scales) {
    check_set v;
    check_share(s, &v);
    weft_quantize_args *a = &v.args.quantize;
    check_operand *y = check_find(&v, &a->y), *scale = check_find(&v, &a->scale);
    int64_t cut = a->x.shape[1] / 2, leaves = a->scale.shape[1] / 2;
    check_find(&v, &a->x)->first += (size_t)weft_dtype_bytes(a->x.dtype, cut);
    a->x.shape[1] = y->spec.dim[1] = cut;
    scale->spec.dim[1] = leaves;
    check_remake(&v, y);
    check_remake(&v, scale);
    check_variant(k, &v, "a rank's slices differ from the whole's", scales ? &a->scale : &a->y,
                  map_half, scales ? &leaves : &cut);
    check_set_fini(&v);
}

static void invariants(check_state *k, const check_set *s) {
    if (s->args.quantize.scale.shape[1] % 2)
        return;
    half(k, s, false);
    half(k, s, true);
}

static const char *const shapes[] = {"T=1,K=1",
                                     "T=3,K=31",
                                     "T=2,K=33",
                                     "T=5,K=64,leaves=4",
                                     "T=7,K=136,leaves=8",
                                     "T=16,K=500",
                                     "T=2,K=4100",
                                     "T=1,K=9000,leaves=8",
                                     NULL};
static const char *const variants[] = {"",       "pad=3",  "edges=1",       "fill=1",
                                       "fill=2", "fill=4", "edges=1,pad=8", NULL};
static const char *const few[] = {"T=9,K=40", NULL};
static const char *const bucket[] = {"rows=1", "rows=8,pad=3", "rows=5,edges=1", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=1,K=4096", "bf16:T=512,K=4096", NULL};

const check_op check_quantize = {.op = WEFT_OP_quantize,
                                 .keys = "T! K! leaves edges rows pad fill",
                                 .groups = groups,
                                 .bench = bench,
                                 .valid = valid,
                                 .build = build,
                                 .invariants = invariants};
