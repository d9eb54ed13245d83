/* SPDX-License-Identifier: Apache-2.0
 * A training run's folder as read back: what metrics.h wrote, and the run's options. */
#pragma once
#include "host/base/mem.h"
#include "weft/status.h"
#include <stdint.h>

/* A number is NAN where the line does not have it, and INFINITY where it is null: it was not
 * finite. */
typedef struct {
    int64_t step;
    double loss, lr, grad_norm, tokens, val_loss;
} run_step;

typedef struct {
    int64_t step;
    double seconds, tokens_per_s, pct_ceiling;
} run_timing;

typedef struct {
    int64_t step;
    const char *prompt, *text; /* NUL-terminated */
} run_sample;

typedef struct {
    const char *key, *value; /* "model.hidden_size", "128": JSON, strings without their quotes */
} run_option;

enum { RUN_MAX_NOTES = 8 };

typedef struct {
    const char *path, *name; /* name: the path's last part */
    run_step *step;          /* ascending */
    run_timing *timing;
    run_sample *sample;
    run_option *option; /* config.json under "model.", train.json under "train." */
    int64_t nstep, ntiming, nsample, noption;
    const char *note[RUN_MAX_NOTES]; /* what is missing or cut off, and was left out */
    int nnote;
} run_log;

/* path: a run's folder, or its metrics file alone. A last line that was cut off is left out with a
 * note, as is any file but metrics.jsonl that is not there. WEFT_BAD_FILE names file and line. All
 * memory is the arena's. */
weft_status run_log_read(const char *path, arena *a, run_log *out);

/* n values in at most `most` pieces of neighbours, none of which is lost: each keeps its least and
 * largest value. */
typedef struct {
    int64_t from, to;      /* steps of its first and last value */
    double mean, min, max; /* of the finite ones; NAN if there is none */
    int64_t bad;           /* values that were not finite */
} curve_point;

/* Value i is at `y + i * stride` bytes, its step at `x + i * stride`; NAN values are left out.
 * Returns the number of points written to out[0..most). */
int curve_of(const int64_t *x, const double *y, size_t stride, int64_t n, int most,
             curve_point *out);
/* Of the finite values; NAN if there is none. */
double curve_median(const double *y, size_t stride, int64_t n);
