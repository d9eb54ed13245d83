/* SPDX-License-Identifier: Apache-2.0
 * The elementary functions every kernel uses, so that a result never depends on a libm: explicit
 * fma and fixed polynomials, branch-free where a vector unit must repeat them lane by lane. */
#pragma once
#include "weft/ops.h"
#include <math.h>
#ifdef __cplusplus
extern "C" {
#endif

/* e^x, at most 1.1 ulp (Cody and Waite's reduction; polynomial after Cephes' expf).
 * Results below 2^-149 are 0, above FLT_MAX infinity; NaN stays NaN. */
WEFT_INLINE float weft_expf(float x) {
    float c = x > -104.0f ? x : -104.0f; /* a NaN too, so that its integer part is defined */
    c = c > 89.0f ? 89.0f : c;
    float t = fmaf(c, 1.44269504088896341f, 12582912.0f), n = t - 12582912.0f;
    float r = fmaf(n, -0.693359375f, c);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    int32_t i = (int32_t)n, h = i >> 1; /* two factors: 2^i alone may be denormal or overflow */
    float y = p * weft_bits_f32((uint32_t)(h + 127) << 23);
    y *= weft_bits_f32((uint32_t)(i - h + 127) << 23);
    return x != x ? x : y;
}

/* log x, at most 1 ulp. Zero gives -infinity, below zero NaN; denormals are scaled up first. */
WEFT_INLINE float weft_logf(float x) {
    float tiny = x < 1.17549435e-38f ? 1.0f : 0.0f;
    float a = x < 1.17549435e-38f ? x * 8388608.0f : x;
    int32_t u = (int32_t)(weft_f32_bits(a) - 0x3f3504f3u); /* mantissa in [sqrt 1/2, sqrt 2) */
    float n = (float)(u >> 23) - 23.0f * tiny;
    float f = weft_bits_f32((uint32_t)((u & 0x7fffff) + 0x3f3504f3)) - 1.0f;
    float s = f / (2.0f + f), z = s * s; /* log(1 + f) = 2 atanh s, Taylor's series */
    float r = fmaf(z, 0.22222222f, 0.28571429f);
    r = fmaf(z, r, 0.4f);
    r = fmaf(z, r, 0.66666667f) * z;
    float l = fmaf(-s, f - r, f); /* 2s = f - s f, and f is exact */
    float y = fmaf(n, 0.693359375f, fmaf(n, -2.12194440e-4f, l));
    y = x > 3.40282347e38f ? x : y;
    y = x == 0 ? -INFINITY : y;
    return x >= 0 ? y : NAN;
}

/* At most 1.5 ulp. */
WEFT_INLINE float weft_tanhf(float x) {
    float a = fabsf(x), z = x * x;
    float p = -6.096714176e-03f;
    p = fmaf(p, z, 2.099717967e-02f);
    p = fmaf(p, z, -5.385090783e-02f);
    p = fmaf(p, z, 1.333276927e-01f);
    p = fmaf(p, z, -3.333332837e-01f);
    float small = fmaf(x * z, p, x), large = 1.0f - 2.0f / (weft_expf(2.0f * a) + 1.0f);
    return a < 0.625f ? small : copysignf(large, x);
}

/* At most 2 ulp. Odd polynomial below 7/8, 1 - e^polynomial above, fitted at Chebyshev points. */
WEFT_INLINE float weft_erff(float x) {
    float a = fabsf(x), z = x * x, b = a > 4.0f ? 4.0f : a;
    float p = 8.690368850e-05f;
    p = fmaf(p, z, -8.214570698e-04f);
    p = fmaf(p, z, 5.207048729e-03f);
    p = fmaf(p, z, -2.686170675e-02f);
    p = fmaf(p, z, 1.128373519e-01f);
    p = fmaf(p, z, -3.761263490e-01f);
    p = fmaf(p, z, 1.283792257e-01f); /* 2 / sqrt(pi) - 1: the leading 1 is added exactly */
    float small = fmaf(x, p, x);
    float q = 1.641114409e-06f;
    q = fmaf(q, b, -4.611922850e-05f);
    q = fmaf(q, b, 5.971515202e-04f);
    q = fmaf(q, b, -4.760285839e-03f);
    q = fmaf(q, b, 2.642001584e-02f);
    q = fmaf(q, b, -1.100718454e-01f);
    q = fmaf(q, b, -6.318424344e-01f);
    q = fmaf(q, b, -1.130218863e+00f);
    q = fmaf(q, b, 3.151541459e-04f);
    float large = copysignf(1.0f - weft_expf(q), x);
    return a < 0.875f ? small : a >= 0.875f ? large : x;
}

/* The activations take -infinity to -0: below the clamp nothing is left of the result. silu is
 * within 3 ulp; both gelus within 2.5 units of x's last place (they cancel towards -infinity). */
WEFT_INLINE float weft_silu(float x) {
    float c = x < -110.0f ? -110.0f : x, e = weft_expf(-fabsf(c));
    return (c < 0 ? c * e : c) / (1.0f + e);
}

WEFT_INLINE float weft_gelu(float x) {
    float c = x < -16.0f ? -16.0f : x;
    return 0.5f * c * (1.0f + weft_erff(c * 0.707106781f));
}

WEFT_INLINE float weft_gelu_tanh(float x) {
    float c = x < -16.0f ? -16.0f : x, d = c > 16.0f ? 16.0f : c;
    float u = 0.797884561f * fmaf(0.044715f * d * d, d, d);
    return 0.5f * c * (1.0f + weft_tanhf(u));
}

/* Derivatives of the activations, within 3e-7 absolute; relu's at 0 is 0. With s(x) the logistic
 * function, 1 - s(x) is s(-x): no digits are lost to the 1. */
WEFT_INLINE float weft_silu_slope(float x) {
    float c = x < -110.0f ? -110.0f : x > 110.0f ? 110.0f : x;
    float e = weft_expf(-fabsf(c)), large = 1.0f / (1.0f + e), small = e * large;
    float s = c < 0 ? small : large, rest = c < 0 ? large : small;
    return fmaf(s * c, rest, s);
}

WEFT_INLINE float weft_gelu_slope(float x) {
    float c = x < -16.0f ? -16.0f : x > 16.0f ? 16.0f : x;
    float density = 0.398942280f * weft_expf(-0.5f * c * c);
    return fmaf(c, density, 0.5f * (1.0f + weft_erff(c * 0.707106781f)));
}

/* 1 + tanh u = 2 s(2u). */
WEFT_INLINE float weft_gelu_tanh_slope(float x) {
    float c = x < -16.0f ? -16.0f : x > 16.0f ? 16.0f : x;
    float u = 0.797884561f * fmaf(0.044715f * c * c, c, c);
    float e = weft_expf(-2.0f * fabsf(u)), large = 1.0f / (1.0f + e), small = e * large;
    float s = c < 0 ? small : large;
    float inner = 1.59576912f * fmaf(0.134145f * c, c, 1.0f);
    return fmaf(large * small * c, inner, s);
}

WEFT_INLINE float weft_relu_slope(float x) {
    return x > 0 ? 1.0f : x <= 0 ? 0.0f : x;
}

/* NaN stays NaN: x < 0 is false for it. */
WEFT_INLINE float weft_relu(float x) {
    return x < 0 ? 0.0f : x;
}

WEFT_INLINE float weft_act_apply(int act, float x) {
    switch (act) {
    case WEFT_ACT_SILU: return weft_silu(x);
    case WEFT_ACT_GELU: return weft_gelu(x);
    case WEFT_ACT_GELU_TANH: return weft_gelu_tanh(x);
    case WEFT_ACT_RELU: return weft_relu(x);
    default: return x;
    }
}

/* The fixed tree ((0+1)+(2+3))+((4+5)+(6+7)); leaves is 1, 2, 4 or 8. */
WEFT_INLINE float weft_tree_sum(const float *leaf, int leaves) {
    float s[8] = {0};
    memcpy(s, leaf, (size_t)leaves * sizeof *s);
    for (int n = leaves; n > 1; n /= 2)
        for (int i = 0; i < n / 2; i++)
            s[i] = s[2 * i] + s[2 * i + 1];
    return s[0];
}

/* x as an element of `dtype` (a float type) holds it. */
WEFT_INLINE float weft_round_to(int dtype, float x) {
    if (dtype == WEFT_BF16)
        return weft_bf16_to_f32(weft_f32_to_bf16(x));
    return dtype == WEFT_F16 ? weft_f16_to_f32(weft_f32_to_f16(x)) : x;
}

/* ---- double: products and sums that the build never contracts; fma only where said ----
 * At most exp 1, log 1.5, tanh 2.6, erf 2 ulp; sine and cosine 3e-16 absolute. */

WEFT_INLINE uint64_t weft_f64_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    return u;
}

