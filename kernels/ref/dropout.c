/* SPDX-License-Identifier: Apache-2.0
 * dropout: zeros by random numbers of the element's place in the batch (Srivastava et al., 2014).
 * Float on purpose: every backend draws and divides alike. */
#include "kernels/ref/ref.h"
#include "weft/rng.h"

int ref_dropout_ok(const weft_args *args) {
    const weft_dropout_args *a = &args->dropout;
    return ref_is_float(&a->x) && ref_is_float(&a->y) && a->x.ndim == 2 && a->p >= 0 && a->p < 1;
}

static float dropout_uniform(const weft_dropout_args *a, uint64_t element) {
    uint64_t seed = (uint32_t)ref_int(&a->key, a->key.stride[0]);
    seed = seed << 32 | (uint32_t)ref_int(&a->key, 0);
    weft_philox r = weft_philox4x32(seed, (uint32_t)a->stream, element / 4);
    return weft_philox_uniform(r.v[element % 4]);
}

static void dropout_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_dropout_args *a = ctx;
    int64_t n = a->x.shape[1];
    float kept = 1.0f - a->p;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        uint64_t first = (uint64_t)ref_int(&a->place, t * a->place.stride[0]) * (uint64_t)n;
        for (int64_t i = 0; i < n; i++) {
            float x = (float)ref_get(&a->x, t * a->x.stride[0] + i * a->x.stride[1]);
            bool keep = dropout_uniform(a, first + (uint64_t)i) >= a->p;
            ref_put(&a->y, t * a->y.stride[0] + i * a->y.stride[1], keep ? x / kept : 0.0f);
        }
    }
}

void ref_dropout_run(const weft_step *step, weft_stream *stream) {
    const weft_dropout_args *a = &step->args.dropout;
    weft_parallel(stream, ref_lead(&a->rows, a->x.shape[0]), ref_grain(16 * a->x.shape[1]),
                  dropout_rows, a);
}
