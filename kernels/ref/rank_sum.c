/* SPDX-License-Identifier: Apache-2.0
 * rank_sum: float on purpose, since the order of the additions is the contract. */
#include "kernels/ref/ref.h"

int ref_rank_sum_ok(const weft_args *args) {
    return args->rank_sum.x.dtype == WEFT_F32 && args->rank_sum.y.dtype == WEFT_F32;
}

static void rank_sum_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rank_sum_args *a = ctx;
    const float *x = a->x.data;
    float *y = a->y.data;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < a->y.shape[1]; i++) {
            const float *from = x + t * a->x.stride[1] + i * a->x.stride[2];
            float sum = from[0];
            for (int64_t r = 1; r < a->x.shape[0]; r++)
                sum += from[r * a->x.stride[0]];
            y[t * a->y.stride[0] + i * a->y.stride[1]] = sum;
        }
}

void ref_rank_sum_run(const weft_step *step, weft_stream *stream) {
    const weft_rank_sum_args *a = &step->args.rank_sum;
    weft_parallel(stream, a->y.shape[0], ref_grain(a->y.shape[1]), rank_sum_rows, a);
}
