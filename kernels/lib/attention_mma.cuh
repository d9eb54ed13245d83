/* SPDX-License-Identifier: Apache-2.0
 * Attention on tensor cores: what its kernels share beyond a row's arithmetic. Operands in shared
 * memory (16-byte places swizzled by row), values that are not finite, results. */
#pragma once
#include "kernels/lib/attention.cuh"

namespace WEFT_CU_NS {

enum { ATT_ROWS = 16 }; /* of the instruction */

/* What the host knows before the launch. */
struct att_launch {
    float *scratch;
    float unit;                  /* times q.k is the score to base 2, if it is not general */
    bool wide_q, wide_k, wide_v; /* rows can be fetched 16 bytes at a time */
    bool by_item;                /* blocks are items of the work list, else (sequence, kv head) */
    int splits, pitch; /* planes of scratch, 0: a block walks its splits; floats of a row */
};

/* Few rows: a sequence whose splits are blocks of their own. */
__device__ __forceinline__ bool att_decodes(const weft_attention_args &a, int32_t queries) {
    return queries == 1 || (int64_t)queries * a.group <= ATT_ROWS;
}

template <class T>
__device__ __forceinline__ void att_mma(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void att_mma<bf16>(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
    mma_m16n8k16_bf16(d, a, b, d);
}
template <>
__device__ __forceinline__ void att_mma<f16>(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(d, a, b, d);
}

template <class T> __device__ __forceinline__ uint32_t att_pack(float lo, float hi);
template <> __device__ __forceinline__ uint32_t att_pack<bf16>(float lo, float hi) {
    return cvt_bf16x2_f32(lo, hi);
}
template <> __device__ __forceinline__ uint32_t att_pack<f16>(float lo, float hi) {
    return cvt_f16x2_f32(lo, hi);
}

/* ---- filling shared memory ---- */

/* Where chunk c of a row of WIDTH elements is kept: eight rows meet no bank twice. */
template <int WIDTH> __device__ __forceinline__ int att_at(int row, int c) {
    return row * WIDTH + (c ^ (row & 7)) * CHUNK;
}

/* Elements i .. i + n of a row that cannot be fetched 16 bytes at a time, the other 8 - n zero. */
__device__ __forceinline__ void att_gather(uint16_t *to, const uint16_t *row, int64_t inner, int i,
                                           int n) {
    uint32_t w[4] = {0, 0, 0, 0};
#pragma unroll
    for (int x = 0; x < CHUNK; x++)
        if (x < n)
            w[x / 2] |= (uint32_t)ld_const(row + (i + x) * inner) << (x % 2 * 16);
    st_shared((uint4 *)to, make_uint4(w[0], w[1], w[2], w[3]));
}

__device__ __forceinline__ int att_part(int width, int i) {
    int left = width - i;
    return left < 0 ? 0 : left < CHUNK ? left : (int)CHUNK;
}

/* A thread's chunk of key k0 + row of K or V; a key that no row sees is zero and is not touched. */
template <int DP>
__device__ __forceinline__ void att_fill_chunk(uint16_t *to, const att_source &s, const int2 *place,
                                               int row, int c, bool exists, bool wide) {
    const uint16_t *p = (const uint16_t *)s.base;
    int n = exists ? att_part(s.width, c * CHUNK) : 0;
    if (n)
        p += att_offset(s, ld_shared(&place[row])) + (wide ? c * CHUNK : 0);
    if (wide)
        cp_async16(to + att_at<DP>(row, c), p, 2 * n);
    else
        att_gather(to + att_at<DP>(row, c), p, s.inner, c * CHUNK, n);
}

/* Keys [k0, k0 + KEYS). */
template <int DP, int KEYS, int THREADS>
__device__ __forceinline__ void att_fill(uint16_t *to, int thread, const att_source &s,
                                         const int2 *place, int32_t k0, const att_keys &seen,
                                         bool wide) {
    const int chunks = DP / CHUNK, rows = THREADS / chunks;
    int c = thread % chunks, row = thread / chunks;
    if (wide) {
#pragma unroll
        for (int i = 0; i < KEYS; i += rows)
            att_fill_chunk<DP>(to, s, place, i + row, c,
                               k0 + i + row >= seen.first && k0 + i + row < seen.last, true);
    } else {
#pragma unroll 1
        for (int i = row; i < KEYS; i += rows)
            att_fill_chunk<DP>(to, s, place, i, c, k0 + i >= seen.first && k0 + i < seen.last,
                               false);
    }
}

/* Rows [from, from + ROWS) of the tile's queries; rows that do not exist are zero. */
template <int DP, int ROWS, int THREADS>
__device__ __forceinline__ void att_fill_q(uint16_t *to, const weft_attention_args &a,
                                           const att_rows &r, int from, bool wide) {
    const int chunks = DP / CHUNK;
    int width = (int)a.q.shape[2];
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
        att_row row = att_row_of(r, from + i / chunks);
        int c = i % chunks;
        const uint16_t *p = (const uint16_t *)a.q.data;
        uint16_t *at = to + att_at<DP>(i / chunks, c);
        int n = row.exists ? att_part(width, c * CHUNK) : 0;
        if (n)
            p += row.token * a.q.stride[0] + row.head * a.q.stride[1] + (wide ? c * CHUNK : 0);
        if (wide)
            cp_async16(at, p, 2 * n);
        else
            att_gather(at, p, a.q.stride[2], c * CHUNK, n);
    }
}

/* ---- values that are not finite ---- */

template <class T> __device__ __forceinline__ bool att_wild(uint32_t half);
template <> __device__ __forceinline__ bool att_wild<bf16>(uint32_t half) {
    return (half & 0x7f80u) == 0x7f80u;
}
template <> __device__ __forceinline__ bool att_wild<f16>(uint32_t half) {
    return (half & 0x7c00u) == 0x7c00u;
}

template <class T> __device__ __forceinline__ uint32_t att_tamed(uint32_t two) {
    return (att_wild<T>(two) ? 0 : two & 0xffffu) | (att_wild<T>(two >> 16) ? 0 : two & ~0xffffu);
}

template <class T> __device__ __forceinline__ bool att_any_wild(const uint4 &q) {
    return att_tamed<T>(q.x) != q.x || att_tamed<T>(q.y) != q.y || att_tamed<T>(q.z) != q.z ||
           att_tamed<T>(q.w) != q.w;
}

/* Whether rows of the tile disagree about a key of the block that one of them sees. */
__device__ __forceinline__ bool att_is_edge(const att_span &s, int32_t k0, int keys) {
    int32_t first = s.any.first > k0 ? s.any.first : k0;
    int32_t last = s.any.last < k0 + keys ? s.any.last : k0 + keys;
    return first < s.all.first || last > s.all.last;
}

/* Before an edge block's P V: 0 times a hidden infinity or NaN must not be. Whether there are any
 * in a block of V. */
template <class T, int CHUNKS, int THREADS>
__device__ __forceinline__ bool att_find_wild(const uint16_t *v) {
    bool wild = false;
#pragma unroll 1
    for (int i = threadIdx.x; i < CHUNKS; i += THREADS)
        wild |= att_any_wild<T>(ld_shared((const uint4 *)v + i));
    return __syncthreads_or(wild);
}

/* Those that a row does see go into its sums as they are. */
template <class T, int DP, int KEYS, int PARTS>
__device__ static void att_take_wild(const uint16_t *v, int32_t k0, int part0,
                                     const att_keys (&seen)[2], float (&acc)[PARTS][4]) {
    int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int key = 0; key < KEYS; key++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            uint32_t two = ld_shared(
                (const uint32_t *)(v + att_at<DP>(key, part0 + i) + lane % 4 * 2));
            if (att_tamed<T>(two) == two)
                continue;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint32_t half = two >> e % 2 * 16 & 0xffffu;
                if (att_wild<T>(half) && k0 + key >= seen[e / 2].first &&
                    k0 + key < seen[e / 2].last)
                    acc[i][e] += to_float(T{(uint16_t)half});
            }
        }
}

