/* SPDX-License-Identifier: Apache-2.0
 * Cases of adamw, sgd and ema: against their definitions in double; the computed weight is the
 * master rounded, or rounded at random by its element. */
#include "tests/check/check.h"
#include "weft/rng.h"
#include <math.h>
#include <string.h>

static float hyper_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    static const float plain[] = {
        [WEFT_HYPER_LR] = 1e-2f,    [WEFT_HYPER_BETA1] = 0.9f,   [WEFT_HYPER_BETA2] = 0.98f,
        [WEFT_HYPER_EPS] = 1e-8f,   [WEFT_HYPER_DECAY] = 0.1f,   [WEFT_HYPER_STEP1] = 3.69f,
        [WEFT_HYPER_STEP2] = 4.12f, [WEFT_HYPER_GSCALE] = 0.25f, [WEFT_HYPER_EMA] = 0.9f,
        [WEFT_HYPERS - 1] = 0.0f};
    if (i[0] == WEFT_HYPER_SEED_LOW || i[0] == WEFT_HYPER_SEED_HIGH)
        return weft_bits_f32((uint32_t)check_hash(s->seed, (uint64_t)i[0]));
    return plain[i[0]];
}

static float square_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    float x = check_normal(check_hash(s->seed + 8, (uint64_t)(i[0] * 100003 + i[1])));
    return x * x;
}

static check_spec matrix(const check_set *s) {
    return (check_spec){WEFT_F32,
                        2,
                        {check_get(&s->c, "N"), check_get(&s->c, "K")},
                        .pad = check_get(&s->c, "pad")};
}

static const check_spec hypers = {WEFT_F32, 1, {WEFT_HYPERS}, .value = hyper_value};

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_adamw_args *a = &s->args.adamw;
    check_spec p = matrix(s), v = p, w = p;
    v.value = square_value;
    w.dtype = c->dtype;
    a->decay = check_get(c, "decay") ? 1.0f : 0.0f;
    a->stochastic = (int32_t)check_get(c, "random");
    a->stream = (int32_t)check_hash(s->seed, 9);
    check_add(s, &a->g, p);
    check_add(s, &a->hyper, hypers);
    check_add(s, &a->p, p);
    check_add(s, &a->m, p);
    check_add(s, &a->v, v);
    if (!check_get(c, "plain"))
        check_add(s, &a->w, w);
}

static void build_sgd(check_set *s) {
    const check_case *c = &s->c;
    weft_sgd_args *a = &s->args.sgd;
    check_spec p = matrix(s), w = p;
    w.dtype = c->dtype;
    a->decay = check_get(c, "decay") ? 1.0f : 0.0f;
    a->stochastic = (int32_t)check_get(c, "random");
    a->stream = (int32_t)check_hash(s->seed, 9);
    check_add(s, &a->g, p);
    check_add(s, &a->hyper, hypers);
    check_add(s, &a->p, p);
    check_add(s, &a->m, p);
    if (!check_get(c, "plain"))
        check_add(s, &a->w, w);
}

static void build_ema(check_set *s) {
    weft_ema_args *a = &s->args.ema;
    check_add(s, &a->p, matrix(s));
    check_add(s, &a->hyper, hypers);
    check_add(s, &a->e, matrix(s));
}

static bool valid(const check_case *c) {
    return !check_get(c, "random") || c->dtype == WEFT_BF16;
}

/* ---- definitions ---------------------------------------------------------------------------- */

static double before(const check_set *s, const weft_tensor *at, const int64_t i[WEFT_DIMS]) {
    const check_operand *o = check_find(s, at);
    return check_load(o, o->image, i);
}

static double after(const check_state *k, const check_set *s, const weft_tensor *at,
                    const int64_t i[WEFT_DIMS]) {
    const check_operand *o = check_find(s, at);
    return check_load(o, k->base->image[o - s->operand], i);
}

static double hyper(const check_set *s, int which) {
    return (double)hyper_value(s, (int64_t[WEFT_DIMS]){which});
}

static void expect(check_state *k, const char *what, double got, double want, double size) {
    if (!(fabs(got - want) <= 1e-6 * fmax(size, fabs(want)) + 1e-37))
        check_fail(k, "%s is %.9g, by its definition %.9g", what, got, want);
}

static bool finite_float(double x) {
    return fabs(x) < 3e38;
}

static void compare_adamw(check_state *k, const check_set *s, const int64_t i[WEFT_DIMS]) {
    const weft_adamw_args *a = &s->args.adamw;
    double g = before(s, &a->g, i) * hyper(s, WEFT_HYPER_GSCALE), lr = hyper(s, WEFT_HYPER_LR);
    double b1 = hyper(s, WEFT_HYPER_BETA1), b2 = hyper(s, WEFT_HYPER_BETA2);
    double p = before(s, &a->p, i), m = before(s, &a->m, i), v = before(s, &a->v, i);
    double kept = p - lr * (double)a->decay * hyper(s, WEFT_HYPER_DECAY) * p;
    m = b1 * m + (1 - b1) * g;
    v = b2 * v + (1 - b2) * g * g;
    double down = sqrt(v) * hyper(s, WEFT_HYPER_STEP2) + hyper(s, WEFT_HYPER_EPS);
    double step = lr * hyper(s, WEFT_HYPER_STEP1) * m / down;
    expect(k, "m", after(k, s, &a->m, i), m, fabs(g) + fabs(before(s, &a->m, i)));
    if (finite_float(v))
        expect(k, "v", after(k, s, &a->v, i), v, v);
    if (check_get(&s->c, "fill") == FILL_NORMAL)
        expect(k, "p", after(k, s, &a->p, i), kept - step, fabs(p) + fabs(step) * 4);
}

