/* SPDX-License-Identifier: Apache-2.0
 * Gradient steps by the forward's own steps. Each rule is a few lines: which gradients it needs,
 * what it pushes, whose gradients it makes. */
#include "host/run/backward.h"
#include "host/base/err.h"
#include "host/run/ops.h"
#include "host/run/rank_sum.h"
#include "host/run/shard.h"
#include <stdio.h>
#include <string.h>

struct backward {
    plan_builder *b;
    backward_options o;
    int steps, values;  /* of the forward */
    bool *needs;        /* [values] a wanted gradient depends on it */
    bool *partial;      /* [values] ranks exchange it: a sum over a part of the inputs */
    weft_tensor *grad;  /* [values] what has reached it so far; id 0: nothing */
    weft_tensor *again; /* [values] what stands for it once computed again; id 0: itself */
    weft_tensor *own;   /* [values] this rank's rows that it was gathered from; id 0: it was not */
    weft_tensor part, whole; /* rows gathered last, and of all ranks */
    uint32_t key;            /* of the segment computed again last */
    weft_step at;            /* the forward step whose turn it is */
};

/* Appends a gradient step under the forward step's tag. */
#define PUSH(w, op_, ...) \
    plan_push((w)->b, WEFT_OP_##op_, &(weft_args){.op_ = {__VA_ARGS__}}, (w)->at.layer, "%s'", \
              (w)->at.tag)

/* ---- What depends on what is wanted ---- */

static bool wanted(const backward *w, const weft_tensor *t) {
    return weft_has(t) && w->o.wanted(w->o.user, w->b, t->id, NULL);
}

static bool reads_needed(const backward *w, const weft_step *s) {
    const weft_op_info *info = &weft_op_table[s->kernel->op];
    for (int i = 0; i < info->nfield; i++) {
        const weft_field *f = &info->field[i];
        if (f->type != 't' || (f->role != 'I' && f->role != 'Q'))
            continue;
        const weft_tensor *t = ops_ctensor(&s->args, f);
        if (weft_has(t) && (w->needs[t->id] || wanted(w, t)))
            return true;
    }
    return false;
}

static void note_gather(backward *w, const weft_all_gather_args *a) {
    w->partial[a->x.id] = true;
    if (w->o.sequence_parallel && a->group == WEFT_GROUP_TP)
        w->own[a->y.id] = a->x;
}

static void mark_needed(backward *w) {
    for (int i = 0; i < w->steps; i++) {
        const weft_step *s = &w->b->plan->step[i];
        const weft_op_info *info = &weft_op_table[s->kernel->op];
        if (s->kernel->op == WEFT_OP_all_gather)
            note_gather(w, &s->args.all_gather);
        if (s->kernel->op == WEFT_OP_all_to_all)
            w->partial[s->args.all_to_all.x.id] = true;
        if (s->kernel->op == WEFT_OP_recv)
            w->needs[s->args.recv.y.id] = true; /* the stage before may want it */
        if (!reads_needed(w, s))
            continue;
        for (int f = 0; f < info->nfield; f++)
            if (info->field[f].type == 't' && info->field[f].role == 'O')
                w->needs[ops_ctensor(&s->args, &info->field[f])->id] = true;
    }
    w->needs[0] = false;
}

backward *backward_begin(plan_builder *b, const backward_options *o) {
    backward *w = ARENA_NEW(b->mem, backward, 1);
    *w = (backward){.b = b, .o = *o, .steps = b->plan->nstep, .values = b->plan->nvalue};
    w->needs = ARENA_NEW(b->mem, bool, w->values);
    w->partial = ARENA_NEW(b->mem, bool, w->values);
    w->grad = ARENA_NEW(b->mem, weft_tensor, w->values);
    w->again = ARENA_NEW(b->mem, weft_tensor, w->values);
    w->own = ARENA_NEW(b->mem, weft_tensor, w->values);
    if (b->status == WEFT_OK)
        mark_needed(w);
    return w;
}

bool backward_reaches(const backward *w, const weft_tensor *t) {
    return w->needs[t->id];
}

/* ---- Operands and gradients by value ---- */

/* Views of the forward are its values whole, perhaps in another shape. A gradient may be some heads
 * of a wider one: its rows keep their distance. */
