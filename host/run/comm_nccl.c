/* SPDX-License-Identifier: Apache-2.0
 * The transport of ranks that have a GPU each: NCCL moves what is on a stream; what is in memory of
 * the host (the job's own news, results) goes by the links that its ranks have anyway, which also
 * know who is alive. So NCCL never decides how long to wait: its communicators do not block, every
 * wait asks the other links too, and the first failure aborts them.
 *
 * Everything is grouped sends and receives over one communicator: bytes only. Sums are our own
 * kernels', in rank order.
 *
 * Messages of NCCL carry no heads. Ranks compare theirs by the other links before the first
 * exchanges of each group and then before every CHECK_EVERYth (WEFT_COMM_CHECK=N: every Nth, 0:
 * never); that waits for what was enqueued before.
 *
 * Compiled twice, as device_cuda.c is. */
#include "host/run/comm_nccl.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm_peer.h"
#include "host/run/comm_proc.h"
#include "host/run/device_gpu.h"
#include "host/run/registry.h"
#include "weft/step.h"
#include <cuda_runtime_api.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TEXT__(x) #x
#define TEXT_(x) TEXT__(x)
#define BACKEND TEXT_(DEVICE_GPU)
#define SPIN_SECONDS 1e-4
#define STOPPED_SECONDS 1.0 /* between two looks: the process was stopped, which is no delay */
#define VERDICT_SECONDS 1.0
enum { WINDOW = 64, ARENAS = 16, CHECK_FIRST = 512, CHECK_EVERY = 64, INIT_SECONDS = 30 };

/* An exchange that was enqueued; its events lie before and behind it in the stream. */
typedef struct {
    flight_place place;
    uint64_t peers;
    bool entered;
    cudaEvent_t begun, done;
} pending;

typedef struct nccl_world nccl_world;

typedef struct {
    comm_link link;
    nccl_world *world;
    nccl_comm *comm; /* NULL: none yet, or aborted */
    int gpu;
    pending at[WINDOW];
    uint64_t left, enqueued; /* exchanges; those between are on their way */
    char *stage;             /* room for tensors that are not in one piece; grows, then stays */
    uint64_t staged;
    void *arena[ARENAS]; /* what NCCL calls the memory it was told of */
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

static nccl_link *own(comm_link *l) {
    return (nccl_link *)(void *)l;
}

static cudaStream_t queue_of(weft_stream *s) {
    return (cudaStream_t)((weft_cuda_stream *)s)->stream;
}

/* ---- Waiting ---- */

typedef struct {
    double since, deadline, last;
} patience;

static patience patience_of(double deadline) {
    double now = clock_seconds();
    return (patience){now, deadline, now};
}

static bool is_over(patience *p) {
    double now = clock_seconds(), gap = now - p->last;
    p->deadline += gap > STOPPED_SECONDS ? gap : 0;
    p->last = now;
    if (now - p->since > SPIN_SECONDS)
        usleep(20);
    return now > p->deadline;
}

/* ---- Failure ---- */

typedef struct {
    const nccl_library *nccl;
    nccl_comm *comm;
} last_words;

static void *abort_main(void *arg) {
    last_words w = *(last_words *)arg;
    mem_free(arg);
    w.nccl->abort(w.comm);
    return NULL;
}

/* ncclCommAbort ends the kernels that wait for a peer. It may itself wait for one that is gone:
 * then it is left behind. */
static void give_up(nccl_link *l) {
    if (!l->comm)
        return;
    comm_peers_stop(l->world->peers);
    pthread_t thread;
    struct timespec soon;
    last_words *w = mem_alloc(sizeof *w);
    *w = (last_words){l->world->nccl, l->comm};
    l->comm = NULL;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_sec += 1;
    if (pthread_create(&thread, NULL, abort_main, w) != 0)
        mem_free(w);
    else if (pthread_timedjoin_np(thread, NULL, &soon) != 0)
        pthread_detach(thread);
}

static weft_status base_status(const nccl_link *l) {
    return l->link.base->transport->status(l->link.base);
}

/* How the job failed, if it has. */
static weft_status alive(nccl_link *l) {
    weft_status s = base_status(l);
    if (s != WEFT_OK)
        give_up(l);
    return s;
}

/* This rank has failed with err_message(). */
static weft_status fail_here(nccl_link *l, weft_status s) {
    l->link.base->transport->abort(l->link.base, s);
    return alive(l);
}

static weft_status late(nccl_link *l) {
    l->link.base->step = l->link.step;
    weft_status s = l->link.base->transport->late(l->link.base);
    give_up(l);
    return s;
}

/* Links of processes name the rank that fails, those of threads do not. */
static weft_status fail_as_rank(nccl_link *l, weft_status code, const char *what, const char *why,
                                const char *more) {
    char who[32] = "";
    if (!*comm_proc_job(l->link.base))
        snprintf(who, sizeof who, "rank %d: ", l->link.rank);
    weft_fail(code, "%s%s: %s%s%.300s", who, what, why, *more ? "; " : "", more);
    return fail_here(l, code);
}

static weft_status cuda_fault(nccl_link *l, cudaError_t e, const char *what) {
    cudaGetLastError();
    return fail_as_rank(l, WEFT_DEVICE, what, cudaGetErrorString(e), "");
}

#define GPU_TRY(l, call, what) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) \
            return cuda_fault(l, error_, what); \
    } while (0)

