/* SPDX-License-Identifier: Apache-2.0
 * kv_append: keys and values into their pages, rounded to the cache's type. Keys of one page lie
 * side by side ([D][page_size]), so that attention reads sixteen at once: here they are
 * scattered. */
#include "cpu.h"

CPU_OK(kv_append) {
    const weft_kv_append_args *a = &args->kv_append;
    return cpu_flat(&a->k) && cpu_flat(&a->v) && cpu_is_float(&a->kcache) &&
           cpu_is_float(&a->vcache);
}

static void kv_scatter32(float *to, int64_t step, const float *from, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i * step] = from[i];
}
static void kv_scatter16(uint16_t *to, int64_t step, const uint16_t *from, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        to[i * step] = from[i];
}

static void kv_head(const weft_tensor *x, const void *from, const weft_tensor *cache, void *to) {
    int64_t step = cache->stride[3];
    CPU_EACH16(i, n, x->shape[2]) {
        v16 v = v16_get(x->dtype, from, i, (int)n);
        float wide[16];
        uint16_t half[16];
        if (step == 1)
            v16_put(cache->dtype, to, i, (int)n, v);
        else if (cache->dtype == WEFT_F32) {
            v16_store(wide, v);
            kv_scatter32((float *)to + i * step, step, wide, n);
        } else {
            v16_put(cache->dtype, half, 0, 16, v);
            kv_scatter16((uint16_t *)to + i * step, step, half, n);
        }
    }
}

static void kv_token(const weft_tensor *x, const weft_tensor *cache, int64_t t, int64_t slot) {
    int64_t page = slot / cache->shape[2], place = slot % cache->shape[2];
    for (int64_t h = 0; h < x->shape[1]; h++)
        kv_head(x, cpu_at(x, t * x->stride[0] + h * x->stride[1]), cache,
                cpu_at(cache,
                       page * cache->stride[0] + h * cache->stride[1] + place * cache->stride[2]));
}

static void kv_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_kv_append_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int32_t slot = ((const int32_t *)a->slot.data)[t * a->slot.stride[0]];
        if (slot < 0)
            continue;
        kv_token(&a->k, &a->kcache, t, slot);
        kv_token(&a->v, &a->vcache, t, slot);
    }
}

CPU_RUN(kv_append) {
    const weft_kv_append_args *a = &step->args.kv_append;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->k), 2 * a->k.shape[1] * a->k.shape[2], kv_rows,
                 a);
}
