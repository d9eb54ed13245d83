/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx and matmul_dw in fp32, for mixed types and for int8 weights, on FFMA alone. Both are
 * sums of outer products: dx over n, a chain a leaf; dw over tokens, a chain a virtual shard, which
 * goes on from what dw holds where there is one. A block has 64 x 64 outputs, a thread 4 x 4; 16
 * terms at a time go through shared memory as fp32, both operands with the term outermost. Bound by
 * shared memory at half of the FFMA peak. Measured: nowhere yet. */
#include "kernels/lib/epilogue.cuh"

namespace WEFT_CU_NS {

enum { OUTER_TILE = 64, OUTER_TERMS = 16, OUTER_THREADS = 256, OUTER_PITCH = OUTER_TILE + 4 };

struct outer_smem {
    __align__(16) float a[OUTER_TERMS][OUTER_PITCH], b[OUTER_TERMS][OUTER_PITCH];
};

/* A [terms, columns] view of an operand; scaled: int8 with a factor for each of its rows. */
struct outer_operand {
    const weft_tensor *t;
    int64_t first, columns; /* of the tile, of the tensor */
};

/* n columns at c of row `row`; past the end they are 0. */
__device__ __forceinline__ void outer_load8(const weft_tensor &t, int64_t row, int64_t c,
                                            int64_t columns, float (&v)[CHUNK]) {
    int64_t left = columns - c;
    int n = left <= 0 ? 0 : left < CHUNK ? (int)left : (int)CHUNK;
    if (t.dtype != WEFT_I8) {
        load8(t, row * t.stride[0] + (n ? c : 0), n, v);
        return;
    }
    const int8_t *p = (const int8_t *)t.data + row * t.stride[0] + c;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = i < n ? (float)ld_const(p + i) : 0.0f;
}

/* Rows term0 .. term0 + n of an operand whose rows are the terms. */
__device__ static void outer_fill(float (&to)[OUTER_TERMS][OUTER_PITCH], const outer_operand &o,
                                  int64_t term0, int n, int thread) {
    int r = thread / (OUTER_TILE / CHUNK), c = thread % (OUTER_TILE / CHUNK) * CHUNK;
    float v[CHUNK];
    if (r >= n)
        return;
    outer_load8(*o.t, term0 + r, o.first + c, o.columns, v);
    st_shared((float4 *)&to[r][c], make_float4(v[0], v[1], v[2], v[3]));
    st_shared((float4 *)&to[r][c + 4], make_float4(v[4], v[5], v[6], v[7]));
}

/* The same of dy, whose columns are the terms: tokens t0 on, terms term0 on. */
__device__ static void outer_turn(float (&to)[OUTER_TERMS][OUTER_PITCH],
                                  const weft_matmul_dx_args &a, int64_t t0, int64_t end,
                                  int64_t term0, int n, int thread) {
    int r = thread / (OUTER_TERMS / CHUNK), c = thread % (OUTER_TERMS / CHUNK) * CHUNK;
    float v[CHUNK] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (t0 + r < end && c < n)
        load8(a.dy, (t0 + r) * a.dy.stride[0] + term0 + c, n - c < CHUNK ? n - c : (int)CHUNK, v);
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        if (weft_has(&a.wscale) && c + i < n)
            v[i] = round_as(a.dy.dtype,
                            v[i] * load1(a.wscale, (term0 + c + i) * a.wscale.stride[0]));
        st_shared(&to[c + i][r], v[i]);
    }
}

/* Terms that do not exist take no part: they could turn a -0 into +0. */
__device__ __forceinline__ void outer_chain(const outer_smem &s, int row, int column, int n,
                                            float (&acc)[4][4]) {
#pragma unroll 4
    for (int k = 0; k < n; k++) {
        float4 p = ld_shared((const float4 *)&s.a[k][row]);
        float4 q = ld_shared((const float4 *)&s.b[k][column]);
        float x[4] = {p.x, p.y, p.z, p.w}, y[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                acc[i][j] = fmaf(x[i], y[j], acc[i][j]);
    }
}

__device__ __forceinline__ void outer_clear(float (&acc)[4][4]) {
#pragma unroll
    for (int i = 0; i < 16; i++)
        acc[i / 4][i % 4] = 0;
}

/* ---- dx: rows are tokens, columns are k ---- */

__device__ static void outer_store(const weft_matmul_dx_args &a, int64_t t, int64_t k, float v) {
    v = round_as(a.dx.dtype, v);
    if (weft_has(&a.res))
        v = v + load1(a.res, t * a.res.stride[0] + k);
    store1(a.dx, t * a.dx.stride[0] + k, v);
}

__global__ void __launch_bounds__(OUTER_THREADS)
    matmul_dx_simt_k(const __grid_constant__ weft_matmul_dx_args a) {
    WEFT_SMEM(outer_smem, s);
    int64_t k0 = blockIdx.x * (int64_t)OUTER_TILE, t0 = blockIdx.y * (int64_t)OUTER_TILE;
    int64_t end = lead_rows(a.rows, a.dy.shape[0]), width = a.w.shape[0] / a.leaves;
    int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    outer_operand w = {&a.w, k0, a.w.shape[1]};
    tree_sum tree[4][4] = {};
    if (t0 >= end)
        return;
    for (int leaf = 0; leaf < a.leaves; leaf++) {
        float acc[4][4];
        outer_clear(acc);
        for (int64_t n = 0; n < width; n += OUTER_TERMS) {
            int terms = width - n < OUTER_TERMS ? (int)(width - n) : (int)OUTER_TERMS;
            __syncthreads();
            if (threadIdx.x < OUTER_THREADS / 2)
                outer_turn(s.a, a, t0, end, leaf * width + n, terms, threadIdx.x);
            else
                outer_fill(s.b, w, leaf * width + n, terms, threadIdx.x - OUTER_THREADS / 2);
            __syncthreads();
            outer_chain(s, row, column, terms, acc);
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int64_t t = t0 + row + i / 4, k = k0 + column + i % 4;
            float v = tree[i / 4][i % 4].add(leaf, acc[i / 4][i % 4]);
            if (leaf == a.leaves - 1 && t < end && k < w.columns)
                outer_store(a, t, k, v);
        }
    }
}

static bool outer_splits(int n, int64_t length) {
    return (n == 1 || n == 2 || n == 4 || n == 8) && length % n == 0;
}

static int matmul_dx_ok(const weft_args *args) {
    const weft_matmul_dx_args &a = args->matmul_dx;
    bool scaled = a.w.dtype == WEFT_I8 && weft_has(&a.wscale) && a.wscale.dtype == WEFT_F32;
    bool row = a.w.stride[1] == 1 || a.w.shape[1] == 1;
    return outer_splits(a.leaves, a.w.shape[0]) && a.w.shape[0] == a.dy.shape[1] &&
           a.w.shape[1] == a.dx.shape[1] && is_flat(a.dy) && row &&
           (scaled || (is_float(a.w) && !weft_has(&a.wscale))) && is_flat(a.res) && is_flat(a.dx);
}

static void matmul_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dx_args *a = &step->args.matmul_dx;
    dim3 grid((unsigned)((a->dx.shape[1] + OUTER_TILE - 1) / OUTER_TILE),
              (unsigned)((a->dx.shape[0] + OUTER_TILE - 1) / OUTER_TILE));
    if (grid.x && grid.y)
        WEFT_LAUNCH(step, stream, matmul_dx_simt_k, grid, OUTER_THREADS, sizeof(outer_smem), *a);
}

