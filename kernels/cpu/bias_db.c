/* SPDX-License-Identifier: Apache-2.0
 * bias_db: columns of dy summed over tokens. */
#include "chains.h"

CPU_OK(bias_db) {
    const weft_bias_db_args *a = &args->bias_db;
    return a->dy.ndim == 2 && cpu_flat(&a->dy) && weft_has(&a->db) && chain_target_ok(&a->db) &&
           cpu_shards_ok(a->shards, a->dy.shape[0]);
}

static void bias_db_chain(const chain_columns *c, int64_t begin, int64_t end, v16 *sum) {
    const weft_bias_db_args *a = c->ctx;
    for (int64_t t = begin; t < end; t++) {
        const void *dy = cpu_row(&a->dy, t);
        WEFT_UNROLL
        for (int v = 0; v < CHAIN_VECTORS; v++)
            sum[v] = v16_add(sum[v], chain_get(&a->dy, dy, c, v));
    }
}

static void bias_db_blocks(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_bias_db_args *a = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        chain_columns c = chain_block(a, i, a->db.shape[0]);
        chain_run(&c, (float *)a->db.data + c.column, a->shards, a->dy.shape[0],
                  cpu_true_rows(&a->rows, &a->dy), bias_db_chain);
    }
}

CPU_RUN(bias_db) {
    const weft_bias_db_args *a = &step->args.bias_db;
    chain_parallel(stream, a->db.shape[0], cpu_true_rows(&a->rows, &a->dy), bias_db_blocks, a);
}
