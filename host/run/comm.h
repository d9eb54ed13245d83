/* SPDX-License-Identifier: Apache-2.0
 * comm: how ranks exchange data. Collectives are kernel rows whose state is this rank's end of a
 * group; every rank of the group runs them in plan order. Data moves here, sums are our own ops.
 *
 * Everything is one primitive, the exchange: tensors to some ranks, tensors from some, done when
 * all have arrived. A transport is that primitive and nothing more (comm_local.c: threads of one
 * process). No exchange waits for ever: past its deadline, or once any rank has failed, it fails,
 * and so does every later one of the job (comm_status).
 *
 * Most transports move memory of the host and are done on return. NCCL (comm_nccl.c) moves memory
 * of GPUs in the order of a stream: exchanges of a stream are enqueued, comm_finish waits. */
#pragma once
#include "host/run/flight.h"
#include "host/run/shard.h"
#include "weft/status.h"
#include "weft/step.h"
#include <stdbool.h>

enum { COMM_MAX_RANKS = 64, COMM_TIMEOUT_SECONDS = 10 };

typedef struct comm_link comm_link;

/* One rank's end of a group. */
typedef struct comm {
    comm_link *link;
    int group, rank, ranks;            /* WEFT_GROUP_*; of this rank in it; how many */
    int member[COMM_MAX_RANKS];        /* the group's ranks as ranks of the world */
    uint64_t sequence;                 /* collectives of the whole group done */
    uint64_t moved[2][COMM_MAX_RANKS]; /* sends to, receives from each of its ranks */
    uint64_t sent;                     /* bytes this rank handed to others */
} comm;

/* What both ends of a message must agree on. */
typedef struct {
    int32_t op, group;
    uint64_t sequence, bytes;
    char tag[FLIGHT_TAG_BYTES]; /* of the step: "L3.attn.o" */
} comm_head;

/* A tensor to or from a rank of the world; any strides. */
typedef struct {
    int peer;
    weft_tensor t;
} comm_part;

typedef struct {
    comm_head head; /* bytes are each part's own */
    const comm_part *send, *recv;
    int nsend, nrecv;
    double deadline;     /* clock_seconds() */
    weft_stream *stream; /* of the parts' device, whose order the exchange keeps; NULL: the parts
                            are memory of the host */
    flight_place place;
    const weft_step *norm; /* a step of rank_norm, which moves the parts itself; NULL: none */
} comm_call;

typedef struct comm_transport {
    const char *name;
    /* Moves the parts. May be called by the rank's own thread alone. On failure the link's world is
     * failed (comm_fail). */
    weft_status (*exchange)(comm_link *l, const comm_call *call);
    /* Tells every rank that this one has failed with `code` and err_message(). */
    void (*abort)(comm_link *l, weft_status code);
    /* WEFT_OK, or the failure of any rank with its message set. */
    weft_status (*status)(comm_link *l);
    /* comm_blamed and comm_accuse; NULL: it is always the whole job that has failed */
    int (*blamed)(comm_link *l);
    /* This rank has waited past its deadline: fails the job, naming who is to blame. */
    weft_status (*late)(comm_link *l);
    void (*accuse)(comm_link *l, int rank);
    void (*done)(comm_link *l); /* comm_done; NULL: a rank that is done ends, which is seen */
    void (*close)(comm_link *l);
    /* x[0..n) = a sum of all ranks' x in whatever order is the transport's own, of host memory: for
     * comparisons. NULL: it has none. */
    weft_status (*all_reduce)(comm_link *l, float *x, uint64_t n);
    /* Of a transport that works on a device's streams; else NULL. */
    const struct comm_stream_ops *on_stream;
} comm_transport;

/* Each enqueues only. */
typedef struct comm_stream_ops {
    /* As comm_copy. */
    void (*copy)(comm_link *l, weft_stream *s, const weft_tensor *dst, const weft_tensor *src);
    /* y = x[0] + x[1] + ... x[n-1] in this order, fp32, of y's shape; x in one piece behind each
     * other. */
    void (*sum)(comm_link *l, weft_stream *s, const weft_tensor *y, const void *x, int n);
    /* What NCCL itself calls an all-reduce, whose order of sums is its own: for comparisons. */
    weft_status (*all_reduce)(comm_link *l, weft_stream *s, float *x, uint64_t n);
    /* Whether rank_norm can be done of what `a` says but for the windows, which it fills in. */
    bool (*can_norm)(comm *c, weft_args *a);
    weft_status (*finish)(comm_link *l); /* comm_finish, comm_wait, comm_side */
    weft_status (*wait)(comm_link *l, weft_stream *s);
    weft_status (*side)(comm_link *l, const weft_stream *s);
    weft_status (*attend)(comm_link *l); /* comm_attend */
    /* comm_memory */
    weft_status (*memory)(comm_link *l, void *p, uint64_t bytes);
} comm_stream_ops;

