/* SPDX-License-Identifier: Apache-2.0
 * What the files of `weft report` share: the runs, and the two forms they take. */
#pragma once
#include "host/cmd/cmd.h"
#include "host/train/runlog.h"

enum { REPORT_MAX_RUNS = 16 };

typedef struct {
    run_log run[REPORT_MAX_RUNS];
    int n;
    arena a;
} report;

typedef struct {
    double tokens, seconds;         /* of the last step; sum over steps. NAN: unknown */
    double first, last;             /* training loss: of the first step, mean of the last 5 % */
    double best_val, last_val;      /* validation loss */
    int64_t best_step, worst_step;  /* of best_val and of worst_norm */
    double median_norm, worst_norm; /* gradient norm */
    double speed, ceiling;          /* median tokens/s and % of the ceiling */
    int64_t bad;                    /* steps whose loss was not finite */
} report_summary;

report_summary report_summarize(const run_log *l);
/* The option's value in a run, NULL if it has none. */
const char *report_option(const run_log *l, const char *key);
/* Keys of all runs, each once, in the order they come; *n of them, from the arena. */
const char **report_keys(const report *r, arena *a, int *n);
bool report_differs(const report *r, const char *key);

void report_text(const report *r, int width, buf *out);
void report_html(const report *r, buf *out);
