/* SPDX-License-Identifier: Apache-2.0
 * Building a training run's plans. */
#include "host/train/graph.h"
#include "host/base/err.h"
#include "host/model/engine.h"
#include "host/run/comm.h"
#include <string.h>

enum {
    ALIGN = 64,
    GRANULE = 16,
    CHUNK_NUMBERS = 16 << 20,
    CHUNK_LEAST = 64,
    SUM_NUMBERS = 4 << 20
};

/* ---- Shape ---- */

static int most_shards(int batch) {
    int n = 8;
    while (batch % n)
        n /= 2;
    return n;
}

static bool is_power(int n) {
    return n > 0 && (n & (n - 1)) == 0;
}

static weft_status check_ranks(const train_options *o, int shards) {
    if (o->zero > 3)
        return weft_fail(WEFT_USAGE, "--zero: %d (0, 1, 2 or 3)", o->zero);
    if (o->zero > 0 && o->stochastic_rounding)
        return weft_fail(WEFT_USAGE, "--zero: draws nothing for --stochastic-rounding; leave one "
                                     "of them out");
    if (o->dp > 0 && shards % o->dp)
        return weft_fail(WEFT_USAGE,
                         "--dp: %d (it divides the %d virtual shards of a batch, which are 8, 4, "
                         "2 or 1; see --batch-size and --shards)",
                         o->dp, shards);
    return WEFT_OK;
}

static weft_status check_shards(const train_options *o, int shards) {
    if (!is_power(shards) || shards > 8 || o->batch % shards)
        return weft_fail(WEFT_USAGE, "--shards: %d (1, 2, 4 or 8, and it divides the batch of %d)",
                         shards, o->batch);
    return WEFT_OK;
}

/* The largest power of two of whole shards that a micro-batch holds, 1 if it holds none. */
static int unit_of(int micro, int shard_rows, int shards) {
    int n = 1;
    while (n * 2 <= shards && n * 2 * shard_rows <= micro)
        n *= 2;
    return n;
}

/* As many whole shards as fit, a power of two: the head's weight and gradient are read once for all
 * of them. A part of a shard where not one fits. */
static int chunk_of(const graph_shape *s, const model_config *c) {
    int shard = s->tokens / s->unit_shards, n = (int)(CHUNK_NUMBERS / c->vocab), shards = 1;
    n = n < CHUNK_LEAST ? CHUNK_LEAST : n / GRANULE * GRANULE;
    while (shards * 2 <= s->unit_shards && shards * 2 * shard <= n)
        shards *= 2;
    return n < shard ? n : shards * shard;
}

weft_status graph_shape_of(const train_options *o, const train_mesh *mesh, const device *dev,
                           const model_config *c, int row_tokens, graph_shape *out) {
    graph_shape s = {.shards = o->shards ? o->shards : most_shards(o->batch)};
    WEFT_TRY(check_shards(o, s.shards));
    WEFT_TRY(check_ranks(o, s.shards));
    s.ranks = mesh->size.dp;
    s.rank = mesh->place.dp;
    int shard_rows = o->batch / s.shards, micro = o->micro_batch ? o->micro_batch : o->batch;
    if (micro > o->batch)
        return weft_fail(WEFT_USAGE, "--micro-batch: %d is more than the batch (%d)", micro,
                         o->batch);
    micro = micro < o->batch / s.ranks ? micro : o->batch / s.ranks;
    s.unit_shards = unit_of(micro, shard_rows, s.shards / s.ranks);
    s.unit_rows = s.unit_shards * shard_rows;
    s.rows = micro < s.unit_rows ? micro : s.unit_rows;
    s.units = s.shards / s.unit_shards / s.ranks;
    if (o->zero > 1 && s.ranks > 1 && s.rows < s.unit_rows)
        return weft_fail(WEFT_USAGE,
                         "--zero: %d sums whole virtual shards, of %d rows, and --micro-batch is "
                         "%d",
                         o->zero, shard_rows, s.rows);
    for (int n = s.units; n >= 1; n /= 2)
        s.levels++;
    s.row_tokens = row_tokens;
    s.stride = strcmp(dev->backend, "ref") == 0 || strcmp(dev->backend, "cpu") == 0
                   ? row_tokens
                   : (row_tokens + GRANULE - 1) / GRANULE * GRANULE;
    if ((int64_t)s.rows * s.stride > 1 << 24)
        return weft_fail(WEFT_USAGE,
                         "--micro-batch: %d rows of %d tokens are too many at once "
                         "(at most %d tokens); lower it",
                         s.rows, s.stride, 1 << 24);
    s.tokens = s.rows * s.stride;
    s.chunk = chunk_of(&s, c);
    shard_part part = mesh_own_part(mesh);
    s.kv_heads = decoder_local_heads(c, &part).kv_heads;
    s.query_tile = engine_query_tile(dev, c);
    *out = s;
    return WEFT_OK;
}