static weft_tensor like(weft_tensor g, const weft_tensor *t) {
    int64_t row = g.stride[0];
    bool wide = g.ndim > 1 && t->ndim > 1 && g.shape[0] == t->shape[0];
    g = tensor_reshape(g, t->ndim, t->shape);
    if (wide)
        g.stride[0] = row;
    return g;
}

static weft_tensor fresh(backward *w, const weft_tensor *t) {
    return plan_new(w->b, t->dtype, t->ndim, t->shape);
}

/* The operand as backward reads it: kept, or computed again. */
static weft_tensor kept(const backward *w, const weft_tensor *t) {
    return weft_has(t) && weft_has(&w->again[t->id]) ? like(w->again[t->id], t) : *t;
}

/* What has reached t so far; absent if nothing has. */
static weft_tensor reached(const backward *w, const weft_tensor *t) {
    weft_tensor g = w->grad[t->id];
    return weft_has(&g) ? like(g, t) : g;
}

static void put(backward *w, const weft_tensor *t, weft_tensor g) {
    if (weft_has(t) && w->needs[t->id])
        w->grad[t->id] = g;
}

/* The gradient of what ranks exchange is that of the whole, perhaps of another shape. */
static void pass(backward *w, const weft_tensor *from, const weft_tensor *to) {
    put(w, to, w->grad[from->id]);
}

/* One more gradient reaches t. */
static void add(backward *w, const weft_tensor *t, weft_tensor g) {
    if (!weft_has(t) || !w->needs[t->id])
        return;
    weft_tensor has = reached(w, t), sum = g;
    if (weft_has(&has)) {
        sum = fresh(w, t);
        PUSH(w, add, .a = has, .b = like(g, t), .y = sum);
    }
    w->grad[t->id] = sum;
}

static bool gradient_of(const backward *w, const weft_tensor *weight, weft_tensor *out) {
    return weft_has(weight) && w->o.wanted(w->o.user, w->b, weight->id, out);
}

static weft_tensor weight_of(const backward *w, const weft_tensor *t) {
    return w->o.fetch ? w->o.fetch(w->o.user, w->b, *t) : *t;
}

/* ---- Rows of ranks ---- */

/* Gradients in what is gathered from rows of ranks are of this one's. */
static const weft_tensor *own_rows(const backward *w, const weft_tensor *t) {
    return weft_has(&w->own[t->id]) ? &w->own[t->id] : t;
}

/* Rows of all ranks of the slice; as they are where each has all. */
static weft_tensor all_rows(backward *w, weft_tensor own) {
    if (!w->o.sequence_parallel)
        return own;
    if (w->part.id == own.id && w->part.data == own.data)
        return w->whole;
    int64_t shape[WEFT_DIMS] = {own.shape[0] * w->o.tp, own.shape[1]};
    w->part = own;
    w->whole = plan_new(w->b, own.dtype, own.ndim, shape);
    PUSH(w, all_gather, .x = own, .y = w->whole);
    return w->whole;
}

/* As kept: of what is gathered rows alone are, and they are gathered again. */
static weft_tensor kept_whole(backward *w, const weft_tensor *t) {
    const weft_tensor *own = own_rows(w, t);
    if (own != t && !weft_has(&w->again[t->id]))
        w->again[t->id] = all_rows(w, kept(w, own));
    return kept(w, t);
}

/* x[rows, H] into the columns [at, at + H / tp) of to[tp rows, N], where they lie by the rank that
 * sums them. */
static void pack_columns(backward *w, weft_tensor x, weft_tensor to, int64_t at) {
    int64_t tp = w->o.tp, rows = x.shape[0], n = x.shape[1] / tp, wide = to.stride[0];
    weft_tensor from = x, y = tensor_slice(to, 1, at, at + n);
    from.ndim = y.ndim = 3;
    for (int i = 0; i < 3; i++)
        from.shape[i] = y.shape[i] = (int64_t[]){rows, tp, n}[i];
    from.stride[1] = n;
    from.stride[2] = y.stride[2] = 1;
    y.stride[0] = wide;
    y.stride[1] = rows * wide;
    PUSH(w, cast, .x = from, .y = y);
}

/* What norms' gains and biases sum up over tokens: rows of dy and r become columns of all tokens,
 * whose chains are this rank's; statistics become those of all tokens. */
typedef struct {
    weft_tensor dy, r, mean, inv;
} norm_sums;

