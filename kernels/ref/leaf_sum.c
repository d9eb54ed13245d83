/* SPDX-License-Identifier: Apache-2.0
 * leaf_sum: the second half of a split matmul. Float on purpose: the tree is part of the contract
 * and must give matmul's own bits. */
#include "kernels/ref/ref.h"

int ref_leaf_sum_ok(const weft_args *args) {
    const weft_leaf_sum_args *a = &args->leaf_sum;
    int64_t n = a->x.shape[0];
    return (n == 1 || n == 2 || n == 4 || n == 8) && a->x.dtype == WEFT_F32 &&
           ref_is_float(&a->y) && ref_is_float_or_absent(&a->bias) &&
           ref_is_float_or_absent(&a->res);
}

static void leaf_sum_one(const weft_leaf_sum_args *a, int64_t t, int64_t n) {
    float leaf[8];
    int leaves = (int)a->x.shape[0], dtype = a->y.dtype;
    for (int l = 0; l < leaves; l++)
        leaf[l] = (float)ref_get(&a->x,
                                 l * a->x.stride[0] + t * a->x.stride[1] + n * a->x.stride[2]);
    double v = weft_tree_sum(leaf, leaves);
    if (weft_has(&a->bias))
        v += ref_get(&a->bias, n * ref_step(&a->bias));
    v = ref_round(dtype, v);
    if (weft_has(&a->res))
        v += ref_get(&a->res, t * a->res.stride[0] + n * a->res.stride[1]);
    ref_put(&a->y, t * a->y.stride[0] + n * a->y.stride[1], v);
}

static void leaf_sum_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_leaf_sum_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int64_t n = 0; n < a->y.shape[1]; n++)
            leaf_sum_one(a, t, n);
}

void ref_leaf_sum_run(const weft_step *step, weft_stream *stream) {
    const weft_leaf_sum_args *a = &step->args.leaf_sum;
    int64_t rows = ref_lead(&a->rows, a->y.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->y.shape[1]), leaf_sum_rows, a);
}
