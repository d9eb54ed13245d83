/* SPDX-License-Identifier: Apache-2.0
 * The transport of ranks that are threads of one process. A pair of ranks has a mailbox each way:
 * the sender puts up where its tensor lies, the receiver copies it out. Whoever waits sleeps on its
 * own bell, which those it waits for ring. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/run/comm.h"
#include "host/run/flight_record.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define SPIN_SECONDS 1e-4
#define GRACE_SECONDS 0.5
enum { MESSAGE_BYTES = 1024 };

typedef struct {
    atomic_uint posted;   /* by the sender */
    atomic_uint taken;    /* by the receiver */
    atomic_int is_copied; /* it reads the sender's memory now */
    comm_head head;
    weft_tensor t;
    char apart[64]; /* neighbours are of other ranks */
} mailbox;

typedef struct {
    atomic_uint rung;
    atomic_int asleep, is_done; /* its rank takes part in nothing more */
    double spin_seconds;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    char apart[64];
} bell;

typedef struct {
    int ranks, open;
    mailbox *box; /* [from * ranks + to] */
    bell *bell;   /* [ranks] */
    flight_record *record;
    flight *flight; /* [ranks], the record's */
    atomic_int failed;
    pthread_mutex_t lock; /* of what follows, and of `open` */
    weft_status code;
    int blamed; /* -1: no rank alone */
    char message[MESSAGE_BYTES];
} local_world;

typedef struct {
    comm_link link;
    local_world *world;
} local_link;

static local_link *own(comm_link *l) {
    return (local_link *)(void *)l;
}

/* ---- Bells ---- */

static void ring(bell *b) {
    atomic_fetch_add(&b->rung, 1);
    if (!atomic_load(&b->asleep))
        return;
    pthread_mutex_lock(&b->lock);
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->lock);
}

static struct timespec time_at(double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    return t;
}

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Until the bell has rung since `seen`; false: the deadline is past. Spins for a while, unless
 * ranks outnumber cores, then sleeps; a yield would give a busy machine's other work a whole
 * slice. */
static bool wait_for(bell *b, unsigned seen, double deadline) {
    struct timespec until = time_at(deadline);
    int late = 0;
    double spin = clock_seconds() + b->spin_seconds;
    do {
        for (int i = 0; i < 16; i++) {
            if (atomic_load(&b->rung) != seen)
                return true;
            pause_briefly();
        }
    } while (clock_seconds() < spin);
    pthread_mutex_lock(&b->lock);
    atomic_store(&b->asleep, 1);
    while (atomic_load(&b->rung) == seen && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&b->cond, &b->lock, &until);
    atomic_store(&b->asleep, 0);
    pthread_mutex_unlock(&b->lock);
    return late != ETIMEDOUT || atomic_load(&b->rung) != seen;
}

/* ---- Failure ---- */

/* The first one counts: the rest follow from it. */
static void fail_world(local_world *w, weft_status code, int blamed, const char *message) {
    pthread_mutex_lock(&w->lock);
    if (w->code == WEFT_OK) {
        w->code = code;
        w->blamed = blamed;
        snprintf(w->message, sizeof w->message, "%s", message);
        atomic_store(&w->failed, 1);
    }
    pthread_mutex_unlock(&w->lock);
    for (int r = 0; r < w->ranks; r++)
        ring(&w->bell[r]);
}

static weft_status local_status(comm_link *l) {
    local_world *w = own(l)->world;
    if (!atomic_load(&w->failed))
        return WEFT_OK;
    pthread_mutex_lock(&w->lock);
    weft_status s = w->code;
    err_set_message(w->message);
    pthread_mutex_unlock(&w->lock);
    return s;
}

static int local_blamed(comm_link *l) {
    local_world *w = own(l)->world;
    pthread_mutex_lock(&w->lock);
    int r = w->code == WEFT_PEER ? w->blamed : -1;
    pthread_mutex_unlock(&w->lock);
    return r;
}

static void local_accuse(comm_link *l, int rank) {
    char text[MESSAGE_BYTES];
    snprintf(text, sizeof text, "rank %d %.900s", rank, err_message());
    fail_world(own(l)->world, WEFT_PEER, rank, text);
}

static void local_abort(comm_link *l, weft_status code) {
    fail_world(own(l)->world, code, -1, err_message());
}

/* The job fails because this rank waits for rank r in vain, which `is` late or gone. */
static weft_status blame(comm_link *link, int r, const char *is, const char *hint) {
    local_world *w = own(link)->world;
    char where[160] = "before its first collective", mine[160];
    double now = clock_seconds();
    flight_place p;
    if (flight_last(&w->flight[r], 0, &p))
        flight_text(&p, now, where, sizeof where);
    flight_last(&w->flight[link->rank], 0, &p);
    flight_text(&p, now, mine, sizeof mine);
    weft_status s = weft_fail(WEFT_PEER, "rank %d %s %s; rank %d waits %s%s", r, is, where,
                              link->rank, mine, hint);
    fail_world(w, s, r, err_message());
    return local_status(link);
}

