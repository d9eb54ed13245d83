/* SPDX-License-Identifier: Apache-2.0
 * Cases of matmul, and what one arithmetic demands of it: leaves stored apart and summed by the
 * tree are the matmul; a rank's leaves and a rank's columns are the whole's; an epilogue rounds
 * where its own ops would store; int8 by int8 has the reference's very bits. */
#include "tests/check/check.h"
#include <math.h>
#include <string.h>

typedef struct {
    double w; /* largest norm of a row of w */
} matmul_story;

static double norm(const check_operand *o, int64_t row) {
    int64_t i[WEFT_DIMS] = {row};
    double sum = 0;
    for (; i[1] < o->at->shape[1]; i[1]++) {
        double v = check_load(o, o->image, i);
        sum += v * v;
    }
    return sqrt(sum);
}

/* Scales of int8 operands: what a trained network's rows have, and some that are 0. */
static float scale_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    uint64_t h = check_hash(s->seed + 77, (uint64_t)(i[0] * 100003 + i[1]));
    return h % 16 == 0 ? 0.0f : 1e-3f * (1.0f + (float)(h >> 40) * 0x1p-24f);
}

static double largest_scale(const check_set *s, const weft_tensor *at, int64_t row, bool one) {
    const check_operand *o = check_find(s, at);
    double most = 0;
    int64_t i[WEFT_DIMS] = {one ? row : 0};
    if (!o)
        return 1;
    do {
        if (!one || i[0] == row)
            most = fmax(most, check_load(o, o->image, i));
    } while (check_next(at->shape, i));
    return most;
}

static void add_scales(check_set *s) {
    weft_matmul_args *a = &s->args.matmul;
    int64_t T = check_get(&s->c, "T"), N = check_get(&s->c, "N"), pad = check_get(&s->c, "pad");
    check_spec x = {WEFT_F32, 2, {T, a->leaves}, .row = 1, .pad = pad, .value = scale_value};
    check_spec w = {WEFT_F32, 1, {N}, .value = scale_value};
    if (check_get(&s->c, "int8") == 2)
        check_add(s, &a->xscale, x);
    if (check_get(&s->c, "int8"))
        check_add(s, &a->wscale, w);
}

static bool valid(const check_case *c) {
    return check_get(c, "int8") <= 2 && check_get(c, "leaves") <= 8 &&
           !(check_get(c, "partial") && check_get(c, "act"));
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_matmul_args *a = &s->args.matmul;
    int64_t T = check_get(c, "T"), N = check_get(c, "N"), K = check_get(c, "K");
    int64_t pad = check_get(c, "pad"), w = check_get(c, "w"), y = check_get(c, "y");
    int64_t int8 = check_get(c, "int8");
    int other = w ? (int)w - 1 : c->dtype, wtype = int8 ? WEFT_I8 : other;
    int xtype = int8 == 2 ? WEFT_I8 : c->dtype;
    check_spec out = {y ? (int)y - 1 : c->dtype, 2, {T, N}, .row = 1, .pad = pad};
    matmul_story *story = s->story = arena_alloc(&s->mem, sizeof *story);
    a->leaves = check_get(c, "leaves") ? (int32_t)check_get(c, "leaves") : 1;
    a->act = (int32_t)check_get(c, "act");
    a->partial = (int32_t)check_get(c, "partial");
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, (check_spec){xtype, 2, {T, K}, .row = 1, .pad = pad});
    check_operand *weight = check_add(s, &a->w,
                                      (check_spec){wtype, 2, {N, K}, .pad = pad, .twin = true});
    for (int64_t n = 0; n < N && !s->aligned; n++)
        story->w = fmax(story->w, norm(weight, n));
    add_scales(s);
    if (check_get(c, "bias"))
        check_add(s, &a->bias, (check_spec){other, 1, {N}, .row = 0});
    if (check_get(c, "res"))
        check_add(s, &a->res, out);
    if (a->partial)
        out = (check_spec){WEFT_F32, 3, {a->leaves, T, N}, .row = 2};
    check_add(s, &a->y, out);
}

/* Rounding grows with the terms, whatever is left of them: about norm(x) norm(w) / sqrt(K). */
static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    const weft_matmul_args *a = &s->args.matmul;
    (void)out;
    row %= a->x.shape[0];
    return norm(check_find(s, &a->x), row) * ((matmul_story *)s->story)->w *
           largest_scale(s, &a->xscale, row, true) * largest_scale(s, &a->wscale, 0, false) /
           sqrt((double)a->x.shape[1]);
}

