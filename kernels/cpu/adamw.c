/* SPDX-License-Identifier: Apache-2.0
 * adamw, sgd and ema: one pass over the optimizer's state, each operation rounded where ops_train.h
 * says, so that the bits are ref's. Bound by memory: 28 bytes an element for AdamW. */
#include "random.h"

V16 v16 optim_hyper(const weft_tensor *hyper, int i) {
    return v16_set1(((const float *)hyper->data)[i * hyper->stride[0]]);
}

static int optim_f32(const weft_tensor *t) {
    return t->dtype == WEFT_F32 && t->ndim == 2 && cpu_flat(t);
}

static int optim_ok(const weft_tensor *hyper, const weft_tensor *w, int stochastic) {
    return hyper->dtype == WEFT_F32 && cpu_flat(w) &&
           (!stochastic || !weft_has(w) || w->dtype == WEFT_BF16);
}

/* ---- the weight that the model computes with ---- */

typedef struct {
    int dtype, stochastic;
    void *w; /* a row; NULL: none */
    cpu_draws draws;
} optim_weight;

V16 optim_weight optim_weight_at(const weft_tensor *w, const weft_tensor *hyper, int stochastic,
                                 int stream, int64_t row, int64_t width) {
    optim_weight o = {.dtype = w->dtype, .stochastic = stochastic};
    o.w = weft_has(w) ? cpu_row(w, row) : NULL;
    const uint32_t *word = hyper->data;
    uint64_t seed = word[WEFT_HYPER_SEED_HIGH * hyper->stride[0]];
    seed = seed << 32 | word[WEFT_HYPER_SEED_LOW * hyper->stride[0]];
    if (stochastic)
        o.draws = cpu_draws_from(seed, (uint32_t)stream, (uint64_t)(row * width));
    return o;
}

/* Up with the probability of what is cut off; what is not finite is rounded as ever. */
V16 void optim_store_stochastic(optim_weight *o, int64_t i, int n, v16 v) {
    uint32_t random[16] = {0};
    float f[16];
    uint16_t h[16];
    cpu_draw(&o->draws, n, random);
    v16_store(f, v);
    for (int l = 0; l < 16; l++) {
        uint32_t bits = weft_f32_bits(f[l]);
        uint16_t nearest = weft_f32_to_bf16(f[l]);
        uint16_t up = (uint16_t)((bits + (random[l] & 0xffffu)) >> 16);
        h[l] = (bits & 0x7f800000u) == 0x7f800000u ? nearest : up;
    }
    memcpy((uint16_t *)o->w + i, h, (size_t)n * sizeof *h);
}

V16 void optim_store(optim_weight *o, int64_t i, int n, v16 v) {
    if (o->w == NULL)
        return;
    if (o->stochastic)
        optim_store_stochastic(o, i, n, v);
    else
        v16_put(o->dtype, o->w, i, n, v);
}

/* ---- AdamW ---- */

CPU_OK(adamw) {
    const weft_adamw_args *a = &args->adamw;
    return optim_f32(&a->g) && optim_f32(&a->p) && optim_f32(&a->m) && optim_f32(&a->v) &&
           optim_ok(&a->hyper, &a->w, a->stochastic);
}

typedef struct {
    v16 decay, b1, b2, c1, c2, gscale, step1, step2, eps;
} adamw_hyper;

static adamw_hyper adamw_read(const weft_adamw_args *a) {
    const weft_tensor *h = &a->hyper;
    v16 lr = optim_hyper(h, WEFT_HYPER_LR), one = v16_set1(1.0f);
    adamw_hyper y = {.b1 = optim_hyper(h, WEFT_HYPER_BETA1),
                     .b2 = optim_hyper(h, WEFT_HYPER_BETA2),
                     .gscale = optim_hyper(h, WEFT_HYPER_GSCALE),
                     .step2 = optim_hyper(h, WEFT_HYPER_STEP2),
                     .eps = optim_hyper(h, WEFT_HYPER_EPS)};
    y.decay = v16_mul(v16_mul(lr, v16_set1(a->decay)), optim_hyper(h, WEFT_HYPER_DECAY));
    y.step1 = v16_mul(lr, optim_hyper(h, WEFT_HYPER_STEP1));
    y.c1 = v16_sub(one, y.b1);
    y.c2 = v16_sub(one, y.b2);
    return y;
}

