/* SPDX-License-Identifier: Apache-2.0
 * adamw, sgd and ema: the state of an optimizer, one step further. Float on purpose: ops_train.h
 * says where each operation rounds. */
#include "kernels/ref/ref.h"
#include "weft/rng.h"

static float hyper_get(const weft_tensor *hyper, int i) {
    return ((const float *)hyper->data)[i * hyper->stride[0]];
}

static uint32_t hyper_bits(const weft_tensor *hyper, int i) {
    return ((const uint32_t *)hyper->data)[i * hyper->stride[0]];
}

static bool optim_types(const weft_tensor *g, const weft_tensor *p, const weft_tensor *w,
                        int stochastic) {
    return g->dtype == WEFT_F32 && p->dtype == WEFT_F32 && g->ndim == 2 && p->ndim == 2 &&
           ref_is_float_or_absent(w) && (!stochastic || !weft_has(w) || w->dtype == WEFT_BF16);
}

static float *f32_at(const weft_tensor *t, int64_t n, int64_t k) {
    return (float *)t->data + n * t->stride[0] + k * t->stride[1];
}

/* How the computed weight is rounded. */
typedef struct {
    const weft_tensor *hyper, *w;
    int stochastic, stream;
} optim_round;

/* Up with the probability of what is cut off; what is not finite is rounded as ever. */
static uint16_t round_stochastic(const optim_round *r, float p, uint64_t element) {
    uint64_t seed = hyper_bits(r->hyper, WEFT_HYPER_SEED_HIGH);
    seed = seed << 32 | hyper_bits(r->hyper, WEFT_HYPER_SEED_LOW);
    weft_philox random = weft_philox4x32(seed, (uint32_t)r->stream, element / 4);
    uint32_t bits = weft_f32_bits(p);
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return weft_f32_to_bf16(p);
    return (uint16_t)((bits + (random.v[element % 4] & 0xffffu)) >> 16);
}

static void optim_store(const optim_round *r, int64_t n, int64_t k, int64_t width, float p) {
    const weft_tensor *w = r->w;
    if (!weft_has(w))
        return;
    int64_t at = n * w->stride[0] + k * w->stride[1];
    if (r->stochastic)
        ((uint16_t *)w->data)[at] = round_stochastic(r, p, (uint64_t)(n * width + k));
    else
        ref_put(w, at, p);
}

int ref_adamw_ok(const weft_args *args) {
    const weft_adamw_args *a = &args->adamw;
    return optim_types(&a->g, &a->p, &a->w, a->stochastic) && a->m.dtype == WEFT_F32 &&
           a->v.dtype == WEFT_F32 && a->hyper.dtype == WEFT_F32;
}

static float adamw_one(const weft_adamw_args *a, int64_t n, int64_t k) {
    const weft_tensor *h = &a->hyper;
    float lr = hyper_get(h, WEFT_HYPER_LR), b1 = hyper_get(h, WEFT_HYPER_BETA1);
    float b2 = hyper_get(h, WEFT_HYPER_BETA2), eps = hyper_get(h, WEFT_HYPER_EPS);
    float *p = f32_at(&a->p, n, k), *m = f32_at(&a->m, n, k), *v = f32_at(&a->v, n, k);
    float g = *f32_at(&a->g, n, k) * hyper_get(h, WEFT_HYPER_GSCALE);
    *p -= lr * a->decay * hyper_get(h, WEFT_HYPER_DECAY) * *p;
    *m = b1 * *m + (1.0f - b1) * g;
    *v = b2 * *v + (1.0f - b2) * (g * g);
    float down = sqrtf(*v) * hyper_get(h, WEFT_HYPER_STEP2) + eps;
    *p -= lr * hyper_get(h, WEFT_HYPER_STEP1) * *m / down;
    return *p;
}

static void adamw_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_adamw_args *a = ctx;
    optim_round r = {&a->hyper, &a->w, a->stochastic, a->stream};
    int64_t width = a->p.shape[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++)
        for (int64_t k = 0; k < width; k++)
            optim_store(&r, n, k, width, adamw_one(a, n, k));
}

void ref_adamw_run(const weft_step *step, weft_stream *stream) {
    const weft_adamw_args *a = &step->args.adamw;
    weft_parallel(stream, a->p.shape[0], ref_grain(4 * a->p.shape[1]), adamw_rows, a);
}

int ref_sgd_ok(const weft_args *args) {
    const weft_sgd_args *a = &args->sgd;
    return optim_types(&a->g, &a->p, &a->w, a->stochastic) && a->m.dtype == WEFT_F32 &&
           a->hyper.dtype == WEFT_F32;
}

static float sgd_one(const weft_sgd_args *a, int64_t n, int64_t k) {
    const weft_tensor *h = &a->hyper;
    float *p = f32_at(&a->p, n, k), *m = f32_at(&a->m, n, k);
    float g = *f32_at(&a->g, n, k) * hyper_get(h, WEFT_HYPER_GSCALE);
    float d = g + a->decay * hyper_get(h, WEFT_HYPER_DECAY) * *p;
    *m = hyper_get(h, WEFT_HYPER_BETA1) * *m + d;
    *p -= hyper_get(h, WEFT_HYPER_LR) * *m;
    return *p;
}

static void sgd_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_sgd_args *a = ctx;
    optim_round r = {&a->hyper, &a->w, a->stochastic, a->stream};
    int64_t width = a->p.shape[1];
    (void)worker;
    for (int64_t n = begin; n < end; n++)
        for (int64_t k = 0; k < width; k++)
            optim_store(&r, n, k, width, sgd_one(a, n, k));
}

void ref_sgd_run(const weft_step *step, weft_stream *stream) {
    const weft_sgd_args *a = &step->args.sgd;
    weft_parallel(stream, a->p.shape[0], ref_grain(4 * a->p.shape[1]), sgd_rows, a);
}

int ref_ema_ok(const weft_args *args) {
    const weft_ema_args *a = &args->ema;
    return a->p.dtype == WEFT_F32 && a->e.dtype == WEFT_F32 && a->hyper.dtype == WEFT_F32 &&
           a->p.ndim == 2;
}

static void ema_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_ema_args *a = ctx;
    float keep = hyper_get(&a->hyper, WEFT_HYPER_EMA);
    (void)worker;
    for (int64_t n = begin; n < end; n++)
        for (int64_t k = 0; k < a->p.shape[1]; k++) {
            float *e = f32_at(&a->e, n, k);
            *e = *e * keep + *f32_at(&a->p, n, k) * (1.0f - keep);
        }
}

void ref_ema_run(const weft_step *step, weft_stream *stream) {
    const weft_ema_args *a = &step->args.ema;
    weft_parallel(stream, a->p.shape[0], ref_grain(a->p.shape[1]), ema_rows, a);
}
