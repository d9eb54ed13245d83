/* SPDX-License-Identifier: Apache-2.0
 * The loop of kernels/cuda/ceiling.cu that multiplies, by wgmma: two warpgroups of an SM, each
 * 64 x 256 out of shared memory that is written once. */
#include <mem.cuh>
#include <ptx_sm90.cuh>

namespace WEFT_CU_NS {

enum { LOOP_GROUPS = 2, LOOP_TOKENS = 256, LOOP_K = 64, LOOP_THREADS = 128 * LOOP_GROUPS };

struct loop_smem {
    __align__(1024) uint16_t tile[LOOP_GROUPS * 64 + LOOP_TOKENS][LOOP_K];
};

__global__ void __launch_bounds__(LOOP_THREADS, 1)
    ceiling_wgmma_k(int64_t rounds, uint32_t *never) {
    WEFT_SMEM(loop_smem, s);
    enum { WORDS = sizeof(loop_smem) / 4 };
    float acc[LOOP_TOKENS / 2] = {}, sum = 0;
    int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    for (int i = threadIdx.x; i < WORDS; i += LOOP_THREADS) /* numbers near one: zeros run cooler */
        st_shared((uint32_t *)s.tile + i, ((uint32_t)i * 7919u & 0x007f007fu) | 0x3f80bf80u);
    fence_proxy_async();
    __syncthreads();
    uint64_t a = wgmma_descriptor(&s.tile[group * 64][0], 2 * LOOP_K);
    uint64_t b = wgmma_descriptor(&s.tile[LOOP_GROUPS * 64][0], 2 * LOOP_K);
#pragma unroll 1
    for (int64_t r = 0; r < rounds; r++) {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < LOOP_K / 16; k++)
            wgmma_bf16<LOOP_TOKENS>(acc, a + 2 * k, b + 2 * k, 1);
        wgmma_commit();
        wgmma_wait<1>();
    }
    wgmma_wait<0>();
    wgmma_hold(acc);
#pragma unroll
    for (int i = 0; i < LOOP_TOKENS / 2; i++)
        sum += acc[i];
    if (weft_f32_bits(sum) == 0x9e3779b9u)
        st_global(never, weft_f32_bits(sum));
}

static uint32_t *ceiling_never(const weft_step *step) {
    return (uint32_t *)step->args.cast.y.data;
}

static double ceiling_wgmma(const weft_step *step, weft_stream *s, int64_t rounds) {
    int blocks = launch_crowd();
    WEFT_LAUNCH(step, s, ceiling_wgmma_k, blocks, LOOP_THREADS, sizeof(loop_smem), rounds,
                ceiling_never(step));
    return 2.0 * 64 * LOOP_TOKENS * LOOP_K * LOOP_GROUPS * blocks * (double)rounds;
}

WEFT_LOOPS(ceiling_wgmma) = {{WEFT_LOOP_MATRIX, WEFT_SM90A, ceiling_wgmma}, WEFT_LOOPS_END};
WEFT_ROWS(ceiling_wgmma) = {WEFT_ROWS_END};
WEFT_CLAIMS(ceiling_wgmma) = {{"ceiling_wgmma_k", LOOP_THREADS, 1, sizeof(loop_smem), "HGMMAx4"},
                              WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
