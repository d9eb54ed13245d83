/* SPDX-License-Identifier: Apache-2.0
 * Cases of glu and activation: every activation, gates far into both tails. */
#include "tests/check/check.h"

static void build_glu(check_set *s) {
    const check_case *c = &s->c;
    weft_glu_args *a = &s->args.glu;
    check_spec x = {
        c->dtype, 2, {check_get(c, "T"), check_get(c, "N")}, .row = 1, .pad = check_get(c, "pad"),
        .size = 4};
    a->act = (int32_t)check_get(c, "act");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->gate, x);
    check_add(s, &a->up, x);
    x.dtype = check_get(c, "y") ? (int)check_get(c, "y") - 1 : x.dtype;
    check_add(s, &a->y, x);
}

/* A tail of an activation is small beside what it was computed from. */
static double magnitude_glu(const check_set *s, const weft_tensor *out, int64_t row) {
    (void)out;
    return check_row_max(s, &s->args.glu.gate, row) * check_row_max(s, &s->args.glu.up, row);
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_activation_args *a = &s->args.activation;
    check_spec x = {
        c->dtype, 2, {check_get(c, "T"), check_get(c, "N")}, .row = 1, .pad = check_get(c, "pad"),
        .size = 4};
    a->act = (int32_t)check_get(c, "act");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, x);
    x.dtype = check_get(c, "y") ? (int)check_get(c, "y") - 1 : x.dtype;
    check_add(s, &a->y, x);
}

static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    (void)out;
    return check_row_max(s, &s->args.activation.x, row);
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
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=1,N=14336,act=1", "bf16:T=512,N=14336,act=1",
                                    "bf16:T=512,N=14336,act=2", NULL};

const check_op check_glu = {.op = WEFT_OP_glu,
                            .keys = "T! N! act y^ rows pad fill",
                            .groups = groups,
                            .bench = bench,
                            .build = build_glu,
                            .magnitude = magnitude_glu};
const check_op check_activation = {.op = WEFT_OP_activation,
                                   .keys = "T! N! act y^ rows pad fill",
                                   .groups = groups,
                                   .bench = bench,
                                   .build = build,
                                   .magnitude = magnitude};
