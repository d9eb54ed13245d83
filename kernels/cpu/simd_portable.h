/* SPDX-License-Identifier: Apache-2.0
 * v16 in plain C: a struct of sixteen floats, for any machine. Correctly rounded fmaf is all it
 * asks. */
#pragma once

enum {
    TILE_T = 1,
    TILE_N = 2,
    TILE_R = 1,
    TILE_C = 2,
    OUTER_R = 2,
    OUTER_C = 1,
};

/* The sizes of tile a kernel is built in: X(..., tokens, rows). */
#define V16_ROWS_(X, t, ...) \
    X(__VA_ARGS__, t, 1) \
    X(__VA_ARGS__, t, 2)
#define V16_TILES(X, ...) V16_ROWS_(X, 1, __VA_ARGS__)

/* The sizes of an outer product: X(..., rows, vectors). */
#define V16_OUTER(X, ...) \
    X(__VA_ARGS__, 1, 1) \
    X(__VA_ARGS__, 2, 1)

typedef struct {
    float f[16];
} v16;

#define V16_EACH for (int l = 0; l < 16; l++)

V16 v16 v16_set1(float x) {
    v16 v;
    V16_EACH v.f[l] = x;
    return v;
}
V16 v16 v16_load(const float *p) {
    v16 v;
    memcpy(v.f, p, sizeof v.f);
    return v;
}
V16 v16 v16_load_n(const float *p, int n) {
    v16 v = v16_set1(0.0f);
    memcpy(v.f, p, (size_t)n * 4);
    return v;
}
V16 void v16_store(float *p, v16 v) {
    memcpy(p, v.f, sizeof v.f);
}
V16 void v16_store_n(float *p, int n, v16 v) {
    memcpy(p, v.f, (size_t)n * 4);
}
V16 v16 v16_add(v16 a, v16 b) {
    V16_EACH a.f[l] += b.f[l];
    return a;
}
V16 v16 v16_sub(v16 a, v16 b) {
    V16_EACH a.f[l] -= b.f[l];
    return a;
}
V16 v16 v16_mul(v16 a, v16 b) {
    V16_EACH a.f[l] *= b.f[l];
    return a;
}
V16 v16 v16_div(v16 a, v16 b) {
    V16_EACH a.f[l] /= b.f[l];
    return a;
}
V16 v16 v16_sqrt(v16 a) {
    V16_EACH a.f[l] = sqrtf(a.f[l]);
    return a;
}
V16 v16 v16_fma(v16 a, v16 b, v16 c) {
    V16_EACH a.f[l] = fmaf(a.f[l], b.f[l], c.f[l]);
    return a;
}
/* a > b ? a : b, so b where either is a NaN; min likewise. */
V16 v16 v16_max(v16 a, v16 b) {
    V16_EACH a.f[l] = a.f[l] > b.f[l] ? a.f[l] : b.f[l];
    return a;
}
V16 v16 v16_min(v16 a, v16 b) {
    V16_EACH a.f[l] = a.f[l] < b.f[l] ? a.f[l] : b.f[l];
    return a;
}
/* x where a >= b, else +0. */
V16 v16 v16_where(v16 a, v16 b, v16 x) {
    V16_EACH x.f[l] = a.f[l] >= b.f[l] ? x.f[l] : 0.0f;
    return x;
}

/* Lanes [lo, hi) of a, the others of b. */
V16 v16 v16_pick(int lo, int hi, v16 a, v16 b) {
    V16_EACH a.f[l] = l >= lo && l < hi ? a.f[l] : b.f[l];
    return a;
}

V16 v16 v16_load_bf16(const uint16_t *p) {
    v16 v;
    V16_EACH v.f[l] = weft_bf16_to_f32(p[l]);
    return v;
}
V16 v16 v16_load_bf16_n(const uint16_t *p, int n) {
    uint16_t t[16] = {0};
    memcpy(t, p, (size_t)n * 2);
    return v16_load_bf16(t);
}
V16 v16 v16_load_f16(const uint16_t *p) {
    v16 v;
    V16_EACH v.f[l] = weft_f16_to_f32(p[l]);
    return v;
}
V16 v16 v16_load_f16_n(const uint16_t *p, int n) {
    uint16_t t[16] = {0};
    memcpy(t, p, (size_t)n * 2);
    return v16_load_f16(t);
}
V16 v16 v16_load_i8(const int8_t *p) {
    v16 v;
    V16_EACH v.f[l] = p[l];
    return v;
}
V16 v16 v16_load_i8_n(const int8_t *p, int n) {
    int8_t t[16] = {0};
    memcpy(t, p, (size_t)n);
    return v16_load_i8(t);
}
V16 void v16_store_bf16(uint16_t *p, v16 v) {
    V16_EACH p[l] = weft_f32_to_bf16(v.f[l]);
}
V16 void v16_store_f16(uint16_t *p, v16 v) {
    V16_EACH p[l] = weft_f32_to_f16(v.f[l]);
}

/* y 2^n for whole n in [-150, 129], in two factors as weft_expf; a NaN in n gives y, a NaN. */
V16 v16 v16_scale2(v16 y, v16 n) {
    for (int l = 0; l < 16; l++) {
        int32_t i = n.f[l] == n.f[l] ? (int32_t)n.f[l] : 0, h = i >> 1;
        y.f[l] *= weft_bits_f32((uint32_t)(h + 127) << 23);
        y.f[l] *= weft_bits_f32((uint32_t)(i - h + 127) << 23);
    }
    return y;
}

V16 v16 v16_fold(v16 v, int n) {
    for (int l = 0; l < n; l++)
        v.f[l] += v.f[l + n];
    return v;
}
V16 v16 v16_fold8(v16 v) {
    return v16_fold(v, 8);
}
V16 v16 v16_fold4(v16 v) {
    return v16_fold(v, 4);
}
V16 v16 v16_fold2(v16 v) {
    return v16_fold(v, 2);
}
V16 v16 v16_fold1(v16 v) {
    return v16_fold(v, 1);
}
V16 float v16_first(v16 v) {
    return v.f[0];
}
V16 float v16_hmax(v16 v) {
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++)
            v.f[l] = v.f[l + n] > v.f[l] ? v.f[l + n] : v.f[l];
    return v.f[0];
}
V16 void v16_sum8(const v16 *v, float *out) {
    for (int i = 0; i < 8; i++)
        out[i] = v16_first(v16_fold1(v16_fold2(v16_fold4(v16_fold8(v[i])))));
}
