/* SPDX-License-Identifier: Apache-2.0
 * attention of many queries. A block has 128 rows (64 for heads wider than 128), each of its four
 * warps 32 (16): every fragment of K and V that comes from shared memory serves two instructions,
 * which halves what would bound it. Q, one block of K and one of V lie in shared memory: V arrives
 * while S = Q K' is computed, the next K during the softmax and P V; weights go from accumulators
 * to operand A in registers, sixteen keys at a time, so that exponentials and the scaling of the
 * sums stand between matrix instructions and not before them.
 *
 * Blocks of keys that every row sees in full have a loop of their own, without masks and without a
 * question about a key; where the keys of a split lie is found once for all its blocks. At the end
 * of a split of 512 keys a thread merges its state with that of the splits before, which waits in
 * scratch in the thread's own order, while the first K of the next split is on its way. Blocks walk
 * the work list from its end, there and back: the longest items first, every block as many keys as
 * any other. */
#pragma once
#include "kernels/lib/attention_mma.cuh"
#include "kernels/lib/epilogue.cuh"

namespace WEFT_CU_NS {

template <int DP> struct pre_shape {
    enum {
        KEYS = att_key_block(DP),
        WARPS = 4,
        THREADS = WARPS * 32,
        MTILES = DP <= 128 ? 2 : 1, /* of 16 rows, a warp's */
        ROWS = WARPS * MTILES * ATT_ROWS,
        TILES = KEYS / 8,
        PARTS = DP / 8,
        CHUNKS = DP / CHUNK,
        STEP = THREADS / CHUNKS, /* keys between a thread's copies */
        COPIES = KEYS / STEP,
        SPLIT = ATT_SPLIT / KEYS /* in blocks of keys */
    };
};

/* A thread's share of the weighted sums of its rows lane / 4 and lane / 4 + 8 of each tile. The
 * rest of the rows' states is in shared memory, where a block of keys asks for it once. */
template <int DP> struct pre_state { float acc[pre_shape<DP>::MTILES][pre_shape<DP>::PARTS][4]; };

/* What a block works on; alike for all threads. Blocks of keys: those that some row sees, and of
 * them those that all rows see in full. */
struct pre_tile {
    att_rows rows;
    att_span span;
    att_keys seen, inner;
    int from;     /* the tile's first row */
    int32_t turn; /* of the block's walk over the items */
    int32_t row0; /* row of key 0 without pages */
};

template <int DP> struct pre_smem {
    typedef pre_shape<DP> G;
    uint16_t q[G::ROWS * DP], k[G::KEYS * DP], v[G::KEYS * DP];
    /* Where the keys of a split lie in K and V: 16-byte chunks, in the order threads copy them. */
    uint32_t place[2][ATT_SPLIT];
    pre_tile tile;
    int2 seen[G::ROWS]; /* keys [x, y) of each row */
    /* Of a thread's row r of tile m, 2 m + r: the largest score, the sum of weights. */
    float4 most[G::THREADS], sum[G::THREADS];
};

/* The tile is read where it is used: in registers it would push out the sums. */
template <int DP> __device__ __forceinline__ pre_tile pre_tile_of(const pre_smem<DP> &s) {
    uint32_t w[sizeof(pre_tile) / 4];
    pre_tile t;
#pragma unroll
    for (int i = 0; i < (int)(sizeof w / 4); i++)
        w[i] = ld_shared((const uint32_t *)&s.tile + i);
    memcpy(&t, w, sizeof t);
    return t;
}

template <int DP> __device__ __forceinline__ void pre_set_tile(pre_smem<DP> &s, const pre_tile &t) {
    uint32_t w[sizeof(pre_tile) / 4];
    memcpy(w, &t, sizeof t);
#pragma unroll
    for (int i = 0; i < (int)(sizeof w / 4); i++)
        if (threadIdx.x == 0)
            st_shared((uint32_t *)&s.tile + i, w[i]);
}

/* att_at in bytes, for a lane's row: chunk `by` further on, an even number, is one exclusive or
 * away. */
template <int DP> __device__ __forceinline__ uint32_t pre_lane(uint32_t row, uint32_t c) {
    return (uint32_t)att_at<DP>((int)row, (int)c) * 2;
}

__device__ __forceinline__ const uint16_t *pre_chunk(const uint16_t *of, uint32_t lane, int by) {
    return (const uint16_t *)((const char *)of + (lane ^ (uint32_t)by * 16));
}

/* Two blocks on each SM of an H200; smaller GPUs take them in turns. */
enum { PRE_BLOCKS = 264 };

__host__ static inline unsigned pre_blocks(int64_t items) {
    return (unsigned)(items < PRE_BLOCKS ? items : (int)PRE_BLOCKS);
}

/* Bytes of scratch of a block: its sums, most and sum of each row a thread has. */
__host__ static inline size_t pre_scratch(int width) {
    size_t rows = width <= 128 ? 128 : 64;
    return rows * (size_t)width * 4 + rows * 4 * 2 * 4;
}

/* The thread's row r of tile m. */
template <int DP> __device__ __forceinline__ int pre_row_at(int thread, int m, int r) {
    return (thread / 32 * pre_shape<DP>::MTILES + m) * ATT_ROWS + thread % 32 / 4 + 8 * r;
}

__device__ __forceinline__ void pre_get(const float4 *from, float (&row)[4]) {
    float4 v = ld_shared(from + tid_again());
    memcpy(row, &v, sizeof v);
}

__device__ __forceinline__ void pre_set(float4 *to, const float (&row)[4]) {
    st_shared(to + tid_again(), make_float4(row[0], row[1], row[2], row[3]));
}

template <int DP> __device__ __forceinline__ void pre_clear(pre_smem<DP> &s, pre_state<DP> &t) {
    const float none[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, zero[4] = {0, 0, 0, 0};
    pre_set(s.most, none);
    pre_set(s.sum, zero);
#pragma unroll
    for (int i = 0; i < pre_shape<DP>::MTILES * pre_shape<DP>::PARTS * 4; i++)
        t.acc[i / 4 / pre_shape<DP>::PARTS][i / 4 % pre_shape<DP>::PARTS][i % 4] = 0;
}

/* Whether rows are whole chunks that can be fetched 16 bytes at a time and counted in 32 bits of
 * those. */
inline bool pre_takes(const weft_tensor &t) {
    bool wide = (size_t)t.data % 16 == 0 && t.stride[t.ndim - 1] == 1 && width_of(t) % CHUNK == 0;
    uint64_t reach = 0;
    for (int i = 0; i + 1 < t.ndim; i++) {
        wide &= (t.stride[i] % CHUNK == 0 && t.stride[i] >= 0) || t.shape[i] == 1;
        reach += t.shape[i] == 1 ? 0 : (uint64_t)t.shape[i] * (uint64_t)(t.stride[i] / CHUNK);
    }
    return wide && reach < UINT32_MAX;
}

__device__ __forceinline__ uint32_t pre_place(const weft_tensor &t, const pre_tile &tile,
                                              int2 place) {
    int64_t in = t.ndim == 4 ? place.y * t.stride[2] : 0;
    return (uint32_t)((place.x * t.stride[0] + in + tile.rows.kv_head * t.stride[1]) / CHUNK);
}

/* Where the keys of a split lie. A key of its blocks that no row sees: as the nearest one that some
 * row does. */
template <int DP>
__device__ __forceinline__ void pre_find_keys(pre_smem<DP> &s, const weft_attention_args &a,
                                              int32_t split) {
    typedef pre_shape<DP> G;
    pre_tile t = pre_tile_of<DP>(s);
#pragma unroll 1
    for (int i = threadIdx.x; i < ATT_SPLIT; i += G::THREADS) {
        int32_t key = split * ATT_SPLIT + i, b = key / G::KEYS, r = key % G::KEYS;
        if (b < t.seen.first || b >= t.seen.last)
            continue;
        key = key < t.span.any.first ? t.span.any.first : key;
        key = key < t.span.any.last ? key : t.span.any.last - 1;
        int2 place = att_place(a, t.rows, t.row0, key);
        int at = i - r + r % G::STEP * G::COPIES + r / G::STEP;
        st_shared(&s.place[0][at], pre_place(a.k, t, place));
        st_shared(&s.place[1][at], pre_place(a.v, t, place));
    }
}

/* What lies behind the width of a head in K and V: zero for good, copies leave it out. */
template <int DP> __device__ static void pre_pad(pre_smem<DP> &s, const weft_attention_args &a) {
    typedef pre_shape<DP> G;
#pragma unroll 1
    for (int i = threadIdx.x; i < G::KEYS * G::CHUNKS; i += G::THREADS) {
        int row = i / G::CHUNKS, c = i % G::CHUNKS;
        if (c * CHUNK >= width_of(a.k))
            st_shared((uint4 *)&s.k[att_at<DP>(row, c)], make_uint4(0, 0, 0, 0));
        if (c * CHUNK >= width_of(a.v))
            st_shared((uint4 *)&s.v[att_at<DP>(row, c)], make_uint4(0, 0, 0, 0));
    }
}

/* Block b of K, or of V: there, a key of an edge block that no row sees is zero. */
template <int DP, bool VALUE, bool EDGE>
__device__ __forceinline__ void pre_fill(pre_smem<DP> &s, const weft_attention_args &a, int32_t b) {
    typedef pre_shape<DP> G;
    const weft_tensor &t = VALUE ? a.v : a.k;
    uint32_t thread = tid_again(), c = thread % G::CHUNKS, row = thread / G::CHUNKS;
    const uint32_t *place = &s.place[VALUE][(uint32_t)b % G::SPLIT * G::KEYS + row * G::COPIES];
    uint16_t *to = (VALUE ? s.v : s.k) + row * DP;
    att_keys any = {0, 0};
    if (VALUE && EDGE)
        any = pre_tile_of<DP>(s).span.any;
    if (c * CHUNK < (uint32_t)width_of(t)) {
#pragma unroll
        for (int j = 0; j < G::COPIES; j += 4) {
            uint4 four = ld_shared((const uint4 *)(place + j));
            uint32_t at[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int r = (j + i) * G::STEP, key = b * G::KEYS + (int)row + r;
                uint16_t *here = to + r * DP + (c ^ (row + (uint32_t)r) % 8) * CHUNK;
                if (VALUE && EDGE && !(key >= any.first && key < any.last))
                    st_shared((uint4 *)here, make_uint4(0, 0, 0, 0));
                else
                    cp_async16(here, (const uint4 *)t.data + (at[i] + c));
            }
        }
    }
    cp_async_commit();
}

/* S of the warp's rows and one block of keys. */
template <class T, int DP>
__device__ __forceinline__ void pre_dots(
    const pre_smem<DP> &s, uint32_t thread,
    float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4]) {
    typedef pre_shape<DP> G;
    uint32_t lane = thread % 32, row = thread / 32 * (G::MTILES * ATT_ROWS);
    uint32_t lq = pre_lane<DP>(row + lane % 16, lane / 16);
    uint32_t lk = pre_lane<DP>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int i = 0; i < G::MTILES * G::TILES * 4; i++)
        d[i / (G::TILES * 4)][i / 4 % G::TILES][i % 4] = 0;
#pragma unroll
    for (int c = 0; c < DP / 16; c++) {
        uint32_t q[G::MTILES][4], two[4], b[2];
#pragma unroll
        for (int m = 0; m < G::MTILES; m++)
            ldmatrix_x4(q[m], pre_chunk(s.q + m * ATT_ROWS * DP, lq, 2 * c));
#pragma unroll
        for (int i = 0; i < G::TILES; i += 2) {
            ldmatrix_x4(two, pre_chunk(s.k + i * 8 * DP, lk, 2 * c));
#pragma unroll
            for (int m = 0; m < G::MTILES; m++) {
                b[0] = two[0], b[1] = two[1];
                att_mma<T>(d[m][i], q[m], b);
                b[0] = two[2], b[1] = two[3];
                att_mma<T>(d[m][i + 1], q[m], b);
            }
        }
    }
}

