/* SPDX-License-Identifier: Apache-2.0
 * leaf_sum: the second half of a split matmul, with its epilogue: the fixed tree over L planes,
 * then
 * + bias and + res, each rounded where it would store. A thread per eight elements. Bound by
 * memory: L fp32 reads. Measured: nowhere yet. */
#include "kernels/lib/epilogue.cuh"

namespace WEFT_CU_NS {

__global__ void __launch_bounds__(CHUNK_THREADS)
    leaf_sum_k(const __grid_constant__ weft_leaf_sum_args a) {
    chunk c = chunk_at(lead_rows(a.rows, a.y.shape[0]), a.y.shape[1]);
    tree_sum sum[CHUNK];
    float v[CHUNK], total[CHUNK];
    if (!c.n)
        return;
    for (int l = 0; l < (int)a.x.shape[0]; l++) {
        load8(a.x, l * a.x.stride[0] + c.row * a.x.stride[1] + c.i, c.n, v);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            total[i] = sum[i].add(l, v[i]);
    }
    epilogue e = {&a.y, &a.bias, &a.res, WEFT_ACT_NONE};
    e.store8(c, total);
}

static int leaf_sum_ok(const weft_args *args) {
    const weft_leaf_sum_args &a = args->leaf_sum;
    int64_t n = a.x.shape[0];
    return (n == 1 || n == 2 || n == 4 || n == 8) && a.x.dtype == WEFT_F32 && is_flat(a.x) &&
           is_flat(a.y) && is_flat(a.bias) && is_flat(a.res);
}

static void leaf_sum_run(const weft_step *step, weft_stream *stream) {
    const weft_leaf_sum_args *a = &step->args.leaf_sum;
    int64_t blocks = chunk_blocks(a->y.shape[0], a->y.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, leaf_sum_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(leaf_sum) = {WEFT_ROW(leaf_sum, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(leaf_sum) = {{"leaf_sum_k", CHUNK_THREADS, 4, 0, "LDG.128x2 STG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
