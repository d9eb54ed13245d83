/* SPDX-License-Identifier: Apache-2.0
 * A libnccl.so.2 for tests: what weft asks of NCCL, over shared memory, between threads and between
 * processes, on streams of the emulated GPU. It does as NCCL's documentation says, and minds what a
 * real one would hang or crash on: calls while a communicator is in progress, peers that disagree,
 * use after abort, what is never destroyed. Each such complaint goes to stderr, and the process
 * ends with exit code 98.
 *
 * FAKE_NCCL=rank=R,at=N,do=WHAT: at the Nth group of rank R (0: its initialisation) the rank is
 * killed (kill), its work never moves (hang), never gets as far as the stream (stall), moves late
 * (delay:SECONDS), fails (error, cuda), loses its peers (remote), or sends too little (count).
 * FAKE_NCCL_VERSION=21703 is what it says its version is. */
#include "host/run/comm_nccl.h"
#include "kernels/emu/runtime.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
enum { MOST_RANKS = 64, SLOT_BYTES = 64 << 10, MOST_MESSAGES = 128, POLLS = 2, COMPLAINED = 98 };

/* ---- What ranks share ---- */

/* One way between two ranks, a chunk at a time. */
typedef struct {
    atomic_uint posted, taken;
    uint64_t message, chunk; /* bytes of the whole message, of this chunk */
    int dtype, kind;
    char data[SLOT_BYTES];
} lane;

typedef struct {
    atomic_int joined[MOST_RANKS], finalized[MOST_RANKS];
    atomic_int lost; /* 1 + the rank whose peers have lost it */
    lane lane[];     /* [from * ranks + to] */
} segment;

typedef struct {
    bool out;
    int peer, dtype, kind;
    char *at;
    uint64_t bytes, moved;
    bool done;
} message;

/* A group of one communicator on its stream. step: of an all-reduce; -1: none. */
typedef struct work {
    struct work *next;
    nccl_comm *comm;
    emu_outside *stream;
    message m[MOST_MESSAGES];
    int n, step;
    float *sum, *room; /* of an all-reduce */
    const float *from;
    uint64_t count;
    double not_before;
    bool stuck;
} work;

typedef enum { LIVE, FINALIZING, ABORTED, DESTROYED } state;

struct nccl_comm {
    nccl_comm *next;
    segment *seg;
    size_t bytes;
    int rank, ranks, polls, registered;
    char name[64];
    bool joined, initialised;
    state state;
    nccl_result now;
    work *held;          /* not on its stream yet */
    emu_outside *stream; /* of its last work, */
    int undone;          /* and how much is not done: NCCL itself would wait between streams */
    uint64_t groups;
    char error[200];
};

/* What `own` of a stream is: pieces in order. */
typedef struct {
    work *first, *last;
    uint64_t done;
} fifo;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static nccl_comm *comms;
static atomic_int complaints, memory;
static _Thread_local int depth;
static _Thread_local work *group; /* of the group call under way, one a communicator */
static _Thread_local bool begins; /* the group initialises communicators */

