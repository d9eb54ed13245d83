/* SPDX-License-Identifier: Apache-2.0
 * Cases of the gradients of rmsnorm and layernorm: [T,H] and [T,heads,D], with and without what
 * else reaches r. Saved statistics are those of r. */
#include "tests/check/check.h"
#include <math.h>
#include <stddef.h>

static const float eps = 1e-5f;

/* Of the row of r that statistic i belongs to. */
static void statistics(const check_set *s, const weft_tensor *at, const int64_t i[WEFT_DIMS],
                       double *mean, double *square) {
    const check_operand *r = check_find(s, at);
    int64_t e[WEFT_DIMS] = {i[0], at->ndim > 2 ? i[1] : 0}, n = at->shape[at->ndim - 1];
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < n; c++) {
        e[at->ndim - 1] = c;
        sum += check_load(r, r->image, e);
    }
    *mean = sum / (double)n;
    for (int64_t c = 0; c < n; c++) {
        e[at->ndim - 1] = c;
        double v = check_load(r, r->image, e) -
                   (s->c.op->op == WEFT_OP_layernorm_dx || s->c.op->op == WEFT_OP_layernorm_dg
                        ? *mean
                        : 0);
        squares += v * v;
    }
    *square = squares / (double)n;
}

static const weft_tensor *r_of(const check_set *s) {
    switch (s->c.op->op) {
    case WEFT_OP_rmsnorm_dx: return &s->args.rmsnorm_dx.r;
    case WEFT_OP_rmsnorm_dg: return &s->args.rmsnorm_dg.r;
    case WEFT_OP_layernorm_dx: return &s->args.layernorm_dx.r;
    default: return &s->args.layernorm_dg.r;
    }
}

static float inv_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    double mean, square;
    statistics(s, r_of(s), i, &mean, &square);
    return (float)(1.0 / sqrt(square + (double)eps));
}

static float mean_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    double mean, square;
    statistics(s, r_of(s), i, &mean, &square);
    return (float)mean;
}

static float old_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    float x = check_normal(check_hash(s->seed + 55, (uint64_t)i[0]));
    return x == 0 ? 1.0f : x;
}

/* Rows, statistics of rows, and columns of the case. */
typedef struct {
    check_spec row, stat, column;
} norm_specs;

static norm_specs specs_of(const check_set *s) {
    const check_case *c = &s->c;
    int64_t T = check_get(c, "T"), H = check_get(c, "H"), heads = check_get(c, "heads");
    norm_specs p = {.row = {c->dtype, 2, {T, H}, .row = 1, .pad = check_get(c, "pad")},
                    .stat = {WEFT_F32, 1, {T}, .row = 1, .value = inv_value},
                    .column = {WEFT_F32, 1, {H}, .value = old_value}};
    if (heads) {
        p.row.ndim = 3, p.row.dim[1] = heads, p.row.dim[2] = H;
        p.stat.ndim = 2, p.stat.dim[1] = heads;
    }
    return p;
}

static check_spec gain_spec(const check_set *s) {
    int64_t g = check_get(&s->c, "g");
    return (check_spec){g ? (int)g - 1 : s->c.dtype, 1, {check_get(&s->c, "H")}, .row = 0};
}

static check_spec mean_spec(const norm_specs *p) {
    check_spec mean = p->stat;
    mean.value = mean_value;
    return mean;
}

static double stat_of(const check_set *s, const weft_tensor *at, int64_t row) {
    const check_operand *o = check_find(s, at);
    int64_t heads = at->ndim > 1 ? at->shape[1] : 1;
    return check_load(o, o->image, (int64_t[WEFT_DIMS]){row / heads, row % heads});
}

static double largest(const check_set *s, const weft_tensor *at) {
    return check_row_max(s, at, 0);
}

/* ---- dx ------------------------------------------------------------------------------------- */

static void build_rms(check_set *s) {
    weft_rmsnorm_dx_args *a = &s->args.rmsnorm_dx;
    norm_specs p = specs_of(s);
    a->offset = check_get(&s->c, "offset") ? 1.0f : 0.0f;
    if (check_get(&s->c, "rows"))
        check_add_rows(s, &a->rows, check_get(&s->c, "rows"));
    check_add(s, &a->dy, p.row);
    check_add(s, &a->r, p.row);
    check_add(s, &a->g, gain_spec(s));
    check_add(s, &a->inv, p.stat);
    if (check_get(&s->c, "dr"))
        check_add(s, &a->dr, p.row);
    check_add(s, &a->dx, p.row);
}

