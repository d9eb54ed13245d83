/* SPDX-License-Identifier: Apache-2.0
 * Small host memory and arenas by lifetime. Small allocations never return NULL: running out of
 * host memory ends the process with exit code 4 and one line. Anything whose size comes from input
 * is checked against the bytes that are there before it is asked for here; large blocks (weights,
 * KV, activations) come from the device interface instead, which reports WEFT_NO_MEMORY. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t n);         /* zeroed; free with mem_free */
void *mem_grow(void *p, size_t n); /* realloc; new bytes are not cleared */
void mem_free(void *p);
uint64_t mem_allocations(void); /* calls that reached malloc since start: tests count them */

/* false if a * b (or a + b) overflows; *out is then unset. */
bool mem_mul(uint64_t a, uint64_t b, uint64_t *out);
bool mem_add(uint64_t a, uint64_t b, uint64_t *out);

typedef struct arena_chunk arena_chunk;
typedef struct {
    arena_chunk *head;
    size_t used, total; /* bytes handed out; bytes held */
} arena;

/* An arena is valid when zeroed. Everything in it dies with arena_fini. */
void *arena_alloc(arena *a, size_t n);               /* zeroed, 16-byte aligned */
char *arena_copy(arena *a, const char *s, size_t n); /* NUL-terminated copy */
char *arena_printf(arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_fini(arena *a);
#define ARENA_NEW(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (size_t)(n)))
