/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm_dx and rmsnorm_dg. A row's mean is sixteen lanes in blocks and the fixed tree; the
 * gradient of the gain is a chain over tokens. */
#include "chains.h"

CPU_OK(rmsnorm_dx) {
    const weft_rmsnorm_dx_args *a = &args->rmsnorm_dx;
    return cpu_flat(&a->dy) && cpu_flat(&a->r) && cpu_flat(&a->g) && norm_scalar_ok(&a->inv) &&
           cpu_flat(&a->dr) && cpu_flat(&a->dx);
}

typedef struct {
    const weft_rmsnorm_dx_args *a;
    const void *dy, *r, *dr;
    void *dx;
    int64_t width;
} rmsnorm_dx_at;

V16 v16 rmsnorm_dx_d(const rmsnorm_dx_at *u, int64_t i, int n) {
    const weft_rmsnorm_dx_args *a = u->a;
    v16 g = v16_add(v16_get(a->g.dtype, a->g.data, i, n), v16_set1(a->offset));
    return v16_mul(v16_get(a->dy.dtype, u->dy, i, n), g);
}

/* mean(d r) */
V16 float rmsnorm_dx_mean(const rmsnorm_dx_at *u) {
    v16 sum = v16_zero();
    CPU_EACH_BLOCK(at, block, u->width) {
        v16 part = v16_zero();
        CPU_EACH16(i, n, block) {
            v16 r = v16_get(u->a->r.dtype, u->r, at + i, (int)n);
            part = v16_fma(rmsnorm_dx_d(u, at + i, (int)n), r, part);
        }
        sum = v16_add(sum, part);
    }
    return v16_sum(sum) / (float)u->width;
}

static void rmsnorm_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rmsnorm_dx_args *a = ctx;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        rmsnorm_dx_at u = {.a = a, .width = cpu_width(&a->dy), .dy = cpu_row(&a->dy, row)};
        u.r = cpu_row(&a->r, row);
        u.dr = weft_has(&a->dr) ? cpu_row(&a->dr, row) : NULL;
        u.dx = cpu_row(&a->dx, row);
        float inv = *norm_scalar(&a->inv, row);
        v16 along = v16_set1(inv * inv * rmsnorm_dx_mean(&u));
        CPU_EACH16(i, n, u.width) {
            v16 r = v16_get(a->r.dtype, u.r, i, (int)n);
            v16 v = v16_sub(rmsnorm_dx_d(&u, i, (int)n), v16_mul(r, along));
            v16 dr = u.dr ? v16_get(a->dr.dtype, u.dr, i, (int)n) : v16_zero();
            v16_put(a->dx.dtype, u.dx, i, (int)n, v16_fma(v, v16_set1(inv), dr));
        }
    }
}

CPU_RUN(rmsnorm_dx) {
    const weft_rmsnorm_dx_args *a = &step->args.rmsnorm_dx;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->dy), cpu_width(&a->dy), rmsnorm_dx_rows, a);
}

CPU_OK(rmsnorm_dg) {
    const weft_rmsnorm_dg_args *a = &args->rmsnorm_dg;
    return cpu_flat(&a->dy) && cpu_flat(&a->r) && norm_scalar_ok(&a->inv) && weft_has(&a->dg) &&
           chain_target_ok(&a->dg) && cpu_shards_ok(a->shards, a->dy.shape[0]);
}

static void rmsnorm_dg_chain(const chain_columns *c, int64_t begin, int64_t end, v16 *sum) {
    const weft_rmsnorm_dg_args *a = c->ctx;
    int64_t heads = a->dy.ndim > 2 ? a->dy.shape[1] : 1;
    for (int64_t row = begin * heads; row < end * heads; row++) {
        const void *dy = cpu_row(&a->dy, row), *r = cpu_row(&a->r, row);
        v16 inv = v16_set1(*norm_scalar(&a->inv, row));
        WEFT_UNROLL
        for (int v = 0; v < CHAIN_VECTORS; v++) {
            v16 h = v16_mul(chain_get(&a->r, r, c, v), inv);
            sum[v] = v16_fma(h, chain_get(&a->dy, dy, c, v), sum[v]);
        }
    }
}

static void rmsnorm_dg_blocks(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rmsnorm_dg_args *a = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        chain_columns c = chain_block(a, i, cpu_width(&a->dy));
        chain_run(&c, (float *)a->dg.data + c.column, a->shards, a->dy.shape[0],
                  cpu_true_rows(&a->rows, &a->dy), rmsnorm_dg_chain);
    }
}

CPU_RUN(rmsnorm_dg) {
    const weft_rmsnorm_dg_args *a = &step->args.rmsnorm_dg;
    chain_parallel(stream, cpu_width(&a->dy), cpu_rows(&a->rows, &a->dy), rmsnorm_dg_blocks, a);
}
