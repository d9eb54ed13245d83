/* SPDX-License-Identifier: Apache-2.0
 * rope: rotary position embedding. A head is widened to fp32 in worker memory and turned there by
 * loops that the compiler makes vectors of; products are rounded before they are added. */
#include "cpu.h"

enum { ROPE_WIDTH = 4096 };

typedef struct {
    float c[ROPE_WIDTH / 2], s[ROPE_WIDTH / 2], x[ROPE_WIDTH + 16], y[ROPE_WIDTH + 16];
} rope_memory;
_Static_assert(sizeof(rope_memory) <= WEFT_WORKER_BYTES, "worker memory");

typedef struct {
    const weft_rope_args *a;
    const weft_stream *stream;
} rope_job;

CPU_OK(rope) {
    const weft_rope_args *a = &args->rope;
    return a->x.ndim == 3 && cpu_flat(&a->x) && cpu_flat(&a->y) && a->table.dtype == WEFT_F32 &&
           a->x.shape[2] <= ROPE_WIDTH && 2 * a->table.shape[1] <= a->x.shape[2];
}

static void rope_angles(const weft_tensor *table, int64_t t, rope_memory *m) {
    const float *f = (const float *)table->data + t * table->stride[0];
    for (int64_t i = 0; i < table->shape[1]; i++) {
        m->c[i] = f[i * table->stride[1]];
        m->s[i] = f[i * table->stride[1] + table->stride[2]];
    }
}

static void rope_halves(rope_memory *m, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float u = m->x[i], v = m->x[i + n];
        m->y[i] = u * m->c[i] - v * m->s[i];
        m->y[i + n] = v * m->c[i] + u * m->s[i];
    }
}

static void rope_pairs(rope_memory *m, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float u = m->x[2 * i], v = m->x[2 * i + 1];
        m->y[2 * i] = u * m->c[i] - v * m->s[i];
        m->y[2 * i + 1] = v * m->c[i] + u * m->s[i];
    }
}

static void rope_head(const weft_rope_args *a, const void *x, void *y, rope_memory *m) {
    int64_t width = a->x.shape[2], turned = 2 * a->table.shape[1];
    CPU_EACH16(i, n, width) {
        v16_store(m->x + i, v16_get(a->x.dtype, x, i, (int)n));
    }
    (a->interleaved ? rope_pairs : rope_halves)(m, turned / 2);
    memcpy(m->y + turned, m->x + turned, (size_t)(width - turned) * sizeof *m->y);
    CPU_EACH16(i, n, width) {
        v16_put(a->y.dtype, y, i, (int)n, v16_get(WEFT_F32, m->y, i, (int)n));
    }
}

static void rope_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const rope_job *j = ctx;
    const weft_rope_args *a = j->a;
    rope_memory *m = weft_worker_memory(j->stream, worker);
    for (int64_t t = begin; t < end; t++) {
        rope_angles(&a->table, t, m);
        for (int64_t h = 0; h < a->x.shape[1]; h++)
            rope_head(a, cpu_at(&a->x, t * a->x.stride[0] + h * a->x.stride[1]),
                      cpu_at(&a->y, t * a->y.stride[0] + h * a->y.stride[1]), m);
    }
}

CPU_RUN(rope) {
    const weft_rope_args *a = &step->args.rope;
    rope_job j = {a, stream};
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->x), a->x.shape[1] * a->x.shape[2], rope_rows,
                 &j);
}
