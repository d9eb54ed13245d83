/* SPDX-License-Identifier: Apache-2.0
 * A CUDA runtime for the emulated GPU: its memory is apart from the host's and starts as NaN, a
 * captured graph is the list of steps that launched, errors come when they are told to.
 *
 * A stream does at once what it is given, unless it has to wait for work from outside or for
 * another stream: then, and in a machine whose streams are late, tasks queue up, and are done when
 * somebody waits for them or asks. */
#include "kernels/emu/runtime.h"
#include "kernels/emu/cuda_runtime_api.h"
#include "weft/step.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGNMENT = 256, STEPS_MAX = 65536, MOST_DEVICES = 64 };

struct emu_graph {
    const weft_step **step;
    int n, room;
};

/* What a stream has yet to do. */
typedef enum { LAUNCH, COPY, FILL, OUTSIDE, FOLLOW } task_kind;
struct emu_task {
    emu_task *next;
    task_kind kind;
    void (*run)(void *what); /* LAUNCH, of `more` */
    char *dst;               /* COPY, FILL: rows */
    const char *src;
    size_t dst_pitch, src_pitch, width, rows;
    int value;
    emu_queue *other; /* FOLLOW: waits until it has done so many */
    uint64_t number;  /* OUTSIDE: pieces of outside work */
    alignas(64) char more[];
};

struct emu_queue {
    emu_outside outside;     /* first: who posts finds it by the stream's address */
    weft_emu_stream *stream; /* once a kernel was launched */
    emu_graph *recording;
    emu_task *first, **last;
    uint64_t given, done, noticed; /* tasks; pieces of outside work that are tasks */
};

/* Has come once the stream has done so many tasks. */
struct emu_event {
    emu_queue *queue;
    uint64_t number;
};

