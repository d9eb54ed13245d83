/* SPDX-License-Identifier: Apache-2.0
 * The device behind the backend cuda: the first GPU of those CUDA_VISIBLE_DEVICES shows that is new
 * enough. Errors of kernels surface at the next sync and stay: after a fault the stream is dead.
 *
 * Compiled a second time it is the backend emu: DEVICE_GPU says which, the include path brings the
 * toolkit's runtime or the emulator's (kernels/emu). */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/device_gpu.h"
#include "weft/step.h"
#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#define TEXT__(x) #x
#define TEXT_(x) TEXT__(x)
#define BACKEND TEXT_(DEVICE_GPU)

enum { LEAST_SM = 80, PLANNED_SM = 90, MOST_GPUS = 64 };

typedef struct {
    device head;
    int ordinal;
    cudaStream_t own[MOST_GPUS]; /* of copies without a stream; each GPU's once it is used */
} gpu;

_Static_assert((int)DEVICE_MARKS == (int)WEFT_STREAM_MARKS, "an event each");

static _Thread_local int chosen = -1; /* of device->use; -1: the one it was opened for */

/* ---- Errors ---- */

/* Also forgets the error: what asks for the last one must not see another's. */
static weft_status fault(cudaError_t e, const char *what) {
    cudaGetLastError();
    return weft_fail(WEFT_DEVICE, BACKEND ": %s: %s (%s)", what, cudaGetErrorString(e),
                     cudaGetErrorName(e));
}

#define GPU_TRY(call, what) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) \
            return fault(error_, what); \
    } while (0)

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576;
}

/* ---- Which GPU ---- */

static weft_status check_driver(device_gpu *g) {
    if (cudaDriverGetVersion(&g->driver) != cudaSuccess || g->driver == 0)
        return weft_fail(WEFT_DEVICE,
                         BACKEND ": no NVIDIA driver here (libcuda.so.1); use --device cpu");
    GPU_TRY(cudaRuntimeGetVersion(&g->runtime), "version");
    return WEFT_OK;
}

static weft_status count_gpus(const device_gpu *g, int *n) {
    cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaErrorInsufficientDriver)
        return weft_fail(
            WEFT_DEVICE,
            BACKEND ": the driver is too old: it knows CUDA %d.%d, this build needs %d.%d; "
                    "update it or use --device cpu",
            g->driver / 1000, g->driver % 1000 / 10, g->runtime / 1000, g->runtime % 1000 / 10);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && *n == 0)) {
        const char *visible = getenv("CUDA_VISIBLE_DEVICES");
        cudaGetLastError();
        return weft_fail(WEFT_DEVICE, BACKEND ": no GPU here%s%s%s; use --device cpu",
                         visible ? " (CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "",
                         visible ? ")" : "");
    }
    GPU_TRY(e, "looking for GPUs");
    return WEFT_OK;
}

static weft_status sm_of(int ordinal, int *sm) {
    int major, minor;
    GPU_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal),
            "attribute");
    GPU_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal),
            "attribute");
    *sm = 10 * major + minor;
    return WEFT_OK;
}

/* The first that is new enough; *sm is the last one's where none is. */
static weft_status choose(int n, int *ordinal, int *sm) {
    for (*ordinal = 0; *ordinal < n; ++*ordinal) {
        WEFT_TRY(sm_of(*ordinal, sm));
        if (*sm >= LEAST_SM)
            return WEFT_OK;
    }
    struct cudaDeviceProp p;
    GPU_TRY(cudaGetDeviceProperties(&p, n - 1), "properties");
    return weft_fail(WEFT_DEVICE,
                     BACKEND ": %s is sm_%d; sm_%d or newer is needed; use --device cpu", p.name,
                     *sm, LEAST_SM);
}

static weft_status find(device_gpu *g, int *ordinal, int *gpus) {
    WEFT_TRY(check_driver(g));
    WEFT_TRY(count_gpus(g, gpus));
    return choose(*gpus, ordinal, &g->sm);
}

