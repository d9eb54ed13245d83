/* SPDX-License-Identifier: Apache-2.0
 * The list of parameters and what they begin with. */
#include "host/train/params.h"
#include "host/base/err.h"
#include "weft/math.h"
#include "weft/rng.h"
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 64, BUFFER = PARAMS_ROW * 4 };

static bool is_embedding(int slot) {
    return slot == WEIGHT_EMBED || slot == WEIGHT_POSITION;
}

static bool is_frozen(const train_options *o, const char *name) {
    for (int i = 0; i < o->n_freeze; i++)
        if (fnmatch(o->freeze[i], name, 0) == 0)
            return true;
    return false;
}

/* "q_proj" of "model.layers.0.self_attn.q_proj.weight". */
static bool is_target(const train_options *o, const weight_stored *t) {
    int n;
    const char *const *target = options_lora_targets(o, &n);
    char module[WEIGHT_NAME_BYTES];
    for (int i = 0; i < n; i++) {
        snprintf(module, sizeof module, "*.%s.weight", target[i]);
        if (t->layer >= 0 && t->ndim == 2 && fnmatch(module, t->name, 0) == 0)
            return true;
    }
    return false;
}

static void add(params *p, param x) {
    p->param[p->n++] = x;
    p->count += param_count(&x);
}

static void add_weights(params *p, const train_options *o, const weights *shapes) {
    for (int i = 0; i < p->nstored; i++) {
        const weight_stored *t = &p->stored[i];
        for (int part = 0; part < t->parts; part++) {
            weft_tensor w = weights_get(shapes, t->slot[part], t->layer);
            add(p, (param){.slot = t->slot[part],
                           .layer = t->layer,
                           .stored = i,
                           .part = part,
                           .name = t->name,
                           .rows = w.shape[0],
                           .cols = w.ndim == 2 ? w.shape[1] : 0,
                           .decay = w.ndim == 2 && !is_embedding(t->slot[part]),
                           .trained = o->lora_rank == 0 && !is_frozen(o, t->name)});
        }
    }
}

static void add_adapter(params *p, const train_options *o, int stored, arena *a) {
    const weight_stored *t = &p->stored[stored];
    const param *w = params_find(p, PARAM_WEIGHT, t->slot[0], t->layer);
    int stem = (int)(strlen(t->name) - strlen(".weight"));
    param x = {.kind = PARAM_LORA_A,
               .slot = w->slot,
               .layer = w->layer,
               .stored = stored,
               .rows = o->lora_rank,
               .cols = w->cols,
               .decay = true,
               .trained = true};
    int64_t n = w->rows;
    x.name = arena_printf(a, "base_model.model.%.*s.lora_A.weight", stem, t->name);
    add(p, x);
    x.kind = PARAM_LORA_B;
    x.name = arena_printf(a, "base_model.model.%.*s.lora_B.weight", stem, t->name);
    x.rows = n;
    x.cols = o->lora_rank;
    add(p, x);
}

static weft_status add_adapters(params *p, const train_options *o, arena *a) {
    int before = p->n;
    for (int i = 0; o->lora_rank > 0 && i < p->nstored; i++) {
        if (!is_target(o, &p->stored[i]))
            continue;
        if (p->stored[i].parts > 1)
            return weft_fail(WEFT_UNSUPPORTED,
                             "--lora-targets: \"%s\" holds q, k and v in one; adapters of fused "
                             "tensors are not supported, name others",
                             p->stored[i].name);
        add_adapter(p, o, i, a);
    }
    if (o->lora_rank > 0 && p->n == before)
        return weft_fail(WEFT_USAGE,
                         "--lora-targets: no matrix of the layers ends in %s; `weft "
                         "inspect` lists the names",
                         o->n_lora_target ? o->lora_target[0] : "q_proj or v_proj");
    return WEFT_OK;
}

static weft_status check_patterns(const params *p, const train_options *o) {
    for (int i = 0; i < o->n_freeze; i++) {
        bool fits = false;
        for (int t = 0; t < p->nstored; t++)
            fits |= fnmatch(o->freeze[i], p->stored[t].name, 0) == 0;
        if (!fits)
            return weft_fail(WEFT_USAGE,
                             "--freeze: no tensor is named like \"%s\"; `weft inspect` "
                             "lists the names",
                             o->freeze[i]);
    }
    return WEFT_OK;
}

