/* SPDX-License-Identifier: Apache-2.0
 * The transport of ranks that have a GPU each: NCCL moves what is on a stream; what is in memory of
 * the host (the job's own news, results) goes by the links that its ranks have anyway, which also
 * know who is alive. So NCCL never decides how long to wait: its communicators do not block, every
 * wait asks the other links too, and the first failure aborts them.
 *
 * Everything is grouped sends and receives: bytes only. Sums are our own kernels', in rank order.
 * A link has two ways, each with a communicator, since exchanges of one follow each other: the side
 * stream's (comm_side) take the second and pass by those of the first. All ranks enqueue in the
 * same order, and the kernels of both fit on a GPU at once, so neither way can hold up the other.
 *
 * Messages of NCCL carry no heads. Ranks compare theirs by the other links before the first
 * exchanges of each group and then before every CHECK_EVERYth (WEFT_COMM_CHECK=N: every Nth, 0:
 * never); that waits for what was enqueued before.
 *
 * Compiled twice, as device_cuda.c is. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm_nccl_link.h"
#include "host/run/comm_proc.h"
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
enum { CHECK_FIRST = 512, CHECK_EVERY = 64, INIT_SECONDS = 30 };

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
static void give_up_way(nccl_link *l, way *of) {
    if (!of->comm)
        return;
    comm_peers_stop(l->world->peers);
    pthread_t thread;
    struct timespec soon;
    last_words *w = mem_alloc(sizeof *w);
    *w = (last_words){l->world->nccl, of->comm};
    of->comm = NULL;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_sec += 1;
    if (pthread_create(&thread, NULL, abort_main, w) != 0)
        mem_free(w);
    else if (pthread_timedjoin_np(thread, NULL, &soon) != 0)
        pthread_detach(thread);
}

static void give_up(nccl_link *l) {
    for (int i = 0; i < WAYS; i++)
        give_up_way(l, &l->way[i]);
}

static weft_status base_status(const nccl_link *l) {
    return l->link.base->transport->status(l->link.base);
}

/* How the job failed, if it has. */
weft_status nccl_alive(nccl_link *l) {
    weft_status s = base_status(l);
    if (s != WEFT_OK)
        give_up(l);
    return s;
}

/* This rank has failed with err_message(). */
weft_status nccl_fail_here(nccl_link *l, weft_status s) {
    l->link.base->transport->abort(l->link.base, s);
    return nccl_alive(l);
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
    return nccl_fail_here(l, code);
}

weft_status nccl_cuda_fault(nccl_link *l, cudaError_t e, const char *what) {
    cudaGetLastError();
    return fail_as_rank(l, WEFT_DEVICE, what, cudaGetErrorString(e), "");
}

/* Where NCCL lost a peer, the other links are about to know which: their word counts. */
weft_status nccl_fault(nccl_link *l, const nccl_comm *c, nccl_result r, const char *what) {
    const nccl_library *n = l->world->nccl;
    bool peer = r == NCCL_REMOTE_ERROR || r == NCCL_SYSTEM_ERROR;
    patience p = patience_of(clock_seconds() + VERDICT_SECONDS);
    while (peer && !is_over(&p))
        WEFT_TRY(nccl_alive(l));
    const char *more = n->last_error((nccl_comm *)(uintptr_t)c);
    return fail_as_rank(l, r == NCCL_UNHANDLED_CUDA_ERROR ? WEFT_DEVICE : WEFT_PEER, what,
                        n->error_string(r), more ? more : "");
}

/* What a communicator says of what it was asked to do: still in progress, done, or failed. */
static weft_status look(nccl_link *l, nccl_comm *c, const char *what, bool *done) {
    nccl_result now = NCCL_SUCCESS, r = l->world->nccl->async_error(c, &now);
    r = r == NCCL_SUCCESS ? now : r;
    *done = r == NCCL_SUCCESS;
    return *done || r == NCCL_IN_PROGRESS ? WEFT_OK : nccl_fault(l, c, r, what);
}

