/* SPDX-License-Identifier: Apache-2.0
 * The device behind the backends ref and cpu: host memory, copies that are memcpy, streams that are
 * thread pools. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/run/device.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAP_FROM = 1 << 20, ALIGNMENT = 64 };

static const char *const level_names[WEFT_CPU_LEVELS] = {"portable", "avx2", "avx512",
                                                         "avx512bf16"};

const char *device_cpu_level_name(int level) {
    return level >= 0 && level < WEFT_CPU_LEVELS ? level_names[level] : "?";
}

int device_cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return WEFT_CPU_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return WEFT_CPU_AVX2;
    bool pairs = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    return pairs ? WEFT_CPU_AVX512BF16 : WEFT_CPU_AVX512;
#else
    return WEFT_CPU_PORTABLE;
#endif
}

/* What the kernel says could be had without swapping; 0 if it does not say. */
static uint64_t available_bytes(void) {
    long pages = sysconf(_SC_AVPHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    if (kib)
        return kib * 1024;
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static weft_status cpu_no_memory(uint64_t bytes, const char *what, uint64_t available) {
    return weft_fail(WEFT_NO_MEMORY,
                     "%s: %.1f MiB needed, %.1f MiB available; lower --ctx-size, "
                     "--ubatch-size or --dtype (`weft plan` shows the bytes)",
                     what, (double)bytes / 1048576, (double)available / 1048576);
}

static void *take(uint64_t bytes) {
    if (bytes >= MAP_FROM) {
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return NULL;
        madvise(p, bytes, MADV_HUGEPAGE);
        return p;
    }
    uint64_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return aligned_alloc(ALIGNMENT, rounded ? rounded : ALIGNMENT);
}

static weft_status cpu_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    if (bytes >= MAP_FROM) {
        uint64_t available = available_bytes();
        if (available && bytes > available)
            return cpu_no_memory(bytes, what, available);
    }
    void *p = take(bytes);
    if (!p)
        return cpu_no_memory(bytes, what, available_bytes());
    d->allocated += bytes;
    d->peak = d->allocated > d->peak ? d->allocated : d->peak;
    *out = p;
    return WEFT_OK;
}

static void cpu_release(device *d, void *p, uint64_t bytes) {
    if (!p)
        return;
    d->allocated -= bytes;
    if (bytes >= MAP_FROM)
        munmap(p, bytes);
    else
        free(p);
}

static weft_status cpu_copy(device *d, weft_stream *s, void *dst, const void *src, uint64_t bytes,
                            device_copy_kind kind) {
    (void)d, (void)s, (void)kind;
    memcpy(dst, src, bytes);
    return WEFT_OK;
}

static weft_status cpu_zero(device *d, weft_stream *s, void *p, uint64_t bytes) {
    (void)d, (void)s;
    memset(p, 0, bytes);
    return WEFT_OK;
}

static weft_status cpu_host_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)d, (void)what;
    *out = mem_alloc(bytes);
    return WEFT_OK;
}

static void cpu_host_release(device *d, void *p) {
    (void)d;
    mem_free(p);
}

static weft_status cpu_stream_open(device *d, int threads, weft_stream **out) {
    (void)d;
    return thread_pool_open(threads, out);
}

static void cpu_stream_close(device *d, weft_stream *s) {
    (void)d;
    thread_pool_close(s);
}

static weft_status cpu_sync(device *d, weft_stream *s) {
    (void)d, (void)s;
    return WEFT_OK;
}

static void cpu_close(device *d) {
    mem_free(d);
}

static weft_status dry_alloc(device *d, uint64_t bytes, const char *what, void **out) {
    (void)d, (void)bytes, (void)out;
    return weft_fail(WEFT_UNSUPPORTED, "%s: a device opened for plans only has no memory", what);
}

static bool is_auto(const char *name) {
    return !name || strcmp(name, "auto") == 0;
}

static weft_status parse_level(const char *level, int *out) {
    if (is_auto(level)) {
        *out = device_cpu_level();
        return WEFT_OK;
    }
    for (int i = 0; i < WEFT_CPU_LEVELS; i++) {
        if (strcmp(level, level_names[i]) == 0) {
            *out = i;
            return WEFT_OK;
        }
    }
    return weft_fail(WEFT_USAGE,
                     "--cpu-level: no level '%s'; auto, portable, avx2, avx512 or avx512bf16",
                     level);
}

static device *cpu_new(const char *backend, int level) {
    device *d = mem_alloc(sizeof *d);
    bool fast = strcmp(backend, "cpu") == 0;
    *d = (device){.backend = backend,
                  .level = fast ? level : 0,
                  .host_memory = true,
                  .kv_transposed = fast,
                  .alloc = cpu_alloc,
                  .release = cpu_release,
                  .copy = cpu_copy,
                  .zero = cpu_zero,
                  .host_alloc = cpu_host_alloc,
                  .host_release = cpu_host_release,
                  .stream_open = cpu_stream_open,
                  .stream_close = cpu_stream_close,
                  .sync = cpu_sync,
                  .close = cpu_close};
    return d;
}

/* The devices that are not host memory. */
static weft_status open_gpu(const char *name, bool dry, device **out) {
    return strcmp(name, "emu") == 0 ? device_emu_open(dry, out) : device_cuda_open(dry, out);
}

static bool is_gpu(const char *name) {
    return name && (strcmp(name, "emu") == 0 || strcmp(name, "cuda") == 0);
}

static weft_status parse_backend(const char *name, const char **out) {
    if (is_auto(name) || strcmp(name, "cpu") == 0)
        *out = "cpu";
    else if (strcmp(name, "ref") == 0)
        *out = "ref";
    else
        return weft_fail(WEFT_USAGE, "--device: no device '%s'; auto, cpu, cuda, ref or emu", name);
    return WEFT_OK;
}

weft_status device_open(const char *name, const char *level, device **out) {
    const char *backend;
    int lv;
    if (is_gpu(name))
        return open_gpu(name, false, out);
    WEFT_TRY(parse_backend(name, &backend));
    WEFT_TRY(parse_level(level, &lv));
    if (lv > device_cpu_level())
        return weft_fail(WEFT_USAGE, "--cpu-level: this machine has no %s; at most %s",
                         level_names[lv], level_names[device_cpu_level()]);
    if (is_auto(name) && is_auto(level) && device_cuda_open(false, out) == WEFT_OK)
        return WEFT_OK;
    *out = cpu_new(backend, lv);
    return WEFT_OK;
}

weft_status device_open_dry(const char *name, const char *level, device **out) {
    const char *backend;
    int lv;
    if (is_gpu(name))
        return open_gpu(name, true, out);
    WEFT_TRY(parse_backend(name, &backend));
    WEFT_TRY(parse_level(level, &lv));
    *out = cpu_new(backend, lv);
    (*out)->alloc = dry_alloc;
    return WEFT_OK;
}

bool device_switch(const char *variable, bool preset) {
    const char *text = getenv(variable);
    return text && *text ? strcmp(text, "0") != 0 : preset;
}

void device_close(device *d) {
    if (d)
        d->close(d);
}
