/* SPDX-License-Identifier: Apache-2.0
 * Building a training run's plans. */
#include "host/base/err.h"
#include "host/model/engine.h"
#include "host/run/comm.h"
#include "host/train/graph_build.h"
#include <string.h>

enum { ALIGN = 64, GRANULE = 16, CHUNK_NUMBERS = 16 << 20, CHUNK_LEAST = 64, ROUNDS = 4 };

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

/* By default all rows at once, or, in a pipeline, so many times that stages seldom wait. */
static int micro_rows(const train_options *o, const train_mesh *mesh, int shard_rows) {
    int rows = o->batch / mesh->size.dp / (ROUNDS * mesh->size.pp);
    if (o->micro_batch || mesh->size.pp == 1)
        return o->micro_batch ? o->micro_batch : o->batch;
    return o->zero > 1 && rows < shard_rows ? shard_rows : rows < 1 ? 1 : rows;
}

weft_status graph_shape_of(const train_options *o, const train_mesh *mesh, const device *dev,
                           const model_config *c, int row_tokens, graph_shape *out) {
    graph_shape s = {.shards = o->shards ? o->shards : most_shards(o->batch)};
    WEFT_TRY(check_shards(o, s.shards));
    WEFT_TRY(check_ranks(o, s.shards));
    s.ranks = mesh->size.dp;
    s.rank = mesh->place.dp;
    int shard_rows = o->batch / s.shards, micro = micro_rows(o, mesh, shard_rows);
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
    s.unit_micros = (s.unit_rows + s.rows - 1) / s.rows;
    s.micros = s.units * s.unit_micros;
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
    int tp = mesh->size.tp;
    s.sequence_parallel = tp > 1 && s.tokens % tp == 0 && c->d_model % tp == 0;
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

static void place_rest(graph *g) {
    const train_options *o = g->o;
    int64_t T = g->shape.tokens;
    for (int i = 0; i < g->params->n; i++)
        g->nsquares += graph_squares_of(&g->params->param[i]);
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

/* ---- All plans ---- */

static graph_micro *micro_at(const graph *g, int chunk, int level, int slot) {
    return &g->micro[chunk][level * g->pipe.slots[chunk] + slot];
}

static bool sums_at_last(const graph *g) {
    return g->shape.ranks > 1 && !g->params->share_grads;
}

bool graph_is_last(const graph *g, int micro) {
    return sums_at_last(g) && micro == g->shape.micros - 1;
}

graph_micro *graph_micro_at(const graph *g, int chunk, int level, int micro) {
    if (graph_is_last(g, micro))
        return &g->micro[chunk][g->nmicro[chunk] - 1];
    return micro_at(g, chunk, level, micro % g->pipe.slots[chunk]);
}

static weft_status build_micro(graph *g, int chunk, int level, int slot, bool last) {
    graph_micro *m = &g->micro[chunk][g->nmicro[chunk]++];
    m->slot = slot;
    return graph_build_micro(g, chunk, level, last, m);
}

/* A plan has one place for its activations: every slot has plans of its own. */
static weft_status build_chunk(graph *g, int chunk) {
    int slots = g->pipe.slots[chunk], levels = g->shape.levels;
    g->micro[chunk] = ARENA_NEW(g->mem, graph_micro, (int64_t)slots * levels + 1);
    for (int i = 0; i < levels; i++)
        for (int slot = 0; slot < slots; slot++)
            WEFT_TRY(build_micro(g, chunk, i, slot, false));
    if (sums_at_last(g))
        WEFT_TRY(build_micro(g, chunk, levels - 1, (g->shape.micros - 1) % slots, true));
    for (int i = 1; i < levels; i++)
        WEFT_TRY(graph_build_fold(g, chunk, i, &g->fold[chunk][i]));
    return WEFT_OK;
}

static weft_status build_pipeline(graph *g) {
    const train_mesh *m = g->mesh;
    int n = g->shape.micros;
    if (m->chunks > 1 && n % m->size.pp)
        return weft_fail(WEFT_USAGE,
                         "--interleave: %d micro-batches for a rank of --dp do not come in rounds "
                         "of --pp %d; see --micro-batch",
                         n, m->size.pp);
    pipeline_build(m->size.pp, m->chunks, n, m->place.pp, g->mem, &g->pipe);
    for (int c = 0; c < m->chunks; c++)
        WEFT_TRY(build_chunk(g, c));
    for (int c = 0, slot = 0; c < m->chunks; c++) {
        g->slot[c] = slot;
        slot += g->pipe.slots[c];
        g->nslots = slot;
    }
    g->slot_bytes = g->bytes[WEFT_SPACE_ACT];
    return WEFT_OK;
}

weft_status graph_build(graph *g) {
    g->training.dropout = (float)g->o->dropout;
    g->training.sequence_parallel = g->shape.sequence_parallel;
    place_feed(g);
    place_rest(g);
    WEFT_TRY(build_pipeline(g));
    for (int c = 0; c < g->mesh->chunks; c++)
        WEFT_TRY(graph_build_validate(g, c, &g->validate[c]));
    WEFT_TRY(graph_build_finish(g, &g->finish));
    WEFT_TRY(graph_build_update(g, &g->update));
    if (g->dtype != WEFT_F32)
        WEFT_TRY(graph_build_refresh(g, &g->refresh));
    uint64_t *act = &g->bytes[WEFT_SPACE_ACT], all = g->slot_bytes * (uint64_t)g->nslots;
    *act = *act > all ? *act : all;
    return WEFT_OK;
}

/* An attention step's cost knows the micro-batch alone; a query sees its own row at most. */
static int64_t step_flops(const graph *g, const weft_step *s) {
    const weft_attention_args *a = &s->args.attention;
    const weft_attention_dx_args *d = &s->args.attention_dx;
    bool forward = s->kernel->op == WEFT_OP_attention;
    if (!forward && s->kernel->op != WEFT_OP_attention_dx)
        return s->flops;
    int64_t keys = forward ? a->k.shape[0] : d->k.shape[0], row = keys / g->shape.rows;
    int64_t window = forward ? a->window : d->window;
    int64_t counted = window > 0 && window < keys ? window : keys;
    return s->flops / counted * (counted < row ? counted : row);
}

int64_t graph_flops(const graph *g) {
    int64_t n = 0;
    for (int c = 0; c < g->mesh->chunks; c++) {
        const weft_plan *p = g->micro[c]->whole;
        for (int i = 0; i < p->nstep; i++)
            n += step_flops(g, &p->step[i]);
    }
    return n * g->shape.micros;
}

static void add_traffic(graph_traffic *to, const weft_plan *p, int64_t times) {
    plan_cost c = plan_total(p);
    to->all += c.sent * times;
    to->beside += c.beside * times;
    to->behind += c.behind * times;
}

/* Losses are the last stage's; squares meet wherever ranks have other parts of the gradient. */
graph_traffic graph_sent(const graph *g) {
    const shard_mesh *m = &g->mesh->size;
    bool last = g->mesh->place.pp == m->pp - 1;
    int64_t losses = (int64_t)sizeof(double) * g->shape.shards;
    int64_t squares = (int64_t)sizeof(float) * g->nsquares;
    int64_t meets = m->tp - 1 + m->pp - 1 + (g->params->share_grads ? m->dp - 1 : 0);
    graph_traffic t = {.all = (last ? losses * (m->dp - 1 + m->pp - 1) : 0) + squares * meets};
    for (int c = 0; c < g->mesh->chunks; c++) {
        add_traffic(&t, g->micro[c]->whole, g->shape.micros - 1);
        add_traffic(&t, graph_micro_at(g, c, 0, g->shape.micros - 1)->whole, 1);
    }
    add_traffic(&t, g->finish, 1);
    add_traffic(&t, g->update, 1);
    return t;
}
