/* SPDX-License-Identifier: Apache-2.0
 * Opening a trainer: config, weights, plans, memory. */
#include "host/train/trainer.h"
#include "host/base/err.h"
#include "host/base/thread.h"
#include <math.h>
#include <string.h>

enum { CONFIG_BYTES = 16 << 20, DEFAULT_TOKENS = 1024 };

/* ---- Config and weights ---- */

const char *trainer_folder(const train_options *o, arena *a) {
    if (o->tokenizer)
        return o->tokenizer;
    if (file_is_dir(o->model))
        return o->model;
    const char *slash = strrchr(o->model, '/');
    return slash ? arena_copy(a, o->model, (size_t)(slash - o->model)) : ".";
}

int trainer_default_tokens(const model_config *c) {
    return (int)(c->max_ctx < DEFAULT_TOKENS ? c->max_ctx : DEFAULT_TOKENS);
}

weft_status trainer_config(const train_options *o, arena *a, model_config *out, const char **text,
                           size_t *n) {
    bool folder = file_is_dir(o->model);
    const char *path = folder ? file_join(a, o->model, "config.json") : o->model, *has;
    size_t bytes;
    WEFT_TRY(file_read(path, CONFIG_BYTES, a, &has, &bytes));
    if (text) {
        *text = has;
        *n = bytes;
    }
    if (!o->from_scratch && !folder)
        return weft_fail(WEFT_USAGE,
                         "%s: is a file; give a model folder, or --from-scratch to "
                         "begin with random weights",
                         o->model);
    if (!o->from_scratch)
        return config_read(o->model, a, out);
    return config_parse(path, has, bytes, NULL, 0, a, out);
}

static weft_status choose_dtype(trainer *t) {
    int dtype;
    if (!t->o.from_scratch && (!t->dry || t->config.dtype < 0))
        WEFT_TRY(safetensors_open(t->o.model, &t->st));
    WEFT_TRY(weights_dtype(&t->config, t->st.ntensor ? &t->st : NULL, t->o.dtype, &dtype));
    bool int8 = t->o.dtype && strcmp(t->o.dtype, "int8") == 0;
    if (t->o.lora_rank == 0 && (t->config.quant.weights || int8))
        return weft_fail(WEFT_USAGE, "--dtype: int8 weights cannot be trained; train an adapter "
                                     "over them with --lora-r");
    if (dtype == WEFT_F16)
        return weft_fail(WEFT_UNSUPPORTED, "--dtype: fp16 has too small a range for gradients "
                                           "without loss scaling; use bf16 or fp32");
    if (t->config.quant.activations)
        return weft_fail(WEFT_UNSUPPORTED, "config.json: int8 activations have no gradient; use a "
                                           "model with int8 weights alone");
    if (int8 && !t->config.quant.weights)
        t->config.quant = (quant_config){.weights = true, .on_load = true};
    t->g.dtype = dtype;
    return WEFT_OK;
}

/* This rank's slices, or, where ranks of dp keep a part each, its rows of them. */
static shard_part part_of(const trainer *t, bool shared) {
    shard_part part = mesh_own_part(&t->mesh);
    part.keepers = shared ? t->params.ranks : 1;
    part.keeper = shared ? t->params.rank : 0;
    return part;
}

/* Whether w is made from the fp32 numbers by a plan, and begins as nothing. */
static bool begins_blank(const trainer *t) {
    return t->o.from_scratch || !t->params.share_master;
}

static weft_status open_weights(trainer *t) {
    const model_config *c = &t->config;
    bool lora = t->o.lora_rank > 0, copies = !lora && t->g.dtype != WEFT_F32;
    shard_part part = part_of(t, t->params.share_weight), own = part_of(t, t->params.share_master);
    if (t->dry) {
        if (copies)
            WEFT_TRY(weights_describe(c, WEFT_F32, &own, &t->master));
        return weights_describe(c, t->g.dtype, &part, &t->w);
    }
    if (lora)
        return t->o.from_scratch
                   ? weft_fail(WEFT_USAGE, "--lora-r: an adapter of random weights is of no use; "
                                           "leave out --from-scratch")
                   : weights_open(c, &t->st, t->dev, t->g.dtype, &part, false, &t->w);
    if (copies)
        WEFT_TRY(begins_blank(t) ? weights_blank(c, t->dev, t->g.dtype, &part, &t->w)
                                 : weights_open(c, &t->st, t->dev, t->g.dtype, &part, true, &t->w));
    weights *fp32 = copies ? &t->master : &t->w;
    return t->o.from_scratch ? weights_blank(c, t->dev, WEFT_F32, &own, fp32)
                             : weights_open(c, &t->st, t->dev, WEFT_F32, &own, true, fp32);
}

