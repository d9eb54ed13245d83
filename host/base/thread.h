/* SPDX-License-Identifier: Apache-2.0
 * Threads: the pool behind a CPU weft_stream, and how many cores this process may use. */
#pragma once
#include "weft/status.h"
#include "weft/stream.h"

/* Cores this process may run on (affinity mask and cgroup quota), at least 1. */
int thread_cores(void);
/* The quota alone: the tightest limit of the groups that `membership` (/proc/self/cgroup) names
 * and of their parents under `root` (/sys/fs/cgroup), rounded up to cores; 0: no limit. */
int thread_quota_cores(const char *membership, const char *root);

/* A pool of `threads` workers, the caller being worker 0. Workers spin briefly between regions
 * and then sleep on a futex. Regions may not nest. Free with thread_pool_close. */
weft_status thread_pool_open(int threads, weft_stream **out);
void thread_pool_close(weft_stream *s);
