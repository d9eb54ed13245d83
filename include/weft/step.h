/* SPDX-License-Identifier: Apache-2.0
 * weft_step: one kernel row with its arguments. weft_plan: the steps of one phase, shape bucket and
 * rank with their memory laid out; built once, replayed. */
#pragma once
#include "weft/kernel.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef enum { WEFT_LANE_COMPUTE, WEFT_LANE_COMM, WEFT_LANE_COPY, WEFT_LANES } weft_lane;

enum { WEFT_TAG_BYTES = 24 };

struct weft_step {
    const weft_kernel *kernel;
    void *state,
        *scratch;         /* state: the row's own, filled by bind; scratch: valid during run only */
    int64_t bytes, flops; /* compulsory traffic and arithmetic at the bucket's size */
    uint16_t lane, layer;
    uint32_t wait[2];         /* 1 + index of steps on other lanes to wait for; 0 = none */
    uint32_t segment;         /* recompute segment */
    char tag[WEFT_TAG_BYTES]; /* "L12.attn.o" */
    weft_args args;
};

typedef struct weft_value {
    uint64_t bytes;
    int64_t off;          /* inside the arena of its space; -1 until laid out */
    uint32_t first, last; /* steps between which it is live */
    uint8_t space;
    const char *name; /* weights, feeds and state: their name; NULL for activations */
} weft_value;

typedef enum { WEFT_PHASE_GENERATE, WEFT_PHASE_SCORE, WEFT_PHASE_TRAIN } weft_phase;

typedef struct weft_plan {
    int phase, rank;
    int group_ranks[WEFT_GROUPS];
    int bucket_tokens, bucket_rows; /* most tokens of a step; most rows of logits */
    weft_step *step;
    int nstep;
    weft_value *value; /* by id; value[0] is the absent one */
    int nvalue;
    uint64_t space_bytes[WEFT_SPACES];
    int replays;
    void *graph; /* the device's own: a captured graph */
} weft_plan;

#ifdef __cplusplus
}
#endif
