/* SPDX-License-Identifier: Apache-2.0
 * Stop strings: which of them ends at a byte of a stream, and how much of the stream might yet
 * become one. One Knuth-Morris-Pratt automaton a string: the work per byte does not depend on the
 * text. */
#pragma once
#include "host/base/mem.h"
#include "weft/status.h"

enum { STOP_MAX = 64, STOP_BYTES = 1024 };

typedef struct {
    const char *s; /* borrowed */
    int n;
    int matched; /* bytes of s that end the stream so far */
    int *border; /* [n] longest proper border of s[0..i] */
} stop_word;

typedef struct {
    stop_word word[STOP_MAX];
    int n;
    arena mem;
} stop_match;

/* At most STOP_MAX strings of 1..STOP_BYTES bytes, valid UTF-8; else WEFT_USAGE. */
weft_status stop_init(stop_match *m, const char *const *words, int n);
void stop_fini(stop_match *m);
/* The next byte: bytes of the longest stop string that ends with it, 0 if none does. */
int stop_feed(stop_match *m, char c);
/* Most bytes at the end of the stream that begin some stop string. */
int stop_partial(const stop_match *m);
