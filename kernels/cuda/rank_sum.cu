/* SPDX-License-Identifier: Apache-2.0
 * rank_sum: y = x[0] + x[1] + ... in order, what a reduce-scatter does behind its exchange. A
 * thread per eight elements; the loads of four planes are in flight together. Bound by memory: n +
 * 1 fp32 streams. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

enum { RANK_SUM_AHEAD = 4 };

__global__ void __launch_bounds__(CHUNK_THREADS)
    rank_sum_k(const __grid_constant__ weft_rank_sum_args a) {
    chunk c = chunk_at(a.y.shape[0], a.y.shape[1]);
    float sum[CHUNK], v[RANK_SUM_AHEAD][CHUNK];
    int n = (int)a.x.shape[0];
    int64_t at = c.row * a.x.stride[1] + c.i;
    if (!c.n)
        return;
    load8(a.x, at, c.n, sum);
    for (int r = 1; r < n; r += RANK_SUM_AHEAD) {
#pragma unroll
        for (int k = 0; k < RANK_SUM_AHEAD; k++)
            if (r + k < n)
                load8(a.x, (r + k) * a.x.stride[0] + at, c.n, v[k]);
#pragma unroll
        for (int k = 0; k < RANK_SUM_AHEAD; k++)
            if (r + k < n)
#pragma unroll
                for (int i = 0; i < CHUNK; i++)
                    sum[i] = sum[i] + v[k][i];
    }
    store8(a.y, c.row * a.y.stride[0] + c.i, c.n, sum);
}

static int rank_sum_ok(const weft_args *args) {
    const weft_rank_sum_args &a = args->rank_sum;
    return is_f32(a.x) && is_f32(a.y) && is_flat(a.x) && is_flat(a.y);
}

static void rank_sum_run(const weft_step *step, weft_stream *stream) {
    const weft_rank_sum_args *a = &step->args.rank_sum;
    int64_t blocks = chunk_blocks(a->y.shape[0], a->y.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, rank_sum_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(rank_sum) = {WEFT_ROW(rank_sum, "simt", REF, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(rank_sum) = {{"rank_sum_k", CHUNK_THREADS, 4, 0, "LDG.128x2 STG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
