/* SPDX-License-Identifier: Apache-2.0
 * embed: rows of a table by token id. Ids outside the table give zeros. */
#include "kernels/ref/ref.h"

int ref_embed_ok(const weft_args *args) {
    return ref_is_float(&args->embed.w) && ref_is_float(&args->embed.y);
}

static int64_t embed_id(const weft_embed_args *a, int64_t t) {
    int64_t id = ref_int(&a->ids, t * a->ids.stride[0]);
    if (id >= 0)
        return id;
    int64_t slot = -id - 1;
    if (!weft_has(&a->last) || slot >= a->last.shape[0])
        return -1;
    return ref_int(&a->last, slot * a->last.stride[0]);
}

static void embed_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_embed_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t id = embed_id(a, t), row = id - a->row0;
        bool here = id >= 0 && row >= 0 && row < a->w.shape[0];
        for (int64_t i = 0; i < a->y.shape[1]; i++) {
            double v = here ? ref_get(&a->w, row * a->w.stride[0] + i * a->w.stride[1]) : 0.0;
            ref_put(&a->y, t * a->y.stride[0] + i * a->y.stride[1], v + 0.0); /* -0 + 0 = +0 */
        }
    }
}

void ref_embed_run(const weft_step *step, weft_stream *stream) {
    const weft_embed_args *a = &step->args.embed;
    int64_t rows = ref_lead(&a->rows, a->y.shape[0]);
    weft_parallel(stream, rows, ref_grain(a->y.shape[1]), embed_rows, a);
}