/* The first message with a NaN in it. */
typedef struct {
    comm_head head;
    int from;                                   /* the rank of the world; -1: there was none */
    uint64_t done[WEFT_GROUPS];                 /* what this rank had sent by then: collectives, */
    uint64_t sent[WEFT_GROUPS][COMM_MAX_RANKS]; /* and sends to each */
} comm_nan;

/* Rows of a step that are true: tokens, and rows of logits where a tensor has bucket_rows. */
typedef struct {
    int64_t tokens, bucket_rows, rows;
} comm_true_rows;

/* A rank's connection to every other. Transports begin theirs with this. */
struct comm_link {
    const comm_transport *transport;
    struct comm_link *base; /* the one that this works over; NULL: none */
    int rank, ranks;        /* of the world */
    double timeout;         /* seconds a peer may be late beyond what is expected */
    double expected;        /* seconds that the work between two collectives may take */
    int64_t step, epoch;    /* epoch: how often the job's ranks have met again */
    uint64_t calls;         /* exchanges begun */
    flight *flight;         /* what this rank is doing; the transport's */
    bool watched;           /* for NaN */
    comm_nan nan;           /* its counts of what is sent go on until there is one */
    comm_true_rows rows;    /* of a step of inference; tokens 0: nothing is looked at */
};

/* The links of `ranks` threads of this process, link[0..ranks). Close each one. */
weft_status comm_local_open(int ranks, double timeout, comm_link **link);
/* The same job with `ranks` of its ranks, after a failure, when every thread is back: closes
 * link[0..its ranks) and makes link[0..ranks). */
weft_status comm_local_again(int ranks, comm_link **link);

/* The group of `ranks` ranks of the world `member`, one of which is the link's. */
comm comm_group(comm_link *l, int group, int ranks, const int *member);
/* The link's ends of all groups of the mesh that the ranks of the world from `first` on are:
 * end[WEFT_GROUPS]. */
void comm_join(comm_link *l, const shard_mesh *mesh, int first, comm *end);
void comm_close(comm_link *l); /* NULL: nothing */
/* WEFT_OK, or how the job failed: the same on every rank, naming who failed where. */
weft_status comm_status(comm_link *l);
/* The rank that the failure blames; -1: none alone, or there is no failure. */
int comm_blamed(comm_link *l);
/* This rank cannot go on (`code`, err_message): nobody waits for it. */
void comm_abort(comm_link *l, weft_status code);
/* This rank takes part in nothing more: who waits for it does so in vain, and fails. NULL:
 * nothing. */
void comm_done(comm_link *l);
/* Returns when all that was enqueued has arrived, or the job has failed; before a device's sync,
 * which would wait for ever. */
weft_status comm_finish(comm_link *l);
/* The same of what is enqueued on s, exchanges or not; those of other streams may go on. NULL:
 * nothing. */
weft_status comm_wait(comm_link *l, weft_stream *s);
/* Whether exchanges are enqueued on streams. NULL: no. */
bool comm_on_stream(const comm_link *l);
/* From now on exchanges of stream s, one of this link's, pass by those of other streams; only the
 * order within each is kept. NULL: none do. Every rank calls it. */
weft_status comm_side(comm_link *l, const weft_stream *s);
/* The calling thread does this rank's work from now on: its device's calls are for the rank's
 * GPU. NULL: nothing. */
weft_status comm_attend(comm_link *l);
/* [p, p + bytes) of the rank's device will hold parts until the link is closed: a transport may
 * reach it directly. NULL: nothing. */
weft_status comm_memory(comm_link *l, void *p, uint64_t bytes);
/* Rank `rank` has done wrong (err_message): the job fails, and blames it. */
void comm_accuse(comm_link *l, int rank);
/* From now on numbers of f32 and bf16 that others send are looked through; what was found before is
 * forgotten. */