static norm_sums by_columns(backward *w, norm_sums s) {
    int64_t n = s.dy.shape[1] / w->o.tp, shape[2] = {s.dy.shape[0] * w->o.tp, 2 * n};
    weft_tensor packed = plan_new(w->b, s.dy.dtype, 2, shape);
    weft_tensor got = plan_new(w->b, s.dy.dtype, 2, shape);
    pack_columns(w, s.dy, packed, 0);
    pack_columns(w, s.r, packed, n);
    PUSH(w, all_to_all, .x = packed, .y = got);
    s.dy = tensor_slice(got, 1, 0, n);
    s.r = tensor_slice(got, 1, n, 2 * n);
    s.inv = all_rows(w, s.inv);
    if (weft_has(&s.mean))
        s.mean = all_rows(w, s.mean);
    return s;
}

static weft_tensor own_columns(const backward *w, weft_tensor g) {
    int64_t n = g.shape[0] / w->o.tp;
    return weft_has(&g) ? tensor_slice(g, 0, w->o.slice * n, (w->o.slice + 1) * n) : g;
}

/* The gradient g[H], of which each rank of the slice has its own columns, becomes whole. */
static void join_columns(backward *w, weft_tensor g) {
    if (!weft_has(&g))
        return;
    int64_t shape[2] = {1, g.shape[0] / w->o.tp};
    weft_tensor own = plan_new(w->b, WEFT_F32, 2, shape);
    PUSH(w, cast, .x = tensor_reshape(own_columns(w, g), 2, shape), .y = own);
    PUSH(w, all_gather, .x = tensor_reshape(own, 1, shape + 1), .y = g);
}

/* ---- A rule for each op ---- */

/* Ids of all tokens, where t is those of this rank's. */
static weft_tensor all_ids(const backward *w, weft_tensor t) {
    if (w->o.sequence_parallel && t.shape[0] < w->o.order.shape[0]) {
        t.data = NULL;
        t.shape[0] *= w->o.tp;
    }
    return t;
}

static void embed_rule(backward *w, const weft_args *args) {
    const weft_embed_args *a = &args->embed;
    weft_tensor dw, dy = reached(w, &a->y), ids = all_ids(w, a->ids);
    const char *name = w->b->plan->value[ids.id].name;
    if (!gradient_of(w, &a->w, &dw))
        return;
    if (dy.shape[0] < ids.shape[0])
        dy = all_rows(w, dy);
    PUSH(w, embed_dw, .ids = ids, .order = strcmp(name, "pos") == 0 ? w->o.by_place : w->o.order,
         .dy = dy, .dw = dw, .row0 = a->row0, .shards = w->o.shards);
}

static void rope_rule(backward *w, const weft_args *args) {
    const weft_rope_args *a = &args->rope;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, rope_dx, .dy = reached(w, &a->y), .table = kept(w, &a->table), .dx = dx,
         .interleaved = a->interleaved);
    add(w, &a->x, dx);
}

/* The sum r carries what reaches it another way; without one that is x itself. */
static const weft_tensor *norm_sum(const weft_tensor *x, const weft_tensor *r) {
    return weft_has(r) ? r : x;
}

static void pass_sum(backward *w, const weft_tensor *x, const weft_tensor *res,
                     const weft_tensor *sum, weft_tensor dx) {
    if (sum == x) {
        put(w, x, dx);
        return;
    }
    add(w, x, dx);
    add(w, res, dx);
}

static int copies_of(const backward *w, const weft_tensor *weight) {
    return w->o.tp > 1 && w->o.copies ? w->o.copies(w->o.user, weight->id) : 1;
}

/* [T, heads, ...] of all ranks, each head once. */
static weft_tensor of_all_heads(backward *w, weft_tensor x, int copies) {
    int64_t shape[WEFT_DIMS] = {x.shape[0], x.shape[1] * w->o.tp, x.shape[2]};
    weft_tensor all = plan_new(w->b, x.dtype, x.ndim, shape);
    PUSH(w, all_gather, .x = x, .y = all, .axis = 1);
    all.shape[1] /= copies;
    all.stride[1] *= copies;
    return all;
}

static bool sums_columns(const backward *w, const weft_tensor *dy) {
    return w->o.sequence_parallel && dy->ndim == 2;
}

