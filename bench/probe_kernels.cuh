/* SPDX-License-Identifier: Apache-2.0
 * What the probe runs: single matrix instructions on operands given as fp32 numbers that the
 * instruction's type holds exactly. */
#pragma once
#include "bench/probe_model.h"
#include "bench/wgmma.cuh"

namespace probe {

using namespace WEFT_CU_NS;

template <int TYPE> __device__ uint32_t pack(const float *p) {
    return TYPE == PROBE_BF16  ? cvt_bf16x2_f32(p[0], p[1])
           : TYPE == PROBE_F16 ? cvt_f16x2_f32(p[0], p[1])
                               : __float_as_uint(p[0]);
}

/* 16 rows of A, from column k0 of rows `ld` long, as mma.sync wants them. */
template <int TYPE> __device__ void load_a(uint32_t (&r)[4], const float *a, int ld, int k0) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int step = TYPE == PROBE_TF32 ? 1 : 2, half = TYPE == PROBE_TF32 ? 4 : 8;
    for (int i = 0; i < 4; i++)
        r[i] = pack<TYPE>(a + (int64_t)(g + i % 2 * 8) * ld + k0 + t * step + i / 2 * half);
}

template <int TYPE> __device__ void load_b(uint32_t (&r)[2], const float *b, int ld, int k0) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int step = TYPE == PROBE_TF32 ? 1 : 2, half = TYPE == PROBE_TF32 ? 4 : 8;
    for (int i = 0; i < 2; i++)
        r[i] = pack<TYPE>(b + (int64_t)g * ld + k0 + t * step + i * half);
}

template <int TYPE>
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const float c[4] = {d[0], d[1], d[2], d[3]};
    if (TYPE == PROBE_BF16)
        mma_m16n8k16_bf16(d, a, b, c);
    else if (TYPE == PROBE_F16)
        mma_m16n8k16_f16(d, a, b, c);
    else
        mma_m16n8k8_tf32(d, a, b, c);
}

/* Where accumulator i of this lane is: row of 16, column of 8. */
__device__ inline int place(int i, int columns) {
    const int lane = threadIdx.x % 32;
    return (lane / 4 + i / 2 * 8) * columns + lane % 4 * 2 + i % 2;
}

/* One instruction a block. a[16][K], b[8][K], c and d[16][8] of each trial. */
template <int TYPE>
__global__ void mma_trials(const float *a, const float *b, const float *c, float *d) {
    const int K = TYPE == PROBE_TF32 ? 8 : 16;
    const int64_t trial = blockIdx.x;
    uint32_t ra[4], rb[2];
    float acc[4];
    load_a<TYPE>(ra, a + trial * 16 * K, K, 0);
    load_b<TYPE>(rb, b + trial * 8 * K, K, 0);
    for (int i = 0; i < 4; i++)
        acc[i] = c[trial * 128 + place(i, 8)];
    multiply<TYPE>(acc, ra, rb);
    for (int i = 0; i < 4; i++)
        d[trial * 128 + place(i, 8)] = acc[i];
}

/* a[16][32], b[8][32] as bytes, c and d s32[16][8]. */
__global__ void s8_trials(const int8_t *a, const int8_t *b, const int32_t *c, int32_t *d) {
    const int64_t trial = blockIdx.x;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t ra[4], rb[2];
    int32_t acc[4], in[4];
    for (int i = 0; i < 4; i++)
        memcpy(&ra[i], a + trial * 512 + (g + i % 2 * 8) * 32 + t * 4 + i / 2 * 16, 4);
    for (int i = 0; i < 2; i++)
        memcpy(&rb[i], b + trial * 256 + g * 32 + t * 4 + i * 16, 4);
    for (int i = 0; i < 4; i++)
        in[i] = c[trial * 128 + place(i, 8)];
    mma_m16n8k32_s8(acc, ra, rb, in);
    for (int i = 0; i < 4; i++)
        d[trial * 128 + place(i, 8)] = acc[i];
}

/* ---- wgmma ---- */

