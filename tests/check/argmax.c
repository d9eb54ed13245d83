/* SPDX-License-Identifier: Apache-2.0
 * Cases of argmax: ties, infinities, NaN among the numbers and nothing but NaN. */
#include "tests/check/check.h"
#include <math.h>

/* Small integers tie often; row t % 4 has NaN and infinities in its own way. */
static float tied(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed, (uint64_t)(i[0] * 100003 + i[1]));
    switch (i[0] % 4) {
    case 1: return h % 2 ? NAN : (float)(h >> 8 & 3) - 5.0f;
    case 2: return h % 5 == 0 ? INFINITY : h % 5 == 1 ? -INFINITY : (float)(h >> 8 & 3);
    case 3: return i[0] % 8 == 3 ? NAN : -INFINITY;
    default: return (float)(h >> 8 & 3) * (h & 1 ? -0.0f : 1.0f);
    }
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_argmax_args *a = &s->args.argmax;
    int64_t T = check_get(c, "T");
    check_spec x = {c->dtype, 2, {T, check_get(c, "N")}, .row = 1, .pad = check_get(c, "pad")};
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    x.value = check_get(c, "ties") ? tied : NULL;
    check_add(s, &a->x, x);
    check_add(s, &a->id, (check_spec){WEFT_I32, 1, {T}, .row = 1});
    if (check_get(c, "max"))
        check_add(s, &a->max, (check_spec){WEFT_F32, 1, {T}, .row = 1});
}

static const char *const shapes[] = {"T=1,N=1",   "T=5,N=2",   "T=9,N=17",    "T=8,N=33",
                                     "T=12,N=64", "T=33,N=65", "T=4,N=32003", NULL};
static const char *const variants[] = {
    "", "ties=1,max=1", "fill=1,max=1", "fill=2", "fill=4", "ties=1,pad=3", NULL};
static const char *const few[] = {"T=9,N=40", NULL};
static const char *const bucket[] = {"rows=1,max=1", "rows=8,pad=3,ties=1", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"fp32:T=1,N=128256", "fp32:T=16,N=128256", NULL};

const check_op check_argmax = {.op = WEFT_OP_argmax,
                               .keys = "T! N! ties max rows pad fill",
                               .groups = groups,
                               .bench = bench,
                               .build = build};
