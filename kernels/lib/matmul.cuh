/* SPDX-License-Identifier: Apache-2.0
 * What the rows of matmul on tensor cores share. They are one numerics class: whatever the tiling,
 * a leaf of an output is one chain of m16n8k16 over ascending k with the weight as operand M, so
 * `run` may choose among them by the number of tokens. */
#pragma once
#include "kernels/lib/epilogue.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

/* ---- device ---- */

enum { MMA_PAD = 4 }; /* floats behind a row of partial sums: the rows of a warp in other banks */

/* What a block works on. */
struct mma_block {
    int leaves, rows, tokens;            /* rows of w, tokens: of the block */
    int64_t n0, t0, end_n, end_t, width; /* width: of a leaf */
};

/* The block of `rows` rows of w from n0 on and `tokens` tokens from t0 on. */
__device__ __forceinline__ mma_block mma_block_at(const weft_matmul_args &a, int rows, int tokens,
                                                  int64_t n0, int64_t t0 WEFT_AT) {
    mma_block b = {a.leaves, rows, tokens, n0, t0, a.w.shape[0], 0, a.x.shape[1] / a.leaves};
    b.end_t = lead_rows(a.rows, a.x.shape[0] WEFT_PASS);
    return b;
}

template <class T>
__device__ __forceinline__ void mma16(float (&d)[4], const uint32_t (&a)[4],
                                      const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma16<bf16>(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
    mma_m16n8k16_bf16(d, a, b, d);
}
template <>
__device__ __forceinline__ void mma16<f16>(float (&d)[4], const uint32_t (&a)[4],
                                           const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(d, a, b, d);
}

/* A warp's accumulators (rows g, g + 8; tokens 2p, 2p + 1) to [leaf][token][row]. */
template <int TILES>
__device__ __forceinline__ void mma_park(float *sum, const mma_block &b,
                                         const float (&acc)[TILES][4]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = b.rows + MMA_PAD;
    int leaf = warp % b.leaves, row = warp / b.leaves * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int t = leaf * b.tokens + 8 * j + lane % 4 * 2 + i % 2;
            st_shared(&sum[t * pitch + row + i / 2 * 8], acc[j][i]);
        }
}

/* The leaves' tree and the epilogue, eight rows of w a thread. */
__device__ inline void mma_finish(const float *from, const weft_matmul_args &a,
                                  const mma_block &b) {
    int strips = b.rows / CHUNK, pitch = b.rows + MMA_PAD;
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
    for (int i = threadIdx.x; i < b.tokens * strips; i += MMA_WARPS * 32) {
        int t = i / strips, r = i % strips * CHUNK;
        chunk c = {b.t0 + t, b.n0 + r, 0};
        tree_sum sum[CHUNK];
        float v[CHUNK];
        c.n = b.end_n - c.i < CHUNK ? (int)(b.end_n - c.i) : (int)CHUNK;
        if (c.row >= b.end_t || c.n <= 0)
            continue;
        for (int l = 0; l < b.leaves; l++) {
#pragma unroll
            for (int j = 0; j < CHUNK; j++) {
                float leaf = ld_shared(from + (l * b.tokens + t) * pitch + r + j);
                v[j] = a.partial ? leaf : sum[j].add(l, leaf);
            }
            if (a.partial)
                store8(a.y, l * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, v);
        }
        if (!a.partial)
            e.store8(c, v);
    }
}

/* ---- host ---- */

inline int mma_takes(const weft_args *args) {
    const weft_matmul_args &a = args->matmul;
    bool tree = a.leaves == 1 || a.leaves == 2 || a.leaves == 4 || a.leaves == 8;
    bool plain = a.y.dtype == WEFT_F32 && !weft_has(&a.bias) && !weft_has(&a.res) && !a.act;
    return tree && a.x.shape[1] % a.leaves == 0 && a.w.shape[1] == a.x.shape[1] &&
           a.x.dtype == a.w.dtype && (a.x.dtype == WEFT_BF16 || a.x.dtype == WEFT_F16) &&
           is_flat(a.x) && is_flat(a.w) && is_flat(a.y) && is_flat(a.bias) && is_flat(a.res) &&
           (!a.partial || plain);
}

/* Whether rows can be fetched 16 bytes at a time, and counted in 32 bits of those: what a plan
 * knows of it, then all of it. */
inline bool mma_strides(const weft_matmul_args *a) {
    int64_t reach = a->x.shape[0] * a->x.stride[0] | a->w.shape[0] * a->w.stride[0];
    return a->x.stride[0] % CHUNK == 0 && a->w.stride[0] % CHUNK == 0 &&
           (a->leaves == 1 || a->x.shape[1] / a->leaves % CHUNK == 0) &&
           (uint64_t)reach < (uint64_t)CHUNK << 31;
}

inline bool mma_wide(const weft_matmul_args *a) {
    return mma_strides(a) && (size_t)a->x.data % 16 == 0 && (size_t)a->w.data % 16 == 0;
}

/* One launch each. The first two take any shape; the last says whether it took this one. */
void matmul_any(const weft_step *step, weft_stream *stream);
void matmul_skinny(const weft_step *step, weft_stream *stream);
bool matmul_tiled(const weft_step *step, weft_stream *stream);

/* The same of its gradients: what both kinds of kernels take, the general kind, the tiles. */
inline bool grad_pair(const weft_tensor &a, const weft_tensor &b) {
    return a.dtype == b.dtype && (a.dtype == WEFT_BF16 || a.dtype == WEFT_F16) && is_flat(a) &&
           is_flat(b);
}

inline bool grad_splits(int n, int64_t length) {
    return (n == 1 || n == 2 || n == 4 || n == 8) && length % n == 0;
}

inline int matmul_dx_takes(const weft_args *args) {
    const weft_matmul_dx_args &a = args->matmul_dx;
    return grad_splits(a.leaves, a.w.shape[0]) && a.w.shape[0] == a.dy.shape[1] &&
           a.w.shape[1] == a.dx.shape[1] && grad_pair(a.dy, a.w) && !weft_has(&a.wscale) &&
           is_flat(a.res) && is_flat(a.dx);
}

inline int matmul_dw_takes(const weft_args *args) {
    const weft_matmul_dw_args &a = args->matmul_dw;
    return grad_splits(a.shards, a.dy.shape[0]) && a.x.shape[0] == a.dy.shape[0] &&
           a.dw.shape[0] == a.dy.shape[1] && a.dw.shape[1] == a.x.shape[1] &&
           grad_pair(a.dy, a.x) && is_flat(a.dw) && a.dw.dtype == WEFT_F32;
}

void matmul_dx_any(const weft_step *step, weft_stream *stream);
void matmul_dw_any(const weft_step *step, weft_stream *stream);
bool matmul_dx_tiled(const weft_step *step, weft_stream *stream);
bool matmul_dw_tiled(const weft_step *step, weft_stream *stream);

/* fp32 and mixed types, any shape. */
void matmul_simt_any(const weft_step *step, weft_stream *stream);

} // namespace WEFT_CU_NS