static void complain(const char *format, ...) {
    char text[300];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    dprintf(STDERR_FILENO, "fake nccl: %s\n", text);
    atomic_fetch_add(&complaints, 1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *take(size_t bytes) {
    void *p = calloc(1, bytes);
    if (!p)
        abort();
    return p;
}

/* ---- Faults ---- */

static struct {
    int rank;
    long at;
    char what[16];
    double seconds;
} fault = {.rank = -1};

__attribute__((constructor)) static void read_fault(void) {
    const char *text = getenv("FAKE_NCCL");
    if (!text ||
        sscanf(text, "rank=%d,at=%ld,do=%15[a-z]", &fault.rank, &fault.at, fault.what) != 3)
        return;
    const char *colon = strchr(text, ':');
    fault.seconds = colon ? strtod(colon + 1, NULL) : 0;
}

static bool strikes(const nccl_comm *c, const char *what) {
    return c->rank == fault.rank && (long)c->groups == fault.at && strcmp(fault.what, what) == 0;
}

static void fail(nccl_comm *c, nccl_result r, const char *why) {
    c->now = r;
    snprintf(c->error, sizeof c->error, "%s", why);
}

static void strike_group(work *w) {
    nccl_comm *c = w->comm;
    if (strikes(c, "kill"))
        raise(SIGKILL);
    w->stuck = strikes(c, "hang") || strikes(c, "remote");
    w->not_before = strikes(c, "delay") ? seconds() + fault.seconds : 0;
    if (strikes(c, "remote"))
        atomic_store(&c->seg->lost, 1 + c->rank);
    for (int i = 0; i < w->n && strikes(c, "count"); i++)
        w->m[i].bytes -= w->m[i].out && w->m[i].bytes;
}

/* ---- Moving ---- */

static lane *lane_of(const nccl_comm *c, int from, int to) {
    return &c->seg->lane[from * c->ranks + to];
}

static void put(const nccl_comm *c, message *m) {
    lane *l = lane_of(c, c->rank, m->peer);
    unsigned posted = atomic_load(&l->posted);
    if (posted != atomic_load(&l->taken))
        return;
    uint64_t left = m->bytes - m->moved, n = left < SLOT_BYTES ? left : SLOT_BYTES;
    l->message = m->bytes;
    l->chunk = n;
    l->dtype = m->dtype;
    l->kind = m->kind;
    memcpy(l->data, m->at + m->moved, n);
    m->moved += n;
    m->done = m->moved == m->bytes;
    atomic_store(&l->posted, posted + 1);
}

static void get(nccl_comm *c, message *m) {
    lane *l = lane_of(c, m->peer, c->rank);
    unsigned taken = atomic_load(&l->taken);
    if (atomic_load(&l->posted) == taken)
        return;
    if (l->message != m->bytes || l->dtype != m->dtype || l->kind != m->kind) {
        char why[160];
        snprintf(why, sizeof why,
                 "rank %d sends %llu bytes of type %d, rank %d waits for %llu of type %d", m->peer,
                 (unsigned long long)l->message, l->dtype, c->rank, (unsigned long long)m->bytes,
                 m->dtype);
        fail(c, NCCL_INVALID_ARGUMENT, why);
        return;
    }
    memcpy(m->at + m->moved, l->data, l->chunk);
    m->moved += l->chunk;
    m->done = m->moved == m->bytes;
    atomic_store(&l->taken, taken + 1);
}

/* The ring of an all-reduce: chunk k is summed from rank k + 1 on, whatever bits that gives. */
static void ring_step(work *w) {
    nccl_comm *c = w->comm;
    int n = c->ranks, s = w->step, last = 2 * (n - 1);
    uint64_t each = (w->count + (uint64_t)n - 1) / (uint64_t)n;
    if (s == 0 && w->from != w->sum)
        memcpy(w->sum, w->from, w->count * sizeof(float));
    if (s > 0) {
        const message *in = &w->m[1];
        float *to = w->sum + (in->kind >> 8) * each;
        for (uint64_t i = 0; i < in->bytes / sizeof(float); i++)
            to[i] = s < n ? to[i] + w->room[i] : w->room[i];
    }
    w->n = 0;
    if (s == last)
        return;
    int send = (c->rank - s - 1 + 2 * n) % n, recv = (c->rank - s - 2 + 3 * n) % n;
    if (s >= n - 1) {
        send = (c->rank - (s - n + 1) + 2 * n) % n;
        recv = (c->rank - (s - n + 1) - 1 + 2 * n) % n;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t chunk = (uint64_t)(i ? recv : send), begin = chunk * each;
        uint64_t k = begin >= w->count ? 0 : w->count - begin < each ? w->count - begin : each;
        w->m[i] = (message){.out = i == 0,
                            .peer = (c->rank + (i ? n - 1 : 1)) % n,
                            .dtype = NCCL_FLOAT32,
                            .kind = 1 | (int)chunk << 8,
                            .at = (char *)(i ? w->room : w->sum + begin),
                            .bytes = k * sizeof(float)};
        w->m[i].done = k == 0;
    }
    w->n = 2;
    w->step++;
}

/* Whether the whole piece of work is done. */
static bool move(work *w) {
    nccl_comm *c = w->comm;
    if (c->state == ABORTED)
        return true;
    if (w->stuck || c->now > NCCL_SUCCESS || seconds() < w->not_before)
        return false;
    if (atomic_load(&c->seg->lost) && atomic_load(&c->seg->lost) != 1 + c->rank) {
        fail(c, NCCL_REMOTE_ERROR, "the connection was closed by a remote peer");
        return false;
    }
    for (;;) {
        bool all = true;
        for (int i = 0; i < w->n; i++) {
            message *m = &w->m[i];
            bool first = true; /* messages of one way keep their order */
            for (int k = 0; k < i; k++)
                first &= w->m[k].done || w->m[k].peer != m->peer || w->m[k].out != m->out;
            if (!m->done && first && m->out)
                put(c, m);
            else if (!m->done && first)
                get(c, m);
            all &= m->done;
        }
        if (!all)
            return false;
        if (w->step < 0)
            return true;
        ring_step(w);
        if (w->n == 0)
            return true;
    }
}

static uint64_t progress(emu_outside *s) {
    fifo *f = s->own;
    while (f->done < s->reached && move(f->first)) {
        work *w = f->first;
        f->first = w->next;
        f->last = f->first ? f->last : NULL;
        f->done++;
        w->comm->undone--;
        free(w->room);
        free(w);
    }
    return f->done;
}

static void post(work *w) {
    emu_outside *s = w->stream;
    if (!s->own) {
        s->own = take(sizeof(fifo));
        s->progress = progress;
    }
    fifo *f = s->own;
    if (w->comm->undone && w->comm->stream != s)
        complain("rank %d: a communicator on two streams at once", w->comm->rank);
    w->comm->undone++;
    w->comm->stream = s;
    w->next = NULL;
    *(f->last ? &f->last->next : &f->first) = w;
    f->last = w;
    s->posted++;
}

/* ---- Communicators ---- */

static bool usable(nccl_comm *c, const char *call) {
    if (!c || c->state == ABORTED || c->state == DESTROYED) {
        complain("%s: the communicator was %s", call,
                 !c                    ? "never made"
                 : c->state == ABORTED ? "aborted"
                                       : "destroyed");
        return false;
    }
    if (c->now == NCCL_IN_PROGRESS) {
        complain("%s: rank %d's communicator is in progress", call, c->rank);
        return false;
    }
    return true;
}

static bool all_of(const nccl_comm *c, const atomic_int *flag) {
    for (int r = 0; r < c->ranks; r++)
        if (!atomic_load(&flag[r]))
            return false;
    return true;
}

EXPORT nccl_result ncclGetVersion(int *out);
nccl_result ncclGetVersion(int *out) {
    const char *text = getenv("FAKE_NCCL_VERSION");
    *out = text ? (int)strtol(text, NULL, 10) : 22304;
    return NCCL_SUCCESS;
}

EXPORT nccl_result ncclGetUniqueId(nccl_id *id);
nccl_result ncclGetUniqueId(nccl_id *id) {
    const char *job = getenv("WEFT_JOB"); /* so that a test can tell its own from those beside it */
    uint64_t draw;
    memset(id, 0, sizeof *id);
    if (getrandom(&draw, sizeof draw, 0) != sizeof draw)
        return NCCL_SYSTEM_ERROR;
    snprintf(id->internal, sizeof id->internal, "/fake-nccl-%.32s-%016llx", job ? job : "",
             (unsigned long long)draw);
    return NCCL_SUCCESS;
}

#ifdef FAKE_NCCL_OLD
#define ncclCommInitRankConfig ncclCommInitRankNotYet
#endif
EXPORT nccl_result ncclCommInitRankConfig(nccl_comm **out, int ranks, nccl_id id, int rank,
                                          nccl_config *config);
nccl_result ncclCommInitRankConfig(nccl_comm **out, int ranks, nccl_id id, int rank,
                                   nccl_config *config) {
    if (config->magic != NCCL_CONFIG_MAGIC || config->blocking != 0 || rank >= ranks) {
        complain("ncclCommInitRankConfig: rank %d of %d, blocking %d", rank, ranks,
                 config->blocking);
        return NCCL_INVALID_ARGUMENT;
    }
    nccl_comm *c = take(sizeof *c);
    c->bytes = sizeof(segment) + sizeof(lane) * (size_t)(ranks * ranks);
    c->rank = rank;
    c->ranks = ranks;
    memcpy(c->name, id.internal, sizeof c->name - 1);
    int fd = shm_open(c->name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    void *p = fd < 0 || ftruncate(fd, (off_t)c->bytes)
                  ? MAP_FAILED
                  : mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED) {
        free(c);
        return NCCL_SYSTEM_ERROR;
    }
    c->seg = p;
    c->now = NCCL_IN_PROGRESS;
    c->polls = POLLS;
    pthread_mutex_lock(&lock);
    c->next = comms;
    comms = c;
    pthread_mutex_unlock(&lock);
    if (strikes(c, "kill"))
        raise(SIGKILL);
    if (strikes(c, "error"))
        fail(c, NCCL_INTERNAL_ERROR, "the fake was told to fail");
    else if (!strikes(c, "hang") && !strikes(c, "stall"))
        atomic_store(&c->seg->joined[rank], 1);
    begins = true;
    *out = c;
    return depth ? NCCL_SUCCESS : NCCL_IN_PROGRESS;
}

/* Takes what is in progress a poll further. */
static void settle(nccl_comm *c) {
    if (c->polls > 0) {
        c->polls--;
        return;
    }
    if (!c->initialised) {
        if (!all_of(c, c->seg->joined))
            return;
        c->initialised = true;
        if (c->rank == 0)
            shm_unlink(c->name);
        c->groups = 1;
    } else if (c->state == FINALIZING) {
        if (!all_of(c, c->seg->finalized))
            return;
    } else if (c->held) {
        if (strikes(c, "stall"))
            return;
        work *w = c->held;
        c->held = NULL;
        strike_group(w);
        if (strikes(c, "error") || strikes(c, "cuda")) {
            bool cuda = strikes(c, "cuda");
            free(w->room);
            free(w);
            c->groups++;
            fail(c, cuda ? NCCL_UNHANDLED_CUDA_ERROR : NCCL_INTERNAL_ERROR,
                 "the fake was told to fail");
            return;
        }
        c->groups++;
        post(w);
    }
    c->now = NCCL_SUCCESS;
}

EXPORT nccl_result ncclCommGetAsyncError(nccl_comm *c, nccl_result *out);
nccl_result ncclCommGetAsyncError(nccl_comm *c, nccl_result *out) {
    if (!c || c->state == ABORTED || c->state == DESTROYED)
        return usable(c, "ncclCommGetAsyncError") ? NCCL_SUCCESS : NCCL_INVALID_ARGUMENT;
    if (c->now == NCCL_IN_PROGRESS)
        settle(c);
    *out = c->now;
    return NCCL_SUCCESS;
}

EXPORT nccl_result ncclCommFinalize(nccl_comm *c);
nccl_result ncclCommFinalize(nccl_comm *c) {
    if (!usable(c, "ncclCommFinalize"))
        return NCCL_INVALID_USAGE;
    if (c->registered)
        complain("rank %d: %d buffers are still registered", c->rank, c->registered);
    c->state = FINALIZING;
    c->now = NCCL_IN_PROGRESS;
    c->polls = POLLS;
    atomic_store(&c->seg->finalized[c->rank], 1);
    return NCCL_IN_PROGRESS;
}

static void leave(nccl_comm *c, state s) {
    if (!c->initialised)
        shm_unlink(c->name);
    if (c->held)
        free(c->held->room);
    free(c->held);
    c->held = NULL;
    c->state = s;
}

EXPORT nccl_result ncclCommDestroy(nccl_comm *c);
nccl_result ncclCommDestroy(nccl_comm *c) {
    if (!usable(c, "ncclCommDestroy"))
        return NCCL_INVALID_USAGE;
    if (c->state != FINALIZING)
        complain("rank %d: destroyed before it was finalized", c->rank);
    leave(c, DESTROYED);
    munmap(c->seg, c->bytes);
    return NCCL_SUCCESS;
}

EXPORT nccl_result ncclCommAbort(nccl_comm *c);
nccl_result ncclCommAbort(nccl_comm *c) {
    if (!c || c->state == ABORTED || c->state == DESTROYED) {
        complain("ncclCommAbort: twice, or after the end");
        return NCCL_INVALID_USAGE;
    }
    leave(c, ABORTED);
    return NCCL_SUCCESS;
}

EXPORT const char *ncclGetErrorString(nccl_result r);
const char *ncclGetErrorString(nccl_result r) {
    static const char *const words[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return r <= NCCL_IN_PROGRESS ? words[r] : "unknown result code";
}

EXPORT const char *ncclGetLastError(nccl_comm *c);
const char *ncclGetLastError(nccl_comm *c) {
    return c ? c->error : "";
}

/* ---- Calls ---- */

EXPORT nccl_result ncclGroupStart(void);
nccl_result ncclGroupStart(void) {
    depth++;
    return NCCL_SUCCESS;
}

static work *work_of(nccl_comm *c, void *stream) {
    for (work *w = group; w; w = w->next)
        if (w->comm == c) {
            if (w->stream != stream)
                complain("rank %d: two streams in a group", c->rank);
            return w;
        }
    work *w = take(sizeof *w);
    w->comm = c;
    w->stream = stream;
    w->step = -1;
    w->next = group;
    group = w;
    return w;
}

EXPORT nccl_result ncclGroupEnd(void);
nccl_result ncclGroupEnd(void) {
    bool progress_made = begins;
    if (depth < 1) {
        complain("ncclGroupEnd without a start");
        return NCCL_INVALID_USAGE;
    }
    if (--depth > 0)
        return NCCL_SUCCESS;
    begins = false;
    while (group) {
        work *w = group;
        group = w->next;
        w->comm->held = w;
        w->comm->now = NCCL_IN_PROGRESS;
        w->comm->polls = POLLS;
        progress_made = true;
    }
    return progress_made ? NCCL_IN_PROGRESS : NCCL_SUCCESS;
}

static nccl_result add_message(nccl_comm *c, void *stream, const char *call, message m) {
    if (!usable(c, call) || m.peer < 0 || m.peer >= c->ranks || m.peer == c->rank)
        return NCCL_INVALID_ARGUMENT;
    bool alone = depth == 0;
    depth += alone;
    work *w = work_of(c, stream);
    if (w->n == MOST_MESSAGES)
        abort();
    w->m[w->n++] = m;
    return alone ? ncclGroupEnd() : NCCL_SUCCESS;
}

static uint64_t size_of(int dtype) {
    return dtype == NCCL_FLOAT32 ? 4 : 1;
}

EXPORT nccl_result ncclSend(const void *p, size_t n, int dtype, int peer, nccl_comm *c, void *s);
nccl_result ncclSend(const void *p, size_t n, int dtype, int peer, nccl_comm *c, void *s) {
    return add_message(c, s, "ncclSend",
                       (message){.out = true,
                                 .peer = peer,
                                 .dtype = dtype,
                                 .at = (char *)(uintptr_t)p,
                                 .bytes = n * size_of(dtype)});
}

EXPORT nccl_result ncclRecv(void *p, size_t n, int dtype, int peer, nccl_comm *c, void *s);
nccl_result ncclRecv(void *p, size_t n, int dtype, int peer, nccl_comm *c, void *s) {
    return add_message(
        c, s, "ncclRecv",
        (message){.peer = peer, .dtype = dtype, .at = p, .bytes = n * size_of(dtype)});
}

EXPORT nccl_result ncclAllReduce(const void *x, void *y, size_t n, int dtype, int op, nccl_comm *c,
                                 void *s);
nccl_result ncclAllReduce(const void *x, void *y, size_t n, int dtype, int op, nccl_comm *c,
                          void *s) {
    if (!usable(c, "ncclAllReduce") || dtype != NCCL_FLOAT32 || op != NCCL_SUM || depth)
        return NCCL_INVALID_ARGUMENT;
    work *w = take(sizeof *w);
    w->comm = c;
    w->stream = s;
    w->count = n;
    w->sum = y;
    w->room = take(n * sizeof(float) + sizeof(float));
    w->from = x;
    w->step = 0;
    c->held = w;
    c->now = NCCL_IN_PROGRESS;
    c->polls = POLLS;
    return NCCL_IN_PROGRESS;
}

/* ---- Memory ---- */

#ifndef FAKE_NCCL_PLAIN
EXPORT nccl_result ncclCommRegister(nccl_comm *c, void *p, size_t n, void **handle);
nccl_result ncclCommRegister(nccl_comm *c, void *p, size_t n, void **handle) {
    if (!usable(c, "ncclCommRegister") || !p || !n)
        return NCCL_INVALID_ARGUMENT;
    c->registered++;
    *handle = p;
    return NCCL_SUCCESS;
}

EXPORT nccl_result ncclCommDeregister(nccl_comm *c, void *handle);
nccl_result ncclCommDeregister(nccl_comm *c, void *handle) {
    if (!usable(c, "ncclCommDeregister") || !handle)
        return NCCL_INVALID_ARGUMENT;
    c->registered--;
    return NCCL_SUCCESS;
}

EXPORT nccl_result ncclMemAlloc(void **p, size_t n);
nccl_result ncclMemAlloc(void **p, size_t n) {
    atomic_fetch_add(&memory, 1);
    *p = take(n);
    return NCCL_SUCCESS;
}

EXPORT nccl_result ncclMemFree(void *p);
nccl_result ncclMemFree(void *p) {
    atomic_fetch_sub(&memory, p != NULL);
    free(p);
    return NCCL_SUCCESS;
}
#endif

/* What was left behind. */
__attribute__((destructor)) static void look_back(void) {
    for (nccl_comm *c = comms; c; c = c->next)
        if (c->state != ABORTED && c->state != DESTROYED)
            complain("rank %d's communicator was never destroyed", c->rank);
    if (atomic_load(&memory))
        complain("%d pieces of ncclMemAlloc were never freed", atomic_load(&memory));
    if (atomic_load(&complaints))
        _exit(COMPLAINED);
}
