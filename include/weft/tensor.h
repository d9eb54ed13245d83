/* SPDX-License-Identifier: Apache-2.0
 * weft_tensor: a view by value. It owns nothing and never frees. */
#pragma once
#include "weft/dtype.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { WEFT_DIMS = 4 };

typedef enum { WEFT_ROWS, WEFT_TILED_MMA } weft_pack; /* element order; ROWS: strides tell all */

/* Where a value lives. Each space is one arena per rank, laid out by plan_mem. */
typedef enum {
    WEFT_SPACE_NONE,
    WEFT_SPACE_WEIGHT, /* model parameters: mapped files or converted copies */
    WEFT_SPACE_KV,     /* paged K and V */
    WEFT_SPACE_FEED,   /* what the host sends before each replay */
    WEFT_SPACE_ACT,    /* activations, reused inside a plan */
    WEFT_SPACE_OUT,    /* results the host reads after a replay */
    WEFT_SPACE_SAVED,  /* activations kept for backward */
    WEFT_SPACE_GRAD,
    WEFT_SPACE_STATE,   /* lives between replays: sampled tokens, histories, optimizer moments */
    WEFT_SPACE_SCRATCH, /* one step's own */
    WEFT_SPACES
} weft_space;

/* POD, copied into kernel parameters. While a plan is being built `data` holds the byte offset of
 * the view inside its value; binding replaces it by the address. */
typedef struct weft_tensor {
    void *data;
    void *scale, *zero;        /* value = (q - zero) * scale; NULL for plain dtypes */
    int64_t shape[WEFT_DIMS];  /* outermost first; shape[ndim..] = 1 */
    int64_t stride[WEFT_DIMS]; /* in elements; sub-byte types: innermost stride 1 */
    int32_t group;             /* elements of the last axis per scale; 0 = whole row */
    uint32_t id;               /* value number in its plan, shared by views; 0 = absent */
    uint8_t dtype, sdtype, pack, ndim;
    uint8_t space;                    /* weft_space */
    uint8_t leaf_axis, leaf0, leaves; /* this rank holds leaves [leaf0, leaf0 + leaves) */
} weft_tensor;

WEFT_INLINE int64_t weft_tensor_count(const weft_tensor *t) {
    return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3];
}

/* An optional operand is absent when its id is 0. */
WEFT_INLINE int weft_has(const weft_tensor *t) {
    return t->id != 0;
}

/* A contiguous view of ndim <= 4 dimensions; data NULL, id 0. */
static inline weft_tensor weft_tensor_make(int dtype, int ndim, const int64_t *shape) {
    weft_tensor t;
    memset(&t, 0, sizeof t);
    t.dtype = (uint8_t)dtype;
    t.ndim = (uint8_t)ndim;
    int64_t stride = 1;
    for (int i = WEFT_DIMS - 1; i >= 0; i--) {
        t.shape[i] = i < ndim ? shape[i] : 1;
        t.stride[i] = stride;
        stride *= t.shape[i];
    }
    return t;
}

#ifdef __cplusplus
}
#endif