/* ---- Places ---- */

static int64_t take_bytes(graph *g, weft_space space, int64_t bytes) {
    int64_t off = (int64_t)g->bytes[space];
    g->bytes[space] += (uint64_t)(bytes + ALIGN - 1) / ALIGN * ALIGN;
    return off;
}

#define TAKE(g, space, at, name, dtype, ...) \
    (g)->at = decoder_take((g)->bytes, WEFT_SPACE_##space, name, WEFT_##dtype, \
                           (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                           (int64_t[]){__VA_ARGS__})

static int64_t work_items(const graph *g) {
    const graph_shape *s = &g->shape;
    return ((s->tokens + s->query_tile - 1) / s->query_tile + s->tokens) * s->kv_heads;
}

static void place_feed(graph *g) {
    int64_t T = g->shape.tokens;
    TAKE(g, FEED, io.nwork, "nwork", I32, 1);
    TAKE(g, FEED, io.ids, "ids", I32, T);
    TAKE(g, FEED, io.pos, "pos", I32, T);
    TAKE(g, FEED, io.qstart, "qstart", I32, T + 1);
    TAKE(g, FEED, io.qpos, "qpos", I32, T);
    TAKE(g, FEED, io.kvlen, "kvlen", I32, T);
    TAKE(g, FEED, io.work, "work", I32, work_items(g), 4);
    TAKE(g, FEED, train.target, "target", I32, T);
    TAKE(g, FEED, train.order, "order", I32, T);
    TAKE(g, FEED, train.by_place, "by_place", I32, T);
    TAKE(g, FEED, train.scale, "scale", F32, 1);
    TAKE(g, FEED, training.key, "key", I32, 2);
    TAKE(g, FEED, training.place, "place", I32, T);
    TAKE(g, FEED, train.hyper, "hyper", F32, WEFT_HYPERS);
}

static int squares_leaves(const param *p) {
    return shard_leaves(p->cols ? p->cols : p->rows);
}

/* Every rank has room for the squares of the whole model, in the order of its parameters. */
static int64_t squares_of(const param *p) {
    return p->trained ? param_whole(p).shape[0] * squares_leaves(p) : 0;
}

static void place_rest(graph *g) {
    const train_options *o = g->o;
    int64_t T = g->shape.tokens;
    for (int i = 0; i < g->params->n; i++)
        g->nsquares += squares_of(&g->params->param[i]);
    TAKE(g, OUT, train.loss, "loss", F32, T);
    TAKE(g, OUT, train.nll, "nll", F32, T);
    TAKE(g, OUT, train.squares, "squares", F32, g->nsquares);
    if (g->c->position == POSITION_ROPE)
        TAKE(g, STATE, io.freq, "freq", F32, g->c->rope.dims / 2, 2);
    g->m = take_bytes(g, WEFT_SPACE_STATE, g->params->kept);
    g->v = o->optim == OPTIM_ADAMW ? take_bytes(g, WEFT_SPACE_STATE, g->params->kept) : -1;
    g->ema = o->ema > 0 ? take_bytes(g, WEFT_SPACE_STATE, g->params->kept) : -1;
    take_bytes(g, WEFT_SPACE_GRAD, g->shape.levels * g->params->grad_bytes);
}

/* ---- One plan's builder ---- */

typedef struct {
    graph *g;
    plan_builder b;
    int level;   /* gradient buffer */
    int *of;     /* parameter by value id, -1: none */
    bool *input; /* by value id: the embedding as rows that ids pick */
    int cap;
    struct {
        const param *p;
        bool input;
        weft_tensor whole; /* [ranks * rows of a part, cols] */
    } handed[4];           /* gradients given out that no exchange has summed yet */
    int nhanded;
    weft_tensor *again; /* [params] matrices of a layer, gathered for its backward */
    int again_layer;
} build;

#define PUSH(u, op_, tag, ...) \
    plan_push(&(u)->b, WEFT_OP_##op_, &(weft_args){.op_ = {__VA_ARGS__}}, 0, "%s", tag)

static const param *stored_as(const graph *g, int slot, int layer) {
    return params_find(g->params, PARAM_WEIGHT,
                       slot == WEIGHT_HEAD && g->c->tied ? WEIGHT_EMBED : slot, layer);
}

static void seen(void *user, uint32_t id, int slot, int layer) {
    build *u = user;
    if ((int)id >= u->cap) {
        int cap = 2 * (int)id + 64;
        int *of = ARENA_NEW(u->g->mem, int, cap);
        bool *input = ARENA_NEW(u->g->mem, bool, cap);
        for (int i = 0; i < cap; i++)
            of[i] = i < u->cap ? u->of[i] : -1;
        if (u->cap)
            memcpy(input, u->input, (size_t)u->cap);
        u->of = of;
        u->input = input;
        u->cap = cap;
    }
    const param *p = stored_as(u->g, slot, layer);
    u->of[id] = p ? (int)(p - u->g->params->param) : -1;
    u->input[id] = slot == WEIGHT_EMBED && u->g->c->tied;
}

/* [rows, cols], or [rows] for a vector. */
static weft_tensor as_weight(const param *p, weft_tensor layout) {
    return p->cols ? layout : tensor_reshape(layout, 1, &p->window.cols);
}

/* ---- Matrices that ranks keep in parts: whole while a layer needs them ---- */

static weft_tensor gather_rows(build *u, const param *p, weft_tensor own) {
    weft_tensor whole = plan_new(&u->b, own.dtype, 2,
                                 (int64_t[]){own.shape[0] * u->g->params->ranks, own.shape[1]});
    weft_args a = {.all_gather = {.x = own, .y = whole, .group = WEFT_GROUP_DP}};
    plan_push(&u->b, WEFT_OP_all_gather, &a, p->layer < 0 ? 0 : p->layer, "%s.whole",
              weights_slot_name(p->slot));
    return tensor_slice(whole, 0, 0, p->window.rows);
}

static weft_tensor fetch(void *user, plan_builder *b, weft_tensor own, int slot, int layer) {
    build *u = user;
    const param *p = stored_as(u->g, slot, layer);
    (void)b;
    return p && param_shares_weight(u->g->params, p) ? gather_rows(u, p, own) : own;
}

/* What stands for the forward's operand w in backward. */
static weft_tensor fetch_again(void *user, plan_builder *b, weft_tensor w) {
    build *u = user;
    int index = (int)w.id < u->cap ? u->of[w.id] : -1;
    const param *p = index < 0 ? NULL : &u->g->params->param[index];
    (void)b;
    if (!p || !param_shares_weight(u->g->params, p))
        return w;
    if (u->again_layer != p->layer)
        memset(u->again, 0, sizeof *u->again * (size_t)u->g->params->n);
    u->again_layer = p->layer;
    if (!weft_has(&u->again[index]))
        u->again[index] = gather_rows(u, p, plan_weight(&u->b, p->name, p->w));
    return u->again[index];
}

/* A trained parameter's gradient in the build's buffer. */
static weft_tensor grad_place(build *u, const param *p, bool input) {
    weft_tensor t = as_weight(p, param_layout(p));
    int64_t off = u->level * u->g->params->grad_bytes + (input ? u->g->params->lookups : p->off);
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, p->name, off, t);
}

/* ---- Gradients that ranks keep in parts: summed as soon as one is complete ---- */

/* Rows of a parameter whose state `rank` keeps. */
typedef struct {
    int64_t begin, end;
} row_range;

static row_range rows_of(const build *u, const param *p, int rank) {
    return (row_range){param_first_row(u->g->params, p, rank),
                       param_first_row(u->g->params, p, rank + 1)};
}

static weft_tensor own_part(build *u, const param *p, bool input) {
    row_range rows = rows_of(u, p, u->g->params->rank);
    weft_tensor t = param_layout(p);
    t.shape[0] = rows.end - rows.begin;
    int64_t off = u->level * u->g->params->grad_bytes + (input ? u->g->params->lookups : p->kept);
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, p->name, off, t);
}

