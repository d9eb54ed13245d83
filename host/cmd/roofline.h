/* SPDX-License-Identifier: Apache-2.0
 * What a phase of a model must read and compute, and how fast this machine could at best: the two
 * numbers behind every "% of the ceiling". */
#pragma once
#include "weft.h"

/* Compulsory work of one test. */
typedef struct {
    double bytes; /* weights once a step, keys and values of what came before */
    double flops; /* multiply-adds count twice */
} roofline_work;

/* `prompt` tokens computed behind `depth` others, in steps of at most `ubatch`; one row of
 * logits. */
roofline_work roofline_prefill(const weft_engine_info *m, int64_t prompt, int64_t depth);
/* `steps` steps of one token for each of `batch` sequences, all `depth` tokens long at first. */
roofline_work roofline_decode(const weft_engine_info *m, int64_t steps, int64_t batch,
                              int64_t depth);

typedef struct {
    double gb_s, gflop_s;
} roofline_ceiling;
/* Measured now, with the engine's threads (about a second): reads over a working set as large as
 * its weights; fused multiply-adds in fp32, or bf16 pair products where the plan's kernels use them
 * and they are faster. On a GPU its own: reads, and matrix instructions in bf16 or, where the plan
 * has none, fp32. */
weft_status roofline_measure(const weft_engine *e, roofline_ceiling *out);
