/* SPDX-License-Identifier: Apache-2.0
 * Gradients: against central differences of the forward op, and what the ops that sum over tokens
 * owe to rows given in several calls and to virtual shards.
 *
 * The loss is L = sum of dy y, in double, of the reference's forward row. Along a direction e the
 * derivative is (8 (L(h) - L(-h)) - (L(2h) - L(-2h))) / 12 h, wrong by h^4; it must be the sum of
 * gradient times e. Every op is looked at along all coordinates at once and along single ones. */
#include "host/base/err.h"
#include "tests/check/check.h"
#include "weft/math.h"
#include <string.h>

enum { DENSE = 2, SINGLE = 5, MOST_FLOPS = 1000000, GRANULE = 16 };
static const double step_size = 1.0 / 32, allowed = 2e-3;

static void run_serially(weft_stream *s, int64_t n, int64_t grain, weft_range_fn *fn,
                         const void *ctx) {
    (void)s, (void)grain;
    fn(ctx, 0, n, 0);
}

void check_forward(weft_op op, const weft_args *a) {
    weft_stream stream = {.parallel = run_serially};
    weft_step step = {.kernel = check_reference(op), .args = *a};
    WEFT_ASSERT(step.kernel && step.kernel->ok(a));
    step.kernel->run(&step, &stream);
}

weft_tensor check_dense(const check_set *s, const weft_tensor *at, arena *mem) {
    const check_operand *o = check_find(s, at);
    int64_t shape[WEFT_DIMS], i[WEFT_DIMS] = {0}, n = 0;
    memcpy(shape, at->shape, sizeof shape);
    if (o->spec.row && s->rows >= 0)
        shape[o->spec.row - 1] = s->rows;
    int dtype = o->spec.dtype == WEFT_I32 ? WEFT_I32 : WEFT_F32;
    weft_tensor t = weft_tensor_make(dtype, at->ndim, shape);
    t.data = arena_alloc(mem, (size_t)weft_tensor_count(&t) * 4 + 4);
    t.id = 1;
    do {
        double v = check_load(o, o->image, i);
        if (dtype == WEFT_I32)
            ((int32_t *)t.data)[n++] = (int32_t)v;
        else
            ((float *)t.data)[n++] = (float)v;
    } while (check_next(shape, i));
    return t;
}

weft_tensor check_blank(int ndim, const int64_t *shape, arena *mem) {
    weft_tensor t = weft_tensor_make(WEFT_F32, ndim, shape);
    t.data = arena_alloc(mem, (size_t)weft_tensor_count(&t) * 4 + 4);
    memset(t.data, 0, (size_t)weft_tensor_count(&t) * 4);
    t.id = 1;
    return t;
}

static weft_tensor *member(weft_args *a, size_t offset) {
    return (weft_tensor *)((char *)a + offset);
}

/* ---- differences ---------------------------------------------------------------------------- */

/* L, and the size of its terms. */
static double loss(const check_gradient *g, double *size) {
    double sum = 0, squares = 0;
    check_forward(g->op, &g->args);
    for (int i = 0; i < CHECK_DY && weft_has(&g->out[i].dy); i++) {
        const float *y = member((weft_args *)&g->args, g->out[i].field)->data;
        const float *dy = g->out[i].dy.data;
        for (int64_t e = 0; e < weft_tensor_count(&g->out[i].dy); e++) {
            sum += (double)y[e] * (double)dy[e];
            squares += (double)y[e] * (double)dy[e] * (double)y[e] * (double)dy[e];
        }
    }
    *size = sqrt(squares);
    return sum;
}

/* One operand that the loss is differentiated in. */
typedef struct {
    const check_gradient *g;
    float *x, *at;        /* the forward's operand, and the point */
    double *gradient, *e; /* what the op says; the direction */
    const float *direct;  /* gradient that reaches x another way, or NULL */
    int64_t n;
} check_point;

