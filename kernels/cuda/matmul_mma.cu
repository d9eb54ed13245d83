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
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

struct mma_stage {
    uint16_t w[MMA_ROWS][MMA_K], x[MMA_ROWS][MMA_K];
};

struct mma_smem {
    union {
        mma_stage stage[MMA_STAGES];
        float sum[64 * (MMA_ROWS + MMA_PAD)]; /* [leaf][token][row of w] */
    };
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

template <class T, int TILES, bool WIDE>
__global__ void __launch_bounds__(MMA_WARPS * 32)
    matmul_mma_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(mma_smem, s);
    int rows = MMA_ROWS / a.leaves, tokens = TILES * 8;
    mma_block b = mma_block_at(a, rows, tokens, blockIdx.x * (int64_t)rows,
                               blockIdx.y * (int64_t)tokens);
    float acc[TILES][4];
    if (b.t0 >= b.end_t)
        return;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[j][i] = 0;
    mma_chain<T, TILES, WIDE>(s, a, b, acc);
    mma_park<TILES>(s.sum, b, acc);
    __syncthreads();
    mma_finish(s.sum, a, b);
}

template <class T, int TILES>
static void matmul_launch(const weft_step *step, weft_stream *stream, dim3 grid) {
    const weft_matmul_args *a = &step->args.matmul;
    if (mma_wide(a))
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

void matmul_any(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (!a->x.shape[0] || !a->w.shape[0])
        return;
    if (a->x.dtype == WEFT_BF16)
        matmul_typed<bf16>(step, stream);
    else
        matmul_typed<f16>(step, stream);
}

static int matmul_ok(const weft_args *args) {
    return mma_takes(args);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    matmul_any(step, stream);
}

WEFT_ROWS(matmul_mma) = {WEFT_ROW(matmul, "mma_any", MMA, -1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_mma) = {
    {"matmul_mma_k<*,true>", MMA_WARPS * 32, 2, sizeof(mma_smem), "HMMA.16816 LDSM LDGSTS.128"},
    {"matmul_mma_k<*,false>", MMA_WARPS * 32, 3, sizeof(mma_smem), "HMMA.16816 LDSM"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
