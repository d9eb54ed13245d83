/* SPDX-License-Identifier: Apache-2.0
 * matmul in bf16 and fp16 on tensor cores: y[T,N] = x[T,K] w[N,K]' with bias, activation, residual,
 * or as planes of leaves. The weight is the instruction's M operand in every phase, so one token is
 * the same m16n8k16 padded to eight: a leaf of an output is one chain of mma over ascending k.
 *
 * A block is eight warps; a warp has 16 rows of w, one leaf and all the block's tokens. w and x go
 * through four stages of 32 k in shared memory (cp.async, 16-byte places swizzled by the row, so
 * that ldmatrix meets no bank twice); then the leaves meet in shared memory, where the tree sums
 * them and the epilogue turns the tile around. Grid: strips of 128 / leaves rows of w, tiles of 8
 * to 64 tokens. Bound by memory up to some 100 tokens. Measured: nowhere yet. */
#include "kernels/lib/epilogue.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

enum { MMA_PAD = 4 }; /* floats behind a row of partial sums: the rows of a warp in other banks */

struct mma_stage {
    uint16_t w[MMA_ROWS][MMA_K], x[MMA_ROWS][MMA_K];
};

struct mma_smem {
    union {
        mma_stage stage[MMA_STAGES];
        float sum[64 * (MMA_ROWS + MMA_PAD)]; /* [leaf][token][row of w] */
    };
};

/* What a block works on. */
struct mma_block {
    int leaves, rows, tokens; /* rows of w, tokens: of the block; rows * leaves is MMA_ROWS */
    int64_t n0, t0, end_n, end_t, width; /* width: of a leaf */
};

/* Place of 16-byte chunk c of a row. */
__device__ __forceinline__ int mma_place(int row, int c) {
    return (c ^ (row >> 1 & 3)) * CHUNK;
}

/* Eight elements at k of leaf `leaf` of a row; what lies outside is zero. */
template <bool WIDE>
__device__ __forceinline__ void mma_load8(uint16_t *to, const weft_tensor &from, bool exists,
                                          int64_t row, int64_t k, int64_t width, int leaf) {
    int64_t left = width - k;
    int n = !exists || left <= 0 ? 0 : left < CHUNK ? (int)left : (int)CHUNK;
    const uint16_t *p = (const uint16_t *)from.data;
    p += n ? row * from.stride[0] + leaf * width + k : 0;
    if constexpr (WIDE) {
        cp_async16(to, p, 2 * n);
    } else {
        uint16_t e[CHUNK];
        uint4 q;
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            e[i] = i < n ? ld_const(p + i) : (uint16_t)0;
        memcpy(&q, e, sizeof q);
        st_shared((uint4 *)to, q);
    }
}

template <bool WIDE>
__device__ static void mma_fill(mma_stage &s, const weft_matmul_args &a, const mma_block &b,
                                int64_t k0) {
    const int chunks = MMA_K / CHUNK;
    for (int i = threadIdx.x; i < MMA_ROWS * chunks; i += MMA_WARPS * 32) {
        int r = i / chunks, c = i % chunks, leaf = r / b.rows;
        int64_t n = b.n0 + r % b.rows;
        mma_load8<WIDE>(&s.w[r][mma_place(r, c)], a.w, n < b.end_n, n, k0 + c * CHUNK, b.width,
                        leaf);
    }
    for (int i = threadIdx.x; i < b.leaves * b.tokens * chunks; i += MMA_WARPS * 32) {
        int r = i / chunks, c = i % chunks, leaf = r / b.tokens;
        int64_t t = b.t0 + r % b.tokens;
        mma_load8<WIDE>(&s.x[r][mma_place(r, c)], a.x, t < b.end_t, t, k0 + c * CHUNK, b.width,
                        leaf);
    }
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

/* 16 of k: the warp's rows from w0 on, its leaf's tokens from x0 on. */
template <class T, int TILES>
__device__ __forceinline__ void mma_step(const mma_stage &s, int w0, int x0, int c,
                                         float (&acc)[TILES][4]) {
    int lane = threadIdx.x % 32, row = w0 + lane % 16;
    uint32_t a[4], b[2];
    ldmatrix_x4(a, &s.w[row][mma_place(row, c + lane / 16)]);
    if constexpr (TILES == 1) {
        int r = x0 + lane % 8;
        ldmatrix_x2(b, &s.x[r][mma_place(r, c + lane / 8 % 2)]);
        mma16<T>(acc[0], a, b);
    } else {
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            int r = x0 + 8 * j + lane / 16 * 8 + lane % 8;
            uint32_t two[4];
            ldmatrix_x4(two, &s.x[r][mma_place(r, c + lane / 8 % 2)]);
            b[0] = two[0], b[1] = two[1];
            mma16<T>(acc[j], a, b);
            b[0] = two[2], b[1] = two[3];
            mma16<T>(acc[j + 1], a, b);
        }
    }
}

