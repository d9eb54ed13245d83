/* SPDX-License-Identifier: Apache-2.0
 * The summary of `weft batch`: rates, waiting times, and what the scheduler itself costs. */
#pragma once
#include "host/run/shard.h"
#include "host/serve/batch.h"

typedef struct {
    batch_stats stats;
    int64_t written, failed, skipped; /* lines of this run; of runs before it */
    int64_t prompt, generated, cached;
    uint64_t seed;
    int replicas;
    int64_t by[SHARD_MAX_RANKS]; /* lines each of them answered */
    double seconds, io_seconds;
    float *first, *latency; /* [n] seconds from when the scheduler got it */
    int64_t n, cap;
} batch_sum;

void batch_sum_add(batch_sum *s, const batch_result *r);
weft_status batch_sum_json(batch_sum *s); /* one object to stdout */
void batch_sum_print(batch_sum *s);       /* to stderr */
void batch_sum_fini(batch_sum *s);
