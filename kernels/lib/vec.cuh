/* SPDX-License-Identifier: Apache-2.0
 * Eight elements at a time. Which elements a thread holds depends on their index alone; how they
 * are fetched (16 bytes at once where the address allows it, else one by one) does not change a
 * bit. */
#pragma once
#include "kernels/lib/types.cuh"
#include <mem.cuh>

namespace WEFT_CU_NS {

enum { CHUNK = 8 };

template <class T> __device__ __forceinline__ bool is_wide(const T *p, int n) {
    return n == CHUNK && (size_t)p % 16 == 0;
}

/* Bits of eight elements, for ops that move them: as 32-bit words. */
template <class T> struct packed {
    enum { WORDS = CHUNK * sizeof(T) / 4 };
    uint32_t w[WORDS];
};

template <class T> __device__ __forceinline__ void unpack(const packed<T> &q, T (&e)[CHUNK]) {
    memcpy(e, q.w, sizeof e);
}

/* Elements past n are zero. `constant`: no thread of the launch writes them. */
template <bool constant, class T>
__device__ __forceinline__ void load8_as(const T *p, int n, T (&e)[CHUNK] WEFT_AT) {
    if (is_wide(p, n)) {
#pragma unroll
        for (int i = 0; i < (int)sizeof e / 16; i++) {
            const uint4 *from = (const uint4 *)p + i;
            uint4 q = constant ? ld_const(from WEFT_PASS) : ld_global(from WEFT_PASS);
            memcpy((char *)e + 16 * i, &q, 16);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        e[i] = T{};
        if (i < n)
            e[i] = constant ? ld_const(p + i WEFT_PASS) : ld_global(p + i WEFT_PASS);
    }
}

template <class T>
__device__ __forceinline__ void store8_as(T *p, int n, const T (&e)[CHUNK] WEFT_AT) {
    if (is_wide(p, n)) {
#pragma unroll
        for (int i = 0; i < (int)sizeof e / 16; i++) {
            uint4 q;
            memcpy(&q, (const char *)e + 16 * i, 16);
            st_global((uint4 *)p + i, q WEFT_PASS);
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (i < n)
            st_global(p + i, e[i] WEFT_PASS);
}

template <class T>
__device__ __forceinline__ void load8_floats(const T *p, int n, float (&v)[CHUNK] WEFT_AT) {
    T e[CHUNK];
    load8_as<true>(p, n, e WEFT_PASS);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = to_float(e[i]);
}

template <class T>
__device__ __forceinline__ void store8_floats(T *p, int n, const float (&v)[CHUNK] WEFT_AT) {
    T e[CHUNK];
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        e[i] = from_float<T>(v[i]);
    store8_as(p, n, e WEFT_PASS);
}

/* Elements off .. off + n of a float tensor the kernel only reads. */
__device__ __forceinline__ void load8(const weft_tensor &t, int64_t off, int n,
                                      float (&v)[CHUNK] WEFT_AT) {
    if (t.dtype == WEFT_F32)
        load8_floats((const float *)t.data + off, n, v WEFT_PASS);
    else if (t.dtype == WEFT_BF16)
        load8_floats((const bf16 *)t.data + off, n, v WEFT_PASS);
    else
        load8_floats((const f16 *)t.data + off, n, v WEFT_PASS);
}

__device__ __forceinline__ void store8(const weft_tensor &t, int64_t off, int n,
                                       const float (&v)[CHUNK] WEFT_AT) {
    if (t.dtype == WEFT_F32)
        store8_floats((float *)t.data + off, n, v WEFT_PASS);
    else if (t.dtype == WEFT_BF16)
        store8_floats((bf16 *)t.data + off, n, v WEFT_PASS);
    else
        store8_floats((f16 *)t.data + off, n, v WEFT_PASS);
}

/* One element, for operands of any stride. */
__device__ __forceinline__ float load1(const weft_tensor &t, int64_t off WEFT_AT) {
    if (t.dtype == WEFT_F32)
        return ld_const((const float *)t.data + off WEFT_PASS);
    if (t.dtype == WEFT_BF16)
        return to_float(ld_const((const bf16 *)t.data + off WEFT_PASS));
    return to_float(ld_const((const f16 *)t.data + off WEFT_PASS));
}

__device__ __forceinline__ void store1(const weft_tensor &t, int64_t off, float v WEFT_AT) {
    if (t.dtype == WEFT_F32)
        st_global((float *)t.data + off, v WEFT_PASS);
    else if (t.dtype == WEFT_BF16)
        st_global((bf16 *)t.data + off, from_float<bf16>(v) WEFT_PASS);
    else
        st_global((f16 *)t.data + off, from_float<f16>(v) WEFT_PASS);
}

__device__ __forceinline__ int32_t load_int(const weft_tensor &t, int64_t off WEFT_AT) {
    return ld_const((const int32_t *)t.data + off WEFT_PASS);
}

} // namespace WEFT_CU_NS
