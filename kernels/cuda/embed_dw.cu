/* SPDX-License-Identifier: Apache-2.0
 * embed_dw: dw[ids[t] - row0] += dy[t]. `order` has equal ids side by side: the block whose place
 * begins a run of one id adds up the whole run, so that no row of dw has two writers and nothing is
 * atomic. A thread has eight columns, its chain over the run's tokens is ascending; shards end
 * where tokens pass their border. Bound by memory but for ids that repeat thousands of times.
 * Measured: nowhere yet. */
#include "kernels/lib/epilogue.cuh"
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

enum { EMBED_THREADS = 128 };

__device__ __forceinline__ int32_t embed_token(const weft_embed_dw_args &a, int64_t at) {
    return load_int(a.order, at * a.order.stride[0]);
}

__device__ __forceinline__ int32_t embed_id(const weft_embed_dw_args &a, int64_t at) {
    return load_int(a.ids, embed_token(a, at) * a.ids.stride[0]);
}

/* The run's tokens of one shard, which begin at `at`; leaves `at` behind them. */
__device__ static void embed_chain(const weft_embed_dw_args &a, int64_t &at, int64_t lead,
                                   int32_t id, int64_t end, int64_t i, int n, float (&sum)[CHUNK]) {
    float v[CHUNK];
    for (; at < lead; at++) {
        int64_t t = embed_token(a, at);
        if (t >= end || load_int(a.ids, t * a.ids.stride[0]) != id)
            return;
        load8(a.dy, t * a.dy.stride[0] + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum[j] = sum[j] + v[j];
    }
}

__global__ void __launch_bounds__(EMBED_THREADS)
    embed_dw_k(const __grid_constant__ weft_embed_dw_args a) {
    int64_t lead = lead_rows(a.rows, a.dy.shape[0]), at = blockIdx.x;
    int64_t i = (blockIdx.y * (int64_t)EMBED_THREADS + threadIdx.x) * CHUNK, width = a.dy.shape[1];
    if (at >= lead || i >= width)
        return;
    int32_t id = embed_id(a, at);
    int64_t row = (int64_t)id - a.row0, run = a.dy.shape[0] / a.shards;
    if (id < 0 || row < 0 || row >= a.dw.shape[0] || (at > 0 && embed_id(a, at - 1) == id))
        return;
    float *to = (float *)a.dw.data + row * a.dw.stride[0] + i;
    int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
    float old[CHUNK], sum[CHUNK];
    tree_sum tree[CHUNK] = {};
    load8_as<false>(to, n, old);
    if (a.shards == 1) {
        embed_chain(a, at, lead, id, lead, i, n, old);
        store8_as(to, n, old);
        return;
    }
    for (int l = 0; l < a.shards; l++) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum[j] = 0;
        embed_chain(a, at, lead, id, (l + 1) * run, i, n, sum);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum[j] = tree[j].add(l, sum[j]);
    }
#pragma unroll
    for (int j = 0; j < CHUNK; j++)
        old[j] = old[j] + sum[j];
    store8_as(to, n, old);
}

static int embed_dw_ok(const weft_args *args) {
    const weft_embed_dw_args &a = args->embed_dw;
    int n = a.shards;
    return is_flat(a.dy) && is_flat(a.dw) && a.dw.dtype == WEFT_F32 &&
           (n == 1 || n == 2 || n == 4 || n == 8) && a.dy.shape[0] % n == 0;
}

static void embed_dw_run(const weft_step *step, weft_stream *stream) {
    const weft_embed_dw_args *a = &step->args.embed_dw;
    const int64_t columns = EMBED_THREADS * CHUNK;
    dim3 grid((unsigned)a->dy.shape[0], (unsigned)((a->dy.shape[1] + columns - 1) / columns));
    if (grid.x && grid.y)
        WEFT_LAUNCH(step, stream, embed_dw_k, grid, EMBED_THREADS, 0, *a);
}

WEFT_ROWS(embed_dw) = {WEFT_ROW(embed_dw, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(embed_dw) = {{"embed_dw_k", EMBED_THREADS, 6, 0, "LDG.128x2 STG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
