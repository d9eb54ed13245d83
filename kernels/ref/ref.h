/* SPDX-License-Identifier: Apache-2.0
 * What the reference kernels share: elements of any float type as double through any strides, rows
 * of views of any rank, and the list of rows. Slow where that is simpler. */
#pragma once
#include "weft/math.h"
#include "weft/step.h"
#include <stdbool.h>

enum { REF_BLOCK = 256 }; /* elements converted at a time, on the stack */

/* X(op, numerics class, scratch): every row of this backend, in the order of ops.h. */
#define REF_ROWS(X) \
    X(embed, NONE, NULL) \
    X(rope_table, REF, NULL) \
    X(rope, REF, NULL) \
    X(rmsnorm, REF, NULL) \
    X(layernorm, REF, NULL) \
    X(matmul, REF, NULL) \
    X(leaf_sum, REF, NULL) \
    X(rank_sum, REF, NULL) \
    X(kv_append, NONE, NULL) \
    X(attention, REF, NULL) \
    X(glu, REF, NULL) \
    X(activation, REF, NULL) \
    X(add, REF, NULL) \
    X(softmax, REF, NULL) \
    X(argmax, NONE, NULL) \
    X(token_logprob, REF, NULL) \
    X(gather, NONE, NULL) \
    X(cast, NONE, NULL) \
    X(quantize, REF, NULL) \
    X(sample, REF, ref_sample_scratch) \
    X(matmul_dx, REF, NULL) \
    X(matmul_dw, REF, NULL) \
    X(bias_db, REF, NULL) \
    X(rmsnorm_dx, REF, NULL) \
    X(rmsnorm_dg, REF, NULL) \
    X(layernorm_dx, REF, NULL) \
    X(layernorm_dg, REF, NULL) \
    X(rope_dx, REF, NULL) \
    X(glu_dx, REF, NULL) \
    X(activation_dx, REF, NULL) \
    X(attention_dx, REF, NULL) \
    X(embed_dw, REF, NULL) \
    X(cross_entropy, REF, NULL) \
    X(dropout, NONE, NULL) \
    X(scale, NONE, NULL) \
    X(fill, NONE, NULL) \
    X(accumulate, NONE, NULL) \
    X(sum_squares, REF, NULL) \
    X(adamw, REF, NULL) \
    X(sgd, REF, NULL) \
    X(ema, REF, NULL)

#define REF_DECLARE_(op, arith, scratch) \
    int ref_##op##_ok(const weft_args *args); \
    void ref_##op##_run(const weft_step *step, weft_stream *stream);
size_t ref_sample_scratch(const weft_args *args);
REF_ROWS(REF_DECLARE_)

static inline bool ref_is_float(const weft_tensor *t) {
    return t->dtype <= WEFT_BF16;
}

/* Present or not, an optional operand must be of a type we read. */
static inline bool ref_is_float_or_absent(const weft_tensor *t) {
    return !weft_has(t) || ref_is_float(t);
}

static inline double ref_get(const weft_tensor *t, int64_t off) {
    switch (t->dtype) {
    case WEFT_F32: return ((const float *)t->data)[off];
    case WEFT_F16: return weft_f16_to_f32(((const uint16_t *)t->data)[off]);
    default: return weft_bf16_to_f32(((const uint16_t *)t->data)[off]);
    }
}

/* A result is rounded to float, then to storage: two defined steps, the same for every backend. */
static inline void ref_put(const weft_tensor *t, int64_t off, double v) {
    float x = (float)v;
    switch (t->dtype) {
    case WEFT_F32: ((float *)t->data)[off] = x; break;
    case WEFT_F16: ((uint16_t *)t->data)[off] = weft_f32_to_f16(x); break;
    default: ((uint16_t *)t->data)[off] = weft_f32_to_bf16(x);
    }
}

static inline int32_t ref_int(const weft_tensor *t, int64_t off) {
    return ((const int32_t *)t->data)[off];
}

static inline void ref_load(const weft_tensor *t, int64_t off, int64_t stride, int64_t n,
                            double *dst) {
    const float *f = t->data;
    const uint16_t *h = t->data;
    const int8_t *b = t->data;
    if (t->dtype == WEFT_I8)
        for (int64_t i = 0; i < n; i++)
            dst[i] = b[off + i * stride];
    else if (t->dtype == WEFT_F32)
        for (int64_t i = 0; i < n; i++)
            dst[i] = f[off + i * stride];
    else if (t->dtype == WEFT_BF16)
        for (int64_t i = 0; i < n; i++)
            dst[i] = weft_bf16_to_f32(h[off + i * stride]);
    else
        for (int64_t i = 0; i < n; i++)
            dst[i] = weft_f16_to_f32(h[off + i * stride]);
}

static inline void ref_store(const weft_tensor *t, int64_t off, int64_t stride, int64_t n,
                             const double *src) {
    for (int64_t i = 0; i < n; i++)
        ref_put(t, off + i * stride, src[i]);
}