/* ---- leaves --------------------------------------------------------------------------------- */

static void make_partial(const check_set *s, check_set *v) {
    check_share(s, v);
    weft_matmul_args *a = &v->args.matmul;
    check_operand *y = check_find(v, &a->y);
    a->partial = 1;
    a->act = 0;
    a->bias.id = a->res.id = 0;
    y->spec = (check_spec){WEFT_F32, 3, {a->leaves, a->x.shape[0], a->w.shape[0]}, .row = 2};
    check_remake(v, y);
}

/* leaf_sum of the candidate's backend over the partial planes, compared with the fused result. */
static void sum_of_leaves(check_state *k, const check_set *s, const check_set *partial,
                          const char *planes) {
    const weft_matmul_args *a = &s->args.matmul;
    const check_operand *y = check_find(s, &a->y), *p = check_same(partial, s, &a->y);
    extern const check_op check_leaf_sum;
    check_set v = {
        .c = {.op = &check_leaf_sum, .dtype = a->y.dtype}, .seed = s->seed, .rows = s->rows};
    weft_leaf_sum_args *l = &v.args.leaf_sum;
    check_result r = {0};
    if (s->rows >= 0)
        check_add_rows(&v, &l->rows, s->rows);
    check_operand *x = check_add(&v, &l->x, p->spec);
    memcpy(x->image + x->first, planes + p->first, (size_t)weft_tensor_count(p->at) * 4);
    if (weft_has(&a->bias)) {
        const check_operand *from = check_find(s, &a->bias);
        check_operand *to = check_add(&v, &l->bias, from->spec);
        *to = (check_operand){to->at, 'Q', from->spec, from->image, from->bytes, from->first};
    }
    if (weft_has(&a->res)) {
        const check_operand *from = check_find(s, &a->res);
        check_operand *to = check_add(&v, &l->res, from->spec);
        *to = (check_operand){to->at, 'Q', from->spec, from->image, from->bytes, from->first};
    }
    check_operand *out = check_add(&v, &l->y, y->spec);
    const weft_kernel *row = check_row_for(k, WEFT_OP_leaf_sum, &v.args);
    if (row && !k->bad) {
        check_exec(k, row, &v, 1, false, &r);
        check_same_bits(k, "leaf_sum of the partial leaves differs from the matmul", out,
                        r.image[out - v.operand], y, k->base->image[y - s->operand], s->rows,
                        check_map_same, NULL);
        check_result_fini(&r);
    }
    check_set_fini(&v);
}

typedef struct {
    int64_t leaf0, n0;
} slice_map;

static bool map_slice(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]) {
    const slice_map *m = ctx;
    memcpy(base, i, WEFT_DIMS * sizeof *i);
    base[0] += m->leaf0;
    return true;
}

/* Rank `rank` of `ranks` holds a slice of K with its leaves. */
static void rank_leaves(check_state *k, const check_set *partial, const char *planes, int ranks,
                        int rank) {
    check_set v;
    check_result r;
    check_share(partial, &v);
    weft_matmul_args *a = &v.args.matmul;
    check_operand *x = check_find(&v, &a->x), *w = check_find(&v, &a->w),
                  *y = check_find(&v, &a->y), *scale = check_find(&v, &a->xscale);
    int64_t cut = a->x.shape[1] / ranks;
    a->leaves /= ranks;
    a->x.shape[1] = a->w.shape[1] = cut;
    x->first += (size_t)weft_dtype_bytes(x->spec.dtype, rank * cut);
    w->first += (size_t)weft_dtype_bytes(w->spec.dtype, rank * cut);
    if (scale) {
        a->xscale.shape[1] = a->leaves;
        scale->first += (size_t)(rank * a->leaves) * sizeof(float);
    }
    y->spec.dim[0] = a->leaves;
    check_remake(&v, y);
    if (!k->row->ok || k->row->ok(&v.args)) {
        const check_operand *whole = check_same(partial, &v, &a->y);
        check_exec(k, k->row, &v, 1, false, &r);
        check_same_bits(k, "a rank's leaves differ from the whole's", y, r.image[y - v.operand],
                        whole, planes, v.rows, map_slice,
                        &(slice_map){(int64_t)rank * a->leaves, 0});
        check_result_fini(&r);
    }
    check_set_fini(&v);
}

