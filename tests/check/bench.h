/* SPDX-License-Identifier: Apache-2.0
 * Between the measuring of a GPU's rows and the comparison of what they computed. */
#pragma once
#include "tests/check/check.h"

/* One copy of a set's operands on the device. */
typedef struct {
    device *d;
    weft_stream *stream;
    char *at;
    const size_t *off; /* of each operand */
} bench_memory;

/* Some rows of the outputs there against the reference: NULL: right; "not compared", or what is
 * wrong. flops: of one run. */
const char *bench_verify(check_state *k, const check_set *s, const bench_memory *m, double flops);