/* As storage of type `dtype` would hold it: the rounding points of a fused op. */
static inline double ref_round(int dtype, double v) {
    return weft_round_to(dtype, (float)v);
}

/* Offset of the index-th place when the first `dims` axes are walked in order. */
static inline int64_t ref_place(const weft_tensor *t, int64_t index, int dims) {
    int64_t off = 0;
    for (int i = dims - 1; i > 0; i--) {
        off += index % t->shape[i] * t->stride[i];
        index /= t->shape[i];
    }
    return dims > 0 ? off + index * t->stride[0] : 0;
}

/* Views as rows of their last axis: [T,N] has T rows, [T,heads,D] T * heads. */
static inline int64_t ref_row(const weft_tensor *t, int64_t row) {
    return ref_place(t, row, t->ndim - 1);
}
static inline int64_t ref_width(const weft_tensor *t) {
    return t->shape[t->ndim - 1];
}
static inline int64_t ref_step(const weft_tensor *t) {
    return t->stride[t->ndim - 1];
}

/* True leading rows: what `rows` says, never more than the shape. */
static inline int64_t ref_lead(const weft_tensor *rows, int64_t most) {
    if (!weft_has(rows))
        return most;
    int32_t n = ref_int(rows, 0);
    return n < 0 ? 0 : n < most ? n : most;
}

/* The number of true rows of the last axis of t. */
static inline int64_t ref_rows(const weft_tensor *t, const weft_tensor *rows) {
    int64_t n = t->ndim > 1 ? ref_lead(rows, t->shape[0]) : 1;
    for (int i = 1; i < t->ndim - 1; i++)
        n *= t->shape[i];
    return n;
}

/* Rows a worker takes at once, so that a piece outweighs its dispatch. */
static inline int64_t ref_grain(int64_t width) {
    return width >= 4096 ? 1 : 4096 / (width < 1 ? 1 : width);
}

static inline double ref_act(int act, double x) {
    double c = x < -800.0 ? -800.0 : x; /* -infinity would meet a 0 */
    switch (act) {
    case WEFT_ACT_SILU: return c / (1.0 + weft_exp(-c));
    case WEFT_ACT_GELU: return 0.5 * c * (1.0 + weft_erf(c * 0.70710678118654752));
    case WEFT_ACT_GELU_TANH:
        return 0.5 * c * (1.0 + weft_tanh(0.79788456080286536 * (c + 0.044715 * c * c * c)));
    case WEFT_ACT_RELU: return x < 0 ? 0.0 : x;
    default: return x;
    }
}

/* The chain of a gradient over tokens: each sum is rounded to fp32, the type it is stored in, so
 * that a chain that goes on in another call has the bits of one that never stopped. `term` is a
 * double: exact, where it is a product of two floats. */
static inline float ref_chain(float sum, double term) {
    return (float)((double)sum + term);
}

/* One chain over the rows [begin, end) of column i, going on from `sum`. */
typedef float ref_chain_fn(const void *ctx, int64_t i, int64_t begin, int64_t end, float sum);

static inline bool ref_shards_ok(int shards, int64_t T) {
    return (shards == 1 || shards == 2 || shards == 4 || shards == 8) && T % shards == 0;
}

/* The virtual shards of ops_train.h, for one element of a gradient. T: the shape's rows; lead: the
 * true ones. */
static inline void ref_by_shards(float *to, int shards, int64_t T, int64_t lead, int64_t i,
                                 ref_chain_fn *fn, const void *ctx) {
    float leaf[8];
    int64_t run = T / shards;
    if (shards == 1) {
        *to = fn(ctx, i, 0, lead, *to);
        return;
    }
    for (int s = 0; s < shards; s++) {
        int64_t end = (s + 1) * run < lead ? (s + 1) * run : lead;
        leaf[s] = fn(ctx, i, s * run, end, 0.0f);
    }
    *to += weft_tree_sum(leaf, shards);
}

/* The derivative of ref_act; of relu at 0 it is 0. Beyond 800 nothing of it changes. */
static inline double ref_act_slope(int act, double x) {
    double c = x < -800.0 ? -800.0 : x > 800.0 ? 800.0 : x, s, t;
    switch (act) {
    case WEFT_ACT_SILU: s = 1.0 / (1.0 + weft_exp(-c)); return s * (1.0 + c * (1.0 - s));
    case WEFT_ACT_GELU:
        return 0.5 * (1.0 + weft_erf(c * 0.70710678118654752)) +
               c * 0.39894228040143268 * weft_exp(-0.5 * c * c);
    case WEFT_ACT_GELU_TANH:
        t = weft_tanh(0.79788456080286536 * (c + 0.044715 * c * c * c));
        return 0.5 * (1.0 + t) +
               0.5 * c * (1.0 - t * t) * 0.79788456080286536 * (1.0 + 0.134145 * c * c);
    case WEFT_ACT_RELU: return x > 0 ? 1.0 : x <= 0 ? 0.0 : x;
    default: return 1.0;
    }
}
