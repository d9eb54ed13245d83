/* SPDX-License-Identifier: Apache-2.0
 * Sums over ranks: at once or in halves. */
#include "host/run/rank_sum.h"
#include "host/run/ops.h"

/* What a machine's links move about as fast as they answer: below, one exchange is the sooner. */
enum { AT_ONCE_BYTES = 256 << 10 };

#define PUSH(op_, ...) \
    plan_push(b, WEFT_OP_##op_, &(weft_args){.op_ = {__VA_ARGS__}}, s->layer, "%s", s->tag)

/* One of those planes that are copies. */
static weft_tensor distinct(weft_tensor planes, int copies) {
    if (copies > 1) {
        planes.shape[0] /= copies;
        planes.stride[0] *= copies;
    }
    return planes;
}

static void at_once(plan_builder *b, const rank_sum *s) {
    int64_t T = s->part.shape[0], N = s->part.shape[1];
    weft_tensor all = plan_new(b, WEFT_F32, 3, (int64_t[]){s->ranks, T, N});
    PUSH(all_gather, .x = tensor_reshape(s->part, 3, (int64_t[]){1, T, N}), .y = all,
         .group = s->group);
    PUSH(leaf_sum, .x = distinct(all, s->copies), .bias = s->bias, .res = s->res, .rows = s->rows,
         .y = s->y);
}

/* Every rank keeps the rows that it sums. */
static bool stays(const rank_sum *s) {
    return s->y.shape[0] < s->part.shape[0];
}

static void in_halves(plan_builder *b, const rank_sum *s) {
    int64_t T = s->part.shape[0], N = s->part.shape[1], each = T / s->ranks;
    int64_t first = s->rank * each;
    weft_tensor parts = plan_new(b, WEFT_F32, 2, (int64_t[]){T, N}), res = s->res, own = s->y;
    if (!stays(s))
        own = plan_new(b, s->y.dtype, 2, (int64_t[]){each, N});
    if (weft_has(&res) && res.shape[0] == T)
        res = tensor_slice(res, 0, first, first + each);
    PUSH(all_to_all, .x = s->part, .y = parts, .group = s->group);
    parts = tensor_reshape(parts, 3, (int64_t[]){s->ranks, each, N});
    PUSH(leaf_sum, .x = distinct(parts, s->copies), .bias = s->bias, .res = res, .y = own);
    if (!stays(s))
        PUSH(all_gather, .x = own, .y = s->y, .group = s->group);
}

void rank_sum_push(plan_builder *b, const rank_sum *s) {
    int64_t T = s->part.shape[0];
    bool is_long = ops_bytes(&s->part) >= AT_ONCE_BYTES || s->in_halves || stays(s);
    if (is_long && T % s->ranks == 0)
        in_halves(b, s);
    else
        at_once(b, s);
}