/* ---- dw: rows are n, columns are k ---- */

__global__ void __launch_bounds__(OUTER_THREADS)
    matmul_dw_simt_k(const __grid_constant__ weft_matmul_dw_args a) {
    WEFT_SMEM(outer_smem, s);
    int64_t k0 = blockIdx.x * (int64_t)OUTER_TILE, n0 = blockIdx.y * (int64_t)OUTER_TILE;
    int64_t lead = lead_rows(a.rows, a.dy.shape[0]), run = a.dy.shape[0] / a.shards;
    int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    outer_operand dy = {&a.dy, n0, a.dw.shape[0]}, x = {&a.x, k0, a.dw.shape[1]};
    tree_sum tree[4][4] = {};
    float acc[4][4];
    for (int shard = 0; shard < a.shards; shard++) {
        int64_t end = (shard + 1) * run < lead ? (shard + 1) * run : lead;
        outer_clear(acc);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int64_t n = n0 + row + i / 4, k = k0 + column + i % 4;
            if (a.shards == 1 && n < dy.columns && k < x.columns)
                acc[i / 4][i % 4] = ld_global((const float *)a.dw.data + n * a.dw.stride[0] + k);
        }
        for (int64_t t = shard * run; t < end; t += OUTER_TERMS) {
            int terms = end - t < OUTER_TERMS ? (int)(end - t) : (int)OUTER_TERMS;
            __syncthreads();
            if (threadIdx.x < OUTER_THREADS / 2)
                outer_fill(s.a, dy, t, terms, threadIdx.x);
            else
                outer_fill(s.b, x, t, terms, threadIdx.x - OUTER_THREADS / 2);
            __syncthreads();
            outer_chain(s, row, column, terms, acc);
        }
#pragma unroll
        for (int i = 0; i < 16; i++)
            acc[i / 4][i % 4] = tree[i / 4][i % 4].add(shard, acc[i / 4][i % 4]);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int64_t n = n0 + row + i / 4, k = k0 + column + i % 4;
        float *p = (float *)a.dw.data + n * a.dw.stride[0] + k;
        if (n < dy.columns && k < x.columns)
            st_global(p, a.shards == 1 ? acc[i / 4][i % 4] : ld_global(p) + acc[i / 4][i % 4]);
    }
}

static int matmul_dw_ok(const weft_args *args) {
    const weft_matmul_dw_args &a = args->matmul_dw;
    return outer_splits(a.shards, a.dy.shape[0]) && a.x.shape[0] == a.dy.shape[0] &&
           a.dw.shape[0] == a.dy.shape[1] && a.dw.shape[1] == a.x.shape[1] && is_flat(a.dy) &&
           is_flat(a.x) && is_flat(a.dw) && a.dw.dtype == WEFT_F32;
}

static void matmul_dw_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dw_args *a = &step->args.matmul_dw;
    dim3 grid((unsigned)((a->dw.shape[1] + OUTER_TILE - 1) / OUTER_TILE),
              (unsigned)((a->dw.shape[0] + OUTER_TILE - 1) / OUTER_TILE));
    if (grid.x && grid.y)
        WEFT_LAUNCH(step, stream, matmul_dw_simt_k, grid, OUTER_THREADS, sizeof(outer_smem), *a);
}

WEFT_ROWS(matmul_dx_simt) = {WEFT_ROW(matmul_dx, "simt", SIMT, 1, NULL),
                             WEFT_ROW(matmul_dw, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_dx_simt) = {
    {"matmul_d?_simt_k", OUTER_THREADS, 2, sizeof(outer_smem), "FFMA LDS.128 STS.128"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
