/* SPDX-License-Identifier: Apache-2.0
 * Failure: a status that travels up, and one message per thread, set once where it failed.
 * The message reads `<file or key>: <what> (<limit>); <hint>` and goes behind "weft: error: ". */
#pragma once
#include "weft/status.h"
#include <stdarg.h>

/* Sets this thread's message (printf style; control characters are escaped, invalid UTF-8 replaced,
 * cut at 1000 bytes) and returns `code`. */
weft_status weft_fail(weft_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* As weft_fail, with ": " and the message already set behind it: names the file from further up. */
weft_status err_prefix(weft_status code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* This thread's last message, "" if none. Valid until the next failure of the same thread. */
const char *err_message(void);
void err_clear(void);
/* Copies another thread's message into this one's (a rank's failure reaches its caller). */
void err_set_message(const char *message);

const char *err_status_name(weft_status s); /* "BAD_FILE" */
const char *err_status_words(weft_status s);
int err_exit_code(weft_status s);

#define WEFT_TRY(call) \
    do { \
        weft_status try_ = (call); \
        if (try_ != WEFT_OK) \
            return try_; \
    } while (0)

/* A bug of ours, never reachable from input: always on. */
#define WEFT_ASSERT(cond) ((cond) ? (void)0 : err_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void err_assert_failed(const char *cond, const char *file, int line);
