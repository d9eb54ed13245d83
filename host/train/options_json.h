/* SPDX-License-Identifier: Apache-2.0
 * train.json: the options that a run really used. */
#pragma once
#include "host/base/buf.h"
#include "host/train/options.h"

/* What options leave to be derived. */
typedef struct {
    const char *device, *dtype;
    int micro_batch, seq_len, shards;
} options_facts;

/* Appends one flat JSON object on one line. */
void options_json(buf *b, const train_options *o, const options_facts *f);

extern const char *const schedule_names[]; /* by schedule_kind */
extern const char *const optim_names[];
extern const char *const recompute_names[];
int options_choice(const char *const *names, const char *name); /* index of one that is there */