static double loss_at(const check_point *p, double h, double *size) {
    double sum = 0, squares;
    for (int64_t i = 0; i < p->n; i++) {
        p->x[i] = (float)((double)p->at[i] + h * p->e[i]);
        sum += p->direct ? (double)p->direct[i] * ((double)p->x[i] - (double)p->at[i]) : 0;
    }
    sum += loss(p->g, &squares);
    *size = fmax(*size, squares);
    memcpy(p->x, p->at, (size_t)p->n * sizeof *p->x);
    return sum;
}

static bool compare_along(const check_point *p, double *found, double *want, double *size) {
    double h = step_size, terms = 0, squares = 0;
    *want = 0;
    for (int64_t i = 0; i < p->n; i++) {
        double t = p->gradient[i] * p->e[i];
        *want += t;
        squares += t * t;
    }
    double near = loss_at(p, h, &terms) - loss_at(p, -h, &terms);
    double far = loss_at(p, 2 * h, &terms) - loss_at(p, -2 * h, &terms);
    *found = (8 * near - far) / (12 * h);
    *size = sqrt(squares);
    return fabs(*found - *want) <= allowed * *size + 2e-7 / h * terms;
}

static void choose_direction(const check_point *p, uint64_t seed, int which) {
    int64_t one = (int64_t)(check_hash(seed, (uint64_t)which) % (uint64_t)p->n);
    for (int64_t i = 0; i < p->n; i++) {
        uint64_t h = check_hash(seed + (uint64_t)which, (uint64_t)i);
        bool kept = which < DENSE ? !p->g->kink || fabsf(p->at[i]) > 0.1f : i == one;
        p->e[i] = !kept ? 0 : which < DENSE ? (h & 1 ? 1 : -1) : 1;
    }
    if (which >= DENSE && p->g->kink && fabsf(p->at[one]) <= 0.1f)
        p->e[one] = 0;
}

static void judge(check_state *k, const check_set *s, const check_point *p, const char *name) {
    for (int d = 0; d < DENSE + SINGLE && !k->bad; d++) {
        double found, want, size;
        choose_direction(p, s->seed ^ 0x6772, d);
        if (!compare_along(p, &found, &want, &size))
            check_fail(k, "%s: along %s the derivative is %.6g, by differences %.6g", name,
                       d < DENSE ? "a direction" : "a coordinate", want, found);
    }
}

static const char *field_name(const check_set *s, const weft_tensor *at) {
    const weft_op_info *info = &weft_op_table[s->c.op->op];
    for (int f = 0; f < info->nfield; f++)
        if (info->field[f].off == (size_t)((const char *)at - (const char *)&s->args))
            return info->field[f].name;
    return "?";
}

/* The gradient as it was left, less what it started from if it accumulates. */
static void load_gradient(const check_set *s, const check_result *truth, const weft_tensor *at,
                          check_point *p) {
    const check_operand *o = check_find(s, at);
    const char *image = truth->image[o - s->operand];
    int64_t shape[WEFT_DIMS], i[WEFT_DIMS] = {0}, n = 0;
    memcpy(shape, at->shape, sizeof shape);
    if (o->spec.row && s->rows >= 0)
        shape[o->spec.row - 1] = s->rows;
    do
        p->gradient[n++] = check_load(o, image, i) -
                           (o->role == 'A' ? check_load(o, o->image, i) : 0);
    while (check_next(shape, i));
}

