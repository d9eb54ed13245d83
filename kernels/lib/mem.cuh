/* SPDX-License-Identifier: Apache-2.0
 * Loads and stores by name, so that the emulator sees each of them (kernels/emu/mem.cuh). T is a
 * plain type as wide as its alignment, at most 16 bytes. */
#pragma once
#include <launch.cuh>
#ifndef __CUDACC__
#error "<mem.cuh>: by this name the emulator has its own, which sees each access"
#endif

namespace WEFT_CU_NS {

template <class T> __device__ __forceinline__ T ld_global(const T *p) {
    return *p;
}

/* Through the read-only path: memory that no thread of the launch writes. */
template <class T> __device__ __forceinline__ T ld_const(const T *p) {
    return *p;
}
__device__ __forceinline__ uint4 ld_const(const uint4 *p) {
    return __ldg(p);
}
__device__ __forceinline__ int32_t ld_const(const int32_t *p) {
    return __ldg(p);
}
__device__ __forceinline__ float ld_const(const float *p) {
    return __ldg(p);
}

template <class T> __device__ __forceinline__ void st_global(T *p, T v) {
    *p = v;
}
/* By the instruction's name: of 16 bytes that it has put together itself the optimizer makes four
 * stores. */
__device__ __forceinline__ void st_global(uint4 *p, uint4 v) {
    __stwb(p, v);
}
template <class T> __device__ __forceinline__ T ld_shared(const T *p) {
    return *p;
}
template <class T> __device__ __forceinline__ void st_shared(T *p, T v) {
    *p = v;
}

} // namespace WEFT_CU_NS
