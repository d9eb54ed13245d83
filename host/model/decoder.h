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
    decoder_place id, logprob, top_id, top_logprob, score;
    /* kv: [n_layers] */
    const decoder_place *kcache, *vcache;
    decoder_place freq; /* f32[dims/2,2] in space STATE, with rotary embedding */
    double mscale;
} decoder_io;

typedef struct {
    const model_config *config;
    const weights *w;
    const decoder_io *io;
    int dtype; /* of activations and cache */
    int tp, rank;
} decoder;

/* Appends one forward: GENERATE ends with the sampler over the R gathered rows, SCORE with the
 * log-probability of target[t] for every token. */
void decoder_build(const decoder *d, plan_builder *b);

/* Local heads of a rank, for the KV cache and the work list. */
typedef struct {
    int64_t q_begin, q_heads, kv_begin, kv_heads;
} decoder_heads;
decoder_heads decoder_local_heads(const model_config *c, int tp, int rank);
