/* SPDX-License-Identifier: Apache-2.0
 * backward: walks a forward's steps in reverse and appends their gradient steps to the same plan.
 * A gradient in an activation is a value like any other; those of weights accumulate in places the
 * caller owns. Nothing is computed that no wanted gradient depends on. */
#pragma once
#include "host/run/plan.h"

/* What is computed again instead of kept: nothing, the inside of attention (norm, q, k, v and the
 * core), or the whole block but its residual sums. */
typedef enum { RECOMPUTE_NONE, RECOMPUTE_ATTN, RECOMPUTE_LAYER } recompute_mode;

typedef struct {
    void *user;
    /* Whether value `id` of the plan is a weight that is trained, and where its gradient f32 of the
     * weight's shape accumulates. Called more than once for an id; *grad may be NULL. */
    bool (*wanted)(void *user, plan_builder *b, uint32_t id, weft_tensor *grad);
    /* After the gradient steps of each forward step: what `wanted` gave is complete. Optional. */
    void (*ready)(void *user, plan_builder *b);
    /* What to read as the forward's operand w, a weight, where that is not there any more.
     * Optional. */
    weft_tensor (*fetch)(void *user, plan_builder *b, weft_tensor w);
    recompute_mode recompute;
    int tp, slice; /* ranks that share matrices, this one: outputs of those with one chain,
                      inputs of those whose sums over ranks rank_sum.h joins */
    /* The forward's sums over those ranks leave each the rows that are its own, and its all-gathers
     * bring rows together (decoder.h). */
    bool sequence_parallel;
    /* How many neighbouring ranks have the same slice of a weight of the forward: kv heads that
     * several of them need. Optional: none has. */
    int (*copies)(void *user, uint32_t id);
    int shards;           /* the rows of the plan are so many virtual shards (ops_train.h) */
    weft_tensor order;    /* i32[T]: rows by ascending value of the ids fed as `ids` */
    weft_tensor by_place; /* the same for the ids fed as `pos` */
} backward_options;

typedef struct backward backward;

/* Takes note of the steps pushed so far: the forward. Lives in the plan's arena. */
backward *backward_begin(plan_builder *b, const backward_options *o);
/* Whether anything wanted depends on t, a value of the forward. */
bool backward_reaches(const backward *w, const weft_tensor *t);
/* Appends the gradient steps of the forward, dy being the gradient in its value y; of this rank's
 * rows where y is gathered from them. */
void backward_push(backward *w, weft_tensor y, weft_tensor dy);
