/* SPDX-License-Identifier: Apache-2.0
 * Loops that do one thing alone: read memory (16-byte words, four on their way a thread), multiply
 * by mma.sync (eight independent accumulators a warp), or by fp32 fma (sixteen a thread). What they
 * reach is the ceiling that host/run/ceiling_gpu.c measures. */
#include <mem.cuh>
#include <ptx.cuh>

namespace WEFT_CU_NS {

enum { CEILING_THREADS = 512, CEILING_FLIGHT = 4, CEILING_MMA = 8, CEILING_FMA = 16 };

/* Stands for a use of `bits` that never comes. */
__device__ __forceinline__ void ceiling_keep(uint32_t bits, uint32_t *never) {
    if (bits == 0x9e3779b9u)
        st_global(never, bits);
}

__global__ void __launch_bounds__(CEILING_THREADS)
    ceiling_read_k(const uint4 *p, int64_t words, int64_t rounds, uint32_t *never) {
    int64_t step = (int64_t)gridDim.x * CEILING_THREADS;
    uint32_t bits = 0;
    for (int64_t r = 0; r < rounds; r++)
        for (int64_t i = blockIdx.x * (int64_t)CEILING_THREADS + threadIdx.x; i < words;
             i += CEILING_FLIGHT * step) {
            uint4 v[CEILING_FLIGHT];
#pragma unroll
            for (int k = 0; k < CEILING_FLIGHT; k++)
                v[k] = i + k * step < words ? ld_const(p + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int k = 0; k < CEILING_FLIGHT; k++)
                bits ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
        }
    ceiling_keep(bits, never);
}

/* Numbers near one: zeros would cost less power, and run at a higher clock. */
__device__ __forceinline__ uint32_t ceiling_pair(uint32_t seed) {
    return ((threadIdx.x + seed) * 7919u & 0x007f007fu) | 0x3f80bf80u;
}

__global__ void __launch_bounds__(CEILING_THREADS) ceiling_mma_k(int64_t rounds, uint32_t *never) {
    uint32_t a[4], b[2];
    float acc[CEILING_MMA][4] = {}, sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = ceiling_pair(i);
#pragma unroll
    for (int i = 0; i < 2; i++)
        b[i] = ceiling_pair(i + 4);
#pragma unroll 1
    for (int64_t r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CEILING_MMA; i++)
            mma_m16n8k16_bf16(acc[i], a, b, acc[i]);
#pragma unroll
    for (int i = 0; i < CEILING_MMA; i++)
        sum += acc[i][0] + acc[i][1] + acc[i][2] + acc[i][3];
    ceiling_keep(weft_f32_bits(sum), never);
}

__global__ void __launch_bounds__(CEILING_THREADS) ceiling_fma_k(int64_t rounds, uint32_t *never) {
    float x = weft_bits_f32(0x3f800000u | threadIdx.x), acc[CEILING_FMA], sum = 0;
#pragma unroll
    for (int i = 0; i < CEILING_FMA; i++)
        acc[i] = (float)i;
#pragma unroll 1
    for (int64_t r = 0; r < rounds; r++)
#pragma unroll
        for (int i = 0; i < CEILING_FMA; i++)
            acc[i] = fmaf(acc[i], x, x);
#pragma unroll
    for (int i = 0; i < CEILING_FMA; i++)
        sum += acc[i];
    ceiling_keep(weft_f32_bits(sum), never);
}

/* ---- host ---- */

static uint32_t *ceiling_never(const weft_step *step) {
    return (uint32_t *)step->args.cast.y.data;
}

static double ceiling_read(const weft_step *step, weft_stream *s, int64_t rounds) {
    int blocks = 4 * launch_crowd();
    int64_t n = step->args.cast.x.shape[0] / 4;
    WEFT_LAUNCH(step, s, ceiling_read_k, blocks, CEILING_THREADS, 0,
                (const uint4 *)step->args.cast.x.data, n, rounds, ceiling_never(step));
    return 16.0 * (double)n * (double)rounds;
}

static double ceiling_mma(const weft_step *step, weft_stream *s, int64_t rounds) {
    int blocks = 2 * launch_crowd();
    WEFT_LAUNCH(step, s, ceiling_mma_k, blocks, CEILING_THREADS, 0, rounds, ceiling_never(step));
    return 2.0 * 16 * 8 * 16 * CEILING_MMA * (CEILING_THREADS / 32) * blocks * (double)rounds;
}

static double ceiling_fma(const weft_step *step, weft_stream *s, int64_t rounds) {
    int blocks = 2 * launch_crowd();
    WEFT_LAUNCH(step, s, ceiling_fma_k, blocks, CEILING_THREADS, 0, rounds, ceiling_never(step));
    return 2.0 * CEILING_FMA * CEILING_THREADS * blocks * (double)rounds;
}

WEFT_LOOPS(ceiling) = {{WEFT_LOOP_READ, 80, ceiling_read},
                       {WEFT_LOOP_MATRIX, 80, ceiling_mma},
                       {WEFT_LOOP_FP32, 80, ceiling_fma},
                       WEFT_LOOPS_END};
WEFT_ROWS(ceiling) = {WEFT_ROWS_END};
WEFT_CLAIMS(ceiling) = {{"ceiling_read_k", CEILING_THREADS, 4, 0, "LDG.128x4"},
                        {"ceiling_mma_k", CEILING_THREADS, 2, 0, "HMMAx8"},
                        {"ceiling_fma_k", CEILING_THREADS, 2, 0, "FFMAx16"},
                        WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
