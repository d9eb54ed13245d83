/* SPDX-License-Identifier: Apache-2.0
 * Cases of softmax: masked entries, rows that are masked altogether, wide rows. */
#include "tests/check/check.h"
#include <math.h>

static float masked(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed, (uint64_t)(i[0] * 100003 + i[1]));
    bool all = i[0] % 4 == 3;
    return all || h % 3 == 0 ? -INFINITY : 3.0f * check_normal(check_hash(h, 1));
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_softmax_args *a = &s->args.softmax;
    check_spec x = {
        c->dtype, 2, {check_get(c, "T"), check_get(c, "N")}, .row = 1, .pad = check_get(c, "pad"),
        .size = 3};
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    x.value = check_get(c, "mask") ? masked : NULL;
    check_add(s, &a->x, x);
    x.value = NULL;
    check_add(s, &a->y, x);
}

static const char *const shapes[] = {"T=1,N=1",   "T=5,N=2",   "T=3,N=17",    "T=7,N=33",
                                     "T=4,N=128", "T=33,N=65", "T=2,N=32003", NULL};
static const char *const variants[] = {"",       "mask=1",       "fill=1",       "fill=2",
                                       "fill=3", "fill=4,pad=3", "mask=1,pad=5", NULL};
static const char *const few[] = {"T=9,N=40", NULL};
static const char *const bucket[] = {"rows=1,mask=1", "rows=8,pad=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"fp32:T=16,N=128256", NULL};

const check_op check_softmax = {.op = WEFT_OP_softmax,
                                .keys = "T! N! mask rows pad fill",
                                .groups = groups,
                                .bench = bench,
                                .build = build};
