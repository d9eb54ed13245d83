/* SPDX-License-Identifier: Apache-2.0
 * One builder of the decoder block. What differs between families is read from the config; what
 * differs between ranks is which slices the weights hold. */
#include "host/model/decoder.h"
#include "host/run/rank_sum.h"
#include <stdio.h>

enum { PLACE_ALIGN = 64 }; /* a cache line */

/* The builder's state: where it appends, and the step's shared operands. */
typedef struct {
    const decoder *d;
    const model_config *c;
    const decoder_io *io;
    plan_builder *b;
    int layer;          /* -1 outside the blocks */
    int64_t T, R;       /* bucket tokens; rows of logits */
    int64_t first, own; /* tokens of the residual stream here: all, or this rank's part */
    weft_tensor rows;   /* true count of leading rows of whatever is computed now */
    weft_tensor pos, slot, qstart, qpos, kvlen, pages, work, nwork;
    weft_tensor table; /* cos and sin of this step's positions */
    decoder_heads heads;
    bool train;
    int32_t drops; /* dropout steps so far: each draws from a stream of its own */
    char tag[WEFT_TAG_BYTES];
} forward;

decoder_heads decoder_local_heads(const model_config *c, const shard_part *part) {
    shard_dims dims = config_shard_dims(c);
    shard_slice q = shard_of(&dims, SHARD_Q, part->tp, part->slice),
                kv = shard_of(&dims, SHARD_KV, part->tp, part->slice);
    return (decoder_heads){.q_begin = q.begin / c->head_dim,
                           .q_heads = (q.end - q.begin) / c->head_dim,
                           .kv_begin = kv.begin / c->head_dim,
                           .kv_heads = (kv.end - kv.begin) / c->head_dim};
}

