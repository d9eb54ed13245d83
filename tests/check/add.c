/* SPDX-License-Identifier: Apache-2.0
 * Cases of add: one rounding, so every row must have the reference's bits. */
#include "tests/check/check.h"

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_add_args *a = &s->args.add;
    int64_t b = check_get(c, "b"), y = check_get(c, "y");
    check_spec x = {
        c->dtype, 2, {check_get(c, "T"), check_get(c, "N")}, .row = 1, .pad = check_get(c, "pad")};
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->a, x);
    x.dtype = b ? (int)b - 1 : c->dtype;
    check_add(s, &a->b, x);
    x.dtype = y ? (int)y - 1 : c->dtype;
    check_add(s, &a->y, x);
}

static const char *const shapes[] = {"T=1,N=1",    "T=1,N=31",   "T=3,N=33",   "T=7,N=16",
                                     "T=33,N=100", "T=2,N=5000", "T=50,N=513", NULL};
static const char *const variants[] = {
    "",       "pad=3",   "fill=1",  "fill=2",         "fill=3,pad=1",
    "fill=4", "b=1,y=2", "b=3,y=1", "y=3,b=2,fill=1", NULL};
static const char *const few[] = {"T=9,N=40", NULL};
static const char *const bucket[] = {"rows=1", "rows=8,pad=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,N=4096", NULL};

const check_op check_add_ = {.op = WEFT_OP_add,
                             .keys = "T! N! b^ y^ rows pad fill",
                             .groups = groups,
                             .bench = bench,
                             .build = build};