/* What is left after d's part along r is taken away may be little. */
static double magnitude_rms(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_rmsnorm_dx_args *a = &s->args.rmsnorm_dx;
    (void)out;
    return stat_of(s, &a->inv, row) * check_row_max(s, &a->dy, row) *
               (largest(s, &a->g) + (double)a->offset) +
           (weft_has(&a->dr) ? check_row_max(s, &a->dr, row) : 0);
}

static bool smooth(const check_set *s) {
    return check_get(&s->c, "H") >= 8; /* of few numbers a norm is nearly their signs */
}

static bool gradient_rms(const check_set *s, check_gradient *g) {
    const weft_rmsnorm_dx_args *a = &s->args.rmsnorm_dx;
    weft_rmsnorm_args *f = &g->args.rmsnorm;
    g->op = WEFT_OP_rmsnorm;
    f->x = check_dense(s, &a->r, &g->mem);
    f->g = check_dense(s, &a->g, &g->mem);
    f->y = check_blank(f->x.ndim, f->x.shape, &g->mem);
    f->eps = eps;
    f->offset = a->offset;
    g->wrt[0].field = offsetof(weft_args, rmsnorm.x);
    g->wrt[0].gradient = &a->dx;
    g->out[0].field = offsetof(weft_args, rmsnorm.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    if (weft_has(&a->dr)) {
        f->r = check_blank(f->x.ndim, f->x.shape, &g->mem);
        g->out[1].field = offsetof(weft_args, rmsnorm.r);
        g->out[1].dy = check_dense(s, &a->dr, &g->mem);
    }
    return smooth(s);
}

static void build_layer(check_set *s) {
    weft_layernorm_dx_args *a = &s->args.layernorm_dx;
    norm_specs p = specs_of(s);
    if (check_get(&s->c, "rows"))
        check_add_rows(s, &a->rows, check_get(&s->c, "rows"));
    check_add(s, &a->dy, p.row);
    check_add(s, &a->r, p.row);
    check_add(s, &a->g, gain_spec(s));
    check_add(s, &a->mean, mean_spec(&p));
    check_add(s, &a->inv, p.stat);
    if (check_get(&s->c, "dr"))
        check_add(s, &a->dr, p.row);
    check_add(s, &a->dx, p.row);
}

static double magnitude_layer(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_layernorm_dx_args *a = &s->args.layernorm_dx;
    (void)out;
    return stat_of(s, &a->inv, row) * check_row_max(s, &a->dy, row) * largest(s, &a->g) +
           (weft_has(&a->dr) ? check_row_max(s, &a->dr, row) : 0);
}

static bool gradient_layer(const check_set *s, check_gradient *g) {
    const weft_layernorm_dx_args *a = &s->args.layernorm_dx;
    weft_layernorm_args *f = &g->args.layernorm;
    g->op = WEFT_OP_layernorm;
    f->x = check_dense(s, &a->r, &g->mem);
    f->g = check_dense(s, &a->g, &g->mem);
    f->y = check_blank(f->x.ndim, f->x.shape, &g->mem);
    f->eps = eps;
    g->wrt[0].field = offsetof(weft_args, layernorm.x);
    g->wrt[0].gradient = &a->dx;
    g->out[0].field = offsetof(weft_args, layernorm.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    if (weft_has(&a->dr)) {
        f->r = check_blank(f->x.ndim, f->x.shape, &g->mem);
        g->out[1].field = offsetof(weft_args, layernorm.r);
        g->out[1].dy = check_dense(s, &a->dr, &g->mem);
    }
    return smooth(s);
}

static const char *const shapes[] = {
    "T=1,H=1",          "T=1,H=33",   "T=7,H=16",   "T=3,H=15",   "T=5,H=129",
    "T=33,H=64",        "T=2,H=4096", "T=2,H=8712", "T=17,H=257", "T=4,H=64,heads=3",
    "T=6,H=17,heads=2", "T=40,H=520", NULL};
static const char *const variants[] = {
    "", "dr=1", "dr=1,pad=3", "g=1", "g=3", "dr=1,fill=1", "fill=2", "fill=3,dr=1", "fill=4", NULL};
static const char *const few[] = {"T=9,H=48", "T=33,H=100,heads=2", NULL};
static const char *const bucket[] = {"rows=1,dr=1", "rows=8,pad=2", NULL};
static const char *const offsets[] = {"offset=1", "offset=1,dr=1,g=1", NULL};
static const check_group groups_rms[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                         {"fp32 bf16", few, offsets, false},
                                         {"fp32 bf16", few, bucket, false},
                                         {.dtypes = NULL}};
static const check_group groups_layer[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                           {"fp32 bf16", few, bucket, false},
                                           {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,H=4096,dr=1", NULL};

const check_op check_rmsnorm_dx = {.op = WEFT_OP_rmsnorm_dx,
                                   .keys = "T! H! heads dr offset g^ rows pad fill",
                                   .groups = groups_rms,
                                   .bench = bench,
                                   .build = build_rms,
                                   .magnitude = magnitude_rms,
                                   .gradient = gradient_rms};
const check_op check_layernorm_dx = {.op = WEFT_OP_layernorm_dx,
                                     .keys = "T! H! heads dr g^ rows pad fill",
                                     .groups = groups_layer,
                                     .bench = bench,
                                     .build = build_layer,
                                     .magnitude = magnitude_layer,
                                     .gradient = gradient_layer};

/* ---- dg ------------------------------------------------------------------------------------- */

static bool valid_sum(const check_case *c) {
    int64_t n = check_get(c, "shards");
    return (n == 0 || n == 1 || n == 2 || n == 4 || n == 8) && check_get(c, "T") % (n ? n : 1) == 0;
}

static int32_t shards_of(const check_set *s) {
    return check_get(&s->c, "shards") ? (int32_t)check_get(&s->c, "shards") : 1;
}

/* What a column's chain adds up, at most. */
static double sum_of_rows(const check_set *s, const weft_tensor *dy, const weft_tensor *r,
                          const weft_tensor *inv) {
    int64_t T = s->rows >= 0 ? s->rows : dy->shape[0], heads = dy->ndim > 2 ? dy->shape[1] : 1;
    double sum = 0;
    for (int64_t row = 0; row < T * heads; row++)
        sum += check_row_max(s, dy, row) *
               (r ? check_row_max(s, r, row) * stat_of(s, inv, row) : 1);
    return sum;
}

static void build_rms_dg(check_set *s) {
    weft_rmsnorm_dg_args *a = &s->args.rmsnorm_dg;
    norm_specs p = specs_of(s);
    a->shards = shards_of(s);
    if (check_get(&s->c, "rows"))
        check_add_rows(s, &a->rows, check_get(&s->c, "rows"));
    check_add(s, &a->dy, p.row);
    check_add(s, &a->r, p.row);
    check_add(s, &a->inv, p.stat);
    check_add(s, &a->dg, p.column);
}

static double magnitude_rms_dg(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_rmsnorm_dg_args *a = &s->args.rmsnorm_dg;
    (void)out, (void)row;
    return sum_of_rows(s, &a->dy, &a->r, &a->inv);
}

static void invariants_rms_dg(check_state *k, const check_set *s) {
    check_token_sum(k, s, &s->args.rmsnorm_dg.dy, NULL);
}

static bool gradient_rms_dg(const check_set *s, check_gradient *g) {
    const weft_rmsnorm_dg_args *a = &s->args.rmsnorm_dg;
    weft_rmsnorm_args *f = &g->args.rmsnorm;
    g->op = WEFT_OP_rmsnorm;
    f->x = check_dense(s, &a->r, &g->mem);
    f->g = check_blank(1, a->dg.shape, &g->mem);
    f->y = check_blank(f->x.ndim, f->x.shape, &g->mem);
    f->eps = eps;
    g->wrt[0].field = offsetof(weft_args, rmsnorm.g);
    g->wrt[0].gradient = &a->dg;
    g->wrt[0].anywhere = true;
    g->out[0].field = offsetof(weft_args, rmsnorm.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    return true;
}

static void build_layer_dg(check_set *s) {
    weft_layernorm_dg_args *a = &s->args.layernorm_dg;
    norm_specs p = specs_of(s);
    a->shards = shards_of(s);
    if (check_get(&s->c, "rows"))
        check_add_rows(s, &a->rows, check_get(&s->c, "rows"));
    check_add(s, &a->dy, p.row);
    check_add(s, &a->r, p.row);
    check_add(s, &a->mean, mean_spec(&p));
    check_add(s, &a->inv, p.stat);
    check_add(s, &a->dg, p.column);
    if (!check_get(&s->c, "plain"))
        check_add(s, &a->db, p.column);
}

static double magnitude_layer_dg(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_layernorm_dg_args *a = &s->args.layernorm_dg;
    (void)row;
    return out == &a->db ? sum_of_rows(s, &a->dy, NULL, NULL)
                         : 2 * sum_of_rows(s, &a->dy, &a->r, &a->inv);
}

static void invariants_layer_dg(check_state *k, const check_set *s) {
    check_token_sum(k, s, &s->args.layernorm_dg.dy, NULL);
}

static bool gradient_layer_dg(const check_set *s, check_gradient *g) {
    const weft_layernorm_dg_args *a = &s->args.layernorm_dg;
    weft_layernorm_args *f = &g->args.layernorm;
    g->op = WEFT_OP_layernorm;
    f->x = check_dense(s, &a->r, &g->mem);
    f->g = check_blank(1, a->dg.shape, &g->mem);
    f->b = check_blank(1, a->dg.shape, &g->mem);
    f->y = check_blank(f->x.ndim, f->x.shape, &g->mem);
    f->eps = eps;
    g->wrt[0].field = offsetof(weft_args, layernorm.g);
    g->wrt[0].gradient = &a->dg;
    g->wrt[1].field = offsetof(weft_args, layernorm.b);
    g->wrt[1].gradient = weft_has(&a->db) ? &a->db : NULL;
    g->wrt[0].anywhere = g->wrt[1].anywhere = true;
    g->out[0].field = offsetof(weft_args, layernorm.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    return true;
}

static const char *const shapes_dg[] = {"T=1,H=1",          "T=1,H=33",          "T=7,H=16",
                                        "T=17,H=300",       "T=65,H=64",         "T=200,H=40",
                                        "T=4,H=64,heads=3", "T=33,H=17,heads=2", NULL};
static const char *const variants_dg[] = {"", "pad=3", "fill=1", "fill=2", "fill=4", NULL};
static const char *const split[] = {"T=8,H=40", "T=48,H=33", "T=16,H=24,heads=3", NULL};
static const char *const shards[] = {"shards=2",        "shards=4,pad=3",  "shards=8",
                                     "shards=8,fill=1", "shards=4,rows=5", NULL};
static const char *const plain[] = {"plain=1", "plain=1,pad=2,fill=1", NULL};
static const check_group groups_rms_dg[] = {{"fp32 fp16 bf16", shapes_dg, variants_dg, false},
                                            {"fp32 bf16", split, shards, false},
                                            {"fp32 bf16", few, bucket + 1, false},
                                            {.dtypes = NULL}};
static const check_group groups_layer_dg[] = {{"fp32 fp16 bf16", shapes_dg, variants_dg, false},
                                              {"fp32 bf16", split, shards, false},
                                              {"fp32 bf16", few, plain, false},
                                              {"fp32 bf16", few, bucket + 1, false},
                                              {.dtypes = NULL}};

const check_op check_rmsnorm_dg = {.op = WEFT_OP_rmsnorm_dg,
                                   .keys = "T! H! heads shards rows pad fill",
                                   .groups = groups_rms_dg,
                                   .valid = valid_sum,
                                   .build = build_rms_dg,
                                   .magnitude = magnitude_rms_dg,
                                   .invariants = invariants_rms_dg,
                                   .gradient = gradient_rms_dg};
const check_op check_layernorm_dg = {.op = WEFT_OP_layernorm_dg,
                                     .keys = "T! H! heads shards plain rows pad fill",
                                     .groups = groups_layer_dg,
                                     .valid = valid_sum,
                                     .build = build_layer_dg,
                                     .magnitude = magnitude_layer_dg,
                                     .invariants = invariants_layer_dg,
                                     .gradient = gradient_layer_dg};
