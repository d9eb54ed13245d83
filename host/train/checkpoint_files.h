/* SPDX-License-Identifier: Apache-2.0
 * What checkpoint.c and checkpoint_resume.c share: where things lie and what they are called. */
#pragma once
#include "host/train/checkpoint.h"
#include "host/train/options_json.h"
#include <pthread.h>

enum { CHECKPOINT_KINDS = 4, CHECKPOINT_NAME = 256, CHECKPOINT_FILES = 64 };

struct checkpointer {
    arena mem;
    trainer *t;
    const char *root, *dir; /* the run's folder; checkpoints below it */
    int keep;
    options_facts facts;
    float *copy;         /* of everything a checkpoint holds; taken at the first save */
    bool copied;         /* the save under way is of the copy */
    int64_t copied_step; /* what the copy is of, on every rank; -1: none */
    uint64_t *at;        /* [kinds][params] where in the copy, in numbers */
    train_progress progress;
    int64_t epoch;
    weft_status (*guard)(void *ctx);
    void *guarded;
    int64_t last_step; /* of the newest that is whole; -1: none */
    pthread_t thread;
    bool busy, settled; /* a save is under way; it has ended, and nobody has asked how */
    weft_status status;
    char why[1024];
};

weft_status checkpoint_make_dir(const char *path);
int64_t checkpoint_step_of(const char *name); /* -1: no checkpoint's name */
/* Steps there are, newest first; mem_free. */
int checkpoint_list(const char *dir, int64_t **step);
char *checkpoint_path(const checkpointer *c, int64_t step, arena *a);
/* Whether a checkpoint holds `what` of a parameter: 'p', 'm', 'v' or 'e'; and in which file. */
bool checkpoint_in_state(const trainer *t, const param *p, char what);
void checkpoint_state_name(const param *p, int index, char what, char out[CHECKPOINT_NAME]);
