/* SPDX-License-Identifier: Apache-2.0
 * What a training run writes about itself, one line at a time: metrics.jsonl (and, on request,
 * metrics.csv and a TensorBoard event file), timing.jsonl and samples.jsonl in the run's folder.
 * metrics.jsonl and samples.jsonl hold nothing that depends on the clock, so two equal runs have
 * equal files; seconds and speeds are in timing.jsonl.
 *
 * A line goes out with one write as soon as it is known. A number that is exactly an fp32 is
 * printed as the shortest decimal that reads back as that fp32, any other as the shortest of its
 * double; NaN and infinities are null. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct metrics metrics;

/* The files of `dir` and log, where they are there, become copies of themselves: what a process
 * that opened them before still writes goes nowhere. */
weft_status metrics_renew(const char *dir, const char *log);

/* Opens the files in folder `dir`, which exists. log: another place for metrics.jsonl, or NULL; it
 * may be a pipe or a device, which is only ever appended to. csv, tensorboard: write
 * dir/metrics.csv, dir/events.out.tfevents.weft too. Lines (and events) of files that are there
 * are kept up to step `resume_step`, and from the first later one on cut off, as is a last line
 * without its end; -1 starts afresh. WEFT_BAD_FILE names the file and line that is none of ours,
 * WEFT_IO a file that cannot be opened or written. The strings are borrowed for the call. */
weft_status metrics_open(const char *dir, const char *log, bool csv, bool tensorboard,
                         int64_t resume_step, metrics **out);

/* {"step","loss","lr","grad_norm","tokens"}. step >= 0 counts up; loss is the mean over the step's
 * tokens in nats, grad_norm the global L2 norm before clipping, tokens the number of them so far.
 * WEFT_IO: the disk is full or gone; the file then ends with the last whole line, and the next
 * call tries again. That holds for every writer below. m NULL: nothing is written. */
weft_status metrics_step(metrics *m, int64_t step, double loss, double lr, double grad_norm,
                         int64_t tokens);
/* Adds "val_loss" to the line of `step` if that is the last one written, which makes it the line
 * it would have been; otherwise writes {"step","val_loss"}. */
weft_status metrics_val(metrics *m, int64_t step, double val_loss);
/* {"step","seconds","tokens_per_s","pct_ceiling"} to timing.jsonl; pct_ceiling: speed in % of what
 * the machine can do, NaN if that is not known. */
weft_status metrics_timing(metrics *m, int64_t step, double seconds, double tokens_per_s,
                           double pct_ceiling);
/* {"step","prompt","text"} to samples.jsonl; bytes that are no UTF-8 become U+FFFD. */
weft_status metrics_sample(metrics *m, int64_t step, const char *prompt, const char *text);
/* Everything so far is on disk when it returns: call it before a checkpoint is declared
 * complete. */
weft_status metrics_flush(metrics *m);
void metrics_close(metrics *m); /* accepts NULL; does not flush */
