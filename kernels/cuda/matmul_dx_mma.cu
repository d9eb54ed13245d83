/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx and matmul_dw in bf16 and fp16 on tensor cores. Both are C[M,N] = sum of A[.,m] B[.,n]
 * over terms: dx has tokens by k over n, dw has n by k over tokens. A chain is one of m16n8k16 over
 * ascending granules of 16 terms, the last padded with zeros: of a leaf, or of a virtual shard.
 *
 * With one shard the chain of dw goes on from what dw holds, a granule at a time: rows given in
 * several calls have the bits of one call if every call but the last holds whole granules, as a
 * trainer does that pads its sequences to 16 rows.
 *
 * matmul_grad_tiled.cu takes operands that lie in whole chunks of 16 bytes; here is what takes any:
 * a block is eight warps with 128 x 64 outputs, a warp 32 x 32. 32 terms at a time go through four
 * stages of shared memory (cp.async, 16-byte places swizzled by the row); ldmatrix turns what lies
 * with the term outermost. Leaves and shards pass one after another, their tree is in registers.
 * Bound by the instructions around each mma. Measured: nowhere yet. */
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

enum { GRAD_M = 128, GRAD_N = 64, GRAD_TERMS = 32, GRAD_STAGES = 4, GRAD_THREADS = 256 };

struct grad_stage {
    /* dx: [GRAD_M][GRAD_TERMS]; dw: [GRAD_TERMS][GRAD_M] */
    uint16_t a[GRAD_M * GRAD_TERMS];
    uint16_t b[GRAD_TERMS * GRAD_N];
};

struct grad_smem {
    grad_stage stage[GRAD_STAGES];
};

/* An operand as rows of memory: `rows` of them exist, `columns` of each. */
struct grad_operand {
    const uint16_t *p;
    int64_t stride, row0, rows, column0, columns;
    bool wide;
};

/* What a block works on. Terms [from, to) are the chain's. */
struct grad_block {
    int64_t m0, n0;
    grad_operand a, b;
};

/* The 16-byte place of chunk c in a row of `chunks` (4, 8 or 16). */
template <int CHUNKS> __device__ __forceinline__ int grad_place(int row, int c) {
    int turn = CHUNKS == 4 ? row >> 1 & 3 : row & 7;
    return row * CHUNKS * CHUNK + (c ^ turn) * CHUNK;
}

/* One chunk of an operand; what lies outside is zero. */
__device__ __forceinline__ void grad_load8(uint16_t *to, const grad_operand &o, int64_t row,
                                           int64_t column, int64_t end_row, int64_t end_column) {
    int64_t left = row < end_row ? end_column - column : 0;
    int n = left <= 0 ? 0 : left < CHUNK ? (int)left : (int)CHUNK;
    const uint16_t *p = o.p + (n ? row * o.stride + column : 0);
    if (o.wide) {
        cp_async16(to, p, 2 * n);
        return;
    }
    uint16_t e[CHUNK];
    uint4 q;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        e[i] = i < n ? ld_const(p + i) : (uint16_t)0;
    memcpy(&q, e, sizeof q);
    st_shared((uint4 *)to, q);
}

/* Terms term0 .. term0 + GRAD_TERMS, those before `end`. */
template <bool DW>
__device__ static void grad_fill(grad_stage &s, const grad_block &b, int64_t term0, int64_t end) {
#pragma unroll
    for (int k = 0; k < GRAD_M * GRAD_TERMS / CHUNK / GRAD_THREADS; k++) {
        int i = k * GRAD_THREADS + threadIdx.x;
        if constexpr (DW) {
            int r = i / (GRAD_M / CHUNK), c = i % (GRAD_M / CHUNK);
            grad_load8(&s.a[grad_place<GRAD_M / CHUNK>(r, c)], b.a, term0 + r, b.m0 + c * CHUNK,
                       end, b.a.columns);
        } else {
            int r = i / (GRAD_TERMS / CHUNK), c = i % (GRAD_TERMS / CHUNK);
            grad_load8(&s.a[grad_place<GRAD_TERMS / CHUNK>(r, c)], b.a, b.m0 + r, term0 + c * CHUNK,
                       b.a.rows, end);
        }
    }
    int r = threadIdx.x / (GRAD_N / CHUNK), c = threadIdx.x % (GRAD_N / CHUNK);
    grad_load8(&s.b[grad_place<GRAD_N / CHUNK>(r, c)], b.b, term0 + r, b.n0 + c * CHUNK, end,
               b.b.columns);
}