/* What each row of the tile sees. */
template <int DP>
__device__ __forceinline__ void pre_find_seen(pre_smem<DP> &s, const weft_attention_args &a) {
    pre_tile t = pre_tile_of<DP>(s);
#pragma unroll 1
    for (int i = threadIdx.x; i < pre_shape<DP>::ROWS; i += pre_shape<DP>::THREADS) {
        att_keys seen = att_seen(a, att_row_of(t.rows, t.from + i).pos, t.rows.kvlen);
        st_shared(&s.seen[i], make_int2(seen.first, seen.last));
    }
}

template <int DP>
__device__ __forceinline__ att_keys pre_seen(const pre_smem<DP> &s, int thread, int m, int r) {
    int2 seen = ld_shared(&s.seen[pre_row_at<DP>(thread, m, r)]);
    return att_keys{seen.x, seen.y};
}

/* A block that not all rows see in full. */
template <int DP>
__device__ __forceinline__ void pre_mask(
    const pre_smem<DP> &s, int thread, int32_t k0,
    float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4]) {
    k0 += thread % 4 * 2;
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            att_keys seen = pre_seen<DP>(s, thread, m, r);
#pragma unroll
            for (int i = 0; i < pre_shape<DP>::TILES * 2; i++) {
                int key = i / 2 * 8 + i % 2;
                float &x = d[m][i / 2][2 * r + i % 2];
                x = key >= seen.first - k0 && key < seen.last - k0 ? x : -INFINITY;
            }
        }
}

