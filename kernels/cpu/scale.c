/* SPDX-License-Identifier: Apache-2.0
 * scale, fill, accumulate and sum_squares: one pass, bound by memory. */
#include "cpu.h"

CPU_OK(scale) {
    return cpu_flat(&args->scale.x) && cpu_flat(&args->scale.y);
}

static void scale_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_scale_args *a = ctx;
    v16 s = v16_set1(a->s);
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const void *x = cpu_row(&a->x, r);
        void *y = cpu_row(&a->y, r);
        CPU_EACH16(i, n, cpu_width(&a->y)) {
            v16_put(a->y.dtype, y, i, (int)n, v16_mul(s, v16_get(a->x.dtype, x, i, (int)n)));
        }
    }
}

CPU_RUN(scale) {
    const weft_scale_args *a = &step->args.scale;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), cpu_width(&a->y), scale_rows, a);
}

CPU_OK(accumulate) {
    const weft_tensor *x = &args->accumulate.x, *y = &args->accumulate.y;
    return x->dtype == WEFT_F32 && y->dtype == WEFT_F32 && cpu_flat(x) && cpu_flat(y);
}

static void accumulate_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_accumulate_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *x = cpu_row(&a->x, r);
        float *y = cpu_row(&a->y, r);
        CPU_EACH16(i, n, cpu_width(&a->y)) {
            v16 v = v16_get(WEFT_F32, y, i, (int)n);
            v16_put(WEFT_F32, y, i, (int)n, v16_add(v, v16_get(WEFT_F32, x, i, (int)n)));
        }
    }
}

CPU_RUN(accumulate) {
    const weft_accumulate_args *a = &step->args.accumulate;
    int64_t width = cpu_max(1, cpu_width(&a->y));
    cpu_each_row(stream, weft_tensor_count(&a->y) / width, width, accumulate_rows, a);
}

CPU_OK(fill) {
    return args->fill.y.dtype == WEFT_F32 && cpu_flat(&args->fill.y);
}

static void fill_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_fill_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        float *y = cpu_row(&a->y, r);
        CPU_EACH16(i, n, cpu_width(&a->y)) {
            v16_put(WEFT_F32, y, i, (int)n, v16_set1(a->value));
        }
    }
}

CPU_RUN(fill) {
    const weft_fill_args *a = &step->args.fill;
    int64_t width = cpu_max(1, cpu_width(&a->y));
    cpu_each_row(stream, weft_tensor_count(&a->y) / width, width, fill_rows, a);
}

CPU_OK(sum_squares) {
    const weft_sum_squares_args *a = &args->sum_squares;
    int n = a->leaves;
    return (n == 1 || n == 2 || n == 4 || n == 8) && a->x.ndim == 2 && a->x.shape[1] % n == 0 &&
           a->x.dtype == WEFT_F32 && a->y.dtype == WEFT_F32 && cpu_flat(&a->x);
}

static float sum_squares_slice(const float *x, int64_t width) {
    v16 sum = v16_zero();
    CPU_EACH_BLOCK(at, block, width) {
        v16 part = v16_zero();
        CPU_EACH16(i, n, block) {
            v16 v = v16_get(WEFT_F32, x, at + i, (int)n);
            part = v16_fma(v, v, part);
        }
        sum = v16_add(sum, part);
    }
    return v16_sum(sum);
}

static void sum_squares_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_sum_squares_args *a = ctx;
    int64_t width = a->x.shape[1] / a->leaves;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *x = cpu_row(&a->x, r);
        float *y = (float *)a->y.data + r * a->y.stride[0];
        for (int l = 0; l < a->leaves; l++)
            y[l * a->y.stride[1]] = sum_squares_slice(x + l * width, width);
    }
}

CPU_RUN(sum_squares) {
    const weft_sum_squares_args *a = &step->args.sum_squares;
    cpu_each_row(stream, a->x.shape[0], a->x.shape[1], sum_squares_rows, a);
}