static weft_status local_late(comm_link *link) {
    char hint[48];
    snprintf(hint, sizeof hint, " (--timeout %g)", link->timeout);
    return blame(link, flight_culprit(own(link)->world->flight, link->ranks, link->rank),
                 "is late:", hint);
}

static void local_done(comm_link *l) {
    local_world *w = own(l)->world;
    atomic_store(&w->bell[l->rank].is_done, 1);
    for (int r = 0; r < w->ranks; r++)
        ring(&w->bell[r]);
}

/* ---- The exchange ---- */

static mailbox *box_of(const local_world *w, int from, int to) {
    return &w->box[from * w->ranks + to];
}

static void post(local_link *l, const comm_head *head, const comm_part *p) {
    mailbox *b = box_of(l->world, l->link.rank, p->peer);
    b->head = *head;
    b->head.bytes = comm_part_bytes(p);
    b->t = p->t;
    atomic_fetch_add(&b->posted, 1);
    ring(&l->world->bell[p->peer]);
}

static bool is_sent(local_link *l, const comm_part *p) {
    mailbox *b = box_of(l->world, l->link.rank, p->peer);
    return atomic_load(&b->taken) == atomic_load(&b->posted);
}

/* Copies what a mailbox holds. A sender that leaves a failed job frees its memory once nobody
 * copies (withdraw): of its look at is_copied and this one at the failure, one sees the other. */
static weft_status copy_out(local_link *l, mailbox *b, const comm_part *p) {
    atomic_store(&b->is_copied, 1);
    weft_status s = local_status(&l->link);
    if (s == WEFT_OK) {
        comm_copy(&p->t, &b->t);
        atomic_fetch_add(&b->taken, 1);
    }
    atomic_store(&b->is_copied, 0);
    ring(&l->world->bell[p->peer]);
    return s;
}

/* Takes what has come from a peer; *took says whether anything had. */
static weft_status take(local_link *l, const comm_head *head, const comm_part *p, bool *took) {
    mailbox *b = box_of(l->world, p->peer, l->link.rank);
    comm_head want = *head;
    *took = atomic_load(&b->posted) != atomic_load(&b->taken);
    if (!*took)
        return WEFT_OK;
    want.bytes = comm_part_bytes(p);
    WEFT_TRY(comm_check(&l->link, p->peer, &want, &b->head));
    return copy_out(l, b, p);
}

static weft_status progress(local_link *l, const comm_call *c, bool *done, int *left) {
    uint64_t waits = 0;
    for (int i = 0; i < c->nrecv; i++) {
        bool took = false;
        if (!done[i])
            WEFT_TRY(take(l, &c->head, &c->recv[i], &took));
        done[i] |= took;
        *left -= took;
        waits |= (uint64_t)!done[i] << c->recv[i].peer;
    }
    for (int i = 0; i < c->nsend; i++) {
        bool sent = !done[c->nrecv + i] && is_sent(l, &c->send[i]);
        done[c->nrecv + i] |= sent;
        *left -= sent;
        waits |= (uint64_t)!done[c->nrecv + i] << c->send[i].peer;
    }
    atomic_store_explicit(&l->link.flight->waits, waits, memory_order_relaxed);
    return WEFT_OK;
}

/* A rank that is done and that this one waits for; -1: none. */
static int who_is_done(const local_link *l, const comm_call *c, const bool *done) {
    for (int i = 0; i < c->nrecv + c->nsend; i++) {
        int peer = i < c->nrecv ? c->recv[i].peer : c->send[i - c->nrecv].peer;
        if (!done[i] && atomic_load(&l->world->bell[peer].is_done))
            return peer;
    }
    return -1;
}

/* Of a failed world: waits until nobody copies from this rank's parts any more. */
static void withdraw(local_link *l, const comm_call *c) {
    bell *b = &l->world->bell[l->link.rank];
    for (int i = 0; i < c->nsend; i++) {
        mailbox *box = box_of(l->world, l->link.rank, c->send[i].peer);
        unsigned seen = atomic_load(&b->rung);
        while (atomic_load(&box->is_copied)) {
            wait_for(b, seen, clock_seconds() + l->link.timeout);
            seen = atomic_load(&b->rung);
        }
    }
}

