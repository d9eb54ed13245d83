/* SPDX-License-Identifier: Apache-2.0
 * Learning rates by step. */
#include "host/train/options.h"
#include "weft/math.h"

static double part_done(double at, double of) {
    double x = of > 0 ? at / of : 1;
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* cos(pi x) */
static double cosine_of(double x) {
    double s, c;
    weft_sincos(3.14159265358979323846 * x, &s, &c);
    return c;
}

static double wsd(const train_options *o, int64_t done) {
    int64_t tail = o->decay_steps > 0 ? o->decay_steps : o->steps / 5;
    int64_t begin = o->steps - tail;
    if (done < begin)
        return o->lr;
    return o->lr + (o->min_lr - o->lr) * part_done((double)(done - begin + 1), (double)tail);
}

double schedule_lr(const train_options *o, int64_t done) {
    if (done < o->warmup)
        return o->lr * (double)(done + 1) / (double)o->warmup;
    double x = part_done((double)(done - o->warmup), (double)(o->steps - o->warmup));
    switch (o->schedule) {
    case SCHEDULE_LINEAR: return o->lr + (o->min_lr - o->lr) * x;
    case SCHEDULE_COSINE: return o->min_lr + (o->lr - o->min_lr) * 0.5 * (1 + cosine_of(x));
    case SCHEDULE_WSD: return wsd(o, done);
    default: return o->lr;
    }
}
