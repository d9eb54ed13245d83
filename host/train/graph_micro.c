/* SPDX-License-Identifier: Apache-2.0
 * The plan of a micro-batch: forward, loss, backward, and where ranks meet in it. */
#include "host/base/err.h"
#include "host/run/comm.h"
#include "host/run/rank_sum.h"
#include "host/train/graph_build.h"
#include <string.h>

static const param *stored_as(const graph *g, int slot, int layer) {
    return params_find(g->params, PARAM_WEIGHT,
                       slot == WEIGHT_HEAD && g->c->tied ? WEIGHT_EMBED : slot, layer);
}

static void seen(void *user, uint32_t id, int slot, int layer) {
    graph_builder *u = user;
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

/* The parameter that value `id` of the plan is; NULL: none. */
static const param *param_of(const graph_builder *u, uint32_t id) {
    int index = (int)id < u->cap ? u->of[id] : -1;
    return index < 0 ? NULL : &u->g->params->param[index];
}

/* [rows, cols], or [rows] for a vector. */
static weft_tensor as_weight(const param *p, weft_tensor layout) {
    return p->cols ? layout : tensor_reshape(layout, 1, &p->window.cols);
}

/* ---- Matrices that ranks keep in parts: whole while a layer needs them ---- */

static weft_tensor gather_rows(graph_builder *u, const param *p, weft_tensor own) {
    weft_tensor whole = plan_new(&u->b, own.dtype, 2,
                                 (int64_t[]){own.shape[0] * u->g->params->ranks, own.shape[1]});
    weft_args a = {.all_gather = {.x = own, .y = whole, .group = WEFT_GROUP_DP}};
    plan_push(&u->b, WEFT_OP_all_gather, &a, p->layer < 0 ? 0 : p->layer, "%s.whole",
              weights_slot_name(p->slot));
    return tensor_slice(whole, 0, 0, p->window.rows);
}

static weft_tensor fetch(void *user, plan_builder *b, weft_tensor own, int slot, int layer) {
    graph_builder *u = user;
    const param *p = stored_as(u->g, slot, layer);
    (void)b;
    return p && param_shares_weight(u->g->params, p) ? gather_rows(u, p, own) : own;
}

/* What stands for the forward's operand w in backward. */
static weft_tensor fetch_again(void *user, plan_builder *b, weft_tensor w) {
    graph_builder *u = user;
    const param *p = param_of(u, w.id);
    (void)b;
    if (!p || !param_shares_weight(u->g->params, p))
        return w;
    weft_tensor *again = &u->again[p - u->g->params->param];
    if (u->again_layer != p->layer)
        memset(u->again, 0, sizeof *u->again * (size_t)u->g->params->n);
    u->again_layer = p->layer;
    if (!weft_has(again))
        *again = gather_rows(u, p, plan_weight(&u->b, p->name, p->w));
    return *again;
}

weft_tensor graph_grad(graph_builder *u, const param *p, bool input) {
    weft_tensor t = as_weight(p, param_layout(p));
    int64_t off = u->level * u->g->params->grad_bytes + (input ? u->g->params->lookups : p->off);
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, p->name, off, t);
}

/* ---- Gradients that ranks keep in parts: summed as soon as one is complete ---- */

graph_rows graph_rows_of(const graph *g, const param *p, int rank) {
    return (graph_rows){param_first_row(g->params, p, rank),
                        param_first_row(g->params, p, rank + 1)};
}

weft_tensor graph_own_grad(graph_builder *u, const param *p, bool input) {
    graph_rows rows = graph_rows_of(u->g, p, u->g->params->rank);
    weft_tensor t = param_layout(p);
    t.shape[0] = rows.end - rows.begin;
    int64_t off = u->level * u->g->params->grad_bytes + (input ? u->g->params->lookups : p->off);
    return plan_fixed(&u->b, WEFT_SPACE_GRAD, p->name, off, t);
}

