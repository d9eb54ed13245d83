/* SPDX-License-Identifier: Apache-2.0
 * The ceilings of a GPU: loops of kernels/cuda/ceiling.cu, run for longer and longer until a run
 * takes long beside the wait for it, then the best of a few. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/ceiling.h"
#include "weft/gpu.h"
#include "weft/step.h"

enum { PASSES = 4, MOST_ROUNDS = 1 << 30, WORD = 16 };

/* What a loop's step stands for: reads x, writes y. */
static const weft_kernel row = {.op = WEFT_OP_cast, .backend = "gpu", .name = "ceiling"};

typedef struct {
    device *d;
    weft_stream *s;
    weft_step step;
    double seconds; /* of a pass */
} measure;

static weft_status pass(measure *m, const weft_gpu_loop *loop, int64_t rounds, double *took,
                        double *rate) {
    double began = clock_seconds(), work = loop->run(&m->step, m->s, rounds);
    WEFT_TRY(m->d->sync(m->d, m->s));
    *took = clock_seconds() - began;
    double now = *took > 0 ? work / *took : 0;
    *rate = now > *rate ? now : *rate;
    return WEFT_OK;
}

/* The first pass loads the kernel, and shows no rate. */
static weft_status best(measure *m, const weft_gpu_loop *loop, double *rate) {
    double took = 0, warm = 0;
    int64_t rounds = 1;
    do {
        WEFT_TRY(pass(m, loop, rounds, &took, &warm));
        rounds *= 2;
    } while (took < m->seconds / 2 && rounds < MOST_ROUNDS);
    for (int i = 0; i < PASSES; i++)
        WEFT_TRY(pass(m, loop, rounds, &took, rate));
    return WEFT_OK;
}

static weft_status all(measure *m, ceiling_rates *out) {
    for (const weft_gpu_loop *const *table = m->d->loops; *table; table++)
        for (const weft_gpu_loop *l = *table; l->run; l++) {
            double *rate = l->what == WEFT_LOOP_READ     ? &out->read
                           : l->what == WEFT_LOOP_MATRIX ? &out->matrix
                                                         : &out->fp32;
            bool fits = l->cap == WEFT_SM90A ? m->d->level == l->cap : l->cap <= m->d->level;
            if (fits)
                WEFT_TRY(best(m, l, rate));
        }
    return WEFT_OK;
}

static weft_tensor words(void *data, int64_t n) {
    const int64_t shape[WEFT_DIMS] = {n};
    weft_tensor t = weft_tensor_make(WEFT_I32, 1, shape);
    t.data = data;
    t.id = 1; /* anything: it is there */
    return t;
}

weft_status ceiling_gpu(device *d, int64_t bytes, double seconds, ceiling_rates *out) {
    measure m = {.d = d, .step = {.kernel = &row, .tag = "ceiling"}, .seconds = seconds / PASSES};
    uint64_t n = (uint64_t)(bytes + WORD - 1) / WORD * WORD, room = n + WORD;
    void *p;
    *out = (ceiling_rates){.read = 0};
    WEFT_TRY(d->alloc(d, room, "ceiling", &p));
    m.step.args.cast.x = words(p, (int64_t)n / 4);
    m.step.args.cast.y = words((char *)p + n, 1);
    weft_status s = d->stream_open(d, 1, &m.s);
    if (s == WEFT_OK) {
        s = d->zero(d, m.s, p, room);
        if (s == WEFT_OK)
            s = all(&m, out);
        d->stream_close(d, m.s);
    }
    d->release(d, p, room);
    return s;
}