/* ---- Parameters ---- */

static uint64_t matrix_bytes(const param *p, int dtype) {
    return ((uint64_t)weft_dtype_bytes(dtype, param_count(p)) + 63) / 64 * 64;
}

static void bind_adapter(trainer *t, param *p, uint64_t *at) {
    p->p = param_layout(p);
    p->p.data = t->dry ? NULL : (char *)t->adapters + *at;
    *at += matrix_bytes(p, WEFT_F32);
    p->w = p->p;
    if (t->g.dtype == WEFT_F32)
        return;
    p->w.dtype = (uint8_t)t->g.dtype;
    p->w.data = t->dry ? NULL : (char *)t->adapters + *at;
    *at += matrix_bytes(p, t->g.dtype);
}

static uint64_t adapter_bytes(const trainer *t) {
    uint64_t n = 0;
    for (int i = 0; i < t->params.n; i++) {
        const param *p = &t->params.param[i];
        if (p->kind != PARAM_WEIGHT && p->here)
            n += matrix_bytes(p, WEFT_F32) +
                 (t->g.dtype == WEFT_F32 ? 0 : matrix_bytes(p, t->g.dtype));
    }
    return n;
}

static weft_status bind_params(trainer *t) {
    uint64_t at = 0;
    t->adapter_bytes = adapter_bytes(t);
    if (t->adapter_bytes && !t->dry)
        WEFT_TRY(t->dev->alloc(t->dev, t->adapter_bytes, "adapters", &t->adapters));
    for (int i = 0; i < t->params.n; i++) {
        param *p = &t->params.param[i];
        if (!p->here)
            continue;
        if (p->kind != PARAM_WEIGHT) {
            bind_adapter(t, p, &at);
            continue;
        }
        p->w = weights_get(&t->w, p->slot, p->layer);
        p->p = t->master.tensor ? weights_get(&t->master, p->slot, p->layer) : p->w;
    }
    return WEFT_OK;
}

static weft_status start_with(trainer *t, weft_stream *pool) {
    for (int i = 0; i < t->params.n; i++) {
        const param *p = &t->params.param[i];
        if ((p->kind == PARAM_WEIGHT && !t->o.from_scratch) || !p->here)
            continue;
        float *x = mem_alloc(sizeof(float) * (size_t)param_count(p));
        param_start(&t->params, i, t->o.seed, t->o.init_std, pool, x);
        weft_status s = trainer_write(t, i, 'p', x);
        mem_free(x);
        WEFT_TRY(s);
    }
    return trainer_refresh(t);
}

static weft_status start_params(trainer *t) {
    weft_stream *pool;
    WEFT_TRY(thread_pool_open(thread_cores(), &pool));
    weft_status s = start_with(t, pool);
    thread_pool_close(pool);
    return s;
}

/* ---- Memory ---- */

static void set_frequencies(trainer *t) {
    const model_config *c = &t->config;
    if (c->position == POSITION_ROPE)
        t->freq = rope_split_frequencies(&c->rope, c->max_ctx, &t->mem, &t->g.io.mscale);
}

static weft_status send_frequencies(trainer *t) {
    if (!t->freq)
        return WEFT_OK;
    return t->dev->copy(t->dev, t->stream, (char *)t->base[WEFT_SPACE_STATE] + t->g.io.freq.off,
                        t->freq, sizeof(float) * (uint64_t)t->config.rope.dims, DEVICE_TO);
}

static const char *space_words(int space) {
    static const char *const words[WEFT_SPACES] = {
        [WEFT_SPACE_FEED] = "feed",      [WEFT_SPACE_ACT] = "activations",
        [WEFT_SPACE_OUT] = "results",    [WEFT_SPACE_STATE] = "optimizer state",
        [WEFT_SPACE_GRAD] = "gradients", [WEFT_SPACE_SCRATCH] = "scratch"};
    return words[space];
}

static weft_status take_host_memory(trainer *t) {
    void *p = NULL;
    int64_t n = (int64_t)t->o.batch * t->g.shape.row_tokens;
    WEFT_TRY(t->dev->host_alloc(t->dev, t->g.bytes[WEFT_SPACE_FEED], "feed", &p));
    t->feed = p;
    WEFT_TRY(t->dev->host_alloc(t->dev, t->g.bytes[WEFT_SPACE_OUT], "results", &p));
    t->out = p;
    t->rows = (train_rows){.ids = ARENA_NEW(&t->mem, int32_t, n),
                           .labels = ARENA_NEW(&t->mem, int32_t, n),
                           .pos = ARENA_NEW(&t->mem, int32_t, n),
                           .len = ARENA_NEW(&t->mem, int32_t, t->o.batch)};
    t->shard_loss = ARENA_NEW(&t->mem, double, t->g.shape.shards);
    if (t->link)
        t->all_losses = ARENA_NEW(&t->mem, double, t->g.shape.shards * t->g.shape.ranks);
    const shard_mesh *m = &t->mesh.size;
    int others = m->tp > m->dp ? m->tp : m->dp;
    others = m->pp > others ? m->pp : others;
    if (trainer_spread(t))
        t->all_squares = ARENA_NEW(&t->mem, float, t->g.nsquares *others);
    t->row_nll = ARENA_NEW(&t->mem, double, t->o.batch);
    return WEFT_OK;
}

