/* SPDX-License-Identifier: Apache-2.0
 * softmax over the last axis: the largest element, the sum of e^(x - largest), the quotients; three
 * passes, the later two from L2. 1, 4 or 8 warps share a row by its width. Bound by memory.
 * Measured: nowhere yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/rows.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

template <int WARPS> struct softmax_smem { float most[WARPS], sum[WARPS]; };

template <int WARPS>
__global__ void __launch_bounds__(WARPS * 32)
    softmax_k(const __grid_constant__ weft_softmax_args a) {
    WEFT_SMEM(softmax_smem<WARPS>, s);
    int64_t width = width_of(a.x), row = blockIdx.x, stride = WARPS * 32 * CHUNK;
    int64_t x = row_of(a.x, row), y = row_of(a.y, row), first = threadIdx.x * (int64_t)CHUNK;
    float v[CHUNK], most = -INFINITY, sum = 0;
    if (row >= true_rows(a.y, a.rows))
        return;
    for (int64_t i = first; i < width; i += stride) {
        int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
        load8(a.x, x + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            most = j < n ? op_max::of(most, v[j]) : most;
    }
    most = block_reduce<op_max, WARPS>(most, s.most);
    for (int64_t i = first; i < width; i += stride) {
        int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
        load8(a.x, x + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum += j < n ? weft_expf(v[j] - most) : 0.0f;
    }
    sum = block_reduce<op_sum, WARPS>(sum, s.sum);
    for (int64_t i = first; i < width; i += stride) {
        int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
        load8(a.x, x + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            v[j] = most == -INFINITY ? 0.0f : weft_expf(v[j] - most) / sum;
        store8(a.y, y + i, n, v);
    }
}

static int softmax_ok(const weft_args *args) {
    return is_flat(args->softmax.x) && is_flat(args->softmax.y);
}

static void softmax_run(const weft_step *step, weft_stream *stream) {
    const weft_softmax_args *a = &step->args.softmax;
    int warps = row_warps(width_of(a->x));
    unsigned rows = (unsigned)bucket_rows(a->x);
    if (!rows)
        return;
    if (warps == 1)
        WEFT_LAUNCH(step, stream, softmax_k<1>, rows, 32, sizeof(softmax_smem<1>), *a);
    else if (warps == 4)
        WEFT_LAUNCH(step, stream, softmax_k<4>, rows, 128, sizeof(softmax_smem<4>), *a);
    else
        WEFT_LAUNCH(step, stream, softmax_k<8>, rows, 256, sizeof(softmax_smem<8>), *a);
}

WEFT_ROWS(softmax) = {WEFT_ROW(softmax, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(softmax) = {{"softmax_k<1>", 32, 32, sizeof(softmax_smem<1>), "LDG.128x2 STG.128"},
                        {"softmax_k<4>", 128, 10, sizeof(softmax_smem<4>), "LDG.128x2 STG.128"},
                        {"softmax_k<8>", 256, 5, sizeof(softmax_smem<8>), "LDG.128x2 STG.128"},
                        WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