/* Room for one rank's gradient of a whole parameter, from 0. */
static weft_tensor hand_out(build *u, const param *p, bool input) {
    int64_t each = param_first_row(u->g->params, p, 1), cols = param_layout(p).shape[1];
    weft_tensor whole = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){each * u->g->params->ranks, cols});
    PUSH(u, fill, "parts", .y = whole, .value = 0);
    WEFT_ASSERT(u->nhanded < 4);
    u->handed[u->nhanded].p = p;
    u->handed[u->nhanded].input = input;
    u->handed[u->nhanded++].whole = whole;
    return as_weight(p, tensor_slice(whole, 0, 0, param_layout(p).shape[0]));
}

/* Every rank sends each other one the rows it keeps; a part is the sum by the shards' tree. */
static void sum_part(build *u, const param *p, bool input, weft_tensor whole) {
    int64_t ranks = u->g->params->ranks, each = whole.shape[0] / ranks, cols = whole.shape[1];
    weft_tensor parts = plan_new(&u->b, WEFT_F32, 2, whole.shape);
    weft_tensor sum = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){each, cols});
    row_range own = rows_of(u, p, u->g->params->rank);
    PUSH(u, all_to_all, "parts", .x = whole, .y = parts, .group = WEFT_GROUP_DP);
    PUSH(u, leaf_sum, "parts", .x = tensor_reshape(parts, 3, (int64_t[]){ranks, each, cols}),
         .y = sum);
    if (own.begin < own.end)
        PUSH(u, accumulate, "parts", .x = tensor_slice(sum, 0, 0, own.end - own.begin),
             .y = own_part(u, p, input));
}