/* Until NCCL has done on way `at` of every link what it began, or refused, with r. */
static weft_status settle_all(nccl_link *const *link, int n, int at, nccl_result r,
                              const char *what, double deadline) {
    patience p = patience_of(deadline);
    bool all = r == NCCL_SUCCESS;
    if (!all && r != NCCL_IN_PROGRESS)
        return nccl_fault(link[0], link[0]->way[at].comm, r, what);
    while (!all) {
        all = true;
        for (int i = 0; i < n; i++) {
            bool done;
            WEFT_TRY(nccl_alive(link[i]));
            WEFT_TRY(look(link[i], link[i]->way[at].comm, what, &done));
            all &= done;
        }
        if (!all && is_over(&p))
            return late(link[0]);
    }
    return WEFT_OK;
}

weft_status nccl_settle(nccl_link *l, const way *w, nccl_result r, const char *what,
                        double deadline) {
    return settle_all(&l, 1, (int)(w - l->way), r, what, deadline);
}

/* ---- What is on its way ---- */

/* Of the two ways' exchanges that are being waited in, the flight record says the one entered
 * first, and whom both wait for. */
void nccl_show(nccl_link *l) {
    uint64_t waits = 0;
    for (int i = 0; i < WAYS; i++) {
        way *w = &l->way[i];
        pending *p = &w->at[w->left % WINDOW];
        if (w->left == w->enqueued || !p->entered)
            continue;
        waits |= p->peers;
        if (!l->shown)
            comm_enter(&l->link, &p->place);
        l->shown = l->shown ? l->shown : p;
    }
    atomic_store_explicit(&l->link.flight->waits, waits, memory_order_relaxed);
}

static void enter(pending *p) {
    p->entered = true;
    p->place.since = clock_seconds();
}

void nccl_enter_alone(nccl_link *l, pending *p) {
    if (!p->entered) {
        enter(p);
        comm_enter(&l->link, &p->place);
    }
    l->shown = p;
    atomic_store_explicit(&l->link.flight->waits, p->peers, memory_order_relaxed);
}

/* Collectives of p's group that are done before any that is not. */
static uint64_t left_behind(const nccl_link *l, const pending *p) {
    uint64_t left = l->most[p->place.group];
    for (int i = 0; i < WAYS; i++)
        for (uint64_t k = l->way[i].left; k < l->way[i].enqueued; k++) {
            const flight_place *at = &l->way[i].at[k % WINDOW].place;
            if (at->group == p->place.group && at->op != WEFT_OP_send && at->sequence < left)
                left = at->sequence;
        }
    return left;
}

/* p was the first of its way. */
static void leave(nccl_link *l, way *w, pending *p) {
    uint64_t behind = p->place.sequence + 1, *most = &l->most[p->place.group];
    bool shown = l->shown == p;
    w->left++;
    if (p->place.op != WEFT_OP_send && behind > *most)
        *most = behind;
    if (shown)
        comm_leave(&l->link, &p->place);
    if (p->place.op != WEFT_OP_send)
        atomic_store_explicit(&l->link.flight->left[p->place.group], left_behind(l, p),
                              memory_order_relaxed);
    l->shown = shown ? NULL : l->shown;
    nccl_show(l);
}

bool nccl_has_come(cudaEvent_t e, cudaError_t *error) {
    *error = cudaEventQuery(e);
    if (*error == cudaErrorNotReady) {
        cudaGetLastError();
        *error = cudaSuccess;
        return false;
    }
    return *error == cudaSuccess;
}

/* Notes what the way's stream has reached. A rank whose stream is stuck before an exchange is
 * behind the one before, and waits for nobody. */
static weft_status advance_way(nccl_link *l, way *w) {
    cudaError_t e = cudaSuccess;
    bool none;
    while (w->left < w->enqueued) {
        pending *p = &w->at[w->left % WINDOW];
        if (!p->entered && nccl_has_come(p->begun, &e)) {
            enter(p);
            nccl_show(l);
        }
        if (!p->entered || !nccl_has_come(p->done, &e))
            break;
        leave(l, w, p);
    }
    GPU_TRY(l, e, "stream");
    return w->comm ? look(l, w->comm, "NCCL", &none) : WEFT_OK;
}

