/* SPDX-License-Identifier: Apache-2.0
 * What measuring on a GPU needs beside the device: graphs, events and ceilings. The driver and
 * cuBLASLt are opened with dlopen, so that nothing needs them. */
#pragma once
#include "weft/stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct gpu gpu;
typedef struct gpu_graph gpu_graph;
typedef void gpu_work(void *ctx, int64_t i); /* enqueues run i on the stream */

/* On the stream's context. NULL: no driver, or too old a one. */
gpu *gpu_open(weft_stream *s);
void gpu_close(gpu *g);
const char *gpu_name(const gpu *g);
int gpu_processors(const gpu *g);
int64_t gpu_l2_bytes(const gpu *g);
void *gpu_stream(const gpu *g); /* a CUstream */
bool gpu_alive(gpu *g);         /* waits; false: a fault */

/* Runs 0 .. n - 1 as one graph; NULL where they cannot be recorded. */
gpu_graph *gpu_record(gpu *g, gpu_work *work, void *ctx, int64_t n);
void gpu_forget(gpu *g, gpu_graph *graph);
/* Seconds on the device of one replay, or of runs 0 .. n - 1 one by one if graph is NULL; negative:
 * a fault. */
double gpu_seconds(gpu *g, gpu_graph *graph, gpu_work *work, void *ctx, int64_t n);

typedef struct {
    double read, copy; /* bytes a second; a copy counts what it reads and writes */
    double mma, fma;   /* operations a second: bf16 mma.sync, fp32 fma */
} gpu_ceilings;

/* At most `bytes` of memory are used. */
bool gpu_measure(gpu *g, uint64_t block, int64_t bytes, gpu_ceilings *out);

/* ---- cuBLASLt: y[T,N] = x[T,K] w[N,K]', fp32 accumulators ---- */

typedef struct vendor vendor;
vendor *vendor_open(const gpu *g, void *workspace, size_t bytes);
void vendor_close(vendor *v);
/* dtype: of x, w and y alike (a weft_dtype). false: the library declines. */
bool vendor_matmul(vendor *v, int dtype, int64_t T, int64_t N, int64_t K);
/* The next vendor_run calls use this algorithm of those offered, 0 .. count - 1. */
int vendor_algorithms(const vendor *v);
void vendor_choose(vendor *v, int i);
bool vendor_run(vendor *v, const void *x, const void *w, void *y);
