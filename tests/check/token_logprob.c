/* SPDX-License-Identifier: Apache-2.0
 * Cases of token_logprob: targets at both ends, negative targets, logits far apart. */
#include "tests/check/check.h"

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_token_logprob_args *a = &s->args.token_logprob;
    int64_t T = check_get(c, "T"), V = check_get(c, "V");
    int32_t *target = arena_alloc(&s->mem, (size_t)T * 4);
    for (int64_t t = 0; t < T; t++) {
        uint64_t h = check_hash(s->seed, (uint64_t)t);
        target[t] = h % 5 == 0   ? -1 - (int32_t)(h >> 8 & 3)
                    : h % 5 == 1 ? (int32_t)V - 1
                                 : (int32_t)((h >> 16) % (uint64_t)V);
    }
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x,
              (check_spec){c->dtype, 2, {T, V}, .row = 1, .pad = check_get(c, "pad"), .size = 3});
    check_add(s, &a->target, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = target});
    check_add(s, &a->y, (check_spec){WEFT_F32, 1, {T}, .row = 1});
}

/* A logarithm near 0 is a difference of numbers as large as the logits. */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    (void)out;
    return 1 + check_row_max(s, &s->args.token_logprob.x, row);
}

static const char *const shapes[] = {"T=1,V=1",   "T=5,V=2",   "T=9,V=17",    "T=8,V=33",
                                     "T=12,V=64", "T=33,V=65", "T=4,V=32003", NULL};
static const char *const variants[] = {"", "fill=1", "fill=2", "fill=3", "fill=4", "pad=3", NULL};
static const char *const few[] = {"T=9,V=40", NULL};
static const char *const bucket[] = {"rows=1", "rows=8,pad=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"fp32:T=16,V=128256", NULL};

const check_op check_token_logprob = {.op = WEFT_OP_token_logprob,
                                      .keys = "T! V! rows pad fill",
                                      .groups = groups,
                                      .bench = bench,
                                      .build = build,
                                      .magnitude = magnitude};