static void ready(void *user, plan_builder *b) {
    build *u = user;
    (void)b;
    for (int i = 0; i < u->nhanded; i++)
        sum_part(u, u->handed[i].p, u->handed[i].input, u->handed[i].whole);
    u->nhanded = 0;
}

static bool wanted(void *user, plan_builder *b, uint32_t id, weft_tensor *grad) {
    build *u = user;
    (void)b;
    if ((int)id >= u->cap || u->of[id] < 0 || !u->g->params->param[u->of[id]].trained)
        return false;
    const param *p = &u->g->params->param[u->of[id]];
    if (grad)
        *grad = u->g->params->share_grads ? hand_out(u, p, u->input[id])
                                          : grad_place(u, p, u->input[id]);
    return true;
}

static weft_tensor adapter_matrix(build *u, const param *p) {
    weft_tensor t = plan_weight(&u->b, p->name, p->w);
    seen(u, t.id, p->slot, p->layer);
    u->of[t.id] = (int)(p - u->g->params->param);
    return t;
}

static bool adapter(void *user, plan_builder *b, int slot, int layer, decoder_adapter *out) {
    build *u = user;
    const param *p = params_find(u->g->params, PARAM_LORA_A, slot, layer);
    (void)b;
    if (!p)
        return false;
    out->a = adapter_matrix(u, p);
    out->b = adapter_matrix(u, p + 1);
    out->scale = (float)(u->g->o->lora_alpha / u->g->o->lora_rank);
    return true;
}

static weft_tensor fixed(build *u, const decoder_place *p) {
    return plan_fixed(&u->b, p->space, p->name, p->off, p->layout);
}

/* One plan at a time: the callbacks' user is the build. */
static void begin(build *u, graph *g, int level) {
    *u = (build){.g = g, .level = level};
    g->training.user = u;
    g->training.seen = seen;
    g->training.adapter = g->o->lora_rank > 0 ? adapter : NULL;
    const shard_mesh *m = &g->mesh->size;
    const int ranks[WEFT_GROUPS] = {m->tp, m->pp, m->dp, g->mesh->ranks};
    g->training.fetch = g->params->share_weight ? fetch : NULL;
    u->again = ARENA_NEW(g->mem, weft_tensor, g->params->n);
    u->again_layer = -1;
    plan_begin(&u->b, g->mem, g->dev, WEFT_PHASE_TRAIN, g->mesh->rank, ranks, g->shape.tokens,
               g->shape.tokens);
}

static weft_status end(build *u, weft_plan **out) {
    WEFT_TRY(plan_end(&u->b));
    const uint64_t *need = u->b.plan->space_bytes;
    uint64_t *have = u->g->bytes;
    for (int s = 0; s < WEFT_SPACES; s++)
        if (s == WEFT_SPACE_ACT || s == WEFT_SPACE_SCRATCH)
            have[s] = have[s] > need[s] ? have[s] : need[s];
    *out = u->b.plan;
    return WEFT_OK;
}

/* ---- Head and loss, a chunk of tokens at a time ---- */

typedef struct {
    build *u;
    weft_tensor x, dx, w, dw; /* absent dx, dw: not wanted */
    bool backward;
} loss_head;

/* f32 [rows, V]: ranks of tp compute a part of the vocabulary each, all read them whole. */
static weft_tensor push_logits(build *u, weft_tensor x, weft_tensor w) {
    int64_t tp = u->g->mesh->size.tp, rows = x.shape[0], n = w.shape[0];
    weft_tensor part = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){rows, n}), all;
    PUSH(u, matmul, "head", .x = x, .w = w, .y = part, .leaves = 1);
    if (tp == 1)
        return part;
    all = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){rows, n * tp});
    PUSH(u, all_gather, "head", .x = part, .y = all, .axis = 1);
    return all;
}

