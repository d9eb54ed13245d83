/* SPDX-License-Identifier: Apache-2.0
 * Twins of kernels/lib/ptx_sm90.cuh. */
#pragma once
#include <ptx.cuh>

namespace WEFT_CU_NS {

/* ---- fence.proxy.async ---- */

inline void fence_proxy_async() {
    ::emu::fence_proxy_async();
}

/* ---- wgmma: done when it is waited for ---- */

inline uint64_t wgmma_descriptor(const void *p, int row_bytes, EMU_AT) {
    return ::emu::wgmma_descriptor(p, row_bytes, at);
}
template <int N> void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int add, EMU_AT) {
    ::emu::wgmma(::emu::MMA_BF16, d, N / 2, a, b, add, at);
}
template <int N> void wgmma_f16(float (&d)[N / 2], uint64_t a, uint64_t b, int add, EMU_AT) {
    ::emu::wgmma(::emu::MMA_F16, d, N / 2, a, b, add, at);
}
inline void wgmma_fence(EMU_AT) {
    ::emu::wgmma_fence(at);
}
inline void wgmma_commit(EMU_AT) {
    ::emu::wgmma_commit(at);
}
template <int GROUPS> void wgmma_wait(EMU_AT) {
    ::emu::wgmma_wait(GROUPS, at);
}
template <int N> void wgmma_hold(float (&)[N]) {
}

/* ---- clusters ---- */

inline unsigned cluster_rank() {
    return ::emu::cluster_rank();
}
inline unsigned cluster_size() {
    return ::emu::cluster_size();
}
inline void cluster_sync(EMU_AT) {
    ::emu::barrier(::emu::BARRIER_CLUSTER, 0, at);
}
template <class T> T ld_cluster(const T *p, unsigned rank, EMU_AT) {
    return *(const T *)::emu::cluster_access(p, rank, sizeof(T), alignof(T), ::emu::LOAD, at);
}
template <class T> void st_cluster(T *p, unsigned rank, T v, EMU_AT) {
    *(T *)::emu::cluster_access(p, rank, sizeof(T), alignof(T), ::emu::STORE, at) = v;
}

/* ---- stmatrix ---- */

inline void stmatrix_x2(void *row, const uint32_t (&r)[2], EMU_AT) {
    ::emu::stmatrix(row, r, 2, false, at);
}
inline void stmatrix_x4(void *row, const uint32_t (&r)[4], EMU_AT) {
    ::emu::stmatrix(row, r, 4, false, at);
}
inline void stmatrix_x4_trans(void *row, const uint32_t (&r)[4], EMU_AT) {
    ::emu::stmatrix(row, r, 4, true, at);
}

} // namespace WEFT_CU_NS
