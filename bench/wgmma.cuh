/* SPDX-License-Identifier: Apache-2.0
 * wgmma for the probe: m64nNk16 with fp32 accumulators, A from shared memory or registers, B from
 * shared memory, both K-major without swizzle. (PTX ISA, "Asynchronous Warpgroup Level Matrix
 * Multiply-Accumulate Instructions") */
#pragma once
#include <ptx.cuh>

/* Accumulator names in the text and operands in the list, eight at a time. */
#define WG_T0 "%0, %1, %2, %3"
#define WG_T1 WG_T0 ", %4, %5, %6, %7"
#define WG_T2 WG_T1 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WG_T4                                                                        \
    WG_T2 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, " \
          "%30, %31"
#define WG_T8                                                                        \
    WG_T4 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, " \
          "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "   \
          "%60, %61, %62, %63"
#define WG_T16                                                                       \
    WG_T8 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, " \
          "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "   \
          "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "   \
          "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, " \
          "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WG_D0(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WG_D1(i) WG_D0(i), WG_D0(i + 4)
#define WG_D2(i) WG_D1(i), WG_D1(i + 8)
#define WG_D4(i) WG_D2(i), WG_D2(i + 16)
#define WG_D8(i) WG_D4(i), WG_D4(i + 32)
#define WG_D16(i) WG_D8(i), WG_D8(i + 64)

/* Only sm_90a has it; elsewhere nothing calls it. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WG_ASM(...) asm volatile(__VA_ARGS__)
#else
#define WG_ASM(...)
#endif

/* a0 .. a5: the operands' numbers behind the accumulators. */
#define WG_SS(N, type, T, D, a0, a1, a2)                                                     \
    WG_ASM("{.reg .pred p; setp.ne.b32 p, " a2 ", 0;\n"                                \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" T "}, " \
                 a0 ", " a1 ", p, 1, 1, 0, 0;}"                                              \
                 : D                                                                         \
                 : "l"(a), "l"(b), "r"(scale))
#define WG_RS(N, type, T, D, a0, a1, a2, a3, a4, a5)                                         \
    WG_ASM("{.reg .pred p; setp.ne.b32 p, " a5 ", 0;\n"                                \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" T "}, {" \
                 a0 ", " a1 ", " a2 ", " a3 "}, " a4 ", p, 1, 1, 0;}"                        \
                 : D                                                                         \
                 : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "l"(b), "r"(scale))

template <int N, bool HALF> struct wgmma;
#define WG_DEFINE(N, HALF, type, T, D, a0, a1, a2, a3, a4, a5)                               \
    template <> struct wgmma<N, HALF> {                                                      \
        static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b, \
                                                  int scale) {                               \
            WG_SS(N, type, T, D(0), a0, a1, a2);                                             \
        }                                                                                    \
        static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t (&r)[4], \
                                                  uint64_t b, int scale) {                   \
            WG_RS(N, type, T, D(0), a0, a1, a2, a3, a4, a5);                                 \
        }                                                                                    \
    };
#define WG_BOTH(...) WG_BOTH_(__VA_ARGS__)
#define WG_BOTH_(N, T, D, ...)                        \
    WG_DEFINE(N, false, "bf16", T, D, __VA_ARGS__)    \
    WG_DEFINE(N, true, "f16", T, D, __VA_ARGS__)
WG_BOTH(8, WG_T0, WG_D0, "%4", "%5", "%6", "%7", "%8", "%9")
WG_BOTH(16, WG_T1, WG_D1, "%8", "%9", "%10", "%11", "%12", "%13")
WG_BOTH(32, WG_T2, WG_D2, "%16", "%17", "%18", "%19", "%20", "%21")
WG_BOTH(64, WG_T4, WG_D4, "%32", "%33", "%34", "%35", "%36", "%37")
WG_BOTH(128, WG_T8, WG_D8, "%64", "%65", "%66", "%67", "%68", "%69")
WG_BOTH(256, WG_T16, WG_D16, "%128", "%129", "%130", "%131", "%132", "%133")

static __device__ __forceinline__ void wgmma_fence() {
    WG_ASM("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit() {
    WG_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_wait() {
    WG_ASM("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
/* Ordinary stores to shared memory become visible to wgmma. */
static __device__ __forceinline__ void fence_proxy_async() {
    WG_ASM("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Core matrices are 8 rows of 16 bytes; `k` and `rows`: bytes from one to the next along K, and
 * along M or N. */
static __device__ __forceinline__ uint64_t wgmma_descriptor(const void *p, int k, int rows) {
    uint64_t address = WEFT_CU_NS::shared_address(p);
    return (address & 0x3ffff) >> 4 | (uint64_t)(k >> 4) << 16 | (uint64_t)(rows >> 4) << 32;
}