static void push_head_dx(build *u, weft_tensor dlogits, weft_tensor w, weft_tensor dx) {
    int64_t tp = u->g->mesh->size.tp, rows = dx.shape[0], n = dx.shape[1];
    int leaves = shard_leaves(w.shape[0] * tp) / (int)tp;
    if (tp == 1) {
        PUSH(u, matmul_dx, "head'", .dy = dlogits, .w = w, .dx = dx, .leaves = leaves);
        return;
    }
    weft_tensor part = plan_new(&u->b, WEFT_F32, 3, (int64_t[]){1, rows, n});
    weft_tensor all = plan_new(&u->b, WEFT_F32, 3, (int64_t[]){tp, rows, n});
    PUSH(u, matmul_dx, "head'", .dy = dlogits, .w = w,
         .dx = tensor_reshape(part, 2, part.shape + 1), .leaves = leaves);
    PUSH(u, all_gather, "head'", .x = part, .y = all);
    PUSH(u, leaf_sum, "head'", .x = all, .y = dx);
}

/* This rank's columns. */
static weft_tensor own_logits(const build *u, weft_tensor t, int64_t n) {
    int64_t first = u->g->mesh->place.tp * n;
    return weft_has(&t) ? tensor_slice(t, 1, first, first + n) : t;
}

static void loss_chunk(const loss_head *h, int64_t begin, int64_t end, int shards, weft_tensor dw) {
    build *u = h->u;
    const graph *g = u->g;
    weft_tensor x = tensor_slice(h->x, 0, begin, end), dlogits = {0};
    weft_tensor loss = fixed(u, &g->train.loss), nll = fixed(u, &g->train.nll);
    weft_tensor target = fixed(u, &g->train.target), logits = push_logits(u, x, h->w);
    if (h->backward)
        dlogits = plan_new(&u->b, g->dtype, 2, logits.shape);
    PUSH(u, cross_entropy, "loss", .x = logits, .target = tensor_slice(target, 0, begin, end),
         .scale = fixed(u, &g->train.scale), .loss = tensor_slice(loss, 0, begin, end),
         .nll = tensor_slice(nll, 0, begin, end), .dx = dlogits, .z_loss = (float)g->o->z_loss,
         .smoothing = (float)g->o->label_smoothing);
    dlogits = own_logits(u, dlogits, h->w.shape[0]);
    if (weft_has(&h->dx))
        push_head_dx(u, dlogits, h->w, tensor_slice(h->dx, 0, begin, end));
    if (weft_has(&dw))
        PUSH(u, matmul_dw, "head'", .dy = dlogits, .x = x, .dw = dw, .shards = shards);
}

/* Where the gradient of the next shards gathers: in place while nothing waits, else a new value. */
static weft_tensor shards_grad(const loss_head *h, int waiting) {
    if (!weft_has(&h->dw) || waiting == 0)
        return h->dw;
    weft_tensor t = plan_new(&h->u->b, WEFT_F32, 2, h->dw.shape);
    PUSH(h->u, fill, "head'", .y = t, .value = 0);
    return t;
}

/* Chunks of whole shards go through at once; their sums join as the shards' tree says. */
static void loss_all(const loss_head *h) {
    const graph_shape *s = &h->u->g->shape;
    int64_t each = s->tokens / s->unit_shards, group = each > s->chunk ? each : s->chunk;
    weft_tensor wait[GRAPH_MAX_LEVELS];
    int waiting = 0;
    for (int i = 0; i < s->tokens / group; i++) {
        weft_tensor dw = shards_grad(h, waiting);
        for (int64_t t = 0; t < group; t += s->chunk) {
            int64_t end = t + s->chunk < group ? t + s->chunk : group;
            loss_chunk(h, i * group + t, i * group + end, (int)(group / each), dw);
        }
        wait[waiting++] = dw;
        for (int n = i + 1; n % 2 == 0 && weft_has(&h->dw); n /= 2, waiting--)
            PUSH(h->u, accumulate, "head'", .x = wait[waiting - 1], .y = wait[waiting - 2]);
    }
}

