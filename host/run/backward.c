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
    uint32_t key;       /* of the segment computed again last */
    weft_step at;       /* the forward step whose turn it is */
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

static void mark_needed(backward *w) {
    for (int i = 0; i < w->steps; i++) {
        const weft_step *s = &w->b->plan->step[i];
        const weft_op_info *info = &weft_op_table[s->kernel->op];
        if (s->kernel->op == WEFT_OP_all_gather)
            w->partial[s->args.all_gather.x.id] = true;
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

/* ---- A rule for each op ---- */

static void embed_rule(backward *w, const weft_args *args) {
    const weft_embed_args *a = &args->embed;
    weft_tensor dw, dy = reached(w, &a->y);
    const char *ids = w->b->plan->value[a->ids.id].name;
    if (gradient_of(w, &a->w, &dw))
        PUSH(w, embed_dw, .ids = a->ids,
             .order = strcmp(ids, "pos") == 0 ? w->o.by_place : w->o.order, .dy = dy, .dw = dw,
             .row0 = a->row0, .shards = w->o.shards);
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

/* A gain that heads share is summed in their order. */
static void rmsnorm_dg(backward *w, weft_tensor dy, weft_tensor r, weft_tensor inv, weft_tensor dg,
                       int copies) {
    if (w->o.tp > 1 && dy.ndim == 3) {
        dy = of_all_heads(w, dy, copies);
        r = of_all_heads(w, r, copies);
        inv = of_all_heads(w, inv, copies);
    }
    PUSH(w, rmsnorm_dg, .dy = dy, .r = r, .inv = inv, .dg = dg, .shards = w->o.shards);
}

static void rmsnorm_rule(backward *w, const weft_args *args) {
    const weft_rmsnorm_args *a = &args->rmsnorm;
    const weft_tensor *sum = norm_sum(&a->x, &a->r);
    weft_tensor dg, dy = reached(w, &a->y), r = kept(w, sum), inv = kept(w, &a->inv);
    if (gradient_of(w, &a->g, &dg))
        rmsnorm_dg(w, dy, r, inv, dg, copies_of(w, &a->g));
    if (!w->needs[a->x.id] && !w->needs[a->res.id])
        return;
    weft_tensor dx = fresh(w, &a->x);
    PUSH(w, rmsnorm_dx, .dy = dy, .r = r, .g = a->g, .inv = inv, .dr = reached(w, sum), .dx = dx,
         .offset = a->offset);
    pass_sum(w, &a->x, &a->res, sum, dx);
}

static void layernorm_rule(backward *w, const weft_args *args) {
    const weft_layernorm_args *a = &args->layernorm;
    const weft_tensor *sum = norm_sum(&a->x, &a->r);
    weft_tensor dg, db = {0}, dy = reached(w, &a->y), r = kept(w, sum);
    weft_tensor mean = kept(w, &a->mean), inv = kept(w, &a->inv);
    bool has_b = gradient_of(w, &a->b, &db);
    if (gradient_of(w, &a->g, &dg))
        PUSH(w, layernorm_dg, .dy = dy, .r = r, .mean = mean, .inv = inv, .dg = dg, .db = db,
             .shards = w->o.shards);
    else if (has_b)
        PUSH(w, bias_db, .dy = dy, .db = db, .shards = w->o.shards);
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
    weft_tensor part = plan_new(w->b, WEFT_F32, 2, dx.shape);
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
    weft_tensor grad, dy = reached(w, &a->y);
    bool split = a->leaves == 1 && !w->partial[a->y.id];
    WEFT_ASSERT(!a->act && !a->partial && !weft_has(&a->xscale));
    if (gradient_of(w, &a->bias, &grad))
        PUSH(w, bias_db, .dy = dy, .db = grad, .shards = w->o.shards);
    if (gradient_of(w, &a->w, &grad))
        PUSH(w, matmul_dw, .dy = dy, .x = kept(w, &a->x), .dw = grad, .shards = w->o.shards);
    add(w, &a->res, dy);
    if (!w->needs[a->x.id])
        return;
    weft_tensor dx = fresh(w, &a->x), m = weight_of(w, &a->w);
    if (split && w->o.tp > 1)
        dx_over_ranks(w, dy, m, copies_of(w, &a->w), reached(w, &a->x), dx);
    else
        PUSH(w, matmul_dx, .dy = dy, .w = m, .wscale = a->wscale, .res = reached(w, &a->x),
             .dx = dx, .leaves = split ? shard_leaves(a->w.shape[0]) : 1);
    put(w, &a->x, dx);
}

/* Of a sum over ranks: perhaps of some rows here, but the gradient of all of them is. */
static void leaf_sum_rule(backward *w, const weft_args *args) {
    const weft_leaf_sum_args *a = &args->leaf_sum;
    weft_tensor grad, dy = w->grad[a->y.id];
    WEFT_ASSERT(!weft_has(&a->res));
    if (gradient_of(w, &a->bias, &grad))
        PUSH(w, bias_db, .dy = dy, .db = grad, .shards = w->o.shards);
    pass(w, &a->y, &a->x);
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
    put(w, &y, dy);
    for (int i = w->steps - 1; i >= 0 && w->b->status == WEFT_OK; i--)
        visit(w, i);
}
