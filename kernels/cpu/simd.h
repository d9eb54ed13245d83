/* SPDX-License-Identifier: Apache-2.0
 * The virtual vector of the LANE16 class: sixteen fp32 lanes, the same bits on every machine. Each
 * source file here is compiled once per level (WEFT_CPU_LEVEL); only the files below know which. */
#pragma once
#include "weft/math.h"

#define V16 static inline __attribute__((always_inline, unused))

/* Full unrolling keeps small arrays of vectors in registers. */
#if defined(__clang__)
#define WEFT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define WEFT_UNROLL _Pragma("GCC unroll 32")
#endif

/* The build names the level; who reads one file alone gets that of the compiler's flags. */
#if defined(WEFT_CPU_LEVEL)
#elif defined(__AVX512BF16__)
#define WEFT_CPU_LEVEL 3
#elif defined(__AVX512DQ__)
#define WEFT_CPU_LEVEL 2
#elif defined(__AVX2__)
#define WEFT_CPU_LEVEL 1
#else
#define WEFT_CPU_LEVEL 0
#endif

#if WEFT_CPU_LEVEL == 0
#include "simd_portable.h"
#elif WEFT_CPU_LEVEL == 1
#include "simd_avx2.h"
#else
#include "simd_avx512.h"
#endif

V16 v16 v16_zero(void) {
    return v16_set1(0.0f);
}

/* n lanes from p[i..], the others +0. The dtype is loop invariant: the branch costs nothing. */
V16 v16 v16_get(int dtype, const void *p, int64_t i, int n) {
    if (dtype == WEFT_F32)
        return n == 16 ? v16_load((const float *)p + i) : v16_load_n((const float *)p + i, n);
    if (dtype == WEFT_I8)
        return n == 16 ? v16_load_i8((const int8_t *)p + i)
                       : v16_load_i8_n((const int8_t *)p + i, n);
    const uint16_t *h = (const uint16_t *)p + i;
    if (dtype == WEFT_BF16)
        return n == 16 ? v16_load_bf16(h) : v16_load_bf16_n(h, n);
    return n == 16 ? v16_load_f16(h) : v16_load_f16_n(h, n);
}

/* n = 16: constant dtype, for inner loops. */
V16 v16 v16_get16(int dtype, const void *p) {
    if (dtype == WEFT_F32)
        return v16_load((const float *)p);
    if (dtype == WEFT_I8)
        return v16_load_i8((const int8_t *)p);
    return dtype == WEFT_BF16 ? v16_load_bf16((const uint16_t *)p)
                              : v16_load_f16((const uint16_t *)p);
}

/* Rounds to the storage type, once. */
V16 void v16_put(int dtype, void *p, int64_t i, int n, v16 v) {
    if (dtype == WEFT_F32) {
        if (n == 16)
            v16_store((float *)p + i, v);
        else
            v16_store_n((float *)p + i, n, v);
        return;
    }
    uint16_t half[16];
    uint16_t *h = (uint16_t *)p + i, *to = n == 16 ? h : half;
    if (dtype == WEFT_BF16)
        v16_store_bf16(to, v);
    else
        v16_store_f16(to, v);
    if (n < 16)
        memcpy(h, half, (size_t)n * 2);
}

/* What a store and a load would leave: the rounding point between two fused ops. */
V16 v16 v16_round(int dtype, v16 v) {
    if (dtype == WEFT_F32)
        return v;
    uint16_t h[16];
    v16_put(dtype, h, 0, 16, v);
    return v16_get16(dtype, h);
}

/* weft_expf, lane by lane the same bits. */
V16 v16 v16_exp(v16 x) {
    v16 c = v16_min(v16_set1(89.0f), v16_max(v16_set1(-104.0f), x));
    v16 magic = v16_set1(12582912.0f);
    v16 n = v16_sub(v16_fma(c, v16_set1(1.44269504088896341f), magic), magic);
    v16 r = v16_fma(n, v16_set1(-0.693359375f), c);
    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    v16 p = v16_set1(1.9875691500e-4f);
    p = v16_fma(p, r, v16_set1(1.3981999507e-3f));
    p = v16_fma(p, r, v16_set1(8.3334519073e-3f));
    p = v16_fma(p, r, v16_set1(4.1665795894e-2f));
    p = v16_fma(p, r, v16_set1(1.6666665459e-1f));
    p = v16_fma(p, r, v16_set1(5.0000001201e-1f));
    p = v16_add(v16_fma(p, v16_mul(r, r), r), v16_set1(1.0f));
    return v16_scale2(p, n);
}

/* The fixed tree: lane l takes l + 8, then l + 4, l + 2, l + 1. */
V16 float v16_sum(v16 v) {
    return v16_first(v16_fold1(v16_fold2(v16_fold4(v16_fold8(v)))));
}