WEFT_INLINE double weft_bits_f64(uint64_t u) {
    double x;
    memcpy(&x, &u, 8);
    return x;
}

/* x = n ln 2 + r, |r| <= ln 2 / 2; returns e^r - 1 (Taylor's series to r^14). |x| < 2000. */
WEFT_INLINE double weft_exp_reduced(double x, double *n) {
    double t = x * 1.4426950408889634 + 6755399441055744.0;
    *n = t - 6755399441055744.0;
    double r = (x - *n * 0x1.62e42fefp-1) - *n * 7.440617110012397e-11;
    double p = 1.0 / 87178291200.0;
    p = p * r + 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    return p * (r * r) + r;
}

WEFT_INLINE double weft_exp(double x) {
    double n, c = x < -746.0 ? -746.0 : x;
    c = c > 710.0 ? 710.0 : c;
    double y = weft_exp_reduced(c, &n) + 1.0;
    int64_t i = (int64_t)(x == x ? n : 0), h = i >> 1;
    y *= weft_bits_f64((uint64_t)(h + 1023) << 52);
    y *= weft_bits_f64((uint64_t)(i - h + 1023) << 52);
    return x != x ? x : y;
}

WEFT_INLINE double weft_log(double x) {
    if (!(x > 0))
        return x == 0 ? -INFINITY : NAN;
    if (x > 1.7976931348623157e308)
        return x;
    int tiny = x < 2.2250738585072014e-308;
    int64_t u = (int64_t)weft_f64_bits(tiny ? x * 0x1p54 : x) - 0x3fe6a09e667f3bcd;
    double n = (double)(u >> 52) - 54.0 * tiny;
    double f = weft_bits_f64((uint64_t)((u & 0xfffffffffffff) + 0x3fe6a09e667f3bcd)) - 1.0;
    double s = f / (2.0 + f), z = s * s, r = 2.0 / 25.0;
    for (int k = 23; k >= 3; k -= 2)
        r = r * z + 2.0 / k;
    double l = f - s * (f - r * z);
    return n * 0x1.62e42fefp-1 + (n * 7.440617110012397e-11 + l);
}

