/* SPDX-License-Identifier: Apache-2.0
 * The device behind the backend emu: a GPU that is this machine's threads. Its memory is apart from
 * the host's and starts as NaN; a kernel's fault surfaces at the next sync, and then at every
 * one. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/run/device.h"
#include "weft/gpu.h"
#include <stdlib.h>
#include <string.h>

enum { EMU_SM = 90, EMU_ALIGNMENT = 256 };

static weft_status emu_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    uint64_t rounded = (bytes + EMU_ALIGNMENT - 1) / EMU_ALIGNMENT * EMU_ALIGNMENT;
    void *p = rounded < bytes ? NULL : aligned_alloc(EMU_ALIGNMENT, rounded + EMU_ALIGNMENT);
    if (!p)
        return weft_fail(WEFT_NO_MEMORY,
                         "%s: %.1f MiB needed of the emulated device; lower "
                         "--ctx-size, --ubatch-size or --dtype",
                         what, (double)bytes / 1048576);
    memset(p, 0xff, rounded + EMU_ALIGNMENT); /* NaN in every float type */
    d->allocated += bytes;
    d->peak = d->allocated > d->peak ? d->allocated : d->peak;
    *out = p;
    return WEFT_OK;
}

static weft_status emu_dry_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)d, (void)bytes, (void)out;
    return weft_fail(WEFT_UNSUPPORTED, "%s: a device opened for plans only has no memory", what);
}

static void emu_release(device *d, void *p, uint64_t bytes) {
    if (p)
        d->allocated -= bytes;
    free(p);
}

static weft_status emu_sync(device *d, weft_stream *s) {
    const weft_emu_stream *e = (const weft_emu_stream *)s;
    (void)d;
    return e->failed ? weft_fail(WEFT_DEVICE, "emu: %s", e->error) : WEFT_OK;
}

static weft_status emu_copy(device *d, weft_stream *s, void *dst, const void *src, uint64_t bytes,
                            device_copy_kind kind) {
    (void)d, (void)s, (void)kind;
    if (bytes)
        memcpy(dst, src, bytes);
    return WEFT_OK;
}

static weft_status emu_zero(device *d, weft_stream *s, void *p, uint64_t bytes) {
    (void)d, (void)s;
    memset(p, 0, bytes);
    return WEFT_OK;
}

static weft_status emu_host_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)d, (void)what;
    *out = mem_alloc(bytes);
    return WEFT_OK;
}

static void emu_host_release(device *d, void *p) {
    (void)d;
    mem_free(p);
}

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

static weft_status emu_stream_open(device *d, int threads, weft_stream **out) {
    weft_stream *pool;
    uint64_t seed;
    (void)d;
    WEFT_TRY(emu_seed(threads, &seed));
    WEFT_TRY(thread_pool_open(threads, &pool));
    weft_emu_stream *s = mem_alloc(sizeof *s);
    s->head = *pool;
    s->head.parallel = emu_parallel;
    s->pool = pool;
    s->seed = seed;
    *out = &s->head;
    return WEFT_OK;
}

static void emu_stream_close(device *d, weft_stream *s) {
    (void)d;
    thread_pool_close(((weft_emu_stream *)s)->pool);
    mem_free(s);
}

static void emu_close(device *d) {
    mem_free(d);
}

weft_status device_emu_open(bool dry, device **out) {
    device *d = mem_alloc(sizeof *d);
    *d = (device){.backend = "emu",
                  .level = EMU_SM,
                  .alloc = dry ? emu_dry_alloc : emu_alloc,
                  .release = emu_release,
                  .copy = emu_copy,
                  .zero = emu_zero,
                  .host_alloc = emu_host_alloc,
                  .host_release = emu_host_release,
                  .stream_open = emu_stream_open,
                  .stream_close = emu_stream_close,
                  .sync = emu_sync,
                  .close = emu_close};
    *out = d;
    return WEFT_OK;
}
