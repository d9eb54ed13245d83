/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm: r = x + res (rounded); y = r / sqrt(mean r^2 + eps) * (g + offset). 1, 4 or 8 warps
 * share a row by its width (tile.h); thread i holds chunks i, i + threads, ... of eight elements,
 * sums them with fma in ascending order, then the fixed tree. The row is read twice, the second
 * time from L2. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/rows.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

template <int WARPS> struct norm_smem { float sum[WARPS]; };

/* Rows of a block: narrow ones share it, a warp each. */
enum { NORM_ROWS = 8 };
template <int WARPS> __host__ __device__ constexpr int norm_rows() {
    return WARPS == 1 ? NORM_ROWS : 1;
}

__device__ static void norm_in(const weft_rmsnorm_args &a, int64_t row, int64_t i, int n,
                               float (&v)[CHUNK]) {
    float res[CHUNK];
    load8(a.x, row_of(a.x, row) + i, n, v);
    if (!weft_has(&a.res))
        return;
    load8(a.res, row_of(a.res, row) + i, n, res);
    int dtype = weft_has(&a.r) ? a.r.dtype : a.x.dtype;
#pragma unroll
    for (int j = 0; j < CHUNK; j++)
        v[j] = round_as(dtype, v[j] + res[j]);
}

__device__ static void norm_out(const weft_rmsnorm_args &a, int64_t row, int64_t i, int n,
                                float inv) {
    float v[CHUNK], g[CHUNK];
    norm_in(a, row, i, n, v);
    if (weft_has(&a.r))
        store8(a.r, row_of(a.r, row) + i, n, v);
    if (!weft_has(&a.y))
        return;
    load8(a.g, i, n, g);
#pragma unroll
    for (int j = 0; j < CHUNK; j++)
        v[j] = v[j] * inv * (g[j] + a.offset);
    store8(a.y, row_of(a.y, row) + i, n, v);
}

__device__ static int chunk_size(int64_t width, int64_t i) {
    return width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
}

template <int WARPS>
__global__ void __launch_bounds__(WARPS *norm_rows<WARPS>() * 32)
    rmsnorm_k(const __grid_constant__ weft_rmsnorm_args a) {
    WEFT_SMEM(norm_smem<WARPS>, s);
    int64_t width = width_of(a.x), stride = WARPS * 32 * CHUNK;
    int64_t row = blockIdx.x * (int64_t)norm_rows<WARPS>() + threadIdx.x / (WARPS * 32);
    int64_t first = threadIdx.x % (WARPS * 32) * (int64_t)CHUNK;
    if (row >= true_rows(a.x, a.rows)) /* alike for all threads of a row, and of a wide block */
        return;
    float sum = 0, v[CHUNK];
    for (int64_t i = first; i < width; i += stride) {
        norm_in(a, row, i, chunk_size(width, i), v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum = fmaf(v[j], v[j], sum); /* past the end: + 0 */
    }
    sum = block_reduce<op_sum, WARPS>(sum, s.sum);
    float inv = 1.0f / sqrtf(sum / (float)width + a.eps);
    for (int64_t i = first; i < width; i += stride)
        norm_out(a, row, i, chunk_size(width, i), inv);
    if (weft_has(&a.inv) && first == 0) {
        int64_t at = a.inv.ndim == 1 ? row * a.inv.stride[0]
                                     : row / a.inv.shape[1] * a.inv.stride[0] +
                                           row % a.inv.shape[1] * a.inv.stride[1];
        store1(a.inv, at, inv);
    }
}

static int rmsnorm_ok(const weft_args *args) {
    const weft_rmsnorm_args &a = args->rmsnorm;
    return is_flat(a.x) && is_flat(a.res) && is_flat(a.g) && is_flat(a.y) && is_flat(a.r) &&
           is_f32(a.inv) && a.inv.ndim <= 2;
}

static void rmsnorm_run(const weft_step *step, weft_stream *stream) {
    const weft_rmsnorm_args *a = &step->args.rmsnorm;
    int warps = row_warps(width_of(a->x));
    unsigned rows = (unsigned)bucket_rows(a->x), n = rows;
    if (!rows)
        return;
    if (warps == 1)
        n = (rows + NORM_ROWS - 1) / NORM_ROWS;
    if (warps == 1)
        WEFT_LAUNCH(step, stream, rmsnorm_k<1>, n, NORM_ROWS * 32, sizeof(norm_smem<1>), *a);
    else if (warps == 4)
        WEFT_LAUNCH(step, stream, rmsnorm_k<4>, n, 128, sizeof(norm_smem<4>), *a);
    else
        WEFT_LAUNCH(step, stream, rmsnorm_k<8>, n, 256, sizeof(norm_smem<8>), *a);
}

WEFT_ROWS(rmsnorm) = {WEFT_ROW(rmsnorm, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

} // namespace WEFT_CU_NS
