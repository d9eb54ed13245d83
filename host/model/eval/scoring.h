/* SPDX-License-Identifier: Apache-2.0
 * Many continuations scored at once: several sequences share a step, and a sequence that goes on
 * to the next continuation of the same context keeps the KV of what they have in common. */
#pragma once
#include "weft.h"

typedef struct {
    const int32_t *ids; /* [n] context, then continuation; n >= 2 */
    int32_t n, first;   /* tokens first..n-1 are scored, first >= 1; n-1 <= the context size */
    int32_t group;      /* neighbours of one number are computed by one sequence, in order */
    float *logprob;     /* out, [n - first] */
    bool look;          /* find out `greedy` too, which reads every logit of those places */
    bool greedy;        /* out: each scored token has the largest logit (the first of equals) */
} score_request;

typedef void score_tick(void *user, int64_t done); /* requests so far */

/* Fills request[0..n). The engine was opened with options.score; up to max_seqs groups are
 * computed at once, all closed again at the end. The figures are those of weft_score, bit for bit.
 * tick may be NULL. */
weft_status score_requests(weft_engine *e, score_request *request, int64_t n, score_tick *tick,
                           void *user);
