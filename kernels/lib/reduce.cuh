/* SPDX-License-Identifier: Apache-2.0
 * Reductions in a fixed tree: over the lanes of a warp by halves (16, 8, 4, 2, 1), then over the
 * warps of a block in pairs of neighbours. Every lane gets the same bits. */
#pragma once
#include <mem.cuh>

namespace WEFT_CU_NS {

struct op_sum {
    __device__ static __forceinline__ float of(float a, float b) {
        return a + b;
    }
};

/* The larger; a NaN stays. */
struct op_max {
    __device__ static __forceinline__ float of(float a, float b) {
        return a != a ? a : b > a || b != b ? b : a;
    }
};

template <class O> __device__ __forceinline__ float warp_reduce(float v WEFT_AT) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        v = O::of(v, __shfl_xor_sync(0xffffffffu, v, d, 32 WEFT_PASS));
    return v;
}

/* `slot` holds WARPS numbers of shared memory that nothing else uses between two barriers. */
template <class O, int WARPS>
__device__ __forceinline__ float block_reduce(float v, float (&slot)[WARPS] WEFT_AT) {
    v = warp_reduce<O>(v WEFT_PASS);
    if (WARPS == 1)
        return v;
    if (threadIdx.x % 32 == 0)
        st_shared(&slot[threadIdx.x / 32], v WEFT_PASS);
    __syncthreads(WEFT_PASS_ALONE);
    v = ld_shared(&slot[threadIdx.x % WARPS] WEFT_PASS);
#pragma unroll
    for (int d = 1; d < WARPS; d *= 2) /* pairs of neighbours */
        v = O::of(v, __shfl_xor_sync(0xffffffffu, v, d, 32 WEFT_PASS));
    return v;
}

} // namespace WEFT_CU_NS
