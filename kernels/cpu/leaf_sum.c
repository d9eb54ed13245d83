/* SPDX-License-Identifier: Apache-2.0
 * leaf_sum: the second half of a split matmul, with matmul's own tree and epilogue. */
#include "cpu.h"

CPU_OK(leaf_sum) {
    const weft_leaf_sum_args *a = &args->leaf_sum;
    int64_t n = a->x.shape[0];
    return a->x.dtype == WEFT_F32 && a->x.stride[2] == 1 && cpu_flat(&a->bias) &&
           cpu_flat(&a->res) && cpu_flat(&a->y) && (n == 1 || n == 2 || n == 4 || n == 8);
}

static void leaf_sum_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_leaf_sum_args *a = ctx;
    int leaves = (int)a->x.shape[0];
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        CPU_EACH16(i, n, a->y.shape[1]) {
            v16 leaf[8];
            for (int l = 0; l < leaves; l++)
                leaf[l] = v16_get(WEFT_F32, a->x.data, l * a->x.stride[0] + t * a->x.stride[1] + i,
                                  (int)n);
            cpu_finish(&a->y, &a->bias, WEFT_ACT_NONE, &a->res, t, i, (int)n,
                       cpu_tree(leaf, leaves));
        }
}

CPU_RUN(leaf_sum) {
    const weft_leaf_sum_args *a = &step->args.leaf_sum;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), a->x.shape[0] * a->y.shape[1], leaf_sum_rows,
                 a);
}