static weft_tensor head_weight(build *u) {
    weft_tensor w = weights_get(u->g->w, WEIGHT_HEAD, -1);
    w = plan_weight(&u->b, weights_slot_name(WEIGHT_HEAD), w);
    w = fetch(u, &u->b, w, WEIGHT_HEAD, -1);
    seen(u, w.id, WEIGHT_HEAD, -1);
    return w;
}

static decoder decoder_of(const graph *g) {
    return (decoder){.config = g->c,
                     .w = g->w,
                     .io = &g->io,
                     .dtype = g->dtype,
                     .part = mesh_own_part(g->mesh),
                     .stage = g->mesh->place.pp,
                     .train = &g->training};
}

static weft_status build_micro(graph *g, int level, weft_plan **out) {
    build u;
    begin(&u, g, level);
    decoder d = decoder_of(g);
    weft_tensor x = decoder_hidden(&d, &u.b);
    backward_options bo = {.user = &u,
                           .wanted = wanted,
                           .ready = ready,
                           .fetch = g->params->share_weight ? fetch_again : NULL,
                           .recompute = g->o->recompute,
                           .tp = g->mesh->size.tp,
                           .shards = g->shape.unit_shards,
                           .order = fixed(&u, &g->train.order),
                           .by_place = fixed(&u, &g->train.by_place)};
    backward *bw = backward_begin(&u.b, &bo);
    loss_head h = {.u = &u, .x = x, .w = head_weight(&u), .backward = true};
    wanted(&u, &u.b, h.w.id, &h.dw);
    if (backward_reaches(bw, &x))
        h.dx = plan_new(&u.b, x.dtype, 2, x.shape);
    loss_all(&h);
    ready(&u, &u.b);
    if (weft_has(&h.dx))
        backward_push(bw, x, h.dx);
    return end(&u, out);
}

static weft_status build_validate(graph *g, weft_plan **out) {
    build u;
    float dropout = g->training.dropout;
    begin(&u, g, 0);
    g->training.dropout = 0;
    decoder d = decoder_of(g);
    loss_head h = {.u = &u, .x = decoder_hidden(&d, &u.b)};
    h.w = head_weight(&u);
    loss_all(&h);
    g->training.dropout = dropout;
    return end(&u, out);
}

/* ---- Folds, norms, optimizer ---- */

static weft_tensor flat_grad(build *u, int level) {
    int64_t bytes = u->g->params->grad_bytes, shape[2] = {bytes / 4 / PARAMS_ROW, PARAMS_ROW};
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, "gradients", level * bytes,
                      weft_tensor_make(WEFT_F32, 2, shape));
}

static weft_status build_fold(graph *g, int level, weft_plan **out) {
    build u;
    begin(&u, g, 0);
    PUSH(&u, accumulate, "fold", .x = flat_grad(&u, level), .y = flat_grad(&u, level - 1));
    return end(&u, out);
}

/* Rows of the flat gradient [rows, PARAMS_ROW] that one exchange sums, by all ranks. */
static int64_t rows_at_once(const graph *g) {
    int64_t n = SUM_NUMBERS / PARAMS_ROW / g->shape.ranks;
    return (n > 1 ? n : 1) * g->shape.ranks;
}

/* The ranks' gradients become their sum, by the tree that joins shards: each rank adds up a part of
 * every stretch and hands it to the others. */
static void push_sum_over_ranks(build *u) {
    int64_t ranks = u->g->shape.ranks, most = rows_at_once(u->g), rows = flat_grad(u, 0).shape[0];
    for (int64_t at = 0, n; at < rows; at += n) {
        n = rows - at < most ? rows - at : most;
        weft_tensor place = weft_tensor_make(WEFT_F32, 2, (int64_t[]){n, PARAMS_ROW});
        weft_tensor x = plan_fixed(&u->b, WEFT_SPACE_GRAD, "gradients", at * PARAMS_ROW * 4, place);
        weft_tensor y = plan_fixed(&u->b, WEFT_SPACE_GRAD, "gradients", at * PARAMS_ROW * 4, place);
        weft_tensor parts = plan_new(&u->b, WEFT_F32, 2, place.shape);
        weft_tensor sum = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){n / ranks, PARAMS_ROW});
        PUSH(u, all_to_all, "ranks", .x = x, .y = parts, .group = WEFT_GROUP_DP);
        PUSH(u, leaf_sum, "ranks",
             .x = tensor_reshape(parts, 3, (int64_t[]){ranks, n / ranks, PARAMS_ROW}), .y = sum);
        PUSH(u, all_gather, "ranks", .x = sum, .y = y, .axis = 0, .group = WEFT_GROUP_DP);
    }
}

