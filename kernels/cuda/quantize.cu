/* SPDX-License-Identifier: Apache-2.0
 * quantize: the largest |x| of each slice of a token, then x over max / 127 to int8. 1 or 8 warps
 * share a slice by its width; a maximum has no order, and the two divisions are correctly rounded,
 * so every backend has the same bits. The slice is read twice, the second time from L1. Bound by
 * the launch for one token, by memory for many. Measured: nowhere yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/rows.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

template <int WARPS> struct quantize_smem { float most[WARPS]; };

/* Narrow slices share a block, a warp each. */
template <int WARPS> __host__ __device__ constexpr int quantize_slices() {
    return WARPS == 1 ? 8 : 1;
}

/* |x|, or NaN for what is not finite: the maximum keeps it. */
__device__ __forceinline__ float quantize_size(float x) {
    float v = fabsf(x);
    return v <= 3.402823466e38f ? v : weft_bits_f32(0x7fc00000u);
}

__device__ __forceinline__ void quantize_store(int8_t *y, int n, const int32_t (&q)[CHUNK]) {
    uint2 w = make_uint2(0, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w.x |= (uint32_t)(q[i] & 255) << 8 * i;
        w.y |= (uint32_t)(q[i + 4] & 255) << 8 * i;
    }
    if (n == CHUNK && (size_t)y % 8 == 0) {
        st_global((uint2 *)y, w);
        return;
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (i < n)
            st_global(y + i, (int8_t)q[i]);
}

__device__ __forceinline__ void quantize_chunk(const float (&v)[CHUNK], int n, float scale,
                                               int8_t *y) {
    int32_t q[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        float x = scale > 0 ? v[i] / scale : 0.0f;
        q[i] = cvt_rni_s32_f32(fminf(127.0f, fmaxf(-127.0f, x)));
    }
    quantize_store(y, n, q);
}

template <int WARPS>
__global__ void __launch_bounds__(WARPS *quantize_slices<WARPS>() * 32)
    quantize_k(const __grid_constant__ weft_quantize_args a) {
    WEFT_SMEM(quantize_smem<WARPS>, s);
    int64_t leaves = a.scale.shape[1], width = a.x.shape[1] / leaves;
    int64_t slice = blockIdx.x * (int64_t)quantize_slices<WARPS>() + threadIdx.x / (WARPS * 32);
    int64_t t = slice / leaves, leaf = slice % leaves, stride = WARPS * 32 * CHUNK;
    int64_t first = threadIdx.x % (WARPS * 32) * (int64_t)CHUNK;
    if (t >= lead_rows(a.rows, a.x.shape[0])) /* alike for all threads of a slice */
        return;
    int64_t x = t * a.x.stride[0] + leaf * width;
    float most = 0, v[CHUNK];
    for (int64_t i = first; i < width; i += stride) {
        load8(a.x, x + i, width - i < CHUNK ? (int)(width - i) : (int)CHUNK, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            most = op_max::of(most, quantize_size(v[j])); /* past the end: 0 */
    }
    float scale = block_reduce<op_max, WARPS>(most, s.most) / 127.0f;
    int8_t *y = (int8_t *)a.y.data + t * a.y.stride[0] + leaf * width;
    for (int64_t i = first; i < width; i += stride) {
        int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
        load8(a.x, x + i, n, v);
        quantize_chunk(v, n, scale, y + i);
    }
    if (first == 0)
        st_global((float *)a.scale.data + t * a.scale.stride[0] + leaf, scale);
}

static int quantize_ok(const weft_args *args) {
    const weft_quantize_args &a = args->quantize;
    return a.x.ndim == 2 && is_flat(a.x) && a.y.dtype == WEFT_I8 && a.y.stride[1] == 1 &&
           is_flat(a.scale) && is_f32(a.scale) && a.scale.shape[1] > 0 &&
           a.x.shape[1] % a.scale.shape[1] == 0;
}

static void quantize_run(const weft_step *step, weft_stream *stream) {
    const weft_quantize_args *a = &step->args.quantize;
    int64_t slices = a->x.shape[0] * a->scale.shape[1], width = a->x.shape[1] / a->scale.shape[1];
    if (!slices)
        return;
    if (width <= 512)
        WEFT_LAUNCH(step, stream, quantize_k<1>, (unsigned)((slices + 7) / 8), 256,
                    sizeof(quantize_smem<1>), *a);
    else
        WEFT_LAUNCH(step, stream, quantize_k<8>, (unsigned)slices, 256, sizeof(quantize_smem<8>),
                    *a);
}

WEFT_ROWS(quantize) = {WEFT_ROW(quantize, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(quantize) = {{"quantize_k<1>", 256, 4, sizeof(quantize_smem<1>), "LDG.128x2 STG.64"},
                         {"quantize_k<8>", 256, 4, sizeof(quantize_smem<8>), "LDG.128x2 STG.64"},
                         WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