/* Activations and feed are those of a slot. */
static weft_status bind_at(trainer *t, weft_plan *p, int slot) {
    void *base[WEFT_SPACES];
    memcpy(base, t->base, sizeof base);
    base[WEFT_SPACE_ACT] = (char *)base[WEFT_SPACE_ACT] + (uint64_t)slot * t->g.slot_bytes;
    base[WEFT_SPACE_FEED] = (char *)base[WEFT_SPACE_FEED] +
                            (uint64_t)slot * t->g.bytes[WEFT_SPACE_FEED];
    return p ? plan_bind(p, base, t->end, &t->mem) : WEFT_OK;
}

static weft_status bind_chunk(trainer *t, int chunk) {
    for (int i = 0; i < t->g.nmicro[chunk]; i++) {
        const graph_micro *m = &t->g.micro[chunk][i];
        WEFT_TRY(bind_at(t, m->whole, t->g.slot[chunk] + m->slot));
    }
    for (int i = 0; i < t->g.shape.levels; i++)
        WEFT_TRY(bind_at(t, t->g.fold[chunk][i], 0));
    return bind_at(t, t->g.validate[chunk], 0);
}

static weft_status bind_plans(trainer *t) {
    for (int c = 0; c < t->mesh.chunks; c++)
        WEFT_TRY(bind_chunk(t, c));
    WEFT_TRY(bind_at(t, t->g.finish, 0));
    WEFT_TRY(bind_at(t, t->g.update, 0));
    return bind_at(t, t->g.refresh, 0);
}

/* Every slot has a feed. */
static uint64_t space_bytes(const trainer *t, int space) {
    return t->g.bytes[space] * (space == WEFT_SPACE_FEED ? (uint64_t)t->g.nslots : 1);
}

static weft_status take_memory(trainer *t) {
    for (int s = 0; s < WEFT_SPACES; s++)
        if (space_words(s) && t->g.bytes[s])
            WEFT_TRY(t->dev->alloc(t->dev, space_bytes(t, s), space_words(s), &t->base[s]));
    WEFT_TRY(take_host_memory(t));
    WEFT_TRY(
        t->dev->zero(t->dev, t->stream, t->base[WEFT_SPACE_STATE], t->g.bytes[WEFT_SPACE_STATE]));
    WEFT_TRY(t->dev->zero(t->dev, t->stream, t->base[WEFT_SPACE_OUT], t->g.bytes[WEFT_SPACE_OUT]));
    WEFT_TRY(send_frequencies(t));
    return bind_plans(t);
}

/* ---- Open and close ---- */

static weft_status check_length(const trainer *t, int row_tokens) {
    if (row_tokens <= t->config.max_ctx)
        return WEFT_OK;
    return weft_fail(WEFT_USAGE, "--seq-len: %d is more than the model's context (%lld)",
                     row_tokens, (long long)t->config.max_ctx);
}

/* Where exchanges are a stream's they need not hold up the computation (WEFT_OVERLAP=0: they do).
 */
static weft_status open_side(trainer *t, int threads) {
    if (t->mesh.size.dp == 1 || !comm_on_stream(t->link) || !t->dev->mark || t->dev->stepwise ||
        !device_switch("WEFT_OVERLAP", true))
        return WEFT_OK;
    WEFT_TRY(t->dev->stream_open(t->dev, threads, &t->side));
    return comm_side(t->link, t->side);
}

