/* SPDX-License-Identifier: Apache-2.0
 * sched: the only loop over steps, and the threads that drive the ranks of one process. */
#pragma once
#include "host/run/plan.h"

/* Runs a bound plan on a stream, step after step. */
void sched_run(const weft_plan *p, weft_stream *stream);

/* The same on a device, by its graph where it has graphs: the first replay runs step by step, which
 * loads the kernels, the second is captured. Only enqueues, but for a device that is `stepwise`.
 * side: the stream of lane COMM, of a device with marks; NULL: `stream` is. What is on the side may
 * go on behind the plan's end, until sched_join. */
weft_status sched_replay(device *d, weft_plan *p, weft_stream *stream, weft_stream *side);
/* What is enqueued on `stream` from now on waits for all that is on `side` (NULL: nothing). */
weft_status sched_join(device *d, weft_stream *stream, weft_stream *side);
void sched_forget(device *d, weft_plan *p); /* its graph */

/* One host thread a rank; rank 0 is the caller's. */
typedef struct sched_team sched_team;
typedef void sched_rank_fn(void *ctx, int rank);
weft_status sched_team_open(int ranks, sched_team **out);
void sched_team_run(sched_team *t, sched_rank_fn *fn,
                    void *ctx); /* returns when all ranks are done */
void sched_team_close(sched_team *t);
/* fn on n threads at once, the first of which is the caller's; then the failure of the first one
 * that has failed, with its message. */
typedef weft_status sched_each_fn(void *ctx, int i);
weft_status sched_each(int n, sched_each_fn *fn, void *ctx);