weft_status DEVICE_GPU_NAME(find)(device_gpu *out) {
    struct cudaDeviceProp p;
    size_t left = 0, all = 0;
    int ordinal, gpus;
    *out = (device_gpu){.sm = 0};
    WEFT_TRY(find(out, &ordinal, &gpus));
    GPU_TRY(cudaGetDeviceProperties(&p, ordinal), "properties");
    GPU_TRY(cudaSetDevice(ordinal), p.name);
    GPU_TRY(cudaMemGetInfo(&left, &all), p.name);
    memcpy(out->name, p.name, sizeof out->name);
    out->name[sizeof out->name - 1] = 0;
    out->multiprocessors = p.multiProcessorCount;
    out->bytes = all;
    out->free_bytes = left;
    return WEFT_OK;
}

/* ---- Memory ---- */

static int ordinal_of(const device *d) {
    return chosen >= 0 ? chosen : ((const gpu *)d)->ordinal;
}

static weft_status open_own(gpu *g, int ordinal) {
    if (!g->own[ordinal])
        GPU_TRY(cudaStreamCreateWithFlags(&g->own[ordinal], cudaStreamNonBlocking), "opening");
    return WEFT_OK;
}

/* The current device belongs to a thread of the host, and ranks have threads of their own. */
static weft_status enter(device *d) {
    int ordinal = ordinal_of(d);
    GPU_TRY(cudaSetDevice(ordinal), "device");
    return open_own((gpu *)d, ordinal);
}

static weft_status gpu_use(device *d, int ordinal, bool all) {
    gpu *g = (gpu *)d;
    if (ordinal < 0 || ordinal >= d->gpus || ordinal >= MOST_GPUS)
        return weft_fail(WEFT_USAGE, BACKEND ": no GPU %d here, %d in all; a rank needs its own",
                         ordinal, d->gpus);
    if (all)
        g->ordinal = ordinal;
    chosen = all ? -1 : ordinal;
    return enter(d);
}

static bool gpu_reach(device *d, int n, const int *others) {
    int own = ordinal_of(d);
    for (int i = 0; i < n; i++) {
        int can = 0;
        if (others[i] == own)
            continue;
        if (cudaDeviceCanAccessPeer(&can, own, others[i]) != cudaSuccess || !can) {
            cudaGetLastError();
            return false;
        }
        cudaError_t e = cudaDeviceEnablePeerAccess(others[i], 0);
        if (e != cudaSuccess)
            cudaGetLastError();
        if (e != cudaSuccess && e != cudaErrorPeerAccessAlreadyEnabled)
            return false;
    }
    return true;
}

static weft_status gpu_no_memory(uint64_t bytes, const char *what) {
    size_t left = 0, all = 0;
    cudaGetLastError();
    if (cudaMemGetInfo(&left, &all) != cudaSuccess)
        cudaGetLastError();
    return weft_fail(WEFT_NO_MEMORY,
                     "%s: %.1f MiB needed, %.1f of the GPU's %.1f MiB are free; lower --ctx-size, "
                     "--ubatch-size or --dtype (`weft plan` shows the bytes)",
                     what, mib(bytes), mib(left), mib(all));
}

static weft_status gpu_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    WEFT_TRY(enter(d));
    cudaError_t e = cudaMalloc(out, bytes);
    if (e == cudaErrorMemoryAllocation)
        return gpu_no_memory(bytes, what);
    GPU_TRY(e, what);
    d->allocated += bytes;
    d->peak = d->allocated > d->peak ? d->allocated : d->peak;
    return WEFT_OK;
}

static weft_status gpu_dry_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)d, (void)bytes, (void)out;
    return weft_fail(WEFT_UNSUPPORTED, "%s: a device opened for plans only has no memory", what);
}

/* Releasing goes on where the device is lost: the error was, or will be, a sync's. */
static void gpu_release(device *d, void *p, uint64_t bytes) {
    if (!p)
        return;
    d->allocated -= bytes;
    if (cudaFree(p) != cudaSuccess)
        cudaGetLastError();
}

static weft_status gpu_host_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    WEFT_TRY(enter(d));
    cudaError_t e = cudaHostAlloc(out, bytes, cudaHostAllocDefault);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return weft_fail(WEFT_NO_MEMORY, "%s: %.1f MiB of page-locked memory needed", what,
                         mib(bytes));
    }
    GPU_TRY(e, what);
    memset(*out, 0, bytes);
    return WEFT_OK;
}

