/* SPDX-License-Identifier: Apache-2.0
 * What the two works of `weft data` share. */
#pragma once
#include "host/base/mem.h"
#include "host/base/progress.h"
#include "host/cmd/cmd.h"
#include "host/train/bpe.h"

enum { DATA_MAX_INPUTS = 256 };

typedef struct {
    const char *output, *tokenizer, *weights, *split;
    double val;
    int64_t shard_tokens, threads, vocab, min_frequency;
    arg_list special;
    bool append_eos, sft, json, add_bos;
} data_args;

typedef struct {
    const data_args *args;
    const char *path[DATA_MAX_INPUTS];
    const char *name[DATA_MAX_INPUTS];
    double weight[DATA_MAX_INPUTS];
    int n;
    arena names;
    progress bar;
    double seconds;
} data_state;

weft_status data_inspect(const char *dir, bool json); /* a folder of shards, for weft inspect */
weft_status data_train_tokenizer(data_state *s);      /* --train-tokenizer */