/* Where NCCL lost a peer, the other links are about to know which: their word counts. */
static weft_status nccl_fault(nccl_link *l, nccl_result r, const char *what) {
    const nccl_library *n = l->world->nccl;
    bool peer = r == NCCL_REMOTE_ERROR || r == NCCL_SYSTEM_ERROR;
    patience p = patience_of(clock_seconds() + VERDICT_SECONDS);
    while (peer && !is_over(&p))
        WEFT_TRY(alive(l));
    const char *more = n->last_error(l->comm);
    return fail_as_rank(l, r == NCCL_UNHANDLED_CUDA_ERROR ? WEFT_DEVICE : WEFT_PEER, what,
                        n->error_string(r), more ? more : "");
}

/* What a communicator says of what it was asked to do: still in progress, done, or failed. */
static weft_status look(nccl_link *l, const char *what, bool *done) {
    nccl_result now = NCCL_SUCCESS, r = l->world->nccl->async_error(l->comm, &now);
    r = r == NCCL_SUCCESS ? now : r;
    *done = r == NCCL_SUCCESS;
    return *done || r == NCCL_IN_PROGRESS ? WEFT_OK : nccl_fault(l, r, what);
}

/* Until NCCL has done on every link what it began, or refused, with r. */
static weft_status settle_all(nccl_link *const *link, int n, nccl_result r, const char *what,
                              double deadline) {
    patience p = patience_of(deadline);
    bool all = r == NCCL_SUCCESS;
    if (!all && r != NCCL_IN_PROGRESS)
        return nccl_fault(link[0], r, what);
    while (!all) {
        all = true;
        for (int i = 0; i < n; i++) {
            bool done;
            WEFT_TRY(alive(link[i]));
            WEFT_TRY(look(link[i], what, &done));
            all &= done;
        }
        if (!all && is_over(&p))
            return late(link[0]);
    }
    return WEFT_OK;
}

static weft_status settle(nccl_link *l, nccl_result r, const char *what, double deadline) {
    return settle_all(&l, 1, r, what, deadline);
}

/* ---- What is on its way ---- */

static void enter(nccl_link *l, pending *p) {
    p->entered = true;
    p->place.since = clock_seconds();
    comm_enter(&l->link, &p->place);
    atomic_store_explicit(&l->link.flight->waits, p->peers, memory_order_relaxed);
}

static bool has_come(cudaEvent_t e, cudaError_t *error) {
    *error = cudaEventQuery(e);
    if (*error == cudaErrorNotReady) {
        cudaGetLastError();
        *error = cudaSuccess;
        return false;
    }
    return *error == cudaSuccess;
}

/* Notes what the stream has reached. A rank whose stream is stuck before an exchange is behind the
 * one before, and waits for nobody. */
