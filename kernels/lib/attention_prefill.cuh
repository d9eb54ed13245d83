/* SPDX-License-Identifier: Apache-2.0
 * attention of many queries. A block has 128 rows (64 for heads wider than 128), each of its four
 * warps 32 (16): every fragment of K and V that comes from shared memory serves two instructions,
 * which halves what would bound it. Q, one block of K and one of V lie in shared memory: V arrives
 * while S = Q K' is computed, the next K during the softmax and P V; weights go from accumulators
 * to operand A in registers. At the end of a split of 512 keys a thread merges its state with that
 * of the splits before, which waits in scratch in the thread's own order. Blocks walk the work list
 * from its end, there and back: the longest items first, every block as many keys as any other. */
#pragma once
#include "kernels/lib/attention_mma.cuh"

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
        CHUNKS = DP / CHUNK
    };
};

/* A thread's share of the states of its rows lane / 4 and lane / 4 + 8 of each tile. */
template <int DP> struct pre_state {
    float most[pre_shape<DP>::MTILES][2], sum[pre_shape<DP>::MTILES][2];
    float acc[pre_shape<DP>::MTILES][pre_shape<DP>::PARTS][4];
};

/* What a block works on; alike for all threads. */
struct pre_tile {
    att_rows rows;
    att_span span;
    int from;     /* the tile's first row */
    int32_t turn; /* of the block's walk over the items */
    int32_t row0; /* row of key 0 without pages */
};