weft_status nccl_advance(nccl_link *l) {
    WEFT_TRY(advance_way(l, &l->way[0]));
    return advance_way(l, &l->way[1]);
}

uint64_t nccl_on_their_way(const nccl_link *l, const way *w) {
    return w ? w->enqueued - w->left
             : nccl_on_their_way(l, &l->way[0]) + nccl_on_their_way(l, &l->way[1]);
}

/* Until at most `most` exchanges are on their way, or, with a tail, it has come; w: of one way.
 * While none is, a stream may take its time. */
static weft_status wait_until(nccl_link *l, const way *w, uint64_t most, cudaEvent_t tail) {
    double allowed = l->link.timeout + l->link.expected;
    patience p = patience_of(clock_seconds() + allowed);
    cudaError_t e = cudaSuccess;
    WEFT_TRY(nccl_alive(l));
    while (tail ? !nccl_has_come(tail, &e) : nccl_on_their_way(l, w) > most) {
        uint64_t before = nccl_on_their_way(l, NULL);
        GPU_TRY(l, e, "stream");
        WEFT_TRY(nccl_advance(l));
        if (nccl_on_their_way(l, NULL) < before || before == 0)
            p = patience_of(clock_seconds() + allowed);
        WEFT_TRY(nccl_alive(l));
        if (is_over(&p))
            return late(l);
    }
    return WEFT_OK;
}

weft_status nccl_drain(nccl_link *l, const way *w, uint64_t most) {
    return wait_until(l, w, most, NULL);
}

static weft_status nccl_finish(comm_link *link) {
    return nccl_drain(own(link), NULL, 0);
}

static weft_status nccl_wait(comm_link *link, weft_stream *s) {
    nccl_link *l = own(link);
    if (!l->tail)
        GPU_TRY(l, cudaEventCreateWithFlags(&l->tail, cudaEventDisableTiming), "event");
    GPU_TRY(l, cudaEventRecord(l->tail, queue_of(s)), "event");
    WEFT_TRY(wait_until(l, NULL, 0, l->tail));
    return nccl_advance(l);
}

/* ---- Life ---- */

static weft_status nccl_status(comm_link *link) {
    return nccl_alive(own(link));
}

static int nccl_blamed(comm_link *link) {
    return comm_blamed(own(link)->link.base);
}

static void nccl_abort(comm_link *link, weft_status code) {
    nccl_fail_here(own(link), code);
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
    nccl_result r = n->memory_register(l->way->comm, p, bytes, &l->arena[l->arenas]);
    if (r != NCCL_SUCCESS && r != NCCL_IN_PROGRESS)
        return WEFT_OK;
    l->arenas++;
    return nccl_settle(l, l->way, r, "memory", clock_seconds() + link->timeout);
}

static void close_way(const nccl_link *l, way *w) {
    nccl_free_stage(l, w);
    for (int i = 0; i < WINDOW && w->at[i].begun; i++)
        if (cudaEventDestroy(w->at[i].begun) != cudaSuccess ||
            cudaEventDestroy(w->at[i].done) != cudaSuccess)
            cudaGetLastError();
}

static void close_link(nccl_link *l) {
    l->world->dev->use(l->world->dev, l->gpu, false);
    for (int i = 0; i < WAYS; i++)
        close_way(l, &l->way[i]);
    if (l->tail && cudaEventDestroy(l->tail) != cudaSuccess)
        cudaGetLastError();
    comm_close(l->link.base);
    mem_free(l);
}

/* Ranks finalize together: all those of this process begin, then all are waited for. */
static void finalize(nccl_world *w, int at) {
    const nccl_library *n = w->nccl;
    nccl_link *live[COMM_MAX_RANKS];
    int count = 0;
    for (int i = 0; i < w->links; i++) {
        nccl_link *l = w->link[i];
        if (nccl_alive(l) != WEFT_OK || !l->way[at].comm)
            continue;
        nccl_result r = n->finalize(l->way[at].comm);
        if (r == NCCL_SUCCESS || r == NCCL_IN_PROGRESS)
            live[count++] = l;
        else
            give_up(l);
    }
    if (count)
        settle_all(live, count, at, NCCL_IN_PROGRESS, "NCCL's end",
                   clock_seconds() + live[0]->link.timeout);
    for (int i = 0; i < count; i++)
        if (nccl_alive(live[i]) == WEFT_OK && live[i]->way[at].comm)
            n->destroy(live[i]->way[at].comm);
}

