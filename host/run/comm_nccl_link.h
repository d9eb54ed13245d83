/* SPDX-License-Identifier: Apache-2.0
 * What comm_nccl.c (life, waiting, failure) and comm_nccl_move.c (what is enqueued) share. */
#pragma once
#include "host/run/comm_nccl.h"
#include "host/run/comm_peer.h"
#include "host/run/device_gpu.h"
#include <cuda_runtime_api.h>
#include <pthread.h>

enum { WAYS = 2, WINDOW = 64, ARENAS = 16 };

/* An exchange that was enqueued; its events lie before and behind it in the stream. */
typedef struct {
    flight_place place;
    uint64_t peers;
    bool entered;
    cudaEvent_t begun, done;
} pending;

typedef struct {
    nccl_comm *comm; /* NULL: none yet, or aborted */
    pending at[WINDOW];
    uint64_t left, enqueued; /* exchanges; those between are on their way */
    char *stage;             /* room for tensors that are not in one piece; grows, then stays */
    uint64_t staged;
} way;

typedef struct nccl_world nccl_world;

typedef struct {
    comm_link link;
    nccl_world *world;
    int gpu;
    way way[WAYS];
    const weft_stream *side;      /* whose exchanges take the second way; NULL: none's */
    pending *shown;               /* what the flight record says this rank is in; NULL: none */
    uint64_t most[FLIGHT_GROUPS]; /* collectives of each group, up to the last that is done */
    cudaEvent_t tail;             /* of a stream that is waited for */
    void *arena[ARENAS];          /* what NCCL calls the memory it was told of */
    int arenas;
    weft_step sum; /* the row that adds, and its last operands */
    const weft_kernel *norm;
} nccl_link;

/* The ranks of this process. */
struct nccl_world {
    device *dev; /* its own: those of the ranks may be closed earlier */
    const nccl_library *nccl;
    nccl_link *link[COMM_MAX_RANKS];
    int links, open;
    uint64_t first, every; /* which exchanges compare heads */
    comm_peers *peers;     /* of all ranks; NULL: their GPUs do not reach each other */
    bool at_once;          /* WEFT_NCCL_SYNC=1: wait for each exchange; for emulated streams, which
                              hold up their caller, unless it is 0 */
    pthread_mutex_t lock;  /* of `open` */
};

/* Each backend has its own of these. */
#define nccl_alive DEVICE_GPU_NAME(nccl_alive)
#define nccl_fail_here DEVICE_GPU_NAME(nccl_fail_here)
#define nccl_cuda_fault DEVICE_GPU_NAME(nccl_cuda_fault)
#define nccl_fault DEVICE_GPU_NAME(nccl_fault)
#define nccl_settle DEVICE_GPU_NAME(nccl_settle)
#define nccl_has_come DEVICE_GPU_NAME(nccl_has_come)
#define nccl_advance DEVICE_GPU_NAME(nccl_advance)
#define nccl_on_their_way DEVICE_GPU_NAME(nccl_on_their_way)
#define nccl_drain DEVICE_GPU_NAME(nccl_drain)
#define nccl_show DEVICE_GPU_NAME(nccl_show)
#define nccl_enter_alone DEVICE_GPU_NAME(nccl_enter_alone)
#define nccl_free_stage DEVICE_GPU_NAME(nccl_free_stage)
#define nccl_copy DEVICE_GPU_NAME(nccl_copy)
#define nccl_sum DEVICE_GPU_NAME(nccl_sum)
#define nccl_can_norm DEVICE_GPU_NAME(nccl_can_norm)
#define nccl_exchange DEVICE_GPU_NAME(nccl_exchange)
#define nccl_all_reduce DEVICE_GPU_NAME(nccl_all_reduce)

static inline nccl_link *own(comm_link *l) {
    return (nccl_link *)(void *)l;
}

static inline cudaStream_t queue_of(weft_stream *s) {
    return (cudaStream_t)((weft_cuda_stream *)s)->stream;
}

static inline void to_base(nccl_link *l) {
    l->link.base->step = l->link.step;
    l->link.base->expected = l->link.expected;
}

/* A call inside a group may say that the group is in progress. */
static inline void keep(nccl_result *r, nccl_result now) {
    if (*r == NCCL_SUCCESS && now != NCCL_IN_PROGRESS)
        *r = now;
}

/* How the job failed, if it has. */
weft_status nccl_alive(nccl_link *l);
/* This rank has failed with err_message(), or with an error of CUDA or NCCL. */
weft_status nccl_fail_here(nccl_link *l, weft_status s);
weft_status nccl_cuda_fault(nccl_link *l, cudaError_t e, const char *what);
weft_status nccl_fault(nccl_link *l, const nccl_comm *c, nccl_result r, const char *what);

#define GPU_TRY(l, call, what) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) \
            return nccl_cuda_fault(l, error_, what); \
    } while (0)

/* Until NCCL has done what it began, or refused, with r. */
weft_status nccl_settle(nccl_link *l, const way *w, nccl_result r, const char *what,
                        double deadline);
bool nccl_has_come(cudaEvent_t e, cudaError_t *error);
/* Notes what the ways' streams have reached. */
weft_status nccl_advance(nccl_link *l);
/* Exchanges of a way, NULL: of both; until there are at most so many. */
uint64_t nccl_on_their_way(const nccl_link *l, const way *w);
weft_status nccl_drain(nccl_link *l, const way *w, uint64_t most);
/* Brings the flight record up to date. */
void nccl_show(nccl_link *l);
/* p is not on its way yet, and nothing else is; it may be that NCCL is stuck with it. */
void nccl_enter_alone(nccl_link *l, pending *p);

void nccl_free_stage(const nccl_link *l, way *w);
void nccl_copy(comm_link *link, weft_stream *s, const weft_tensor *dst, const weft_tensor *src);
void nccl_sum(comm_link *link, weft_stream *s, const weft_tensor *y, const void *x, int n);
bool nccl_can_norm(comm *c, weft_args *a);
weft_status nccl_exchange(comm_link *link, const comm_call *c);
weft_status nccl_all_reduce(comm_link *link, weft_stream *s, float *x, uint64_t n);
