/* SPDX-License-Identifier: Apache-2.0
 * comm_serve: questions to rank 0 that its own work does not hold up. A thread of rank 0 answers
 * ranks of other processes over a connection each, while rank 0 computes; where all ranks are of
 * one process, whoever asks answers. */
#pragma once
#include "host/base/buf.h"
#include "host/run/comm.h"

typedef struct comm_serve comm_serve;
/* Answers one question. Any thread, one at a time for each rank that asks; so several at once. A
 * failure ends the job. */
typedef weft_status comm_serve_fn(void *ctx, const char *ask, uint64_t n, buf *reply);

/* Every rank of `all`, the whole job, calls it; fn and ctx are rank 0's, and so many other ranks
 * will ask. NULL where ranks are threads: then rank 0 may as well call fn. */
weft_status comm_serve_open(comm *all, int askers, comm_serve_fn *fn, void *ctx, comm_serve **out);
/* On rank 0 returns when all who were to ask have asked and closed, or the job has failed. NULL is
 * fine. */
void comm_serve_close(comm_serve *s);
/* Any rank: n bytes, and the reply to them behind what `reply` holds. On failure the job's. */
weft_status comm_ask(comm_serve *s, const char *ask, uint64_t n, buf *reply);
