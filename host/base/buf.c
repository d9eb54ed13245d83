/* SPDX-License-Identifier: Apache-2.0
 * Growing bytes. Nothing is taken before the first append. */
#include "host/base/buf.h"
#include "host/base/mem.h"
#include "host/base/num.h"
#include "host/base/utf8.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static char nothing[1]; /* what an empty buffer points to; never written */

void buf_init(buf *b, size_t max) {
    *b = (buf){.data = nothing, .max = max < PTRDIFF_MAX ? max : PTRDIFF_MAX - 1};
}

void buf_fini(buf *b) {
    if (b->cap)
        mem_free(b->data);
    buf_init(b, b->max);
}

void buf_clear(buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->cap)
        b->data[0] = 0;
}

/* Room for n more bytes and the NUL; once an append failed, later ones would leave a hole. */
static bool reserve(buf *b, size_t n) {
    if (b->failed || n > b->max - b->len) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + n + 1;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap < 64 ? 64 : b->cap > b->max / 2 ? b->max + 1 : 2 * b->cap;
    cap = cap > b->max + 1 ? b->max + 1 : cap;
    cap = cap < need ? need : cap;
    b->data = mem_grow(b->cap ? b->data : NULL, cap);
    b->cap = cap;
    return true;
}

void buf_add(buf *b, const void *p, size_t n) {
    if (n == 0 || !reserve(b, n))
        return;
    memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_puts(buf *b, const char *s) {
    buf_add(b, s, strlen(s));
}

void buf_putc(buf *b, char c) {
    buf_add(b, &c, 1);
}

void buf_printf(buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_vprintf(buf *b, const char *fmt, va_list ap) {
    char small[256];
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof small) {
        buf_add(b, small, (size_t)n);
    } else if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

static void json_escape(buf *b, unsigned char c) {
    static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *p = names; *p; p += 2)
        if ((unsigned char)*p == c) {
            buf_add(b, (char[2]){'\\', p[1]}, 2);
            return;
        }
    buf_printf(b, "\\u%04x", c);
}

void buf_json_string(buf *b, const char *s, size_t n) {
    const char *p = s, *run = s, *end = s + n;
    buf_putc(b, '"');
    while (p < end) {
        uint32_t cp;
        int k = utf8_next(p, end, &cp);
        if (k != 0 && cp >= 0x20 && cp != '"' && cp != '\\' && cp != 0x7f) {
            p += k;
            continue;
        }
        buf_add(b, run, (size_t)(p - run));
        if (k == 0)
            buf_add(b, "\xef\xbf\xbd", 3);
        else
            json_escape(b, (unsigned char)cp);
        run = ++p;
    }
    buf_add(b, run, (size_t)(p - run));
    buf_putc(b, '"');
}

void buf_json_double(buf *b, double x) {
    char text[NUM_TEXT];
    if (isfinite(x))
        buf_add(b, text, num_print_double(text, x));
    else
        buf_puts(b, "null");
}

void buf_json_float(buf *b, float x) {
    char text[NUM_TEXT];
    if (isfinite(x))
        buf_add(b, text, num_print_float(text, x));
    else
        buf_puts(b, "null");
}

void buf_json_line(buf *b, const char *s, size_t n) {
    static const char *const ends[] = {"\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9"};
    static const char *const escapes[] = {"\\u0085", "\\u2028", "\\u2029"};
    buf plain;
    buf_init(&plain, b->max);
    buf_json_string(&plain, s, n);
    b->failed |= plain.failed;
    const char *p = plain.data, *end = p + plain.len, *run = p;
    while (p < end) {
        int i = (int)(sizeof ends / sizeof *ends) - 1;
        while (i >= 0 && strncmp(p, ends[i], strlen(ends[i])) != 0)
            i--;
        if (i >= 0) {
            buf_add(b, run, (size_t)(p - run));
            buf_puts(b, escapes[i]);
            run = p + strlen(ends[i]);
        }
        p = i >= 0 ? run : p + 1;
    }
    buf_add(b, run, (size_t)(end - run));
    buf_fini(&plain);
}
