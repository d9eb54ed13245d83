/* SPDX-License-Identifier: Apache-2.0
 * The message of each thread. Messages quote hostile bytes (file names, keys), so what is kept is
 * always one line of valid UTF-8 that a terminal can show. */
#include "host/base/err.h"
#include "host/base/utf8.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 1000, RAW_BYTES = 4096 };

static _Thread_local char message[MESSAGE_BYTES + 1];

static bool is_control(uint32_t cp) {
    bool bidi = (cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
    return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || bidi || cp == 0x2028 || cp == 0x2029;
}

/* Writes the printable form of the character at p and returns its bytes; *used is what it took. */
static int printable(char out[16], const char *p, const char *end, int *used) {
    uint32_t cp;
    *used = utf8_next(p, end, &cp);
    if (*used == 0) {
        *used = 1;
        return utf8_put(out, 0xfffd);
    }
    if (cp == '\n' || cp == '\t' || cp == '\r') {
        out[0] = '\\';
        out[1] = cp == '\n' ? 'n' : cp == '\t' ? 't' : 'r';
        return 2;
    }
    if (is_control(cp))
        return snprintf(out, 16, cp < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)cp);
    return utf8_put(out, cp);
}

static void keep(const char *raw) {
    const char *end = raw + strlen(raw);
    size_t len = 0;
    while (raw < end) {
        char piece[16];
        int used, n = printable(piece, raw, end, &used);
        if (len + (size_t)n > MESSAGE_BYTES)
            break;
        memcpy(message + len, piece, (size_t)n);
        len += (size_t)n;
        raw += used;
    }
    message[len] = 0;
}

weft_status weft_fail(weft_status code, const char *fmt, ...) {
    char raw[RAW_BYTES]; /* apart from `message`, which may be one of the arguments */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    keep(n < 0 ? fmt : raw);
    return code;
}

weft_status err_prefix(weft_status code, const char *fmt, ...) {
    char raw[RAW_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(raw, sizeof raw - MESSAGE_BYTES - 2, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : strlen(raw);
    snprintf(raw + len, sizeof raw - len, "%s%s", message[0] ? ": " : "", message);
    keep(raw);
    return code;
}

const char *err_message(void) {
    return message;
}

void err_clear(void) {
    message[0] = 0;
}

void err_set_message(const char *text) {
    if (text != message)
        keep(text);
}

#define STATUS_ROW(name, code, words) {#name, words, code},
static const struct {
    const char *name, *words;
    int exit_code;
} status_rows[WEFT_STATUS_COUNT] = {WEFT_STATUSES(STATUS_ROW)};

static unsigned row_of(weft_status s) {
    WEFT_ASSERT((unsigned)s < WEFT_STATUS_COUNT);
    return (unsigned)s;
}

const char *err_status_name(weft_status s) {
    return status_rows[row_of(s)].name;
}

const char *err_status_words(weft_status s) {
    return status_rows[row_of(s)].words;
}

int err_exit_code(weft_status s) {
    return status_rows[row_of(s)].exit_code;
}

_Noreturn void err_assert_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "weft: bug: %s:%d: %s\n", file, line, cond);
    abort();
}