/* The warp's chain over its leaf. */
template <class T, int TILES, bool WIDE>
__device__ static void mma_chain(mma_smem &s, const weft_matmul_args &a, const mma_block &b,
                                 float (&acc)[TILES][4]) {
    int warp = threadIdx.x / 32, leaf = warp % b.leaves, group = warp / b.leaves;
    int steps = (int)((b.width + MMA_K - 1) / MMA_K);
    for (int i = 0; i < MMA_STAGES - 1; i++) {
        if (i < steps)
            mma_fill<WIDE>(s.stage[i], a, b, (int64_t)i * MMA_K);
        cp_async_commit();
    }
    for (int i = 0; i < steps; i++) {
        cp_async_wait<MMA_STAGES - 2>();
        __syncthreads();
        int ahead = i + MMA_STAGES - 1;
        if (ahead < steps)
            mma_fill<WIDE>(s.stage[ahead % MMA_STAGES], a, b, (int64_t)ahead * MMA_K);
        cp_async_commit();
        const mma_stage &now = s.stage[i % MMA_STAGES];
#pragma unroll
        for (int k = 0; k < MMA_K; k += 16)
            if ((int64_t)i * MMA_K + k < b.width) /* a granule of padding alone is no step */
                mma_step<T, TILES>(now, leaf * b.rows + group * 16, leaf * b.tokens, k / CHUNK,
                                   acc);
    }
    cp_async_wait_all();
    __syncthreads();
}

/* Accumulators (rows g, g + 8; tokens 2p, 2p + 1) to [leaf][token][row]. */
template <int TILES>
__device__ static void mma_park(mma_smem &s, const mma_block &b, const float (&acc)[TILES][4]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = b.rows + MMA_PAD;
    int leaf = warp % b.leaves, row = warp / b.leaves * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int t = leaf * b.tokens + 8 * j + lane % 4 * 2 + i % 2;
            st_shared(&s.sum[t * pitch + row + i / 2 * 8], acc[j][i]);
        }
    __syncthreads();
}

__device__ static void mma_finish(const mma_smem &s, const weft_matmul_args &a,
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
            const float *from = &s.sum[(l * b.tokens + t) * pitch + r];
#pragma unroll
            for (int j = 0; j < CHUNK; j++) {
                float leaf = ld_shared(from + j);
                v[j] = a.partial ? leaf : sum[j].add(l, leaf);
            }
            if (a.partial)
                store8(a.y, l * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, v);
        }
        if (!a.partial)
            e.store8(c, v);
    }
}

template <class T, int TILES, bool WIDE>
__global__ void __launch_bounds__(MMA_WARPS * 32)
    matmul_mma_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(mma_smem, s);
    mma_block b;
    float acc[TILES][4];
    b.leaves = a.leaves;
    b.rows = MMA_ROWS / a.leaves;
    b.tokens = TILES * 8;
    b.n0 = blockIdx.x * (int64_t)b.rows;
    b.t0 = blockIdx.y * (int64_t)b.tokens;
    b.end_n = a.w.shape[0];
    b.end_t = lead_rows(a.rows, a.x.shape[0]);
    b.width = a.x.shape[1] / a.leaves;
    if (b.t0 >= b.end_t)
        return;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[j][i] = 0;
    mma_chain<T, TILES, WIDE>(s, a, b, acc);
    mma_park<TILES>(s, b, acc);
    mma_finish(s, a, b);
}

static int matmul_ok(const weft_args *args) {
    const weft_matmul_args &a = args->matmul;
    bool tree = a.leaves == 1 || a.leaves == 2 || a.leaves == 4 || a.leaves == 8;
    bool plain = a.y.dtype == WEFT_F32 && !weft_has(&a.bias) && !weft_has(&a.res) && !a.act;
    return tree && a.x.shape[1] % a.leaves == 0 && a.w.shape[1] == a.x.shape[1] &&
           a.x.dtype == a.w.dtype && (a.x.dtype == WEFT_BF16 || a.x.dtype == WEFT_F16) &&
           is_flat(a.x) && is_flat(a.w) && is_flat(a.y) && is_flat(a.bias) && is_flat(a.res) &&
           (!a.partial || plain);
}

/* Whether rows can be fetched 16 bytes at a time. */
static bool matmul_wide(const weft_matmul_args *a) {
    return (size_t)a->x.data % 16 == 0 && (size_t)a->w.data % 16 == 0 &&
           a->x.stride[0] % CHUNK == 0 && a->w.stride[0] % CHUNK == 0 &&
           (a->leaves == 1 || a->x.shape[1] / a->leaves % CHUNK == 0);
}

template <class T, int TILES>
static void matmul_launch(const weft_step *step, weft_stream *stream, dim3 grid) {
    const weft_matmul_args *a = &step->args.matmul;
    if (matmul_wide(a))
        WEFT_LAUNCH(step, stream, (matmul_mma_k<T, TILES, true>), grid, MMA_WARPS * 32,
                    sizeof(mma_smem), *a);
    else
        WEFT_LAUNCH(step, stream, (matmul_mma_k<T, TILES, false>), grid, MMA_WARPS * 32,
                    sizeof(mma_smem), *a);
}

template <class T> static void matmul_typed(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int tiles = mma_tiles(a->x.shape[0], a->leaves), rows = MMA_ROWS / a->leaves;
    dim3 grid((unsigned)((a->w.shape[0] + rows - 1) / rows),
              (unsigned)((a->x.shape[0] + tiles * 8 - 1) / (tiles * 8)));
    if (tiles == 1)
        matmul_launch<T, 1>(step, stream, grid);
    else if (tiles == 2)
        matmul_launch<T, 2>(step, stream, grid);
    else if (tiles == 4)
        matmul_launch<T, 4>(step, stream, grid);
    else
        matmul_launch<T, 8>(step, stream, grid);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (!a->x.shape[0] || !a->w.shape[0])
        return;
    if (a->x.dtype == WEFT_BF16)
        matmul_typed<bf16>(step, stream);
    else
        matmul_typed<f16>(step, stream);
}

WEFT_ROWS(matmul_mma) = {WEFT_ROW(matmul, "mma", MMA, 2, NULL), WEFT_ROWS_END};

} // namespace WEFT_CU_NS
