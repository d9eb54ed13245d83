/* SPDX-License-Identifier: Apache-2.0
 * Cases of gather: rows repeated, in any order, fewer and more than the source has. */
#include "tests/check/check.h"

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_gather_args *a = &s->args.gather;
    int64_t T = check_get(c, "T"), R = check_get(c, "R"), N = check_get(c, "N");
    int64_t pad = check_get(c, "pad"), y = check_get(c, "y");
    int32_t *index = arena_alloc(&s->mem, (size_t)R * 4);
    for (int64_t r = 0; r < R; r++)
        index[r] = r == 0 ? (int32_t)T - 1
                          : (int32_t)(check_hash(s->seed, (uint64_t)r) % (uint64_t)T);
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, (check_spec){c->dtype, 2, {T, N}, .pad = pad});
    check_add(s, &a->index, (check_spec){WEFT_I32, 1, {R}, .row = 1, .ints = index});
    check_add(s, &a->y, (check_spec){y ? (int)y - 1 : c->dtype, 2, {R, N}, .row = 1, .pad = pad});
}

static const char *const shapes[] = {"T=1,R=1,N=1",    "T=1,R=5,N=33",   "T=9,R=3,N=129",
                                     "T=33,R=40,N=64", "T=7,R=2,N=4097", NULL};
static const char *const variants[] = {"", "pad=3", "fill=2", "fill=4,pad=1", NULL};
static const char *const few[] = {"T=9,R=9,N=40", NULL};
static const char *const bucket[] = {"rows=1", "rows=8,pad=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,R=16,N=4096", NULL};

const check_op check_gather = {.op = WEFT_OP_gather,
                               .keys = "T! R! N! y^ rows pad fill",
                               .groups = groups,
                               .bench = bench,
                               .build = build,
                               .rows_alone = true};