/* What was allocated, to know its size and its kind. */
struct emu_block {
    emu_block *next;
    char *p;
    size_t bytes;
    bool pinned;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static emu_machine machine = {MOST_DEVICES, 90, 13000, 0, 0, 0};
static emu_fault fault;
static int64_t calls, live;
static cudaError_t pending, sticky; /* pending: what the next sync says */
static emu_block *blocks;
static uint64_t held;
static const char *struck;
enum { NAMES = 64 }; /* of functions */
static const char *called[NAMES];
static thread_local cudaError_t last;
static thread_local int current;
static thread_local char detail[WEFT_EMU_ERROR_BYTES];

/* ---- Faults ---- */

void emu_machine_set(emu_machine m) {
    machine = m;
}

void emu_fault_set(emu_fault f) {
    pthread_mutex_lock(&lock);
    fault = f;
    calls = 0;
    pending = sticky = cudaSuccess;
    struck = NULL;
    pthread_mutex_unlock(&lock);
}

int64_t emu_calls(void) {
    return __atomic_load_n(&calls, __ATOMIC_ACQUIRE);
}

const char *emu_called(int i) {
    return i < NAMES ? called[i] : NULL;
}

const char *emu_fault_struck(void) {
    return struck;
}

int64_t emu_live(void) {
    return __atomic_load_n(&live, __ATOMIC_ACQUIRE);
}

static void count_live(int by) {
    __atomic_fetch_add(&live, by, __ATOMIC_ACQ_REL);
}

/* WEFT_EMU_FAULT=CALL[:CODE[:late]] and WEFT_EMU_LATE=N, read once. */
__attribute__((constructor)) static void read_environment() {
    const char *text = getenv("WEFT_EMU_FAULT"), *late = getenv("WEFT_EMU_LATE");
    char word[8] = "";
    long long call = 0;
    int code = cudaErrorUnknown;
    machine.late = late ? (int)strtol(late, NULL, 10) : 0;
    if (!text || sscanf(text, "%lld:%d:%7s", &call, &code, word) < 1)
        return;
    fault.call = call;
    fault.code = code;
    fault.late = strcmp(word, "late") == 0;
    fault.sticky = 1;
}

static cudaError_t fail(cudaError_t e) {
    if (e != cudaSuccess)
        last = e;
    return e;
}

static cudaError_t strike(const char *name) {
    cudaError_t e = (cudaError_t)fault.code;
    struck = name;
    if (fault.late) {
        pending = e;
        return cudaSuccess;
    }
    if (fault.sticky)
        sticky = e;
    return e;
}

/* Kept by their pointers: each is its function's own. */
static void note_name(const char *name) {
    int i = 0;
    while (i < NAMES && called[i] && called[i] != name)
        i++;
    if (i < NAMES)
        called[i] = name;
}

/* Every call of the runtime passes here. */
static cudaError_t enter(const char *name) {
    pthread_mutex_lock(&lock);
    note_name(name);
    int64_t n = __atomic_add_fetch(&calls, 1, __ATOMIC_ACQ_REL);
    cudaError_t e = sticky;
    if (e == cudaSuccess && (n == fault.call || (name == fault.name && !struck)))
        e = strike(name);
    pthread_mutex_unlock(&lock);
    if (e != cudaSuccess)
        detail[0] = 0;
    return fail(e);
}

#define ENTER() \
    do { \
        cudaError_t entered = enter(__func__); \
        if (entered != cudaSuccess) \
            return entered; \
    } while (0)

static cudaError_t late_error() {
    pthread_mutex_lock(&lock);
    cudaError_t e = pending;
    pending = cudaSuccess;
    if (e != cudaSuccess && fault.sticky)
        sticky = e;
    pthread_mutex_unlock(&lock);
    if (e != cudaSuccess)
        detail[0] = 0;
    return e;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t e = last;
    last = cudaSuccess;
    return e;
}

/* What the emulator found is said in full. */
const char *cudaGetErrorString(cudaError_t e) {
#define WORDS_(name, code, words) \
    case name: return words;
    if (e == cudaErrorLaunchFailure && detail[0])
        return detail;
    switch (e) {
        EMU_CUDA_ERRORS(WORDS_)
    default: return "unrecognized error code";
    }
}

const char *cudaGetErrorName(cudaError_t e) {
#define NAME_(name, code, words) \
    case name: return #name;
    switch (e) {
        EMU_CUDA_ERRORS(NAME_)
    default: return "unrecognized error code";
    }
}

/* ---- The machine ---- */

cudaError_t cudaDriverGetVersion(int *out) {
    ENTER();
    *out = machine.driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *out) {
    ENTER();
    *out = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *out) {
    ENTER();
    *out = machine.devices;
    if (machine.driver < 13000)
        return fail(cudaErrorInsufficientDriver);
    return fail(machine.devices ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr what, int device) {
    ENTER();
    if (device < 0 || device >= machine.devices)
        return fail(cudaErrorInvalidDevice);
    *out = what == cudaDevAttrComputeCapabilityMajor ? machine.sm / 10 : machine.sm % 10;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device) {
    ENTER();
    if (device < 0 || device >= machine.devices)
        return fail(cudaErrorInvalidDevice);
    *out = cudaDeviceProp();
    memcpy(out->name, "emulated GPU", sizeof "emulated GPU");
    out->major = machine.sm / 10;
    out->minor = machine.sm % 10;
    out->multiProcessorCount = 1;
    out->totalGlobalMem = machine.bytes;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    ENTER();
    if (device < 0 || device >= machine.devices)
        return fail(cudaErrorInvalidDevice);
    current = device;
    return cudaSuccess;
}

static uint64_t reaches[MOST_DEVICES]; /* a bit for each peer */

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    ENTER();
    if (device < 0 || peer < 0 || device >= machine.devices || peer >= machine.devices)
        return fail(cudaErrorInvalidDevice);
    *can = device != peer && !machine.apart;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
    ENTER();
    if (flags || peer == current || peer < 0 || peer >= machine.devices || machine.apart)
        return fail(cudaErrorInvalidDevice);
    uint64_t bit = (uint64_t)1 << peer,
             before = __atomic_fetch_or(&reaches[current], bit, __ATOMIC_RELAXED);
    return fail(before & bit ? cudaErrorPeerAccessAlreadyEnabled : cudaSuccess);
}

/* ---- Memory ---- */

static bool fits(size_t bytes) {
    return !machine.bytes || held + bytes <= machine.bytes;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *bytes) {
    ENTER();
    *bytes = machine.bytes;
    *free_bytes = machine.bytes > held ? machine.bytes - held : 0;
    return cudaSuccess;
}

static cudaError_t block_new(void **out, size_t bytes, bool pinned) {
    size_t room = (bytes + 2 * ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    pthread_mutex_lock(&lock);
    bool room_left = room > bytes && (pinned || fits(bytes));
    emu_block *b = room_left ? (emu_block *)calloc(1, sizeof *b) : NULL;
    char *p = b ? (char *)aligned_alloc(ALIGNMENT, room) : NULL;
    if (p) {
        *b = {blocks, p, bytes, pinned};
        blocks = b;
        held += pinned ? 0 : bytes;
        memset(p, 0xff, room); /* NaN in every float type */
    } else {
        free(b);
    }
    pthread_mutex_unlock(&lock);
    count_live(p != NULL);
    *out = p;
    return fail(p ? cudaSuccess : cudaErrorMemoryAllocation);
}

static cudaError_t block_free(void *p, bool pinned) {
    pthread_mutex_lock(&lock);
    emu_block **at = &blocks;
    while (*at && ((*at)->p != p || (*at)->pinned != pinned))
        at = &(*at)->next;
    emu_block *b = *at;
    if (b) {
        *at = b->next;
        held -= pinned ? 0 : b->bytes;
        free(b->p);
        free(b);
        count_live(-1);
    }
    pthread_mutex_unlock(&lock);
    return fail(b || !p ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    *out = NULL;
    ENTER();
    return block_new(out, bytes, false);
}

/* Releases whatever it says: a lost context's memory is gone too. */
cudaError_t cudaFree(void *p) {
    cudaError_t e = enter(__func__), own = block_free(p, false);
    return e != cudaSuccess ? e : own;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags) {
    (void)flags;
    *out = NULL;
    ENTER();
    return block_new(out, bytes, true);
}

cudaError_t cudaFreeHost(void *p) {
    cudaError_t e = enter(__func__), own = block_free(p, true);
    return e != cudaSuccess ? e : own;
}

static bool is_pinned(const void *p) {
    pthread_mutex_lock(&lock);
    const emu_block *b = blocks;
    while (b && !((const char *)p >= b->p && (const char *)p < b->p + b->bytes))
        b = b->next;
    bool yes = b && b->pinned;
    pthread_mutex_unlock(&lock);
    return yes;
}

/* ---- Streams ---- */

static emu_task *give(emu_queue *q, task_kind kind, size_t more) {
    emu_task *t = (emu_task *)aligned_alloc(64, (sizeof *t + more + 63) / 64 * 64);
    if (!t)
        abort();
    memset(t, 0, sizeof *t);
    t->kind = kind;
    *q->last = t;
    q->last = &t->next;
    q->given++;
    return t;
}

/* What was posted from outside since the last task is a task as well. */
static void notice(emu_queue *q) {
    if (q->noticed == q->outside.posted)
        return;
    q->noticed = q->outside.posted;
    give(q, OUTSIDE, 0)->number = q->noticed;
}

static void move_rows(const emu_task *t) {
    for (size_t i = 0; i < t->rows; i++)
        if (t->kind == FILL)
            memset(t->dst + i * t->dst_pitch, t->value, t->width);
        else
            memcpy(t->dst + i * t->dst_pitch, t->src + i * t->src_pitch, t->width);
}

static bool advance(emu_queue *q, uint64_t number);

/* Whether it is done. */
static bool perform(emu_queue *q, emu_task *t) {
    if (t->kind == FOLLOW)
        return advance(t->other, t->number);
    if (t->kind == OUTSIDE) {
        q->outside.reached = t->number;
        return q->outside.progress(&q->outside) >= t->number;
    }
    if (t->kind == LAUNCH)
        t->run(t->more);
    else
        move_rows(t);
    return true;
}

/* Does tasks in order until so many are done; false: what comes next has to wait. */
static bool advance(emu_queue *q, uint64_t number) {
    while (q->done < number) {
        emu_task *t = q->first;
        if (!perform(q, t))
            return false;
        q->first = t->next;
        q->last = q->first ? q->last : &q->first;
        q->done++;
        free(t);
    }
    return true;
}

/* Whether all is done; late streams do nothing unasked. */
static bool catch_up(emu_queue *q) {
    notice(q);
    return machine.late < EMU_ALL_LATE && advance(q, q->given);
}

static void finish(emu_queue *q) {
    notice(q);
    while (!advance(q, q->given))
        usleep(20);
}

/* A copy from memory that its owner may change at once takes the bytes along, one to such memory is
 * waited for. */
static void copy_rows(emu_queue *q, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                      size_t width, size_t rows, enum cudaMemcpyKind kind) {
    bool pinned = kind != cudaMemcpyDeviceToDevice &&
                  is_pinned(kind == cudaMemcpyDeviceToHost ? dst : src);
    bool at_once = catch_up(q) && !(machine.late && pinned);
    bool staged = !at_once && kind == cudaMemcpyHostToDevice && !pinned;
    emu_task *t = give(q, COPY, staged ? width * rows : 0);
    t->dst = (char *)dst;
    t->src = (const char *)src;
    t->dst_pitch = dst_pitch;
    t->src_pitch = src_pitch;
    t->width = width;
    t->rows = rows;
    for (size_t i = 0; staged && i < rows; i++)
        memcpy(t->more + i * width, t->src + i * src_pitch, width);
    t->src = staged ? t->more : t->src;
    t->src_pitch = staged ? width : src_pitch;
    if (at_once || (kind == cudaMemcpyDeviceToHost && !pinned))
        finish(q);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t q) {
    ENTER();
    if (q->recording)
        return fail(cudaErrorStreamCaptureUnsupported);
    copy_rows(q, dst, n, src, n, n, 1, kind);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t q) {
    ENTER();
    if (q->recording)
        return fail(cudaErrorStreamCaptureUnsupported);
    if (width > dst_pitch || width > src_pitch)
        return fail(cudaErrorInvalidValue);
    copy_rows(q, dst, dst_pitch, src, src_pitch, width, height, kind);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t q) {
    ENTER();
    if (q->recording)
        return fail(cudaErrorStreamCaptureUnsupported);
    bool at_once = catch_up(q);
    emu_task *t = give(q, FILL, 0);
    t->dst = (char *)p;
    t->width = n;
    t->rows = 1;
    t->value = value;
    if (at_once)
        finish(q);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    ENTER();
    emu_queue *q = (emu_queue *)calloc(1, sizeof *q);
    if (!q)
        return fail(cudaErrorMemoryAllocation);
    q->last = &q->first;
    q->outside.device = current;
    count_live(1);
    *out = q;
    return cudaSuccess;
}

static void graph_free(emu_graph *g) {
    if (!g)
        return;
    free(g->step);
    free(g);
    count_live(-1);
}

/* What nobody has waited for never happens. */
cudaError_t cudaStreamDestroy(cudaStream_t q) {
    cudaError_t e = enter(__func__);
    for (emu_task *t; (t = q->first); free(t))
        q->first = t->next;
    graph_free(q->recording);
    free(q);
    count_live(-1);
    return e;
}

cudaError_t cudaStreamSynchronize(cudaStream_t q) {
    ENTER();
    finish(q);
    cudaError_t e = late_error();
    if (e == cudaSuccess && q->stream && q->stream->failed) {
        snprintf(detail, sizeof detail, "%s", q->stream->error);
        e = cudaErrorLaunchFailure;
    }
    return fail(e);
}

/* ---- Events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    ENTER();
    emu_event *e = (emu_event *)calloc(1, sizeof *e);
    if (!e)
        return fail(cudaErrorMemoryAllocation);
    count_live(1);
    *out = e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t q) {
    ENTER();
    if (q->recording)
        return fail(cudaErrorStreamCaptureUnsupported);
    notice(q);
    *e = {q, q->given};
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t q, cudaEvent_t e, unsigned flags) {
    (void)flags;
    ENTER();
    if (q->recording)
        return fail(cudaErrorStreamCaptureUnsupported);
    catch_up(q);
    if (!e->queue || e->queue == q)
        return cudaSuccess;
    emu_task *t = give(q, FOLLOW, 0);
    t->other = e->queue;
    t->number = e->number;
    catch_up(q);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    ENTER();
    return !e->queue || advance(e->queue, e->number) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    cudaError_t entered = enter(__func__);
    free(e);
    count_live(-1);
    return entered;
}

/* ---- Graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t q, enum cudaStreamCaptureMode mode) {
    (void)mode;
    ENTER();
    if (q->recording)
        return fail(cudaErrorStreamCaptureUnsupported);
    q->recording = (emu_graph *)calloc(1, sizeof *q->recording);
    if (!q->recording)
        return fail(cudaErrorMemoryAllocation);
    count_live(1);
    return cudaSuccess;
}

/* Ends the capture whatever it says. */
cudaError_t cudaStreamEndCapture(cudaStream_t q, cudaGraph_t *out) {
    cudaError_t e = enter(__func__);
    emu_graph *g = q->recording;
    q->recording = NULL;
    if (e == cudaSuccess && (!g || g->n > STEPS_MAX))
        e = fail(cudaErrorStreamCaptureInvalidated);
    if (e != cudaSuccess) {
        graph_free(g);
        g = NULL;
    }
    *out = g;
    return e;
}

static void graph_add(emu_graph *g, const weft_step *step) {
    if (g->n && g->step[g->n - 1] == step)
        return; /* of several kernels */
    if (g->n == g->room) {
        g->room = g->room ? 2 * g->room : 64;
        g->step = (const weft_step **)realloc(g->step, sizeof *g->step * (size_t)g->room);
        if (!g->step)
            abort();
    }
    g->step[g->n++] = step;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    ENTER();
    emu_graph *copy = (emu_graph *)calloc(1, sizeof *copy);
    if (!copy)
        return fail(cudaErrorMemoryAllocation);
    for (int i = 0; i < g->n; i++)
        graph_add(copy, g->step[i]);
    count_live(1);
    *out = copy;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t q) {
    ENTER();
    for (int i = 0; i < g->n; i++)
        g->step[i]->kernel->run(g->step[i], &q->stream->head);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    cudaError_t e = enter(__func__);
    graph_free(g);
    return e;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    cudaError_t e = enter(__func__);
    graph_free(g);
    return e;
}

/* A launch is a call as well, whose error is the stream's. */
int emu_queue_runs(weft_emu_stream *s, const weft_step *step) {
    emu_queue *q = (emu_queue *)s->cuda.stream;
    q->stream = s;
    cudaError_t e = enter(__func__);
    cudaGetLastError();
    if (e != cudaSuccess && !s->cuda.error) {
        s->cuda.error = e;
        s->cuda.failed = step;
    }
    if (current != q->outside.device && !s->cuda.error) {
        s->cuda.error = cudaErrorInvalidResourceHandle; /* a stream of another device */
        s->cuda.failed = step;
    }
    if (s->cuda.error)
        return 0;
    if (!q->recording)
        return catch_up(q) ? 1 : -1;
    if (step)
        graph_add(q->recording, step);
    else
        q->recording->n = STEPS_MAX + 1;
    return 0;
}

void *emu_queue_later(weft_emu_stream *s, void (*run)(void *), size_t bytes) {
    emu_task *t = give((emu_queue *)s->cuda.stream, LAUNCH, bytes);
    t->run = run;
    return t->more;
}