/* A trained parameter's gradient as [rows, cols]. */
static weft_tensor whole_grad(build *u, const param *p) {
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, p->name, p->off, param_layout(p));
}

/* This rank's rows of a parameter in a block of state. */
static weft_tensor state_place(build *u, const char *what, int64_t off, const param *p,
                               row_range rows) {
    weft_tensor t = param_layout(p);
    t.shape[0] = rows.end - rows.begin;
    return plan_fixed(&u->b, WEFT_SPACE_STATE, what, off + p->kept, t);
}

/* Of the rows and columns whose gradient counts here; the others' places stay 0. */
static void push_squares(build *u, const param *p, int64_t at) {
    graph *g = u->g;
    int64_t leaves = squares_leaves(p), cols = param_whole(p).shape[1];
    int64_t mine = leaves * p->window.cols / cols, first = leaves * p->window.col / cols;
    bool part = g->params->share_grads;
    row_range here = part ? rows_of(u, p, g->params->rank) : (row_range){0, p->window.rows};
    if (!p->counted || here.begin == here.end)
        return;
    weft_tensor x = part ? own_part(u, p, false) : whole_grad(u, p);
    weft_tensor y = weft_tensor_make(WEFT_F32, 2, (int64_t[]){x.shape[0], mine});
    y.stride[0] = leaves;
    at += (p->window.row + here.begin) * leaves + first;
    y = plan_fixed(&u->b, WEFT_SPACE_OUT, "squares", g->train.squares.off + at * 4, y);
    PUSH(u, sum_squares, "norm", .x = x, .y = y, .leaves = (int32_t)mine);
}

static weft_tensor lookups_of(build *u, const param *embed, bool input) {
    return u->g->params->share_grads ? own_part(u, embed, input) : grad_place(u, embed, input);
}

static weft_status build_finish(graph *g, weft_plan **out) {
    build u;
    int64_t at = 0;
    begin(&u, g, 0);
    if (g->shape.ranks > 1 && !g->params->share_grads)
        push_sum_over_ranks(&u);
    if (g->params->lookups >= 0) {
        const param *embed = params_find(g->params, PARAM_WEIGHT, WEIGHT_EMBED, -1);
        row_range own = rows_of(&u, embed, g->params->rank);
        if (own.begin < own.end)
            PUSH(&u, accumulate, "embed'", .x = lookups_of(&u, embed, true),
                 .y = lookups_of(&u, embed, false));
    }
    for (int i = 0; i < g->params->n; i++) {
        const param *p = &g->params->param[i];
        if (p->trained && p->here)
            push_squares(&u, p, at);
        at += squares_of(p);
    }
    return end(&u, out);
}

/* Rows of the fp32 numbers an optimizer changes: of the window, or, where only these are here, the
 * rank's own. */
static weft_tensor master_of(build *u, const param *p, row_range rows) {
    weft_tensor flat = param_layout(p);
    bool own = param_shares_master(u->g->params, p);
    flat.shape[0] = own ? rows.end - rows.begin : flat.shape[0];
    flat.data = p->p.data;
    flat = plan_weight(&u->b, "p", flat);
    return own ? flat : tensor_slice(flat, 0, rows.begin, rows.end);
}

/* The same of the model's own copy; absent where that is no other. */
static weft_tensor copy_of(build *u, const param *p, row_range rows) {
    weft_tensor flat = param_layout(p);
    bool own = param_shares_weight(u->g->params, p);
    if (u->g->dtype == WEFT_F32)
        return (weft_tensor){0};
    flat.shape[0] = own ? rows.end - rows.begin : flat.shape[0];
    flat.dtype = (uint8_t)u->g->dtype;
    flat.data = p->w.data;
    flat = plan_weight(&u->b, "w", flat);
    return own ? flat : tensor_slice(flat, 0, rows.begin, rows.end);
}

static void push_update(build *u, const param *p, int index, row_range rows) {
    graph *g = u->g;
    weft_tensor grad = g->params->share_grads
                           ? own_part(u, p, false)
                           : tensor_slice(whole_grad(u, p), 0, rows.begin, rows.end);
    weft_tensor master = master_of(u, p, rows);
    weft_tensor hyper = fixed(u, &g->train.hyper), copy = copy_of(u, p, rows);
    weft_tensor m = state_place(u, "m", g->m, p, rows);
    bool stochastic = g->o->stochastic_rounding && copy.dtype == WEFT_BF16;
    if (g->o->optim == OPTIM_ADAMW)
        PUSH(u, adamw, "adamw", .g = grad, .hyper = hyper, .p = master, .m = m,
             .v = state_place(u, "v", g->v, p, rows), .w = copy, .decay = p->decay ? 1.0f : 0.0f,
             .stochastic = stochastic, .stream = index);
    else
        PUSH(u, sgd, "sgd", .g = grad, .hyper = hyper, .p = master, .m = m, .w = copy,
             .decay = p->decay ? 1.0f : 0.0f, .stochastic = stochastic, .stream = index);
    if (g->ema >= 0)
        PUSH(u, ema, "ema", .p = master, .hyper = hyper,
             .e = state_place(u, "ema", g->ema, p, rows));
}

