/* SPDX-License-Identifier: Apache-2.0
 * fill: one number everywhere. */
#include "kernels/ref/ref.h"

int ref_fill_ok(const weft_args *args) {
    return args->fill.y.dtype == WEFT_F32;
}

static void fill_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_fill_args *a = ctx;
    int64_t n = ref_width(&a->y), step = ref_step(&a->y);
    (void)worker;
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < n; i++)
            ((float *)a->y.data)[ref_row(&a->y, row) + i * step] = a->value;
}

void ref_fill_run(const weft_step *step, weft_stream *stream) {
    const weft_fill_args *a = &step->args.fill;
    weft_parallel(stream, ref_rows(&a->y, &(weft_tensor){0}), ref_grain(ref_width(&a->y)),
                  fill_rows, a);
}
