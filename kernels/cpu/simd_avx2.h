/* SPDX-License-Identifier: Apache-2.0
 * v16 on AVX2, FMA and F16C: two registers, lanes 0..7 and 8..15. */
#pragma once
#include <immintrin.h>

enum {
    TILE_T = 2,
    TILE_N = 2, /* 8 accumulators, 4 of x and 2 of w in 16 registers */
    TILE_R = 2,
    TILE_C = 2,
    OUTER_R = 6,
    OUTER_C = 1, /* 12 accumulators, 2 of b and a broadcast in 16 registers */
};

/* The sizes of tile a kernel is built in: X(..., tokens, rows). */
#define V16_ROWS_(X, t, ...) \
    X(__VA_ARGS__, t, 1) \
    X(__VA_ARGS__, t, 2)
#define V16_TILES(X, ...) \
    V16_ROWS_(X, 1, __VA_ARGS__) \
    V16_ROWS_(X, 2, __VA_ARGS__)

/* The sizes of an outer product: X(..., rows, vectors). */
#define V16_OUTER(X, ...) \
    X(__VA_ARGS__, 1, 1) \
    X(__VA_ARGS__, 2, 1) \
    X(__VA_ARGS__, 3, 1) \
    X(__VA_ARGS__, 4, 1) \
    X(__VA_ARGS__, 5, 1) \
    X(__VA_ARGS__, 6, 1)

typedef struct {
    __m256 a, b;
} v16;

V16 v16 v16_of(__m256 a, __m256 b) {
    v16 v = {a, b};
    return v;
}
V16 v16 v16_set1(float x) {
    return v16_of(_mm256_set1_ps(x), _mm256_set1_ps(x));
}
V16 v16 v16_load(const float *p) {
    return v16_of(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
V16 v16 v16_load_n(const float *p, int n) {
    float t[16] = {0};
    memcpy(t, p, (size_t)n * 4);
    return v16_load(t);
}
V16 void v16_store(float *p, v16 v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
V16 void v16_store_n(float *p, int n, v16 v) {
    float t[16];
    v16_store(t, v);
    memcpy(p, t, (size_t)n * 4);
}
V16 v16 v16_add(v16 x, v16 y) {
    return v16_of(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}
V16 v16 v16_sub(v16 x, v16 y) {
    return v16_of(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}
V16 v16 v16_mul(v16 x, v16 y) {
    return v16_of(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}
V16 v16 v16_div(v16 x, v16 y) {
    return v16_of(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}
V16 v16 v16_sqrt(v16 x) {
    return v16_of(_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b));
}
V16 v16 v16_fma(v16 x, v16 y, v16 z) {
    return v16_of(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
/* x > y ? x : y, so y where either is a NaN; min likewise. */
V16 v16 v16_max(v16 x, v16 y) {
    return v16_of(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}
V16 v16 v16_min(v16 x, v16 y) {
    return v16_of(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}

/* x where a >= b, else +0. */
V16 v16 v16_where(v16 a, v16 b, v16 x) {
    return v16_of(_mm256_and_ps(_mm256_cmp_ps(a.a, b.a, _CMP_GE_OQ), x.a),
                  _mm256_and_ps(_mm256_cmp_ps(a.b, b.b, _CMP_GE_OQ), x.b));
}

V16 __m256 v16_pick_half(int lo, int hi, __m256 x, __m256 y) {
    __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), lane);
    __m256i keep = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane), below);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(keep));
}
/* Lanes [lo, hi) of x, the others of y. */
V16 v16 v16_pick(int lo, int hi, v16 x, v16 y) {
    return v16_of(v16_pick_half(lo, hi, x.a, y.a), v16_pick_half(lo - 8, hi - 8, x.b, y.b));
}

V16 __m256 v16_widen_bf16(const uint16_t *p) {
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
V16 v16 v16_load_bf16(const uint16_t *p) {
    return v16_of(v16_widen_bf16(p), v16_widen_bf16(p + 8));
}
V16 v16 v16_load_bf16_n(const uint16_t *p, int n) {
    uint16_t t[16] = {0};
    memcpy(t, p, (size_t)n * 2);
    return v16_load_bf16(t);
}
V16 __m256 v16_widen_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
V16 v16 v16_load_f16(const uint16_t *p) {
    return v16_of(v16_widen_f16(p), v16_widen_f16(p + 8));
}
V16 v16 v16_load_f16_n(const uint16_t *p, int n) {
    uint16_t t[16] = {0};
    memcpy(t, p, (size_t)n * 2);
    return v16_load_f16(t);
}

V16 __m256 v16_widen_i8(const int8_t *p) {
    __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b));
}
V16 v16 v16_load_i8(const int8_t *p) {
    return v16_of(v16_widen_i8(p), v16_widen_i8(p + 8));
}
V16 v16 v16_load_i8_n(const int8_t *p, int n) {
    int8_t t[16] = {0};
    memcpy(t, p, (size_t)n);
    return v16_load_i8(t);
}

V16 __m256i v16_narrow_bf16(__m256 v) {
    __m256i u = _mm256_castps_si256(v), top = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
}
V16 void v16_store_bf16(uint16_t *p, v16 v) {
    __m256i h = _mm256_packus_epi32(v16_narrow_bf16(v.a), v16_narrow_bf16(v.b));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(h, 0xd8));
}
V16 void v16_store_f16(uint16_t *p, v16 v) {
    __m128i a = _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i b = _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i *)(void *)p, a);
    _mm_storeu_si128((__m128i *)(void *)(p + 8), b);
}

V16 __m256 v16_scale2_half(__m256 y, __m256 n) {
    __m256i i = _mm256_cvttps_epi32(n), h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256i a = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
    __m256i b = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(y, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b));
}
/* y 2^n for whole n in [-150, 129], in two factors as weft_expf; a NaN in n gives y, a NaN. */
V16 v16 v16_scale2(v16 y, v16 n) {
    return v16_of(v16_scale2_half(y.a, n.a), v16_scale2_half(y.b, n.b));
}

