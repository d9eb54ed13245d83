/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm: scale to unit root mean square, with the residual sum before it (Zhang and Sennrich,
 * "Root mean square layer normalization", 2019). */
#include "kernels/ref/ref.h"

int ref_rmsnorm_ok(const weft_args *args) {
    const weft_rmsnorm_args *a = &args->rmsnorm;
    return ref_is_float(&a->x) && ref_is_float_or_absent(&a->res) && ref_is_float(&a->g) &&
           ref_is_float_or_absent(&a->y) && ref_is_float_or_absent(&a->r) &&
           ref_is_float_or_absent(&a->inv);
}

/* r = x + res as r's type (x's, where r is not wanted) holds it. */
static double rmsnorm_in(const weft_rmsnorm_args *a, int64_t row, int64_t i) {
    double v = ref_get(&a->x, ref_row(&a->x, row) + i * ref_step(&a->x));
    if (!weft_has(&a->res))
        return v;
    v += ref_get(&a->res, ref_row(&a->res, row) + i * ref_step(&a->res));
    return ref_round(weft_has(&a->r) ? a->r.dtype : a->x.dtype, v);
}

static void rmsnorm_row(const weft_rmsnorm_args *a, int64_t row) {
    int64_t n = ref_width(&a->x);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double r = rmsnorm_in(a, row, i);
        sum += r * r;
    }
    double inv = 1.0 / sqrt(sum / (double)n + a->eps);
    for (int64_t i = 0; i < n; i++) {
        double r = rmsnorm_in(a, row, i), g = ref_get(&a->g, i * ref_step(&a->g)) + a->offset;
        if (weft_has(&a->r))
            ref_put(&a->r, ref_row(&a->r, row) + i * ref_step(&a->r), r);
        if (weft_has(&a->y))
            ref_put(&a->y, ref_row(&a->y, row) + i * ref_step(&a->y), r * inv * g);
    }
    if (weft_has(&a->inv))
        ref_put(&a->inv, ref_place(&a->inv, row, a->inv.ndim), inv);
}

static void rmsnorm_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)worker;
    for (int64_t row = begin; row < end; row++)
        rmsnorm_row(ctx, row);
}

void ref_rmsnorm_run(const weft_step *step, weft_stream *stream) {
    const weft_rmsnorm_args *a = &step->args.rmsnorm;
    weft_parallel(stream, ref_rows(&a->x, &a->rows), ref_grain(ref_width(&a->x)), rmsnorm_rows, a);
}
