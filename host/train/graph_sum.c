/* SPDX-License-Identifier: Apache-2.0
 * Sums over ranks beside the backward that makes the gradients: a layer's bucket is folded through
 * the waiting buffers and summed once the last micro-batch of a step has left the layer. Bits do
 * not depend on where a bucket ends: everything is element by element. */
#include "host/base/err.h"
#include "host/run/rank_sum.h"
#include "host/train/graph_build.h"

enum { SUM_NUMBERS = 4 << 20, LINE_NUMBERS = 16 };

void graph_sum_begin(graph_builder *u) {
    const params *p = u->g->params;
    u->left = ARENA_NEW(u->g->mem, int, p->nbucket + 1);
    for (int b = 0; b < p->nbucket; b++)
        u->left[b] = p->bucket[b].chunk == u->chunk && p->bucket[b].params ? p->bucket[b].params
                                                                           : -1;
}

/* The last bucket of a chunk with a tied embedding's rows as inputs is theirs. */
static int bucket_of(const params *ps, const param *p, bool input) {
    int b = p->bucket;
    while (input && ps->bucket[b].begin != ps->lookups)
        b++;
    return b;
}

void graph_sum_given(graph_builder *u, const param *p, bool input) {
    int *left = u->left ? &u->left[bucket_of(u->g->params, p, input)] : NULL;
    if (!left)
        return;
    WEFT_ASSERT(*left > 0);
    --*left;
}

/* Numbers of a buffer as rows, so many for each rank. */
static weft_tensor numbers(graph_builder *u, int level, int64_t begin, int64_t n) {
    int64_t rows = u->g->shape.ranks;
    while (n / rows > PARAMS_ROW && n % (2 * rows * LINE_NUMBERS) == 0)
        rows *= 2;
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, "gradients", level * u->g->params->grad_bytes + begin,
                      weft_tensor_make(WEFT_F32, 2, (int64_t[]){rows, n / rows}));
}

/* By the tree that joins shards: levels first, then ranks, each of which adds up a part of every
 * stretch and hands it to the others. */
static void sum_stretch(graph_builder *u, int64_t begin, int64_t n) {
    for (int level = u->level; level > 0; level--)
        PUSH(u, accumulate, "fold", .x = numbers(u, level, begin, n),
             .y = numbers(u, level - 1, begin, n));
    rank_sum_push(&u->b, &(rank_sum){.part = numbers(u, 0, begin, n),
                                     .y = numbers(u, 0, begin, n),
                                     .ranks = u->g->shape.ranks,
                                     .rank = u->g->shape.rank,
                                     .group = WEFT_GROUP_DP,
                                     .in_halves = true,
                                     .tag = "ranks"});
}

static void sum_bucket(graph_builder *u, int bucket) {
    const params_bucket *b = &u->g->params->bucket[bucket];
    int64_t all = (b->end - b->begin) / 4;
    u->left[bucket] = -1;
    u->b.lane = WEFT_LANE_COMM;
    for (int64_t at = 0, n; at < all; at += n) {
        n = all - at < SUM_NUMBERS ? all - at : SUM_NUMBERS;
        sum_stretch(u, b->begin + 4 * at, n);
    }
    u->b.lane = WEFT_LANE_COMPUTE;
}

void graph_sum_ready(graph_builder *u) {
    for (int b = 0; u->left && b < u->g->params->nbucket; b++)
        if (u->left[b] == 0)
            sum_bucket(u, b);
}

/* Where a stage gives a gradient to the one before, that is a plan's last step. */
void graph_sum_end(graph_builder *u) {
    for (int b = 0; u->left && b < u->g->params->nbucket; b++) {
        if (u->left[b] < 0)
            continue;
        WEFT_ASSERT(mesh_stage(u->g->mesh, u->chunk) == 0);
        sum_bucket(u, b);
    }
}
