/* SPDX-License-Identifier: Apache-2.0
 * A row from outside the tree: y = a + b in fp32 on the CPU.
 *
 *     cc -std=c17 -O3 -shared -fPIC -Iinclude docs/examples/kernel.c -o mine.so
 *     WEFT_KERNEL_LIB=./mine.so build/checkkernels --op add --row mine
 *     WEFT_KERNEL_LIB=./mine.so build/checkkernels --bench --op add
 *     WEFT_KERNEL_LIB=./mine.so WEFT_KERNEL=add=mine build/weft run MODEL -p "It was" */
#include "weft/kernel_lib.h"

/* Rows of the last axis that may be read and written: all of the bucket's, or `rows` of them. */
static int64_t true_rows(const weft_add_args *a) {
    int64_t lead = a->y.shape[0];
    if (weft_has(&a->rows) && *(const int32_t *)a->rows.data < lead)
        lead = *(const int32_t *)a->rows.data;
    return lead;
}

/* May look at shapes, strides and types; which row does a step is settled when a plan is built. */
static int mine_ok(const weft_args *args) {
    const weft_tensor *t[] = {&args->add.a, &args->add.b, &args->add.y};
    for (int i = 0; i < 3; i++)
        if (t[i]->dtype != WEFT_F32 || t[i]->ndim != 2 || t[i]->stride[1] != 1)
            return 0;
    return 1;
}

/* Rows [begin, end): whoever runs them, the result is the same. */
static void mine_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_add_args *s = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *a = (const float *)s->a.data + r * s->a.stride[0];
        const float *b = (const float *)s->b.data + r * s->b.stride[0];
        float *y = (float *)s->y.data + r * s->y.stride[0];
        for (int64_t i = 0; i < s->y.shape[1]; i++)
            y[i] = a[i] + b[i];
    }
}

static void mine_run(const weft_step *step, weft_stream *stream) {
    const weft_add_args *a = &step->args.add;
    weft_parallel(stream, true_rows(a), 16, mine_rows, a);
}

/* A rank above the built-in rows' makes it the one that is taken. */
WEFT_KERNEL_LIBRARY = {{.op = WEFT_OP_add,
                        .backend = "cpu",
                        .name = "mine",
                        .arith = WEFT_ARITH_NONE,
                        .rank = 100,
                        .ok = mine_ok,
                        .run = mine_run},
                       WEFT_KERNEL_LIBRARY_END};
