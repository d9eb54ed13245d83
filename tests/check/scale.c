/* SPDX-License-Identifier: Apache-2.0
 * Cases of scale, fill, accumulate and sum_squares. */
#include "tests/check/check.h"
#include <math.h>

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_scale_args *a = &s->args.scale;
    int64_t T = check_get(c, "T"), N = check_get(c, "N"), y = check_get(c, "y");
    check_spec x = {c->dtype, 2, {T, N}, .row = 1, .pad = check_get(c, "pad")};
    if (check_get(c, "heads"))
        x.ndim = 3, x.dim[1] = check_get(c, "heads"), x.dim[2] = N;
    a->s = (float)check_get(c, "s") / 10.0f;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, x);
    x.dtype = y ? (int)y - 1 : c->dtype;
    check_add(s, &a->y, x);
}

/* y = x times the number, as the type holds it. */
static void invariants(check_state *k, const check_set *s) {
    const check_operand *x = check_find(s, &s->args.scale.x), *y = check_find(s, &s->args.scale.y);
    int64_t i[WEFT_DIMS] = {0};
    do {
        if (s->rows >= 0 && i[0] >= s->rows)
            return;
        float want = check_round(y->spec.dtype,
                                 (float)check_load(x, x->image, i) * s->args.scale.s);
        if (check_load(y, k->base->image[y - s->operand], i) != (double)want)
            check_fail(k, "an element is not %g times what it was", (double)s->args.scale.s);
    } while (check_next(x->at->shape, i));
}

static const char *const shapes[] = {"T=1,N=1",   "T=1,N=33",   "T=9,N=17",         "T=40,N=64",
                                     "T=5,N=515", "T=3,N=4099", "T=6,N=24,heads=3", NULL};
static const char *const variants[] = {
    "s=3", "s=10", "s=0", "s=7,pad=3,fill=1", "s=25,fill=2", "s=113,y=1", "s=3,y=3,fill=4", NULL};
static const char *const few[] = {"T=9,N=40", NULL};
static const char *const bucket[] = {"s=25,rows=1", "s=5,rows=8,pad=2", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};

const check_op check_scale = {.op = WEFT_OP_scale,
                              .keys = "T! N! heads s y^ rows pad fill",
                              .groups = groups,
                              .build = build,
                              .invariants = invariants};

/* ---- fill ---------------------------------------------------------------------------------- */

static void build_fill(check_set *s) {
    const check_case *c = &s->c;
    check_spec y = {WEFT_F32, 2, {check_get(c, "N"), check_get(c, "K")}, .row = 0};
    y.pad = check_get(c, "pad");
    s->args.fill.value = (float)check_get(c, "value") / 4.0f;
    check_add(s, &s->args.fill.y, y);
}

static void invariants_fill(check_state *k, const check_set *s) {
    const check_operand *y = check_find(s, &s->args.fill.y);
    int64_t i[WEFT_DIMS] = {0};
    do
        if (check_load(y, k->base->image[y - s->operand], i) != (double)s->args.fill.value)
            check_fail(k, "an element is not %g", (double)s->args.fill.value);
    while (check_next(y->at->shape, i));
}

static const char *const matrices[] = {"N=1,K=1",   "N=1,K=33",   "N=9,K=16",  "N=40,K=64",
                                       "N=5,K=515", "N=3,K=4099", "N=70,K=24", NULL};
static const char *const values[] = {"value=0", "value=3", "value=0,pad=3", "value=7,pad=4", NULL};
static const check_group groups_fill[] = {{"fp32", matrices, values, false}, {.dtypes = NULL}};
static const char *const bench_fill[] = {"fp32:N=4096,K=4096", NULL};

const check_op check_fill_ = {.op = WEFT_OP_fill,
                              .keys = "N! K! value pad",
                              .groups = groups_fill,
                              .bench = bench_fill,
                              .build = build_fill,
                              .invariants = invariants_fill};

/* ---- accumulate ----------------------------------------------------------------------------- */

static void build_accumulate(check_set *s) {
    const check_case *c = &s->c;
    weft_accumulate_args *a = &s->args.accumulate;
    check_spec x = {WEFT_F32, 2, {check_get(c, "N"), check_get(c, "K")}, .row = 0};
    if (check_get(c, "flat"))
        x = (check_spec){WEFT_F32, 1, {check_get(c, "N") * check_get(c, "K")}, .row = 0};
    x.pad = check_get(c, "xpad");
    check_add(s, &a->x, x);
    x.pad = check_get(c, "pad");
    check_add(s, &a->y, x);
}

