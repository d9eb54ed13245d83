/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm: r = x + res (rounded); y = r / sqrt(mean r^2 + eps) * (g + offset). The rows are
 * norm.cuh's, read once. A thread sums its elements' squares with fma in ascending order, then the
 * fixed tree. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/norm.cuh"

namespace WEFT_CU_NS {

template <int WARPS> struct rmsnorm_smem { float sum[WARPS]; };

template <class T, int WARPS>
__global__ void __launch_bounds__(WARPS *norm_rows<WARPS>() * 32)
    rmsnorm_k(const __grid_constant__ weft_rmsnorm_args a) {
    WEFT_SMEM(rmsnorm_smem<WARPS>, s);
    norm_row<T, WARPS, weft_rmsnorm_args> in(a);
    if (in.row >= true_rows(a.x, a.rows)) /* alike for all threads of a row, and of a wide block */
        return;
    in.load();
    float sum = 0;
    in.each([&](int64_t, int, const held<T> &h) {
        float v[CHUNK];
        widen(h, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum = fmaf(v[j], v[j], sum); /* past the end: + 0 */
    });
    sum = block_reduce<op_sum, WARPS>(sum, s.sum);
    float inv = 1.0f / sqrtf(sum / (float)in.width + a.eps);
    int64_t r = weft_has(&a.r) ? row_of(a.r, in.row) : 0;
    int64_t y = weft_has(&a.y) ? row_of(a.y, in.row) : 0;
    in.each([&](int64_t i, int n, const held<T> &h) {
        float v[CHUNK], w[CHUNK];
        held<T> g;
        if (weft_has(&a.r))
            put(a.r, r + i, n, h);
        if (!weft_has(&a.y))
            return;
        fetch(g, a.g, i, n);
        widen(h, v);
        widen(g, w);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            v[j] = v[j] * inv * (w[j] + a.offset);
        narrow(g, a.y.dtype, v);
        put(a.y, y + i, n, g);
    });
    if (in.first == 0 && weft_has(&a.inv))
        store_stat(a.inv, in.row, inv);
}

static int rmsnorm_ok(const weft_args *args) {
    const weft_rmsnorm_args &a = args->rmsnorm;
    return is_flat(a.x) && is_flat(a.res) && is_flat(a.g) && is_flat(a.y) && is_flat(a.r) &&
           is_stat(a.inv);
}

template <class T, int WARPS>
static void rmsnorm_launch(const weft_step *step, weft_stream *stream, unsigned rows) {
    const unsigned each = norm_rows<WARPS>();
    WEFT_LAUNCH(step, stream, (rmsnorm_k<T, WARPS>), (rows + each - 1) / each, WARPS * each * 32,
                sizeof(rmsnorm_smem<WARPS>), step->args.rmsnorm);
}

static void rmsnorm_run(const weft_step *step, weft_stream *stream) {
    const weft_rmsnorm_args &a = step->args.rmsnorm;
    int warps = row_warps(width_of(a.x));
    unsigned rows = (unsigned)bucket_rows(a.x);
    if (!rows)
        return;
    with_type(wide_type({&a.x, &a.res, &a.g, &a.y, &a.r}), [&](auto type) {
        using T = decltype(type);
        if (warps == 1)
            rmsnorm_launch<T, 1>(step, stream, rows);
        else if (warps == 4)
            rmsnorm_launch<T, 4>(step, stream, rows);
        else
            rmsnorm_launch<T, 8>(step, stream, rows);
    });
}

WEFT_ROWS(rmsnorm) = {WEFT_ROW(rmsnorm, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(rmsnorm) = {
    {"rmsnorm_k<any_type,8>", 256, 2, sizeof(rmsnorm_smem<8>), "LDG.128 STG.128"},
    {"rmsnorm_k<float,8>", 256, 2, sizeof(rmsnorm_smem<8>), "LDG.128x8 STG.128x4"},
    {"rmsnorm_k<*,8>", 256, 4, sizeof(rmsnorm_smem<8>), "LDG.128x4 STG.128x2"},
    {"rmsnorm_k<*,4>", 128, 8, sizeof(rmsnorm_smem<4>), "LDG.128x4 STG.128x2"},
    {"rmsnorm_k<*,1>", NORM_ROWS * 32, 4, sizeof(rmsnorm_smem<1>), "LDG.128x4 STG.128x2"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
