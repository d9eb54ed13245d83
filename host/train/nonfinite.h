/* SPDX-License-Identifier: Apache-2.0
 * nonfinite: where a step went wrong. */
#pragma once
#include "host/train/trainer.h"

/* Runs the batch in t->rows once more, step by step, and writes {"step", "loss", "grad_norm",
 * "first", "rows": [[ids]...]} to path: "first" names the step of the plan whose result is the
 * first that is not finite, null if none is. where[n] gets its name, "" if none. path NULL: writes
 * nothing. Ranks that hold parts of the model call it together. */
weft_status nonfinite_report(trainer *t, int64_t step, double loss, double grad_norm,
                             const char *path, char *where, size_t n);
