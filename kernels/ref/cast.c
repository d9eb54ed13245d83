/* SPDX-License-Identifier: Apache-2.0
 * cast: element by element between types and strides. Equal types move bytes. */
#include "kernels/ref/ref.h"

int ref_cast_ok(const weft_args *args) {
    const weft_tensor *x = &args->cast.x, *y = &args->cast.y;
    return x->ndim == y->ndim && ((x->dtype == y->dtype && weft_dtype_bits(x->dtype) >= 8) ||
                                  (ref_is_float(x) && ref_is_float(y)));
}

static void cast_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_cast_args *a = ctx;
    int64_t size = weft_dtype_bits(a->x.dtype) / 8;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        int64_t x = ref_row(&a->x, r), y = ref_row(&a->y, r);
        for (int64_t i = 0; i < ref_width(&a->y); i++) {
            if (a->x.dtype == a->y.dtype)
                memcpy((char *)a->y.data + y * size, (const char *)a->x.data + x * size,
                       (size_t)size);
            else
                ref_put(&a->y, y, ref_get(&a->x, x));
            x += ref_step(&a->x);
            y += ref_step(&a->y);
        }
    }
}

void ref_cast_run(const weft_step *step, weft_stream *stream) {
    const weft_cast_args *a = &step->args.cast;
    weft_parallel(stream, ref_rows(&a->y, &a->rows), ref_grain(ref_width(&a->y)), cast_rows, a);
}
