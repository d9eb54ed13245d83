/* SPDX-License-Identifier: Apache-2.0
 * comm_peer: windows of device memory through which the GPUs of one process reach each other, for
 * rank_norm (kernels/cuda/rank_norm.cu says what is in one). */
#pragma once
#include "host/run/comm.h"
#include "host/run/device.h"

typedef struct {
    device *dev;
    int n, gpu[COMM_MAX_RANKS];
    void *window[COMM_MAX_RANKS];
    void *table[COMM_MAX_RANKS][WEFT_GROUPS];
} comm_peers;

/* A window on each of n GPUs that reach each other. `dev` outlives them. The calling thread's GPU
 * is another afterwards. */
weft_status comm_peers_open(device *dev, int n, const int *gpu, comm_peers **out);
/* i64[n] in memory of GPU i: where the windows of the GPUs member[0..n) are, for a group. */
weft_status comm_peers_table(comm_peers *p, int i, int group, int n, const int *member, void **out);
/* Whoever waits in a window waits no longer: the job has failed. */
void comm_peers_stop(comm_peers *p);
void comm_peers_close(comm_peers *p); /* NULL: nothing */
