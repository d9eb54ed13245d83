/* SPDX-License-Identifier: Apache-2.0
 * Class BF16DOT's step of an outer product: a pair of bf16, k and k + 1, by VDPBF16PS, which adds
 * the product of the odd one first and takes denormals as zeros. Without a partner k + 1 is +0. */
#pragma once
#include "cpu.h"

enum { OUTER_K = 2 };

V16 v16 outer_mul(v16 a, v16 b, v16 c) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
}

#include "outer.h"

V16 __m512i outer_half(const uint16_t *p, int n) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(v16_mask(n), p));
}

/* Rows `row` and, if that is before `end`, row + 1 of t: columns side by side, `pitch` slots from
 * panel to panel; what is missing of the last sixteen is +0. */
V16 void outer_pack_step(const weft_tensor *t, int64_t row, int64_t end, int64_t column,
                         int64_t columns, float *to, int64_t pitch) {
    const uint16_t *low = cpu_at(t, row * t->stride[0] + column), *high = low + t->stride[0];
    int partner = row + 1 < end;
    for (int64_t at = 0; at < columns; at += OUTER_PANEL, to += pitch)
        CPU_EACH16(i, n, cpu_min(OUTER_PANEL, columns - at)) {
            __m512i pair = outer_half(low + at + i, (int)n);
            if (partner)
                pair = _mm512_or_si512(pair,
                                       _mm512_slli_epi32(outer_half(high + at + i, (int)n), 16));
            _mm512_storeu_si512(to + i, pair);
        }
}

/* n elements of a row as steps. */
V16 void outer_pack_row(const weft_tensor *t, int64_t row, int64_t column, int64_t n, float *to) {
    uint16_t *pair = (uint16_t *)(void *)to;
    memcpy(pair, cpu_at(t, row * t->stride[0] + column), (size_t)n * sizeof *pair);
    if (n % 2)
        pair[n] = 0;
}

V16 int outer_takes(const weft_tensor *t) {
    return cpu_flat(t) && t->dtype == WEFT_BF16;
}