template <int DP> struct pre_smem {
    typedef pre_shape<DP> G;
    uint16_t q[G::ROWS * DP], k[G::KEYS * DP], v[G::KEYS * DP];
    int2 place[2][G::KEYS];
    pre_tile tile;
    int thread[G::THREADS];    /* pre_thread */
    int32_t block[G::THREADS]; /* of keys, each thread's: it would cost a register of the sums */
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

/* threadIdx.x, read anew for every phase of a block: what is known to be constant is kept, and a
 * hundred places in shared memory would push out the sums. */
template <int DP> __device__ __forceinline__ int pre_thread(const pre_smem<DP> &s) {
    return ld_shared(&s.thread[threadIdx.x]);
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
template <int DP>
__device__ __forceinline__ att_row pre_row(const pre_tile &t, int thread, int m, int r) {
    int warp = thread / 32, lane = thread % 32;
    return att_row_of(t.rows,
                      t.from + (warp * pre_shape<DP>::MTILES + m) * ATT_ROWS + lane / 4 + 8 * r);
}

template <int DP> __device__ __forceinline__ void pre_clear(pre_state<DP> &t) {
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            t.most[m][r] = -INFINITY;
            t.sum[m][r] = 0;
        }
#pragma unroll
        for (int i = 0; i < pre_shape<DP>::PARTS; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                t.acc[m][i][e] = 0;
    }
}

/* Where the keys of block b lie. */
template <int DP>
__device__ __forceinline__ void pre_find_keys(pre_smem<DP> &s, const weft_attention_args &a,
                                              int32_t b) {
    const int keys = pre_shape<DP>::KEYS;
    pre_tile t = pre_tile_of<DP>(s);
    int32_t key = b * keys + (int)threadIdx.x;
    if ((int)threadIdx.x < keys && key >= t.span.any.first && key < t.span.any.last)
        st_shared(&s.place[b & 1][threadIdx.x], att_place(a, t.rows, t.row0, key));
}

/* Block b of K or V. */
template <class T, int DP, bool VALUE>
__device__ __forceinline__ void pre_fill(pre_smem<DP> &s, const weft_attention_args &a,
                                         const att_launch &l, int32_t b) {
    typedef pre_shape<DP> G;
    pre_tile t = pre_tile_of<DP>(s);
    att_fill<DP, G::KEYS, G::THREADS>(VALUE ? s.v : s.k, pre_thread<DP>(s),
                                      att_source_of<T>(a, VALUE ? a.v : a.k, t.rows.kv_head),
                                      s.place[b & 1], b * G::KEYS, t.span.any,
                                      VALUE ? l.wide_v : l.wide_k);
    cp_async_commit();
}

/* S of the warp's rows and one block of keys. */
template <class T, int DP>
__device__ __forceinline__ void pre_dots(
    const pre_smem<DP> &s, int thread, float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4]) {
    typedef pre_shape<DP> G;
    int lane = thread % 32, row = thread / 32 * G::MTILES * ATT_ROWS + lane % 16;
#pragma unroll
    for (int i = 0; i < G::MTILES * G::TILES * 4; i++)
        d[i / (G::TILES * 4)][i / 4 % G::TILES][i % 4] = 0;
#pragma unroll
    for (int c = 0; c < DP / 16; c++) {
        uint32_t q[G::MTILES][4], two[4], b[2];
#pragma unroll
        for (int m = 0; m < G::MTILES; m++)
            ldmatrix_x4(q[m], &s.q[att_at<DP>(row + m * ATT_ROWS, 2 * c + lane / 16)]);
#pragma unroll
        for (int i = 0; i < G::TILES; i += 2) {
            ldmatrix_x4(two,
                        &s.k[att_at<DP>(i * 8 + lane / 16 * 8 + lane % 8, 2 * c + lane / 8 % 2)]);
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

/* A block that not all rows see in full. */
template <int DP>
__device__ __forceinline__ void pre_mask(
    const weft_attention_args &a, const pre_tile &t, int thread, int32_t k0,
    float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4]) {
    int32_t first = k0 + thread % 4 * 2;
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            att_keys seen = att_seen(a, pre_row<DP>(t, thread, m, r).pos, t.rows.kvlen);
#pragma unroll
            for (int i = 0; i < pre_shape<DP>::TILES * 2; i++) {
                int32_t key = first + i / 2 * 8 + i % 2;
                float &x = d[m][i / 2][2 * r + i % 2];
                x = key >= seen.first && key < seen.last ? x : -INFINITY;
            }
        }
}

/* One row of one block: scores to weights; what is left of earlier blocks. */
template <int TILES>
__device__ __forceinline__ float pre_weights(float (&d)[TILES][4], int r, float unit, float &most,
                                             float &sum) {
    float largest = fmaxf(d[0][2 * r], d[0][2 * r + 1]), part[TILES];
#pragma unroll
    for (int i = 1; i < TILES; i++)
        largest = fmaxf(largest, fmaxf(d[i][2 * r], d[i][2 * r + 1]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    float now = fmaxf(most, largest * unit), level = att_level(now);
    float alpha = att_base2::exp(most - level);
    most = now;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        d[i][2 * r] = att_base2::exp(fmaf(d[i][2 * r], unit, -level));
        d[i][2 * r + 1] = att_base2::exp(fmaf(d[i][2 * r + 1], unit, -level));
        part[i] = d[i][2 * r] + d[i][2 * r + 1];
    }
#pragma unroll
    for (int n = TILES; n > 1; n /= 2)
#pragma unroll
        for (int i = 0; i < n / 2; i++)
            part[i] = part[2 * i] + part[2 * i + 1];
    sum = fmaf(sum, alpha, part[0]);
    return alpha;
}

template <int DP>
__device__ __forceinline__ void pre_softmax(
    float unit, float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4], pre_state<DP> &t) {
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float alpha = pre_weights(d[m], r, unit, t.most[m][r], t.sum[m][r]);
#pragma unroll
            for (int i = 0; i < pre_shape<DP>::PARTS; i++) {
                t.acc[m][i][2 * r] *= alpha;
                t.acc[m][i][2 * r + 1] *= alpha;
            }
        }
}

/* Weights as halves of operand A, before anything else needs registers. */
template <class T, int DP>
__device__ __forceinline__ void pre_pack(
    const float (&d)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][4],
    uint32_t (&weights)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][2]) {
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++)
#pragma unroll
        for (int i = 0; i < pre_shape<DP>::TILES * 2; i++)
            weights[m][i / 2][i % 2] = att_pack<T>(d[m][i / 2][i % 2 * 2],
                                                   d[m][i / 2][i % 2 * 2 + 1]);
}