/* Then all of them become zero. */
template <class T, int CHUNKS, int THREADS> __device__ static void att_zero_wild(uint16_t *v) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < CHUNKS; i += THREADS) {
        uint4 q = ld_shared((const uint4 *)v + i);
        if (att_any_wild<T>(q))
            st_shared((uint4 *)v + i, make_uint4(att_tamed<T>(q.x), att_tamed<T>(q.y),
                                                 att_tamed<T>(q.z), att_tamed<T>(q.w)));
    }
    __syncthreads();
}

/* ---- results ---- */

/* Two neighbours of a row of y. */
template <class T>
__device__ __forceinline__ void att_store2(const weft_attention_args &a, int64_t y, int at,
                                           float lo, float hi) {
    int width = (int)a.y.shape[2];
    T *to = (T *)a.y.data + y;
    if (a.y.stride[2] == 1 && at + 1 < width && (size_t)(to + at) % 4 == 0) {
        st_global((uint32_t *)(to + at), att_pack<T>(lo, hi));
    } else {
        if (at < width)
            st_global(to + at * a.y.stride[2], from_float<T>(lo));
        if (at + 1 < width)
            st_global(to + (at + 1) * a.y.stride[2], from_float<T>(hi));
    }
}

} // namespace WEFT_CU_NS
