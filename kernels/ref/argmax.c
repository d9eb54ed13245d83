/* SPDX-License-Identifier: Apache-2.0
 * argmax: the lowest index of the largest element; a NaN is never the largest. */
#include "kernels/ref/ref.h"

int ref_argmax_ok(const weft_args *args) {
    const weft_argmax_args *a = &args->argmax;
    return ref_is_float(&a->x) && ref_is_float_or_absent(&a->max) &&
           (!weft_has(&a->id) || a->id.dtype == WEFT_I32);
}

static void argmax_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_argmax_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t x = t * a->x.stride[0];
        int32_t best = -1;
        double most = NAN;
        for (int64_t i = 0; i < a->x.shape[1]; i++) {
            double v = ref_get(&a->x, x + i * a->x.stride[1]);
            if (v > most || (best < 0 && v == v)) {
                best = (int32_t)i;
                most = v;
            }
        }
        if (weft_has(&a->id))
            ((int32_t *)a->id.data)[t * a->id.stride[0]] = best;
        if (weft_has(&a->max))
            ref_put(&a->max, t * a->max.stride[0], most);
    }
}

void ref_argmax_run(const weft_step *step, weft_stream *stream) {
    const weft_argmax_args *a = &step->args.argmax;
    int64_t rows = ref_lead(&a->rows, a->x.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->x.shape[1]), argmax_rows, a);
}
