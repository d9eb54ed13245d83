/* SPDX-License-Identifier: Apache-2.0
 * gather and cast: rows moved, converted where the types differ. Equal types move bytes, so
 * integers and NaN payloads survive. */
#include "cpu.h"

static int move_ok(const weft_tensor *x, const weft_tensor *y) {
    int flat = x->ndim > 0 && x->stride[x->ndim - 1] == 1 && y->stride[y->ndim - 1] == 1;
    return flat && x->ndim == y->ndim &&
           ((x->dtype == y->dtype && weft_dtype_bits(x->dtype) >= 8) ||
            (cpu_is_float(x) && cpu_is_float(y)));
}

static void move_row(const weft_tensor *x, const void *from, const weft_tensor *y, void *to) {
    if (x->dtype == y->dtype) {
        memcpy(to, from, (size_t)weft_dtype_bytes(x->dtype, cpu_width(y)));
        return;
    }
    CPU_EACH16(i, n, cpu_width(y)) {
        v16_put(y->dtype, to, i, (int)n, v16_get(x->dtype, from, i, (int)n));
    }
}

CPU_OK(gather) {
    return move_ok(&args->gather.x, &args->gather.y) && args->gather.y.ndim == 2;
}

static void gather_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_gather_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        int64_t from = ((const int32_t *)a->index.data)[r * a->index.stride[0]];
        move_row(&a->x, cpu_row(&a->x, from), &a->y, cpu_row(&a->y, r));
    }
}

CPU_RUN(gather) {
    const weft_gather_args *a = &step->args.gather;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->y), cpu_width(&a->y), gather_rows, a);
}

CPU_OK(cast) {
    return move_ok(&args->cast.x, &args->cast.y);
}

static void cast_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_cast_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        move_row(&a->x, cpu_row(&a->x, r), &a->y, cpu_row(&a->y, r));
}

CPU_RUN(cast) {
    const weft_cast_args *a = &step->args.cast;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), cpu_width(&a->y), cast_rows, a);
}
