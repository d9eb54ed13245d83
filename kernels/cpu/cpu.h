/* SPDX-License-Identifier: Apache-2.0
 * What the ops here share: names by level, rows of views, and when a region of threads pays. */
#pragma once
#include "rows.h"
#include "simd.h"

#define CPU_NAME_(op, level, part) weft_cpu_##op##_##level##_##part
#define CPU_NAME(op, level, part) CPU_NAME_(op, level, part)
#define CPU_OK(op) int CPU_NAME(op, WEFT_CPU_LEVEL, ok)(const weft_args *args)
#define CPU_RUN(op) \
    void CPU_NAME(op, WEFT_CPU_LEVEL, run)(const weft_step *step, weft_stream *stream)
#define CPU_SCRATCH(op) size_t CPU_NAME(op, WEFT_CPU_LEVEL, scratch)(const weft_args *args)

enum { CPU_REGION_ELEMENTS = 16 << 10 }; /* below this much work waking threads costs more */

V16 int64_t cpu_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}
V16 int64_t cpu_max(int64_t a, int64_t b) {
    return a > b ? a : b;
}
V16 int64_t cpu_ceil(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

V16 int cpu_is_float(const weft_tensor *t) {
    return t->dtype <= WEFT_BF16 && t->pack == WEFT_ROWS;
}
V16 int64_t cpu_width(const weft_tensor *t) {
    return t->shape[t->ndim - 1];
}
/* A float operand, present or not, whose last axis is contiguous. */
V16 int cpu_flat(const weft_tensor *t) {
    return !weft_has(t) ||
           (cpu_is_float(t) && t->ndim > 0 && (t->stride[t->ndim - 1] == 1 || cpu_width(t) == 1));
}

V16 int64_t cpu_bytes(int dtype) {
    static const uint8_t bytes[WEFT_DTYPES] = {4, 2, 2, 1, 1, 0, 0, 4, 8};
    return bytes[dtype];
}
V16 void *cpu_at(const weft_tensor *t, int64_t element) {
    return (char *)t->data + element * cpu_bytes(t->dtype);
}

/* Where row r starts: rows count over all axes but the last. */
V16 void *cpu_row(const weft_tensor *t, int64_t r) {
    int64_t off = 0;
    for (int i = t->ndim - 2; i > 0; i--) {
        off += r % t->shape[i] * t->stride[i];
        r /= t->shape[i];
    }
    return cpu_at(t, off + (t->ndim > 1 ? r * t->stride[0] : 0));
}

/* The true number of leading entries of x's first axis. */
V16 int64_t cpu_true_rows(const weft_tensor *rows, const weft_tensor *x) {
    int64_t n = weft_has(rows) ? *(const int32_t *)rows->data : x->shape[0];
    return cpu_max(0, cpu_min(n, x->shape[0]));
}
/* Rows in the sense of cpu_row among them. */
V16 int64_t cpu_rows(const weft_tensor *rows, const weft_tensor *x) {
    int64_t n = cpu_true_rows(rows, x);
    for (int i = 1; i < x->ndim - 1; i++)
        n *= x->shape[i];
    return n;
}

/* Runs fn over n rows of `width` elements: in pieces of about a region's worth, inline when few. */
V16 void cpu_each_row(weft_stream *s, int64_t n, int64_t width, weft_range_fn *fn,
                      const void *ctx) {
    int64_t grain = cpu_max(1, CPU_REGION_ELEMENTS / 4 / cpu_max(1, width));
    if (n > 0 && (n * width < CPU_REGION_ELEMENTS || n <= grain))
        fn(ctx, 0, n, 0);
    else
        weft_parallel(s, n, grain, fn, ctx);
}

/* A loop over a row, sixteen at a time; n is what is left for the last. */
#define CPU_EACH16(i, n, width) \
    for (int64_t i = 0, n = cpu_min(16, (width)); i < (width); i += 16, n = cpu_min(16, (width)-i))

/* A sum over a row is sixteen chains; long chains of equal terms would round the same way each
 * time, so a chain ends with its block and the blocks' lanes are added in turn. */
enum { CPU_SUM_BLOCK = 1024 };
#define CPU_EACH_BLOCK(at, n, width) \
    for (int64_t at = 0, n = cpu_min(CPU_SUM_BLOCK, (width)); at < (width); \
         at += CPU_SUM_BLOCK, n = cpu_min(CPU_SUM_BLOCK, (width)-at))

/* Row t of an optional operand. */
V16 const void *cpu_row_at(const weft_tensor *t, int64_t row) {
    return (const char *)t->data + row * t->stride[0] * (t->dtype == WEFT_F32 ? 4 : 2);
}

/* The scalar functions of math.h over sixteen lanes; the compiler makes vectors of these loops. */
#define CPU_LANES(name, expr) \
    V16 v16 name(v16 v) { \
        float f[16]; \
        v16_store(f, v); \
        for (int l = 0; l < 16; l++) \
            f[l] = expr(f[l]); \
        return v16_load(f); \
    }
CPU_LANES(cpu_silu, weft_silu)
CPU_LANES(cpu_gelu, weft_gelu)
CPU_LANES(cpu_gelu_tanh, weft_gelu_tanh)
CPU_LANES(cpu_relu, weft_relu)
CPU_LANES(cpu_tanh, weft_tanhf)

V16 v16 cpu_act(int act, v16 v) {
    switch (act) {
    case WEFT_ACT_SILU: return cpu_silu(v);
    case WEFT_ACT_GELU: return cpu_gelu(v);
    case WEFT_ACT_GELU_TANH: return cpu_gelu_tanh(v);
    case WEFT_ACT_RELU: return cpu_relu(v);
    default: return v;
    }
}

/* n columns from i of row t of matmul's and leaf_sum's results, rounded as y holds them after the
 * bias, after the activation and after the residual. */
V16 void cpu_finish(const weft_tensor *y, const weft_tensor *bias, int act, const weft_tensor *res,
                    int64_t t, int64_t i, int n, v16 v) {
    if (weft_has(bias))
        v = v16_add(v, v16_get(bias->dtype, bias->data, i, n));
    if (act)
        v = cpu_act(act, v16_round(y->dtype, v));
    if (weft_has(res))
        v = v16_add(v16_round(y->dtype, v), v16_get(res->dtype, cpu_row_at(res, t), i, n));
    v16_put(y->dtype, cpu_at(y, t * y->stride[0]), i, n, v);
}

/* Virtual shards of ops_train.h: equal runs of the rows that the shape has. */
V16 int cpu_shards_ok(int shards, int64_t rows) {
    return (shards == 1 || shards == 2 || shards == 4 || shards == 8) && rows % shards == 0;
}

/* Leaves by the fixed tree; s is used up. */
V16 v16 cpu_tree(v16 *s, int leaves) {
    for (int n = leaves; n > 1; n /= 2)
        for (int l = 0; l < n / 2; l++)
            s[l] = v16_add(s[2 * l], s[2 * l + 1]);
    return s[0];
}
