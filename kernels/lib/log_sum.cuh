/* SPDX-License-Identifier: Apache-2.0
 * The log-sum-exp of a row of logits in one pass: a thread scales its sum whenever its largest
 * element grows; threads meet in the fixed tree. */
#pragma once
#include "kernels/lib/hold.cuh"
#include "kernels/lib/reduce.cuh"

namespace WEFT_CU_NS {

/* Sum of e^(x - most) over what a thread has seen. */
struct log_sum {
    float most, sum;

    __device__ __forceinline__ void add(const float (&v)[CHUNK], int n) {
        float top = most, part[CHUNK];
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            top = j < n ? op_max::of(top, v[j]) : top;
        if (top == -INFINITY)
            return;
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            part[j] = j < n ? weft_expf(v[j] - top) : 0.0f;
        float low = (part[0] + part[1]) + (part[2] + part[3]);
        sum = sum * weft_expf(most - top) + (low + ((part[4] + part[5]) + (part[6] + part[7])));
        most = top;
    }
};

} // namespace WEFT_CU_NS