static void judge_one(check_state *k, const check_set *s, const check_result *truth,
                      const check_gradient *g, int which) {
    const weft_tensor *x = member((weft_args *)&g->args, g->wrt[which].field);
    check_point p = {.g = g, .x = x->data, .n = weft_tensor_count(x)};
    arena mem = {0};
    p.at = arena_alloc(&mem, (size_t)p.n * sizeof *p.at);
    p.gradient = arena_alloc(&mem, (size_t)p.n * sizeof *p.gradient);
    p.e = arena_alloc(&mem, (size_t)p.n * sizeof *p.e);
    p.direct = weft_has(&g->wrt[which].direct) ? g->wrt[which].direct.data : NULL;
    if (g->wrt[which].anywhere)
        for (int64_t i = 0; i < p.n; i++)
            p.x[i] = check_normal(check_hash(s->seed + 4242, (uint64_t)i));
    memcpy(p.at, p.x, (size_t)p.n * sizeof *p.at);
    load_gradient(s, truth, g->wrt[which].gradient, &p);
    judge(k, s, &p, field_name(s, g->wrt[which].gradient));
    arena_fini(&mem);
}

void check_differences(check_state *k, const check_set *s, const check_result *truth) {
    check_gradient g = {0};
    int64_t bytes, flops;
    bool plain = !strstr(s->c.op->keys, "fill") || check_get(&s->c, "fill") == FILL_NORMAL;
    if (!s->c.op->gradient || s->c.dtype != WEFT_F32 || !plain || s->rows == 0)
        return;
    if (s->c.op->gradient(s, &g)) {
        weft_op_table[g.op].cost(&g.args, &bytes, &flops);
        for (int i = 0; i < CHECK_WRT && g.wrt[i].gradient && flops <= MOST_FLOPS; i++)
            if (g.wrt[i].gradient->dtype == WEFT_F32)
                judge_one(k, s, truth, &g, i);
    }
    arena_fini(&g.mem);
}

/* ---- sums over tokens ----------------------------------------------------------------------- */

/* The rows of the set, and what a variant must have done to it after its rows changed. */
typedef struct {
    check_state *k;
    const check_set *s;
    const weft_tensor *dy;
    void (*repair)(check_set *v);
    int64_t n; /* true rows */
    int32_t shards;
} token_sum;

static void set_shards(check_set *v, int32_t shards) {
    const weft_field *f = ops_field(v->c.op->op, "shards");
    memcpy((char *)&v->args + f->off, &shards, sizeof shards);
}

static void pick_rows(const token_sum *u, const int64_t *row, int64_t n, check_set *v) {
    check_pick(u->s, row, n, v);
    set_shards(v, 1);
    if (u->repair)
        u->repair(v);
}

/* Gives the accumulated operands of a variant the numbers of `images`, or zeros. */
static void start_from(check_set *v, const check_result *images) {
    for (int i = 0; i < v->n; i++) {
        check_operand *o = &v->operand[i];
        int64_t e[WEFT_DIMS] = {0};
        if (o->role != 'A')
            continue;
        char *copy = arena_alloc(&v->mem, o->bytes);
        memcpy(copy, images ? images->image[i] : o->image, o->bytes);
        o->image = copy;
        if (!images)
            do
                check_store(o, copy, e, 0.0f);
            while (check_next(o->at->shape, e));
    }
}

static void compare_sums(const token_sum *u, const check_result *r, const char *what) {
    for (int i = 0; i < u->s->n && !u->k->bad; i++) {
        const check_operand *o = &u->s->operand[i];
        if (o->role == 'A')
            check_same_bits(u->k, what, o, r->image[i], o, u->k->base->image[i], -1, check_map_same,
                            NULL);
    }
}

/* Rows [0, cut) in one call and the rest in another. */
static void in_two_calls(const token_sum *u, const int64_t *row, int64_t cut) {
    check_set a, b;
    check_result first, second = {0};
    pick_rows(u, row, cut, &a);
    check_exec(u->k, u->k->row, &a, 1, false, &first);
    pick_rows(u, row + cut, u->n - cut, &b);
    start_from(&b, &first);
    if (!u->k->bad)
        check_exec(u->k, u->k->row, &b, 1, false, &second);
    if (!u->k->bad)
        compare_sums(u, &second, "rows given in two calls differ from one call");
    check_result_fini(&first);
    check_result_fini(&second);
    check_set_fini(&a);
    check_set_fini(&b);
}

