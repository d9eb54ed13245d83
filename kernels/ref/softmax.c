/* SPDX-License-Identifier: Apache-2.0
 * softmax over the last axis; a row without a finite element is all zeros. */
#include "kernels/ref/ref.h"

int ref_softmax_ok(const weft_args *args) {
    return ref_is_float(&args->softmax.x) && ref_is_float(&args->softmax.y);
}

static void softmax_row(const weft_softmax_args *a, int64_t row) {
    int64_t n = ref_width(&a->x), x = ref_row(&a->x, row), y = ref_row(&a->y, row);
    double most = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = ref_get(&a->x, x + i * ref_step(&a->x));
        most = v > most || v != v ? v : most;
    }
    bool none = most == -INFINITY;
    for (int64_t i = 0; i < n && !none; i++)
        total += weft_exp(ref_get(&a->x, x + i * ref_step(&a->x)) - most);
    for (int64_t i = 0; i < n; i++) {
        double v = ref_get(&a->x, x + i * ref_step(&a->x));
        ref_put(&a->y, y + i * ref_step(&a->y), none ? 0.0 : weft_exp(v - most) / total);
    }
}

static void softmax_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        softmax_row(ctx, r);
}

void ref_softmax_run(const weft_step *step, weft_stream *stream) {
    const weft_softmax_args *a = &step->args.softmax;
    weft_parallel(stream, ref_rows(&a->y, &a->rows), ref_grain(8 * ref_width(&a->y)), softmax_rows,
                  a);
}
