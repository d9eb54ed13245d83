/* SPDX-License-Identifier: Apache-2.0
 * Cases of glu_dx and activation_dx: every activation, gates far into both tails. */
#include "tests/check/check.h"
#include <stddef.h>

static check_spec rows_of(const check_set *s) {
    const check_case *c = &s->c;
    return (check_spec){
        c->dtype, 2, {check_get(c, "T"), check_get(c, "N")}, .row = 1, .pad = check_get(c, "pad"),
        .size = 3};
}

static void build_glu(check_set *s) {
    const check_case *c = &s->c;
    weft_glu_dx_args *a = &s->args.glu_dx;
    check_spec x = rows_of(s);
    a->act = (int32_t)check_get(c, "act");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->dy, x);
    check_add(s, &a->gate, x);
    check_add(s, &a->up, x);
    x.dtype = check_get(c, "y") ? (int)check_get(c, "y") - 1 : x.dtype;
    if (check_get(c, "only") != 2)
        check_add(s, &a->dgate, x);
    if (check_get(c, "only") != 1)
        check_add(s, &a->dup, x);
}

static double magnitude_glu(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_glu_dx_args *a = &s->args.glu_dx;
    return check_row_max(s, &a->dy, row) *
           check_row_max(s, out == &a->dup ? &a->gate : &a->up, row);
}

static bool gradient_glu(const check_set *s, check_gradient *g) {
    const weft_glu_dx_args *a = &s->args.glu_dx;
    weft_glu_args *f = &g->args.glu;
    int n = 0;
    g->op = WEFT_OP_glu;
    f->gate = check_dense(s, &a->gate, &g->mem);
    f->up = check_dense(s, &a->up, &g->mem);
    f->y = check_blank(2, f->up.shape, &g->mem);
    f->act = a->act;
    if (weft_has(&a->dgate)) {
        g->wrt[n].field = offsetof(weft_args, glu.gate);
        g->wrt[n++].gradient = &a->dgate;
    }
    if (weft_has(&a->dup)) {
        g->wrt[n].field = offsetof(weft_args, glu.up);
        g->wrt[n].gradient = &a->dup;
    }
    g->out[0].field = offsetof(weft_args, glu.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    g->kink = a->act == WEFT_ACT_RELU;
    return true;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_activation_dx_args *a = &s->args.activation_dx;
    check_spec x = rows_of(s);
    a->act = (int32_t)check_get(c, "act");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->dy, x);
    check_add(s, &a->x, x);
    x.dtype = check_get(c, "y") ? (int)check_get(c, "y") - 1 : x.dtype;
    check_add(s, &a->dx, x);
}

static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    (void)out;
    return check_row_max(s, &s->args.activation_dx.dy, row);
}

static bool gradient(const check_set *s, check_gradient *g) {
    const weft_activation_dx_args *a = &s->args.activation_dx;
    weft_activation_args *f = &g->args.activation;
    g->op = WEFT_OP_activation;
    f->x = check_dense(s, &a->x, &g->mem);
    f->y = check_blank(2, f->x.shape, &g->mem);
    f->act = a->act;
    g->wrt[0].field = offsetof(weft_args, activation.x);
    g->wrt[0].gradient = &a->dx;
    g->out[0].field = offsetof(weft_args, activation.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    g->kink = a->act == WEFT_ACT_RELU;
    return true;
}

static const char *const shapes[] = {"T=1,N=1",   "T=1,N=15",   "T=3,N=33",    "T=7,N=129",
                                     "T=33,N=64", "T=2,N=4097", "T=40,N=1000", NULL};
static const char *const variants[] = {"act=1",
                                       "act=2",
                                       "act=3",
                                       "act=4",
                                       "",
                                       "act=1,pad=3,fill=1",
                                       "act=2,fill=1,pad=1",
                                       "act=3,fill=1",
                                       "act=4,fill=4",
                                       "act=1,fill=2",
                                       "act=2,y=1",
                                       "act=3,fill=3",
                                       NULL};
static const char *const few[] = {"T=9,N=40", NULL};
static const char *const bucket[] = {"rows=1,act=1", "rows=8,act=3,pad=3", NULL};
static const char *const half[] = {"only=1,act=1", "only=2,act=3", NULL};
static const check_group groups_glu[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                         {"fp32 bf16", few, bucket, false},
                                         {"fp32 bf16", few, half, false},
                                         {.dtypes = NULL}};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,N=14336,act=1", NULL};

const check_op check_glu_dx = {.op = WEFT_OP_glu_dx,
                               .keys = "T! N! act y^ only rows pad fill",
                               .groups = groups_glu,
                               .bench = bench,
                               .build = build_glu,
                               .magnitude = magnitude_glu,
                               .gradient = gradient_glu};
const check_op check_activation_dx = {.op = WEFT_OP_activation_dx,
                                      .keys = "T! N! act y^ rows pad fill",
                                      .groups = groups,
                                      .bench = bench,
                                      .build = build,
                                      .magnitude = magnitude,
                                      .gradient = gradient};
