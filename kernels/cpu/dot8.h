/* SPDX-License-Identifier: Apache-2.0
 * Dot products of int8, in s32: exact, so that a level chooses its instructions freely. dot8 is an
 * accumulator, DOT8_STEP elements a step. x is prepared once a row, w as it lies in memory. */
#pragma once
#include "simd.h"

#if WEFT_CPU_LEVEL == 3
/* VPDPBUSD multiplies unsigned by signed: w + 128 is unsigned, and 128 sum(x) is taken off
 * again. */
enum { DOT8_STEP = 64, DOT8_BIAS = 128 };
typedef __m512i dot8;

V16 dot8 dot8_zero(void) {
    return _mm512_setzero_si512();
}
V16 __m512i dot8_get(const int8_t *p, int n) {
    if (n == 64)
        return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi8(((__mmask64)1 << n) - 1, p);
}
V16 __m512i dot8_get_w(const int8_t *p, int n) {
    return _mm512_xor_si512(dot8_get(p, n), _mm512_set1_epi8(-128));
}
V16 dot8 dot8_add(dot8 sum, __m512i x, __m512i w) {
    return _mm512_dpbusd_epi32(sum, w, x);
}
V16 int32_t dot8_sum(dot8 v) {
    return _mm512_reduce_add_epi32(v);
}
typedef __m512i dot8_row;

#elif WEFT_CPU_LEVEL == 2
enum { DOT8_STEP = 32, DOT8_BIAS = 0 };
typedef __m512i dot8, dot8_row;

V16 dot8 dot8_zero(void) {
    return _mm512_setzero_si512();
}
V16 __m512i dot8_get(const int8_t *p, int n) {
    __m256i b = n == 32 ? _mm256_loadu_si256((const __m256i *)(const void *)p)
                        : _mm256_maskz_loadu_epi8((__mmask32)((1ull << n) - 1), p);
    return _mm512_cvtepi8_epi16(b);
}
V16 __m512i dot8_get_w(const int8_t *p, int n) {
    return dot8_get(p, n);
}
V16 dot8 dot8_add(dot8 sum, __m512i x, __m512i w) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
}
V16 int32_t dot8_sum(dot8 v) {
    return _mm512_reduce_add_epi32(v);
}

#elif WEFT_CPU_LEVEL == 1
enum { DOT8_STEP = 16, DOT8_BIAS = 0 };
typedef __m256i dot8, dot8_row;

V16 dot8 dot8_zero(void) {
    return _mm256_setzero_si256();
}
V16 __m256i dot8_get(const int8_t *p, int n) {
    int8_t t[16] = {0};
    if (n < 16)
        memcpy(t, p, (size_t)n);
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(n < 16 ? t : p)));
}
V16 __m256i dot8_get_w(const int8_t *p, int n) {
    return dot8_get(p, n);
}
V16 dot8 dot8_add(dot8 sum, __m256i x, __m256i w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
}
V16 int32_t dot8_sum(dot8 v) {
    int32_t t[8], sum = 0;
    _mm256_storeu_si256((__m256i *)(void *)t, v);
    for (int i = 0; i < 8; i++)
        sum += t[i];
    return sum;
}

#else
enum { DOT8_STEP = 16, DOT8_BIAS = 0 };
typedef struct {
    int32_t i[16];
} dot8;
typedef struct {
    int16_t i[16];
} dot8_row;

V16 dot8 dot8_zero(void) {
    return (dot8){{0}};
}
V16 dot8_row dot8_get(const int8_t *p, int n) {
    dot8_row r = {{0}};
    for (int i = 0; i < n; i++)
        r.i[i] = (int16_t)p[i];
    return r;
}
V16 dot8_row dot8_get_w(const int8_t *p, int n) {
    return dot8_get(p, n);
}
V16 dot8 dot8_add(dot8 sum, dot8_row x, dot8_row w) {
    for (int i = 0; i < 16; i++)
        sum.i[i] += x.i[i] * w.i[i];
    return sum;
}
V16 int32_t dot8_sum(dot8 v) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += v.i[i];
    return sum;
}
#endif
