/* SPDX-License-Identifier: Apache-2.0
 * argmax: the lowest index of the largest element; a NaN is never the largest. Eight warps a row.
 * Exact, so any order gives the same. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

enum { ARGMAX_WARPS = 8 };

struct best {
    float value;
    int32_t id; /* -1: none yet */
};

struct argmax_smem {
    float value[ARGMAX_WARPS];
    int32_t id[ARGMAX_WARPS];
};

__device__ __forceinline__ best better(best a, best b) {
    if (b.id < 0 || (a.id >= 0 && (a.value > b.value || (a.value == b.value && a.id < b.id))))
        return a;
    return b;
}

__device__ static best warp_best(best b) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        best o = {__shfl_xor_sync(0xffffffffu, b.value, d), __shfl_xor_sync(0xffffffffu, b.id, d)};
        b = better(b, o);
    }
    return b;
}

__global__ void __launch_bounds__(ARGMAX_WARPS * 32)
    argmax_k(const __grid_constant__ weft_argmax_args a) {
    WEFT_SMEM(argmax_smem, s);
    int64_t width = a.x.shape[1], t = blockIdx.x;
    float v[CHUNK];
    best b = {weft_bits_f32(0x7fc00000u), -1};
    if (t >= lead_rows(a.rows, a.x.shape[0]))
        return;
    for (int64_t i = threadIdx.x * CHUNK; i < width; i += ARGMAX_WARPS * 32 * CHUNK) {
        int n = width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
        load8(a.x, t * a.x.stride[0] + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            if (j < n && v[j] == v[j])
                b = better(b, best{v[j], (int32_t)(i + j)});
    }
    b = warp_best(b);
    if (threadIdx.x % 32 == 0) {
        st_shared(&s.value[threadIdx.x / 32], b.value);
        st_shared(&s.id[threadIdx.x / 32], b.id);
    }
    __syncthreads();
    if (threadIdx.x)
        return;
    for (int i = 1; i < ARGMAX_WARPS; i++)
        b = better(b, best{ld_shared(&s.value[i]), ld_shared(&s.id[i])});
    if (weft_has(&a.id))
        st_global((int32_t *)a.id.data + t * a.id.stride[0], b.id);
    if (weft_has(&a.max))
        store1(a.max, t * a.max.stride[0], b.value);
}

static int argmax_ok(const weft_args *args) {
    const weft_argmax_args &a = args->argmax;
    return is_flat(a.x) && (!weft_has(&a.max) || is_float(a.max)) &&
           (!weft_has(&a.id) || a.id.dtype == WEFT_I32);
}

static void argmax_run(const weft_step *step, weft_stream *stream) {
    const weft_argmax_args *a = &step->args.argmax;
    if (a->x.shape[0])
        WEFT_LAUNCH(step, stream, argmax_k, (unsigned)a->x.shape[0], ARGMAX_WARPS * 32,
                    sizeof(argmax_smem), *a);
}

WEFT_ROWS(argmax) = {WEFT_ROW(argmax, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(argmax) = {{"argmax_k", ARGMAX_WARPS * 32, 8, sizeof(argmax_smem), "LDG.128"},
                       WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
