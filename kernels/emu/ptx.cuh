/* SPDX-License-Identifier: Apache-2.0
 * Twins of kernels/lib/ptx.cuh, from the PTX ISA's definitions. Sums inside one mma are taken in
 * fp32 with k ascending: the ISA leaves their order open. */
#pragma once
#include "kernels/emu/warp.h"
#include <launch.cuh>
#include <unistd.h>

namespace WEFT_CU_NS {

/* ---- cvt: a NaN becomes the canonical one ---- */

inline uint16_t cvt_bf16_f32(float x) {
    return x != x ? (uint16_t)0x7fff : weft_f32_to_bf16(x);
}
inline uint16_t cvt_f16_f32(float x) {
    return x != x ? (uint16_t)0x7fff : weft_f32_to_f16(x);
}
inline float cvt_f32_f16(uint16_t x) {
    return weft_f16_to_f32(x);
}
inline uint32_t cvt_bf16x2_f32(float lo, float hi) {
    return cvt_bf16_f32(lo) | (uint32_t)cvt_bf16_f32(hi) << 16;
}
inline uint32_t cvt_f16x2_f32(float lo, float hi) {
    return cvt_f16_f32(lo) | (uint32_t)cvt_f16_f32(hi) << 16;
}
inline uint32_t cvt_tf32_f32(float x) {
    uint32_t u = weft_f32_bits(x);
    return x != x ? 0x7fffffffu : (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
}
inline int32_t cvt_clamp_s32(float x, float least, float most) {
    if (x != x)
        return 0;
    return x >= most    ? (most == 127.0f ? 127 : INT32_MAX)
           : x <= least ? (int32_t)least
                        : (int32_t)x;
}
inline int32_t cvt_rni_s32_f32(float x) {
    return cvt_clamp_s32(rintf(x), -2147483648.0f, 2147483648.0f);
}
inline int32_t cvt_rzi_s32_f32(float x) {
    return cvt_clamp_s32(truncf(x), -2147483648.0f, 2147483648.0f);
}
inline int32_t cvt_rmi_s32_f32(float x) {
    return cvt_clamp_s32(floorf(x), -2147483648.0f, 2147483648.0f);
}
inline int32_t cvt_rpi_s32_f32(float x) {
    return cvt_clamp_s32(ceilf(x), -2147483648.0f, 2147483648.0f);
}
inline int32_t cvt_rni_sat_s8_f32(float x) {
    return cvt_clamp_s32(rintf(x), -128.0f, 127.0f);
}

/* ---- %tid, %globaltimer ---- */

inline uint32_t tid_again() {
    return threadIdx.x;
}

inline uint64_t globaltimer() {
    return ::emu::nanoseconds();
}

/* ---- what GPUs tell each other: their ranks are threads of this process ---- */

inline uint32_t ld_acquire_sys(const uint32_t *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
inline void st_release_sys(uint32_t *p, uint32_t v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
inline void spin_pause() {
    usleep(10);
}
template <class T> T ld_peer(const T *p, EMU_AT) {
    if ((uintptr_t)p % sizeof(T))
        (::emu::fail)(at, "misaligned: %zu bytes of a peer's memory", sizeof(T));
    return *p;
}
template <class T> void st_peer(T *p, T v, EMU_AT) {
    if ((uintptr_t)p % sizeof(T))
        (::emu::fail)(at, "misaligned: %zu bytes of a peer's memory", sizeof(T));
    *p = v;
}

/* ---- ex2: not the hardware's bits, but as near to 2^x ---- */

inline float ex2_approx_ftz_f32(float x) {
    float c = x < -200.0f ? -200.0f : x > 200.0f ? 200.0f : x, n = rintf(c);
    float y = ldexpf(weft_expf((c - n) * 0.693147181f), x != x ? 0 : (int)n);
    return fabsf(y) < 1.17549435e-38f ? 0.0f : y;
}

/* ---- prmt ---- */

inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t pick) {
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; i++)
        d |= (uint32_t)(both >> 8 * (pick >> 4 * i & 7) & 255) << 8 * i;
    return d;
}

/* ---- fma: the product and the sum are exact in fp64 for 16-bit operands of like size ---- */

inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        double x = weft_bf16_to_f32((uint16_t)(a >> i)), y = weft_bf16_to_f32((uint16_t)(b >> i));
        double sum = x * y + (double)weft_bf16_to_f32((uint16_t)(c >> i));
        d |= (uint32_t)cvt_bf16_f32((float)sum) << i;
    }
    return d;
}
inline uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        double x = weft_f16_to_f32((uint16_t)(a >> i)), y = weft_f16_to_f32((uint16_t)(b >> i));
        double sum = x * y + (double)weft_f16_to_f32((uint16_t)(c >> i));
        d |= (uint32_t)cvt_f16_f32((float)sum) << i;
    }
    return d;
}

/* ---- cp.async: done as late as the program allows ---- */

inline void cp_async16(void *dst, const void *src, int n = 16, EMU_AT) {
    ::emu::async_copy(dst, src, 16, n, at);
}
inline void cp_async16_once(void *dst, const void *src, int n = 16, EMU_AT) {
    ::emu::async_copy(dst, src, 16, n, at);
}
inline void cp_async8(void *dst, const void *src, int n = 8, EMU_AT) {
    ::emu::async_copy(dst, src, 8, n, at);
}
inline void cp_async4(void *dst, const void *src, int n = 4, EMU_AT) {
    ::emu::async_copy(dst, src, 4, n, at);
}
inline void cp_async_commit() {
    ::emu::async_commit();
}
template <int N> void cp_async_wait(EMU_AT) {
    ::emu::async_wait(N, at);
}
inline void cp_async_wait_all(EMU_AT) {
    ::emu::async_wait(-1, at);
}

inline void prefetch_l2(const void *p) {
    (void)p;
}

/* ---- ldmatrix ---- */

inline void ldmatrix_x1(uint32_t (&r)[1], const void *row, EMU_AT) {
    ::emu::ldmatrix(r, row, 1, false, at);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void *row, EMU_AT) {
    ::emu::ldmatrix(r, row, 2, false, at);
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, EMU_AT) {
    ::emu::ldmatrix(r, row, 4, false, at);
}
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row, EMU_AT) {
    ::emu::ldmatrix(r, row, 1, true, at);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, EMU_AT) {
    ::emu::ldmatrix(r, row, 2, true, at);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, EMU_AT) {
    ::emu::ldmatrix(r, row, 4, true, at);
}

/* ---- mma ---- */

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              const float (&c)[4], EMU_AT) {
    ::emu::mma(::emu::MMA_BF16, d, a, b, c, at);
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             const float (&c)[4], EMU_AT) {
    ::emu::mma(::emu::MMA_F16, d, a, b, c, at);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             const float (&c)[4], EMU_AT) {
    ::emu::mma(::emu::MMA_TF32, d, a, b, c, at);
}
inline void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                            const int32_t (&c)[4], EMU_AT) {
    ::emu::mma(::emu::MMA_S8, d, a, b, c, at);
}

} // namespace WEFT_CU_NS