/* Room for one rank's gradient of a whole parameter, from 0. */
static weft_tensor hand_out(graph_builder *u, const param *p, bool input) {
    int64_t each = param_first_row(u->g->params, p, 1), cols = param_layout(p).shape[1];
    weft_tensor whole = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){each * u->g->params->ranks, cols});
    PUSH(u, fill, "parts", .y = whole, .value = 0);
    WEFT_ASSERT(u->nhanded < GRAPH_HANDED);
    u->handed[u->nhanded].p = p;
    u->handed[u->nhanded].input = input;
    u->handed[u->nhanded++].whole = whole;
    return as_weight(p, tensor_slice(whole, 0, 0, param_layout(p).shape[0]));
}

/* Every rank sends each other one the rows it keeps; a part is the sum by the shards' tree. */
static void sum_part(graph_builder *u, const param *p, bool input, weft_tensor whole) {
    int64_t ranks = u->g->params->ranks, each = whole.shape[0] / ranks, cols = whole.shape[1];
    weft_tensor parts = plan_new(&u->b, WEFT_F32, 2, whole.shape);
    weft_tensor sum = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){each, cols});
    graph_rows own = graph_rows_of(u->g, p, u->g->params->rank);
    u->b.lane = WEFT_LANE_COMM;
    PUSH(u, all_to_all, "parts", .x = whole, .y = parts, .group = WEFT_GROUP_DP);
    PUSH(u, leaf_sum, "parts", .x = tensor_reshape(parts, 3, (int64_t[]){ranks, each, cols}),
         .y = sum);
    if (own.begin < own.end)
        PUSH(u, accumulate, "parts", .x = tensor_slice(sum, 0, 0, own.end - own.begin),
             .y = graph_own_grad(u, p, input));
    u->b.lane = WEFT_LANE_COMPUTE;
}

static void ready(void *user, plan_builder *b) {
    graph_builder *u = user;
    (void)b;
    for (int i = 0; i < u->nhanded; i++)
        sum_part(u, u->handed[i].p, u->handed[i].input, u->handed[i].whole);
    u->nhanded = 0;
    graph_sum_ready(u);
}

static bool wanted(void *user, plan_builder *b, uint32_t id, weft_tensor *grad) {
    graph_builder *u = user;
    (void)b;
    const param *p = param_of(u, id);
    if (!p || !p->trained)
        return false;
    if (!grad)
        return true;
    *grad = u->g->params->share_grads ? hand_out(u, p, u->input[id])
                                      : graph_grad(u, p, u->input[id]);
    graph_sum_given(u, p, u->input[id]);
    return true;
}

/* Kv heads are as many as slices, or several slices have the same one. */
static int copies(void *user, uint32_t id) {
    const graph_builder *u = user;
    const param *p = param_of(u, id);
    int slot = p ? p->slot : -1, tp = u->g->mesh->size.tp;
    bool kv = slot == WEIGHT_K || slot == WEIGHT_V || slot == WEIGHT_K_NORM;
    return kv && tp > u->g->c->n_kv_heads ? tp / (int)u->g->c->n_kv_heads : 1;
}

static weft_tensor adapter_matrix(graph_builder *u, const param *p) {
    weft_tensor t = plan_weight(&u->b, p->name, p->w);
    seen(u, t.id, p->slot, p->layer);
    u->of[t.id] = (int)(p - u->g->params->param);
    return t;
}

static bool adapter(void *user, plan_builder *b, int slot, int layer, decoder_adapter *out) {
    graph_builder *u = user;
    const param *p = params_find(u->g->params, PARAM_LORA_A, slot, layer);
    (void)b;
    if (!p)
        return false;
    out->a = adapter_matrix(u, p);
    out->b = adapter_matrix(u, p + 1);
    out->scale = (float)(u->g->o->lora_alpha / u->g->o->lora_rank);
    return true;
}

weft_tensor graph_fixed(graph_builder *u, const decoder_place *p) {
    return plan_fixed(&u->b, p->space, p->name, p->off, p->layout);
}