/* A gain that heads share is summed in their order. */
static void rmsnorm_dg(backward *w, norm_sums s, weft_tensor dg, int copies) {
    bool columns = sums_columns(w, &s.dy);
    if (w->o.tp > 1 && s.dy.ndim == 3) {
        s.dy = of_all_heads(w, s.dy, copies);
        s.r = of_all_heads(w, s.r, copies);
        s.inv = of_all_heads(w, s.inv, copies);
    }
    s = columns ? by_columns(w, s) : s;
    PUSH(w, rmsnorm_dg, .dy = s.dy, .r = s.r, .inv = s.inv, .dg = columns ? own_columns(w, dg) : dg,
         .shards = w->o.shards);
    if (columns)
        join_columns(w, dg);
}

static void rmsnorm_rule(backward *w, const weft_args *args) {
    const weft_rmsnorm_args *a = &args->rmsnorm;
    const weft_tensor *sum = norm_sum(&a->x, &a->r);
    weft_tensor dg, dy = reached(w, &a->y), r = kept(w, sum), inv = kept(w, &a->inv);
    if (gradient_of(w, &a->g, &dg))
        rmsnorm_dg(w, (norm_sums){.dy = dy, .r = r, .inv = inv}, dg, copies_of(w, &a->g));
    if (!w->needs[a->x.id] && !w->needs[a->res.id])
        return;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, rmsnorm_dx, .dy = dy, .r = r, .g = a->g, .inv = inv, .dr = reached(w, sum), .dx = dx,
         .offset = a->offset);
    pass_sum(w, &a->x, &a->res, sum, dx);
}

static void layernorm_dg(backward *w, const weft_layernorm_args *a, norm_sums s) {
    weft_tensor dg = {0}, db = {0};
    bool has_b = gradient_of(w, &a->b, &db), has_g = gradient_of(w, &a->g, &dg);
    bool columns = sums_columns(w, &s.dy) && (has_g || has_b);
    weft_tensor own_g = columns ? own_columns(w, dg) : dg,
                own_b = columns ? own_columns(w, db) : db;
    s = columns ? by_columns(w, s) : s;
    if (has_g)
        PUSH(w, layernorm_dg, .dy = s.dy, .r = s.r, .mean = s.mean, .inv = s.inv, .dg = own_g,
             .db = own_b, .shards = w->o.shards);
    else if (has_b)
        PUSH(w, bias_db, .dy = s.dy, .db = own_b, .shards = w->o.shards);
    if (columns) {
        join_columns(w, dg);
        join_columns(w, db);
    }
}

static void layernorm_rule(backward *w, const weft_args *args) {
    const weft_layernorm_args *a = &args->layernorm;
    const weft_tensor *sum = norm_sum(&a->x, &a->r);
    weft_tensor dy = reached(w, &a->y), r = kept(w, sum);
    weft_tensor mean = kept(w, &a->mean), inv = kept(w, &a->inv);
    layernorm_dg(w, a, (norm_sums){dy, r, mean, inv});
    if (!w->needs[a->x.id] && !w->needs[a->res.id])
        return;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, layernorm_dx, .dy = dy, .r = r, .g = a->g, .mean = mean, .inv = inv,
         .dr = reached(w, sum), .dx = dx);
    pass_sum(w, &a->x, &a->res, sum, dx);
}

/* dx of a matrix split by outputs: a sum over the leaves of all ranks. */
static void dx_over_ranks(backward *w, weft_tensor dy, weft_tensor m, int copies, weft_tensor res,
                          weft_tensor dx) {
    int slices = w->o.tp / copies;
    char tag[WEFT_TAG_BYTES + 1];
    weft_tensor part = plan_new(w->b, WEFT_F32, 2, (int64_t[]){dy.shape[0], dx.shape[1]});
    PUSH(w, matmul_dx, .dy = dy, .w = m, .dx = part,
         .leaves = shard_leaves(m.shape[0] * slices) / slices);
    snprintf(tag, sizeof tag, "%s'", w->at.tag);
    rank_sum_push(w->b, &(rank_sum){.part = part,
                                    .res = res,
                                    .y = dx,
                                    .ranks = w->o.tp,
                                    .rank = w->o.slice,
                                    .copies = copies,
                                    .in_halves = true,
                                    .layer = w->at.layer,
                                    .tag = tag});
}

