/* SPDX-License-Identifier: Apache-2.0
 * scale, accumulate and sum_squares. The first two are single fp32 operations. */
#include "kernels/ref/ref.h"

int ref_scale_ok(const weft_args *args) {
    return ref_is_float(&args->scale.x) && ref_is_float(&args->scale.y);
}

static void scale_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_scale_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < ref_width(&a->x); i++) {
            double x = ref_get(&a->x, ref_row(&a->x, r) + i * ref_step(&a->x));
            ref_put(&a->y, ref_row(&a->y, r) + i * ref_step(&a->y), (double)a->s * x);
        }
}

void ref_scale_run(const weft_step *step, weft_stream *stream) {
    const weft_scale_args *a = &step->args.scale;
    weft_parallel(stream, ref_rows(&a->x, &a->rows), ref_grain(ref_width(&a->x)), scale_rows, a);
}

int ref_accumulate_ok(const weft_args *args) {
    return args->accumulate.x.dtype == WEFT_F32 && args->accumulate.y.dtype == WEFT_F32;
}

static void accumulate_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_accumulate_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *x = (const float *)a->x.data + ref_row(&a->x, r);
        float *y = (float *)a->y.data + ref_row(&a->y, r);
        for (int64_t i = 0; i < ref_width(&a->x); i++)
            y[i * ref_step(&a->y)] += x[i * ref_step(&a->x)];
    }
}

void ref_accumulate_run(const weft_step *step, weft_stream *stream) {
    const weft_accumulate_args *a = &step->args.accumulate;
    int64_t rows = weft_tensor_count(&a->x) / (ref_width(&a->x) ? ref_width(&a->x) : 1);
    weft_parallel(stream, rows, ref_grain(ref_width(&a->x)), accumulate_rows, a);
}

int ref_sum_squares_ok(const weft_args *args) {
    const weft_sum_squares_args *a = &args->sum_squares;
    int n = a->leaves;
    return (n == 1 || n == 2 || n == 4 || n == 8) && a->x.shape[1] % n == 0 && a->x.ndim == 2 &&
           a->y.shape[1] == n && a->x.dtype == WEFT_F32 && a->y.dtype == WEFT_F32;
}

static void sum_squares_slices(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_sum_squares_args *a = ctx;
    int64_t width = a->x.shape[1] / a->leaves;
    (void)worker;
    for (int64_t s = begin; s < end; s++) {
        int64_t n = s / a->leaves, l = s % a->leaves;
        double sum = 0;
        for (int64_t k = l * width; k < (l + 1) * width; k++) {
            double x = ref_get(&a->x, n * a->x.stride[0] + k * a->x.stride[1]);
            sum += x * x;
        }
        ref_put(&a->y, n * a->y.stride[0] + l * a->y.stride[1], sum);
    }
}

void ref_sum_squares_run(const weft_step *step, weft_stream *stream) {
    const weft_sum_squares_args *a = &step->args.sum_squares;
    weft_parallel(stream, a->x.shape[0] * a->leaves, ref_grain(a->x.shape[1] / a->leaves),
                  sum_squares_slices, a);
}
