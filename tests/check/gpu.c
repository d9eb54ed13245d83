/* SPDX-License-Identifier: Apache-2.0
 * The driver's graphs and events, by their names in libcuda. */
#include "tests/check/gpu.h"
#include "host/base/mem.h"
#include "tests/check/gpu_ceilings.h"
#include "weft/gpu.h"
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef void *handle;
typedef unsigned long long address;
typedef unsigned u32;

/* Result, name and parameters; a name ends as cuda.h's macros end it. */
#define CALLS(X)                                                                       \
    X(cuCtxGetDevice, (int *))                                                         \
    X(cuDeviceGetName, (char *, int, int))                                             \
    X(cuDeviceGetAttribute, (int *, int, int))                                         \
    X(cuStreamBeginCapture_v2, (handle, int))                                          \
    X(cuStreamEndCapture, (handle, handle *))                                          \
    X(cuGraphInstantiateWithFlags, (handle *, handle, address))                        \
    X(cuGraphLaunch, (handle, handle))                                                 \
    X(cuGraphExecDestroy, (handle))                                                    \
    X(cuGraphDestroy, (handle))                                                        \
    X(cuEventCreate, (handle *, u32))                                                  \
    X(cuEventRecord, (handle, handle))                                                 \
    X(cuEventSynchronize, (handle))                                                    \
    X(cuEventElapsedTime, (float *, handle, handle))                                   \
    X(cuEventDestroy_v2, (handle))                                                     \
    X(cuMemcpyDtoDAsync_v2, (address, address, size_t, handle))                        \
    X(cuModuleLoadData, (handle *, const void *))                                      \
    X(cuModuleUnload, (handle))                                                        \
    X(cuModuleGetFunction, (handle *, handle, const char *))                           \
    X(cuLaunchKernel, (handle, u32, u32, u32, u32, u32, u32, u32, handle, void **, void **))

#define MEMBER_(name, parameters) int(*name) parameters;
typedef struct {
    CALLS(MEMBER_)
} calls;

struct gpu {
    calls c;
    void *library;
    handle stream, from, to;
    char name[128];
    int processors, l2;
};

struct gpu_graph {
    handle graph, run;
};

static bool find_calls(gpu *g) {
    bool all = true;
#define FIND_(name, parameters)                         \
    *(void **)&g->c.name = dlsym(g->library, #name);    \
    all = all && g->c.name;
    CALLS(FIND_)
    return all;
}

enum { ATTRIBUTE_PROCESSORS = 16, ATTRIBUTE_L2 = 38, CAPTURE_THREAD_LOCAL = 1 };

gpu *gpu_open(weft_stream *s) {
    gpu *g = mem_alloc(sizeof *g);
    int device = 0;
    memset(g, 0, sizeof *g);
    g->stream = ((weft_cuda_stream *)s)->stream;
    g->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!g->library || !find_calls(g) || g->c.cuCtxGetDevice(&device) ||
        g->c.cuDeviceGetName(g->name, sizeof g->name, device) ||
        g->c.cuDeviceGetAttribute(&g->processors, ATTRIBUTE_PROCESSORS, device) ||
        g->c.cuDeviceGetAttribute(&g->l2, ATTRIBUTE_L2, device) ||
        g->c.cuEventCreate(&g->from, 0) || g->c.cuEventCreate(&g->to, 0)) {
        mem_free(g);
        return NULL;
    }
    return g;
}

void gpu_close(gpu *g) {
    if (!g)
        return;
    g->c.cuEventDestroy_v2(g->from);
    g->c.cuEventDestroy_v2(g->to);
    mem_free(g);
}

const char *gpu_name(const gpu *g) {
    return g->name;
}

int gpu_processors(const gpu *g) {
    return g->processors;
}

int64_t gpu_l2_bytes(const gpu *g) {
    return g->l2;
}

void *gpu_stream(const gpu *g) {
    return g->stream;
}

