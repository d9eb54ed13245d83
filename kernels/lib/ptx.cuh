/* SPDX-License-Identifier: Apache-2.0
 * PTX by name: the only inline assembly. Each wrapper names its section of the PTX ISA and has a
 * twin in kernels/emu/ptx.cuh. Shared addresses are generic pointers here. */
#pragma once
#include <launch.cuh>

namespace WEFT_CU_NS {

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- Data Movement and Conversion Instructions: cvt ---- */

__device__ __forceinline__ uint16_t cvt_bf16_f32(float x) {
    uint16_t d;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(d) : "f"(x));
    return d;
}
__device__ __forceinline__ uint16_t cvt_f16_f32(float x) {
    uint16_t d;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(d) : "f"(x));
    return d;
}
__device__ __forceinline__ float cvt_f32_f16(uint16_t x) {
    float d;
    asm("cvt.f32.f16 %0, %1;" : "=f"(d) : "h"(x));
    return d;
}
/* Two at once: lo in the low half. */
__device__ __forceinline__ uint32_t cvt_bf16x2_f32(float lo, float hi) {
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}
__device__ __forceinline__ uint32_t cvt_f16x2_f32(float lo, float hi) {
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}
/* To nearest, ties away from zero: the only rounding tf32 has before sm_90. */
__device__ __forceinline__ uint32_t cvt_tf32_f32(float x) {
    uint32_t d;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(d) : "f"(x));
    return d;
}
/* To integers: nearest even, towards zero, down, up; out of range saturates. */
__device__ __forceinline__ int32_t cvt_rni_s32_f32(float x) {
    int32_t d;
    asm("cvt.rni.s32.f32 %0, %1;" : "=r"(d) : "f"(x));
    return d;
}
__device__ __forceinline__ int32_t cvt_rzi_s32_f32(float x) {
    int32_t d;
    asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(d) : "f"(x));
    return d;
}
__device__ __forceinline__ int32_t cvt_rmi_s32_f32(float x) {
    int32_t d;
    asm("cvt.rmi.s32.f32 %0, %1;" : "=r"(d) : "f"(x));
    return d;
}
__device__ __forceinline__ int32_t cvt_rpi_s32_f32(float x) {
    int32_t d;
    asm("cvt.rpi.s32.f32 %0, %1;" : "=r"(d) : "f"(x));
    return d;
}
/* Nearest even, then clamped to [-128, 127]. */
__device__ __forceinline__ int32_t cvt_rni_sat_s8_f32(float x) {
    int32_t d;
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(d) : "f"(x));
    return d;
}

/* ---- Floating-Point Instructions: ex2 ---- */

/* 2^x within 2^-22 of it; exact at 0, 0 at -infinity, denormals flushed. Sixteen a clock and SM. */
__device__ __forceinline__ float ex2_approx_ftz_f32(float x) {
    float d;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

/* ---- Data Movement and Conversion Instructions: prmt ---- */

/* Byte i is the one of a (0 to 3) or b (4 to 7) that hexadecimal digit i of `pick` names. */
__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t pick) {
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(pick));
    return d;
}

/* ---- Half Precision Floating Point Instructions: fma ---- */

/* a b + c, two at once. */
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
__device__ __forceinline__ uint32_t fma_f16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

/* ---- Data Movement: cp.async, cp.async.commit_group, cp.async.wait_group ---- */

/* 16 bytes of which `n` are read and the rest are zero; past L1. */
__device__ __forceinline__ void cp_async16(void *dst, const void *src, int n = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(n)
                 : "memory");
}
/* The same for what is read once: the first to leave L2. Where dst is a register plus the uniform
 * base of shared memory, ptxas 13.0 encodes for sm_90 a form with a descriptor in UR1, an odd
 * register that nothing wrote: an illegal instruction. scripts/sass-gate looks for it. */
__device__ __forceinline__ void cp_async16_once(void *dst, const void *src, int n = 16) {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                     shared_address(dst)),
                 "l"(src), "r"(n), "l"(policy)
                 : "memory");
}
__device__ __forceinline__ void cp_async8(void *dst, const void *src, int n = 8) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(n)
                 : "memory");
}
__device__ __forceinline__ void cp_async4(void *dst, const void *src, int n = 4) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(n)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All of this thread's groups but the N youngest are done. */
template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
__device__ __forceinline__ void cp_async_wait_all() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ---- Special Registers: %tid, %globaltimer ---- */

/* threadIdx.x, read where it is asked for: what is made of it is not kept meanwhile. */
__device__ __forceinline__ uint32_t tid_again() {
    uint32_t d;
    asm volatile("mov.u32 %0, %tid.x;" : "=r"(d)::"memory");
    return d;
}

/* Nanoseconds, the same for all SMs; goes on in steps of up to some microseconds. */
__device__ __forceinline__ uint64_t globaltimer() {
    uint64_t d;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(d)::"memory");
    return d;
}

/* ---- Memory Consistency Model: what GPUs tell each other ---- */

/* What was written before st_release_sys, by whoever this thread has met at a barrier, is seen by
 * those behind the ld_acquire_sys that reads it, on every GPU. */
__device__ __forceinline__ uint32_t ld_acquire_sys(const uint32_t *p) {
    uint32_t d;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(d) : "l"(p) : "memory");
    return d;
}
__device__ __forceinline__ void st_release_sys(uint32_t *p, uint32_t v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
/* Between two looks at what another GPU will write. */
__device__ __forceinline__ void spin_pause() {
    __nanosleep(32);
}
/* Memory that GPUs share, which is no operand of a step. */
__device__ __forceinline__ uint32_t ld_peer(const uint32_t *p) {
    uint32_t d;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(d) : "l"(p) : "memory");
    return d;
}
__device__ __forceinline__ uint4 ld_peer(const uint4 *p) {
    uint4 d;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w)
                 : "l"(p)
                 : "memory");
    return d;
}
__device__ __forceinline__ void st_peer(uint32_t *p, uint32_t v) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void st_peer(uint4 *p, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

/* ---- Data Movement: prefetch ---- */

__device__ __forceinline__ void prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* ---- Warp-level Matrix Load Instruction: ldmatrix ---- */

/* 8x8 matrices of 16-bit elements; lanes 8i .. 8i+7 point at the rows of matrix i. */
__device__ __forceinline__ void ldmatrix_x1(uint32_t (&r)[1], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* ---- Warp-level Matrix Multiply-and-Accumulate Instructions: mma ---- */

/* d = a b + c: a 16x16 by rows, b 16x8 by columns, d and c fp32 16x8. */
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2], const int32_t (&c)[4]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%10, %11, %12, %13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
          "r"(c[2]), "r"(c[3]));
}

} // namespace WEFT_CU_NS
