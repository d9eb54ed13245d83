/* SPDX-License-Identifier: Apache-2.0
 * dropout: random numbers of the element's place in the batch, sixteen blocks of Philox at a time.
 * (Srivastava et al., 2014) */
#include "random.h"

CPU_OK(dropout) {
    const weft_dropout_args *a = &args->dropout;
    return a->x.ndim == 2 && cpu_flat(&a->x) && cpu_flat(&a->y) && a->p >= 0 && a->p < 1;
}

V16 v16 dropout_uniform(cpu_draws *d, int n) {
    uint32_t word[16] = {0};
    float f[16];
    cpu_draw(d, n, word);
    for (int l = 0; l < 16; l++)
        f[l] = weft_philox_uniform(word[l]);
    return v16_load(f);
}

static void dropout_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_dropout_args *a = ctx;
    const uint32_t *key = a->key.data;
    const int32_t *place = a->place.data;
    uint64_t seed = (uint64_t)key[a->key.stride[0]] << 32 | key[0], width = (uint64_t)a->x.shape[1];
    v16 kept = v16_set1(1.0f - a->p), p = v16_set1(a->p);
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const void *x = cpu_row(&a->x, t);
        void *y = cpu_row(&a->y, t);
        uint64_t first = (uint64_t)(int64_t)place[t * a->place.stride[0]] * width;
        cpu_draws d = cpu_draws_from(seed, (uint32_t)a->stream, first);
        CPU_EACH16(i, n, a->x.shape[1]) {
            v16 v = v16_div(v16_get(a->x.dtype, x, i, (int)n), kept);
            v = v16_where(dropout_uniform(&d, (int)n), p, v);
            v16_put(a->y.dtype, y, i, (int)n, v);
        }
    }
}

CPU_RUN(dropout) {
    const weft_dropout_args *a = &step->args.dropout;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->x), 8 * a->x.shape[1], dropout_rows, a);
}
