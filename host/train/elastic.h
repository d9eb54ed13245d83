/* SPDX-License-Identifier: Apache-2.0
 * elastic: what is left of a run when a rank is lost goes on: the rest meets again, takes the
 * largest mesh that fits, and resumes from the last checkpoint that is whole. */
#pragma once
#include "host/train/fence.h"
#include "host/train/loop.h"

/* A run and the ranks it has now. */
typedef struct {
    const loop_options *asked;
    loop_options now; /* of this epoch */
    comm_link **link; /* [COMM_MAX_RANKS]; of this epoch */
    int self, ranks;  /* this process's rank, or -1: every rank is a thread of it; how many */
    int restarts;
    fence fence;
    arena mem;
    buf lost; /* who, for the line that a person reads */
    char job[16];
    bool over; /* this process is no longer part of the run */
} elastic;

/* Before ranks meet: WEFT_USAGE where a lost rank would end the others whatever is done. */
weft_status elastic_check(const loop_options *o);
/* Takes the folder. Not elastic, or alone: nothing but `now`. */
weft_status elastic_begin(elastic *e, const loop_options *o, comm_link **link, int self, int ranks);
/* After an epoch that ended with `s`: *again if there is another, which link, self, ranks and `now`
 * are then of. Returns how the run ended otherwise. */
weft_status elastic_next(elastic *e, weft_status s, loop_result *out, bool *again);
void elastic_end(elastic *e, weft_status s);