static void close_world(nccl_world *w) {
    for (int at = 0; at < WAYS; at++)
        finalize(w, at);
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
    if (nccl_alive(l) == WEFT_OK && l->way->comm)
        for (int a = 0; a < l->arenas; a++)
            w->nccl->memory_deregister(l->way->comm, l->arena[a]);
    pthread_mutex_lock(&w->lock);
    int left = --w->open;
    pthread_mutex_unlock(&w->lock);
    if (left == 0)
        close_world(w);
}

/* ---- Opening ---- */

/* What rank 0 hands to the others. */
typedef struct {
    nccl_id id;
    int version;
} card;

static weft_status draw_card(nccl_link *l, card *c) {
    c->version = l->world->nccl->version;
    nccl_result r = l->world->nccl->get_id(&c->id);
    return r == NCCL_SUCCESS ? WEFT_OK : nccl_fault(l, NULL, r, "NCCL's unique id");
}

/* To all ranks, each of which calls this. */
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

static nccl_result init(nccl_link *l, int at, const card *c) {
    nccl_config config = {.size = sizeof config,
                          .magic = NCCL_CONFIG_MAGIC,
                          .version = NCCL_LEAST,
                          .cga_cluster_size = NCCL_UNDEFINED,
                          .min_ctas = NCCL_UNDEFINED,
                          .max_ctas = NCCL_UNDEFINED,
                          .split_share = NCCL_UNDEFINED};
    flight_place p = {.op = WEFT_OP_broadcast,
                      .group = WEFT_GROUP_WORLD,
                      .inside = true,
                      .since = clock_seconds(),
                      .tag = "nccl.init"};
    comm_enter(&l->link, &p);
    atomic_store_explicit(&l->link.flight->waits, 0, memory_order_relaxed);
    return l->world->nccl->init(&l->way[at].comm, l->link.ranks, c->id, l->link.rank, &config);
}

static double init_deadline(const nccl_link *l) {
    return clock_seconds() + l->link.timeout + (strcmp(BACKEND, "emu") == 0 ? 0 : INIT_SECONDS);
}

static weft_status init_all(nccl_world *w, const card *c) {
    const nccl_library *n = w->nccl;
    nccl_result r = n->group_start();
    for (int i = 0; i < w->links && r == NCCL_SUCCESS; i++) {
        weft_status s = w->dev->use(w->dev, w->link[i]->gpu, false);
        if (s != WEFT_OK) {
            n->group_end();
            return nccl_fail_here(w->link[i], s);
        }
        keep(&r, init(w->link[i], 0, c));
    }
    nccl_result ended = n->group_end();
    return settle_all(w->link, w->links, 0, r == NCCL_SUCCESS ? ended : r, "NCCL's start",
                      init_deadline(w->link[0]));
}

/* Opens the second way where it is not. */
static weft_status nccl_side(comm_link *link, const weft_stream *s) {
    nccl_link *l = own(link);
    card c = {.version = 0};
    l->side = s;
    if (!s || l->way[1].comm)
        return nccl_alive(l);
    WEFT_TRY(nccl_drain(l, NULL, 0));
    if (link->rank == 0)
        WEFT_TRY(draw_card(l, &c));
    to_base(l);
    WEFT_TRY(deal_card(l, &c));
    return nccl_settle(l, &l->way[1], init(l, 1, &c), "NCCL's start", init_deadline(l));
}

static const comm_stream_ops stream_ops = {
    .copy = nccl_copy,
    .sum = nccl_sum,
    .all_reduce = nccl_all_reduce,
    .can_norm = nccl_can_norm,
    .finish = nccl_finish,
    .wait = nccl_wait,
    .side = nccl_side,
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
        return nccl_fail_here(w->link[0], s);
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