static void leaves(check_state *k, const check_set *s) {
    check_set p;
    check_result r;
    make_partial(s, &p);
    const check_operand *y = check_find(&p, &p.args.matmul.y);
    if (k->row->ok && !k->row->ok(&p.args)) {
        check_fail(k, "partial leaves: ok() refuses what it takes combined");
        check_set_fini(&p);
        return;
    }
    check_exec(k, k->row, &p, 1, false, &r);
    const char *planes = r.image[y - p.operand];
    if (s->args.matmul.partial)
        check_same_bits(k, "partial leaves differ between runs", y, planes,
                        check_same(s, &p, y->at), k->base->image[y - p.operand], p.rows,
                        check_map_same, NULL);
    else if (!s->args.matmul.act)
        sum_of_leaves(k, s, &p, planes);
    for (int ranks = 2; ranks <= s->args.matmul.leaves && !k->bad; ranks *= 2) {
        rank_leaves(k, &p, planes, ranks, 0);
        rank_leaves(k, &p, planes, ranks, ranks - 1);
    }
    check_result_fini(&r);
    check_set_fini(&p);
}

/* ---- columns -------------------------------------------------------------------------------- */

static bool map_columns(const void *ctx, const int64_t i[WEFT_DIMS], int64_t base[WEFT_DIMS]) {
    const slice_map *m = ctx;
    memcpy(base, i, WEFT_DIMS * sizeof *i);
    base[1 + m->leaf0] += m->n0; /* leaf0: 1 where planes come first */
    return true;
}

/* Some rows of w alone: a rank of a column split. */
static void columns(check_state *k, const check_set *s, int64_t n0, int64_t n) {
    check_set v;
    check_share(s, &v);
    weft_matmul_args *a = &v.args.matmul;
    check_operand *w = check_find(&v, &a->w), *y = check_find(&v, &a->y);
    check_operand *bias = check_find(&v, &a->bias), *res = check_find(&v, &a->res);
    w->first += (size_t)weft_dtype_bytes(w->spec.dtype, n0 * a->w.stride[0]);
    a->w.shape[0] = n;
    if (weft_has(&a->wscale)) {
        check_find(&v, &a->wscale)->first += (size_t)n0 * sizeof(float);
        a->wscale.shape[0] = n;
    }
    if (bias) {
        bias->first += (size_t)weft_dtype_bytes(bias->spec.dtype, n0);
        a->bias.shape[0] = n;
    }
    if (res) {
        res->first += (size_t)weft_dtype_bytes(res->spec.dtype, n0);
        a->res.shape[1] = n;
    }
    y->spec.dim[y->spec.ndim - 1] = n;
    check_remake(&v, y);
    check_variant(k, &v, "some columns alone differ from the whole's", &a->y, map_columns,
                  &(slice_map){a->partial, n0});
    check_set_fini(&v);
}

/* ---- epilogue ------------------------------------------------------------------------------- */

/* The plain matmul's fp32 sum + bias, activation, + res, each stored in y's type. */
static void unfused(check_state *k, const check_set *s, const check_operand *plain, char *image) {
    const weft_matmul_args *a = &s->args.matmul;
    extern const check_op check_activation;
    check_set v = {
        .c = {.op = &check_activation, .dtype = a->y.dtype}, .seed = s->seed, .rows = -1};
    weft_activation_args *t = &v.args.activation;
    const check_operand *bias = check_find(s, &a->bias), *res = check_find(s, &a->res);
    int64_t i[WEFT_DIMS] = {0}, rows = s->rows < 0 ? a->y.shape[0] : s->rows;
    check_spec spec = {a->y.dtype, 2, {rows, a->y.shape[1]}, .row = 0};
    check_operand *x = check_add(&v, &t->x, spec), *y = check_add(&v, &t->y, spec);
    check_result r = {0};
    t->act = a->act;
    do {
        float z = (float)check_load(plain, image, i);
        if (bias)
            z += (float)check_load(bias, bias->image, (int64_t[4]){i[1]});
        check_store(x, x->image, i, z);
    } while (check_next(x->at->shape, i));
    const weft_kernel *row = check_row_for(k, WEFT_OP_activation, &v.args);
    if (row && a->act && !strcmp(row->backend, k->row->backend))
        check_exec(k, row, &v, 1, false, &r);
    char *stored = r.image[y - v.operand];
    const check_operand *from = stored ? y : x, *base = check_find(s, &a->y);
    for (memset(i, 0, sizeof i); (stored || !a->act) && res;) {
        float z = (float)check_load(from, stored ? stored : x->image, i);
        check_store(from, stored ? stored : x->image, i, z + (float)check_load(res, res->image, i));
        if (!check_next(x->at->shape, i))
            break;
    }
    if (stored || !a->act)
        check_same_bits(k, "the epilogue differs from its ops one after the other", from,
                        stored ? stored : x->image, base, k->base->image[base - s->operand], -1,
                        check_map_same, NULL);
    check_result_fini(&r);
    check_set_fini(&v);
}

