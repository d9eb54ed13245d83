/* SPDX-License-Identifier: Apache-2.0
 * The end of a matmul: leaves into the fixed tree, then bias, activation and residual, rounded
 * after each as y holds it. */
#pragma once
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

/* ((0+1)+(2+3))+((4+5)+(6+7)), leaf by leaf in ascending order: add(l, v) returns the sum of the
 * whole subtree that leaf l completes, so after the last of 1, 2, 4 or 8 leaves it is the total. */
struct tree_sum {
    float one, two, four; /* finished subtrees that wait for their right neighbour */

    __device__ __forceinline__ float add(int leaf, float v) {
        if (!(leaf & 1))
            return one = v;
        v = one + v;
        if (!(leaf & 2))
            return two = v;
        v = two + v;
        if (!(leaf & 4))
            return four = v;
        return four + v;
    }
};

/* y[T,N], bias[N] and res[T,N] may be absent. */
struct epilogue {
    const weft_tensor *y, *bias, *res;
    int act;

    __device__ __forceinline__ void store1(int64_t t, int64_t n, float v WEFT_AT) const {
        int dtype = y->dtype;
        if (weft_has(bias))
            v += load1(*bias, n * bias->stride[0] WEFT_PASS);
        v = round_as(dtype, v);
        v = act ? round_as(dtype, weft_act_apply(act, v)) : v;
        if (weft_has(res))
            v += load1(*res, t * res->stride[0] + n * res->stride[1] WEFT_PASS);
        WEFT_CU_NS::store1(*y, t * y->stride[0] + n * y->stride[1], v WEFT_PASS);
    }

    /* Eight neighbours of one row; bias, res and y are flat. */
    __device__ __forceinline__ void store8(const chunk &c, float (&v)[CHUNK] WEFT_AT) const {
        int dtype = y->dtype;
        float w[CHUNK];
        if (weft_has(bias)) {
            load8(*bias, c.i, c.n, w WEFT_PASS);
#pragma unroll
            for (int i = 0; i < CHUNK; i++)
                v[i] += w[i];
        }
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            v[i] = round_as(dtype, v[i]);
        if (act) {
#pragma unroll
            for (int i = 0; i < CHUNK; i++)
                v[i] = round_as(dtype, weft_act_apply(act, v[i]));
        }
        if (weft_has(res)) {
            load8(*res, c.row * res->stride[0] + c.i, c.n, w WEFT_PASS);
#pragma unroll
            for (int i = 0; i < CHUNK; i++)
                v[i] = v[i] + w[i];
        }
        WEFT_CU_NS::store8(*y, c.row * y->stride[0] + c.i, c.n, v WEFT_PASS);
    }
};

} // namespace WEFT_CU_NS
