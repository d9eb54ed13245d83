/* SPDX-License-Identifier: Apache-2.0
 * fence: which processes of a job may write the run's folder. DIR/epoch names the job; whoever
 * leads a new epoch, after ranks were lost, creates DIR/epoch-JOB-N, which one process alone can.
 * So a process that others believed lost, and that comes back, finds that the folder is no longer
 * its own. There are no locks: one that is stopped would keep them. */
#pragma once
#include "weft/status.h"
#include <stdint.h>

enum { FENCE_JOB = 33 };

typedef struct {
    const char *path;    /* DIR/epoch */
    char job[FENCE_JOB]; /* letters and digits: a secret of the job's own */
    int64_t epoch;       /* the last one claimed here; -1: none */
} fence;

/* Epoch 0 takes the folder from whatever job had it; a later one is taken once, and while the
 * folder is of this job. WEFT_PEER: others have gone on. WEFT_IO: a file cannot be written. */
weft_status fence_claim(fence *f, int64_t epoch);
/* WEFT_OK while nobody has claimed `epoch`, or taken the folder for another job. */
weft_status fence_free(const fence *f, int64_t epoch);
/* WEFT_OK while the folder is of this job and of the epoch claimed. */
weft_status fence_held(const fence *f);
/* The run is over: takes the files away if it is held. */
void fence_end(fence *f);
