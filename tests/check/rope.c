/* SPDX-License-Identifier: Apache-2.0
 * Cases of rope_table and rope: positions to 2^17, dynamic NTK, partial widths, both pairings. */
#include "tests/check/check.h"
#include <math.h>
#include <stddef.h>

/* Frequencies of theta 10000 as high and low parts. */
static float frequency(const check_set *s, const int64_t i[WEFT_DIMS]) {
    double f = pow(10000.0, -(double)i[0] / (double)check_get(&s->c, "R"));
    float high = (float)f;
    return i[1] ? (float)(f - (double)high) : high;
}

static void build_table(check_set *s) {
    const check_case *c = &s->c;
    weft_rope_table_args *a = &s->args.rope_table;
    int64_t T = check_get(c, "T"), R = check_get(c, "R");
    int32_t *pos = arena_alloc(&s->mem, (size_t)T * 4);
    for (int64_t t = 0; t < T; t++) {
        uint64_t h = check_hash(s->seed, (uint64_t)t);
        pos[t] = t < 3 ? (int32_t)t : (int32_t)((h >> 20) % (h % 3 == 0 ? 131072 : 300));
    }
    a->mscale = check_get(c, "mscale") ? (float)check_get(c, "mscale") / 100.0f : 1.0f;
    a->ntk_ctx = (int32_t)check_get(c, "ntk");
    a->ntk_factor = a->ntk_ctx ? 4.0f : 0.0f;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->pos, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = pos});
    check_add(s, &a->freq, (check_spec){WEFT_F32, 2, {R, 2}, .value = frequency});
    check_add(s, &a->y, (check_spec){WEFT_F32, 3, {T, R, 2}, .row = 1});
}

static const char *const table_shapes[] = {"T=1,R=2", "T=5,R=32", "T=33,R=64", "T=100,R=17", NULL};
static const char *const table_variants[] = {"",       "mscale=139", "ntk=64", "ntk=1000,mscale=80",
                                             "rows=1", NULL};
static const check_group table_groups[] = {{"fp32", table_shapes, table_variants, false},
                                           {.dtypes = NULL}};
static const char *const table_bench[] = {"fp32:T=512,R=64", NULL};

const check_op check_rope_table = {.op = WEFT_OP_rope_table,
                                   .keys = "T! R! mscale ntk rows",
                                   .groups = table_groups,
                                   .bench = table_bench,
                                   .build = build_table};

static float angle(const check_set *s, const int64_t i[WEFT_DIMS]) {
    double x = (double)i[0] * pow(10000.0, -(double)i[1] / (double)check_get(&s->c, "R"));
    return (float)(i[2] ? sin(x) : cos(x));
}

static bool valid(const check_case *c) {
    return 2 * check_get(c, "R") <= check_get(c, "D");
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_rope_args *a = &s->args.rope;
    int64_t T = check_get(c, "T"), H = check_get(c, "H"), D = check_get(c, "D");
    int64_t pad = check_get(c, "pad"), y = check_get(c, "y");
    a->interleaved = (int32_t)check_get(c, "interleaved");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, (check_spec){c->dtype, 3, {T, H, D}, .row = 1, .pad = pad});
    check_add(s, &a->table,
              (check_spec){WEFT_F32, 3, {T, check_get(c, "R"), 2}, .row = 1, .value = angle});
    check_add(s, &a->y, (check_spec){y ? (int)y - 1 : c->dtype, 3, {T, H, D}, .row = 1});
}

static const char *const shapes[] = {
    "T=1,H=1,D=2,R=1",  "T=1,H=3,D=64,R=32",  "T=7,H=2,D=80,R=16",  "T=17,H=5,D=96,R=48",
    "T=33,H=1,D=5,R=2", "T=4,H=8,D=128,R=64", "T=3,H=2,D=256,R=37", NULL};
static const char *const variants[] = {"",
                                       "interleaved=1",
                                       "interleaved=1,pad=3,fill=1",
                                       "pad=5,fill=3",
                                       "fill=2",
                                       "fill=4,interleaved=1",
                                       "y=1",
                                       NULL};
static const char *const few[] = {"T=9,H=3,D=64,R=32", "T=16,H=2,D=20,R=5", NULL};
static const char *const bucket[] = {"rows=1", "rows=8,interleaved=1", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,H=32,D=128,R=64", NULL};

const check_op check_rope = {.op = WEFT_OP_rope,
                             .keys = "T! H! D! R! interleaved y^ rows pad fill",
                             .groups = groups,
                             .bench = bench,
                             .valid = valid,
                             .build = build};

/* ---- the gradient --------------------------------------------------------------------------- */

static void build_dx(check_set *s) {
    const check_case *c = &s->c;
    weft_rope_dx_args *a = &s->args.rope_dx;
    int64_t T = check_get(c, "T"), H = check_get(c, "H"), D = check_get(c, "D");
    int64_t pad = check_get(c, "pad"), y = check_get(c, "y");
    a->interleaved = (int32_t)check_get(c, "interleaved");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->dy, (check_spec){c->dtype, 3, {T, H, D}, .row = 1, .pad = pad});
    check_add(s, &a->table,
              (check_spec){WEFT_F32, 3, {T, check_get(c, "R"), 2}, .row = 1, .value = angle});
    check_add(s, &a->dx, (check_spec){y ? (int)y - 1 : c->dtype, 3, {T, H, D}, .row = 1});
}

static bool gradient(const check_set *s, check_gradient *g) {
    const weft_rope_dx_args *a = &s->args.rope_dx;
    weft_rope_args *f = &g->args.rope;
    g->op = WEFT_OP_rope;
    g->out[0].field = offsetof(weft_args, rope.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    f->x = check_blank(3, g->out[0].dy.shape, &g->mem);
    f->y = check_blank(3, f->x.shape, &g->mem);
    f->table = check_dense(s, &a->table, &g->mem);
    f->interleaved = a->interleaved;
    g->wrt[0].field = offsetof(weft_args, rope.x);
    g->wrt[0].gradient = &a->dx;
    g->wrt[0].anywhere = true;
    return true;
}

const check_op check_rope_dx = {.op = WEFT_OP_rope_dx,
                                .keys = "T! H! D! R! interleaved y^ rows pad fill",
                                .groups = groups,
                                .bench = bench,
                                .valid = valid,
                                .build = build_dx,
                                .gradient = gradient};
