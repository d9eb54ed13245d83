/* SPDX-License-Identifier: Apache-2.0
 * gather: chosen rows. Equal types move bytes, so integers and NaN payloads survive. */
#include "kernels/ref/ref.h"

int ref_gather_ok(const weft_args *args) {
    const weft_tensor *x = &args->gather.x, *y = &args->gather.y;
    return (x->dtype == y->dtype && weft_dtype_bits(x->dtype) >= 8) ||
           (ref_is_float(x) && ref_is_float(y));
}

static void gather_row(const weft_gather_args *a, int64_t from, int64_t to) {
    int64_t size = weft_dtype_bits(a->x.dtype) / 8;
    for (int64_t i = 0; i < a->y.shape[1]; i++) {
        int64_t x = from + i * a->x.stride[1], y = to + i * a->y.stride[1];
        if (a->x.dtype == a->y.dtype)
            memcpy((char *)a->y.data + y * size, (const char *)a->x.data + x * size, (size_t)size);
        else
            ref_put(&a->y, y, ref_get(&a->x, x));
    }
}

static void gather_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_gather_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        gather_row(a, ref_int(&a->index, t * a->index.stride[0]) * a->x.stride[0],
                   t * a->y.stride[0]);
}

void ref_gather_run(const weft_step *step, weft_stream *stream) {
    const weft_gather_args *a = &step->args.gather;
    int64_t rows = ref_lead(&a->rows, a->y.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->y.shape[1]), gather_rows, a);
}