static void epilogue(check_state *k, const check_set *s) {
    check_set v;
    check_result r;
    check_share(s, &v);
    weft_matmul_args *a = &v.args.matmul;
    a->act = 0;
    a->bias.id = a->res.id = 0;
    check_operand *y = check_find(&v, &a->y);
    y->spec.dtype = WEFT_F32;
    check_remake(&v, y);
    check_exec(k, k->row, &v, 1, false, &r);
    unfused(k, s, y, r.image[y - v.operand]);
    check_result_fini(&r);
    check_set_fini(&v);
}

/* ---- int8 ----------------------------------------------------------------------------------- */

/* Sums of integers are exact and what follows is fixed to the last rounding. */
static void exact(check_state *k, const check_set *s) {
    const check_operand *y = check_find(s, &s->args.matmul.y);
    check_result r;
    check_exec(k, check_reference(WEFT_OP_matmul), s, 1, false, &r);
    check_same_bits(k, "int8 by int8 differs from the reference", y, k->base->image[y - s->operand],
                    y, r.image[y - s->operand], s->rows, check_map_same, NULL);
    check_result_fini(&r);
}

static void invariants(check_state *k, const check_set *s) {
    const weft_matmul_args *a = &s->args.matmul;
    int64_t N = a->w.shape[0], rows = s->rows < 0 ? a->x.shape[0] : s->rows;
    leaves(k, s);
    if (a->x.dtype == WEFT_I8 && !a->act && !k->bad)
        exact(k, s);
    if (N > 1 && !k->bad) {
        columns(k, s, N / 2, N - N / 2);
        columns(k, s, (int64_t)(s->seed % (uint64_t)N), 1);
    }
    if (!a->partial && rows > 0 && (weft_has(&a->bias) || weft_has(&a->res) || a->act) && !k->bad)
        epilogue(k, s);
}

static const char *const shapes[] = {"T=1,N=1,K=1",      "T=1,N=33,K=129",
                                     "T=3,N=5,K=15",     "T=4,N=6,K=16",
                                     "T=5,N=7,K=17",     "T=7,N=64,K=128",
                                     "T=16,N=65,K=64",   "T=17,N=31,K=63",
                                     "T=33,N=100,K=255", "T=65,N=97,K=127",
                                     "T=2,N=300,K=1031", "T=129,N=33,K=96",
                                     "T=64,N=130,K=320", NULL};
static const char *const variants[] = {"",       "pad=3",  "w=1",    "w=3,y=1", "fill=1",
                                       "fill=2", "fill=3", "fill=4", NULL};
static const char *const leafy[] = {"T=1,N=64,K=1024,leaves=8", "T=5,N=17,K=128,leaves=8",
                                    "T=33,N=20,K=144,leaves=8", "T=7,N=31,K=34,leaves=2",
                                    "T=16,N=40,K=68,leaves=4",  "T=1,N=33,K=136,leaves=8",
                                    "T=6,N=13,K=16,leaves=1",   NULL};
static const char *const leaf_variants[] = {
    "",           "bias=1,res=1", "partial=1",        "pad=5,res=1",
    "w=1,bias=1", "fill=3",       "fill=1,partial=1", NULL};
static const char *const tall[] = {"T=9,N=40,K=80", "T=33,N=17,K=272,leaves=8", NULL};
static const char *const epilogues[] = {
    "bias=1,act=1", "bias=1,act=2,res=1", "act=3,res=1,y=1", "act=4",   "bias=1,rows=8",
    "rows=1,pad=2", "res=1,rows=7",       "bias=1,y=3",      "w=2,y=1", NULL};
