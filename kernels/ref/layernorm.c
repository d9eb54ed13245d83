/* SPDX-License-Identifier: Apache-2.0
 * layernorm: zero mean, unit variance, with the residual sum before it (Ba et al., 2016). The
 * variance is that of the differences from the mean: a second pass, no cancellation. */
#include "kernels/ref/ref.h"

int ref_layernorm_ok(const weft_args *args) {
    const weft_layernorm_args *a = &args->layernorm;
    return ref_is_float(&a->x) && ref_is_float_or_absent(&a->res) && ref_is_float(&a->g) &&
           ref_is_float_or_absent(&a->b) && ref_is_float_or_absent(&a->y) &&
           ref_is_float_or_absent(&a->r) && ref_is_float_or_absent(&a->mean) &&
           ref_is_float_or_absent(&a->inv);
}

/* r = x + res as r's type (x's, where r is not wanted) holds it. */
static double layernorm_in(const weft_layernorm_args *a, int64_t row, int64_t i) {
    double v = ref_get(&a->x, ref_row(&a->x, row) + i * ref_step(&a->x));
    if (!weft_has(&a->res))
        return v;
    v += ref_get(&a->res, ref_row(&a->res, row) + i * ref_step(&a->res));
    return ref_round(weft_has(&a->r) ? a->r.dtype : a->x.dtype, v);
}

static void layernorm_write(const weft_layernorm_args *a, int64_t row, double mean, double inv) {
    for (int64_t i = 0; i < ref_width(&a->x); i++) {
        double r = layernorm_in(a, row, i);
        double y = (r - mean) * inv * ref_get(&a->g, i * ref_step(&a->g));
        if (weft_has(&a->b))
            y += ref_get(&a->b, i * ref_step(&a->b));
        if (weft_has(&a->r))
            ref_put(&a->r, ref_row(&a->r, row) + i * ref_step(&a->r), r);
        if (weft_has(&a->y))
            ref_put(&a->y, ref_row(&a->y, row) + i * ref_step(&a->y), y);
    }
    if (weft_has(&a->mean))
        ref_put(&a->mean, ref_place(&a->mean, row, a->mean.ndim), mean);
    if (weft_has(&a->inv))
        ref_put(&a->inv, ref_place(&a->inv, row, a->inv.ndim), inv);
}

static void layernorm_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_layernorm_args *a = ctx;
    int64_t n = ref_width(&a->x);
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        double sum = 0, square = 0;
        for (int64_t i = 0; i < n; i++)
            sum += layernorm_in(a, row, i);
        double mean = sum / (double)n;
        for (int64_t i = 0; i < n; i++) {
            double d = layernorm_in(a, row, i) - mean;
            square += d * d;
        }
        layernorm_write(a, row, mean, 1.0 / sqrt(square / (double)n + a->eps));
    }
}

void ref_layernorm_run(const weft_step *step, weft_stream *stream) {
    const weft_layernorm_args *a = &step->args.layernorm;
    weft_parallel(stream, ref_rows(&a->x, &a->rows), ref_grain(ref_width(&a->x)), layernorm_rows,
                  a);
}