/* The folds leave their result in the low half only: nothing reads the lanes they fold away. */
V16 v16 v16_fold8(v16 v) {
    return v16_of(_mm256_add_ps(v.a, v.b), v.b);
}
V16 v16 v16_fold4(v16 v) {
    return v16_of(_mm256_add_ps(v.a, _mm256_permute2f128_ps(v.a, v.a, 1)), v.b);
}
V16 v16 v16_fold2(v16 v) {
    return v16_of(_mm256_add_ps(v.a, _mm256_permute_ps(v.a, 0x4e)), v.b);
}
V16 v16 v16_fold1(v16 v) {
    return v16_of(_mm256_add_ps(v.a, _mm256_permute_ps(v.a, 0xb1)), v.b);
}
V16 float v16_first(v16 v) {
    return _mm256_cvtss_f32(v.a);
}

V16 float v16_hmax(v16 v) {
    __m256 m = _mm256_max_ps(v.b, v.a);
    m = _mm256_max_ps(_mm256_permute2f128_ps(m, m, 1), m);
    m = _mm256_max_ps(_mm256_permute_ps(m, 0x4e), m);
    m = _mm256_max_ps(_mm256_permute_ps(m, 0xb1), m);
    return _mm256_cvtss_f32(m);
}

V16 __m256 v16_pair4(v16 x, v16 y) {
    __m256 p = _mm256_add_ps(x.a, x.b), q = _mm256_add_ps(y.a, y.b);
    return _mm256_add_ps(_mm256_blend_ps(p, q, 0xf0), _mm256_permute2f128_ps(p, q, 0x21));
}
V16 __m256 v16_pair2(__m256 p, __m256 q) {
    return _mm256_add_ps(_mm256_blend_ps(p, q, 0xcc), _mm256_shuffle_ps(p, q, 0x4e));
}
/* out[i] = v16_sum(v[i]) for i < 8: the eight trees share their instructions. */
V16 void v16_sum8(const v16 *v, float *out) {
    __m256 p = v16_pair2(v16_pair4(v[0], v[4]), v16_pair4(v[1], v[5]));
    __m256 q = v16_pair2(v16_pair4(v[2], v[6]), v16_pair4(v[3], v[7]));
    __m256 keep = _mm256_shuffle_ps(p, q, 0x88), give = _mm256_shuffle_ps(p, q, 0xdd);
    _mm256_storeu_ps(out, _mm256_add_ps(keep, give));
}