enum { STEPS = 4, VARIANTS = 5 };
static const char *const variant_name[VARIANTS] = {"mma.sync", "SS", "RS", "SS scale-D=0",
                                                   "SS on zeros"};

/* The chain over STEPS k-steps that mma.sync makes of rows [16 warp, 16 warp + 16). */
template <int N, int TYPE>
__device__ void chain_mma(const float *a, const float *b, const float *c, float *d) {
    const int warp = threadIdx.x / 32, K = 16 * STEPS;
    for (int n = 0; n < N; n += 8) {
        float acc[4];
        for (int i = 0; i < 4; i++)
            acc[i] = c[warp * 16 * N + n + place(i, N)];
        for (int s = 0; s < STEPS; s++) {
            uint32_t ra[4], rb[2];
            load_a<TYPE>(ra, a + warp * 16 * K, K, s * 16);
            load_b<TYPE>(rb, b + n * K, K, s * 16);
            multiply<TYPE>(acc, ra, rb);
        }
        for (int i = 0; i < 4; i++)
            d[warp * 16 * N + n + place(i, N)] = acc[i];
    }
}

/* Rows of one k-step as core matrices: [row / 8][k / 8][row % 8][k % 8]. */
template <int TYPE> __device__ void fill_tile(uint32_t *tile, const float *x, int rows) {
    for (int i = threadIdx.x; i < rows * 8; i += blockDim.x) {
        const int pair = i % 4, row = i / 4 % 8, k = i / 32 % 2, block = i / 64;
        tile[i] = pack<TYPE>(x + (block * 8 + row) * 16 * STEPS + k * 8 + pair * 2);
    }
}

template <int N, int TYPE> struct wgmma_smem { uint32_t a[STEPS][64 * 8], b[STEPS][N * 8]; };

template <int N, int TYPE>
__device__ void chain_wgmma(const wgmma_smem<N, TYPE> &m, int variant, const float *a,
                            const float *c, float *d) {
    const int warp = threadIdx.x / 32;
    float acc[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        acc[i] = variant >= 4 ? 0.0f : c[warp * 16 * N + i / 4 * 8 + place(i % 4, N)];
#pragma unroll 1
    for (int s = 0; s < STEPS; s++) {
        uint32_t r[4];
        const uint64_t da = wgmma_descriptor(m.a[s], 128, 256);
        const uint64_t db = wgmma_descriptor(m.b[s], 128, 256);
        load_a<TYPE>(r, a + warp * 16 * 16 * STEPS, 16 * STEPS, s * 16);
        wgmma_fence();
        if (variant == 2)
            wgmma<N, TYPE == PROBE_F16>::rs(acc, r, db, 1);
        else
            wgmma<N, TYPE == PROBE_F16>::ss(acc, da, db, variant != 3 || s > 0);
        wgmma_commit();
        wgmma_wait();
    }
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        d[warp * 16 * N + i / 4 * 8 + place(i % 4, N)] = acc[i];
}

/* a[64][16 STEPS], b[N][16 STEPS], c[64][N]; d[VARIANTS][64][N] of each trial. */
template <int N, int TYPE>
__global__ void __launch_bounds__(128)
    wgmma_trials(const float *a, const float *b, const float *c, float *d) {
    typedef wgmma_smem<N, TYPE> shared_type;
    WEFT_SMEM(shared_type, m);
    const int64_t trial = blockIdx.x;
    a += trial * 64 * 16 * STEPS;
    b += trial * N * 16 * STEPS;
    c += trial * 64 * N;
    d += trial * VARIANTS * 64 * N;
    chain_mma<N, TYPE>(a, b, c, d);
    for (int s = 0; s < STEPS; s++) {
        fill_tile<TYPE>(m.a[s], a + s * 16, 64);
        fill_tile<TYPE>(m.b[s], b + s * 16, N);
    }
    fence_proxy_async();
    __syncthreads();
#pragma unroll 1
    for (int v = 1; v < VARIANTS; v++)
        chain_wgmma<N, TYPE>(m, v, a, c, d + (int64_t)v * 64 * N);
}

} // namespace probe