static int64_t padded(int64_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

int64_t param_first_row(const params *ps, const param *p, int rank) {
    return shard_first_row(p->window.rows, ps->ranks, rank);
}

static int64_t kept_bytes(const params *ps, const param *p) {
    int64_t rows = param_first_row(ps, p, ps->rank + 1) - param_first_row(ps, p, ps->rank);
    return padded(rows * param_layout(p).shape[1] * 4);
}

static int64_t window_bytes(const param *p) {
    return padded(p->window.rows * p->window.cols * 4);
}

/* What a parameter takes of a gradient buffer. */
static int64_t grad_bytes(const params *ps, const param *p) {
    return ps->share_grads ? kept_bytes(ps, p) : window_bytes(p);
}

static int64_t whole_units(int64_t bytes, int64_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

static void begin_bucket(params *ps, int chunk) {
    ps->grad_bytes = whole_units(ps->grad_bytes, (int64_t)ALIGN * ps->mesh->size.dp);
    ps->bucket[ps->nbucket++] = (params_bucket){.begin = ps->grad_bytes, .chunk = chunk};
}

/* Whether backward makes this gradient here: of a tied embedding, the last stage its rows as
 * outputs, the first one those as inputs. */
static bool is_made(const params *ps, const param *p, bool input) {
    int pp = ps->mesh->size.pp, at = ps->mesh->place.pp;
    bool tied = ps->c->tied && p->kind == PARAM_WEIGHT && p->slot == WEIGHT_EMBED;
    return !tied || at == (input ? 0 : pp - 1);
}

/* Room in the bucket begun last. */
static int64_t take_grad(params *ps, const param *p, bool input) {
    params_bucket *b = &ps->bucket[ps->nbucket - 1];
    int64_t off = ps->grad_bytes;
    ps->grad_bytes += grad_bytes(ps, p);
    b->end = whole_units(ps->grad_bytes, (int64_t)ALIGN * ps->mesh->size.dp);
    b->params += is_made(ps, p, input);
    return off;
}

/* Each chunk's gradients are folded apart, as whole rows. */
static void place_chunk(params *ps, int chunk) {
    int64_t whole = (int64_t)BUFFER * ps->mesh->size.dp;
    const param *embed = params_find(ps, PARAM_WEIGHT, WEIGHT_EMBED, -1);
    const param *before = NULL;
    ps->region[chunk].begin = ps->grad_bytes;
    for (int i = 0; i < ps->n; i++) {
        param *p = &ps->param[i];
        if (!p->trained || !p->here || p->chunk != chunk)
            continue;
        if (!before || before->layer != p->layer)
            begin_bucket(ps, chunk);
        before = p;
        p->off = take_grad(ps, p, false);
        p->bucket = ps->nbucket - 1;
    }
    if (ps->c->tied && embed->trained && embed->here && embed->chunk == chunk) {
        begin_bucket(ps, chunk);
        ps->lookups = take_grad(ps, embed, true);
    }
    ps->grad_bytes = whole_units(ps->grad_bytes, whole);
    ps->region[chunk].end = ps->grad_bytes;
}

static void place_all(params *ps) {
    ps->lookups = -1;
    for (int c = 0; c < ps->mesh->chunks; c++)
        place_chunk(ps, c);
    for (int i = 0; i < ps->n; i++) {
        param *p = &ps->param[i];
        ps->trained += p->trained ? param_count(p) : 0;
        if (!p->trained || !p->here)
            continue;
        p->kept = ps->kept;
        ps->kept += kept_bytes(ps, p);
    }
}

/* ---- Windows ---- */

static weight_window as_layout(const param *p, weight_window w) {
    return p->cols ? w : (weight_window){0, 1, w.row, w.rows};
}

/* The window of one slice of one stage, and whether that stage computes with it. */
static bool window_at(const params *ps, const param *p, int tp, int pp, weight_window *out) {
    shard_part part = mesh_part(ps->mesh, tp, pp);
    *out = (weight_window){0, p->cols ? p->rows : 1, 0, p->cols ? p->cols : p->rows};
    if (p->kind != PARAM_WEIGHT)
        return shard_owns(&part, p->layer);
    bool here = weights_window(ps->c, &part, p->slot, p->layer, out);
    *out = as_layout(p, *out);
    return here;
}

/* A tied embedding counts where tokens go in; what several slices hold alike, in the first. */
bool param_counted(const params *ps, const param *p, int tp, int pp, weight_window *out) {
    weight_window other;
    if (!window_at(ps, p, tp, pp, out))
        return false;
    for (int s = 0; s < pp; s++)
        if (window_at(ps, p, tp, s, &other))
            return false;
    for (int t = 0; t < tp; t++)
        if (window_at(ps, p, t, pp, &other) && memcmp(&other, out, sizeof other) == 0)
            return false;
    return true;
}

/* Tokens go in at the first chunk, what is no layer's else belongs to the last. */
static int chunk_of(const params *ps, const param *p) {
    bool first = is_embedding(p->slot) && ps->mesh->place.pp == 0;
    if (p->layer >= 0)
        return mesh_chunk_of(ps->mesh, p->layer);
    return first ? 0 : ps->mesh->chunks - 1;
}

static void set_windows(params *ps) {
    for (int i = 0; i < ps->n; i++) {
        param *p = &ps->param[i];
        const shard_mesh *at = &ps->mesh->place;
        weight_window same;
        p->here = window_at(ps, p, at->tp, at->pp, &p->window);
        p->chunk = p->here ? chunk_of(ps, p) : 0;
        p->counted = param_counted(ps, p, at->tp, at->pp, &same);
    }
}

bool param_shares_master(const params *ps, const param *p) {
    return ps->share_master && p->kind == PARAM_WEIGHT && p->cols;
}

bool param_shares_weight(const params *ps, const param *p) {
    return ps->share_weight && p->kind == PARAM_WEIGHT && p->cols;
}

weft_status params_describe(const model_config *c, const safetensors *st, const train_options *o,
                            const train_mesh *mesh, int dtype, arena *a, params *out) {
    int sharers = o->zero > 0 ? mesh->size.dp : 1;
    params p = {.c = c, .mesh = mesh, .ranks = sharers, .rank = sharers > 1 ? mesh->place.dp : 0};
    p.share_grads = sharers > 1 && o->zero > 1;
    p.share_weight = sharers > 1 && o->zero > 2;
    p.share_master = sharers > 1 && (p.share_weight || dtype != WEFT_F32) && o->lora_rank == 0;
    weights shapes;
    p.nstored = weights_stored(c, st, a, &p.stored);
    p.param = ARENA_NEW(a, param, p.nstored * 5);
    WEFT_TRY(weights_describe(c, WEFT_F32, NULL, &shapes));
    add_weights(&p, o, &shapes);
    weights_close(&shapes);
    WEFT_TRY(check_patterns(&p, o));
    WEFT_TRY(add_adapters(&p, o, a));
    set_windows(&p);
    p.bucket = ARENA_NEW(a, params_bucket, p.n + PIPE_MAX_CHUNKS);
    place_all(&p);
    if (p.trained == 0)
        return weft_fail(WEFT_USAGE, "--freeze: leaves nothing to train");
    *out = p;
    return WEFT_OK;
}

const param *params_find(const params *p, param_kind kind, int slot, int layer) {
    for (int i = 0; i < p->n; i++)
        if (p->param[i].kind == kind && p->param[i].slot == slot && p->param[i].layer == layer)
            return &p->param[i];
    return NULL;
}

weft_tensor param_whole(const param *p) {
    int64_t shape[2] = {p->cols ? p->rows : 1, p->cols ? p->cols : p->rows};
    return weft_tensor_make(WEFT_F32, 2, shape);
}

weft_tensor param_layout(const param *p) {
    return weft_tensor_make(WEFT_F32, 2, (int64_t[]){p->window.rows, p->window.cols});
}

/* ---- Beginnings ---- */

/* Box and Muller, 1958: two numbers of one block make two normal ones. */
static void normal_pair(weft_philox r, double std, float out[2]) {
    double u = ((double)r.v[0] + 1) / 4294967296.0, v = (double)r.v[1] / 4294967296.0, s, c;
    double radius = sqrt(-2 * weft_log(u)) * std;
    weft_sincos(6.283185307179586477 * v, &s, &c);
    out[0] = (float)(radius * c);
    out[1] = (float)(radius * s);
}

/* One parameter's beginning, element by element. */
typedef struct {
    uint64_t seed, stream;
    double size; /* standard deviation, or half the width */
    int64_t n;
    float *out;
} start;

enum { START_GRAIN = 1 << 14 };

static void normal_range(const void *ctx, int64_t begin, int64_t end, int worker) {
    const start *s = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float pair[2];
        normal_pair(weft_philox4x32(s->seed, s->stream, (uint64_t)i), s->size, pair);
        memcpy(s->out + 2 * i, pair, sizeof(float) * (size_t)(s->n - 2 * i < 2 ? 1 : 2));
    }
}

static void uniform_range(const void *ctx, int64_t begin, int64_t end, int worker) {
    const start *s = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        double u = (double)weft_philox4x32(s->seed, s->stream, (uint64_t)i).v[0] / 4294967296.0;
        s->out[i] = (float)((2 * u - 1) * s->size);
    }
}