/* What the weights of a row are taken relative to, and what is left of its sums. */
template <int TILES>
__device__ __forceinline__ float pre_level(const float (&d)[TILES][4], int r, float unit,
                                           float &most, float &alpha) {
    float largest = fmaxf(d[0][2 * r], d[0][2 * r + 1]);
#pragma unroll
    for (int i = 1; i < TILES; i++)
        largest = fmaxf(largest, fmaxf(d[i][2 * r], d[i][2 * r + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    float now = fmaxf(most, largest * unit), level = att_level(now);
    alpha = att_base2::exp(most - level);
    most = now;
    return level;
}

/* Weights of a row's part of key tile i as halves of operand A, and the tree over their sums. */
template <class T>
__device__ __forceinline__ uint32_t pre_weights(const float (&d)[4], int r, float unit, float level,
                                                int i, tree_sum &tree, float &sum) {
    float lo = att_base2::exp(fmaf(d[2 * r], unit, -level));
    float hi = att_base2::exp(fmaf(d[2 * r + 1], unit, -level));
    sum = tree.add(i, lo + hi);
    return att_pack<T>(lo, hi);
}

/* A store that never happens: what it would store is there before the next fragment is. ptxas puts
 * sums off to the end of a block otherwise, and spills what they are made of. */
template <int DP>
__device__ __forceinline__ void pre_pin(const pre_smem<DP> &s, uint32_t thread,
                                        const float (&sum)[pre_shape<DP>::MTILES][2]) {
    if (thread < pre_shape<DP>::THREADS)
        return;
    if constexpr (pre_shape<DP>::MTILES == 2)
        st_shared((float4 *)s.place, make_float4(sum[0][0], sum[0][1], sum[1][0], sum[1][1]));
    else
        st_shared((float2 *)s.place, make_float2(sum[0][0], sum[0][1]));
}

/* Softmax of one block, and sums = sums * alpha + P V. */
template <class T, int DP>
__device__ __forceinline__ void pre_values(
    pre_smem<DP> &s, uint32_t thread, float unit,
    const float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4], pre_state<DP> &t) {
    typedef pre_shape<DP> G;
    uint32_t lane = thread % 32, lv = pre_lane<DP>(lane % 16, lane / 16);
    float level[G::MTILES][2], alpha[G::MTILES][2], sum[G::MTILES][2], run[4];
    tree_sum tree[G::MTILES][2];
    pre_get(s.most, run);
#pragma unroll
    for (int i = 0; i < G::MTILES * 2; i++)
        level[i / 2][i % 2] = pre_level(d[i / 2], i % 2, unit, run[i], alpha[i / 2][i % 2]);
    pre_set(s.most, run);
#pragma unroll
    for (int c = 0; c < G::TILES / 2; c++) {
        uint32_t p[G::MTILES][4], two[4], b[2];
#pragma unroll
        for (int m = 0; m < G::MTILES; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[m][i] = pre_weights<T>(d[m][2 * c + i / 2], i % 2, unit, level[m][i % 2],
                                         2 * c + i / 2, tree[m][i % 2], sum[m][i % 2]);
        pre_pin<DP>(s, thread, sum);
#pragma unroll
        for (int i = 0; i < G::PARTS; i += 2) {
            ldmatrix_x4_trans(two, pre_chunk(s.v + c * 16 * DP, lv, i));
#pragma unroll
            for (int m = 0; m < G::MTILES; m++) {
#pragma unroll
                for (int e = 0; e < 8 && c == 0; e++)
                    t.acc[m][i + e / 4][e % 4] *= alpha[m][e / 2 % 2];
                b[0] = two[0], b[1] = two[1];
                att_mma<T>(t.acc[m][i], p[m], b);
                b[0] = two[2], b[1] = two[3];
                att_mma<T>(t.acc[m][i + 1], p[m], b);
            }
        }
    }
    pre_get(s.sum, run);
#pragma unroll
    for (int i = 0; i < G::MTILES * 2; i++)
        run[i] = fmaf(run[i], alpha[i / 2][i % 2], sum[i / 2][i % 2]);
    pre_set(s.sum, run);
}

/* Values of an edge block that are not finite. */
template <class T, int DP>
__device__ __forceinline__ void pre_tame(pre_smem<DP> &s, int32_t k0, pre_state<DP> &state) {
    typedef pre_shape<DP> G;
    if (!att_find_wild<T, G::KEYS * G::CHUNKS, G::THREADS>(s.v))
        return;
#pragma unroll
    for (int m = 0; m < G::MTILES; m++) {
        int thread = (int)tid_again();
        att_keys seen[2] = {pre_seen<DP>(s, thread, m, 0), pre_seen<DP>(s, thread, m, 1)};
        att_take_wild<T, DP, G::KEYS>(s.v, k0, 0, seen, state.acc[m]);
    }
    att_zero_wild<T, G::KEYS * G::CHUNKS, G::THREADS>(s.v);
}

/* ---- the end of a split, and of a tile ---- */

/* The thread's states of the splits before, in its own order: one float4 for every part of every
 * tile, then one for every tile's rows. */
template <int DP> __device__ __forceinline__ float4 *pre_parked(const att_launch &l) {
    typedef pre_shape<DP> G;
    return (float4 *)l.scratch + (int64_t)blockIdx.x * G::MTILES * (G::PARTS + 1) * G::THREADS +
           tid_again();
}

template <int DP>
__device__ __forceinline__ void pre_park(float4 *to, const float (&most)[4], const float (&sum)[4],
                                         const pre_state<DP> &t) {
    typedef pre_shape<DP> G;
#pragma unroll
    for (int m = 0; m < G::MTILES; m++, to += (G::PARTS + 1) * G::THREADS) {
        st_global(to, make_float4(most[2 * m], most[2 * m + 1], sum[2 * m], sum[2 * m + 1]));
#pragma unroll
        for (int i = 0; i < G::PARTS; i++)
            st_global(to + (i + 1) * G::THREADS,
                      make_float4(t.acc[m][i][0], t.acc[m][i][1], t.acc[m][i][2], t.acc[m][i][3]));
    }
}

/* The splits before and this one. */
template <int DP>
__device__ __forceinline__ void pre_join(const float4 *from, float (&most)[4], float (&sum)[4],
                                         pre_state<DP> &t) {
    typedef pre_shape<DP> G;
#pragma unroll
    for (int m = 0; m < G::MTILES; m++, from += (G::PARTS + 1) * G::THREADS) {
        __syncwarp(); /* loads of all tiles at once would ask for more registers than there are */
        float4 e = ld_global(from);
        att_merge r0 = att_merge_of<att_base2>(e.x, most[2 * m]);
        att_merge r1 = att_merge_of<att_base2>(e.y, most[2 * m + 1]);
        most[2 * m] = r0.most;
        most[2 * m + 1] = r1.most;
        sum[2 * m] = att_merged(r0, e.z, sum[2 * m]);
        sum[2 * m + 1] = att_merged(r1, e.w, sum[2 * m + 1]);
#pragma unroll
        for (int i = 0; i < G::PARTS; i++) {
            float4 v = ld_global(from + (i + 1) * G::THREADS);
            t.acc[m][i][0] = att_merged(r0, v.x, t.acc[m][i][0]);
            t.acc[m][i][1] = att_merged(r0, v.y, t.acc[m][i][1]);
            t.acc[m][i][2] = att_merged(r1, v.z, t.acc[m][i][2]);
            t.acc[m][i][3] = att_merged(r1, v.w, t.acc[m][i][3]);
        }
    }
}

/* After the last key that the tile sees in a split. */
template <int DP>
__device__ __forceinline__ void pre_end_split(pre_smem<DP> &s, const att_launch &l, bool is_first,
                                              bool is_last, pre_state<DP> &t) {
    float most[4], sum[4];
    pre_get(s.most, most);
    pre_get(s.sum, sum);
#pragma unroll
    for (int i = 0; i < pre_shape<DP>::MTILES * 2; i++) {
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
    }
    if (!is_first)
        pre_join<DP>(pre_parked<DP>(l), most, sum, t);
    __syncwarp(); /* nothing of what was joined stays in registers */
    if (is_last) {
        pre_set(s.most, most);
        pre_set(s.sum, sum);
    } else {
        pre_park<DP>(pre_parked<DP>(l), most, sum, t);
        pre_clear(s, t);
    }
}

template <class T, int DP>
__device__ __forceinline__ void pre_finish(const weft_attention_args &a, const pre_smem<DP> &s,
                                           const pre_state<DP> &state) {
    pre_tile t = pre_tile_of<DP>(s);
    int thread = (int)tid_again(), at = thread % 4 * 2;
    float most[4], sum[4];
    pre_get(s.most, most);
    pre_get(s.sum, sum);
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            att_row row = att_row_of(t.rows, t.from + pre_row_at<DP>(thread, m, r));
            att_end end = att_end_of<att_base2>(a, row.head, most[2 * m + r], sum[2 * m + r]);
            if (!row.exists)
                continue;
            uint16_t *to = (uint16_t *)a.y.data + att_y(a, row) + at;
#pragma unroll
            for (int i = 0; i < pre_shape<DP>::PARTS; i++)
                if (i * 8 < (int)width_of(a.y))
                    st_global((uint32_t *)(to + i * 8),
                              att_pack<T>(fmaf(state.acc[m][i][2 * r], end.factor, 0.0f),
                                          fmaf(state.acc[m][i][2 * r + 1], end.factor, 0.0f)));
            if (at == 0)
                att_store_lse(a, row, end.lse);
        }
}

/* ---- a tile ---- */

/* Whether the split of the block before b goes on with b. */
template <int DP> __device__ __forceinline__ bool pre_more(int32_t b, int32_t last) {
    return b % pre_shape<DP>::SPLIT && b < last;
}

/* Block b of keys; EDGE: not all rows see all of it. */
template <class T, int DP, bool EDGE>
__device__ __forceinline__ void pre_block(pre_smem<DP> &s, const weft_attention_args &a,
                                          const att_launch &l, int32_t b, pre_state<DP> &state) {
    typedef pre_shape<DP> G;
    float d[G::MTILES][G::TILES][4];
    cp_async_wait_all();
    __syncthreads();
    pre_fill<DP, true, EDGE>(s, a, b);
    pre_dots<T, DP>(s, tid_again(), d);
    cp_async_wait_all();
    __syncthreads();
    if (pre_more<DP>(b + 1, pre_tile_of<DP>(s).seen.last))
        pre_fill<DP, false, EDGE>(s, a, b + 1);
    if (EDGE) {
        if (att_is_edge(pre_tile_of<DP>(s).span, b * G::KEYS, G::KEYS))
            pre_tame<T, DP>(s, b * G::KEYS, state);
        pre_mask<DP>(s, (int)tid_again(), b * G::KEYS, d);
        __syncwarp();
    }
    pre_values<T, DP>(s, tid_again(), l.unit, d, state);
}

/* The blocks of a split from b on, the first K of which is on its way; returns the next split's
 * first. What ends it is read anew each time: registers are for the sums. */
template <class T, int DP>
__device__ __forceinline__ int32_t pre_split(pre_smem<DP> &s, const weft_attention_args &a,
                                             const att_launch &l, int32_t b, pre_state<DP> &state) {
    do {
        att_keys inner = pre_tile_of<DP>(s).inner;
        if (b < inner.first || b >= inner.last) {
            pre_block<T, DP, true>(s, a, l, b++, state);
            continue;
        }
        do
            pre_block<T, DP, false>(s, a, l, b++, state);
        while (pre_more<DP>(b, pre_tile_of<DP>(s).inner.last));
    } while (pre_more<DP>(b, pre_tile_of<DP>(s).seen.last));
    return b;
}

/* A split from block b on: where its keys lie, and its first K is on its way. */
template <int DP>
__device__ __forceinline__ void pre_begin(pre_smem<DP> &s, const weft_attention_args &a,
                                          int32_t b) {
    pre_find_keys<DP>(s, a, b / pre_shape<DP>::SPLIT);
    __syncthreads();
    pre_fill<DP, false, true>(s, a, b);
}

template <class T, int DP>
__device__ static void pre_walk(pre_smem<DP> &s, const weft_attention_args &a,
                                const att_launch &l) {
    typedef pre_shape<DP> G;
    pre_tile t = pre_tile_of<DP>(s);
    pre_state<DP> state;
    pre_clear(s, state);
    pre_find_seen<DP>(s, a);
    att_fill_q<DP, G::ROWS, G::THREADS>(s.q, a, t.rows, t.from, l.wide_q);
    int32_t b = t.seen.first;
    if (b < t.seen.last)
        pre_begin<DP>(s, a, b);
    while (b < pre_tile_of<DP>(s).seen.last) {
        b = pre_split<T, DP>(s, a, l, b, state);
        att_keys seen = pre_tile_of<DP>(s).seen;
        if (b < seen.last)
            pre_begin<DP>(s, a, b);
        pre_end_split<DP>(s, l, (b - 1) / G::SPLIT == seen.first / G::SPLIT, b >= seen.last, state);
    }
    cp_async_wait_all();
    pre_finish<T, DP>(a, s, state);
}

/* Rows from `from` on of an item; false: there are none, or its sequence decodes. Asked anew for
 * every tile, so that nothing of it stays in registers meanwhile. */
template <int DP>
__device__ static bool pre_next(pre_smem<DP> &s, const weft_attention_args &a, int32_t item,
                                int32_t turn, int32_t from) {
    const int keys = pre_shape<DP>::KEYS;
    pre_tile t;
    t.rows = att_item(a, item);
    if (from >= att_count(t.rows) ||
        att_decodes(a, att_sequence(a, t.rows.seq, t.rows.kv_head).queries))
        return false;
    t.from = from;
    t.turn = turn;
    t.row0 = load_int(a.qstart, t.rows.seq * a.qstart.stride[0]);
    t.span = att_span_of(a, t.rows, from, from + pre_shape<DP>::ROWS);
    t.seen = att_keys{t.span.any.first / keys, (t.span.any.last + keys - 1) / keys};
    t.inner = att_keys{(t.span.all.first + keys - 1) / keys, t.span.all.last / keys};
    __syncthreads(); /* the tile before is done with shared memory */
    pre_set_tile<DP>(s, t);
    __syncthreads();
    return true;
}

template <class T, int DP>
__global__ void __launch_bounds__(pre_shape<DP>::THREADS, 2)
    attention_prefill_k(const __grid_constant__ weft_attention_args a, const att_launch l) {
    typedef pre_smem<DP> smem;
    WEFT_SMEM(smem, s);
    int32_t turn = 0, from = 0;
    pre_pad<DP>(s, a);
    for (;;) {
        int32_t items = (int32_t)lead_rows(a.nwork, a.work.shape[0]), blocks = (int32_t)gridDim.x;
        int32_t at = turn * blocks + (int32_t)(turn % 2 ? blocks - 1 - blockIdx.x : blockIdx.x);
        if (turn * blocks >= items)
            return;
        if (at < items && pre_next<DP>(s, a, items - 1 - at, turn, from)) {
            pre_walk<T, DP>(s, a, l);
            pre_tile t = pre_tile_of<DP>(s);
            turn = t.turn;
            from = t.from + pre_shape<DP>::ROWS;
        } else {
            turn++;
            from = 0;
        }
    }
}

} // namespace WEFT_CU_NS