static weft_status advance(nccl_link *l) {
    cudaError_t e = cudaSuccess;
    bool none;
    while (l->left < l->enqueued) {
        pending *p = &l->at[l->left % WINDOW];
        if (!p->entered && has_come(p->begun, &e))
            enter(l, p);
        if (!p->entered || !has_come(p->done, &e))
            break;
        atomic_store_explicit(&l->link.flight->waits, 0, memory_order_relaxed);
        comm_leave(&l->link, &p->place);
        l->left++;
    }
    GPU_TRY(l, e, "stream");
    return look(l, "NCCL", &none);
}

/* Until at most `most` exchanges are on their way. */
static weft_status drain(nccl_link *l, uint64_t most) {
    double allowed = l->link.timeout + l->link.expected;
    patience p = patience_of(clock_seconds() + allowed);
    WEFT_TRY(alive(l));
    while (l->enqueued - l->left > most) {
        uint64_t before = l->left;
        WEFT_TRY(advance(l));
        if (l->left > before)
            p = patience_of(clock_seconds() + allowed);
        WEFT_TRY(alive(l));
        if (l->enqueued - l->left > most && is_over(&p))
            return late(l);
    }
    return WEFT_OK;
}

static weft_status nccl_finish(comm_link *link) {
    return drain(own(link), 0);
}

/* ---- Tensors on a stream ---- */

/* Rows of the longest runs both have in one piece. */
static cudaError_t copy_rows(cudaStream_t q, const weft_tensor *dst, const weft_tensor *src) {
    int axis;
    int64_t run = comm_run(dst, src, &axis), rows = axis >= 0 ? dst->shape[axis] : 1;
    int64_t index[WEFT_DIMS] = {0}, each = run * rows;
    int dtype = dst->dtype;
    size_t width = (size_t)weft_dtype_bytes(dtype, run);
    size_t to = axis >= 0 ? (size_t)weft_dtype_bytes(dtype, dst->stride[axis]) : width;
    size_t from = axis >= 0 ? (size_t)weft_dtype_bytes(dtype, src->stride[axis]) : width;
    cudaError_t e = cudaSuccess;
    for (int64_t n = each ? weft_tensor_count(dst) / each : 0; n > 0 && e == cudaSuccess; n--) {
        char *d = comm_element(dst, index), *s = comm_element(src, index);
        e = rows == 1 ? cudaMemcpyAsync(d, s, width, cudaMemcpyDeviceToDevice, q)
                      : cudaMemcpy2DAsync(d, to, s, from, width, (size_t)rows,
                                          cudaMemcpyDeviceToDevice, q);
        for (int i = axis - 1; i >= 0; i--) {
            if (++index[i] < dst->shape[i])
                break;
            index[i] = 0;
        }
    }
    return e;
}

static void nccl_copy(comm_link *link, weft_stream *s, const weft_tensor *dst,
                      const weft_tensor *src) {
    cudaError_t e = copy_rows(queue_of(s), dst, src);
    if (e != cudaSuccess)
        cuda_fault(own(link), e, "copy");
}

/* The plan's memory for this is the row's x; only its last operands are kept, for whom a stream's
 * error names its step to. */
static void nccl_sum(comm_link *link, weft_stream *s, const weft_tensor *y, const void *x, int n) {
    nccl_link *l = own(link);
    weft_rank_sum_args *a = &l->sum.args.rank_sum;
    bool flat = comm_in_one_piece(y);
    int64_t count = weft_tensor_count(y), width = flat ? count : y->shape[y->ndim - 1];
    WEFT_ASSERT(flat || y->ndim == 2);
    int64_t shape[3] = {n, width ? count / width : 0, width};
    *a = (weft_rank_sum_args){.x = weft_tensor_make(WEFT_F32, 3, shape),
                              .y = weft_tensor_make(WEFT_F32, 2, shape + 1)};
    a->y.stride[0] = flat ? width : y->stride[0];
    a->x.data = (void *)(uintptr_t)x;
    a->y.data = y->data;
    a->x.id = a->y.id = 1;
    snprintf(l->sum.tag, sizeof l->sum.tag, "sum over ranks");
    if (!l->sum.kernel &&
        registry_find(l->world->dev, WEFT_OP_rank_sum, &l->sum.args, &l->sum.kernel) != WEFT_OK)
        fail_here(l, WEFT_UNSUPPORTED);
    else
        l->sum.kernel->run(&l->sum, s);
}

