/* SPDX-License-Identifier: Apache-2.0
 * v16 on AVX-512 F, BW, DQ, VL: one register. */
#pragma once
#include <immintrin.h>

enum {
    TILE_T = 4,
    TILE_N = 6, /* matmul: 24 accumulators, 4 of x and one of w in 32 registers */
    TILE_R = 6,
    TILE_C = 4, /* attention: the same, rows x vectors */
    OUTER_R = 8,
    OUTER_C = 3, /* gradients of matmul: 24 accumulators, 3 of b and a broadcast */
};

/* The sizes of tile a kernel is built in: X(..., tokens, rows). */
#define V16_ROWS_(X, t, ...) \
    X(__VA_ARGS__, t, 1) \
    X(__VA_ARGS__, t, 2) \
    X(__VA_ARGS__, t, 3) \
    X(__VA_ARGS__, t, 4) \
    X(__VA_ARGS__, t, 5) \
    X(__VA_ARGS__, t, 6)
#define V16_TILES(X, ...) \
    V16_ROWS_(X, 1, __VA_ARGS__) \
    V16_ROWS_(X, 2, __VA_ARGS__) \
    V16_ROWS_(X, 3, __VA_ARGS__) \
    V16_ROWS_(X, 4, __VA_ARGS__)

/* The sizes of an outer product: X(..., rows, vectors). */
#define V16_VECTORS_(X, r, ...) \
    X(__VA_ARGS__, r, 1) \
    X(__VA_ARGS__, r, 2) \
    X(__VA_ARGS__, r, 3)
#define V16_OUTER(X, ...) \
    V16_VECTORS_(X, 1, __VA_ARGS__) \
    V16_VECTORS_(X, 2, __VA_ARGS__) \
    V16_VECTORS_(X, 3, __VA_ARGS__) \
    V16_VECTORS_(X, 4, __VA_ARGS__) \
    V16_VECTORS_(X, 5, __VA_ARGS__) \
    V16_VECTORS_(X, 6, __VA_ARGS__) \
    V16_VECTORS_(X, 7, __VA_ARGS__) \
    V16_VECTORS_(X, 8, __VA_ARGS__)

typedef __m512 v16;

V16 __mmask16 v16_mask(int n) {
    return (__mmask16)((1u << n) - 1u);
}

V16 v16 v16_set1(float x) {
    return _mm512_set1_ps(x);
}
V16 v16 v16_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V16 v16 v16_load_n(const float *p, int n) {
    return _mm512_maskz_loadu_ps(v16_mask(n), p);
}
V16 void v16_store(float *p, v16 v) {
    _mm512_storeu_ps(p, v);
}
V16 void v16_store_n(float *p, int n, v16 v) {
    _mm512_mask_storeu_ps(p, v16_mask(n), v);
}
V16 v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
V16 v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
V16 v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
V16 v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
V16 v16 v16_sqrt(v16 a) {
    return _mm512_sqrt_ps(a);
}
V16 v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* a > b ? a : b, so b where either is a NaN; min likewise. */
V16 v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
V16 v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}

/* x where a >= b, else +0. */
V16 v16 v16_where(v16 a, v16 b, v16 x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), x);
}

/* Lanes [lo, hi) of a, the others of b. */
V16 v16 v16_pick(int lo, int hi, v16 a, v16 b) {
    return _mm512_mask_blend_ps(v16_mask(hi) & (__mmask16)~v16_mask(lo), b, a);
}

V16 v16 v16_widen_bf16(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
V16 v16 v16_load_bf16(const uint16_t *p) {
    return v16_widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
V16 v16 v16_load_bf16_n(const uint16_t *p, int n) {
    return v16_widen_bf16(_mm256_maskz_loadu_epi16(v16_mask(n), p));
}
V16 v16 v16_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
V16 v16 v16_load_f16_n(const uint16_t *p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v16_mask(n), p));
}

V16 v16 v16_widen_i8(__m128i b) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
}
V16 v16 v16_load_i8(const int8_t *p) {
    return v16_widen_i8(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V16 v16 v16_load_i8_n(const int8_t *p, int n) {
    return v16_widen_i8(_mm_maskz_loadu_epi8(v16_mask(n), p));
}

V16 void v16_store_bf16(uint16_t *p, v16 v) {
    __m512i u = _mm512_castps_si512(v), top = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i h = _mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), nan, top, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(h));
}
V16 void v16_store_f16(uint16_t *p, v16 v) {
    __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)(void *)p, h);
}

/* y 2^n for whole n in [-150, 129], in two factors as weft_expf; a NaN in n gives y, a NaN. */
V16 v16 v16_scale2(v16 y, v16 n) {
    __m512i i = _mm512_cvttps_epi32(n), h = _mm512_srai_epi32(i, 1), bias = _mm512_set1_epi32(127);
    __m512i a = _mm512_slli_epi32(_mm512_add_epi32(h, bias), 23);
    __m512i b = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(i, h), bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(y, _mm512_castsi512_ps(a)), _mm512_castsi512_ps(b));
}

V16 v16 v16_fold8(v16 v) {
    return _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
}
V16 v16 v16_fold4(v16 v) {
    return _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
}
V16 v16 v16_fold2(v16 v) {
    return _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
}
V16 v16 v16_fold1(v16 v) {
    return _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
}
V16 float v16_first(v16 v) {
    return _mm512_cvtss_f32(v);
}

/* The largest lane. Only the values matter here: no NaN, or the caller does not care. */
V16 float v16_hmax(v16 v) {
    v = _mm512_max_ps(_mm512_shuffle_f32x4(v, v, 0x4e), v);
    v = _mm512_max_ps(_mm512_shuffle_f32x4(v, v, 0xb1), v);
    v = _mm512_max_ps(_mm512_permute_ps(v, 0x4e), v);
    v = _mm512_max_ps(_mm512_permute_ps(v, 0xb1), v);
    return _mm512_cvtss_f32(v);
}

/* Two vectors folded side by side: a blend and one shuffle instead of two shuffles. */
V16 v16 v16_pair8(v16 a, v16 b) {
    return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e));
}
V16 v16 v16_pair4(v16 a, v16 b) {
    v16 keep = _mm512_mask_blend_ps(0xf0f0, a, b);
    v16 give = _mm512_castpd_ps(
        _mm512_permutex_pd(_mm512_castps_pd(_mm512_mask_blend_ps(0xf0f0, b, a)), 0x4e));
    return _mm512_add_ps(keep, give);
}
V16 v16 v16_pair2(v16 a, v16 b) {
    return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
}

/* out[i] = v16_sum(v[i]) for i < 8: the eight trees share their instructions. */
V16 void v16_sum8(const v16 *v, float *out) {
    v16 a = v16_pair8(v[0], v[4]), b = v16_pair8(v[1], v[5]);
    v16 c = v16_pair8(v[2], v[6]), d = v16_pair8(v[3], v[7]);
    v16 e = v16_pair4(a, c), f = v16_pair4(b, d);
    v16 g = v16_fold1(v16_pair2(e, f)); /* pairs of lanes: 0 1 2 3 4 5 6 7 */
    const __m512i even = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 14, 12, 10, 8, 6, 4, 2, 0);
    _mm256_storeu_ps(out, _mm512_castps512_ps256(_mm512_permutexvar_ps(even, g)));
}
