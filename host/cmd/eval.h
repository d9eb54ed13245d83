/* SPDX-License-Identifier: Apache-2.0
 * What the two files of `weft eval` share: the arguments and the outcome. */
#pragma once
#include "host/cmd/cmd.h"
#include "host/model/eval/eval.h"
#include "host/model/eval/translation.h"

typedef struct {
    cmd_engine_args engine;
    const char *task, *file, *hyp, *bos, *samples, *tokenizer;
    arg_list ref;
    int64_t limit, batch, window, stride, max_tokens;
    bool json, stem, lowercase;
} eval_args;

typedef struct {
    const eval_args *args;
    const eval_task *task;
    const char *model; /* NULL: none */
    eval_set set;
    eval_coder coder;
    translation_set pairs;
    translation_options how;
    eval_result result;
    int64_t items;
    int32_t ctx;
    double seconds;
} eval_run;

weft_status eval_print_table(const eval_run *r);
weft_status eval_print_json(const eval_run *r);
/* --samples: a JSON line an item. */
weft_status eval_write_samples(const eval_run *r);
