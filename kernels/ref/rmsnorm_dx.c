/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm_dx and rmsnorm_dg: gradients of rmsnorm in its input and in its gain. */
#include "kernels/ref/ref.h"

int ref_rmsnorm_dx_ok(const weft_args *args) {
    const weft_rmsnorm_dx_args *a = &args->rmsnorm_dx;
    return ref_is_float(&a->dy) && ref_is_float(&a->r) && ref_is_float(&a->g) &&
           a->inv.dtype == WEFT_F32 && ref_is_float_or_absent(&a->dr) && ref_is_float(&a->dx);
}

static double rmsnorm_dx_d(const weft_rmsnorm_dx_args *a, int64_t row, int64_t i) {
    double dy = ref_get(&a->dy, ref_row(&a->dy, row) + i * ref_step(&a->dy));
    return dy * (ref_get(&a->g, i * ref_step(&a->g)) + (double)a->offset);
}

static double rmsnorm_dx_r(const weft_rmsnorm_dx_args *a, int64_t row, int64_t i) {
    return ref_get(&a->r, ref_row(&a->r, row) + i * ref_step(&a->r));
}

static void rmsnorm_dx_row(const weft_rmsnorm_dx_args *a, int64_t row) {
    int64_t n = ref_width(&a->dy);
    double inv = ref_get(&a->inv, ref_place(&a->inv, row, a->inv.ndim)), sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += rmsnorm_dx_d(a, row, i) * rmsnorm_dx_r(a, row, i);
    double along = inv * inv * sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double v = inv * (rmsnorm_dx_d(a, row, i) - rmsnorm_dx_r(a, row, i) * along);
        if (weft_has(&a->dr))
            v += ref_get(&a->dr, ref_row(&a->dr, row) + i * ref_step(&a->dr));
        ref_put(&a->dx, ref_row(&a->dx, row) + i * ref_step(&a->dx), v);
    }
}

static void rmsnorm_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)worker;
    for (int64_t row = begin; row < end; row++)
        rmsnorm_dx_row(ctx, row);
}

void ref_rmsnorm_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_rmsnorm_dx_args *a = &step->args.rmsnorm_dx;
    weft_parallel(stream, ref_rows(&a->dy, &a->rows), ref_grain(ref_width(&a->dy)), rmsnorm_dx_rows,
                  a);
}

int ref_rmsnorm_dg_ok(const weft_args *args) {
    const weft_rmsnorm_dg_args *a = &args->rmsnorm_dg;
    return ref_is_float(&a->dy) && ref_is_float(&a->r) && a->inv.dtype == WEFT_F32 &&
           a->dg.dtype == WEFT_F32 && a->dg.shape[0] == ref_width(&a->dy) &&
           ref_shards_ok(a->shards, a->dy.shape[0]);
}

/* Rows of a token, its heads, follow one another: a chain over tokens is one over their rows. */
static float rmsnorm_dg_chain(const void *ctx, int64_t i, int64_t begin, int64_t end, float sum) {
    const weft_rmsnorm_dg_args *a = ctx;
    int64_t heads = a->dy.ndim > 2 ? a->dy.shape[1] : 1;
    for (int64_t row = begin * heads; row < end * heads; row++) {
        double dy = ref_get(&a->dy, ref_row(&a->dy, row) + i * ref_step(&a->dy));
        double r = ref_get(&a->r, ref_row(&a->r, row) + i * ref_step(&a->r));
        sum = ref_chain(sum, dy * r * ref_get(&a->inv, ref_place(&a->inv, row, a->inv.ndim)));
    }
    return sum;
}

static void rmsnorm_dg_columns(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rmsnorm_dg_args *a = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        ref_by_shards((float *)a->dg.data + i * a->dg.stride[0], a->shards, a->dy.shape[0],
                      ref_lead(&a->rows, a->dy.shape[0]), i, rmsnorm_dg_chain, a);
}

void ref_rmsnorm_dg_run(const weft_step *step, weft_stream *stream) {
    const weft_rmsnorm_dg_args *a = &step->args.rmsnorm_dg;
    weft_parallel(stream, ref_width(&a->dy), ref_grain(ref_rows(&a->dy, &a->rows)),
                  rmsnorm_dg_columns, a);
}