gpu_graph *gpu_record(gpu *g, gpu_work *work, void *ctx, int64_t n) {
    gpu_graph *r = mem_alloc(sizeof *r);
    memset(r, 0, sizeof *r);
    if (g->c.cuStreamBeginCapture_v2(g->stream, CAPTURE_THREAD_LOCAL) == 0) {
        for (int64_t i = 0; i < n; i++)
            work(ctx, i);
        if (g->c.cuStreamEndCapture(g->stream, &r->graph) == 0 && r->graph &&
            g->c.cuGraphInstantiateWithFlags(&r->run, r->graph, 0) == 0)
            return r;
    }
    if (r->graph)
        g->c.cuGraphDestroy(r->graph);
    mem_free(r);
    return NULL;
}

void gpu_forget(gpu *g, gpu_graph *r) {
    if (!r)
        return;
    g->c.cuGraphExecDestroy(r->run);
    g->c.cuGraphDestroy(r->graph);
    mem_free(r);
}

double gpu_seconds(gpu *g, gpu_graph *graph, gpu_work *work, void *ctx, int64_t n) {
    float ms = -1;
    int bad = g->c.cuEventRecord(g->from, g->stream);
    if (graph)
        bad |= g->c.cuGraphLaunch(graph->run, g->stream);
    for (int64_t i = 0; i < n && !graph; i++)
        work(ctx, i);
    bad |= g->c.cuEventRecord(g->to, g->stream);
    bad |= g->c.cuEventSynchronize(g->to);
    bad |= g->c.cuEventElapsedTime(&ms, g->from, g->to);
    return bad || ms < 0 ? -1 : (double)ms * 1e-3;
}

/* ---- ceilings ------------------------------------------------------------------------------- */

typedef struct {
    gpu *g;
    handle kernel;
    address at, to;
    uint64_t n;
    u32 blocks, threads;
} ceiling_run;

static void launch(void *ctx, int64_t i) {
    ceiling_run *r = ctx;
    void *arguments[] = {&r->at, &r->n, &r->to};
    (void)i;
    r->g->c.cuLaunchKernel(r->kernel, r->blocks, 1, 1, r->threads, 1, 1, 0, r->g->stream, arguments,
                           NULL);
}

static void copy(void *ctx, int64_t i) {
    ceiling_run *r = ctx;
    (void)i;
    r->g->c.cuMemcpyDtoDAsync_v2(r->to, r->at, r->n, r->g->stream);
}

/* The best of several: a ceiling. */
static double least_seconds(gpu *g, gpu_work *work, void *ctx, int runs) {
    double best = -1;
    for (int i = 0; i < runs; i++) {
        double s = gpu_seconds(g, NULL, work, ctx, 1);
        if (i > 0 && s > 0 && (best < 0 || s < best))
            best = s;
    }
    return best;
}

enum { RUNS = 12, ITERATIONS = 4096 };

bool gpu_measure(gpu *g, uint64_t block, int64_t bytes, gpu_ceilings *out) {
    ceiling_run r = {.g = g, .at = block, .blocks = (u32)g->processors * 4, .threads = 512};
    double warps = (double)r.blocks * r.threads / 32, s;
    handle module, mma, fma;
    memset(out, 0, sizeof *out);
    if (g->c.cuModuleLoadData(&module, gpu_ceilings_ptx) ||
        g->c.cuModuleGetFunction(&r.kernel, module, "weft_read") ||
        g->c.cuModuleGetFunction(&mma, module, "weft_mma") ||
        g->c.cuModuleGetFunction(&fma, module, "weft_fma"))
        return false;
    r.n = (uint64_t)bytes / 16 / (r.blocks * r.threads * 4) * (r.blocks * r.threads * 4);
    r.to = block;
    s = least_seconds(g, launch, &r, RUNS);
    out->read = s > 0 ? (double)r.n * 16 / s : 0;
    r.n = (uint64_t)bytes / 2;
    r.to = block + r.n;
    s = least_seconds(g, copy, &r, RUNS);
    out->copy = s > 0 ? 2 * (double)r.n / s : 0;
    r.n = ITERATIONS;
    r.kernel = mma;
    s = least_seconds(g, launch, &r, RUNS);
    out->mma = s > 0 ? ITERATIONS * 8.0 * 4096 * warps / s : 0;
    r.kernel = fma;
    s = least_seconds(g, launch, &r, RUNS);
    out->fma = s > 0 ? ITERATIONS * 16.0 * 64 * warps / s : 0;
    g->c.cuModuleUnload(module);
    return out->read > 0 && out->mma > 0;
}
