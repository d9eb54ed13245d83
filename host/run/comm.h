/* SPDX-License-Identifier: Apache-2.0
 * comm: how ranks of one group exchange data. Collectives are kernel rows whose state is the rank's
 * end of the group; every rank runs them in plan order. Data moves here, sums are our own ops. */
#pragma once
#include "weft/kernel.h"
#include "weft/status.h"

typedef struct comm_group comm_group;

/* One rank's end. */
typedef struct comm {
    comm_group *group;
    int rank, ranks;
    uint64_t sequence; /* collectives done */
    uint64_t sent;     /* bytes this rank handed to others */
} comm;

/* The transport of ranks that are threads of one process; ends[0..ranks) are filled in. */
weft_status comm_local_open(int ranks, comm *ends, comm_group **out);
void comm_local_close(comm_group *g);
/* Waits until every rank of the group is here. */
void comm_local_barrier(comm *c);
/* Rows of the local transport; a step's state points to the rank's comm. */
extern const weft_kernel comm_local_kernels[];

/* Bytes a rank sends for one run of a collective step; 0 for other ops. */
int64_t comm_sent_bytes(weft_op op, const weft_args *a, int ranks);
