/* SPDX-License-Identifier: Apache-2.0
 * Cases of leaf_sum: every number of leaves, bias and residual, and the fixed tree spelled out. */
#include "tests/check/check.h"
#include <math.h>

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_leaf_sum_args *a = &s->args.leaf_sum;
    int64_t L = check_get(c, "L"), T = check_get(c, "T"), N = check_get(c, "N");
    check_spec y = {c->dtype, 2, {T, N}, .row = 1, .pad = check_get(c, "pad")};
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, (check_spec){WEFT_F32, 3, {L, T, N}, .row = 2, .pad = y.pad});
    if (check_get(c, "bias"))
        check_add(s, &a->bias, (check_spec){c->dtype, 1, {N}, .row = 0});
    if (check_get(c, "res"))
        check_add(s, &a->res, y);
    check_add(s, &a->y, y);
}

static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_leaf_sum_args *a = &s->args.leaf_sum;
    double sum = 0;
    (void)out;
    for (int64_t l = 0; l < a->x.shape[0]; l++)
        sum += check_row_max(s, &a->x, l * a->x.shape[1] + row);
    return sum;
}

/* ((0+1)+(2+3))+((4+5)+(6+7)), each sum rounded to float. */
static float tree(const float *leaf, int64_t n) {
    if (n == 1)
        return leaf[0];
    return (float)((double)tree(leaf, n / 2) + (double)tree(leaf + n / 2, n / 2));
}

static void invariants(check_state *k, const check_set *s) {
    const weft_leaf_sum_args *a = &s->args.leaf_sum;
    const check_operand *x = check_find(s, &a->x), *y = check_find(s, &a->y);
    int64_t i[WEFT_DIMS] = {0};
    if (weft_has(&a->bias) || weft_has(&a->res))
        return;
    do {
        float leaf[8] = {0};
        int64_t rows = s->rows < 0 ? y->spec.dim[0] : s->rows;
        for (int64_t l = 0; l < a->x.shape[0]; l++)
            leaf[l] = (float)check_load(x, x->image, (int64_t[4]){l, i[0], i[1]});
        double want = (double)check_round(a->y.dtype, tree(leaf, a->x.shape[0]));
        double got = check_load(y, k->base->image[y - s->operand], i);
        if (i[0] < rows && want != got)
            check_fail(k, "y[%lld,%lld] = %.9g, the fixed tree gives %.9g", (long long)i[0],
                       (long long)i[1], got, want);
    } while (check_next(y->at->shape, i));
}

static const char *const shapes[] = {"L=1,T=1,N=1",
                                     "L=2,T=3,N=33",
                                     "L=4,T=7,N=15",
                                     "L=8,T=5,N=129",
                                     "L=8,T=1,N=4096",
                                     "L=4,T=33,N=300",
                                     NULL};
static const char *const variants[] = {"",       "bias=1", "res=1,pad=3",  "bias=1,res=1",
                                       "fill=1", "fill=2", "fill=4,pad=1", NULL};
static const char *const few[] = {"L=8,T=9,N=40", NULL};
static const char *const bucket[] = {"rows=1,bias=1", "rows=8,pad=3,res=1", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:L=8,T=512,N=4096,res=1", NULL};

const check_op check_leaf_sum = {.op = WEFT_OP_leaf_sum,
                                 .keys = "L! T! N! bias res rows pad fill",
                                 .groups = groups,
                                 .bench = bench,
                                 .build = build,
                                 .magnitude = magnitude,
                                 .invariants = invariants};
