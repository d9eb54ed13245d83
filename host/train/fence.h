/* SPDX-License-Identifier: Apache-2.0
 * fence: which processes of a job may write the run's folder. DIR/epoch names the job and how often
 * its ranks have met again after a loss; whoever leads a new epoch takes it there, under a lock,
 * and only if it is the next one. So a process that others believed lost, and that comes back,
 * finds that the folder is no longer its own. */
#pragma once
#include "weft/status.h"
#include <stdint.h>

enum { FENCE_JOB = 33 };

typedef struct {
    const char *path;
    char job[FENCE_JOB]; /* letters and digits: a secret of the job's own */
    int64_t epoch;       /* the last one claimed here; -1: none */
} fence;

/* Epoch 0 takes the folder from whatever job had it; a later one only from the epoch before, of the
 * same job. WEFT_PEER: others have gone on. WEFT_IO: the file cannot be written. */
weft_status fence_claim(fence *f, int64_t epoch);
/* WEFT_OK while nobody has claimed `epoch` or a later one, or taken the folder for another job. */
weft_status fence_free(const fence *f, int64_t epoch);
/* WEFT_OK while the folder is of this job and the epoch claimed. */
weft_status fence_held(const fence *f);
/* The run is over: takes the file away if it is held. */
void fence_end(fence *f);
