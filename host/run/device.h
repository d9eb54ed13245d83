/* SPDX-License-Identifier: Apache-2.0
 * device: memory, copies and streams behind one interface; host code never assumes that kernels
 * read host addresses unless host_memory says so. device_cpu.c serves the backends ref and cpu,
 * device_cuda.c a GPU (device_nocuda.c says that a build has none) and, compiled once more,
 * the emulated one. */
#pragma once
#include "weft/kernel.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct device device;

/* FETCH: as FROM, but complete only after the next sync; to memory of host_alloc. */
typedef enum { DEVICE_TO, DEVICE_FROM, DEVICE_WITHIN, DEVICE_FETCH } device_copy_kind;

enum { DEVICE_MARKS = 8 }; /* WEFT_STREAM_MARKS */

struct device {
    const char *backend; /* whose kernel rows run here: "ref", "cpu", "emu", "cuda" */
    int level;           /* weft_cpu_level, or the GPU's sm */
    bool host_memory;    /* kernels read host addresses: mapped files need no copy */
    bool graphs;         /* plans are captured, then launched (WEFT_GRAPH=0: never) */
    bool stepwise;       /* WEFT_SYNC=1: wait after every step, so that a fault names its step */
    bool kv_transposed;  /* K pages are kept [D, page_size] for this device's attention */
    /* What measures a GPU's ceilings, NULL-terminated; NULL: those of the host are meant. */
    const struct weft_gpu_loop *const *loops;
    int gpus;           /* that it can work on; 0: it is none */
    uint64_t allocated; /* bytes held now, exactly as asked for */
    uint64_t peak;
    /* 64-byte aligned; contents are unspecified. `what` names it in WEFT_NO_MEMORY's message. */
    weft_status (*alloc)(device *d, uint64_t bytes, const char *what, void **out);
    void (*release)(device *d, void *p, uint64_t bytes);
    /* In the stream's order. FROM is complete on return. After TO the source may be reused, unless
     * it is of host_alloc: then only after the next sync. Without a stream all is complete on
     * return. */
    weft_status (*copy)(device *d, weft_stream *s, void *dst, const void *src, uint64_t bytes,
                        device_copy_kind kind);
    weft_status (*zero)(device *d, weft_stream *s, void *p, uint64_t bytes);
    /* Memory of the host that copies go to and from at full speed. */
    weft_status (*host_alloc)(device *d, uint64_t bytes, const char *what, void **out);
    void (*host_release)(device *d, void *p);
    weft_status (*stream_open)(device *d, int threads, weft_stream **out);
    void (*stream_close)(device *d, weft_stream *s);
    weft_status (*sync)(device *d, weft_stream *s); /* waits for everything enqueued */
    /* `mark` notes in one of a stream's DEVICE_MARKS places how far it is enqueued; what is
     * enqueued on s after `follow` waits until `other` has come as far as it noted there last. NULL
     * where streams work while they are called. */
    weft_status (*mark)(device *d, weft_stream *s, int mark);
    weft_status (*follow)(device *d, weft_stream *s, const weft_stream *other, int mark);
    /* What is enqueued from `capture` to `capture_end` is recorded instead of done; `launch` then
     * enqueues all of it at once. NULL where this gains nothing. */
    weft_status (*capture)(device *d, weft_stream *s);
    weft_status (*capture_end)(device *d, weft_stream *s, void **graph);
    weft_status (*launch)(device *d, weft_stream *s, void *graph);
    void (*graph_close)(device *d, void *graph);
    /* The GPU that this thread's, or with `all` every thread's, next calls are for; NULL where
     * `gpus` is 0. WEFT_USAGE: there is no such GPU. Memory and streams are of the GPU that they
     * were opened for; a stream is used and launched on by threads that have chosen it. */
    weft_status (*use)(device *d, int gpu, bool all);
    /* Whether the GPU that this thread uses can read and write all of gpu[0..n), itself aside;
     * opens the way. */
    bool (*reach)(device *d, int n, const int *gpu);
    void (*close)(device *d);
};

/* name: "auto" (a usable GPU, else cpu), "ref", "cpu", "emu" or "cuda"; level: "auto" (NULL) or a
 * weft_cpu_level's name, at most what the machine has. WEFT_USAGE names what is offered. */
weft_status device_open(const char *name, const char *level, device **out);
void device_close(device *d);
weft_status device_emu_open(bool dry, device **out);
weft_status device_cuda_open(bool dry, device **out);

/* What `weft doctor` says of a GPU. Versions as CUDA counts them: 13000 is 13.0. */
typedef struct {
    char name[256];
    int sm, multiprocessors, driver, runtime;
    uint64_t bytes, free_bytes;
} device_gpu;
/* The GPU that device_cuda_open would use; WEFT_DEVICE says why there is none. */
weft_status device_cuda_find(device_gpu *out);
weft_status device_emu_find(device_gpu *out);
/* As device_open, but for plans only: any level may be named, nothing can be allocated. */
weft_status device_open_dry(const char *name, const char *level, device **out);
int device_cpu_level(void); /* the best this machine offers */
const char *device_cpu_level_name(int level);
bool device_switch(const char *variable, bool preset); /* of the environment: 0 or 1 */