void comm_watch(comm_link *l);
/* Whether `sender` sent x, which rank sent_to was sent, before it was sent a NaN itself. */
bool comm_nan_was_first(const comm_nan *x, int sent_to, const comm_nan *sender);
/* "all_to_all 95 of dp, parts": a message, for a report. */
void comm_head_text(const comm_head *h, char *out, size_t n);
/* Begins step `step`, whose longest stretch between two collectives should take `seconds`. */
void comm_step(comm_link *l, int64_t step, double seconds);
/* Waits until every rank of the group is here; `what` goes into a report. */
weft_status comm_barrier(comm *c, const char *what);
/* Every rank's n bytes at `mine`, in rank order, to all[ranks * n]. */
weft_status comm_collect(comm *c, void *mine, void *all, uint64_t n, const char *what);
/* n numbers at `x` of rank `from` of the group go to rank `to`; called by these two. */
weft_status comm_pass(comm *c, int from, int to, float *x, int64_t n, const char *what);
/* Copies n bytes at `data` from rank `root` of the group to all of it. */
weft_status comm_broadcast(comm *c, int root, void *data, uint64_t n, const char *what);
/* comm_sound.c. From now on a rank that sends NaN where others do not ends the job (WEFT_PEER, with
 * its name): of a feed of so many true tokens, and rows of logits in tensors of bucket_rows. */
void comm_sound_rows(comm_link *l, int64_t tokens, int64_t bucket_rows, int64_t rows);
/* What came for a step: part[n] of each rank, which follow each other along `axis`; of each rank
 * the part along it that this one adds up; a tensor of one rank alone. */
void comm_sound_parts(comm *c, const weft_step *s, const weft_tensor *part, int n, int axis);
void comm_sound_addends(comm *c, const weft_step *s, const weft_tensor *part, int n, int axis);
void comm_sound_from(comm *c, const weft_step *s, const weft_tensor *t, int rank);
/* x[0..n) = the sum of all ranks' x in rank order, fp32: a reduce-scatter, then an all-gather, each
 * of ceil(n / ranks) elements a rank. scratch: comm_all_reduce_scratch bytes. With a stream, x and
 * scratch are of its device and it only enqueues. */
weft_status comm_all_reduce(comm *c, weft_stream *s, float *x, int64_t n, void *scratch,
                            const char *what);
/* One part to a rank of the world and one from another, of host memory, counted as a
 * reduce-scatter of the group. */
weft_status comm_shift(comm *c, const comm_part *send, const comm_part *recv, const char *what);
uint64_t comm_all_reduce_scratch(int64_t n, int ranks);
/* Where a plan's all_gather, leaf_sum and rmsnorm follow each other, of a few rows, and GPUs reach
 * each other, they become one step, rank_norm, with the same bits. Of a plan that is bound. */
void comm_fuse(weft_plan *p, comm *end);
/* Its step, on a stream. */
weft_status comm_norm(comm *c, const weft_step *s, weft_stream *stream);
/* Rows that work in memory of the host over any transport; a step's state is the rank's comm. */
extern const weft_kernel comm_host_kernels[];
/* comm_sample.c: the row of sample_sharded, in the table above, and what it sends if no row has to
 * be seen whole and none is drawn from all tokens. */
int comm_sample_ok(const weft_args *a);
size_t comm_sample_scratch(const weft_args *a);
void comm_sample_run(const weft_step *s, weft_stream *stream);
int64_t comm_sample_sent(const weft_args *a, int ranks);
const char *comm_group_name(int group); /* "tp" */
/* The group a collective step runs over. */
int comm_group_of(weft_op op, const weft_args *a);
/* Bytes that `rank` of a group of `ranks` sends for one run of a collective step; 0 for other
 * ops. */
int64_t comm_sent_bytes(weft_op op, const weft_args *a, int ranks, int rank);

/* ---- For transports ---- */

/* Notes in the flight record that a rank is inside a collective; that it has left it. */
void comm_enter(comm_link *l, const flight_place *p);
void comm_leave(comm_link *l, flight_place *p);
/* dst = src element by element; equal shapes and types, any strides. */
void comm_copy(const weft_tensor *dst, const weft_tensor *src);
/* y[0..count) = x[0] + x[1] + ... x[n-1] in this order; y may be one of x. */
void comm_sum(float *y, const float *const *x, int n, int64_t count);
/* Elements of the longest runs that both have in one piece, and the axis outside of them, or -1. */
int64_t comm_run(const weft_tensor *a, const weft_tensor *b, int *axis);
char *comm_element(const weft_tensor *t, const int64_t *index);
bool comm_in_one_piece(const weft_tensor *t);
uint64_t comm_part_bytes(const comm_part *p);
/* WEFT_PEER naming both sides unless a message that came from `peer` is the one expected. */
weft_status comm_check(const comm_link *l, int peer, const comm_head *want, const comm_head *got);
