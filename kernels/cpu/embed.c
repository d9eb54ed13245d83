/* SPDX-License-Identifier: Apache-2.0
 * embed: rows of a table by token id. Ids outside the table give zeros; -0 becomes +0. */
#include "cpu.h"

CPU_OK(embed) {
    return cpu_flat(&args->embed.w) && cpu_flat(&args->embed.y);
}

static int64_t embed_id(const weft_embed_args *a, int64_t t) {
    int64_t id = ((const int32_t *)a->ids.data)[t * a->ids.stride[0]], slot = -id - 1;
    if (id >= 0)
        return id;
    if (!weft_has(&a->last) || slot >= a->last.shape[0])
        return -1;
    return ((const int32_t *)a->last.data)[slot * a->last.stride[0]];
}

static void embed_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_embed_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t id = embed_id(a, t), row = id - a->row0;
        int here = id >= 0 && row >= 0 && row < a->w.shape[0];
        const void *w = cpu_at(&a->w, here ? row * a->w.stride[0] : 0);
        void *y = cpu_at(&a->y, t * a->y.stride[0]);
        CPU_EACH16(i, n, a->y.shape[1]) {
            v16 v = here ? v16_get(a->w.dtype, w, i, (int)n) : v16_zero();
            v16_put(a->y.dtype, y, i, (int)n, v16_add(v, v16_zero()));
        }
    }
}

CPU_RUN(embed) {
    const weft_embed_args *a = &step->args.embed;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->y), a->y.shape[1], embed_rows, a);
}
