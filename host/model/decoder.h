/* SPDX-License-Identifier: Apache-2.0
 * decoder: the forward of every decoder-only family, written once. It reads the config and appends
 * one rank's steps to a plan. */
#pragma once
#include "host/model/weights.h"
#include "host/run/plan.h"

/* A fixed place the builder reads or writes: laid out once by the engine, the same in every plan.
 * T most tokens of a step, R rows of logits, S sequences of a step, P pages of one. */
typedef struct {
    int64_t off;
    weft_tensor layout;
    weft_space space;
    const char *name;
} decoder_place;

/* The next free place of a space; bytes[space], what is taken of it, grows by whole cache lines. */
decoder_place decoder_take(uint64_t bytes[WEFT_SPACES], weft_space space, const char *name,
                           int dtype, int ndim, const int64_t *shape);

typedef struct {
    /* feed */
    decoder_place rows, nout, nwork;     /* i32[1]: true tokens, rows of logits, work items */
    decoder_place ids, pos, slot;        /* i32[T] */
    decoder_place qstart, qpos, kvlen;   /* i32[S+1], i32[S], i32[S] */
    decoder_place pages, work;           /* i32[S,P], i32[W,4] */
    decoder_place index, target, params; /* i32[R], i32[R], i32[R,WEFT_SAMPLE_WORDS] */
    /* state */
    decoder_place last, history, bias_id, bias, breaker, mu;
    /* out */
    decoder_place logits; /* f32[R, padded vocabulary] */
    decoder_place slice;  /* f32[R, the rank's part of it]; ndim 0: ranks gather what they sample */
    decoder_place id, logprob, top_id, top_logprob, score;
    /* kv: [n_layers] */
    const decoder_place *kcache, *vcache;
    decoder_place freq; /* f32[dims/2,2] in space STATE, with rotary embedding */
    double mscale;
} decoder_io;

/* A low-rank change of a matrix: y + scale (x a') b', a[r,K], b[N,r]. */
typedef struct {
    weft_tensor a, b;
    float scale;
} decoder_adapter;

/* What training adds to the forward. No step has `rows` then: every row of the bucket is true. */
typedef struct {
    void *user;
    /* Value `id` of the plan is this weight; layer -1 for the model's own. */
    void (*seen)(void *user, uint32_t id, int slot, int layer);
    /* Whether the matrix of a slot has an adapter; puts it into the plan. NULL: none has. */
    bool (*adapter)(void *user, plan_builder *b, int slot, int layer, decoder_adapter *out);
    /* The matrix of a slot whole, where w is a part of it; absent: w always is. */
    weft_tensor (*fetch)(void *user, plan_builder *b, weft_tensor w, int slot, int layer);
    float dropout;            /* behind the embedding, attention's output and the MLP; 0: none */
    decoder_place key, place; /* feed of dropout: i32[2], i32[T] */
    /* Ranks of a slice have T / tp tokens each of the residual stream, of its norms and dropout and
     * of what stages send each other (Korthikanti et al., "Reducing activation recomputation in
     * large transformer models", 2022). tp divides T and d_model. */
    bool sequence_parallel;
} decoder_training;

typedef struct {
    const model_config *config;
    const weights *w;
    const decoder_io *io;
    int dtype;                     /* of activations and cache */
    shard_part part;               /* of the model: what w holds */
    int before, next;              /* ranks of the pipeline with the neighbouring layers */
    const decoder_training *train; /* NULL: inference */
} decoder;

/* Appends one forward: GENERATE ends with the sampler over the R gathered rows, SCORE with the
 * log-probability of target[t] for every token. A stage that is not the last ends by sending the
 * residual stream to the next one, which begins with it. */
void decoder_build(const decoder *d, plan_builder *b);
/* For training (d->train): the same steps up to the final norm, whose output [T, d_model] it
 * returns; of a stage before the last, the residual stream that the next one begins with, unsent:
 * the tokens of it that are this rank's.
 * Attention reads the batch's own keys, sequences as in the feed; what backward needs is
 * kept: reciprocal roots, means, log-sum-exps, inputs of activations. Steps of a block carry its
 * segment: odd for attention, even for the MLP, 0 outside. */
weft_tensor decoder_hidden(const decoder *d, plan_builder *b);

/* Local heads of a rank, for the KV cache and the work list. */
typedef struct {
    int64_t q_begin, q_heads, kv_begin, kv_heads;
} decoder_heads;
decoder_heads decoder_local_heads(const model_config *c, const shard_part *part);