/* Matrices with one chain in the forward are those that ranks split by outputs: their dx has the
 * leaves. */
static void matmul_rule(backward *w, const weft_args *args) {
    const weft_matmul_args *a = &args->matmul;
    const weft_tensor *x = own_rows(w, &a->x);
    weft_tensor grad, dy = reached(w, &a->y);
    bool split = a->leaves == 1 && !w->partial[a->y.id];
    WEFT_ASSERT(!a->act && !a->partial && !weft_has(&a->xscale));
    if (gradient_of(w, &a->bias, &grad))
        PUSH(w, bias_db, .dy = dy, .db = grad, .shards = w->o.shards);
    if (gradient_of(w, &a->w, &grad))
        PUSH(w, matmul_dw, .dy = dy, .x = kept_whole(w, &a->x), .dw = grad, .shards = w->o.shards);
    add(w, &a->res, dy);
    if (!w->needs[x->id])
        return;
    weft_tensor dx = fresh(w, x), m = weight_of(w, &a->w);
    if (split && w->o.tp > 1)
        dx_over_ranks(w, dy, m, copies_of(w, &a->w), reached(w, x), dx);
    else
        PUSH(w, matmul_dx, .dy = dy, .w = m, .wscale = a->wscale, .res = reached(w, x), .dx = dx,
             .leaves = split ? shard_leaves(a->w.shape[0]) : 1);
    put(w, x, dx);
}

/* Of a sum over ranks: perhaps of some rows here, but the gradient of all of them is. */
static void leaf_sum_rule(backward *w, const weft_args *args) {
    const weft_leaf_sum_args *a = &args->leaf_sum;
    weft_tensor grad, dy = all_rows(w, w->grad[a->y.id]);
    WEFT_ASSERT(!weft_has(&a->res));
    if (gradient_of(w, &a->bias, &grad))
        PUSH(w, bias_db, .dy = dy, .db = grad, .shards = w->o.shards);
    put(w, &a->x, dy);
}

static void all_to_all_rule(backward *w, const weft_args *args) {
    pass(w, &args->all_to_all.y, &args->all_to_all.x);
}

static void recv_rule(backward *w, const weft_args *args) {
    const weft_recv_args *a = &args->recv;
    PUSH(w, send, .x = reached(w, &a->y), .peer = a->peer, .group = a->group);
}

static void all_gather_rule(backward *w, const weft_args *args) {
    pass(w, &args->all_gather.y, &args->all_gather.x);
}

/* Where ranks share a kv head each needs the gradients that all its query heads leave, so it
 * computes with all of them; of dq its own heads are what counts. */
static weft_tensor group_heads(backward *w, const weft_attention_args *a, weft_tensor x) {
    int64_t first = w->o.slice * a->q.shape[1] - a->head0;
    return tensor_slice(of_all_heads(w, x, 1), 1, first, first + a->group);
}

static bool shares_kv(const backward *w, const weft_attention_args *a) {
    return w->o.tp > 1 && a->q.shape[1] < a->group;
}

static void attention_rule(backward *w, const weft_args *args) {
    const weft_attention_args *a = &args->attention;
    weft_attention_dx_args d = {.dy = reached(w, &a->y),
                                .q = kept(w, &a->q),
                                .k = kept(w, &a->k),
                                .v = kept(w, &a->v),
                                .y = kept(w, &a->y),
                                .lse = kept(w, &a->lse),
                                .qstart = a->qstart,
                                .qpos = a->qpos,
                                .kvlen = a->kvlen,
                                .slopes = a->slopes,
                                .bias = a->bias,
                                .sinks = a->sinks,
                                .dk = fresh(w, &a->k),
                                .dv = fresh(w, &a->v),
                                .scale = a->scale,
                                .softcap = a->softcap,
                                .causal = a->causal,
                                .window = a->window,
                                .group = a->group,
                                .head0 = a->head0};
    if (shares_kv(w, a)) {
        WEFT_ASSERT(!weft_has(&a->slopes) && !weft_has(&a->bias) && !weft_has(&a->sinks));
        d.dy = group_heads(w, a, d.dy);
        d.q = group_heads(w, a, d.q);
        d.y = group_heads(w, a, d.y);
        d.lse = group_heads(w, a, d.lse);
        d.head0 = 0;
    }
    d.dq = plan_new(w->b, d.q.dtype, 3, d.q.shape);
    plan_push(w->b, WEFT_OP_attention_dx, &(weft_args){.attention_dx = d}, w->at.layer, "%s'",
              w->at.tag);
    if (shares_kv(w, a))
        d.dq = tensor_slice(d.dq, 1, a->head0, a->head0 + a->q.shape[1]);
    add(w, &a->q, d.dq);
    add(w, &a->k, d.dk);
    add(w, &a->v, d.dv);
}

