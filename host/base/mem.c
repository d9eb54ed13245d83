/* SPDX-License-Identifier: Apache-2.0
 * The only callers of malloc for small host memory, and arenas on top of them. */
#include "host/base/mem.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In an AddressSanitizer build arena memory is poisoned until handed out, with a gap behind each
 * piece, so that an overflow inside a chunk is found as one in malloc'ed memory would be. */
#if defined(__SANITIZE_ADDRESS__)
#define ARENA_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_POISON 1
#endif
#endif
#ifdef ARENA_POISON
#include <sanitizer/asan_interface.h>
enum { GAP = 16 };
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
enum { GAP = 0 };
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

enum { ALIGN = 16, CHUNK_MIN = 4 << 10, CHUNK_MAX = 1 << 20 };

struct arena_chunk {
    arena_chunk *next;
    size_t used, size;
    _Alignas(ALIGN) char data[];
};

static atomic_uint_fast64_t allocations;

static _Noreturn void out_of_memory(size_t n) {
    char line[96];
    int len = snprintf(line, sizeof line, "weft: error: memory: out of memory (%zu bytes)\n", n);
    if (write(STDERR_FILENO, line, (size_t)len) < 0) {
        /* nobody is left to tell */
    }
    _exit(4);
}

void *mem_alloc(size_t n) {
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    void *p = n <= PTRDIFF_MAX ? calloc(1, n ? n : 1) : NULL;
    if (!p)
        out_of_memory(n);
    return p;
}

void *mem_grow(void *old, size_t n) {
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    void *p = n <= PTRDIFF_MAX ? realloc(old, n ? n : 1) : NULL;
    if (!p)
        out_of_memory(n);
    return p;
}

void mem_free(void *p) {
    free(p);
}

uint64_t mem_allocations(void) {
    return atomic_load_explicit(&allocations, memory_order_relaxed);
}

bool mem_mul(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

bool mem_add(uint64_t a, uint64_t b, uint64_t *out) {
    uint64_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* A piece larger than a chunk gets one of its own, put second so that the head keeps its room. */
static arena_chunk *chunk_new(arena *a, size_t need) {
    size_t size = a->total / 2;
    size = size < CHUNK_MIN ? CHUNK_MIN : size > CHUNK_MAX ? CHUNK_MAX : size;
    bool own = need > size / 2 && a->head;
    if (own || need > size)
        size = need;
    arena_chunk *c = mem_alloc(sizeof *c + size);
    c->size = size;
    a->total += size;
    POISON(c->data, size);
    if (own) {
        c->next = a->head->next;
        a->head->next = c;
    } else {
        c->next = a->head;
        a->head = c;
    }
    return c;
}

void *arena_alloc(arena *a, size_t n) {
    if (n > PTRDIFF_MAX / 2)
        out_of_memory(n);
    size_t need = (n + GAP + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    arena_chunk *c = a->head;
    if (!c || c->size - c->used < need)
        c = chunk_new(a, need);
    void *p = c->data + c->used;
    c->used += need;
    a->used += n;
    UNPOISON(p, n);
    return p;
}

char *arena_copy(arena *a, const char *s, size_t n) {
    char *p = arena_alloc(a, n + 1);
    if (n)
        memcpy(p, s, n);
    return p;
}

char *arena_printf(arena *a, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : (size_t)n;
    char *p = arena_alloc(a, len + 1);
    if (n > 0)
        vsnprintf(p, len + 1, fmt, again);
    va_end(again);
    return p;
}

void arena_fini(arena *a) {
    for (arena_chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        UNPOISON(c->data, c->size);
        mem_free(c);
    }
    *a = (arena){0};
}