/* n elements from i; the new p. */
V16 v16 adamw_step(const adamw_hyper *h, const float *gp, float *pp, float *mp, float *vp,
                   int64_t i, int n) {
    v16 g = v16_mul(v16_get(WEFT_F32, gp, i, n), h->gscale), p = v16_get(WEFT_F32, pp, i, n);
    v16 m = v16_get(WEFT_F32, mp, i, n), v = v16_get(WEFT_F32, vp, i, n);
    p = v16_sub(p, v16_mul(h->decay, p));
    m = v16_add(v16_mul(h->b1, m), v16_mul(h->c1, g));
    v = v16_add(v16_mul(h->b2, v), v16_mul(h->c2, v16_mul(g, g)));
    v16 down = v16_add(v16_mul(v16_sqrt(v), h->step2), h->eps);
    p = v16_sub(p, v16_div(v16_mul(h->step1, m), down));
    v16_put(WEFT_F32, mp, i, n, m);
    v16_put(WEFT_F32, vp, i, n, v);
    v16_put(WEFT_F32, pp, i, n, p);
    return p;
}

static void adamw_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_adamw_args *a = ctx;
    int64_t width = a->p.shape[1];
    adamw_hyper h = adamw_read(a);
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *g = cpu_row(&a->g, r);
        float *p = cpu_row(&a->p, r), *m = cpu_row(&a->m, r), *v = cpu_row(&a->v, r);
        optim_weight w = optim_weight_at(&a->w, &a->hyper, a->stochastic, a->stream, r, width);
        CPU_EACH16(i, n, width) {
            optim_store(&w, i, (int)n, adamw_step(&h, g, p, m, v, i, (int)n));
        }
    }
}

CPU_RUN(adamw) {
    const weft_adamw_args *a = &step->args.adamw;
    cpu_each_row(stream, a->p.shape[0], 4 * a->p.shape[1], adamw_rows, a);
}

/* ---- SGD ---- */

CPU_OK(sgd) {
    const weft_sgd_args *a = &args->sgd;
    return optim_f32(&a->g) && optim_f32(&a->p) && optim_f32(&a->m) &&
           optim_ok(&a->hyper, &a->w, a->stochastic);
}

static void sgd_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_sgd_args *a = ctx;
    const weft_tensor *h = &a->hyper;
    int64_t width = a->p.shape[1];
    v16 lr = optim_hyper(h, WEFT_HYPER_LR), b1 = optim_hyper(h, WEFT_HYPER_BETA1);
    v16 decay = v16_mul(v16_set1(a->decay), optim_hyper(h, WEFT_HYPER_DECAY));
    v16 gscale = optim_hyper(h, WEFT_HYPER_GSCALE);
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *gp = cpu_row(&a->g, r);
        float *pp = cpu_row(&a->p, r), *mp = cpu_row(&a->m, r);
        optim_weight w = optim_weight_at(&a->w, h, a->stochastic, a->stream, r, width);
        CPU_EACH16(i, n, width) {
            v16 g = v16_mul(v16_get(WEFT_F32, gp, i, (int)n), gscale);
            v16 p = v16_get(WEFT_F32, pp, i, (int)n), m = v16_get(WEFT_F32, mp, i, (int)n);
            m = v16_add(v16_mul(b1, m), v16_add(g, v16_mul(decay, p)));
            p = v16_sub(p, v16_mul(lr, m));
            v16_put(WEFT_F32, mp, i, (int)n, m);
            v16_put(WEFT_F32, pp, i, (int)n, p);
            optim_store(&w, i, (int)n, p);
        }
    }
}

CPU_RUN(sgd) {
    const weft_sgd_args *a = &step->args.sgd;
    cpu_each_row(stream, a->p.shape[0], 3 * a->p.shape[1], sgd_rows, a);
}

/* ---- running mean ---- */

CPU_OK(ema) {
    return optim_f32(&args->ema.p) && optim_f32(&args->ema.e) && args->ema.hyper.dtype == WEFT_F32;
}

static void ema_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_ema_args *a = ctx;
    v16 keep = optim_hyper(&a->hyper, WEFT_HYPER_EMA), take = v16_sub(v16_set1(1.0f), keep);
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *p = cpu_row(&a->p, r);
        float *e = cpu_row(&a->e, r);
        CPU_EACH16(i, n, a->p.shape[1]) {
            v16 old = v16_mul(v16_get(WEFT_F32, e, i, (int)n), keep);
            v16 new = v16_mul(v16_get(WEFT_F32, p, i, (int)n), take);
            v16_put(WEFT_F32, e, i, (int)n, v16_add(old, new));
        }
    }
}

CPU_RUN(ema) {
    const weft_ema_args *a = &step->args.ema;
    cpu_each_row(stream, a->p.shape[0], 2 * a->p.shape[1], ema_rows, a);
}