static weft_status open_trainer(trainer *t, int row_tokens) {
    const train_options *o = &t->o;
    t->dev = t->dry ? NULL : o->shared;
    if (!t->dev)
        WEFT_TRY((t->dry ? device_open_dry : device_open)(o->device, o->cpu_level, &t->dev));
    WEFT_TRY(trainer_config(o, &t->mem, &t->config, &t->config_text, &t->config_bytes));
    WEFT_TRY(choose_dtype(t));
    WEFT_TRY(check_length(t, row_tokens));
    WEFT_TRY(mesh_open(o, &t->config, &t->mem, &t->mesh));
    WEFT_TRY(graph_shape_of(o, &t->mesh, t->dev, &t->config, row_tokens, &t->g.shape));
    WEFT_TRY(params_describe(&t->config, t->st.ntensor ? &t->st : NULL, o, &t->mesh, t->g.dtype,
                             &t->mem, &t->params));
    WEFT_TRY(open_weights(t));
    WEFT_TRY(bind_params(t));
    t->g.c = &t->config;
    t->g.o = o;
    t->g.dev = t->dev;
    t->g.mem = &t->mem;
    t->g.mesh = &t->mesh;
    t->g.params = &t->params;
    t->g.w = &t->w;
    set_frequencies(t);
    WEFT_TRY(graph_build(&t->g));
    if (t->dry)
        return WEFT_OK;
    int threads = o->threads ? o->threads : thread_cores();
    WEFT_TRY(t->dev->stream_open(t->dev, threads, &t->stream));
    WEFT_TRY(open_side(t, threads));
    WEFT_TRY(take_memory(t));
    return start_params(t);
}

void trainer_join(trainer *t, const train_options *o, comm_link *link) {
    shard_mesh size = mesh_size(o);
    t->link = link;
    if (link)
        comm_join(link, &size, 0, t->end);
}

uint64_t trainer_sent(const trainer *t) {
    uint64_t n = 0;
    for (int g = 0; g < WEFT_GROUPS; g++)
        n += t->end[g].sent;
    return n;
}

weft_status trainer_open(const train_options *o, int row_tokens, bool dry, comm_link *link,
                         trainer *out) {
    *out = (trainer){.o = *o, .dry = dry};
    trainer_join(out, o, link);
    weft_status s = open_trainer(out, row_tokens);
    if (s != WEFT_OK)
        trainer_close(out);
    return s;
}

static void forget(trainer *t, weft_plan *p) {
    if (p && t->dev)
        sched_forget(t->dev, p);
}

static void forget_chunk(trainer *t, int chunk) {
    const graph *g = &t->g;
    for (int i = 0; i < g->nmicro[chunk]; i++)
        for (int k = 0; k < PIPE_KINDS; k++)
            forget(t, g->micro[chunk][i].part[k]);
    for (int i = 0; i < GRAPH_MAX_LEVELS; i++)
        forget(t, g->fold[chunk][i]);
    forget(t, g->validate[chunk]);
}

static void forget_plans(trainer *t) {
    for (int c = 0; c < PIPE_MAX_CHUNKS; c++)
        forget_chunk(t, c);
    forget(t, t->g.finish);
    forget(t, t->g.update);
    forget(t, t->g.refresh);
}

void trainer_close(trainer *t) {
    forget_plans(t);
    for (int s = 0; s < WEFT_SPACES; s++)
        if (t->base[s])
            t->dev->release(t->dev, t->base[s], space_bytes(t, s));
    if (t->adapters)
        t->dev->release(t->dev, t->adapters, t->adapter_bytes);
    if (t->feed)
        t->dev->host_release(t->dev, t->feed);
    if (t->out)
        t->dev->host_release(t->dev, t->out);
    if (t->side) {
        comm_side(t->link, NULL);
        t->dev->stream_close(t->dev, t->side);
    }
    if (t->stream)
        t->dev->stream_close(t->dev, t->stream);
    weights_close(&t->master);
    weights_close(&t->w);
    safetensors_close(&t->st);
    if (t->dev != t->o.shared)
        device_close(t->dev);
    arena_fini(&t->mem);
    *t = (trainer){.dry = false};
}

/* What open_weights takes, or, dry, would take. Views into mapped files are no memory of ours, but
 * are what has to be resident. */
static uint64_t weights_taken(const trainer *t, const weights *w) {
    bool copies = t->master.tensor != NULL;
    bool blank = w == &t->w && copies ? begins_blank(t) : t->o.from_scratch;
    return blank && w->tensor ? weights_blank_bytes(w) : w->bytes;
}

train_memory trainer_memory(const trainer *t) {
    const uint64_t *b = t->g.bytes;
    return (train_memory){.weights = weights_taken(t, &t->w),
                          .master = weights_taken(t, &t->master),
                          .adapters = t->adapter_bytes,
                          .gradients = b[WEFT_SPACE_GRAD],
                          .moments = b[WEFT_SPACE_STATE],
                          .activations = b[WEFT_SPACE_ACT],
                          .scratch = b[WEFT_SPACE_SCRATCH],
                          .feed = space_bytes(t, WEFT_SPACE_FEED),
                          .results = b[WEFT_SPACE_OUT]};
}
