/* SPDX-License-Identifier: Apache-2.0
 * Element types of tensors, their sizes, and the exact conversions between float, bf16 and fp16.
 * C11, C++17 and device code at once. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Functions of these headers that kernels call on a GPU too. */
#ifdef __CUDACC__
#define WEFT_INLINE static inline __host__ __device__
#else
#define WEFT_INLINE static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The order is part of the plan's text and of checkkernels' replay lines: append, never reorder. */
typedef enum {
    WEFT_F32,
    WEFT_F16,
    WEFT_BF16,
    WEFT_E4M3,
    WEFT_I8,
    WEFT_I4,
    WEFT_NF4,
    WEFT_I32,
    WEFT_I64,
    WEFT_DTYPES
} weft_dtype;

/* Bits of one element; 4 for the packed types. */
WEFT_INLINE int weft_dtype_bits(int dtype) {
    static const uint8_t bits[WEFT_DTYPES] = {32, 16, 16, 8, 8, 4, 4, 32, 64};
    return bits[dtype];
}

/* Bytes of n elements of one contiguous row; a packed row is rounded up to whole bytes. */
WEFT_INLINE int64_t weft_dtype_bytes(int dtype, int64_t n) {
    return (n * weft_dtype_bits(dtype) + 7) / 8;
}

static inline const char *weft_dtype_name(int dtype) {
    static const char *const name[WEFT_DTYPES] = {"fp32", "fp16", "bf16", "fp8", "int8",
                                                  "int4", "nf4",  "i32",  "i64"};
    return dtype >= 0 && dtype < WEFT_DTYPES ? name[dtype] : "?";
}

WEFT_INLINE uint32_t weft_f32_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

WEFT_INLINE float weft_bits_f32(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

WEFT_INLINE float weft_bf16_to_f32(uint16_t h) {
    return weft_bits_f32((uint32_t)h << 16);
}

/* Round to nearest even; a NaN stays a NaN (quiet, payload cut). */
WEFT_INLINE uint16_t weft_f32_to_bf16(float x) {
    uint32_t u = weft_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

WEFT_INLINE float weft_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu;
    if (exp == 31)
        return weft_bits_f32(sign | 0x7f800000u | (man ? 0x400000u | (man << 13) : 0));
    if (exp)
        return weft_bits_f32(sign | ((exp + 112u) << 23) | (man << 13));
    float tiny = (float)man * 5.9604644775390625e-8f; /* 2^-24: exact */
    return sign ? -tiny : tiny;
}

/* Round to nearest even, overflow to infinity, denormals kept: what VCVTPS2PH and cvt.rn.f16 do. */
WEFT_INLINE uint16_t weft_f32_to_f16(float x) {
    uint32_t u = weft_f32_bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: an integer count of 2^-24 */
        uint32_t shift = 126u - (a >> 23), man = (a & 0x7fffffu) | 0x800000u;
        if (shift > 24)
            return (uint16_t)sign;
        uint32_t half = 1u << (shift - 1), q = man >> shift, r = man & ((1u << shift) - 1u);
        q += r > half || (r == half && (q & 1u));
        return (uint16_t)(sign | q);
    }
    uint32_t r = a - 0x38000000u;
    return (uint16_t)(sign | ((r + 0xfffu + ((r >> 13) & 1u)) >> 13));
}

#ifdef __cplusplus
}
#endif