template <class T, int DP>
__device__ __forceinline__ void pre_values(
    const pre_smem<DP> &s, int thread,
    const uint32_t (&weights)[pre_shape<DP>::MTILES][pre_shape<DP>::TILES][2], pre_state<DP> &t) {
    typedef pre_shape<DP> G;
    int lane = thread % 32;
#pragma unroll
    for (int c = 0; c < G::KEYS / 16; c++) {
        uint32_t p[G::MTILES][4], two[4], b[2];
#pragma unroll
        for (int m = 0; m < G::MTILES; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[m][i] = weights[m][2 * c + i / 2][i % 2];
#pragma unroll
        for (int i = 0; i < G::PARTS; i += 2) {
            ldmatrix_x4_trans(two, &s.v[att_at<DP>(c * 16 + lane % 16, i + lane / 16)]);
#pragma unroll
            for (int m = 0; m < G::MTILES; m++) {
                b[0] = two[0], b[1] = two[1];
                att_mma<T>(t.acc[m][i], p[m], b);
                b[0] = two[2], b[1] = two[3];
                att_mma<T>(t.acc[m][i + 1], p[m], b);
            }
        }
    }
}

/* Values of an edge block that are not finite. */
template <class T, int DP>
__device__ __forceinline__ void pre_tame(pre_smem<DP> &s, const weft_attention_args &a,
                                         const pre_tile &t, int32_t k0, pre_state<DP> &state) {
    typedef pre_shape<DP> G;
    if (!att_find_wild<T, G::KEYS * G::CHUNKS, G::THREADS>(s.v))
        return;
    int thread = pre_thread<DP>(s);
#pragma unroll
    for (int m = 0; m < G::MTILES; m++) {
        int32_t pos[2] = {pre_row<DP>(t, thread, m, 0).pos, pre_row<DP>(t, thread, m, 1).pos};
        att_take_wild<T, DP, G::KEYS>(s.v, a, k0, 0, pos, t.rows.kvlen, state.acc[m]);
    }
    att_zero_wild<T, G::KEYS * G::CHUNKS, G::THREADS>(s.v);
}

/* ---- the end of a split, and of a tile ---- */

/* The thread's states of the splits before, in its own order: one float4 for every part of every
 * tile, then one for every tile's rows. */
template <int DP> __device__ __forceinline__ float4 *pre_parked(const att_launch &l) {
    typedef pre_shape<DP> G;
    return (float4 *)l.scratch + (int64_t)blockIdx.x * G::MTILES * (G::PARTS + 1) * G::THREADS +
           threadIdx.x;
}

template <int DP> __device__ __forceinline__ void pre_park(float4 *to, const pre_state<DP> &t) {
    typedef pre_shape<DP> G;
#pragma unroll
    for (int m = 0; m < G::MTILES; m++, to += (G::PARTS + 1) * G::THREADS) {
        st_global(to, make_float4(t.most[m][0], t.most[m][1], t.sum[m][0], t.sum[m][1]));
#pragma unroll
        for (int i = 0; i < G::PARTS; i++)
            st_global(to + (i + 1) * G::THREADS,
                      make_float4(t.acc[m][i][0], t.acc[m][i][1], t.acc[m][i][2], t.acc[m][i][3]));
    }
}

/* The splits before and this one. */
template <int DP> __device__ __forceinline__ void pre_join(const float4 *from, pre_state<DP> &t) {
    typedef pre_shape<DP> G;
#pragma unroll
    for (int m = 0; m < G::MTILES; m++, from += (G::PARTS + 1) * G::THREADS) {
        float4 e = ld_global(from);
        att_merge r0 = att_merge_of<att_base2>(e.x, t.most[m][0]);
        att_merge r1 = att_merge_of<att_base2>(e.y, t.most[m][1]);
        t.most[m][0] = r0.most;
        t.most[m][1] = r1.most;
        t.sum[m][0] = att_merged(r0, e.z, t.sum[m][0]);
        t.sum[m][1] = att_merged(r1, e.w, t.sum[m][1]);
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
__device__ __forceinline__ void pre_end_split(const att_launch &l, bool is_first, bool is_last,
                                              pre_state<DP> &t) {
#pragma unroll
    for (int i = 0; i < pre_shape<DP>::MTILES * 2; i++) {
        float &sum = t.sum[i / 2][i % 2];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    }
    if (!is_first)
        pre_join<DP>(pre_parked<DP>(l), t);
    if (!is_last) {
        pre_park<DP>(pre_parked<DP>(l), t);
        pre_clear(t);
    }
}

template <class T, int DP>
__device__ static void pre_finish(const weft_attention_args &a, const pre_tile &t, int thread,
                                  const pre_state<DP> &state) {
#pragma unroll
    for (int m = 0; m < pre_shape<DP>::MTILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            att_row row = pre_row<DP>(t, thread, m, r);
            if (!row.exists)
                continue;
            att_end end = att_end_of<att_base2>(a, row.head, state.most[m][r], state.sum[m][r]);
            int at = thread % 4 * 2;
#pragma unroll
            for (int i = 0; i < pre_shape<DP>::PARTS; i++)
                att_store2<T>(a, att_y(a, row), i * 8 + at,
                              fmaf(state.acc[m][i][2 * r], end.factor, 0.0f),
                              fmaf(state.acc[m][i][2 * r + 1], end.factor, 0.0f));
            if (at == 0)
                att_store_lse(a, row, end.lse);
        }
}

/* ---- a tile ---- */

/* Blocks of keys that some row sees. */
template <int DP> __device__ __forceinline__ att_keys pre_seen(const pre_smem<DP> &s) {
    const int keys = pre_shape<DP>::KEYS;
    pre_tile t = pre_tile_of<DP>(s);
    return att_keys{t.span.any.first / keys, (t.span.any.last + keys - 1) / keys};
}

template <class T, int DP>
__device__ __forceinline__ void pre_block(pre_smem<DP> &s, const weft_attention_args &a,
                                          const att_launch &l, int32_t b, pre_state<DP> &state) {
    typedef pre_shape<DP> G;
    float d[G::MTILES][G::TILES][4];
    uint32_t weights[G::MTILES][G::TILES][2];
    int32_t k0 = b * G::KEYS;
    cp_async_wait_all();
    __syncthreads();
    pre_fill<T, DP, true>(s, a, l, b);
    pre_find_keys<DP>(s, a, b + 1);
    pre_dots<T, DP>(s, pre_thread<DP>(s), d);
    cp_async_wait_all();
    __syncthreads();
    if (b + 1 < pre_seen<DP>(s).last)
        pre_fill<T, DP, false>(s, a, l, b + 1);
    pre_tile t = pre_tile_of<DP>(s);
    if (k0 < t.span.all.first || k0 + G::KEYS > t.span.all.last)
        pre_mask<DP>(a, t, pre_thread<DP>(s), k0, d);
    pre_softmax<DP>(l.unit, d, state);
    pre_pack<T, DP>(d, weights);
    if (att_is_edge(t.span, k0, G::KEYS))
        pre_tame<T, DP>(s, a, t, k0, state);
    __syncwarp();
    pre_values<T, DP>(s, pre_thread<DP>(s), weights, state);
}

template <class T, int DP>
__device__ static void pre_walk(pre_smem<DP> &s, const weft_attention_args &a,
                                const att_launch &l) {
    typedef pre_shape<DP> G;
    const int32_t split = ATT_SPLIT / G::KEYS; /* in blocks */
    pre_tile t = pre_tile_of<DP>(s);
    pre_state<DP> state;
    pre_clear(state);
    int32_t b = pre_seen<DP>(s).first;
    pre_find_keys<DP>(s, a, b);
    att_fill_q<DP, G::ROWS, G::THREADS>(s.q, a, t.rows, t.from, l.wide_q);
    __syncthreads();
    if (b < pre_seen<DP>(s).last)
        pre_fill<T, DP, false>(s, a, l, b);
    st_shared(&s.block[threadIdx.x], b);
    while (b < pre_seen<DP>(s).last) {
        pre_block<T, DP>(s, a, l, b, state);
        att_keys seen = pre_seen<DP>(s);
        b = ld_shared(&s.block[threadIdx.x]) + 1;
        st_shared(&s.block[threadIdx.x], b);
        if (b == seen.last || b % split == 0)
            pre_end_split<DP>(l, (b - 1) / split == seen.first / split, b == seen.last, state);
    }
    cp_async_wait_all();
    pre_finish<T, DP>(a, pre_tile_of<DP>(s), pre_thread<DP>(s), state);
}

/* Rows from `from` on of an item; false: there are none, or its sequence decodes. Asked anew for
 * every tile, so that nothing of it stays in registers meanwhile. */
template <int DP>
__device__ static bool pre_next(pre_smem<DP> &s, const weft_attention_args &a, int32_t item,
                                int32_t turn, int32_t from) {
    pre_tile t;
    t.rows = att_item(a, item);
    if (from >= att_count(t.rows) ||
        att_decodes(a, att_sequence(a, t.rows.seq, t.rows.kv_head).queries))
        return false;
    t.from = from;
    t.turn = turn;
    t.row0 = load_int(a.qstart, t.rows.seq * a.qstart.stride[0]);
    t.span = att_span_of(a, t.rows, from, from + pre_shape<DP>::ROWS);
    __syncthreads(); /* the tile before is done with shared memory */
    pre_set_tile<DP>(s, t);
    st_shared(&s.thread[threadIdx.x], (int)threadIdx.x);
    __syncthreads();
    return true;
}

template <class T, int DP>
__global__ void __launch_bounds__(pre_shape<DP>::THREADS, 2)
    attention_prefill_k(const __grid_constant__ weft_attention_args a, const att_launch l) {
    typedef pre_smem<DP> smem;
    WEFT_SMEM(smem, s);
    int32_t turn = 0, from = 0;
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