static weft_status exchange_parts(comm_link *link, const comm_call *c) {
    local_link *l = own(link);
    bell *b = &l->world->bell[link->rank];
    bool done[2 * COMM_MAX_RANKS] = {false}, graced = false;
    double deadline = c->deadline;
    uint64_t bytes;
    int left = c->nsend + c->nrecv;
    WEFT_TRY(local_status(link));
    for (int i = 0; i < c->nsend; i++)
        post(l, &c->head, &c->send[i]);
    for (;;) {
        unsigned seen = atomic_load(&b->rung);
        int gone = who_is_done(l, c, done); /* what it has sent before that is taken now */
        weft_status s = progress(l, c, done, &left);
        if (s != WEFT_OK) {
            fail_world(l->world, s, -1, err_message());
            return local_status(link);
        }
        if (left == 0)
            return WEFT_OK;
        WEFT_TRY(local_status(link));
        if (gone >= 0 && who_is_done(l, c, done) == gone)
            return blame(link, gone, "(a thread) is gone: last seen", "");
        double look = clock_seconds() + link->timeout;
        if (wait_for(b, seen, look < deadline ? look : deadline))
            continue;
        if (clock_seconds() < deadline && !flight_standstill(l->world->flight, link->ranks, &bytes))
            continue;
        if (graced)
            return local_late(link);
        graced = true; /* the whole process may have been stopped: the others too run again now */
        deadline = clock_seconds() + GRACE_SECONDS;
    }
}

static weft_status local_exchange(comm_link *link, const comm_call *c) {
    weft_status s = exchange_parts(link, c);
    if (s != WEFT_OK)
        withdraw(own(link), c);
    return s;
}

/* ---- Opening ---- */

static void close_world(local_world *w) {
    for (int r = 0; r < w->ranks; r++) {
        pthread_cond_destroy(&w->bell[r].cond);
        pthread_mutex_destroy(&w->bell[r].lock);
    }
    pthread_mutex_destroy(&w->lock);
    flight_record_close(w->record);
    mem_free(w->bell);
    mem_free(w->box);
    mem_free(w);
}

static void local_close(comm_link *link) {
    local_world *w = own(link)->world;
    pthread_mutex_lock(&w->lock);
    int left = --w->open;
    pthread_mutex_unlock(&w->lock);
    mem_free(link);
    if (left == 0)
        close_world(w);
}

static const comm_transport local_transport = {
    .name = "local",
    .exchange = local_exchange,
    .abort = local_abort,
    .status = local_status,
    .blamed = local_blamed,
    .late = local_late,
    .accuse = local_accuse,
    .done = local_done,
    .close = local_close,
};

static void open_bell(bell *b, double spin_seconds) {
    b->spin_seconds = spin_seconds;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* as clock_seconds counts */
    pthread_cond_init(&b->cond, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&b->lock, NULL);
}

static weft_status open_world(const char *job, int64_t epoch, int ranks, double timeout,
                              comm_link **link) {
    local_world *w = mem_alloc(sizeof *w);
    w->ranks = w->open = ranks;
    w->blamed = -1;
    w->box = mem_alloc(sizeof *w->box * (size_t)(ranks * ranks));
    w->bell = mem_alloc(sizeof *w->bell * (size_t)ranks);
    w->record = flight_record_open(job, epoch, -1, ranks);
    w->flight = w->record->flight;
    pthread_mutex_init(&w->lock, NULL);
    for (int r = 0; r < ranks; r++) {
        open_bell(&w->bell[r], ranks <= thread_cores() ? SPIN_SECONDS : 0);
        local_link *l = mem_alloc(sizeof *l);
        l->link = (comm_link){.transport = &local_transport,
                              .rank = r,
                              .ranks = ranks,
                              .epoch = epoch,
                              .timeout = timeout > 0 ? timeout : COMM_TIMEOUT_SECONDS,
                              .flight = &w->flight[r]};
        l->world = w;
        link[r] = &l->link;
    }
    return WEFT_OK;
}

weft_status comm_local_open(int ranks, double timeout, comm_link **link) {
    char job[FLIGHT_JOB_BYTES] = "";
    WEFT_ASSERT(ranks >= 1 && ranks <= COMM_MAX_RANKS);
    if (ranks > 1)
        flight_new_job(job);
    return open_world(job, 0, ranks, timeout, link);
}

weft_status comm_local_again(int ranks, comm_link **link) {
    char job[FLIGHT_JOB_BYTES];
    int were = link[0]->ranks;
    int64_t epoch = link[0]->epoch + 1;
    double timeout = link[0]->timeout;
    memcpy(job, own(link[0])->world->record->job, sizeof job);
    for (int r = 0; r < were; r++) {
        comm_close(link[r]);
        link[r] = NULL;
    }
    return open_world(job, epoch, ranks, timeout, link);
}
