/* SPDX-License-Identifier: Apache-2.0
 * One replica of `weft batch`: it asks the queue for lines, computes what it has, hands answers
 * in. Its ranks in other processes do the same steps; the first of them alone asks. */
#pragma once
#include "host/cmd/batch_queue.h"
#include "host/run/comm_serve.h"

/* What replicas have in common. */
typedef struct {
    const char *model, *template, *input; /* input: its name, for messages */
    const weft_request *preset;           /* what lines say that say nothing */
    uint64_t seed;                        /* of lines that name none */
    int max_seqs, replicas;
    batch_queue *queue; /* rank 0's; NULL in other processes */
    comm_serve *serve;  /* NULL: the queue is of this process */
} replica_options;

typedef struct {
    int stop;    /* the signal it was to end by, -1 after another's failure, 0 */
    bool failed; /* some lines are errors */
} replica_end;

/* Runs e's share of the job to the end. */
weft_status replica_run(const replica_options *o, weft_engine *e, replica_end *end);