/* A granule of rows whose dy is zero in front. */
static void after_zeros(const token_sum *u, const int64_t *row) {
    int64_t *padded = mem_alloc((size_t)(GRANULE + u->n) * sizeof *padded), i[WEFT_DIMS] = {0};
    check_set v;
    check_result r;
    memset(padded, 0, GRANULE * sizeof *padded);
    memcpy(padded + GRANULE, row, (size_t)u->n * sizeof *row);
    pick_rows(u, padded, GRANULE + u->n, &v);
    check_operand *dy = check_same(&v, u->s, u->dy);
    do
        if (i[0] < GRANULE)
            check_store(dy, dy->image, i, 0.0f);
    while (check_next(dy->at->shape, i));
    check_exec(u->k, u->k->row, &v, 1, false, &r);
    if (!u->k->bad)
        compare_sums(u, &r, "rows of zeros in front change bits");
    check_result_fini(&r);
    check_set_fini(&v);
    mem_free(padded);
}

/* The leaves' images, combined as `accumulate` would. */
static void combine(const token_sum *u, const check_result *leaf) {
    for (int i = 0; i < u->s->n && !u->k->bad; i++) {
        const check_operand *o = &u->s->operand[i];
        int64_t e[WEFT_DIMS] = {0};
        if (o->role != 'A')
            continue;
        char *sum = mem_alloc(o->bytes);
        memcpy(sum, o->image, o->bytes);
        do {
            float part[8];
            for (int l = 0; l < u->shards; l++)
                part[l] = leaf[l].mem.head ? (float)check_load(o, leaf[l].image[i], e) : 0.0f;
            check_store(o, sum, e,
                        (float)check_load(o, o->image, e) + weft_tree_sum(part, u->shards));
        } while (check_next(o->at->shape, e));
        check_same_bits(u->k, "shards differ from buffers of one shard each", o, sum, o,
                        u->k->base->image[i], -1, check_map_same, NULL);
        mem_free(sum);
    }
}

static void in_buffers(const token_sum *u, const int64_t *row) {
    check_result leaf[8] = {0};
    int64_t run = u->dy->shape[0] / u->shards;
    for (int l = 0; l < u->shards && !u->k->bad; l++) {
        check_set v;
        int64_t n = u->n - l * run < run ? u->n - l * run : run;
        if (n <= 0)
            continue;
        pick_rows(u, row + l * run, n, &v);
        start_from(&v, NULL);
        check_exec(u->k, u->k->row, &v, 1, false, &leaf[l]);
        check_set_fini(&v);
    }
    if (!u->k->bad)
        combine(u, leaf);
    for (int l = 0; l < u->shards; l++)
        check_result_fini(&leaf[l]);
}

void check_token_sum(check_state *k, const check_set *s, const weft_tensor *dy,
                     void (*repair)(check_set *v)) {
    token_sum u = {.k = k, .s = s, .dy = dy, .repair = repair, .n = dy->shape[0]};
    const weft_field *f = ops_field(s->c.op->op, "shards");
    memcpy(&u.shards, (const char *)&s->args + f->off, sizeof u.shards);
    u.n = s->rows >= 0 && s->rows < u.n ? s->rows : u.n;
    int64_t *row = mem_alloc((size_t)(u.n + 1) * sizeof *row);
    int64_t grain = k->row->arith == WEFT_ARITH_MMA       ? GRANULE
                    : k->row->arith == WEFT_ARITH_BF16DOT ? 2
                                                          : 1;
    for (int64_t i = 0; i < u.n; i++)
        row[i] = i;
    int64_t cut = grain * (1 + (int64_t)(s->seed % (uint64_t)(u.n / grain + 1)));
    if (u.shards > 1)
        in_buffers(&u, row);
    else if (cut < u.n)
        in_two_calls(&u, row, cut);
    if (u.shards == 1 && !k->bad)
        after_zeros(&u, row);
    mem_free(row);
}
