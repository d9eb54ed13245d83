/* SPDX-License-Identifier: Apache-2.0
 * matmul in fp32, for mixed types and for int8 weights under fp32, on FFMA alone: a leaf of an
 * output is one chain of fmaf over ascending k. A block has 32 x 32 outputs, a thread four of them;
 * 32 of k at a time go through shared memory as fp32. Bound by shared memory. Measured: nowhere
 * yet. */
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

enum { SIMT_PITCH = SIMT_K + 4 }; /* rows of four-word places in other banks */

struct simt_smem {
    __align__(16) float w[SIMT_TILE][SIMT_PITCH], x[SIMT_TILE][SIMT_PITCH];
};

__device__ __forceinline__ float simt_load(const weft_tensor &t, int64_t off) {
    return t.dtype == WEFT_I8 ? (float)ld_const((const int8_t *)t.data + off) : load1(t, off);
}

/* k0 .. k0 + nk of 32 rows from row0 on; what does not exist is zero. */
__device__ static void simt_fill(float (&to)[SIMT_TILE][SIMT_PITCH], const weft_tensor &from,
                                 int64_t row0, int64_t rows, int64_t k0, int nk) {
    for (int i = threadIdx.x; i < SIMT_TILE * SIMT_K; i += SIMT_THREADS) {
        int r = i / SIMT_K, k = i % SIMT_K;
        float v = 0;
        if (row0 + r < rows && k < nk)
            v = simt_load(from, (row0 + r) * from.stride[0] + (k0 + k) * from.stride[1]);
        st_shared(&to[r][k], v);
    }
}

__device__ __forceinline__ float simt_fma(const float4 &x, const float4 &w, int n, float acc) {
    acc = fmaf(x.x, w.x, acc);
    acc = n > 1 ? fmaf(x.y, w.y, acc) : acc;
    acc = n > 2 ? fmaf(x.z, w.z, acc) : acc;
    return n > 3 ? fmaf(x.w, w.w, acc) : acc;
}

/* Outputs of a thread: columns n, n + 16 by tokens t, t + 16. Padding takes no part: it could turn
 * a -0 into +0. */
__device__ __forceinline__ void simt_chain(const simt_smem &s, int n, int t, int nk,
                                           float (&acc)[4]) {
    for (int k = 0; k < nk; k += 4) {
        float4 w0 = ld_shared((const float4 *)&s.w[n][k]);
        float4 w1 = ld_shared((const float4 *)&s.w[n + 16][k]);
        float4 x0 = ld_shared((const float4 *)&s.x[t][k]);
        float4 x1 = ld_shared((const float4 *)&s.x[t + 16][k]);
        acc[0] = simt_fma(x0, w0, nk - k, acc[0]);
        acc[1] = simt_fma(x0, w1, nk - k, acc[1]);
        acc[2] = simt_fma(x1, w0, nk - k, acc[2]);
        acc[3] = simt_fma(x1, w1, nk - k, acc[3]);
    }
}

__device__ static void simt_store(const weft_matmul_args &a, int64_t t, int64_t n, int leaf,
                                  float v) {
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
    if (a.partial)
        store1(a.y, leaf * a.y.stride[0] + t * a.y.stride[1] + n * a.y.stride[2], v);
    else if (leaf == a.leaves - 1)
        e.store1(t, n, v);
}

__global__ void __launch_bounds__(SIMT_THREADS, 4)
    matmul_simt_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(simt_smem, s);
    int64_t n0 = blockIdx.x * (int64_t)SIMT_TILE, t0 = blockIdx.y * (int64_t)SIMT_TILE;
    int64_t rows = lead_rows(a.rows, a.x.shape[0]), cols = a.w.shape[0];
    int64_t width = a.x.shape[1] / a.leaves;
    int n = threadIdx.x % 16, t = threadIdx.x / 16;
    tree_sum sum[4];
    if (t0 >= rows)
        return;
    for (int leaf = 0; leaf < a.leaves; leaf++) {
        float acc[4] = {0, 0, 0, 0};
        for (int64_t k = 0; k < width; k += SIMT_K) {
            int nk = width - k < SIMT_K ? (int)(width - k) : (int)SIMT_K;
            simt_fill(s.w, a.w, n0, cols, leaf * width + k, nk);
            simt_fill(s.x, a.x, t0, rows, leaf * width + k, nk);
            __syncthreads();
            simt_chain(s, n, t, nk, acc);
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t at = t0 + t + i / 2 * 16, an = n0 + n + i % 2 * 16;
            if (at >= rows || an >= cols)
                continue;
            if (weft_has(&a.wscale))
                acc[i] = acc[i] * load1(a.wscale, an * a.wscale.stride[0]);
            float v = a.partial ? acc[i] : sum[i].add(leaf, acc[i]);
            simt_store(a, at, an, leaf, v);
        }
    }
}

static int matmul_ok(const weft_args *args) {
    const weft_matmul_args &a = args->matmul;
    bool tree = a.leaves == 1 || a.leaves == 2 || a.leaves == 4 || a.leaves == 8;
    bool plain = a.y.dtype == WEFT_F32 && !weft_has(&a.bias) && !weft_has(&a.res) && !a.act;
    bool scaled = a.w.dtype == WEFT_I8 && weft_has(&a.wscale) && is_f32(a.wscale);
    return tree && a.x.shape[1] % a.leaves == 0 && a.w.shape[1] == a.x.shape[1] && is_float(a.x) &&
           (is_float(a.w) || scaled) && is_float(a.y) && (!weft_has(&a.bias) || is_float(a.bias)) &&
           (!weft_has(&a.res) || is_float(a.res)) && (!a.partial || plain);
}

void matmul_simt_any(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    dim3 grid((unsigned)((a->w.shape[0] + SIMT_TILE - 1) / SIMT_TILE),
              (unsigned)((a->x.shape[0] + SIMT_TILE - 1) / SIMT_TILE));
    if (a->x.shape[0] && a->w.shape[0])
        WEFT_LAUNCH(step, stream, matmul_simt_k, grid, SIMT_THREADS, sizeof(simt_smem), *a);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    matmul_simt_any(step, stream);
}

WEFT_ROWS(matmul_simt) = {WEFT_ROW(matmul, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_simt) = {{"matmul_simt_k", SIMT_THREADS, 4, sizeof(simt_smem), "FFMA LDS.128"},
                            WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