void graph_begin(graph_builder *u, graph *g, int chunk, int level) {
    *u = (graph_builder){.g = g, .chunk = chunk, .level = level};
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

weft_status graph_end(graph_builder *u, weft_plan **out) {
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
    graph_builder *u;
    weft_tensor x, dx, w, dw; /* absent dx, dw: not wanted */
    bool backward;
} loss_head;

/* Ranks that have other rows of the vocabulary. */
static int vocab_ranks(const graph *g) {
    return g->mesh->whole_vocab ? 1 : g->mesh->size.tp;
}

/* f32 [rows, V]: ranks of tp compute a part of the vocabulary each, all read them whole. */
static weft_tensor push_logits(graph_builder *u, weft_tensor x, weft_tensor w) {
    int64_t tp = vocab_ranks(u->g), rows = x.shape[0], n = w.shape[0];
    weft_tensor part = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){rows, n}), all;
    PUSH(u, matmul, "head", .x = x, .w = w, .y = part, .leaves = 1);
    if (tp == 1)
        return part;
    all = plan_new(&u->b, WEFT_F32, 2, (int64_t[]){rows, n * tp});
    PUSH(u, all_gather, "head", .x = part, .y = all, .axis = 1);
    return all;
}

static void push_head_dx(graph_builder *u, weft_tensor dlogits, weft_tensor w, weft_tensor dx) {
    int64_t tp = vocab_ranks(u->g);
    int leaves = shard_leaves(w.shape[0] * tp) / (int)tp;
    if (tp == 1) {
        PUSH(u, matmul_dx, "head'", .dy = dlogits, .w = w, .dx = dx, .leaves = leaves);
        return;
    }
    weft_tensor part = plan_new(&u->b, WEFT_F32, 2, dx.shape);
    PUSH(u, matmul_dx, "head'", .dy = dlogits, .w = w, .dx = part, .leaves = leaves);
    rank_sum_push(&u->b, &(rank_sum){.part = part,
                                     .y = dx,
                                     .ranks = (int)tp,
                                     .rank = u->g->mesh->place.tp,
                                     .in_halves = true,
                                     .tag = "head'"});
}

/* This rank's columns. */
static weft_tensor own_logits(const graph_builder *u, weft_tensor t, int64_t n) {
    int64_t first = vocab_ranks(u->g) > 1 ? u->g->mesh->place.tp * n : 0;
    return weft_has(&t) ? tensor_slice(t, 1, first, first + n) : t;
}