decoder_place decoder_take(uint64_t bytes[WEFT_SPACES], weft_space space, const char *name,
                           int dtype, int ndim, const int64_t *shape) {
    decoder_place p = {
        .space = space, .name = name, .layout = weft_tensor_make(dtype, ndim, shape)};
    p.off = (int64_t)bytes[space];
    uint64_t n = (uint64_t)weft_dtype_bytes(dtype, weft_tensor_count(&p.layout));
    bytes[space] += (n + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
    return p;
}

static weft_tensor place(plan_builder *b, const decoder_place *p) {
    return plan_fixed(b, p->space, p->name, p->off, p->layout);
}

static weft_tensor leading(weft_tensor t, int64_t n) {
    return tensor_slice(t, 0, 0, n);
}

static weft_tensor own_tokens(const forward *f, weft_tensor t) {
    return tensor_slice(t, 0, f->first, f->first + f->own);
}

static weft_tensor fresh(forward *f, int dtype, int64_t rows, int64_t cols) {
    return plan_new(f->b, dtype, 2, (int64_t[]){rows, cols});
}

static weft_tensor weight(forward *f, int slot) {
    weft_tensor t = weights_get(f->d->w, slot, f->layer);
    if (!t.ndim)
        return t;
    t = plan_weight(f->b, weights_slot_name(slot), t);
    if (!f->train)
        return t;
    const decoder_training *d = f->d->train;
    if (d->fetch)
        t = d->fetch(d->user, f->b, t, slot, f->layer);
    d->seen(d->user, t.id, slot, f->layer);
    return t;
}

static const char *step_tag(forward *f, const char *what) {
    if (f->layer < 0)
        return what;
    snprintf(f->tag, sizeof f->tag, "L%d.%s", f->layer, what);
    return f->tag;
}

/* Appends one step: PUSH(f, add, "attn.add", .a = x, .b = y, ...). */
#define PUSH(f, op_, what, ...) \
    plan_push((f)->b, WEFT_OP_##op_, &(weft_args){.op_ = {__VA_ARGS__}}, \
              (f)->layer < 0 ? 0 : (f)->layer, "%s", step_tag((f), what))

/* What matrices of the layers read: x as it is, or as int8 with a number for each token and
 * leaf. */
typedef struct {
    weft_tensor x, scale;
} operand;

static operand operand_of(forward *f, const char *what, weft_tensor x, int leaves) {
    if (!f->c->quant.activations)
        return (operand){.x = x};
    operand in = {fresh(f, WEFT_I8, x.shape[0], x.shape[1]),
                  fresh(f, WEFT_F32, x.shape[0], leaves)};
    PUSH(f, quantize, what, .x = x, .rows = f->rows, .y = in.x, .scale = in.scale);
    return in;
}

static weft_tensor scale_of(forward *f, int w_slot) {
    return f->c->quant.weights ? weight(f, weights_scale_slot(w_slot)) : (weft_tensor){0};
}

/* y + s (x A') B', where the matrix has a low-rank adapter (Hu et al., "LoRA", 2021). */
static weft_tensor adapted(forward *f, const char *what, weft_tensor x, weft_tensor y, int w_slot) {
    decoder_adapter a;
    if (!f->train || !f->d->train->adapter ||
        !f->d->train->adapter(f->d->train->user, f->b, w_slot, f->layer, &a))
        return y;
    weft_tensor low = fresh(f, f->d->dtype, x.shape[0], a.a.shape[0]), scaled = low, sum = y;
    PUSH(f, matmul, what, .x = x, .w = a.a, .rows = f->rows, .y = low, .leaves = 1);
    if (a.scale != 1) {
        scaled = fresh(f, f->d->dtype, x.shape[0], a.a.shape[0]);
        PUSH(f, scale, what, .x = low, .rows = f->rows, .y = scaled, .s = a.scale);
    }
    sum = fresh(f, f->d->dtype, x.shape[0], y.shape[1]);
    PUSH(f, matmul, what, .x = scaled, .w = a.b, .res = y, .rows = f->rows, .y = sum, .leaves = 1);
    return sum;
}

/* Backward needs what the activation was applied to, so training does not fuse it. */
static weft_tensor activated(forward *f, const char *what, weft_tensor x, int act) {
    weft_tensor y = fresh(f, x.dtype, x.shape[0], x.shape[1]);
    PUSH(f, activation, what, .x = x, .rows = f->rows, .y = y, .act = act);
    return y;
}

static weft_tensor dropped(forward *f, const char *what, weft_tensor x) {
    if (!f->train || f->d->train->dropout == 0)
        return x;
    weft_tensor y = fresh(f, x.dtype, x.shape[0], x.shape[1]);
    PUSH(f, dropout, what, .x = x, .key = place(f->b, &f->d->train->key),
         .place = own_tokens(f, place(f->b, &f->d->train->place)), .rows = f->rows, .y = y,
         .p = f->d->train->dropout, .stream = ++f->drops);
    return y;
}

/* A matrix split by columns of its output: one chain over K, no exchange. */
static weft_tensor linear(forward *f, const char *what, operand in, int w_slot, int bias_slot,
                          int act) {
    weft_tensor w = weight(f, w_slot), bias = weight(f, bias_slot);
    weft_tensor y = fresh(f, f->d->dtype, in.x.shape[0], w.shape[0]);
    PUSH(f, matmul, what, .x = in.x, .w = w, .xscale = in.scale, .wscale = scale_of(f, w_slot),
         .bias = bias, .rows = f->rows, .y = y, .act = f->train ? 0 : act, .leaves = 1);
    y = adapted(f, what, in.x, y, w_slot);
    return f->train && act ? activated(f, what, y, act) : y;
}

static bool has_part_of_stream(const forward *f) {
    return f->own < f->T;
}

/* What ranks have of a sum over their leaves, f32[T, d_model], becomes the whole, or each rank's
 * tokens of it. */
static weft_tensor sum_over_ranks(forward *f, const char *what, weft_tensor part,
                                  weft_tensor bias) {
    int64_t rows = has_part_of_stream(f) ? f->own : part.shape[0];
    weft_tensor y = fresh(f, f->d->dtype, rows, part.shape[1]);
    rank_sum_push(f->b, &(rank_sum){.part = part,
                                    .bias = bias,
                                    .rows = f->rows,
                                    .y = y,
                                    .ranks = f->d->part.tp,
                                    .rank = f->d->part.slice,
                                    .in_halves = f->train,
                                    .layer = f->layer < 0 ? 0 : f->layer,
                                    .tag = step_tag(f, what)});
    return y;
}

/* A matrix split by its inputs: leaves over K, combined by the fixed tree whoever computed them. */
static weft_tensor linear_split(forward *f, const char *what, weft_tensor x, int w_slot,
                                int bias_slot) {
    weft_tensor w = weight(f, w_slot), bias = weight(f, bias_slot), scale = scale_of(f, w_slot);
    int leaves = shard_leaves(w.shape[1] * f->d->part.tp) / f->d->part.tp;
    operand in = operand_of(f, what, x, leaves);
    if (f->d->part.tp == 1) {
        weft_tensor y = fresh(f, f->d->dtype, x.shape[0], w.shape[0]);
        PUSH(f, matmul, what, .x = in.x, .w = w, .xscale = in.scale, .wscale = scale, .bias = bias,
             .rows = f->rows, .y = y, .leaves = leaves);
        return dropped(f, what, adapted(f, what, in.x, y, w_slot));
    }
    weft_tensor part = fresh(f, WEFT_F32, x.shape[0], w.shape[0]);
    PUSH(f, matmul, what, .x = in.x, .w = w, .xscale = in.scale, .wscale = scale, .rows = f->rows,
         .y = part, .leaves = leaves);
    return dropped(f, what, sum_over_ranks(f, what, part, bias));
}

/* A number a row that only backward reads. */
static weft_tensor kept(forward *f, int ndim, const int64_t *shape) {
    return f->train ? plan_new(f->b, WEFT_F32, ndim, shape) : (weft_tensor){0};
}

/* Of every token, for the matrices that ranks share. */
static weft_tensor all_tokens(forward *f, const char *what, weft_tensor x) {
    if (!has_part_of_stream(f))
        return x;
    weft_tensor y = fresh(f, x.dtype, f->T, x.shape[1]);
    PUSH(f, all_gather, what, .x = x, .y = y);
    return y;
}

/* *r = x + res (x itself if there is no res yet); returns its norm. */
static weft_tensor norm(forward *f, const char *what, weft_tensor x, weft_tensor *r, int gain_slot,
                        int bias_slot) {
    weft_tensor y = fresh(f, f->d->dtype, x.shape[0], x.shape[1]), sum = {0}, res = *r;
    if (weft_has(&res))
        sum = fresh(f, f->d->dtype, x.shape[0], x.shape[1]);
    weft_tensor g = weight(f, gain_slot), bias = weight(f, bias_slot);
    float eps = (float)f->c->norm_eps;
    if (f->c->norm == NORM_RMS)
        PUSH(f, rmsnorm, what, .x = x, .res = res, .g = g, .rows = f->rows, .y = y, .r = sum,
             .inv = kept(f, 1, x.shape), .eps = eps, .offset = (float)f->c->norm_offset);
    else
        PUSH(f, layernorm, what, .x = x, .res = res, .g = g, .b = bias, .rows = f->rows, .y = y,
             .r = sum, .mean = kept(f, 1, x.shape), .inv = kept(f, 1, x.shape), .eps = eps);
    *r = weft_has(&res) ? sum : x;
    return all_tokens(f, what, y);
}

static weft_tensor head_norm(forward *f, const char *what, weft_tensor x, int gain_slot) {
    if (!f->c->qk_norm)
        return x;
    weft_tensor y = plan_new(f->b, x.dtype, 3, x.shape);
    PUSH(f, rmsnorm, what, .x = x, .g = weight(f, gain_slot), .rows = f->rows, .y = y,
         .inv = kept(f, 2, x.shape), .eps = (float)f->c->norm_eps,
         .offset = (float)f->c->norm_offset);
    return y;
}

static weft_tensor rotate(forward *f, const char *what, weft_tensor x) {
    if (f->c->position != POSITION_ROPE)
        return x;
    weft_tensor y = plan_new(f->b, x.dtype, 3, x.shape);
    PUSH(f, rope, what, .x = x, .table = f->table, .rows = f->rows, .y = y,
         .interleaved = f->c->rope.interleaved);
    return y;
}

static weft_tensor as_heads(forward *f, weft_tensor x) {
    int64_t d = f->c->head_dim;
    return tensor_reshape(x, 3, (int64_t[]){x.shape[0], x.shape[1] / d, d});
}

static float attention_scale(const forward *f) {
    double s = f->c->attn_scale;
    return (float)(f->c->attn_scale_by_layer ? s / (f->layer + 1) : s);
}

static int32_t attention_window(const forward *f) {
    const model_config *c = f->c;
    return !c->layer_windowed || c->layer_windowed[f->layer] ? (int32_t)c->window : 0;
}

static weft_tensor attention(forward *f, weft_tensor q, weft_tensor k, weft_tensor v) {
    weft_tensor kc = k, vc = v; /* training reads the batch's own */
    if (!f->train) {
        kc = place(f->b, &f->io->kcache[f->layer]);
        vc = place(f->b, &f->io->vcache[f->layer]);
        PUSH(f, kv_append, "attn.append", .k = k, .v = v, .slot = f->slot, .rows = f->rows,
             .kcache = kc, .vcache = vc);
    }
    weft_tensor y = plan_new(f->b, q.dtype, 3, q.shape);
    int32_t group = (int32_t)(f->c->n_heads / f->c->n_kv_heads);
    PUSH(f, attention, "attn.core", .q = q, .k = kc, .v = vc, .pages = f->pages,
         .qstart = f->qstart, .qpos = f->qpos, .kvlen = f->kvlen, .work = f->work,
         .nwork = f->nwork, .y = y, .lse = kept(f, 2, q.shape), .scale = attention_scale(f),
         .causal = 1, .window = attention_window(f), .group = group,
         .head0 = (int32_t)(f->heads.q_begin - f->heads.kv_begin * group));
    return tensor_reshape(y, 2, (int64_t[]){y.shape[0], y.shape[1] * y.shape[2]});
}

/* Rows that need logits, and from here on the true count of rows is theirs. */
static weft_tensor pick(forward *f, const char *what, weft_tensor x, weft_tensor index,
                        weft_tensor nout) {
    weft_tensor y = fresh(f, x.dtype, f->R, x.shape[1]);
    PUSH(f, gather, what, .x = x, .index = index, .rows = nout, .y = y);
    return y;
}

/* After the last attention only the rows that are sampled from matter. */
static void keep_output_rows(forward *f, weft_tensor *x, weft_tensor *res) {
    if (f->b->plan->phase != WEFT_PHASE_GENERATE)
        return;
    weft_tensor index = leading(place(f->b, &f->io->index), f->R), nout = place(f->b, &f->io->nout);
    *x = pick(f, "attn.pick", *x, index, nout);
    *res = pick(f, "res.pick", *res, index, nout);
    f->rows = nout;
}

static weft_tensor mlp(forward *f, weft_tensor x) {
    const model_config *c = f->c;
    operand in = operand_of(f, "mlp.in", x, 1);
    if (!c->gated) {
        weft_tensor u = linear(f, "mlp.up", in, WEIGHT_UP, WEIGHT_UP_BIAS, c->act);
        return linear_split(f, "mlp.down", u, WEIGHT_DOWN, WEIGHT_DOWN_BIAS);
    }
    weft_tensor g = linear(f, "mlp.gate", in, WEIGHT_GATE, WEIGHT_GATE_BIAS, 0);
    weft_tensor u = linear(f, "mlp.up", in, WEIGHT_UP, WEIGHT_UP_BIAS, 0);
    weft_tensor h = fresh(f, f->d->dtype, g.shape[0], g.shape[1]);
    PUSH(f, glu, "mlp.glu", .gate = g, .up = u, .rows = f->rows, .y = h, .act = c->act);
    return linear_split(f, "mlp.down", h, WEIGHT_DOWN, WEIGHT_DOWN_BIAS);
}

/* x is what is to be added to the residual stream *res; returns the block's own contribution. */
static weft_tensor block(forward *f, weft_tensor x, weft_tensor *res) {
    f->b->segment++;
    weft_tensor h = norm(f, "attn.norm", x, res, WEIGHT_ATTN_NORM, WEIGHT_ATTN_NORM_BIAS);
    operand in = operand_of(f, "attn.in", h, 1);
    weft_tensor q = as_heads(f, linear(f, "attn.q", in, WEIGHT_Q, WEIGHT_Q_BIAS, 0));
    weft_tensor k = as_heads(f, linear(f, "attn.k", in, WEIGHT_K, WEIGHT_K_BIAS, 0));
    weft_tensor v = as_heads(f, linear(f, "attn.v", in, WEIGHT_V, WEIGHT_V_BIAS, 0));
    q = rotate(f, "attn.q_rope", head_norm(f, "attn.q_norm", q, WEIGHT_Q_NORM));
    k = rotate(f, "attn.k_rope", head_norm(f, "attn.k_norm", k, WEIGHT_K_NORM));
    weft_tensor o = attention(f, q, k, v);
    if (f->layer == f->c->n_layers - 1)
        keep_output_rows(f, &o, res);
    o = linear_split(f, "attn.o", o, WEIGHT_O, WEIGHT_O_BIAS);
    f->b->segment++;
    return mlp(f, norm(f, "mlp.norm", o, res, WEIGHT_FFN_NORM, WEIGHT_FFN_NORM_BIAS));
}

static weft_tensor embed(forward *f) {
    weft_tensor ids = leading(place(f->b, &f->io->ids), f->T), w = weight(f, WEIGHT_EMBED), x;
    shard_dims dims = config_shard_dims(f->c);
    shard_slice rows = shard_of(&dims, SHARD_VOCAB, f->d->part.tp, f->d->part.slice);
    weft_tensor last = {0};
    if (!f->train)
        last = place(f->b, &f->io->last);
    int32_t row0 = (int32_t)(rows.axis == 0 ? rows.begin : 0);
    if (f->d->part.tp == 1 || f->d->part.whole_vocab) {
        x = fresh(f, f->d->dtype, f->own, f->c->d_model);
        PUSH(f, embed, "embed", .ids = own_tokens(f, ids), .w = w, .last = last, .rows = f->rows,
             .y = x);
    } else {
        weft_tensor part = fresh(f, WEFT_F32, f->T, f->c->d_model);
        PUSH(f, embed, "embed", .ids = ids, .w = w, .last = last, .rows = f->rows, .y = part,
             .row0 = row0);
        x = sum_over_ranks(f, "embed", part, (weft_tensor){0});
    }
    if (f->c->position != POSITION_LEARNED)
        return dropped(f, "embed.drop", x);
    weft_tensor p = fresh(f, f->d->dtype, f->own, f->c->d_model),
                sum = fresh(f, f->d->dtype, f->own, f->c->d_model);
    PUSH(f, embed, "embed.pos", .ids = own_tokens(f, f->pos), .w = weight(f, WEIGHT_POSITION),
         .rows = f->rows, .y = p);
    PUSH(f, add, "embed.add", .a = x, .b = p, .rows = f->rows, .y = sum);
    return dropped(f, "embed.drop", sum);
}

static void rope_table(forward *f) {
    const rope_config *r = &f->c->rope;
    weft_tensor freq = place(f->b, &f->io->freq);
    f->table = plan_new(f->b, WEFT_F32, 3, (int64_t[]){f->T, freq.shape[0], 2});
    bool ntk = r->kind == ROPE_DYNAMIC;
    PUSH(f, rope_table, "rope.table", .pos = f->pos, .freq = freq, .rows = f->rows, .y = f->table,
         .mscale = (float)f->io->mscale, .ntk_factor = ntk ? (float)r->factor : 0.0f,
         .ntk_ctx = ntk ? (int32_t)r->original_ctx : 0);
}

static bool samples_slices(const forward *f) {
    return f->io->slice.layout.ndim > 0 && f->b->plan->phase == WEFT_PHASE_GENERATE;
}

/* logits[R, V] of the gathered rows; over ranks each computes its part of the vocabulary, and where
 * slices are sampled, keeps it. */
static weft_tensor head(forward *f, weft_tensor x) {
    weft_tensor w = weight(f, WEIGHT_HEAD), logits;
    bool slices = samples_slices(f);
    logits = place(f->b, slices ? &f->io->slice : &f->io->logits);
    logits = tensor_slice(logits, 0, 0, x.shape[0]);
    if (slices) {
        PUSH(f, matmul, "head", .x = x, .w = w, .rows = f->rows,
             .y = tensor_slice(logits, 1, 0, w.shape[0]), .leaves = 1);
        return logits;
    }
    if (f->d->part.tp == 1) {
        PUSH(f, matmul, "head", .x = x, .w = w, .rows = f->rows, .y = logits, .leaves = 1);
        return logits;
    }
    shard_dims dims = config_shard_dims(f->c);
    int64_t part = shard_vocab_rows(&dims, f->d->part.tp);
    weft_tensor mine = fresh(f, WEFT_F32, x.shape[0], part);
    PUSH(f, matmul, "head", .x = x, .w = w, .rows = f->rows,
         .y = tensor_slice(mine, 1, 0, w.shape[0]), .leaves = 1);
    PUSH(f, all_gather, "head", .x = mine, .y = logits, .axis = 1);
    return tensor_slice(logits, 1, 0, f->c->vocab);
}

static void finish(forward *f, weft_tensor logits) {
    const decoder_io *io = f->io;
    plan_builder *b = f->b;
    if (b->plan->phase == WEFT_PHASE_SCORE) {
        PUSH(f, token_logprob, "score", .x = logits, .target = leading(place(b, &io->target), f->R),
             .rows = f->rows, .y = leading(place(b, &io->score), f->R));
        return;
    }
    if (samples_slices(f)) {
        PUSH(f, sample_sharded, "sample", .logits = logits,
             .params = leading(place(b, &io->params), f->R), .bias_id = place(b, &io->bias_id),
             .bias = place(b, &io->bias), .breaker = place(b, &io->breaker), .rows = f->rows,
             .id = leading(place(b, &io->id), f->R),
             .logprob = leading(place(b, &io->logprob), f->R),
             .top_id = leading(place(b, &io->top_id), f->R),
             .top_logprob = leading(place(b, &io->top_logprob), f->R),
             .history = place(b, &io->history), .last = place(b, &io->last),
             .mu = place(b, &io->mu), .vocab = (int32_t)f->c->vocab,
             .ranks = (int32_t)f->d->part.tp, .group = WEFT_GROUP_TP);
        return;
    }
    PUSH(f, sample, "sample", .logits = logits, .params = leading(place(b, &io->params), f->R),
         .bias_id = place(b, &io->bias_id), .bias = place(b, &io->bias),
         .breaker = place(b, &io->breaker), .rows = f->rows, .id = leading(place(b, &io->id), f->R),
         .logprob = leading(place(b, &io->logprob), f->R),
         .top_id = leading(place(b, &io->top_id), f->R),
         .top_logprob = leading(place(b, &io->top_logprob), f->R),
         .history = place(b, &io->history), .last = place(b, &io->last), .mu = place(b, &io->mu));
}

static weft_tensor optional(plan_builder *b, const decoder_place *p) {
    return p->layout.ndim ? place(b, p) : (weft_tensor){0};
}

static forward begin(const decoder *d, plan_builder *b) {
    const decoder_io *io = d->io;
    int64_t T = b->plan->bucket_tokens;
    int64_t own = d->train && d->train->sequence_parallel ? T / d->part.tp : T;
    return (forward){.d = d,
                     .c = d->config,
                     .io = io,
                     .b = b,
                     .layer = -1,
                     .train = d->train != NULL,
                     .T = T,
                     .first = own < T ? d->part.slice * own : 0,
                     .own = own,
                     .R = b->plan->bucket_rows,
                     .rows = optional(b, &io->rows),
                     .pos = leading(place(b, &io->pos), T),
                     .qstart = place(b, &io->qstart),
                     .qpos = place(b, &io->qpos),
                     .kvlen = place(b, &io->kvlen),
                     .work = place(b, &io->work),
                     .nwork = place(b, &io->nwork),
                     .drops = d->part.first ? (int32_t)(1 + 2 * d->part.first) : 0,
                     .heads = decoder_local_heads(d->config, &d->part)};
}

static bool is_last_stage(const forward *f) {
    return f->d->part.last == f->d->part.layers;
}

/* Between two stages the residual stream travels as one tensor. The next norm adds nothing to it,
 * and rounds what this sum has rounded already. */
static weft_tensor from_stage_before(forward *f) {
    weft_tensor x = fresh(f, f->d->dtype, f->own, f->c->d_model);
    PUSH(f, recv, "stage", .y = x, .peer = f->d->before, .group = WEFT_GROUP_PP);
    return x;
}

static weft_tensor stream(forward *f, weft_tensor x, weft_tensor res) {
    weft_tensor sum = fresh(f, f->d->dtype, f->own, f->c->d_model);
    PUSH(f, add, "stage.add", .a = x, .b = res, .rows = f->rows, .y = sum);
    return sum;
}

/* What the final norm gives; of a stage before the last what the next one begins with, in training,
 * else nothing. */
static weft_tensor hidden(forward *f) {
    const shard_part *part = &f->d->part;
    weft_tensor x = part->first == 0 ? embed(f) : from_stage_before(f), res = {0};
    if (f->c->position == POSITION_ROPE)
        rope_table(f);
    for (f->layer = (int)part->first; f->layer < part->last; f->layer++)
        x = block(f, x, &res);
    f->layer = -1;
    f->b->segment = 0;
    if (!is_last_stage(f) && f->train)
        return stream(f, x, res);
    if (!is_last_stage(f)) {
        PUSH(f, send, "stage", .x = stream(f, x, res), .peer = f->d->next, .group = WEFT_GROUP_PP);
        return (weft_tensor){0};
    }
    return norm(f, "final.norm", x, &res, WEIGHT_FINAL_NORM, WEIGHT_FINAL_NORM_BIAS);
}

void decoder_build(const decoder *d, plan_builder *b) {
    forward f = begin(d, b);
    f.slot = leading(place(b, &d->io->slot), b->plan->bucket_tokens);
    f.pages = place(b, &d->io->pages);
    weft_tensor x = hidden(&f);
    if (is_last_stage(&f))
        finish(&f, head(&f, x));
}

weft_tensor decoder_hidden(const decoder *d, plan_builder *b) {
    forward f = begin(d, b);
    return hidden(&f);
}
