/* SPDX-License-Identifier: Apache-2.0
 * What every unit test includes: cmocka with its prerequisites, and the shape of a case. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/base/err.h"
#include "host/base/mem.h"

/* Sanitizers reserve terabytes of address space, so limits on it cannot be tested under them. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNIT_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNIT_SANITIZED 1
#endif
#ifdef UNIT_SANITIZED
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#define CASE(name) static void name(__attribute__((unused)) void **state)

/* The last message has `part` in it; on failure both are shown. */
static inline void expect_message(const char *part) {
    if (!strstr(err_message(), part))
        fail_msg("message \"%s\" lacks \"%s\"", err_message(), part);
}

/* A copy of exactly n bytes on the heap, so that AddressSanitizer sees a read past its end. */
static inline char *exact_copy(const void *p, size_t n) {
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n)
        memcpy(copy, p, n);
    return copy;
}

/* A deterministic stream of test numbers (splitmix64). */
static inline uint64_t next_random(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