/* A granule: the warp's 32 x 32 outputs from (m, n) on. */
template <class T, bool DW>
__device__ __forceinline__ void grad_step(const grad_stage &s, int m, int n, int term,
                                          float (&acc)[2][4][4]) {
    int lane = threadIdx.x % 32;
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if constexpr (DW) { /* matrices (terms, rows): 0 0, 0 8, 8 0, 8 8 */
            int r = term + lane / 16 * 8 + lane % 8, c = (m + 16 * i) / CHUNK + lane / 8 % 2;
            ldmatrix_x4_trans(a[i], &s.a[grad_place<GRAD_M / CHUNK>(r, c)]);
        } else {
            int r = m + 16 * i + lane % 16, c = term / CHUNK + lane / 16;
            ldmatrix_x4(a[i], &s.a[grad_place<GRAD_TERMS / CHUNK>(r, c)]);
        }
        int r = term + lane % 16, c = (n + 16 * i) / CHUNK + lane / 16;
        ldmatrix_x4_trans(b[i], &s.b[grad_place<GRAD_N / CHUNK>(r, c)]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t two[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
            mma16<T>(acc[i][j], a[i], two);
        }
}

/* The chain over terms [from, end), going on from acc. */
template <class T, bool DW>
__device__ static void grad_chain(grad_smem &s, const grad_block &b, int64_t from, int64_t end,
                                  float (&acc)[2][4][4]) {
    int warp = threadIdx.x / 32, m = warp / 2 * 32, n = warp % 2 * 32;
    int steps = end > from ? (int)((end - from + GRAD_TERMS - 1) / GRAD_TERMS) : 0;
    for (int i = 0; i < GRAD_STAGES - 1; i++) {
        if (i < steps)
            grad_fill<DW>(s.stage[i], b, from + (int64_t)i * GRAD_TERMS, end);
        cp_async_commit();
    }
    for (int i = 0; i < steps; i++) {
        cp_async_wait<GRAD_STAGES - 2>();
        __syncthreads();
        int ahead = i + GRAD_STAGES - 1;
        if (ahead < steps)
            grad_fill<DW>(s.stage[ahead % GRAD_STAGES], b, from + (int64_t)ahead * GRAD_TERMS, end);
        cp_async_commit();
#pragma unroll
        for (int k = 0; k < GRAD_TERMS; k += 16)
            if (from + (int64_t)i * GRAD_TERMS + k < end) /* a granule of padding is no step */
                grad_step<T, DW>(s.stage[i % GRAD_STAGES], m, n, k, acc);
    }
    cp_async_wait_all();
    __syncthreads();
}

/* f(row, column, element of acc) of the warp's outputs. */
template <class F>
__device__ __forceinline__ void grad_each(const grad_block &b, float (&acc)[2][4][4], F f) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t m = b.m0 + warp / 2 * 32 + lane / 4, n = b.n0 + warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                f(m + 16 * i + e / 2 * 8, n + 8 * j + e % 2, acc[i][j][e]);
}

__device__ __forceinline__ void grad_clear(float (&acc)[2][4][4]) {
#pragma unroll
    for (int i = 0; i < 32; i++)
        acc[i / 16][i / 4 % 4][i % 4] = 0;
}

__device__ __forceinline__ void grad_add(tree_sum (&tree)[2][4][4], int leaf,
                                         float (&acc)[2][4][4]) {
#pragma unroll
    for (int i = 0; i < 32; i++)
        acc[i / 16][i / 4 % 4][i % 4] = tree[i / 16][i / 4 % 4][i % 4].add(
            leaf, acc[i / 16][i / 4 % 4][i % 4]);
}

__device__ __forceinline__ grad_operand grad_operand_of(const weft_tensor &t, int64_t rows) {
    grad_operand o = {(const uint16_t *)t.data, t.stride[0], 0, rows, 0, t.shape[1], false};
    o.wide = t.stride[0] % CHUNK == 0 && (size_t)t.data % 16 == 0;
    return o;
}

template <class T>
__global__ void __launch_bounds__(GRAD_THREADS)
    matmul_dx_mma_k(const __grid_constant__ weft_matmul_dx_args a) {
    WEFT_SMEM(grad_smem, s);
    int64_t end = lead_rows(a.rows, a.dy.shape[0]), width = a.w.shape[0] / a.leaves;
    grad_block b = {blockIdx.y * (int64_t)GRAD_M, blockIdx.x * (int64_t)GRAD_N,
                    grad_operand_of(a.dy, end), grad_operand_of(a.w, a.w.shape[0])};
    b.a.wide = b.a.wide && (a.leaves == 1 || width % CHUNK == 0);
    if (b.m0 >= end)
        return;
    tree_sum tree[2][4][4] = {};
    float acc[2][4][4];
    for (int leaf = 0; leaf < a.leaves; leaf++) {
        grad_clear(acc);
        grad_chain<T, false>(s, b, leaf * width, (leaf + 1) * width, acc);
        grad_add(tree, leaf, acc);
    }
    grad_each(b, acc, [&](int64_t t, int64_t k, float v) {
        if (t >= end || k >= b.b.columns)
            return;
        v = round_as(a.dx.dtype, v);
        if (weft_has(&a.res))
            v = v + load1(a.res, t * a.res.stride[0] + k);
        store1(a.dx, t * a.dx.stride[0] + k, v);
    });
}

