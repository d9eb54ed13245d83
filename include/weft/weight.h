/* SPDX-License-Identifier: Apache-2.0
 * What a token weighs in the sampling chain: e^x in fixed point. Sums of integers do not depend on
 * their order, so every device decides alike and exactly, whatever it adds first. */
#pragma once
#include "weft/math.h"
#ifdef __cplusplus
extern "C" {
#endif

/* The best token, x = 0, weighs 2^44: 2^19 tokens add up to less than 2^63. */
#define WEFT_WEIGHT_ONE 0x1p44

/* e^x in units of 2^-44, to nearest; x <= 0, -infinity weighs nothing. Before the rounding it is
 * within 2^-42 of its value (Taylor's series to r^10, |r| <= ln 2 / 2). */
WEFT_INLINE uint64_t weft_weight(double x) {
    if (!(x > -32.0)) /* less than half a unit */
        return 0;
    double t = fma(x, 1.4426950408889634, 6755399441055744.0), n = t - 6755399441055744.0;
    double r = fma(n, -0.69314718055994531, x);
    double p = 1.0 / 3628800.0;
    p = fma(p, r, 1.0 / 362880.0);
    p = fma(p, r, 1.0 / 40320.0);
    p = fma(p, r, 1.0 / 5040.0);
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    int32_t i = (int32_t)(uint32_t)weft_f64_bits(t); /* n, which the sum left in the low bits */
    double y = fma(p, weft_bits_f64((uint64_t)(1023 + 44 + i) << 52), 0x1p52);
    return weft_f64_bits(y) - weft_f64_bits(0x1p52);
}

/* x^2 or -x e^x and the like, rounded to an integer; 0 <= v < 2^51. */
WEFT_INLINE uint64_t weft_fixed(double v) {
    return weft_f64_bits(v + 0x1p52) - weft_f64_bits(0x1p52);
}

/* The power of two that takes v > 0 to [2^43, 2^44). */
WEFT_INLINE double weft_fixed_scale(double v) {
    int64_t exponent = (int64_t)(weft_f64_bits(v) >> 52);
    int64_t e = 2 * 1023 + 43 - exponent;
    return weft_bits_f64((uint64_t)(e < 1 ? 1 : e > 2046 ? 2046 : e) << 52);
}

/* Share p of a sum, rounded up: a running sum reaches it or does not. */
WEFT_INLINE uint64_t weft_weight_share(double p, uint64_t total) {
    double v = p * (double)total;
    return v < (double)total ? (uint64_t)ceil(v) : total;
}

/* u times a sum, u = the upper 24 bits of `random` over 2^24: the draw is the first token at which
 * the running sum passes it. */
WEFT_INLINE uint64_t weft_weight_draw(uint32_t random, uint64_t total) {
    uint64_t u = random >> 8;
    return (total >> 24) * u + ((total & 0xffffff) * u >> 24);
}

#ifdef __cplusplus
}
#endif