static void gpu_host_release(device *d, void *p) {
    (void)d;
    if (p && cudaFreeHost(p) != cudaSuccess)
        cudaGetLastError();
}

/* ---- Streams ---- */

static cudaStream_t queue_of(const device *d, const weft_stream *s) {
    return s ? (cudaStream_t)((const weft_cuda_stream *)s)->stream
             : ((const gpu *)d)->own[ordinal_of(d)];
}

/* What the stream has met first; later it says the same again. */
static weft_status stream_error(const weft_cuda_stream *s) {
    const char *tag = s->failed ? s->failed->tag : "kernels (WEFT_SYNC=1 names the step)";
    return s->error ? fault((cudaError_t)s->error, tag) : WEFT_OK;
}

static weft_status gpu_sync(device *d, weft_stream *stream) {
    weft_cuda_stream *s = (weft_cuda_stream *)stream;
    (void)d;
    cudaError_t e = cudaStreamSynchronize((cudaStream_t)s->stream);
    if (e != cudaSuccess && !s->error)
        s->error = (int)e;
    return stream_error(s);
}

static weft_status gpu_mark(device *d, weft_stream *stream, int mark) {
    weft_cuda_stream *s = (weft_cuda_stream *)stream;
    cudaEvent_t e = (cudaEvent_t)s->mark[mark];
    WEFT_TRY(enter(d));
    if (!e)
        GPU_TRY(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "event");
    s->mark[mark] = e;
    GPU_TRY(cudaEventRecord(e, (cudaStream_t)s->stream), "event");
    return WEFT_OK;
}

static weft_status gpu_follow(device *d, weft_stream *s, const weft_stream *other, int mark) {
    cudaEvent_t e = (cudaEvent_t)((const weft_cuda_stream *)other)->mark[mark];
    WEFT_TRY(enter(d));
    if (e)
        GPU_TRY(cudaStreamWaitEvent(queue_of(d, s), e, 0), "waiting for a stream");
    return WEFT_OK;
}

static weft_status gpu_copy(device *d, weft_stream *s, void *dst, const void *src, uint64_t bytes,
                            device_copy_kind kind) {
    static const enum cudaMemcpyKind kinds[] = {[DEVICE_TO] = cudaMemcpyHostToDevice,
                                                [DEVICE_FROM] = cudaMemcpyDeviceToHost,
                                                [DEVICE_WITHIN] = cudaMemcpyDeviceToDevice,
                                                [DEVICE_FETCH] = cudaMemcpyDeviceToHost};
    if (bytes == 0)
        return WEFT_OK;
    WEFT_TRY(enter(d));
    cudaStream_t queue = queue_of(d, s);
    GPU_TRY(cudaMemcpyAsync(dst, src, bytes, kinds[kind], queue), "copy");
    if (!s || kind == DEVICE_FROM)
        GPU_TRY(cudaStreamSynchronize(queue), "copy");
    return WEFT_OK;
}

static weft_status gpu_zero(device *d, weft_stream *s, void *p, uint64_t bytes) {
    if (bytes == 0)
        return WEFT_OK;
    WEFT_TRY(enter(d));
    GPU_TRY(cudaMemsetAsync(p, 0, bytes, queue_of(d, s)), "zeros");
    if (!s)
        GPU_TRY(cudaStreamSynchronize(queue_of(d, s)), "zeros");
    return WEFT_OK;
}

static weft_status gpu_stream_open(device *d, int threads, weft_stream **out) {
    cudaStream_t queue;
    weft_cuda_stream *s;
    WEFT_TRY(enter(d));
    GPU_TRY(cudaStreamCreateWithFlags(&queue, cudaStreamNonBlocking), "stream");
    weft_status st = DEVICE_GPU_NAME(stream_new)(threads, &s);
    if (st != WEFT_OK) {
        cudaStreamDestroy(queue);
        return st;
    }
    s->stream = queue;
    *out = &s->head;
    return WEFT_OK;
}

