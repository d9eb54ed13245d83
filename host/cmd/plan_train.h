/* SPDX-License-Identifier: Apache-2.0
 * `weft plan --train`. */
#pragma once
#include "host/cmd/cmd.h"
#include "host/train/pipeline.h"

typedef struct {
    bool train, from_scratch;
    const char *recompute, *optimizer;
    int64_t batch, micro, seq_len, shards, lora_r, interleave, zero, gpus;
    double tokens, tflops, mfu, ema;
} plan_train_args;

/* Rows for the command's table; `type` is its struct and `at` its plan_train_args member. */
#define PLAN_TRAIN_SPECS(type, at) \
    {"train", \
     "", \
     NULL, \
     ARG_FLAG, \
     NULL, \
     0, \
     0, \
     NULL, \
     "memory, operations and days of training instead", \
     offsetof(type, at.train)}, \
        {"from-scratch", \
         "", \
         NULL, \
         ARG_FLAG, \
         NULL, \
         0, \
         0, \
         NULL, \
         "--train: the argument is a config.json or its folder", \
         offsetof(type, at.from_scratch)}, \
        {"batch-size", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         1, \
         1 << 20, \
         "8", \
         "--train: rows a step", \
         offsetof(type, at.batch)}, \
        {"micro-batch", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         1 << 20, \
         "0", \
         "--train: rows at once; 0: the batch", \
         offsetof(type, at.micro)}, \
        {"seq-len", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         1 << 24, \
         "0", \
         "--train: tokens a row; 0: the context, at most 1024", \
         offsetof(type, at.seq_len)}, \
        {"shards", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         8, \
         "0", \
         "--train: virtual shards of a batch", \
         offsetof(type, at.shards)}, \
        {"recompute", \
         "", \
         NULL, \
         ARG_CHOICE, \
         "none|attn|layer", \
         0, \
         0, \
         "none", \
         "--train: what is computed again", \
         offsetof(type, at.recompute)}, \
        {"optimizer", "", NULL,    ARG_CHOICE,       "adamw|sgd", \
         0,           0,  "adamw", "--train: which", offsetof(type, at.optimizer)}, \
        {"ema", \
         "", \
         NULL, \
         ARG_FLOAT, \
         "X", \
         0, \
         0.9999999, \
         "0", \
         "--train: decay of a running mean of the weights", \
         offsetof(type, at.ema)}, \
        {"lora-r", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         4096, \
         "0", \
         "--train: rank of adapters", \
         offsetof(type, at.lora_r)}, \
        {"tokens", \
         "", \
         NULL, \
         ARG_FLOAT, \
         "N", \
         0, \
         1e18, \
         "0", \
         "--train: tokens to train on; 0: 20 a parameter", \
         offsetof(type, at.tokens)}, \
        {"interleave", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         1, \
         PIPE_MAX_CHUNKS, \
         "1", \
         "--train: runs of layers a rank of --pp has", \
         offsetof(type, at.interleave)}, \
        {"zero", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         0, \
         3, \
         "0", \
         "--train: 1: each rank keeps a part of the optimizer's state, 2: and of the gradient, " \
         "3: and " \
         "of the matrices", \
         offsetof(type, at.zero)}, \
        {"gpus", \
         "", \
         NULL, \
         ARG_INT, \
         "N", \
         1, \
         1 << 20, \
         "1", \
         "--train: devices", \
         offsetof(type, at.gpus)}, \
        {"tflops", \
         "", \
         NULL, \
         ARG_FLOAT, \
         "X", \
         0.001, \
         1e6, \
         "989", \
         "--train: a device's peak (H100 and H200 SXM: 989 in bf16)", \
         offsetof(type, at.tflops)}, \
    { \
        "mfu", "", NULL, ARG_FLOAT, "X", 0.001, 1, "0.4", "--train: share of it that is used", \
            offsetof(type, at.mfu) \
    }

weft_status plan_train(const plan_train_args *a, const cmd_engine_args *e, const char *model,
                       bool json);
