/* SPDX-License-Identifier: Apache-2.0
 * Models of the sum inside one matrix instruction. An aligned sum shifts every product, and the
 * accumulator, to the largest exponent among them, keeps F fraction bits, adds integers and rounds
 * the total; it is what published measurements of tensor cores describe (Fasi et al., "Numerical
 * behavior of NVIDIA tensor cores", 2021; Li et al., "FTTN", 2024). */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { PROBE_BF16, PROBE_F16, PROBE_TF32, PROBE_TYPES };
static const char *const probe_type_name[] = {"bf16", "f16", "tf32"};
static const int probe_k[] = {16, 16, 8};

/* An operand as integer significand and exponent: m 2^(e - frac). Denormals keep the least
 * exponent. */
struct probe_number {
    int64_t m;
    int e;
};
struct probe_format {
    int frac, least; /* fraction bits, exponent of denormals */
};
static const probe_format probe_formats[] = {{7, -126}, {10, -14}, {10, -126}};

static inline probe_number probe_split(float x, int frac, int least) {
    probe_number r = {0, least};
    int e;
    if (x == 0)
        return r;
    frexpf(x, &e);
    e--;
    r.e = e < least ? least : e;
    r.m = (int64_t)ldexp((double)x, frac - r.e);
    return r;
}

enum { ROUND_NEAREST, ROUND_ZERO };

/* m 2^e as fp32. */
static inline float probe_round(int64_t m, int e, int how) {
    int64_t a = m < 0 ? -m : m;
    int top = a ? 63 - __builtin_clzll((uint64_t)a) : 0, cut = top - 23;
    if (a && e + top < -126)
        cut = -149 - e; /* a denormal's grid */
    if (cut > 62)
        a = 0;
    else if (cut > 0) {
        int64_t rest = a & (((int64_t)1 << cut) - 1), half = (int64_t)1 << (cut - 1);
        a >>= cut;
        a += how == ROUND_NEAREST && (rest > half || (rest == half && (a & 1)));
        e += cut;
    }
    double v = ldexp((double)a, e);
    return (float)(m < 0 ? -v : v);
}

struct probe_model {
    int kind;  /* 0 aligned sum; 1 fma chain; 2 pairwise tree, c last; 3 double, one rounding */
    int group; /* products of one aligned sum; sums are chained through fp32 */
    int bits;  /* fraction bits kept */
    int normalized; /* products have their exponent adjusted before the alignment */
    int floor;      /* cut towards minus infinity instead of zero */
    int round;      /* of each sum */
    int c_last;     /* the accumulator is added after the products' sum is rounded */
    int64_t tried, same;
    int gone; /* 1 + trial of the first difference */
};

static inline int64_t probe_shift(int64_t m, int left, int down) {
    if (left >= 0)
        return (int64_t)((uint64_t)m << left);
    int by = -left;
    if (by > 62)
        return down && m < 0 ? -1 : 0;
    return down ? m >> by : m < 0 ? -(-m >> by) : m >> by;
}

struct probe_term {
    int64_t m;
    int e, frac;
};

static inline float probe_aligned(const probe_model *p, const probe_term *t, int n) {
    int most = -100000;
    int64_t sum = 0;
    for (int i = 0; i < n; i++)
        if (t[i].m && t[i].e > most)
            most = t[i].e;
    if (most == -100000)
        return 0.0f;
    for (int i = 0; i < n; i++)
        if (t[i].m)
            sum += probe_shift(t[i].m, p->bits - t[i].frac - (most - t[i].e), p->floor);
    return probe_round(sum, most - p->bits, p->round);
}

static inline probe_term probe_product(const probe_model *p, const probe_format *f, float a,
                                       float b) {
    probe_number x = probe_split(a, f->frac, f->least), y = probe_split(b, f->frac, f->least);
    probe_term t = {x.m * y.m, x.e + y.e, 2 * f->frac};
    int64_t m = t.m < 0 ? -t.m : t.m;
    if (p->normalized && m) { /* significand in [1, 2) */
        int top = 63 - __builtin_clzll((uint64_t)m), up = top - t.frac;
        t.e += up;
        t.frac += up;
    }
    return t;
}

static inline float probe_sum_aligned(const probe_model *p, int type, const float *a,
                                      const float *b, float c) {
    probe_term t[33];
    float acc = p->c_last ? 0.0f : c;
    for (int k = 0; k < probe_k[type]; k += p->group) {
        int n = 0;
        for (; n < p->group && k + n < probe_k[type]; n++)
            t[n] = probe_product(p, &probe_formats[type], a[k + n], b[k + n]);
        probe_number s = probe_split(acc, 23, -126);
        t[n++] = {s.m, s.e, 23};
        acc = probe_aligned(p, t, n);
    }
    return p->c_last ? acc + c : acc;
}

static inline float probe_tree(const float *a, const float *b, int n) {
    return n == 1 ? a[0] * b[0] : probe_tree(a, b, n / 2) + probe_tree(a + n / 2, b + n / 2, n / 2);
}

static inline float probe_predict(const probe_model *p, int type, const float *a, const float *b,
                                  float c) {
    float acc = p->c_last ? 0.0f : c;
    double wide = c;
    switch (p->kind) {
    case 0: return probe_sum_aligned(p, type, a, b, c);
    case 1:
        for (int k = 0; k < probe_k[type]; k++)
            acc = fmaf(a[k], b[k], acc);
        return p->c_last ? acc + c : acc;
    case 2: return probe_tree(a, b, probe_k[type]) + c;
    default:
        for (int k = 0; k < probe_k[type]; k++)
            wide = fma((double)a[k], (double)b[k], wide);
        return (float)wide;
    }
}

static inline probe_model probe_other(int kind, int c_last) {
    probe_model m = probe_model();
    m.kind = kind;
    m.c_last = c_last;
    return m;
}

static inline probe_model probe_aligned_sum(int group, int bits, int variant) {
    probe_model m = probe_model();
    m.group = group;
    m.bits = bits;
    m.normalized = variant & 1;
    m.floor = variant >> 1 & 1;
    m.round = variant >> 2 & 1 ? ROUND_NEAREST : ROUND_ZERO;
    m.c_last = variant >> 3 & 1;
    return m;
}

static inline int probe_models(probe_model *m) {
    int n = 0;
    m[n++] = probe_other(1, 0);
    m[n++] = probe_other(1, 1);
    m[n++] = probe_other(2, 0);
    m[n++] = probe_other(3, 0);
    for (int group = 4; group <= 16; group *= 2)
        for (int bits = 22; bits <= 30; bits++)
            for (int variant = 0; variant < 16; variant++)
                m[n++] = probe_aligned_sum(group, bits, variant);
    return n;
}
enum { PROBE_MODELS = 4 + 3 * 9 * 16 };
