/* SPDX-License-Identifier: Apache-2.0
 * Tensors as rows of their last axis, rows as chunks of eight elements, and the geometry of kernels
 * that give each chunk a thread. */
#pragma once
#include "kernels/lib/vec.cuh"

namespace WEFT_CU_NS {

/* ---- host and device ---- */

__host__ __device__ inline int64_t width_of(const weft_tensor &t) {
    return t.shape[t.ndim - 1];
}

/* Rows of the bucket. */
__host__ __device__ inline int64_t bucket_rows(const weft_tensor &t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t.ndim; i++)
        n *= t.shape[i];
    return n;
}

/* Where row `row` begins: the outer axes walked in order. */
__device__ __forceinline__ int64_t row_of(const weft_tensor &t, int64_t row) {
    if (t.ndim == 2)
        return row * t.stride[0];
    if (t.ndim == 3)
        return row / t.shape[1] * t.stride[0] + row % t.shape[1] * t.stride[1];
    if (t.ndim == 1)
        return 0;
    int64_t inner = t.shape[1] * t.shape[2], in = row % inner;
    return row / inner * t.stride[0] + in / t.shape[2] * t.stride[1] +
           in % t.shape[2] * t.stride[2];
}

/* True leading rows: what `rows` says, never more than `most`. */
__device__ __forceinline__ int64_t lead_rows(const weft_tensor &rows, int64_t most WEFT_AT) {
    if (!weft_has(&rows))
        return most;
    int32_t n = load_int(rows, 0 WEFT_PASS);
    return n < 0 ? 0 : n < most ? n : most;
}

/* True rows of the last axis of t. */
__device__ __forceinline__ int64_t true_rows(const weft_tensor &t,
                                             const weft_tensor &rows WEFT_AT) {
    int64_t n = t.ndim > 1 ? lead_rows(rows, t.shape[0] WEFT_PASS) : 1;
    for (int i = 1; i + 1 < t.ndim; i++)
        n *= t.shape[i];
    return n;
}

/* ---- a thread for each chunk ---- */

enum { CHUNK_THREADS = 256 };

__host__ inline int64_t chunk_blocks(int64_t rows, int64_t width) {
    return (rows * ((width + CHUNK - 1) / CHUNK) + CHUNK_THREADS - 1) / CHUNK_THREADS;
}

struct chunk {
    int64_t row, i; /* elements i .. i + n of the row */
    int n;          /* 0: this thread has none */
};

__device__ __forceinline__ chunk chunk_at(int64_t rows, int64_t width) {
    int64_t chunks = (width + CHUNK - 1) / CHUNK;
    int64_t index = blockIdx.x * (int64_t)CHUNK_THREADS + threadIdx.x;
    chunk c = {0, 0, 0};
    if (index >= rows * chunks)
        return c;
    if (rows * chunks <= 0xffffffff) { /* a 64-bit division is some thirty instructions more */
        c.row = (uint32_t)index / (uint32_t)chunks;
    } else {
        c.row = index / chunks;
    }
    c.i = (index - c.row * chunks) * CHUNK;
    c.n = width - c.i < CHUNK ? (int)(width - c.i) : (int)CHUNK;
    return c;
}

/* ---- what a row's ok() asks ---- */

inline bool is_float(const weft_tensor &t) {
    return t.dtype <= WEFT_BF16;
}

/* Of a float type, its last axis contiguous; or absent. */
inline bool is_flat(const weft_tensor &t) {
    return !weft_has(&t) || (is_float(t) && (t.stride[t.ndim - 1] == 1 || width_of(t) == 1));
}

inline bool is_f32(const weft_tensor &t) {
    return !weft_has(&t) || t.dtype == WEFT_F32;
}

} // namespace WEFT_CU_NS
