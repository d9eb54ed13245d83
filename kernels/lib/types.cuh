/* SPDX-License-Identifier: Apache-2.0
 * Storage types and their conversions, with the rounding of the hardware's cvt. */
#pragma once
#include <ptx.cuh>

namespace WEFT_CU_NS {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
struct e4m3 { /* sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinity, NaN is s.1111.111 */
    uint8_t bits;
};
struct e5m2 { /* sign, 5 exponent bits (bias 15), 2 mantissa bits: fp16 cut short */
    uint8_t bits;
};

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return weft_bf16_to_f32(x.bits);
}
__device__ __forceinline__ float to_float(f16 x) {
    return cvt_f32_f16(x.bits);
}
__device__ __forceinline__ float to_float(e5m2 x) {
    return cvt_f32_f16((uint16_t)(x.bits << 8));
}
__device__ __forceinline__ float to_float(e4m3 x) {
    uint32_t sign = (uint32_t)(x.bits & 0x80u) << 24, exp = x.bits >> 3 & 15u, man = x.bits & 7u;
    if (exp == 15 && man == 7)
        return weft_bits_f32(sign | 0x7fc00000u);
    float small = (float)man * 0.001953125f; /* 2^-9 */
    float v = exp ? weft_bits_f32((exp + 120u) << 23 | man << 20) : small;
    return weft_bits_f32(weft_f32_bits(v) | sign);
}

/* |x| to `man` mantissa bits with exponents from `least` up, to nearest even: a count of the
 * smallest denormal's steps, which is the bit pattern below the sign. */
__device__ __forceinline__ uint32_t round_bits(uint32_t a, int man, int least) {
    int exp = (int)(a >> 23) - 127, shift = 23 - man + (exp < least ? least - exp : 0);
    if (shift > 24)
        return 0;
    uint32_t m = (a & 0x7fffffu) | 0x800000u, half = 1u << (shift - 1);
    uint32_t q = m >> shift, r = m & ((1u << shift) - 1u);
    q += r > half || (r == half && (q & 1u));
    return exp < least ? q : q + ((uint32_t)(exp - least) << man);
}

template <class T> __device__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return bf16{cvt_bf16_f32(x)};
}
template <> __device__ __forceinline__ f16 from_float<f16>(float x) {
    return f16{cvt_f16_f32(x)};
}
/* satfinite: what is too large becomes the largest number; NaN stays NaN. */
template <> __device__ __forceinline__ e4m3 from_float<e4m3>(float x) {
    uint32_t u = weft_f32_bits(x), a = u & 0x7fffffffu, q = a ? round_bits(a, 3, -6) : 0;
    q = a > 0x7f800000u ? 0x7fu : a == 0x7f800000u || q > 0x7eu ? 0x7eu : q;
    return e4m3{(uint8_t)((u >> 24 & 0x80u) | q)};
}
template <> __device__ __forceinline__ e5m2 from_float<e5m2>(float x) {
    uint32_t u = weft_f32_bits(x), a = u & 0x7fffffffu, q = a ? round_bits(a, 2, -14) : 0;
    q = a > 0x7f800000u ? 0x7fu : a == 0x7f800000u || q > 0x7bu ? 0x7bu : q;
    return e5m2{(uint8_t)((u >> 24 & 0x80u) | q)};
}

/* As storage of type `dtype` (fp32, fp16, bf16) holds it. */
__device__ __forceinline__ float round_as(int dtype, float x) {
    if (dtype == WEFT_BF16)
        return to_float(from_float<bf16>(x));
    return dtype == WEFT_F16 ? to_float(from_float<f16>(x)) : x;
}

} // namespace WEFT_CU_NS
