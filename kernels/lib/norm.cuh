/* SPDX-License-Identifier: Apache-2.0
 * The rows of rmsnorm and layernorm: r = x + res, rounded, read once. 1, 4 or 8 warps share a row
 * by its width (tile.h); thread i holds chunks i, i + threads, ... of eight elements in registers,
 * and what is wider than NORM_HELD of them is read again. */
#pragma once
#include "kernels/lib/hold.cuh"
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

/* Rows of a block: narrow ones share it, a warp each. */
template <int WARPS> __host__ __device__ constexpr int norm_rows() {
    return WARPS == 1 ? NORM_ROWS : 1;
}

/* A: the op's arguments, with x, res and r. */
template <class T, int WARPS, class A> struct norm_row {
    enum { HELD = row_held(WARPS), STRIDE = WARPS * 32 * CHUNK };
    const A &a;
    int64_t row, width, first, x, res;
    held<T> in[HELD];

    __device__ __forceinline__ norm_row(const A &args)
        : a(args), row(blockIdx.x * (int64_t)norm_rows<WARPS>() + threadIdx.x / (WARPS * 32)),
          width(width_of(a.x)), first(threadIdx.x % (WARPS * 32) * (int64_t)CHUNK),
          x(row_of(a.x, row)), res(weft_has(&a.res) ? row_of(a.res, row) : 0) {
    }

    __device__ __forceinline__ void add(held<T> &h, const held<T> &other) const {
        float v[CHUNK], w[CHUNK];
        widen(h, v);
        widen(other, w);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            v[j] = v[j] + w[j];
        narrow(h, weft_has(&a.r) ? a.r.dtype : a.x.dtype, v);
    }

    /* All loads before the first use: they are in flight together. */
    __device__ __forceinline__ void load() {
        held<T> other[HELD];
#pragma unroll
        for (int k = 0; k < HELD; k++)
            if (first + k * STRIDE < width)
                fetch(in[k], a.x, x + first + k * STRIDE, size(first + k * STRIDE));
        if (!weft_has(&a.res))
            return;
#pragma unroll
        for (int k = 0; k < HELD; k++)
            if (first + k * STRIDE < width)
                fetch(other[k], a.res, res + first + k * STRIDE, size(first + k * STRIDE));
#pragma unroll
        for (int k = 0; k < HELD; k++)
            if (first + k * STRIDE < width)
                add(in[k], other[k]);
    }

    __device__ __forceinline__ int size(int64_t i) const {
        return chunk_size(width, i);
    }

    /* f(i, n, chunk) for this thread's chunks, ascending. */
    template <class F> __device__ __forceinline__ void each(F f) const {
#pragma unroll
        for (int k = 0; k < HELD; k++)
            if (first + k * STRIDE < width)
                f(first + k * STRIDE, size(first + k * STRIDE), in[k]);
        /* Rows of fewer warps are never wider than what is held. */
        for (int64_t i = first + HELD * STRIDE; WARPS == 8 && i < width; i += STRIDE) {
            held<T> h, other;
            fetch(h, a.x, x + i, size(i));
            if (weft_has(&a.res)) {
                fetch(other, a.res, res + i, size(i));
                add(h, other);
            }
            f(i, size(i), h);
        }
    }
};

/* A number of the row: t is [rows] or [T,heads]. */
__device__ __forceinline__ void store_stat(const weft_tensor &t, int64_t row, float v) {
    int64_t at = t.ndim == 1 ? row * t.stride[0]
                             : row / t.shape[1] * t.stride[0] + row % t.shape[1] * t.stride[1];
    store1(t, at, v);
}

inline bool is_stat(const weft_tensor &t) {
    return is_f32(t) && t.ndim <= 2;
}

} // namespace WEFT_CU_NS
