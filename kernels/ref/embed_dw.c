/* SPDX-License-Identifier: Apache-2.0
 * embed_dw: rows of dy added to the rows of the table they were looked up in. `order` brings the
 * tokens of a row together, so that each row of the table is written by one hand. */
#include "kernels/ref/ref.h"

int ref_embed_dw_ok(const weft_args *args) {
    const weft_embed_dw_args *a = &args->embed_dw;
    return ref_is_float(&a->dy) && a->dw.dtype == WEFT_F32 && a->dw.shape[1] == a->dy.shape[1] &&
           ref_shards_ok(a->shards, a->dy.shape[0]);
}

/* The tokens order[begin, end) of one id. */
typedef struct {
    const weft_embed_dw_args *a;
    int64_t begin, end, lead;
    int32_t id;
} embed_run;

static int64_t embed_token(const weft_embed_dw_args *a, int64_t at) {
    return ref_int(&a->order, at * a->order.stride[0]);
}

static int32_t embed_id(const weft_embed_dw_args *a, int64_t at) {
    return ref_int(&a->ids, embed_token(a, at) * a->ids.stride[0]);
}

/* Steps to the next run of one id; false: there is none. */
static bool embed_next(embed_run *u) {
    u->begin = u->end;
    if (u->begin >= u->lead)
        return false;
    u->id = embed_id(u->a, u->begin);
    while (u->end < u->lead && embed_id(u->a, u->end) == u->id)
        u->end++;
    return true;
}

/* Of the run, the rows of dy in [begin, end). */
static float embed_chain(const void *ctx, int64_t i, int64_t begin, int64_t end, float sum) {
    const embed_run *u = ctx;
    const weft_tensor *dy = &u->a->dy;
    for (int64_t at = u->begin; at < u->end; at++) {
        int64_t t = embed_token(u->a, at);
        if (t >= begin && t < end)
            sum = ref_chain(sum, ref_get(dy, t * dy->stride[0] + i * dy->stride[1]));
    }
    return sum;
}

static void embed_dw_columns(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_embed_dw_args *a = ctx;
    int64_t T = a->dy.shape[0];
    embed_run u = {.a = a, .lead = ref_lead(&a->rows, T)};
    (void)worker;
    while (embed_next(&u)) {
        int64_t row = (int64_t)u.id - a->row0;
        if (u.id < 0 || row < 0 || row >= a->dw.shape[0])
            continue;
        for (int64_t i = begin; i < end; i++)
            ref_by_shards((float *)a->dw.data + row * a->dw.stride[0] + i * a->dw.stride[1],
                          a->shards, T, u.lead, i, embed_chain, &u);
    }
}

void ref_embed_dw_run(const weft_step *step, weft_stream *stream) {
    const weft_embed_dw_args *a = &step->args.embed_dw;
    weft_parallel(stream, a->dw.shape[1], 16, embed_dw_columns, a);
}