static void compare_sgd(check_state *k, const check_set *s, const int64_t i[WEFT_DIMS]) {
    const weft_sgd_args *a = &s->args.sgd;
    double g = before(s, &a->g, i) * hyper(s, WEFT_HYPER_GSCALE), p = before(s, &a->p, i);
    double m = before(s, &a->m, i), d = g + (double)a->decay * hyper(s, WEFT_HYPER_DECAY) * p;
    double next = hyper(s, WEFT_HYPER_BETA1) * m + d;
    expect(k, "m", after(k, s, &a->m, i), next, fabs(g) + fabs(m) + fabs(p));
    expect(k, "p", after(k, s, &a->p, i), p - hyper(s, WEFT_HYPER_LR) * next,
           fabs(p) + fabs(g) + fabs(m));
}

static void invariants_ema(check_state *k, const check_set *s) {
    const weft_ema_args *a = &s->args.ema;
    double keep = hyper(s, WEFT_HYPER_EMA);
    int64_t i[WEFT_DIMS] = {0};
    do {
        double e = before(s, &a->e, i), p = before(s, &a->p, i);
        expect(k, "e", after(k, s, &a->e, i), keep * e + (1 - keep) * p, fabs(e) + fabs(p));
    } while (check_next(a->p.shape, i));
}

/* The weight of an element from its master's bits. */
static float rounded(const check_set *s, const weft_tensor *w, int32_t stochastic, int32_t stream,
                     float p, uint64_t element) {
    uint32_t bits = weft_f32_bits(p);
    uint64_t seed = (uint64_t)weft_f32_bits((float)hyper(s, WEFT_HYPER_SEED_HIGH)) << 32 |
                    weft_f32_bits((float)hyper(s, WEFT_HYPER_SEED_LOW));
    if (!stochastic || !isfinite(p))
        return check_round(w->dtype, p);
    weft_philox r = weft_philox4x32(seed, (uint32_t)stream, element >> 2);
    return weft_bits_f32((bits + (r.v[element & 3] & 0xffff)) & 0xffff0000u);
}

typedef struct {
    const weft_tensor *p, *w;
    int32_t stochastic, stream;
} optim_out;

static void check_weights(check_state *k, const check_set *s, const optim_out *o) {
    int64_t i[WEFT_DIMS] = {0};
    uint64_t element = 0;
    if (weft_has(o->w))
        do {
            float p = (float)after(k, s, o->p, i);
            float want = rounded(s, o->w, o->stochastic, o->stream, p, element++);
            if (after(k, s, o->w, i) != (double)want)
                check_fail(k, "the weight of %.9g is %.9g instead of %.9g", (double)p,
                           after(k, s, o->w, i), (double)want);
        } while (check_next(o->p->shape, i));
}

static void invariants(check_state *k, const check_set *s) {
    const weft_adamw_args *a = &s->args.adamw;
    int64_t i[WEFT_DIMS] = {0};
    do
        compare_adamw(k, s, i);
    while (check_next(a->p.shape, i));
    check_weights(k, s, &(optim_out){&a->p, &a->w, a->stochastic, a->stream});
}

static void invariants_sgd(check_state *k, const check_set *s) {
    const weft_sgd_args *a = &s->args.sgd;
    int64_t i[WEFT_DIMS] = {0};
    do
        compare_sgd(k, s, i);
    while (check_next(a->p.shape, i));
    check_weights(k, s, &(optim_out){&a->p, &a->w, a->stochastic, a->stream});
}

static const char *const shapes[] = {"N=1,K=1",   "N=1,K=33",   "N=9,K=16",  "N=40,K=64",
                                     "N=5,K=515", "N=3,K=2051", "N=70,K=24", NULL};
static const char *const variants[] = {
    "", "decay=1", "decay=1,pad=3", "plain=1,decay=1", "fill=1", "fill=2,decay=1", "fill=4", NULL};
static const char *const at_random[] = {"random=1", "random=1,decay=1,pad=5", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"bf16", shapes, at_random, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:N=4096,K=4096,decay=1", NULL};
static const char *const layouts[] = {"", "pad=3", "fill=1", "fill=2", NULL};
static const check_group groups_ema[] = {{"fp32", shapes, layouts, false}, {.dtypes = NULL}};

const check_op check_adamw = {.op = WEFT_OP_adamw,
                              .keys = "N! K! decay random plain pad fill",
                              .groups = groups,
                              .bench = bench,
                              .valid = valid,
                              .build = build,
                              .invariants = invariants};
const check_op check_sgd = {.op = WEFT_OP_sgd,
                            .keys = "N! K! decay random plain pad fill",
                            .groups = groups,
                            .valid = valid,
                            .build = build_sgd,
                            .invariants = invariants_sgd};
const check_op check_ema = {.op = WEFT_OP_ema,
                            .keys = "N! K! pad fill",
                            .groups = groups_ema,
                            .build = build_ema,
                            .invariants = invariants_ema};
