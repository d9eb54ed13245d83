/* SPDX-License-Identifier: Apache-2.0
 * weft_step: one kernel row with its arguments. weft_plan: the steps of one phase, shape bucket and
 * rank with their memory laid out; built once, replayed. */
#pragma once
#include "weft/kernel.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Steps of a lane run in the plan's order; those of COMM may be on their way while those of COMPUTE
 * behind them run, as far as `wait` lets them. */
typedef enum { WEFT_LANE_COMPUTE, WEFT_LANE_COMM, WEFT_LANES } weft_lane;

enum { WEFT_TAG_BYTES = 24 };

struct weft_step {
    const weft_kernel *kernel;
    void *state,
        *scratch;         /* state: the row's own, filled by bind; scratch: valid during run only */
    int64_t bytes, flops; /* compulsory traffic and arithmetic at the bucket's size */
    uint16_t lane, layer;
    uint32_t wait;            /* so many steps back is the other lane's last one that this one
                                 waits for; 0: none */
    uint8_t awaited;          /* 1 + the mark for steps of the other lane that wait for it */
    uint32_t segment;         /* recompute segment */
    char tag[WEFT_TAG_BYTES]; /* "L12.attn.o" */
    weft_args args;
};

typedef struct weft_value {
    uint64_t bytes;
    int64_t off;          /* inside the arena of its space; -1 until laid out */
    uint32_t first, last; /* steps between which it is live */
    uint32_t until; /* >= last: where lane COMPUTE may take its place, COMM being done by then */
    uint32_t comm;  /* 1 + the last step of lane COMM that uses it; 0: none */
    uint8_t space, lane; /* lane: of the first step */
    const char *name;    /* weights, feeds and state: their name; NULL for activations */
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
    uint64_t comm_scratch; /* where the scratch of lane COMM begins */
    int replays;
    void *graph; /* the device's own: a captured graph */
} weft_plan;

#ifdef __cplusplus
}
#endif