template <class T>
__global__ void __launch_bounds__(GRAD_THREADS)
    matmul_dw_mma_k(const __grid_constant__ weft_matmul_dw_args a) {
    WEFT_SMEM(grad_smem, s);
    int64_t lead = lead_rows(a.rows, a.dy.shape[0]), run = a.dy.shape[0] / a.shards;
    grad_block b = {blockIdx.y * (int64_t)GRAD_M, blockIdx.x * (int64_t)GRAD_N,
                    grad_operand_of(a.dy, lead), grad_operand_of(a.x, lead)};
    float *dw = (float *)a.dw.data;
    tree_sum tree[2][4][4] = {};
    float acc[2][4][4];
    for (int shard = 0; shard < a.shards; shard++) {
        int64_t end = (shard + 1) * run < lead ? (shard + 1) * run : lead;
        grad_clear(acc);
        if (a.shards == 1)
            grad_each(b, acc, [&](int64_t n, int64_t k, float &v) {
                if (n < b.a.columns && k < b.b.columns)
                    v = ld_global(dw + n * a.dw.stride[0] + k);
            });
        grad_chain<T, true>(s, b, shard * run, end, acc);
        grad_add(tree, shard, acc);
    }
    grad_each(b, acc, [&](int64_t n, int64_t k, float v) {
        float *p = dw + n * a.dw.stride[0] + k;
        if (n < b.a.columns && k < b.b.columns)
            st_global(p, a.shards == 1 ? v : ld_global(p) + v);
    });
}

static dim3 grad_grid(int64_t m, int64_t n) {
    return dim3((unsigned)((n + GRAD_N - 1) / GRAD_N), (unsigned)((m + GRAD_M - 1) / GRAD_M));
}

void matmul_dx_any(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dx_args *a = &step->args.matmul_dx;
    dim3 grid = grad_grid(a->dx.shape[0], a->dx.shape[1]);
    if (grid.x && grid.y && a->dy.dtype == WEFT_BF16)
        WEFT_LAUNCH(step, stream, matmul_dx_mma_k<bf16>, grid, GRAD_THREADS, sizeof(grad_smem), *a);
    else if (grid.x && grid.y)
        WEFT_LAUNCH(step, stream, matmul_dx_mma_k<f16>, grid, GRAD_THREADS, sizeof(grad_smem), *a);
}

void matmul_dw_any(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dw_args *a = &step->args.matmul_dw;
    dim3 grid = grad_grid(a->dw.shape[0], a->dw.shape[1]);
    if (grid.x && grid.y && a->dy.dtype == WEFT_BF16)
        WEFT_LAUNCH(step, stream, matmul_dw_mma_k<bf16>, grid, GRAD_THREADS, sizeof(grad_smem), *a);
    else if (grid.x && grid.y)
        WEFT_LAUNCH(step, stream, matmul_dw_mma_k<f16>, grid, GRAD_THREADS, sizeof(grad_smem), *a);
}

static void matmul_dx_run(const weft_step *step, weft_stream *stream) {
    if (!matmul_dx_tiled(step, stream))
        matmul_dx_any(step, stream);
}

static void matmul_dw_run(const weft_step *step, weft_stream *stream) {
    if (!matmul_dw_tiled(step, stream))
        matmul_dw_any(step, stream);
}

WEFT_ROWS(matmul_dx_mma) = {
    WEFT_ROW_AS(matmul_dx, "mma", MMA, 2, matmul_dx_takes, matmul_dx_run),
    WEFT_ROW_AS(matmul_dw, "mma", MMA, 2, matmul_dw_takes, matmul_dw_run),
    WEFT_ROW_AS(matmul_dx, "mma_any", MMA, 0, matmul_dx_takes, matmul_dx_any),
    WEFT_ROW_AS(matmul_dw, "mma_any", MMA, 0, matmul_dw_takes, matmul_dw_any), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_dx_mma) = {
    {"matmul_d?_mma_k<*>", GRAD_THREADS, 1, sizeof(grad_smem), "HMMA.16816 LDSM LDGSTS.128"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
