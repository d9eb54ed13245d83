/* SPDX-License-Identifier: Apache-2.0
 * What a training run is told. Everything that decides a bit of the result is here, and all of it
 * is written to DIR/train.json. */
#pragma once
#include "host/run/backward.h"
#include <stdbool.h>
#include <stdint.h>

typedef enum { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_WSD } schedule_kind;
typedef enum { OPTIM_ADAMW, OPTIM_SGD } optim_kind;

typedef struct {
    const char *model;     /* a model folder, or with from_scratch a config.json or its folder */
    const char *tokenizer; /* folder whose tokenizer and templates go with it; NULL: the model's */
    bool from_scratch;
    const char *device, *cpu_level, *dtype;
    int threads;
    int64_t steps, warmup;
    schedule_kind schedule;
    double lr, min_lr;
    int64_t decay_steps; /* WSD: steps of the last, falling part; 0: a fifth */
    int batch, micro_batch, seq_len,
        shards; /* rows a step; rows at once; tokens a row; 0: default */
    optim_kind optim;
    double weight_decay, beta1, beta2, eps, clip; /* clip 0: off */
    double label_smoothing, z_loss, dropout, ema, init_std;
    bool stochastic_rounding;
    uint64_t seed;
    recompute_mode recompute;
    const char *const *freeze; /* patterns of tensor names */
    int n_freeze;
    int lora_rank; /* 0: every weight is trained */
    double lora_alpha;
    const char *const *lora_target; /* "q_proj", ... ; none: q_proj and v_proj */
    int n_lora_target;
    const char *lora_from; /* adapter folder to go on from, or NULL */
    int tp, pp, dp;        /* ranks that share every matrix, the layers, the batch; 0: one */
    int zero;              /* 1: ranks of dp keep a part each of the state, 2: of the gradient, 3:
                              of the matrices too */
    int interleave;        /* runs of layers that a rank of pp has; 0: one */
    int rank;              /* of the mesh of all three, this one */
    struct device
        *shared;      /* the ranks' own, where exchanges move its memory; NULL: each opens one */
    const char *comm; /* how ranks talk, as comm_open takes it */
    double timeout;   /* seconds that a rank may be late */
} train_options;

/* The matrices that get an adapter: as given, else q_proj and v_proj. */
const char *const *options_lora_targets(const train_options *o, int *n);

/* Learning rate of the step with `done` steps behind it (0-based): linear warm-up to lr over the
 * first `warmup` steps, then constant, linear or cosine down to min_lr at the end, or WSD: constant
 * and linear down over the last decay_steps. */
double schedule_lr(const train_options *o, int64_t done);
