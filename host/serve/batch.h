/* SPDX-License-Identifier: Apache-2.0
 * Continuous batching: any number of requests share one engine, and every step computes what fits
 * into its budget of tokens, decodes of some and prefill chunks of others (Orca, Yu et al. 2022;
 * chunked prefill as in Sarathi-Serve, Agrawal et al. 2024). Which requests share a step, in which
 * chunks, and who is preempted, never changes a bit of any: it is all a question of time.
 *
 * Order. Requests are served by age. A step takes the oldest first, then the decodes, then prefill
 * with what budget is left. A request is admitted when a place is free and so many KV pages that
 * its prompt fits and everyone running can grow by a page. When pages run out, the youngest gives
 * its own back and computes them again later (its tokens stay; the prefix cache may still have
 * them). The oldest is never preempted, and nobody is admitted past one who waits: all end.
 *
 *     batch *b = batch_open(engine, &(batch_options){0});
 *     batch_submit(b, &call, &job);                   // any time, also from a callback
 *     while (!batch_idle(b) && status == WEFT_OK)
 *         status = batch_step(b);                     // callbacks run in here
 *     batch_close(b);
 *
 * One thread at a time. */
#pragma once
#include "weft.h"

typedef struct batch batch;
typedef struct batch_job batch_job;

typedef struct {
    int running; /* most requests with a place; 0: the engine's max_seqs */
    int budget;  /* most tokens of a step; 0: the engine's ubatch_size */
} batch_options;

typedef struct {
    weft_result result;     /* prompt_seconds runs from submission to the first token */
    int32_t cached;         /* tokens of the prompt that the prefix cache had */
    int32_t preempted;      /* how often */
    double waited, seconds; /* from submission until it had a place; until its end */
} batch_result;

typedef struct {
    const weft_request *request; /* without seq; borrowed until on_done, with all it points to */
    weft_token_fn *on_token;     /* as for weft_generate; false ends it */
    /* Exactly once for every job, the last call: `job` is gone after it. After a failure
     * weft_error() says why and `result` holds what was done until then. */
    void (*on_done)(void *user, batch_job *job, weft_status status, const batch_result *result);
    void *user;
} batch_call;

batch *batch_open(weft_engine *e, const batch_options *o);
/* Jobs that are left end as cancelled. NULL is fine. */
void batch_close(batch *b);
/* Checks the request and tokenizes its prompt; WEFT_USAGE if it can never run. Then nothing is
 * called back. */
weft_status batch_submit(batch *b, const batch_call *call, batch_job **out);
/* Before the next step: on_done comes from batch_step. */
void batch_cancel(batch_job *job);
bool batch_idle(const batch *b); /* nothing waits or runs */
/* One step of the engine at most. A failure is the engine's, not a job's: the jobs stay. */
weft_status batch_step(batch *b);

typedef struct {
    int waiting, running;
    int64_t steps, parts; /* parts: sequences over all steps */
    int64_t computed;     /* tokens */
    int64_t cached;       /* tokens that the prefix cache had, also after a preemption */
    int64_t prompt, generated;
    int64_t preempted;
    double engine_seconds, plan_seconds, text_seconds; /* steps; deciding; text and callbacks */
} batch_stats;
void batch_describe(const batch *b, batch_stats *out);
