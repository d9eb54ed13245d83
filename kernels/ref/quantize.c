/* SPDX-License-Identifier: Apache-2.0
 * quantize: float on purpose: one division for the scale and one an element, which every backend
 * rounds alike. */
#include "kernels/ref/ref.h"

int ref_quantize_ok(const weft_args *args) {
    const weft_quantize_args *a = &args->quantize;
    return ref_is_float(&a->x) && a->x.ndim == 2 && a->y.dtype == WEFT_I8 &&
           a->scale.dtype == WEFT_F32 && a->scale.shape[1] > 0 &&
           a->x.shape[1] % a->scale.shape[1] == 0;
}

/* NaN if an element is not finite. */
static float slice_scale(const weft_quantize_args *a, int64_t x, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) {
        float v = (float)ref_get(&a->x, x + i * a->x.stride[1]);
        if (!isfinite(v))
            return NAN;
        most = fmaxf(most, fabsf(v));
    }
    return most / 127.0f;
}

static void quantize_slice(const weft_quantize_args *a, int64_t t, int64_t leaf) {
    int64_t n = a->x.shape[1] / a->scale.shape[1];
    int64_t x = t * a->x.stride[0] + leaf * n * a->x.stride[1];
    int64_t y = t * a->y.stride[0] + leaf * n * a->y.stride[1];
    float scale = slice_scale(a, x, n);
    ref_put(&a->scale, t * a->scale.stride[0] + leaf * a->scale.stride[1], scale);
    for (int64_t i = 0; i < n; i++) {
        float q = scale > 0 ? (float)ref_get(&a->x, x + i * a->x.stride[1]) / scale : 0;
        q = rintf(fminf(127.0f, fmaxf(-127.0f, q)));
        ((int8_t *)a->y.data)[y + i * a->y.stride[1]] = (int8_t)q;
    }
}

static void quantize_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_quantize_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int64_t leaf = 0; leaf < a->scale.shape[1]; leaf++)
            quantize_slice(a, t, leaf);
}

void ref_quantize_run(const weft_step *step, weft_stream *stream) {
    const weft_quantize_args *a = &step->args.quantize;
    int64_t rows = ref_lead(&a->rows, a->x.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->x.shape[1]), quantize_rows, a);
}