static const char *const wide[] = {
    "T=1,N=257,K=4096", "T=64,N=129,K=2048,leaves=8", "T=20,N=29,K=2065", "T=129,N=50,K=1100",
    "T=18,N=13,K=4131", "T=137,N=140,K=256,leaves=8", "T=265,N=135,K=96", NULL};
static const char *const whole[] = {"T=1,N=33,K=129",
                                    "T=4,N=6,K=64",
                                    "T=5,N=23,K=144,leaves=8",
                                    "T=33,N=65,K=255",
                                    "T=17,N=130,K=320",
                                    "T=70,N=48,K=512,leaves=8",
                                    "T=129,N=33,K=96",
                                    "T=1,N=70,K=2048,leaves=8",
                                    "T=7,N=31,K=34,leaves=2",
                                    "T=1,N=40,K=656",
                                    "T=6,N=21,K=1040",
                                    "T=3,N=36,K=1152,leaves=8",
                                    NULL};
static const char *const whole_variants[] = {"int8=1",
                                             "int8=1,pad=3,res=1",
                                             "int8=1,fill=3,y=1",
                                             "int8=1,bias=1,act=1",
                                             "int8=1,partial=1",
                                             "int8=2",
                                             "int8=2,pad=5,bias=1,res=1",
                                             "int8=2,fill=1",
                                             "int8=2,partial=1",
                                             "int8=2,act=2,fill=4",
                                             NULL};
static const char *const whole_rows[] = {"int8=1,rows=8,bias=1", "int8=2,rows=7,res=1", NULL};
/* Rows of w enough that kernels for few tokens give a block 32, 64 and 128 of them. */
static const char *const long_w[] = {"T=1,N=6150,K=136", "T=9,N=12300,K=24", "T=1,N=24600,K=40",
                                     NULL};
/* Several tiles of kernels for many tokens, their stages whole. */
static const char *const tiles[] = {"T=270,N=140,K=128", "T=66,N=136,K=256,leaves=4",
                                    "T=130,N=24,K=256,leaves=8", NULL};
static const char *const tile_variants[] = {"res=1,bias=1,rows=65", NULL};
/* Chains of whole stages. */
static const char *const pairs[] = {"T=5,N=24,K=128,leaves=2",
                                    "T=33,N=41,K=256,leaves=4",
                                    "T=9,N=72,K=512,leaves=8",
                                    "T=21,N=40,K=128",
                                    "T=5,N=24,K=64",
                                    "T=19,N=31,K=64",
                                    NULL};
static const char *const pair_variants[] = {"", "res=1", "bias=1,act=2", "fill=1", "rows=3", NULL};
static const char *const none[] = {"", NULL};
static const char *const huge[] = {"T=2,N=140000,K=4096", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 fp16 bf16", leafy, leaf_variants, false},
                                     {"fp32 fp16 bf16", tall, epilogues, false},
                                     {"fp32 fp16 bf16", whole, whole_variants, false},
                                     {"fp32 bf16", tall, whole_rows, false},
                                     {"fp16 bf16", tiles, tile_variants, false},
                                     {"fp16 bf16", pairs, pair_variants, false},
                                     {"fp32 bf16", wide, none, false},
                                     {"bf16", long_w, none, false},
                                     {"fp32", huge, none, true},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"fp32:T=1,N=4096,K=4096",
                                    "bf16:T=1,N=4096,K=4096",
                                    "bf16:T=1,N=14336,K=4096",
                                    "bf16:T=16,N=4096,K=4096",
                                    "fp32:T=512,N=2048,K=2048",
                                    "bf16:T=512,N=2048,K=2048",
                                    "fp16:T=512,N=2048,K=2048",
                                    "bf16:T=512,N=2048,K=2048,leaves=8",
                                    "bf16:T=1,N=4096,K=4096,int8=1",
                                    "bf16:T=1,N=14336,K=4096,int8=1",
                                    "bf16:T=1,N=4096,K=4096,int8=2",
                                    "bf16:T=1,N=14336,K=4096,int8=2",
                                    "bf16:T=512,N=2048,K=2048,int8=1",
                                    "bf16:T=512,N=2048,K=2048,int8=2",
                                    NULL};

const check_op check_matmul = {
    .op = WEFT_OP_matmul,
    .keys = "T! N! K! leaves w^ bias res act partial y^ rows pad fill int8",
    .groups = groups,
    .bench = bench,
    .valid = valid,
    .build = build,
    .magnitude = magnitude,
    .invariants = invariants};
