/* SPDX-License-Identifier: Apache-2.0
 * kv_append: keys and values into their pages, rounded to the cache's type. */
#include "kernels/ref/ref.h"

int ref_kv_append_ok(const weft_args *args) {
    const weft_kv_append_args *a = &args->kv_append;
    return ref_is_float(&a->k) && ref_is_float(&a->v) && ref_is_float(&a->kcache) &&
           ref_is_float(&a->vcache);
}

static void kv_append_one(const weft_tensor *x, const weft_tensor *cache, int64_t t, int64_t slot) {
    int64_t page = slot / cache->shape[2], place = slot % cache->shape[2];
    for (int64_t h = 0; h < x->shape[1]; h++) {
        int64_t to = page * cache->stride[0] + h * cache->stride[1] + place * cache->stride[2];
        int64_t from = t * x->stride[0] + h * x->stride[1];
        for (int64_t d = 0; d < x->shape[2]; d++)
            ref_put(cache, to + d * cache->stride[3], ref_get(x, from + d * x->stride[2]));
    }
}

static void kv_append_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_kv_append_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t slot = ref_int(&a->slot, t * a->slot.stride[0]);
        if (slot < 0)
            continue;
        kv_append_one(&a->k, &a->kcache, t, slot);
        kv_append_one(&a->v, &a->vcache, t, slot);
    }
}

void ref_kv_append_run(const weft_step *step, weft_stream *stream) {
    const weft_kv_append_args *a = &step->args.kv_append;
    int64_t rows = ref_lead(&a->rows, a->k.shape[0]);
    weft_parallel(stream, rows, ref_grain(2 * a->k.shape[1] * a->k.shape[2]), kv_append_rows, a);
}