/* By e^(-2|x|) - 1, so that small results keep their relative precision. */
WEFT_INLINE double weft_tanh(double x) {
    double a = fabs(x), n;
    double q = weft_exp_reduced(a > 22.0 ? -44.0 : -2.0 * a, &n);
    double scale = weft_bits_f64((uint64_t)(1023 + (int64_t)(x == x ? n : 0)) << 52);
    double e = q * scale + (scale - 1.0);
    return x != x ? x : copysign(-e / (2.0 + e), x);
}

/* x P(x^2) to 1, then 1 - e^(-x^2) Q((x - 3) / (x + 3)) / x; both fitted at Chebyshev points. */
WEFT_INLINE double weft_erf(double x) {
    static const double small[13] = {
        1.1283791670955126,      -0.3761263890318375,     0.11283791670954879,
        -0.026866170645076792,   0.0052239776248180145,   -0.000854832698083379,
        0.0001205533111164271,   -1.4925595266831182e-05, 1.6461000484121368e-06,
        -1.6350312701054695e-07, 1.4659775274047436e-08,  -1.1372848856791674e-09,
        5.957176147748911e-11};
    static const double large[18] = {
        0.5370034535441699,      0.09530622695922801,   -0.14658304803289116,
        0.13988054760177074,     -0.09546975030660809,  0.046350263331233654,
        -0.014019825627408427,   0.0009108226907246976, 0.001242876198417507,
        -0.00041254379851584776, -8.460889550027e-05,   6.897952183773652e-05,
        6.470519382653809e-06,   -1.11015293884311e-05, -1.0239372018676336e-06,
        1.8167083880466845e-06,  3.415271355906054e-07, -1.3456010463199292e-07};
    double a = fabs(x), p = 0;
    if (a >= 6.0)
        return copysign(1.0, x);
    if (a >= 1.0) {
        for (int i = 17; i >= 0; i--)
            p = p * ((a - 3.0) / (a + 3.0)) + large[i];
        return copysign(1.0 - weft_exp(-a * a) * p / a, x);
    }
    for (int i = 12; i >= 0; i--)
        p = p * (x * x) + small[i];
    return p * x;
}

/* Sine and cosine for |x| <= 2^31; NaN beyond. pi/2 in two parts: n times the first is exact inside
 * the fma, and so is the difference, because it is small. */
WEFT_INLINE void weft_sincos(double x, double *s, double *c) {
    if (!(fabs(x) <= 2147483648.0)) {
        *s = *c = NAN;
        return;
    }
    double n = (x * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0;
    double r = fma(-n, 6.123233995736766e-17, fma(-n, 1.5707963267948966, x)), z = r * r;
    double p = 1.0 / 355687428096000.0, q = 1.0 / 20922789888000.0;
    p = p * z - 1.0 / 1307674368000.0;
    p = p * z + 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    p = p * z - 1.0 / 6.0;
    q = q * z - 1.0 / 87178291200.0;
    q = q * z + 1.0 / 479001600.0;
    q = q * z - 1.0 / 3628800.0;
    q = q * z + 1.0 / 40320.0;
    q = q * z - 1.0 / 720.0;
    q = q * z + 1.0 / 24.0;
    double sine = r + r * z * p, cosine = 1.0 - (0.5 * z - z * z * q);
    int quarter = (int)((int64_t)n & 3);
    *s = quarter & 1 ? cosine : sine;
    *c = quarter & 1 ? sine : cosine;
    *s = quarter & 2 ? -*s : *s;
    *c = quarter == 1 || quarter == 2 ? -*c : *c;
}

#ifdef __cplusplus
}
#endif
