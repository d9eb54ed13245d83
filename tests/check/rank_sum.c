/* SPDX-License-Identifier: Apache-2.0
 * Cases of rank_sum: any number of planes, and the order of the additions spelled out. */
#include "tests/check/check.h"

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_rank_sum_args *a = &s->args.rank_sum;
    int64_t n = check_get(c, "n"), T = check_get(c, "T"), N = check_get(c, "N");
    check_spec y = {WEFT_F32, 2, {T, N}, .row = 1, .pad = check_get(c, "pad")};
    check_add(s, &a->x, (check_spec){WEFT_F32, 3, {n, T, N}, .row = 2, .pad = y.pad});
    check_add(s, &a->y, y);
}

static void invariants(check_state *k, const check_set *s) {
    const weft_rank_sum_args *a = &s->args.rank_sum;
    const check_operand *x = check_find(s, &a->x), *y = check_find(s, &a->y);
    int64_t i[WEFT_DIMS] = {0};
    do {
        double sum = check_load(x, x->image, (int64_t[4]){0, i[0], i[1]});
        for (int64_t r = 1; r < a->x.shape[0]; r++)
            sum = (double)(float)(sum + check_load(x, x->image, (int64_t[4]){r, i[0], i[1]}));
        double got = check_load(y, k->base->image[y - s->operand], i);
        if (sum != got)
            check_fail(k, "y[%lld,%lld] = %.9g, the planes in order give %.9g", (long long)i[0],
                       (long long)i[1], got, sum);
    } while (check_next(y->at->shape, i));
}

static const char *const shapes[] = {"n=1,T=1,N=1",
                                     "n=2,T=3,N=33",
                                     "n=3,T=7,N=15",
                                     "n=8,T=5,N=129",
                                     "n=5,T=1,N=4096",
                                     "n=17,T=2,N=300",
                                     NULL};
static const char *const variants[] = {"", "pad=3", "fill=1", "fill=2", "fill=4,pad=1", NULL};
static const check_group groups[] = {{"fp32", shapes, variants, false}, {.dtypes = NULL}};
static const char *const bench[] = {"fp32:n=8,T=1,N=1048576", NULL};

const check_op check_rank_sum = {.op = WEFT_OP_rank_sum,
                                 .keys = "n! T! N! pad fill",
                                 .groups = groups,
                                 .bench = bench,
                                 .build = build,
                                 .invariants = invariants};
