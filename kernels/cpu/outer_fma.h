/* SPDX-License-Identifier: Apache-2.0
 * Class LANE16's step of an outer product: one k, as fp32, by fma. */
#pragma once
#include "cpu.h"

enum { OUTER_K = 1 };

V16 v16 outer_mul(v16 a, v16 b, v16 c) {
    return v16_fma(a, b, c);
}

#include "outer.h"

V16 void outer_pack_as(int dtype, const void *from, int64_t columns, float *to, int64_t pitch) {
    for (int64_t at = 0; at < columns; at += OUTER_PANEL, to += pitch)
        CPU_EACH16(i, n, cpu_min(OUTER_PANEL, columns - at)) {
            v16_store(to + i, v16_get(dtype, from, at + i, (int)n));
        }
}

/* A row of b, `pitch` slots from panel to panel; what is missing of the last sixteen is +0. */
static void outer_pack(int dtype, const void *from, int64_t columns, float *to, int64_t pitch) {
    switch (dtype) {
    case WEFT_F32: outer_pack_as(WEFT_F32, from, columns, to, pitch); return;
    case WEFT_BF16: outer_pack_as(WEFT_BF16, from, columns, to, pitch); return;
    case WEFT_I8: outer_pack_as(WEFT_I8, from, columns, to, pitch); return;
    default: outer_pack_as(WEFT_F16, from, columns, to, pitch);
    }
}

/* As one panel after the other of the steps that begin with row `row` of t. */
V16 void outer_pack_step(const weft_tensor *t, int64_t row, int64_t end, int64_t column,
                         int64_t columns, float *to, int64_t pitch) {
    (void)end;
    outer_pack(t->dtype, cpu_at(t, row * t->stride[0] + column), columns, to, pitch);
}

/* n elements of a row as steps. */
V16 void outer_pack_row(const weft_tensor *t, int64_t row, int64_t column, int64_t n, float *to) {
    outer_pack(t->dtype, cpu_at(t, row * t->stride[0] + column), n, to, OUTER_PANEL);
}

V16 int outer_takes(const weft_tensor *t) {
    return cpu_flat(t);
}