static void loss_chunk(const loss_head *h, int64_t begin, int64_t end, int shards, weft_tensor dw) {
    graph_builder *u = h->u;
    const graph *g = u->g;
    weft_tensor x = tensor_slice(h->x, 0, begin, end), dlogits = {0};
    weft_tensor loss = graph_fixed(u, &g->train.loss), nll = graph_fixed(u, &g->train.nll);
    weft_tensor target = graph_fixed(u, &g->train.target), logits = push_logits(u, x, h->w);
    if (h->backward)
        dlogits = plan_new(&u->b, g->dtype, 2, logits.shape);
    PUSH(u, cross_entropy, "loss", .x = logits, .target = tensor_slice(target, 0, begin, end),
         .scale = graph_fixed(u, &g->train.scale), .loss = tensor_slice(loss, 0, begin, end),
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

static weft_tensor head_weight(graph_builder *u) {
    weft_tensor w = weights_get(u->g->w, WEIGHT_HEAD, -1);
    w = plan_weight(&u->b, weights_slot_name(WEIGHT_HEAD), w);
    w = fetch(u, &u->b, w, WEIGHT_HEAD, -1);
    seen(u, w.id, WEIGHT_HEAD, -1);
    return w;
}

static decoder decoder_of(const graph *g, int chunk) {
    int pp = g->mesh->size.pp, at = g->mesh->place.pp;
    return (decoder){.config = g->c,
                     .w = g->w,
                     .io = &g->io,
                     .dtype = g->dtype,
                     .part = mesh_chunk_part(g->mesh, chunk),
                     .before = (at + pp - 1) % pp,
                     .next = (at + 1) % pp,
                     .train = &g->training};
}

static backward_options backward_of(graph_builder *u) {
    const graph *g = u->g;
    return (backward_options){.user = u,
                              .wanted = wanted,
                              .ready = ready,
                              .fetch = g->params->share_weight ? fetch_again : NULL,
                              .recompute = g->o->recompute,
                              .tp = g->mesh->size.tp,
                              .slice = g->mesh->place.tp,
                              .sequence_parallel = g->shape.sequence_parallel,
                              .copies = copies,
                              .shards = g->shape.unit_shards,
                              .order = graph_fixed(u, &g->train.order),
                              .by_place = graph_fixed(u, &g->train.by_place)};
}

/* Of a value of every token those that are this rank's between matrices. */
static weft_tensor own_tokens(const graph *g, weft_tensor t) {
    int64_t each = g->shape.tokens / g->mesh->size.tp, first = g->mesh->place.tp * each;
    return g->shape.sequence_parallel && weft_has(&t) ? tensor_slice(t, 0, first, first + each) : t;
}

/* Head, loss and what both leave for backward; absent where nothing wants it. */
static weft_tensor push_loss(graph_builder *u, const backward *bw, weft_tensor x) {
    loss_head h = {.u = u, .x = x, .w = head_weight(u), .backward = true};
    wanted(u, &u->b, h.w.id, &h.dw);
    if (backward_reaches(bw, &x))
        h.dx = plan_new(&u->b, x.dtype, 2, x.shape);
    loss_all(&h);
    ready(u, &u->b);
    return own_tokens(u->g, h.dx);
}

static weft_tensor push_exchange(graph_builder *u, weft_tensor x, int next) {
    weft_tensor dx = plan_new(&u->b, x.dtype, 2, x.shape);
    PUSH(u, send, "stage", .x = x, .peer = next, .group = WEFT_GROUP_PP);
    PUSH(u, recv, "stage'", .y = dx, .peer = next, .group = WEFT_GROUP_PP);
    return dx;
}

/* The steps [begin, end) as a plan of their own. */
static weft_plan *part_of(const graph *g, const weft_plan *whole, int begin, int end) {
    weft_plan *p = ARENA_NEW(g->mem, weft_plan, 1);
    *p = *whole;
    p->step += begin;
    p->nstep = end - begin;
    return p;
}

/* Cut where stages meet: `forward` is the first step behind the forward's own. */
static void cut_parts(const graph *g, int stage, int forward, graph_micro *m) {
    int first = stage > 0, last = m->whole->nstep - first;
    int given = stage < mesh_stages(g->mesh) - 1;
    const int cuts[PIPE_KINDS + 1] = {
        0, first, forward, forward + given, forward + 2 * given, last, m->whole->nstep};
    for (int k = 0; k < PIPE_KINDS; k++)
        m->part[k] = part_of(g, m->whole, cuts[k], cuts[k + 1]);
}

weft_status graph_build_micro(graph *g, int chunk, int level, bool last, graph_micro *out) {
    graph_builder u;
    int stage = mesh_stage(g->mesh, chunk), forward;
    graph_begin(&u, g, chunk, level);
    if (last)
        graph_sum_begin(&u);
    decoder d = decoder_of(g, chunk);
    weft_tensor x = decoder_hidden(&d, &u.b), dx;
    backward_options bo = backward_of(&u);
    backward *bw = backward_begin(&u.b, &bo);
    forward = u.b.plan->nstep;
    dx = stage == mesh_stages(g->mesh) - 1 ? push_loss(&u, bw, x) : push_exchange(&u, x, d.next);
    if (weft_has(&dx))
        backward_push(bw, x, dx);
    graph_sum_end(&u);
    WEFT_TRY(graph_end(&u, &out->whole));
    cut_parts(g, stage, forward, out);
    return WEFT_OK;
}

/* A stage before the last only passes on what it computes. */
weft_status graph_build_validate(graph *g, int chunk, weft_plan **out) {
    graph_builder u;
    float dropout = g->training.dropout;
    graph_begin(&u, g, chunk, 0);
    g->training.dropout = 0;
    decoder d = decoder_of(g, chunk);
    loss_head h = {.u = &u, .x = decoder_hidden(&d, &u.b)};
    if (mesh_stage(g->mesh, chunk) == mesh_stages(g->mesh) - 1) {
        h.w = head_weight(&u);
        loss_all(&h);
    } else {
        PUSH(&u, send, "stage", .x = h.x, .peer = d.next, .group = WEFT_GROUP_PP);
    }
    g->training.dropout = dropout;
    return graph_end(&u, out);
}