static void gpu_stream_close(device *d, weft_stream *stream) {
    weft_cuda_stream *s = (weft_cuda_stream *)stream;
    (void)d;
    for (int i = 0; i < DEVICE_MARKS; i++)
        if (s->mark[i] && cudaEventDestroy((cudaEvent_t)s->mark[i]) != cudaSuccess)
            cudaGetLastError();
    if (cudaStreamDestroy((cudaStream_t)s->stream) != cudaSuccess)
        cudaGetLastError();
    DEVICE_GPU_NAME(stream_free)(s);
}

/* ---- Graphs ---- */

/* Of this thread's calls alone: other ranks may allocate meanwhile. */
static weft_status gpu_capture(device *d, weft_stream *s) {
    WEFT_TRY(enter(d));
    GPU_TRY(cudaStreamBeginCapture(queue_of(d, s), cudaStreamCaptureModeThreadLocal), "capture");
    return WEFT_OK;
}

/* A launch that failed says more than the capture it spoiled. */
static weft_status gpu_capture_end(device *d, weft_stream *s, void **out) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t e = cudaStreamEndCapture(queue_of(d, s), &graph);
    if (e == cudaSuccess && !((weft_cuda_stream *)s)->error)
        e = cudaGraphInstantiate(&exec, graph, 0);
    if (graph && cudaGraphDestroy(graph) != cudaSuccess)
        cudaGetLastError();
    WEFT_TRY(stream_error((weft_cuda_stream *)s));
    GPU_TRY(e, "a plan's graph (WEFT_GRAPH=0 does without)");
    *out = exec;
    return WEFT_OK;
}

static weft_status gpu_launch(device *d, weft_stream *s, void *graph) {
    WEFT_TRY(enter(d));
    GPU_TRY(cudaGraphLaunch(graph, queue_of(d, s)), "a plan's graph");
    return WEFT_OK;
}

static void gpu_graph_close(device *d, void *graph) {
    (void)d;
    if (graph && cudaGraphExecDestroy(graph) != cudaSuccess)
        cudaGetLastError();
}

/* ---- Opening ---- */

static void gpu_close(device *d) {
    gpu *g = (gpu *)d;
    for (int i = 0; i < MOST_GPUS; i++)
        if (g->own[i] && cudaStreamDestroy(g->own[i]) != cudaSuccess)
            cudaGetLastError();
    chosen = -1;
    mem_free(g);
}

static const weft_gpu_loop *const loops[] = {DEVICE_GPU_LOOPS(ceiling),
                                             DEVICE_GPU_LOOPS(ceiling_wgmma), NULL};

static gpu *gpu_new(int ordinal, int sm) {
    gpu *g = mem_alloc(sizeof *g);
    g->ordinal = ordinal;
    g->head = (device){.backend = BACKEND,
                       .level = sm,
                       .loops = loops,
                       .alloc = gpu_alloc,
                       .release = gpu_release,
                       .copy = gpu_copy,
                       .zero = gpu_zero,
                       .host_alloc = gpu_host_alloc,
                       .host_release = gpu_host_release,
                       .stream_open = gpu_stream_open,
                       .stream_close = gpu_stream_close,
                       .sync = gpu_sync,
                       .mark = gpu_mark,
                       .follow = gpu_follow,
                       .graphs = device_switch("WEFT_GRAPH", true),
                       .stepwise = device_switch("WEFT_SYNC", false),
                       .capture = gpu_capture,
                       .capture_end = gpu_capture_end,
                       .launch = gpu_launch,
                       .graph_close = gpu_graph_close,
                       .use = gpu_use,
                       .reach = gpu_reach,
                       .close = gpu_close};
    return g;
}

weft_status DEVICE_GPU_NAME(open)(bool dry, device **out) {
    device_gpu info;
    int ordinal, gpus;
    if (dry) {
        gpu *g = gpu_new(0, PLANNED_SM);
        g->head.alloc = gpu_dry_alloc;
        *out = &g->head;
        return WEFT_OK;
    }
    WEFT_TRY(find(&info, &ordinal, &gpus));
    GPU_TRY(cudaSetDevice(ordinal), "opening");
    gpu *g = gpu_new(ordinal, info.sm);
    g->head.gpus = gpus;
    weft_status s = open_own(g, ordinal);
    if (s != WEFT_OK) {
        mem_free(g);
        return s;
    }
    *out = &g->head;
    return WEFT_OK;
}
