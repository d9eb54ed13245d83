/* SPDX-License-Identifier: Apache-2.0
 * comm_proc: ranks in processes of their own. What they know of each other comes from comm_boot;
 * the data goes over a wire: sockets (comm_tcp.c) or MPI (comm_wire_mpi.c). */
#pragma once
#include "host/run/comm_boot.h"
#include "host/run/device.h"

/* One message under way: a head, then its bytes. */
typedef struct {
    int peer;
    bool out, done;
    comm_head head; /* out: as sent; else as received, once head_done */
    bool head_done;
    char *data;
    uint64_t bytes, moved; /* moved: of head and data together */
    void *request[2];      /* the wire's own */
} wire_part;

typedef struct comm_wire comm_wire;
typedef struct {
    const char *name;
    /* Moves what can be moved of part[0..n) and marks what is done; sleeps up to `seconds` where
     * nothing can. A head is checked as soon as it is there, before its data. WEFT_PEER with
     * *lost, the rank whose connection broke, or -1. */
    weft_status (*move)(comm_wire *w, wire_part *part, int n, double seconds, int *lost);
    /* comm_transport.all_reduce; NULL: none */
    weft_status (*all_reduce)(comm_wire *w, float *x, uint64_t n);
    void (*close)(comm_wire *w, bool failed);
} wire_kind;
struct comm_wire {
    const wire_kind *kind;
};

/* The links of a job of `ranks` ranks: link[r] for each rank of this process, *self its only one or
 * -1: all are. kind: "local", "tcp", "mpi", "nccl", or "auto" (NULL): nccl on GPUs, else as this
 * process was started. d: whose memory exchanges move, the one of this process; NULL: the host's.
 * flags, for a message: what asked for so many ranks. Links are closed before d. */
weft_status comm_open(device *d, const char *kind, const char *flags, int ranks, double timeout,
                      comm_link **link, int *self);
/* This process's link to the job that `l` tells of, over `comm`: "tcp" or "mpi". *name_of_job
 * (optional) lives as long as the link. */
weft_status comm_proc_open(const launch *l, const char *kind, double timeout, comm_link **out);
boot *comm_proc_boot(const comm_link *l); /* NULL for other transports */
/* After a failure, where the job outlives its ranks: *link is the link of the next epoch, or NULL
 * where this process is left over. As boot_regroup; a rank lost meanwhile is a failure of the new
 * link. */
weft_status comm_proc_regroup(comm_link **link, const boot_rules *rules, int *rank, int *ranks);
const uint8_t *comm_proc_cookie(const comm_link *l); /* NULL for other transports */
const char *comm_proc_job(const comm_link *l);       /* "" for other transports */

weft_status comm_tcp_open(const launch *l, double timeout, boot **b, comm_wire **out);
/* *out NULL: the new boot has failed already, or there is none. */
weft_status comm_tcp_again(boot **b, double timeout, const boot_rules *rules, int *rank, int *ranks,
                           comm_wire **out);
bool comm_mpi_found(void); /* libweft_mpi.so can be loaded */
/* Fills in l's rank and ranks where MPI knows better. */
weft_status comm_mpi_open(launch *l, double timeout, boot **b, comm_wire **out);
/* WEFT_OK, or WEFT_PEER naming both sides. */
weft_status wire_check(const wire_part *p, const comm_head *want, int rank, int64_t step);
