/* SPDX-License-Identifier: Apache-2.0
 * layernorm: r = x + res (rounded); y = (r - mean r) / sqrt(var r + eps) * g + b. The rows are
 * norm.cuh's, read once; the variance is that of the differences from the mean. Sums per thread in
 * ascending order, then the fixed tree. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/norm.cuh"

namespace WEFT_CU_NS {

template <int WARPS> struct layernorm_smem { float sum[WARPS], square[WARPS]; };

template <class T>
__device__ static __forceinline__ void layernorm_out(const weft_layernorm_args &a, int64_t i, int n,
                                                     float (&v)[CHUNK], float mean, float inv,
                                                     int64_t y) {
    held<T> g, b, out;
    float w[CHUNK];
    fetch(g, a.g, i, n);
    if (weft_has(&a.b))
        fetch(b, a.b, i, n);
    widen(g, w);
#pragma unroll
    for (int j = 0; j < CHUNK; j++)
        v[j] = (v[j] - mean) * inv * w[j];
    if (weft_has(&a.b)) {
        widen(b, w);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            v[j] = v[j] + w[j];
    }
    narrow(out, a.y.dtype, v);
    put(a.y, y + i, n, out);
}

template <class T, int WARPS>
__global__ void __launch_bounds__(WARPS *norm_rows<WARPS>() * 32)
    layernorm_k(const __grid_constant__ weft_layernorm_args a) {
    WEFT_SMEM(layernorm_smem<WARPS>, s);
    norm_row<T, WARPS, weft_layernorm_args> in(a);
    if (in.row >= true_rows(a.x, a.rows)) /* alike for all threads of a row, and of a wide block */
        return;
    in.load();
    float sum = 0, square = 0;
    in.each([&](int64_t, int, const held<T> &h) {
        float v[CHUNK];
        widen(h, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum += v[j]; /* past the end: + 0 */
    });
    float mean = block_reduce<op_sum, WARPS>(sum, s.sum) / (float)in.width;
    in.each([&](int64_t, int n, const held<T> &h) {
        float v[CHUNK];
        widen(h, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            square = j < n ? fmaf(v[j] - mean, v[j] - mean, square) : square;
    });
    square = block_reduce<op_sum, WARPS>(square, s.square);
    float inv = 1.0f / sqrtf(square / (float)in.width + a.eps);
    int64_t r = weft_has(&a.r) ? row_of(a.r, in.row) : 0;
    int64_t y = weft_has(&a.y) ? row_of(a.y, in.row) : 0;
    in.each([&](int64_t i, int n, const held<T> &h) {
        if (weft_has(&a.r))
            put(a.r, r + i, n, h);
        float v[CHUNK];
        widen(h, v);
        if (weft_has(&a.y))
            layernorm_out<T>(a, i, n, v, mean, inv, y);
    });
    if (in.first == 0 && weft_has(&a.mean))
        store_stat(a.mean, in.row, mean);
    if (in.first == 0 && weft_has(&a.inv))
        store_stat(a.inv, in.row, inv);
}

static int layernorm_ok(const weft_args *args) {
    const weft_layernorm_args &a = args->layernorm;
    return is_flat(a.x) && is_flat(a.res) && is_flat(a.g) && is_flat(a.b) && is_flat(a.y) &&
           is_flat(a.r) && is_stat(a.mean) && is_stat(a.inv);
}

template <class T, int WARPS>
static void layernorm_launch(const weft_step *step, weft_stream *stream, unsigned rows) {
    const unsigned each = norm_rows<WARPS>();
    WEFT_LAUNCH(step, stream, (layernorm_k<T, WARPS>), (rows + each - 1) / each, WARPS * each * 32,
                sizeof(layernorm_smem<WARPS>), step->args.layernorm);
}

static void layernorm_run(const weft_step *step, weft_stream *stream) {
    const weft_layernorm_args &a = step->args.layernorm;
    int warps = row_warps(width_of(a.x));
    unsigned rows = (unsigned)bucket_rows(a.x);
    if (!rows)
        return;
    with_type(wide_type({&a.x, &a.res, &a.g, &a.b, &a.y, &a.r}), [&](auto type) {
        using T = decltype(type);
        if (warps == 1)
            layernorm_launch<T, 1>(step, stream, rows);
        else if (warps == 4)
            layernorm_launch<T, 4>(step, stream, rows);
        else
            layernorm_launch<T, 8>(step, stream, rows);
    });
}

WEFT_ROWS(layernorm) = {WEFT_ROW(layernorm, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(layernorm) = {
    {"layernorm_k<any_type,8>", 256, 2, sizeof(layernorm_smem<8>), "LDG.128 STG.128"},
    {"layernorm_k<float,8>", 256, 2, sizeof(layernorm_smem<8>), "LDG.128x8 STG.128x4"},
    {"layernorm_k<*,8>", 256, 4, sizeof(layernorm_smem<8>), "LDG.128x4 STG.128x2"},
    {"layernorm_k<*,4>", 128, 8, sizeof(layernorm_smem<4>), "LDG.128x4 STG.128x2"},
    {"layernorm_k<*,1>", NORM_ROWS * 32, 4, sizeof(layernorm_smem<1>), "LDG.128x4 STG.128x2"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
