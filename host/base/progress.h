/* SPDX-License-Identifier: Apache-2.0
 * A progress bar on stderr when it is a terminal and nothing otherwise. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *label, *unit;
    int64_t total, done;
    double started, drawn;
    bool on;
    char note[48]; /* what else to show, as ", 12 tok/s"; the caller's */
} progress;

void progress_start(progress *p, const char *label, const char *unit, int64_t total);
void progress_add(progress *p, int64_t n); /* draws at most ten times a second */
void progress_end(progress *p);            /* clears the line */
