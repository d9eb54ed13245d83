/* SPDX-License-Identifier: Apache-2.0
 * PTX by name, what sm_90 adds. Twins in kernels/emu/ptx_sm90.cuh. */
#pragma once
#include <ptx.cuh>

namespace WEFT_CU_NS {

/* ---- Parallel Synchronization: membar, fence ---- */

/* What this thread wrote to shared memory, wgmma may read once a barrier is passed. */
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- Asynchronous Warpgroup Level Matrix Instructions: wgmma ---- */

/* K-major rows of 128, 64 or 32 bytes, swizzled, eight after the other; 16 of k further on: + 2.
 * Fields: address, distance of eights of rows, layout ("Matrix Descriptor Format"). */
__device__ __forceinline__ uint64_t wgmma_descriptor(const void *p, int row_bytes) {
    uint64_t mode = row_bytes == 128 ? 1 : row_bytes == 64 ? 2 : 3;
    return (shared_address(p) & 0x3ffff) >> 4 | 1u << 16 | (uint64_t)(8 * row_bytes >> 4) << 32 |
           mode << 62;
}

#define WGMMA_T4 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_T32 \
    WGMMA_T4 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_T64 \
    WGMMA_T32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
              "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
              "%62, %63"
#define WGMMA_T128 \
    WGMMA_T64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, " \
              "%79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, " \
              "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, " \
              "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, " \
              "%121, %122, %123, %124, %125, %126, %127"
#define WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_D8(i) WGMMA_D4(i), WGMMA_D4(i + 4)
#define WGMMA_D16(i) WGMMA_D8(i), WGMMA_D8(i + 8)
#define WGMMA_D32(i) WGMMA_D16(i), WGMMA_D16(i + 16)
#define WGMMA_D64(i) WGMMA_D32(i), WGMMA_D32(i + 32)
#define WGMMA_D128(i) WGMMA_D64(i), WGMMA_D64(i + 64)

/* d = a b + d, or a b unless `add`: a is 64 rows, b N rows, 16 of k each; d[4j + i] of a thread are
 * rows g, g, g + 8, g + 8 of its warp's 16 and columns 8j + 2p, 8j + 2p + 1, again, as of mma. */
template <int N>
__device__ __forceinline__ void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int add);
template <int N>
__device__ __forceinline__ void wgmma_f16(float (&d)[N / 2], uint64_t a, uint64_t b, int add);

/* a, b, p: the numbers of the operands behind the accumulators. */
#define WGMMA_DEFINE(type, N, T, D, pa, pb, pp) \
    template <> \
    __device__ __forceinline__ void wgmma_##type<N>(float(&d)[N / 2], uint64_t a, uint64_t b, \
                                                    int add) { \
        asm volatile("{.reg .pred p; setp.ne.b32 p, " pp ", 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." #type " {" T \
                     "}, " pa ", " pb ", p, 1, 1, 0, 0;}" \
                     : D \
                     : "l"(a), "l"(b), "r"(add) \
                     : "memory"); \
    }
WGMMA_DEFINE(bf16, 64, WGMMA_T32, WGMMA_D32(0), "%32", "%33", "%34")
WGMMA_DEFINE(bf16, 128, WGMMA_T64, WGMMA_D64(0), "%64", "%65", "%66")
WGMMA_DEFINE(bf16, 256, WGMMA_T128, WGMMA_D128(0), "%128", "%129", "%130")
WGMMA_DEFINE(f16, 64, WGMMA_T32, WGMMA_D32(0), "%32", "%33", "%34")
WGMMA_DEFINE(f16, 128, WGMMA_T64, WGMMA_D64(0), "%64", "%65", "%66")
WGMMA_DEFINE(f16, 256, WGMMA_T128, WGMMA_D128(0), "%128", "%129", "%130")

/* Before the first product of a group: accumulators and earlier groups are in order. */
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All of this warpgroup's groups but the GROUPS youngest are done. */
template <int GROUPS> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}
/* No use of the accumulators moves past this line, which the compiler cannot know of a wait. */
template <int N> __device__ __forceinline__ void wgmma_hold(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* ---- Special Registers: %cluster_ctarank, %cluster_nctarank ---- */

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned d;
    asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(d));
    return d;
}
__device__ __forceinline__ unsigned cluster_size() {
    unsigned d;
    asm volatile("mov.u32 %0, %cluster_nctarank;" : "=r"(d));
    return d;
}

/* ---- Parallel Synchronization: barrier.cluster ---- */

/* All threads of the cluster. Another block's shared memory is there after the first of these, and
 * gone with its last thread: one more must be behind the last access. */
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* ---- Data Movement: mapa, ld and st of .shared::cluster ---- */

/* The place of p, an address of this block's, in block `rank`. */
__device__ __forceinline__ uint32_t cluster_address(const void *p, unsigned rank) {
    uint32_t d;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(d) : "r"(shared_address(p)), "r"(rank));
    return d;
}
__device__ __forceinline__ uint32_t ld_cluster(const uint32_t *p, unsigned rank) {
    uint32_t v;
    asm volatile("ld.shared::cluster.u32 %0, [%1];"
                 : "=r"(v)
                 : "r"(cluster_address(p, rank))
                 : "memory");
    return v;
}
__device__ __forceinline__ float ld_cluster(const float *p, unsigned rank) {
    float v;
    asm volatile("ld.shared::cluster.f32 %0, [%1];"
                 : "=f"(v)
                 : "r"(cluster_address(p, rank))
                 : "memory");
    return v;
}
__device__ __forceinline__ uint4 ld_cluster(const uint4 *p, unsigned rank) {
    uint4 v;
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(cluster_address(p, rank))
                 : "memory");
    return v;
}
__device__ __forceinline__ void st_cluster(uint32_t *p, unsigned rank, uint32_t v) {
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(cluster_address(p, rank)), "r"(v)
                 : "memory");
}
__device__ __forceinline__ void st_cluster(float *p, unsigned rank, float v) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(cluster_address(p, rank)), "f"(v)
                 : "memory");
}
__device__ __forceinline__ void st_cluster(uint4 *p, unsigned rank, uint4 v) {
    asm volatile(
        "st.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(cluster_address(p, rank)),
        "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
        : "memory");
}

/* ---- Warp-level Matrix Store Instruction: stmatrix ---- */

__device__ __forceinline__ void stmatrix_x2(void *row, const uint32_t (&r)[2]) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
        "r"(r[0]), "r"(r[1])
        : "memory");
}
__device__ __forceinline__ void stmatrix_x4(void *row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
__device__ __forceinline__ void stmatrix_x4_trans(void *row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

} // namespace WEFT_CU_NS