static void glu_rule(backward *w, const weft_args *args) {
    const weft_glu_args *a = &args->glu;
    weft_tensor dgate = fresh(w, &a->gate), dup = fresh(w, &a->up);
    PUSH(w, glu_dx, .dy = reached(w, &a->y), .gate = kept(w, &a->gate), .up = kept(w, &a->up),
         .dgate = dgate, .dup = dup, .act = a->act);
    add(w, &a->gate, dgate);
    add(w, &a->up, dup);
}

static void activation_rule(backward *w, const weft_args *args) {
    const weft_activation_args *a = &args->activation;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, activation_dx, .dy = reached(w, &a->y), .x = kept(w, &a->x), .dx = dx, .act = a->act);
    add(w, &a->x, dx);
}

static void add_rule(backward *w, const weft_args *args) {
    weft_tensor dy = reached(w, &args->add.y);
    add(w, &args->add.a, dy);
    add(w, &args->add.b, dy);
}

static void dropout_rule(backward *w, const weft_args *args) {
    const weft_dropout_args *a = &args->dropout;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, dropout, .x = reached(w, &a->y), .key = a->key, .place = a->place, .y = dx, .p = a->p,
         .stream = a->stream);
    add(w, &a->x, dx);
}

static void scale_rule(backward *w, const weft_args *args) {
    const weft_scale_args *a = &args->scale;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, scale, .x = reached(w, &a->y), .y = dx, .s = a->s);
    add(w, &a->x, dx);
}

/* What a rule reads of its forward step: candidates for being computed again. */
typedef struct {
    void (*push)(backward *w, const weft_args *a);
    const char *reads[6], *result;
} rule;

static const rule rules[WEFT_OP_COUNT] = {
    [WEFT_OP_embed] = {embed_rule, {NULL}, "y"},
    [WEFT_OP_rope] = {rope_rule, {"table"}, "y"},
    [WEFT_OP_rmsnorm] = {rmsnorm_rule, {"inv"}, "y"},
    [WEFT_OP_layernorm] = {layernorm_rule, {"mean", "inv"}, "y"},
    [WEFT_OP_matmul] = {matmul_rule, {"x"}, "y"},
    [WEFT_OP_leaf_sum] = {leaf_sum_rule, {NULL}, "y"},
    [WEFT_OP_all_to_all] = {all_to_all_rule, {NULL}, "y"},
    [WEFT_OP_recv] = {recv_rule, {NULL}, "y"},
    [WEFT_OP_all_gather] = {all_gather_rule, {NULL}, "y"},
    [WEFT_OP_attention] = {attention_rule, {"q", "k", "v", "y", "lse"}, "y"},
    [WEFT_OP_glu] = {glu_rule, {"gate", "up"}, "y"},
    [WEFT_OP_activation] = {activation_rule, {"x"}, "y"},
    [WEFT_OP_add] = {add_rule, {NULL}, "y"},
    [WEFT_OP_dropout] = {dropout_rule, {NULL}, "y"},
    [WEFT_OP_scale] = {scale_rule, {NULL}, "y"},
};

static weft_tensor *field_of(weft_op op, weft_args *a, const char *name) {
    return ops_tensor(a, ops_field(op, name));
}

/* ---- Computing again ---- */

/* Steps of one key are repeated together; 0: kept. */
static uint32_t key_of(const backward *w, const weft_step *s) {
    if (s->segment == 0 || w->o.recompute == RECOMPUTE_NONE)
        return 0;
    if (w->o.recompute == RECOMPUTE_LAYER)
        return (s->segment + 1) / 2;
    return s->segment % 2 ? s->segment : 0;
}

/* Residual sums are kept: they are all that a block's steps need from outside. */
static bool is_sum(weft_op op, const char *field) {
    return (op == WEFT_OP_rmsnorm || op == WEFT_OP_layernorm) && strcmp(field, "r") == 0;
}