static void invariants_accumulate(check_state *k, const check_set *s) {
    const check_operand *x = check_find(s, &s->args.accumulate.x);
    const check_operand *y = check_find(s, &s->args.accumulate.y);
    int64_t i[WEFT_DIMS] = {0};
    do {
        float want = (float)check_load(x, x->image, i) + (float)check_load(y, y->image, i);
        if (check_load(y, k->base->image[y - s->operand], i) != (double)want)
            check_fail(k, "a sum is not that of its two numbers");
    } while (check_next(x->at->shape, i));
}

static const char *const layouts[] = {"",       "pad=3",  "xpad=1", "pad=4,xpad=8", "flat=1",
                                      "fill=1", "fill=2", "fill=3", "fill=4",       NULL};
static const check_group groups_accumulate[] = {{"fp32", matrices, layouts, false},
                                                {.dtypes = NULL}};
static const char *const bench_accumulate[] = {"fp32:N=4096,K=4096", NULL};

const check_op check_accumulate = {.op = WEFT_OP_accumulate,
                                   .keys = "N! K! flat xpad pad fill",
                                   .groups = groups_accumulate,
                                   .bench = bench_accumulate,
                                   .build = build_accumulate,
                                   .invariants = invariants_accumulate};

/* ---- sum_squares ---------------------------------------------------------------------------- */

static bool valid(const check_case *c) {
    int64_t l = check_get(c, "leaves");
    return (l == 0 || l == 1 || l == 2 || l == 4 || l == 8) && check_get(c, "K") % (l ? l : 1) == 0;
}

static void build_squares(check_set *s) {
    const check_case *c = &s->c;
    weft_sum_squares_args *a = &s->args.sum_squares;
    int64_t N = check_get(c, "N"), K = check_get(c, "K");
    a->leaves = check_get(c, "leaves") ? (int32_t)check_get(c, "leaves") : 1;
    check_add(s, &a->x, (check_spec){WEFT_F32, 2, {N, K}, .row = 1, .pad = check_get(c, "pad")});
    check_add(s, &a->y, (check_spec){WEFT_F32, 2, {N, a->leaves}, .row = 1});
}

/* A rank that holds one leaf's columns has that leaf's bits. */
static void one_leaf(check_state *k, const check_set *s) {
    check_set v;
    int32_t leaves = s->args.sum_squares.leaves, which = (int32_t)(s->seed % (uint64_t)leaves);
    check_share(s, &v);
    weft_sum_squares_args *a = &v.args.sum_squares;
    const check_operand *from = check_find(s, &s->args.sum_squares.x);
    const check_operand *whole = check_find(s, &s->args.sum_squares.y);
    check_operand *x = check_find(&v, &a->x), *y = check_find(&v, &a->y);
    int64_t i[WEFT_DIMS] = {0}, width = x->spec.dim[1] / leaves;
    check_result r;
    a->leaves = 1;
    x->spec.dim[1] = width;
    y->spec.dim[1] = 1;
    check_remake(&v, x);
    check_remake(&v, y);
    do
        check_store(
            x, x->image, i,
            (float)check_load(from, from->image, (int64_t[WEFT_DIMS]){i[0], i[1] + which * width}));
    while (check_next(x->at->shape, i));
    check_exec(k, k->row, &v, 1, false, &r);
    for (int64_t n = 0; n < x->spec.dim[0] && !k->bad; n++)
        if (check_load(y, r.image[y - v.operand], (int64_t[WEFT_DIMS]){n}) !=
            check_load(whole, k->base->image[whole - s->operand], (int64_t[WEFT_DIMS]){n, which}))
            check_fail(k, "a leaf alone differs from the leaf among others");
    check_result_fini(&r);
    check_set_fini(&v);
}

static void invariants_squares(check_state *k, const check_set *s) {
    if (s->args.sum_squares.leaves > 1)
        one_leaf(k, s);
}

static const char *const halves[] = {"N=1,K=8", "N=9,K=16", "N=3,K=4096", "N=33,K=520", NULL};
static const char *const leaves[] = {"leaves=2", "leaves=4,pad=3", "leaves=8", "leaves=8,fill=1",
                                     NULL};
static const char *const fills[] = {"", "pad=3", "fill=1", "fill=2", "fill=4", NULL};
static const check_group groups_squares[] = {
    {"fp32", matrices, fills, false}, {"fp32", halves, leaves, false}, {.dtypes = NULL}};
static const char *const bench_squares[] = {"fp32:N=4096,K=4096,leaves=8", NULL};

const check_op check_sum_squares = {.op = WEFT_OP_sum_squares,
                                    .keys = "N! K! leaves pad fill",
                                    .groups = groups_squares,
                                    .bench = bench_squares,
                                    .valid = valid,
                                    .build = build_squares,
                                    .invariants = invariants_squares,
                                    .rows_alone = true};
