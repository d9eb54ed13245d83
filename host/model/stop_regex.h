/* SPDX-License-Identifier: Apache-2.0
 * Stop expressions: where in a stream an expression matches first, and how much of the stream might
 * yet be such a match. What is found is what a search of the whole text would find (a match of more
 * than STOP_REGEX_WINDOW characters excepted), whatever the pieces the text comes in. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>

enum {
    STOP_REGEX_MAX = 16,
    STOP_REGEX_BYTES = 1024,
    STOP_REGEX_WINDOW = 512, /* characters of a match, and characters that it may look back at */
};

typedef struct stop_regex stop_regex;

/* WEFT_USAGE names the expression by its number and where it is wrong. *out NULL: n is 0. */
weft_status stop_regex_open(const char *const *patterns, int n, stop_regex **out);
void stop_regex_close(stop_regex *r); /* NULL is fine, here and below */
/* The next byte; the stream is UTF-8. *found: bytes from the beginning of a match to this byte, 0
 * if there is none yet. WEFT_USAGE if an expression takes too many steps. */
weft_status stop_regex_feed(stop_regex *r, char c, size_t *found);
/* The stream is over: what was waiting for more decides now. */
weft_status stop_regex_finish(stop_regex *r, size_t *found);
size_t stop_regex_partial(const stop_regex *r); /* bytes at the end that may belong to a match */
