/* SPDX-License-Identifier: Apache-2.0
 * pipeline: who computes what when, a pure function of the stages and micro-batches. Each rank has
 * `chunks` runs of layers; stage c * ranks + r is chunk c of rank r. One forward, one backward in
 * turns once the stages are filled (Narayanan et al., "Efficient Large-Scale Language Model
 * Training on GPU Clusters", 2021, figure 4: 1F1B, and interleaved where chunks > 1). */
#pragma once
#include "host/base/mem.h"
#include "weft/status.h"
#include <stdbool.h>

typedef enum {
    PIPE_TAKE,      /* what the stage before gave */
    PIPE_FORWARD,   /* up to what the next stage is given; the last one: without the loss */
    PIPE_GIVE,      /* to the next stage */
    PIPE_TAKE_GRAD, /* from it */
    PIPE_BACKWARD,  /* the last one: head and loss first */
    PIPE_GIVE_GRAD, /* to the stage before */
    PIPE_KINDS
} pipe_kind;

typedef struct {
    pipe_kind kind;
    int chunk, micro;
} pipe_action;

enum { PIPE_MAX_CHUNKS = 8 };

typedef struct {
    pipe_action *action; /* of one rank, in order */
    int n;
    int slots[PIPE_MAX_CHUNKS]; /* micro-batches of a chunk that are begun and not over, at most */
    double idle;                /* share of the step's time, stages being alike, backward = 2 F */
} pipeline;

/* Actions of all ranks lie in one order of which each has its own, so exchanges that wait for both
 * ends never wait for each other. chunks > 1: micros is a multiple of ranks. In the arena. */
void pipeline_build(int ranks, int chunks, int micros, int rank, arena *mem, pipeline *out);
