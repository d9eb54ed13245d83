/* SPDX-License-Identifier: Apache-2.0
 * weft_stream: where a step runs. On CPU backends it is a thread pool; every other backend derives
 * its own stream from this head (a cudaStream_t, the emulator's queue) and leaves `parallel`
 * NULL. */
#pragma once
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum {
    WEFT_MAX_THREADS = 256,
    WEFT_WORKER_BYTES = 1 << 20 /* private, 64-byte aligned working memory of each worker */
};

typedef struct weft_stream weft_stream;

/* Does items [begin, end); `worker` in [0, threads) names the private memory it may use. */
typedef void weft_range_fn(const void *ctx, int64_t begin, int64_t end, int worker);

struct weft_stream {
    int threads;
    char *worker_memory; /* threads * WEFT_WORKER_BYTES, or NULL if threads == 0 */
    void (*parallel)(weft_stream *s, int64_t n, int64_t grain, weft_range_fn *fn, const void *ctx);
};

/* Runs fn over [0, n) in pieces of `grain` items and returns when all are done. The pieces are
 * [0, grain), [grain, 2 grain), ... whatever the number of threads; who runs one is unspecified,
 * so an item's result must not depend on it. */
static inline void weft_parallel(weft_stream *s, int64_t n, int64_t grain, weft_range_fn *fn,
                                 const void *ctx) {
    if (n > 0)
        s->parallel(s, n, grain < 1 ? 1 : grain, fn, ctx);
}

static inline void *weft_worker_memory(const weft_stream *s, int worker) {
    return s->worker_memory + (int64_t)worker * WEFT_WORKER_BYTES;
}

#ifdef __cplusplus
}
#endif
