/* SPDX-License-Identifier: Apache-2.0
 * Cases of cross_entropy: targets that are ignored or do not exist, logits of -infinity, smoothing
 * and z-loss, each result alone. */
#include "tests/check/check.h"
#include <math.h>
#include <stddef.h>
#include <string.h>

static int32_t target_of(const check_set *s, int64_t t) {
    uint64_t h = check_hash(s->seed + 3, (uint64_t)t);
    int64_t V = check_get(&s->c, "V");
    if (h >> 61 == 0)
        return h & 1 ? -100 : (int32_t)V;
    return (int32_t)(h % (uint64_t)V);
}

/* Some logits are -infinity, as of a token that may not be said; a target's never is. */
static float logit(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed + 4, (uint64_t)(i[0] * 1000003 + i[1]));
    bool out = check_get(&s->c, "inf") && (h >> 8) % 3 == 0 && i[1] != target_of(s, i[0]);
    int fill = (int)check_get(&s->c, "fill");
    return out ? -INFINITY : check_fill_value(fill, s->c.dtype, h, 3);
}

static float scale_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    (void)s, (void)i;
    return 0.0078125f * 1.25f;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_cross_entropy_args *a = &s->args.cross_entropy;
    int64_t T = check_get(c, "T"), V = check_get(c, "V"), dx = check_get(c, "dx");
    int64_t pad = check_get(c, "pad"), only = check_get(c, "only");
    int32_t *target = arena_alloc(&s->mem, (size_t)T * 4);
    for (int64_t t = 0; t < T; t++)
        target[t] = target_of(s, t);
    a->z_loss = (float)check_get(c, "z") / 1000.0f;
    a->smoothing = (float)check_get(c, "smooth") / 100.0f;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, (check_spec){c->dtype, 2, {T, V}, .row = 1, .pad = pad, .value = logit});
    check_add(s, &a->target, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = target});
    check_add(s, &a->scale, (check_spec){WEFT_F32, 1, {1}, .value = scale_value});
    if (only != 3)
        check_add(s, &a->loss, (check_spec){WEFT_F32, 1, {T}, .row = 1});
    if (!only || only == 2)
        check_add(s, &a->nll, (check_spec){WEFT_F32, 1, {T}, .row = 1});
    if (!only || only == 3)
        check_add(s, &a->dx, (check_spec){dx ? (int)dx - 1 : c->dtype, 2, {T, V}, .row = 1});
}

static double finite_max(const check_set *s, int64_t t) {
    const check_operand *x = check_find(s, &s->args.cross_entropy.x);
    double most = 0;
    for (int64_t i = 0; i < x->at->shape[1]; i++) {
        double v = fabs(check_load(x, x->image, (int64_t[WEFT_DIMS]){t, i}));
        most = v > most && v < INFINITY ? v : most;
    }
    return most;
}

/* A loss is a difference of logits; a gradient one of probabilities. */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_cross_entropy_args *a = &s->args.cross_entropy;
    double m = finite_max(s, row) + 1, z = (double)a->z_loss;
    return out == &a->dx ? 0.01 * (1 + 2 * z * m) * (1 + m) : m + z * m * m;
}

static void only_dx(check_state *k, const check_set *s) {
    check_set v;
    check_share(s, &v);
    weft_cross_entropy_args *a = &v.args.cross_entropy;
    a->loss.id = a->nll.id = 0;
    check_variant(k, &v, "dx differs when no loss is wanted", &a->dx, check_map_same, NULL);
    check_set_fini(&v);
}

static void invariants(check_state *k, const check_set *s) {
    const weft_cross_entropy_args *a = &s->args.cross_entropy;
    if (weft_has(&a->dx) && weft_has(&a->loss) && weft_has(&a->nll))
        only_dx(k, s);
}

static bool gradient(const check_set *s, check_gradient *g) {
    const weft_cross_entropy_args *a = &s->args.cross_entropy;
    weft_cross_entropy_args *f = &g->args.cross_entropy;
    if (!weft_has(&a->dx) || check_get(&s->c, "inf"))
        return false;
    g->op = WEFT_OP_cross_entropy;
    f->x = check_dense(s, &a->x, &g->mem);
    f->target = check_dense(s, &a->target, &g->mem);
    f->scale = check_dense(s, &a->scale, &g->mem);
    f->loss = check_blank(1, f->x.shape, &g->mem);
    f->z_loss = a->z_loss;
    f->smoothing = a->smoothing;
    g->wrt[0].field = offsetof(weft_args, cross_entropy.x);
    g->wrt[0].gradient = &a->dx;
    g->out[0].field = offsetof(weft_args, cross_entropy.loss);
    g->out[0].dy = check_blank(1, f->x.shape, &g->mem);
    for (int64_t t = 0; t < f->x.shape[0]; t++)
        ((float *)g->out[0].dy.data)[t] = *(const float *)f->scale.data;
    return true;
}

static const char *const shapes[] = {"T=1,V=1",   "T=1,V=33",   "T=9,V=17",   "T=40,V=100",
                                     "T=5,V=515", "T=3,V=4099", "T=2,V=9001", NULL};
static const char *const variants[] = {
    "",           "z=10",       "smooth=10", "z=100,smooth=30,pad=3",
    "fill=1,z=1", "fill=2",     "fill=3",    "fill=4,smooth=5",
    "inf=1",      "inf=1,z=10", NULL};
static const char *const few[] = {"T=9,V=40", "T=33,V=1030", NULL};
static const char *const parts[] = {"only=1",       "only=2,z=5", "only=3,smooth=10", "rows=1",
                                    "rows=7,pad=5", "dx=1",       "dx=3,rows=8",      NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, parts, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,V=32000", "fp32:T=256,V=50257", NULL};

const check_op check_cross_entropy = {.op = WEFT_OP_cross_entropy,
                                      .keys = "T! V! z smooth inf only dx^ rows pad fill",
                                      .groups = groups,
                                      .bench = bench,
                                      .build = build,
                                      .magnitude = magnitude,
                                      .invariants = invariants,
                                      .gradient = gradient};
