/* SPDX-License-Identifier: Apache-2.0
 * layernorm_dx and layernorm_dg: gradients of layernorm in its input, gain and bias. */
#include "kernels/ref/ref.h"

int ref_layernorm_dx_ok(const weft_args *args) {
    const weft_layernorm_dx_args *a = &args->layernorm_dx;
    return ref_is_float(&a->dy) && ref_is_float(&a->r) && ref_is_float(&a->g) &&
           a->mean.dtype == WEFT_F32 && a->inv.dtype == WEFT_F32 &&
           ref_is_float_or_absent(&a->dr) && ref_is_float(&a->dx);
}

typedef struct {
    const weft_layernorm_dx_args *a;
    int64_t row;
    double mean, inv;
} layernorm_dx_at;

static double layernorm_dx_d(const layernorm_dx_at *u, int64_t i) {
    const weft_layernorm_dx_args *a = u->a;
    return ref_get(&a->dy, ref_row(&a->dy, u->row) + i * ref_step(&a->dy)) *
           ref_get(&a->g, i * ref_step(&a->g));
}

static double layernorm_dx_h(const layernorm_dx_at *u, int64_t i) {
    const weft_tensor *r = &u->a->r;
    return (ref_get(r, ref_row(r, u->row) + i * ref_step(r)) - u->mean) * u->inv;
}

static void layernorm_dx_row(const weft_layernorm_dx_args *a, int64_t row) {
    layernorm_dx_at u = {.a = a,
                         .row = row,
                         .mean = ref_get(&a->mean, ref_place(&a->mean, row, a->mean.ndim)),
                         .inv = ref_get(&a->inv, ref_place(&a->inv, row, a->inv.ndim))};
    int64_t n = ref_width(&a->dy);
    double sum = 0, along = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += layernorm_dx_d(&u, i);
        along += layernorm_dx_d(&u, i) * layernorm_dx_h(&u, i);
    }
    for (int64_t i = 0; i < n; i++) {
        double d = layernorm_dx_d(&u, i) - sum / (double)n;
        double v = u.inv * (d - layernorm_dx_h(&u, i) * (along / (double)n));
        if (weft_has(&a->dr))
            v += ref_get(&a->dr, ref_row(&a->dr, row) + i * ref_step(&a->dr));
        ref_put(&a->dx, ref_row(&a->dx, row) + i * ref_step(&a->dx), v);
    }
}

static void layernorm_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)worker;
    for (int64_t row = begin; row < end; row++)
        layernorm_dx_row(ctx, row);
}

void ref_layernorm_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_layernorm_dx_args *a = &step->args.layernorm_dx;
    weft_parallel(stream, ref_rows(&a->dy, &a->rows), ref_grain(ref_width(&a->dy)),
                  layernorm_dx_rows, a);
}

int ref_layernorm_dg_ok(const weft_args *args) {
    const weft_layernorm_dg_args *a = &args->layernorm_dg;
    return ref_is_float(&a->dy) && ref_is_float(&a->r) && a->mean.dtype == WEFT_F32 &&
           a->inv.dtype == WEFT_F32 && a->dg.dtype == WEFT_F32 &&
           a->dg.shape[0] == ref_width(&a->dy) &&
           (!weft_has(&a->db) ||
            (a->db.dtype == WEFT_F32 && a->db.shape[0] == ref_width(&a->dy))) &&
           ref_shards_ok(a->shards, a->dy.shape[0]);
}

static float layernorm_dg_chain(const void *ctx, int64_t i, int64_t begin, int64_t end, float sum) {
    const weft_layernorm_dg_args *a = ctx;
    int64_t heads = a->dy.ndim > 2 ? a->dy.shape[1] : 1;
    for (int64_t row = begin * heads; row < end * heads; row++) {
        double mean = ref_get(&a->mean, ref_place(&a->mean, row, a->mean.ndim));
        double inv = ref_get(&a->inv, ref_place(&a->inv, row, a->inv.ndim));
        double h = (ref_get(&a->r, ref_row(&a->r, row) + i * ref_step(&a->r)) - mean) * inv;
        sum = ref_chain(sum, h * ref_get(&a->dy, ref_row(&a->dy, row) + i * ref_step(&a->dy)));
    }
    return sum;
}

static float layernorm_db_chain(const void *ctx, int64_t i, int64_t begin, int64_t end, float sum) {
    const weft_layernorm_dg_args *a = ctx;
    int64_t heads = a->dy.ndim > 2 ? a->dy.shape[1] : 1;
    for (int64_t row = begin * heads; row < end * heads; row++)
        sum = ref_chain(sum, ref_get(&a->dy, ref_row(&a->dy, row) + i * ref_step(&a->dy)));
    return sum;
}

static void layernorm_dg_columns(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_layernorm_dg_args *a = ctx;
    int64_t T = a->dy.shape[0], lead = ref_lead(&a->rows, T);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        ref_by_shards((float *)a->dg.data + i * a->dg.stride[0], a->shards, T, lead, i,
                      layernorm_dg_chain, a);
        if (weft_has(&a->db))
            ref_by_shards((float *)a->db.data + i * a->db.stride[0], a->shards, T, lead, i,
                          layernorm_db_chain, a);
    }
}

void ref_layernorm_dg_run(const weft_step *step, weft_stream *stream) {
    const weft_layernorm_dg_args *a = &step->args.layernorm_dg;
    weft_parallel(stream, ref_width(&a->dy), ref_grain(ref_rows(&a->dy, &a->rows)),
                  layernorm_dg_columns, a);
}
