/* SPDX-License-Identifier: Apache-2.0
 * buf: bytes that grow, with a hard maximum. Past it the buffer stays as it is and `failed` is set,
 * so a long run of appends is checked once. Always NUL-terminated. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *data; /* never NULL after buf_init */
    size_t len, cap, max;
    bool failed;
} buf;

void buf_init(buf *b, size_t max);
void buf_fini(buf *b);
void buf_clear(buf *b); /* keeps the memory */
void buf_add(buf *b, const void *p, size_t n);
void buf_puts(buf *b, const char *s);
void buf_putc(buf *b, char c);
void buf_printf(buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(buf *b, const char *fmt, va_list ap);
/* Appends s as a JSON string with its quotes; invalid UTF-8 becomes U+FFFD. */
void buf_json_string(buf *b, const char *s, size_t n);
/* The same on one line for every reader: what some split lines at (U+0085, U+2028, U+2029) is
 * escaped. */
void buf_json_line(buf *b, const char *s, size_t n);
/* Appends the shortest decimal that reads back as the same double; NaN and infinities as null. */
void buf_json_double(buf *b, double x);
void buf_json_float(buf *b, float x); /* the same for float: 0.1f is "0.1" */
