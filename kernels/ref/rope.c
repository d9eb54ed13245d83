/* SPDX-License-Identifier: Apache-2.0
 * rope_table, rope and rope_dx: rotary position embedding. The angle is a double product, reduced
 * exactly, so that far positions are as good as near ones. */
#include "kernels/ref/ref.h"

int ref_rope_table_ok(const weft_args *args) {
    const weft_rope_table_args *a = &args->rope_table;
    return a->freq.dtype == WEFT_F32 && a->y.dtype == WEFT_F32;
}

/* Dynamic NTK: how much slower pair i of n turns at `pos`. */
static double rope_slowdown(const weft_rope_table_args *a, int64_t pos, int64_t i, int64_t n) {
    if (a->ntk_ctx <= 0 || pos < a->ntk_ctx || i == 0)
        return 1.0;
    double f = a->ntk_factor;
    double g = f * (double)(pos + 1) / a->ntk_ctx - (f - 1.0);
    return weft_exp(weft_log(g) * (-2.0 * (double)i / (double)(2 * n - 2)));
}

static void rope_table_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rope_table_args *a = ctx;
    int64_t n = a->y.shape[1];
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t pos = ref_int(&a->pos, t * a->pos.stride[0]);
        for (int64_t i = 0; i < n; i++) {
            int64_t f = i * a->freq.stride[0], y = t * a->y.stride[0] + i * a->y.stride[1];
            double freq = ref_get(&a->freq, f) + ref_get(&a->freq, f + a->freq.stride[1]);
            double s, c;
            weft_sincos((double)pos * (freq * rope_slowdown(a, pos, i, n)), &s, &c);
            ref_put(&a->y, y, a->mscale * c);
            ref_put(&a->y, y + a->y.stride[2], a->mscale * s);
        }
    }
}

void ref_rope_table_run(const weft_step *step, weft_stream *stream) {
    const weft_rope_table_args *a = &step->args.rope_table;
    int64_t rows = ref_lead(&a->rows, a->y.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->y.shape[1] * 32), rope_table_rows, a);
}

int ref_rope_ok(const weft_args *args) {
    const weft_rope_args *a = &args->rope;
    return ref_is_float(&a->x) && ref_is_float(&a->y) && a->table.dtype == WEFT_F32 &&
           2 * a->table.shape[1] <= a->x.shape[2];
}

static void rope_head(const weft_rope_args *a, int64_t t, int64_t x, int64_t y) {
    int64_t n = a->table.shape[1], xs = a->x.stride[2], ys = a->y.stride[2];
    for (int64_t i = 0; i < n; i++) {
        int64_t table = t * a->table.stride[0] + i * a->table.stride[1];
        double c = ref_get(&a->table, table), s = ref_get(&a->table, table + a->table.stride[2]);
        int64_t p = a->interleaved ? 2 * i : i, q = a->interleaved ? 2 * i + 1 : i + n;
        double u = ref_get(&a->x, x + p * xs), v = ref_get(&a->x, x + q * xs);
        ref_put(&a->y, y + p * ys, u * c - v * s);
        ref_put(&a->y, y + q * ys, v * c + u * s);
    }
    for (int64_t i = 2 * n; i < a->x.shape[2]; i++)
        ref_put(&a->y, y + i * ys, ref_get(&a->x, x + i * xs));
}

static void rope_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rope_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < a->x.shape[1]; h++)
            rope_head(a, t, t * a->x.stride[0] + h * a->x.stride[1],
                      t * a->y.stride[0] + h * a->y.stride[1]);
}

void ref_rope_run(const weft_step *step, weft_stream *stream) {
    const weft_rope_args *a = &step->args.rope;
    int64_t rows = ref_lead(&a->rows, a->x.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->x.shape[1] * a->x.shape[2]), rope_rows, a);
}

int ref_rope_dx_ok(const weft_args *args) {
    const weft_rope_dx_args *a = &args->rope_dx;
    return ref_is_float(&a->dy) && ref_is_float(&a->dx) && a->table.dtype == WEFT_F32 &&
           2 * a->table.shape[1] <= a->dy.shape[2];
}

static void rope_dx_head(const weft_rope_dx_args *a, int64_t t, int64_t dy, int64_t dx) {
    int64_t n = a->table.shape[1], ys = a->dy.stride[2], xs = a->dx.stride[2];
    for (int64_t i = 0; i < n; i++) {
        int64_t table = t * a->table.stride[0] + i * a->table.stride[1];
        double c = ref_get(&a->table, table), s = ref_get(&a->table, table + a->table.stride[2]);
        int64_t p = a->interleaved ? 2 * i : i, q = a->interleaved ? 2 * i + 1 : i + n;
        double u = ref_get(&a->dy, dy + p * ys), v = ref_get(&a->dy, dy + q * ys);
        ref_put(&a->dx, dx + p * xs, u * c + v * s);
        ref_put(&a->dx, dx + q * xs, v * c - u * s);
    }
    for (int64_t i = 2 * n; i < a->dy.shape[2]; i++)
        ref_put(&a->dx, dx + i * xs, ref_get(&a->dy, dy + i * ys));
}

static void rope_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rope_dx_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < a->dy.shape[1]; h++)
            rope_dx_head(a, t, t * a->dy.stride[0] + h * a->dy.stride[1],
                         t * a->dx.stride[0] + h * a->dx.stride[1]);
}

void ref_rope_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_rope_dx_args *a = &step->args.rope_dx;
    int64_t rows = ref_lead(&a->rows, a->dy.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->dy.shape[1] * a->dy.shape[2]), rope_dx_rows, a);
}
