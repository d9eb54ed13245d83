/* SPDX-License-Identifier: Apache-2.0
 * rope and rope_dx: rotary position embedding, and its transpose by the other sign of the sine. A
 * head is widened to fp32 in worker memory and turned there by loops that the compiler makes
 * vectors of; products are rounded before they are added. */
#include "cpu.h"

enum { ROPE_WIDTH = 4096 };

typedef struct {
    float c[ROPE_WIDTH / 2], s[ROPE_WIDTH / 2], x[ROPE_WIDTH + 16], y[ROPE_WIDTH + 16];
} rope_memory;
_Static_assert(sizeof(rope_memory) <= WEFT_WORKER_BYTES, "worker memory");

typedef struct {
    const weft_tensor *x, *table, *y;
    const weft_stream *stream;
    int interleaved;
    float sign; /* of the sine */
} rope_job;

static int rope_fits(const weft_tensor *x, const weft_tensor *table, const weft_tensor *y) {
    return x->ndim == 3 && cpu_flat(x) && cpu_flat(y) && table->dtype == WEFT_F32 &&
           x->shape[2] <= ROPE_WIDTH && 2 * table->shape[1] <= x->shape[2];
}

CPU_OK(rope) {
    return rope_fits(&args->rope.x, &args->rope.table, &args->rope.y);
}

CPU_OK(rope_dx) {
    return rope_fits(&args->rope_dx.dy, &args->rope_dx.table, &args->rope_dx.dx);
}

static void rope_angles(const rope_job *j, int64_t t, rope_memory *m) {
    const weft_tensor *table = j->table;
    const float *f = (const float *)table->data + t * table->stride[0];
    for (int64_t i = 0; i < table->shape[1]; i++) {
        m->c[i] = f[i * table->stride[1]];
        m->s[i] = j->sign * f[i * table->stride[1] + table->stride[2]];
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

static void rope_head(const rope_job *j, const void *x, void *y, rope_memory *m) {
    int64_t width = j->x->shape[2], turned = 2 * j->table->shape[1];
    CPU_EACH16(i, n, width) {
        v16_store(m->x + i, v16_get(j->x->dtype, x, i, (int)n));
    }
    (j->interleaved ? rope_pairs : rope_halves)(m, turned / 2);
    memcpy(m->y + turned, m->x + turned, (size_t)(width - turned) * sizeof *m->y);
    CPU_EACH16(i, n, width) {
        v16_put(j->y->dtype, y, i, (int)n, v16_get(WEFT_F32, m->y, i, (int)n));
    }
}

static void rope_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const rope_job *j = ctx;
    rope_memory *m = weft_worker_memory(j->stream, worker);
    for (int64_t t = begin; t < end; t++) {
        rope_angles(j, t, m);
        for (int64_t h = 0; h < j->x->shape[1]; h++)
            rope_head(j, cpu_at(j->x, t * j->x->stride[0] + h * j->x->stride[1]),
                      cpu_at(j->y, t * j->y->stride[0] + h * j->y->stride[1]), m);
    }
}

CPU_RUN(rope) {
    const weft_rope_args *a = &step->args.rope;
    rope_job j = {&a->x, &a->table, &a->y, stream, a->interleaved, 1.0f};
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->x), a->x.shape[1] * a->x.shape[2], rope_rows,
                 &j);
}

CPU_RUN(rope_dx) {
    const weft_rope_dx_args *a = &step->args.rope_dx;
    rope_job j = {&a->dy, &a->table, &a->dx, stream, a->interleaved, -1.0f};
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->dy), a->dy.shape[1] * a->dy.shape[2],
                 rope_rows, &j);
}