static void note_reads(backward *w, int step, bool *asked) {
    weft_step *s = &w->b->plan->step[step];
    const rule *r = &rules[s->kernel->op];
    for (int i = 0; r->push && i < 6 && r->reads[i]; i++)
        asked[field_of(s->kernel->op, &s->args, r->reads[i])->id] = true;
}

static bool makes_asked(const weft_step *s, const bool *asked) {
    const weft_op_info *info = &weft_op_table[s->kernel->op];
    for (int i = 0; i < info->nfield; i++) {
        const weft_field *f = &info->field[i];
        if (f->type == 't' && f->role == 'O' && !is_sum(s->kernel->op, f->name) &&
            asked[ops_ctensor(&s->args, f)->id])
            return true;
    }
    return false;
}

/* A norm starts from its sum, so what it was made of need not be there. */
static void from_sum(weft_op op, weft_args *a) {
    weft_tensor *r = field_of(op, a, "r");
    if (!weft_has(r))
        return;
    *field_of(op, a, "x") = *r;
    *field_of(op, a, "res") = (weft_tensor){0};
    *r = (weft_tensor){0};
}

static void note_inputs(const weft_step *s, bool *asked) {
    weft_args a = s->args;
    const weft_op_info *info = &weft_op_table[s->kernel->op];
    if (s->kernel->op == WEFT_OP_rmsnorm || s->kernel->op == WEFT_OP_layernorm)
        from_sum(s->kernel->op, &a);
    for (int i = 0; i < info->nfield; i++)
        if (info->field[i].type == 't' && strchr("IQ", info->field[i].role))
            asked[ops_tensor(&a, &info->field[i])->id] = true;
}

static void push_again(backward *w, int step) {
    weft_step s = w->b->plan->step[step];
    weft_op op = s.kernel->op;
    const weft_op_info *info = &weft_op_table[op];
    if (op == WEFT_OP_rmsnorm || op == WEFT_OP_layernorm)
        from_sum(op, &s.args);
    for (int i = 0; i < info->nfield; i++) {
        weft_tensor *t = ops_tensor(&s.args, &info->field[i]);
        if (info->field[i].type != 't' || !weft_has(t))
            continue;
        if (info->field[i].role == 'O')
            w->again[t->id] = fresh(w, t);
        *t = kept(w, t);
        if (info->field[i].role != 'O')
            *t = weight_of(w, t);
    }
    plan_push(w->b, op, &s.args, s.layer, "%s again", s.tag);
}

/* The steps of the segment that backward, or one of these steps, reads the result of. */
static void compute_again(backward *w, int last, uint32_t key) {
    bool *asked = ARENA_NEW(w->b->mem, bool, w->values);
    int first = last;
    for (; first > 0 && key_of(w, &w->b->plan->step[first - 1]) == key; first--)
        ;
    bool *chosen = ARENA_NEW(w->b->mem, bool, last - first + 1);
    for (int i = first; i <= last; i++)
        note_reads(w, i, asked);
    asked[0] = false;
    for (int i = last; i >= first; i--) {
        const weft_step *s = &w->b->plan->step[i];
        chosen[i - first] = makes_asked(s, asked);
        if (chosen[i - first])
            note_inputs(s, asked);
        asked[0] = false;
    }
    for (int i = first; i <= last; i++)
        if (chosen[i - first])
            push_again(w, i);
}

/* ---- The walk ---- */

static void visit(backward *w, int i) {
    weft_step *s = &w->at;
    w->at = w->b->plan->step[i]; /* a copy: the array may move while steps are pushed */
    const rule *r = &rules[s->kernel->op];
    uint32_t key = key_of(w, s);
    if (key && key != w->key)
        compute_again(w, i, key);
    w->key = key;
    if (!r->push)
        return;
    const weft_tensor *y = field_of(s->kernel->op, &s->args, r->result);
    if (w->needs[y->id] && weft_has(&w->grad[y->id]))
        r->push(w, &s->args);
    if (w->o.ready)
        w->o.ready(w->o.user, w->b);
}

void backward_push(backward *w, weft_tensor y, weft_tensor dy) {
    put(w, own_rows(w, &y), dy);
    for (int i = w->steps - 1; i >= 0 && w->b->status == WEFT_OK; i--)
        visit(w, i);
}
