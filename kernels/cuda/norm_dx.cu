/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm_dx: dx = inv (d - r inv^2 mean(d r)) + dr, d = dy (g + offset). layernorm_dx:
 * dx = inv (d - mean(d) - h mean(d h)) + dr, d = dy g, h = (r - mean) inv. 1, 4 or 8 warps share a
 * row by its width; a thread sums its chunks' terms with fma in ascending order, then the fixed
 * tree; the second look at the row finds it in L1. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/rows.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

template <int WARPS> struct norm_dx_smem { float one[WARPS], two[WARPS]; };

template <int WARPS> __host__ __device__ constexpr int norm_dx_rows() {
    return WARPS == 1 ? NORM_ROWS : 1;
}

/* Where a row's operands begin, and its chunks by thread. */
template <int WARPS, class A> struct norm_dx_row {
    enum { STRIDE = WARPS * 32 * CHUNK };
    const A &a;
    int64_t row, width, first, dy, r;

    __device__ __forceinline__ norm_dx_row(const A &args)
        : a(args), row(blockIdx.x * (int64_t)norm_dx_rows<WARPS>() + threadIdx.x / (WARPS * 32)),
          width(width_of(a.dy)), first(threadIdx.x % (WARPS * 32) * (int64_t)CHUNK), dy(0), r(0) {
    }

    __device__ __forceinline__ bool exists() {
        if (row >= true_rows(a.dy, a.rows))
            return false;
        dy = row_of(a.dy, row);
        r = row_of(a.r, row);
        return true;
    }

    /* The chunk at i: d and r, 0 past the end of the row. */
    template <class F> __device__ __forceinline__ void look(int64_t i, float offset, F f) const {
        int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
        float d[CHUNK], v[CHUNK], g[CHUNK];
        load8(a.dy, dy + i, n, d);
        load8(a.r, r + i, n, v);
        load8(a.g, i, n, g);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            d[j] = d[j] * (g[j] + offset);
        f(i, n, d, v);
    }

    /* f(i, n, d, r) for this thread's chunks. Rows up to 4096 wide need no loop: in one the
     * compiler takes wide stores apart. */
    template <class F> __device__ __forceinline__ void each(float offset, F f) const {
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (first + k * STRIDE < width)
                look(first + k * STRIDE, offset, f);
        for (int64_t i = first + 2 * STRIDE; WARPS == 8 && i < width; i += STRIDE)
            look(i, offset, f);
    }

    /* dx, with what else reaches r. */
    __device__ __forceinline__ void store(int64_t i, int n, float (&v)[CHUNK]) const {
        float w[CHUNK];
        if (weft_has(&a.dr)) {
            load8(a.dr, row_of(a.dr, row) + i, n, w);
#pragma unroll
            for (int j = 0; j < CHUNK; j++)
                v[j] = v[j] + w[j];
        }
        store8(a.dx, row_of(a.dx, row) + i, n, v);
    }
};

/* A number of the row: t is [rows] or [T,heads]. */
__device__ __forceinline__ float load_stat(const weft_tensor &t, int64_t row) {
    return load1(t, t.ndim == 1 ? row * t.stride[0]
                                : row / t.shape[1] * t.stride[0] + row % t.shape[1] * t.stride[1]);
}

template <int WARPS>
__global__ void __launch_bounds__(WARPS *norm_dx_rows<WARPS>() * 32)
    rmsnorm_dx_k(const __grid_constant__ weft_rmsnorm_dx_args a) {
    WEFT_SMEM(norm_dx_smem<WARPS>, s);
    norm_dx_row<WARPS, weft_rmsnorm_dx_args> in(a);
    if (!in.exists()) /* alike for all threads of a row, and of a wide block */
        return;
    float sum = 0, inv = load_stat(a.inv, in.row);
    in.each(a.offset, [&](int64_t, int, const float(&d)[CHUNK], const float(&r)[CHUNK]) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum = fmaf(d[j], r[j], sum);
    });
    sum = block_reduce<op_sum, WARPS>(sum, s.one);
    float along = inv * inv * (sum / (float)in.width);
    in.each(a.offset, [&](int64_t i, int n, float(&d)[CHUNK], const float(&r)[CHUNK]) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            d[j] = inv * fmaf(-r[j], along, d[j]);
        in.store(i, n, d);
    });
}

