/* SPDX-License-Identifier: Apache-2.0
 * Gradients that sum over tokens: sixteen columns a vector, each lane a chain over ascending rows,
 * by the virtual shards of ops_train.h. */
#pragma once
#include "norm.h"

enum { CHAIN_VECTORS = 4, CHAIN_COLUMNS = 16 * CHAIN_VECTORS };

/* Up to CHAIN_COLUMNS columns of a gradient. */
typedef struct {
    const void *ctx;
    int64_t column;
    int n;
} chain_columns;

/* sum goes on over the tokens [begin, end). */
typedef void chain_fn(const chain_columns *c, int64_t begin, int64_t end, v16 *sum);

/* Of the n columns, those in vector v. */
V16 int chain_lanes(int n, int v) {
    return (int)cpu_max(0, cpu_min(16, n - 16 * v));
}

V16 v16 chain_get(const weft_tensor *t, const void *row, const chain_columns *c, int v) {
    return v16_get(t->dtype, row, c->column + 16 * v, chain_lanes(c->n, v));
}

static void chain_add(const chain_columns *c, float *to, v16 (*sum)[CHAIN_VECTORS], int shards) {
    for (int v = 0; v < CHAIN_VECTORS && chain_lanes(c->n, v); v++) {
        v16 leaf[8], old = v16_get(WEFT_F32, to, 16 * v, chain_lanes(c->n, v));
        for (int s = 0; s < shards; s++)
            leaf[s] = sum[s][v];
        v16_put(WEFT_F32, to, 16 * v, chain_lanes(c->n, v), v16_add(old, cpu_tree(leaf, shards)));
    }
}

/* rows: that the shape has; lead: the true ones; to: the gradient's first column here. */
static void chain_run(const chain_columns *c, float *to, int shards, int64_t rows, int64_t lead,
                      chain_fn *fn) {
    v16 sum[8][CHAIN_VECTORS];
    int64_t run = rows / shards;
    for (int v = 0; v < CHAIN_VECTORS && shards == 1; v++)
        sum[0][v] = v16_get(WEFT_F32, to, 16 * v, chain_lanes(c->n, v));
    for (int s = 0; s < shards; s++) {
        for (int v = 0; v < CHAIN_VECTORS && shards > 1; v++)
            sum[s][v] = v16_zero();
        fn(c, s * run, cpu_min(lead, (s + 1) * run), sum[s]);
    }
    if (shards > 1) {
        chain_add(c, to, sum, shards);
        return;
    }
    for (int v = 0; v < CHAIN_VECTORS; v++)
        v16_put(WEFT_F32, to, 16 * v, chain_lanes(c->n, v), sum[0][v]);
}

/* An f32[H] that is added to in place. */
V16 int chain_target_ok(const weft_tensor *t) {
    return !weft_has(t) || (t->dtype == WEFT_F32 && cpu_flat(t));
}

/* Runs fn, over blocks of CHAIN_COLUMNS, for a gradient of `width` columns. */
V16 void chain_parallel(weft_stream *s, int64_t width, int64_t rows, weft_range_fn *fn,
                        const void *ctx) {
    int64_t blocks = cpu_ceil(width, CHAIN_COLUMNS);
    if (width * rows < CPU_REGION_ELEMENTS)
        fn(ctx, 0, blocks, 0);
    else
        weft_parallel(s, blocks, 1, fn, ctx);
}

V16 chain_columns chain_block(const void *ctx, int64_t block, int64_t width) {
    chain_columns c = {ctx, block * CHAIN_COLUMNS, 0};
    c.n = (int)cpu_min(CHAIN_COLUMNS, width - c.column);
    return c;
}
