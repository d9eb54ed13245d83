/* SPDX-License-Identifier: Apache-2.0
 * embed_dw: `order` brings the tokens of one id together; whoever meets the first of them adds them
 * all, so each row of the table is written by one hand. */
#include "chains.h"

CPU_OK(embed_dw) {
    const weft_embed_dw_args *a = &args->embed_dw;
    return a->dy.ndim == 2 && cpu_flat(&a->dy) && a->dw.dtype == WEFT_F32 && cpu_flat(&a->dw) &&
           cpu_shards_ok(a->shards, a->dy.shape[0]);
}

/* The tokens order[begin, end) of one id. */
typedef struct {
    const weft_embed_dw_args *a;
    int64_t begin, end;
} embed_dw_run;

static int64_t embed_dw_token(const weft_embed_dw_args *a, int64_t at) {
    return ((const int32_t *)a->order.data)[at * a->order.stride[0]];
}
static int32_t embed_dw_id(const weft_embed_dw_args *a, int64_t at) {
    return ((const int32_t *)a->ids.data)[embed_dw_token(a, at) * a->ids.stride[0]];
}

/* Of the run, the tokens in [begin, end). */
static void embed_dw_chain(const chain_columns *c, int64_t begin, int64_t end, v16 *sum) {
    const embed_dw_run *u = c->ctx;
    for (int64_t at = u->begin; at < u->end; at++) {
        int64_t t = embed_dw_token(u->a, at);
        if (t < begin || t >= end)
            continue;
        const void *dy = cpu_row(&u->a->dy, t);
        WEFT_UNROLL
        for (int v = 0; v < CHAIN_VECTORS; v++)
            sum[v] = v16_add(sum[v], chain_get(&u->a->dy, dy, c, v));
    }
}

static void embed_dw_places(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_embed_dw_args *a = ctx;
    int64_t lead = cpu_true_rows(&a->rows, &a->dy), width = a->dw.shape[1];
    (void)worker;
    for (int64_t at = begin; at < end; at++) {
        int32_t id = embed_dw_id(a, at);
        int64_t row = (int64_t)id - a->row0;
        if (id < 0 || row < 0 || row >= a->dw.shape[0] || (at > 0 && embed_dw_id(a, at - 1) == id))
            continue;
        embed_dw_run u = {a, at, at + 1};
        while (u.end < lead && embed_dw_id(a, u.end) == id)
            u.end++;
        float *dw = cpu_row(&a->dw, row);
        for (int64_t i = 0; i < cpu_ceil(width, CHAIN_COLUMNS); i++) {
            chain_columns c = chain_block(&u, i, width);
            chain_run(&c, dw + c.column, a->shards, a->dy.shape[0], lead, embed_dw_chain);
        }
    }
}

CPU_RUN(embed_dw) {
    const weft_embed_dw_args *a = &step->args.embed_dw;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->dy), a->dw.shape[1], embed_dw_places, a);
}