static void fill_value(float value, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = value;
}

static bool is_gain(int slot) {
    return slot == WEIGHT_FINAL_NORM || slot == WEIGHT_ATTN_NORM || slot == WEIGHT_FFN_NORM ||
           slot == WEIGHT_Q_NORM || slot == WEIGHT_K_NORM;
}

void param_start(const params *p, int index, uint64_t seed, double std, weft_stream *s,
                 float *out) {
    const param *x = &p->param[index];
    int64_t n = param_count(x);
    /* The streams are apart from those of dropout. */
    start b = {seed, (uint64_t)1 << 32 | (uint64_t)index, std, n, out};
    bool to_residual = x->slot == WEIGHT_O || x->slot == WEIGHT_DOWN;
    if (x->kind == PARAM_LORA_B || (x->kind == PARAM_WEIGHT && x->cols == 0)) {
        bool gain = x->kind == PARAM_WEIGHT && is_gain(x->slot);
        fill_value(gain ? (float)(1 - p->c->norm_offset) : 0.0f, n, out);
    } else if (x->kind == PARAM_LORA_A) {
        /* Kaiming uniform with a = sqrt 5, as peft: within 1 / sqrt(inputs). */
        b.size = 1 / sqrt((double)x->cols);
        weft_parallel(s, n, START_GRAIN, uniform_range, &b);
    } else {
        b.size = to_residual ? std / sqrt(2.0 * (double)p->c->n_layers) : std;
        weft_parallel(s, (n + 1) / 2, START_GRAIN, normal_range, &b);
    }
}
