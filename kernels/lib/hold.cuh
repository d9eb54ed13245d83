/* SPDX-License-Identifier: Apache-2.0
 * Chunks of a row held in registers. A kernel is compiled for each storage type where all its
 * operands share one and lie on 16 bytes (then a chunk is one or two wide loads and nothing is
 * asked on the device, so that several are in flight), and once more for everything else
 * (any_type). All have the same bits. */
#pragma once
#include "kernels/lib/rows.cuh"
#include <initializer_list>

namespace WEFT_CU_NS {

struct any_type {}; /* type and alignment are looked at on the device */

template <class T> struct held { T e[CHUNK]; };
template <> struct held<any_type> { float e[CHUNK]; };

template <class T>
__device__ __forceinline__ void fetch(held<T> &h, const weft_tensor &t, int64_t off,
                                      int n WEFT_AT) {
    (void)n;
    const uint4 *from = (const uint4 *)((const T *)t.data + off);
#pragma unroll
    for (int i = 0; i < (int)sizeof h / 16; i++) {
        uint4 q = ld_const(from + i WEFT_PASS);
        memcpy((char *)h.e + 16 * i, &q, 16);
    }
}
__device__ __forceinline__ void fetch(held<any_type> &h, const weft_tensor &t, int64_t off,
                                      int n WEFT_AT) {
    load8(t, off, n, h.e WEFT_PASS);
}

template <class T> __device__ __forceinline__ void widen(const held<T> &h, float (&v)[CHUNK]) {
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = to_float(h.e[i]);
}
__device__ __forceinline__ void widen(const held<any_type> &h, float (&v)[CHUNK]) {
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = h.e[i];
}

/* Rounds as T does; with any_type as `dtype` does. */
template <class T>
__device__ __forceinline__ void narrow(held<T> &h, int dtype, const float (&v)[CHUNK]) {
    (void)dtype;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        h.e[i] = from_float<T>(v[i]);
}
__device__ __forceinline__ void narrow(held<any_type> &h, int dtype, const float (&v)[CHUNK]) {
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        h.e[i] = round_as(dtype, v[i]);
}

template <class T>
__device__ __forceinline__ void put(const weft_tensor &t, int64_t off, int n,
                                    const held<T> &h WEFT_AT) {
    (void)n;
    uint4 *to = (uint4 *)((T *)t.data + off);
#pragma unroll
    for (int i = 0; i < (int)sizeof h / 16; i++) {
        uint4 q;
        memcpy(&q, (const char *)h.e + 16 * i, 16);
        st_global(to + i, q WEFT_PASS);
    }
}
__device__ __forceinline__ void put(const weft_tensor &t, int64_t off, int n,
                                    const held<any_type> &h WEFT_AT) {
    store8(t, off, n, h.e WEFT_PASS);
}

/* Elements of the chunk at i. */
__device__ __forceinline__ int chunk_size(int64_t width, int64_t i) {
    return width - i < CHUNK ? (int)(width - i) : (int)CHUNK;
}

/* ---- host ---- */

inline bool is_wide_tensor(const weft_tensor &t) {
    bool wide = (size_t)t.data % 16 == 0 && t.stride[t.ndim - 1] == 1 && width_of(t) % CHUNK == 0;
    for (int i = 0; i + 1 < t.ndim; i++)
        wide = wide && t.stride[i] % CHUNK == 0;
    return wide;
}

/* The storage type that all present tensors share, each chunk of them on 16 bytes; -1: none. */
inline int wide_type(std::initializer_list<const weft_tensor *> list) {
    int type = -1;
    for (const weft_tensor *t : list) {
        if (!weft_has(t))
            continue;
        if (!is_float(*t) || !is_wide_tensor(*t) || (type >= 0 && type != t->dtype))
            return -1;
        type = t->dtype;
    }
    return type;
}

/* Calls f with a value of the type. */
template <class F> void with_type(int type, F f) {
    switch (type) {
    case WEFT_F32: f(float{}); break;
    case WEFT_F16: f(f16{}); break;
    case WEFT_BF16: f(bf16{}); break;
    default: f(any_type{}); break;
    }
}

} // namespace WEFT_CU_NS