/* What each rank has made of its rows, to all. */
static void push_share(build *u, const param *p) {
    bool stays = param_shares_weight(u->g->params, p);
    for (int r = 0; !stays && r < u->g->params->ranks; r++) {
        row_range rows = rows_of(u, p, r);
        if (rows.begin == rows.end)
            continue;
        weft_tensor copy = copy_of(u, p, rows);
        PUSH(u, broadcast, "share", .x = weft_has(&copy) ? copy : master_of(u, p, rows), .peer = r,
             .group = WEFT_GROUP_DP);
    }
}

static weft_status build_update(graph *g, weft_plan **out) {
    build u;
    begin(&u, g, 0);
    for (int i = 0; i < g->params->n; i++) {
        const param *p = &g->params->param[i];
        row_range rows = rows_of(&u, p, g->params->rank);
        if (!p->trained || !p->here)
            continue;
        if (rows.begin < rows.end)
            push_update(&u, p, i, rows);
        if (g->params->ranks > 1)
            push_share(&u, p);
    }
    return end(&u, out);
}

/* The model's copies from the fp32 ones: at the start, and when a checkpoint was read. Where those
 * are here in part, trainer_write makes both. */
static weft_status build_refresh(graph *g, weft_plan **out) {
    build u;
    begin(&u, g, 0);
    for (int i = 0; i < g->params->n; i++) {
        const param *p = &g->params->param[i];
        row_range all = {0, p->window.rows};
        if (p->here && (p->trained || g->o->lora_rank == 0) && !param_shares_master(g->params, p))
            PUSH(&u, cast, "cast", .x = master_of(&u, p, all), .y = copy_of(&u, p, all));
    }
    return end(&u, out);
}

weft_status graph_build(graph *g) {
    g->training.dropout = (float)g->o->dropout;
    place_feed(g);
    place_rest(g);
    for (int i = 0; i < g->shape.levels; i++)
        WEFT_TRY(build_micro(g, i, &g->micro[i]));
    for (int i = 1; i < g->shape.levels; i++)
        WEFT_TRY(build_fold(g, i, &g->fold[i]));
    WEFT_TRY(build_finish(g, &g->finish));
    WEFT_TRY(build_update(g, &g->update));
    WEFT_TRY(build_validate(g, &g->validate));
    return g->dtype == WEFT_F32 ? WEFT_OK : build_refresh(g, &g->refresh);
}

int64_t graph_flops(const graph *g) {
    int per_unit = (g->shape.unit_rows + g->shape.rows - 1) / g->shape.rows;
    return plan_total(g->micro[0]).flops * per_unit * g->shape.units;
}

static int place_in(const shard_mesh *m, int group) {
    return group == WEFT_GROUP_TP ? m->tp : group == WEFT_GROUP_PP ? m->pp : m->dp;
}

static int64_t sent_by(const graph *g, const weft_plan *p) {
    int64_t sum = 0;
    for (int i = 0; i < p->nstep; i++) {
        const weft_step *s = &p->step[i];
        int group = comm_group_of(s->kernel->op, &s->args);
        bool receives = s->kernel->op == WEFT_OP_broadcast &&
                        s->args.broadcast.peer != place_in(&g->mesh->place, group);
        sum += receives ? 0 : comm_sent_bytes(s->kernel->op, &s->args, p->group_ranks[group]);
    }
    return sum;
}

int64_t graph_sent_bytes(const graph *g) {
    const graph_shape *s = &g->shape;
    const shard_mesh *m = &g->mesh->size;
    int64_t squares = (int64_t)sizeof(float) * g->nsquares;
    int64_t meets = m->tp - 1 + (g->params->share_grads ? m->dp - 1 : 0);
    return (int64_t)sizeof(double) * s->shards * (m->dp - 1) + squares * meets +
           sent_by(g, g->micro[0]) * s->units + sent_by(g, g->finish) + sent_by(g, g->update);
}