template <int WARPS>
__global__ void __launch_bounds__(WARPS *norm_dx_rows<WARPS>() * 32)
    layernorm_dx_k(const __grid_constant__ weft_layernorm_dx_args a) {
    WEFT_SMEM(norm_dx_smem<WARPS>, s);
    norm_dx_row<WARPS, weft_layernorm_dx_args> in(a);
    if (!in.exists())
        return;
    float sum = 0, along = 0, inv = load_stat(a.inv, in.row), mean = load_stat(a.mean, in.row);
    in.each(0.0f, [&](int64_t, int, const float(&d)[CHUNK], const float(&r)[CHUNK]) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            sum = sum + d[j];
            along = fmaf(d[j], (r[j] - mean) * inv, along);
        }
    });
    sum = block_reduce<op_sum, WARPS>(sum, s.one) / (float)in.width;
    along = block_reduce<op_sum, WARPS>(along, s.two) / (float)in.width;
    in.each(0.0f, [&](int64_t i, int n, float(&d)[CHUNK], const float(&r)[CHUNK]) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            d[j] = inv * fmaf(-((r[j] - mean) * inv), along, d[j] - sum);
        in.store(i, n, d);
    });
}

static bool is_stat(const weft_tensor &t) {
    return t.dtype == WEFT_F32 && t.ndim <= 2;
}

static int rmsnorm_dx_ok(const weft_args *args) {
    const weft_rmsnorm_dx_args &a = args->rmsnorm_dx;
    return is_flat(a.dy) && is_flat(a.r) && is_flat(a.g) && is_flat(a.dr) && is_flat(a.dx) &&
           is_stat(a.inv);
}

static int layernorm_dx_ok(const weft_args *args) {
    const weft_layernorm_dx_args &a = args->layernorm_dx;
    return is_flat(a.dy) && is_flat(a.r) && is_flat(a.g) && is_flat(a.dr) && is_flat(a.dx) &&
           is_stat(a.inv) && is_stat(a.mean);
}

template <int WARPS>
static void norm_dx_launch(const weft_step *step, weft_stream *stream, unsigned rows) {
    const unsigned each = norm_dx_rows<WARPS>(), blocks = (rows + each - 1) / each;
    if (step->kernel->op == WEFT_OP_rmsnorm_dx)
        WEFT_LAUNCH(step, stream, rmsnorm_dx_k<WARPS>, blocks, WARPS * each * 32,
                    sizeof(norm_dx_smem<WARPS>), step->args.rmsnorm_dx);
    else
        WEFT_LAUNCH(step, stream, layernorm_dx_k<WARPS>, blocks, WARPS * each * 32,
                    sizeof(norm_dx_smem<WARPS>), step->args.layernorm_dx);
}

static void norm_dx_run(const weft_step *step, weft_stream *stream) {
    bool rms = step->kernel->op == WEFT_OP_rmsnorm_dx;
    const weft_tensor &dy = rms ? step->args.rmsnorm_dx.dy : step->args.layernorm_dx.dy;
    int warps = row_warps(width_of(dy));
    unsigned rows = (unsigned)bucket_rows(dy);
    if (rows && warps == 1)
        norm_dx_launch<1>(step, stream, rows);
    else if (rows && warps == 4)
        norm_dx_launch<4>(step, stream, rows);
    else if (rows)
        norm_dx_launch<8>(step, stream, rows);
}

WEFT_ROWS(norm_dx) = {WEFT_ROW_AS(rmsnorm_dx, "simt", SIMT, 1, rmsnorm_dx_ok, norm_dx_run),
                      WEFT_ROW_AS(layernorm_dx, "simt", SIMT, 1, layernorm_dx_ok, norm_dx_run),
                      WEFT_ROWS_END};

WEFT_CLAIMS(norm_dx) = {
    {"*norm_dx_k<8>", 256, 4, sizeof(norm_dx_smem<8>), "LDG.128x4 STG.128"},
    {"*norm_dx_k<4>", 128, 8, sizeof(norm_dx_smem<4>), "LDG.128x4 STG.128"},
    {"*norm_dx_k<1>", NORM_ROWS * 32, 4, sizeof(norm_dx_smem<1>), "LDG.128x4 STG.128"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
