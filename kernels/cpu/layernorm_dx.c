/* SPDX-License-Identifier: Apache-2.0
 * layernorm_dx and layernorm_dg. A row's two means are sixteen lanes in blocks and the fixed tree;
 * the gradients of gain and bias are chains over tokens. */
#include "chains.h"

CPU_OK(layernorm_dx) {
    const weft_layernorm_dx_args *a = &args->layernorm_dx;
    return cpu_flat(&a->dy) && cpu_flat(&a->r) && cpu_flat(&a->g) && norm_scalar_ok(&a->mean) &&
           norm_scalar_ok(&a->inv) && cpu_flat(&a->dr) && cpu_flat(&a->dx);
}

typedef struct {
    const weft_layernorm_dx_args *a;
    const void *dy, *r, *dr;
    void *dx;
    v16 mean, inv;
    int64_t width;
} layernorm_dx_at;

V16 v16 layernorm_dx_d(const layernorm_dx_at *u, int64_t i, int n) {
    return v16_mul(v16_get(u->a->dy.dtype, u->dy, i, n),
                   v16_get(u->a->g.dtype, u->a->g.data, i, n));
}
V16 v16 layernorm_dx_h(const layernorm_dx_at *u, int64_t i, int n) {
    return v16_mul(v16_sub(v16_get(u->a->r.dtype, u->r, i, n), u->mean), u->inv);
}

/* The means of d and d h. */
V16 void layernorm_dx_means(const layernorm_dx_at *u, v16 *mean, v16 *along) {
    v16 sum = v16_zero(), product = v16_zero();
    CPU_EACH_BLOCK(at, block, u->width) {
        v16 s = v16_zero(), p = v16_zero();
        CPU_EACH16(i, n, block) {
            v16 d = layernorm_dx_d(u, at + i, (int)n);
            s = v16_add(s, d);
            p = v16_fma(d, layernorm_dx_h(u, at + i, (int)n), p);
        }
        sum = v16_add(sum, s);
        product = v16_add(product, p);
    }
    *mean = v16_set1(v16_sum(sum) / (float)u->width);
    *along = v16_set1(v16_sum(product) / (float)u->width);
}

static void layernorm_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_layernorm_dx_args *a = ctx;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        layernorm_dx_at u = {.a = a, .width = cpu_width(&a->dy), .dy = cpu_row(&a->dy, row)};
        u.r = cpu_row(&a->r, row);
        u.dr = weft_has(&a->dr) ? cpu_row(&a->dr, row) : NULL;
        u.dx = cpu_row(&a->dx, row);
        u.mean = v16_set1(*norm_scalar(&a->mean, row));
        u.inv = v16_set1(*norm_scalar(&a->inv, row));
        v16 mean, along;
        layernorm_dx_means(&u, &mean, &along);
        CPU_EACH16(i, n, u.width) {
            v16 v = v16_sub(layernorm_dx_d(&u, i, (int)n), mean);
            v = v16_sub(v, v16_mul(layernorm_dx_h(&u, i, (int)n), along));
            v16 dr = u.dr ? v16_get(a->dr.dtype, u.dr, i, (int)n) : v16_zero();
            v16_put(a->dx.dtype, u.dx, i, (int)n, v16_fma(v, u.inv, dr));
        }
    }
}

CPU_RUN(layernorm_dx) {
    const weft_layernorm_dx_args *a = &step->args.layernorm_dx;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->dy), cpu_width(&a->dy), layernorm_dx_rows, a);
}

CPU_OK(layernorm_dg) {
    const weft_layernorm_dg_args *a = &args->layernorm_dg;
    return cpu_flat(&a->dy) && cpu_flat(&a->r) && norm_scalar_ok(&a->mean) &&
           norm_scalar_ok(&a->inv) && chain_target_ok(&a->dg) && chain_target_ok(&a->db) &&
           cpu_shards_ok(a->shards, a->dy.shape[0]);
}

/* Rows of a token, its heads, follow one another. */
V16 int64_t layernorm_dg_heads(const weft_layernorm_dg_args *a) {
    return a->dy.ndim > 2 ? a->dy.shape[1] : 1;
}

static void layernorm_dg_chain(const chain_columns *c, int64_t begin, int64_t end, v16 *sum) {
    const weft_layernorm_dg_args *a = c->ctx;
    int64_t heads = layernorm_dg_heads(a);
    for (int64_t row = begin * heads; row < end * heads; row++) {
        const void *dy = cpu_row(&a->dy, row), *r = cpu_row(&a->r, row);
        v16 mean = v16_set1(*norm_scalar(&a->mean, row)),
            inv = v16_set1(*norm_scalar(&a->inv, row));
        WEFT_UNROLL
        for (int v = 0; v < CHAIN_VECTORS; v++) {
            v16 h = v16_mul(v16_sub(chain_get(&a->r, r, c, v), mean), inv);
            sum[v] = v16_fma(h, chain_get(&a->dy, dy, c, v), sum[v]);
        }
    }
}

static void layernorm_db_chain(const chain_columns *c, int64_t begin, int64_t end, v16 *sum) {
    const weft_layernorm_dg_args *a = c->ctx;
    int64_t heads = layernorm_dg_heads(a);
    for (int64_t row = begin * heads; row < end * heads; row++) {
        const void *dy = cpu_row(&a->dy, row);
        WEFT_UNROLL
        for (int v = 0; v < CHAIN_VECTORS; v++)
            sum[v] = v16_add(sum[v], chain_get(&a->dy, dy, c, v));
    }
}

static void layernorm_dg_blocks(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_layernorm_dg_args *a = ctx;
    int64_t rows = a->dy.shape[0], lead = cpu_true_rows(&a->rows, &a->dy);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        chain_columns c = chain_block(a, i, cpu_width(&a->dy));
        if (weft_has(&a->dg))
            chain_run(&c, (float *)a->dg.data + c.column, a->shards, rows, lead,
                      layernorm_dg_chain);
        if (weft_has(&a->db))
            chain_run(&c, (float *)a->db.data + c.column, a->shards, rows, lead,
                      layernorm_db_chain);
    }
}

CPU_RUN(layernorm_dg) {
    const weft_layernorm_dg_args *a = &step->args.layernorm_dg;
    chain_parallel(stream, cpu_width(&a->dy), cpu_rows(&a->rows, &a->dy), layernorm_dg_blocks, a);
}
