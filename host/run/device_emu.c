/* SPDX-License-Identifier: Apache-2.0
 * The emulated GPU's part of device_cuda.c: a stream is the threads that run blocks. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/run/device_gpu.h"
#include <stdlib.h>

/* Rows of ref run here too: they see the pool through the stream's head. */
static void emu_parallel(weft_stream *s, int64_t n, int64_t grain, weft_range_fn *fn,
                         const void *ctx) {
    weft_stream *pool = ((weft_emu_stream *)s)->pool;
    pool->parallel(pool, n, grain, fn, ctx);
}

/* Streams of one, two and three threads differ in their orders, so that comparing them compares
 * schedules as well. */
static weft_status emu_seed(int threads, uint64_t *out) {
    const char *text = getenv("WEFT_EMU_SEED");
    char *end;
    *out = (uint64_t)threads - 1;
    if (!text || !*text)
        return WEFT_OK;
    *out = strtoull(text, &end, 10);
    return *end ? weft_fail(WEFT_USAGE, "WEFT_EMU_SEED: '%s' is not a number", text) : WEFT_OK;
}

weft_status device_emu_stream_new(int threads, weft_cuda_stream **out) {
    weft_stream *pool;
    uint64_t seed;
    WEFT_TRY(emu_seed(threads, &seed));
    WEFT_TRY(thread_pool_open(threads, &pool));
    weft_emu_stream *s = mem_alloc(sizeof *s);
    s->head = *pool;
    s->head.parallel = emu_parallel;
    s->pool = pool;
    s->seed = seed;
    *out = &s->cuda;
    return WEFT_OK;
}

void device_emu_stream_free(weft_cuda_stream *s) {
    weft_emu_stream *e = (weft_emu_stream *)s;
    thread_pool_close(e->pool);
    mem_free(e);
}