static uint64_t rounded(uint64_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static uint64_t stage_bytes(const comm_part *p, int n) {
    uint64_t need = 0;
    for (int i = 0; i < n; i++)
        need += comm_in_one_piece(&p[i].t) ? 0 : rounded(comm_part_bytes(&p[i]));
    return need;
}

static void free_stage(nccl_link *l) {
    const nccl_library *n = l->world->nccl;
    if (l->stage && n->memory_free)
        n->memory_free(l->stage);
    else if (l->stage && cudaFree(l->stage) != cudaSuccess)
        cudaGetLastError();
    l->stage = NULL;
    l->staged = 0;
}

/* NCCL's own allocator, where there is one, gives memory that peers can reach without a copy. */
static weft_status make_room(nccl_link *l, uint64_t need) {
    const nccl_library *n = l->world->nccl;
    void *p = NULL;
    if (need <= l->staged)
        return WEFT_OK;
    WEFT_TRY(drain(l, 0)); /* what is on its way may be in the old one */
    free_stage(l);
    if (n->memory_alloc && n->memory_free) {
        nccl_result r = n->memory_alloc(&p, need);
        if (r != NCCL_SUCCESS)
            return nccl_fault(l, r, "memory for exchanges");
    } else {
        GPU_TRY(l, cudaMalloc(&p, need), "memory for exchanges");
    }
    l->stage = p;
    l->staged = need;
    return WEFT_OK;
}

/* Where a part travels: in place, or in the stage. */
static void *travels_at(const comm_part *p, char **stage) {
    char *at = *stage;
    if (comm_in_one_piece(&p->t))
        return p->t.data;
    *stage += rounded(comm_part_bytes(p));
    return at;
}

static weft_tensor packed(const comm_part *p, void *at) {
    weft_tensor t = weft_tensor_make(p->t.dtype, p->t.ndim, p->t.shape);
    t.data = at;
    return t;
}

/* ---- Heads ---- */

static void to_base(nccl_link *l) {
    l->link.base->step = l->link.step;
    l->link.base->expected = l->link.expected;
}

static bool is_check_due(const nccl_link *l, const comm_call *c) {
    const nccl_world *w = l->world;
    return c->head.sequence < w->first || (w->every && c->head.sequence % w->every == 0);
}

static comm_part number_part(int peer, uint64_t *n) {
    int64_t bytes = sizeof *n;
    comm_part p = {.peer = peer, .t = weft_tensor_make(WEFT_I8, 1, &bytes)};
    p.t.data = n;
    return p;
}

/* The other links compare where both are; how much comes is what they carry here. */
static weft_status check_heads(nccl_link *l, const comm_call *c) {
    uint64_t out[COMM_MAX_RANKS], in[COMM_MAX_RANKS];
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    comm_call call = *c;
    for (int i = 0; i < c->nsend; i++) {
        out[i] = comm_part_bytes(&c->send[i]);
        send[i] = number_part(c->send[i].peer, &out[i]);
    }
    for (int i = 0; i < c->nrecv; i++)
        recv[i] = number_part(c->recv[i].peer, &in[i]);
    call.send = send;
    call.recv = recv;
    call.stream = NULL;
    to_base(l);
    WEFT_TRY(l->link.base->transport->exchange(l->link.base, &call));
    for (int i = 0; i < c->nrecv; i++) {
        comm_head want = c->head, got = c->head;
        want.bytes = comm_part_bytes(&c->recv[i]);
        got.bytes = in[i];
        weft_status s = comm_check(&l->link, c->recv[i].peer, &want, &got);
        if (s != WEFT_OK)
            return fail_here(l, s);
    }
    return WEFT_OK;
}

/* ---- The exchange ---- */

static uint64_t peers_of(const comm_call *c) {
    uint64_t peers = 0;
    for (int i = 0; i < c->nsend; i++)
        peers |= (uint64_t)1 << c->send[i].peer;
    for (int i = 0; i < c->nrecv; i++)
        peers |= (uint64_t)1 << c->recv[i].peer;
    return peers;
}

static weft_status begin(nccl_link *l, cudaStream_t q, pending **out) {
    pending *p = &l->at[l->enqueued % WINDOW];
    if (!p->begun) {
        GPU_TRY(l, cudaEventCreateWithFlags(&p->begun, cudaEventDisableTiming), "event");
        GPU_TRY(l, cudaEventCreateWithFlags(&p->done, cudaEventDisableTiming), "event");
    }
    GPU_TRY(l, cudaEventRecord(p->begun, q), "event");
    *out = p;
    return WEFT_OK;
}

static weft_status end(nccl_link *l, cudaStream_t q, pending *p) {
    GPU_TRY(l, cudaEventRecord(p->done, q), "event");
    l->enqueued++;
    return l->world->at_once ? drain(l, 0) : advance(l);
}

/* A call inside a group may say that the group is in progress. */
static void keep(nccl_result *r, nccl_result now) {
    if (*r == NCCL_SUCCESS && now != NCCL_IN_PROGRESS)
        *r = now;
}

static nccl_result call_group(nccl_link *l, const comm_call *c, cudaStream_t q, char *stage) {
    const nccl_library *n = l->world->nccl;
    nccl_result r = n->group_start();
    if (r != NCCL_SUCCESS)
        return r;
    for (int i = 0; i < c->nsend; i++) {
        void *at = travels_at(&c->send[i], &stage);
        uint64_t bytes = comm_part_bytes(&c->send[i]);
        if (bytes)
            keep(&r, n->send(at, bytes, NCCL_INT8, c->send[i].peer, l->comm, q));
    }
    for (int i = 0; i < c->nrecv; i++) {
        void *at = travels_at(&c->recv[i], &stage);
        uint64_t bytes = comm_part_bytes(&c->recv[i]);
        if (bytes)
            keep(&r, n->recv(at, bytes, NCCL_INT8, c->recv[i].peer, l->comm, q));
    }
    nccl_result ended = n->group_end();
    return r == NCCL_SUCCESS ? ended : r;
}

static weft_status pack_all(nccl_link *l, const comm_call *c, cudaStream_t q) {
    char *stage = l->stage;
    for (int i = 0; i < c->nsend; i++) {
        weft_tensor to = packed(&c->send[i], travels_at(&c->send[i], &stage));
        if (to.data != c->send[i].t.data)
            GPU_TRY(l, copy_rows(q, &to, &c->send[i].t), "copy");
    }
    return WEFT_OK;
}

static weft_status unpack_all(nccl_link *l, const comm_call *c, cudaStream_t q) {
    char *stage = l->stage + stage_bytes(c->send, c->nsend);
    for (int i = 0; i < c->nrecv; i++) {
        weft_tensor from = packed(&c->recv[i], travels_at(&c->recv[i], &stage));
        if (from.data != c->recv[i].t.data)
            GPU_TRY(l, copy_rows(q, &c->recv[i].t, &from), "copy");
    }
    return WEFT_OK;
}

/* Which row does it, and through which windows; all ranks of the group have to be of this
 * process. */
static bool nccl_can_norm(comm *c, weft_args *a) {
    nccl_link *l = own(c->link);
    int64_t ranks = c->ranks;
    void *table = NULL;
    if (!l->world->peers || comm_peers_table(l->world->peers, l->link.rank, c->group, c->ranks,
                                             c->member, &table) != WEFT_OK)
        return false;
    a->rank_norm.windows = weft_tensor_make(WEFT_I64, 1, &ranks);
    a->rank_norm.windows.data = table;
    a->rank_norm.windows.id = 1;
    return registry_find(l->world->dev, WEFT_OP_rank_norm, a, &l->norm) == WEFT_OK;
}

/* Peers' kernels wait for this one, so every rank is to have come this far: where streams hold up
 * their callers, before it starts. */
static weft_status run_norm(nccl_link *l, const comm_call *c, bool entered) {
    cudaStream_t q = queue_of(c->stream);
    pending *p;
    WEFT_TRY(drain(l, WINDOW - 1));
    WEFT_TRY(begin(l, q, &p));
    p->place = c->place;
    p->peers = peers_of(c);
    p->entered = entered;
    l->norm->run(c->norm, c->stream);
    return end(l, q, p);
}

static weft_status move_parts(nccl_link *l, const comm_call *c, bool entered) {
    cudaStream_t q = queue_of(c->stream);
    pending *p;
    WEFT_TRY(drain(l, WINDOW - 1));
    WEFT_TRY(make_room(l, stage_bytes(c->send, c->nsend) + stage_bytes(c->recv, c->nrecv)));
    WEFT_TRY(pack_all(l, c, q));
    WEFT_TRY(begin(l, q, &p));
    p->place = c->place;
    p->peers = peers_of(c);
    p->entered = entered;
    if (entered)
        atomic_store_explicit(&l->link.flight->waits, p->peers, memory_order_relaxed);
    nccl_result r = call_group(l, c, q, l->stage);
    cudaError_t e = cudaSuccess;
    if (!p->entered && l->left == l->enqueued && (r == NCCL_IN_PROGRESS || has_come(p->begun, &e)))
        enter(l, p);
    WEFT_TRY(settle(l, r, "NCCL", c->deadline));
    WEFT_TRY(unpack_all(l, c, q));
    return end(l, q, p);
}

static weft_status nccl_exchange(comm_link *link, const comm_call *c) {
    nccl_link *l = own(link);
    if (!c->stream) {
        to_base(l);
        return l->link.base->transport->exchange(l->link.base, c);
    }
    WEFT_TRY(alive(l));
    bool check = is_check_due(l, c) || (c->norm && l->world->at_once);
    if (check) {
        WEFT_TRY(drain(l, 0));
        comm_enter(link, &c->place);
        WEFT_TRY(check_heads(l, c));
    }
    return c->norm ? run_norm(l, c, check) : move_parts(l, c, check);
}

static weft_status nccl_all_reduce(comm_link *link, weft_stream *s, float *x, uint64_t n) {
    nccl_link *l = own(link);
    cudaStream_t q = queue_of(s);
    pending *p;
    WEFT_TRY(drain(l, WINDOW - 1));
    WEFT_TRY(begin(l, q, &p));
    p->place = (flight_place){.op = WEFT_OP_reduce_scatter,
                              .group = WEFT_GROUP_WORLD,
                              .bytes = n * sizeof(float),
                              .inside = true,
                              .tag = "ncclAllReduce"};
    p->peers = 0;
    p->entered = false;
    nccl_result r = l->world->nccl->all_reduce(x, x, n, NCCL_FLOAT32, NCCL_SUM, l->comm, q);
    WEFT_TRY(settle(l, r, "NCCL", clock_seconds() + link->timeout + link->expected));
    return end(l, q, p);
}

/* ---- Life ---- */

static weft_status nccl_status(comm_link *link) {
    return alive(own(link));
}

static int nccl_blamed(comm_link *link) {
    return comm_blamed(own(link)->link.base);
}

static void nccl_abort(comm_link *link, weft_status code) {
    fail_here(own(link), code);
}

static weft_status nccl_late(comm_link *link) {
    return late(own(link));
}

static weft_status nccl_attend(comm_link *link) {
    nccl_link *l = own(link);
    return l->world->dev->use(l->world->dev, l->gpu, false);
}

/* A hint: without it, exchanges take a copy more. */
static weft_status nccl_memory(comm_link *link, void *p, uint64_t bytes) {
    nccl_link *l = own(link);
    const nccl_library *n = l->world->nccl;
    if (!n->memory_register || !n->memory_deregister || l->arenas == ARENAS || !bytes)
        return WEFT_OK;
    nccl_result r = n->memory_register(l->comm, p, bytes, &l->arena[l->arenas]);
    if (r != NCCL_SUCCESS && r != NCCL_IN_PROGRESS)
        return WEFT_OK;
    l->arenas++;
    return settle(l, r, "memory", clock_seconds() + link->timeout);
}

static void close_link(nccl_link *l) {
    l->world->dev->use(l->world->dev, l->gpu, false);
    free_stage(l);
    for (int i = 0; i < WINDOW && l->at[i].begun; i++)
        if (cudaEventDestroy(l->at[i].begun) != cudaSuccess ||
            cudaEventDestroy(l->at[i].done) != cudaSuccess)
            cudaGetLastError();
    comm_close(l->link.base);
    mem_free(l);
}

/* Ranks finalize together: all those of this process begin, then all are waited for. */
static void close_world(nccl_world *w) {
    const nccl_library *n = w->nccl;
    nccl_link *live[COMM_MAX_RANKS];
    int count = 0;
    for (int i = 0; i < w->links; i++) {
        nccl_link *l = w->link[i];
        if (alive(l) != WEFT_OK || !l->comm)
            continue;
        nccl_result r = n->finalize(l->comm);
        if (r == NCCL_SUCCESS || r == NCCL_IN_PROGRESS)
            live[count++] = l;
        else
            give_up(l);
    }
    if (count)
        settle_all(live, count, NCCL_IN_PROGRESS, "NCCL's end",
                   clock_seconds() + live[0]->link.timeout);
    for (int i = 0; i < count; i++)
        if (alive(live[i]) == WEFT_OK && live[i]->comm)
            n->destroy(live[i]->comm);
    comm_peers_close(w->peers);
    for (int i = 0; i < w->links; i++)
        close_link(w->link[i]);
    pthread_mutex_destroy(&w->lock);
    device_close(w->dev);
    mem_free(w);
}

static void nccl_close(comm_link *link) {
    nccl_link *l = own(link);
    nccl_world *w = l->world;
    if (alive(l) == WEFT_OK && l->comm)
        for (int a = 0; a < l->arenas; a++)
            w->nccl->memory_deregister(l->comm, l->arena[a]);
    pthread_mutex_lock(&w->lock);
    int left = --w->open;
    pthread_mutex_unlock(&w->lock);
    if (left == 0)
        close_world(w);
}

static const comm_stream_ops stream_ops = {
    .copy = nccl_copy,
    .sum = nccl_sum,
    .all_reduce = nccl_all_reduce,
    .can_norm = nccl_can_norm,
    .finish = nccl_finish,
    .attend = nccl_attend,
    .memory = nccl_memory,
};
static const comm_transport nccl_transport = {
    .name = "nccl",
    .exchange = nccl_exchange,
    .abort = nccl_abort,
    .status = nccl_status,
    .blamed = nccl_blamed,
    .late = nccl_late,
    .close = nccl_close,
    .on_stream = &stream_ops,
};

/* ---- Opening ---- */

/* What rank 0 hands to the others. */
typedef struct {
    nccl_id id;
    int version;
} card;

static weft_status draw_card(nccl_link *l, card *c) {
    c->version = l->world->nccl->version;
    nccl_result r = l->world->nccl->get_id(&c->id);
    return r == NCCL_SUCCESS ? WEFT_OK : nccl_fault(l, r, "NCCL's unique id");
}

/* Threads see one library and one id; processes get rank 0's. */
static weft_status deal_card(nccl_link *l, card *c) {
    int all[COMM_MAX_RANKS], ranks = l->link.ranks;
    for (int r = 0; r < ranks; r++)
        all[r] = r;
    comm world = comm_group(l->link.base, WEFT_GROUP_WORLD, ranks, all);
    weft_status s = comm_broadcast(&world, 0, c, sizeof *c, "nccl.id");
    if (s != WEFT_OK || c->version == l->world->nccl->version)
        return s;
    char theirs[64];
    snprintf(theirs, sizeof theirs, "has version code %d, rank 0 %d", l->world->nccl->version,
             c->version);
    return fail_as_rank(l, WEFT_PEER, "NCCL", theirs, "start every rank with the same library");
}

static weft_status init_all(nccl_world *w, const card *c) {
    const nccl_library *n = w->nccl;
    nccl_config config = {.size = sizeof config,
                          .magic = NCCL_CONFIG_MAGIC,
                          .version = NCCL_LEAST,
                          .cga_cluster_size = NCCL_UNDEFINED,
                          .min_ctas = NCCL_UNDEFINED,
                          .max_ctas = NCCL_UNDEFINED,
                          .split_share = NCCL_UNDEFINED};
    nccl_result r = n->group_start();
    for (int i = 0; i < w->links && r == NCCL_SUCCESS; i++) {
        nccl_link *l = w->link[i];
        enter(l, &(pending){.place = {.op = WEFT_OP_broadcast,
                                      .group = WEFT_GROUP_WORLD,
                                      .inside = true,
                                      .tag = "nccl.init"}});
        weft_status s = w->dev->use(w->dev, l->gpu, false);
        if (s != WEFT_OK) {
            n->group_end();
            return fail_here(l, s);
        }
        keep(&r, n->init(&l->comm, l->link.ranks, c->id, l->link.rank, &config));
    }
    nccl_result ended = n->group_end();
    double seconds = strcmp(BACKEND, "emu") == 0 ? 0 : INIT_SECONDS;
    return settle_all(w->link, w->links, r == NCCL_SUCCESS ? ended : r, "NCCL's start",
                      clock_seconds() + w->link[0]->link.timeout + seconds);
}

/* Without windows the steps stay three. */
static void open_peers(nccl_world *w) {
    int gpu[COMM_MAX_RANKS];
    bool all = w->links > 1 && device_switch("WEFT_PEER", true);
    for (int i = 0; i < w->links; i++)
        gpu[i] = w->link[i]->gpu;
    for (int i = 0; i < w->links && all; i++)
        all = w->dev->use(w->dev, gpu[i], false) == WEFT_OK && w->dev->reach(w->dev, w->links, gpu);
    if (all && comm_peers_open(w->dev, w->links, gpu, &w->peers) != WEFT_OK)
        w->peers = NULL;
}

static weft_status open_all(nccl_world *w, bool threads) {
    card c = {.version = 0};
    weft_status s = comm_nccl_load(&w->nccl);
    if (s != WEFT_OK)
        return fail_here(w->link[0], s);
    if (w->link[0]->link.rank == 0)
        WEFT_TRY(draw_card(w->link[0], &c));
    if (!threads)
        WEFT_TRY(deal_card(w->link[0], &c));
    WEFT_TRY(init_all(w, &c));
    if (threads)
        open_peers(w);
    return WEFT_OK;
}

static nccl_link *link_over(nccl_world *w, comm_link *base, int gpu) {
    nccl_link *l = mem_alloc(sizeof *l);
    l->link = (comm_link){.transport = &nccl_transport,
                          .base = base,
                          .rank = base->rank,
                          .ranks = base->ranks,
                          .timeout = base->timeout,
                          .flight = base->flight};
    l->world = w;
    l->gpu = gpu;
    return l;
}

static void read_check(nccl_world *w) {
    const char *text = getenv("WEFT_COMM_CHECK");
    w->first = text ? 0 : CHECK_FIRST;
    w->every = text ? strtoull(text, NULL, 10) : CHECK_EVERY;
}

static weft_status close_bases(comm_link **base, int ranks, weft_status s) {
    char why[BOOT_MESSAGE_BYTES];
    snprintf(why, sizeof why, "%s", err_message());
    for (int r = 0; r < ranks; r++)
        comm_close(base[r]);
    return weft_fail(s, "%s", why);
}

weft_status DEVICE_GPU_NAME(nccl)(device *d, comm_link **base, int ranks, const int *gpu,
                                  comm_link **link) {
    device *mine;
    weft_status s = DEVICE_GPU_NAME(open)(false, &mine);
    if (s != WEFT_OK)
        return close_bases(base, ranks, s);
    nccl_world *w = mem_alloc(sizeof *w);
    w->dev = mine;
    w->at_once = d->stepwise || device_switch("WEFT_NCCL_SYNC", strcmp(BACKEND, "emu") == 0);
    read_check(w);
    pthread_mutex_init(&w->lock, NULL);
    for (int r = 0; r < ranks; r++)
        if (base[r])
            w->link[w->links++] = link_over(w, base[r], gpu[r]);
    w->open = w->links;
    s = open_all(w, w->links == ranks);
    if (s != WEFT_OK) {
        char why[BOOT_MESSAGE_BYTES];
        snprintf(why, sizeof why, "%s", err_message());
        close_world(w);
        return weft_fail(s, "%s", why);
    }
    for (int i = 0; i < w->links; i++)
        link[w->link[i]->link.rank] = &w->link[i]->link;
    return WEFT_OK;
}
