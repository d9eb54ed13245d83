/* SPDX-License-Identifier: Apache-2.0
 * The lines of `weft batch`, on rank 0: dealt out to replicas as they have room, written as they
 * come back answered. Lines are read a window ahead of those written, which bounds memory and,
 * where the order is kept, what a kill can lose. */
#pragma once
#include "host/base/progress.h"
#include "host/cmd/batch_out.h"
#include "host/cmd/batch_sum.h"
#include "host/cmd/cmd.h"
#include "host/run/shard.h"
#include <pthread.h>

/* A replica says what it has done, and what it has room for; lines follow, each a head and its
 * text. */
typedef struct {
    int32_t replica, room, idle, answers; /* room: lines it would take; idle: it has none */
    batch_stats stats;
} queue_ask;

typedef struct {
    int64_t line;
    int32_t error, measured;
    uint64_t bytes;
    batch_result result; /* where measured: numbers of an answer */
} queue_answer;

/* The reply: lines to compute follow, each a head and its text. */
typedef struct {
    int32_t stop;   /* the signal to end by, or -1: something has failed, end */
    int32_t over;   /* every line is answered and written */
    int32_t failed; /* some of them are errors, of this run or of those before it */
    int32_t empty;  /* no more lines will come */
    int32_t lines;
} queue_reply;

typedef struct {
    int64_t line;
    uint64_t bytes;
} queue_line;

typedef struct queue_held queue_held;

typedef struct {
    cmd_lines *in;
    batch_out *out;
    batch_sum *sum;
    progress *bar;
    bool in_order, may_wait; /* may_wait: an idle replica may block until there is a line */
    int window, replicas;
    int64_t total; /* lines to do, 0: unknown */
    const volatile sig_atomic_t *stopped;
} queue_options;

typedef struct {
    queue_options o;
    pthread_mutex_t lock;
    bool eof;
    queue_held *first, **last; /* dealt out and not yet written, in the order of the input */
    int64_t held, dealt, by[SHARD_MAX_RANKS]; /* by: lines each replica has answered */
    batch_stats stats[SHARD_MAX_RANKS];
    double start;
    weft_status status; /* of reading or writing */
    char why[1024];
} batch_queue;

void queue_open(batch_queue *q, const queue_options *o);
void queue_close(batch_queue *q);
/* A comm_serve_fn of a batch_queue: takes the answers of a queue_ask, replies with lines. */
weft_status queue_serve(void *queue, const char *ask, uint64_t n, buf *reply);
/* A replica cannot go on: the others end too. The first failure counts. */
void queue_fail(batch_queue *q, weft_status s);
bool queue_is_blank(const char *line, size_t n);          /* a line that is no request */
void queue_stats(const batch_queue *q, batch_stats *out); /* of all replicas together */
