/* SPDX-License-Identifier: Apache-2.0
 * attention in bf16 and fp16 on tensor cores (m16n8k16, rows of queries as operand M, fp32 sums).
 * A tile is 16 rows: queries of a sequence with the heads that read one kv head, row i = query
 * i / heads, head i % heads. A row's arithmetic is its own (docs/NUMERICS.md), so every path below
 * gives the same bits.
 *
 * attention_tile_k: one tile, four warps, blocks of 32 or 64 keys. In S = Q K' a warp has a quarter
 * of the keys, in P V a quarter of the value's width; largest scores, weights and their sums pass
 * through shared memory. K and V come through a ring of 48 to 64 KiB (cp.async, 16-byte places
 * swizzled by row): with two blocks an SM some 100 KiB are on their way, so that decode is
 * bound by memory. Decoding sequences (at most 16 rows, or one query) get a block per split, which
 * leaves its state in scratch for attention_combine_k; the others walk their splits in one block.
 * Measured: nowhere yet. */
#include "kernels/lib/attention_prefill.cuh"

namespace WEFT_CU_NS {

enum { ATT_WARPS = 4, ATT_THREADS = ATT_WARPS * 32 };

template <int DP> struct att_shape {
    enum {
        KEYS = att_key_block(DP),
        TILES = KEYS / 8 / ATT_WARPS, /* of 8 keys, a warp's in S */
        PARTS = DP / 8 / ATT_WARPS,   /* of 8 elements, a warp's in the weighted sum */
        CHUNKS = DP / CHUNK,
        STAGES = att_stages(DP),
        Q_REGISTERS = DP <= 128,  /* 64 more for wider heads are too many */
        BLOCKS = DP <= 64 ? 3 : 2 /* of an SM */
    };
};

enum { P_WIDTH = 64 }; /* of a row of weights: the most keys of a block */

template <int DP> struct att_smem {
    typedef att_shape<DP> G;
    uint16_t ring[G::STAGES][G::KEYS * DP];
    union { /* queries that stay in registers are gone when the first weights come */
        uint16_t q[ATT_ROWS * DP];
        struct {
            uint16_t behind[G::Q_REGISTERS ? 8 : ATT_ROWS * DP], p[ATT_ROWS * P_WIDTH];
            float most[ATT_ROWS][ATT_WARPS], sum[ATT_ROWS][4][ATT_WARPS];
        };
    };
    int2 place[ATT_SPLIT];
};

/* ---- one tile, one split ---- */

/* What a block works on, alike for all threads but for `pos`, `head` and `seen`: this thread's rows
 * lane / 4 and lane / 4 + 8. */
struct att_tile {
    att_rows rows;
    att_span span;
    int from;     /* the tile's first row */
    int32_t row0; /* row of key 0 without pages */
    att_source k, v;
    int32_t pos[2], head[2];
    att_keys seen[2];
};

/* The blocks [first, last) of a split that some row sees. Each takes two turns of the ring, K and
 * V. */
struct att_turns {
    int32_t k0; /* of the split */
    int first, last;
};

template <class T, int DP>
__device__ __forceinline__ void att_turn_fill(att_smem<DP> &s, const att_launch &l,
                                              const att_tile &t, const att_turns &u, int turn) {
    typedef att_shape<DP> G;
    int at = (u.first + turn / 2) * G::KEYS;
    bool value = turn % 2;
    att_source from;
    from.base = value ? t.v.base : t.k.base;
    from.page = value ? t.v.page : t.k.page;
    from.in = value ? t.v.in : t.k.in;
    from.inner = value ? t.v.inner : t.k.inner;
    from.width = value ? t.v.width : t.k.width;
    if (at < u.last * G::KEYS)
        att_fill<DP, G::KEYS, ATT_THREADS>(s.ring[turn % G::STAGES], (int)threadIdx.x, from,
                                           &s.place[at], u.k0 + at, t.span.any,
                                           value ? l.wide_v : l.wide_k);
    cp_async_commit();
}

/* Waits for a turn's keys; whoever comes here is done with the turn before, whose place is filled
 * anew. */
template <class T, int DP>
__device__ __forceinline__ uint16_t *att_turn(att_smem<DP> &s, const att_launch &l,
                                              const att_tile &t, const att_turns &u, int turn) {
    typedef att_shape<DP> G;
    cp_async_wait<G::STAGES - 2>();
    __syncthreads();
    att_turn_fill<T, DP>(s, l, t, u, turn + G::STAGES - 1);
    return s.ring[turn % G::STAGES];
}

/* Where the split's keys lie. */
template <int DP>
__device__ __forceinline__ void att_find_keys(att_smem<DP> &s, const weft_attention_args &a,
                                              const att_tile &t, int32_t k0) {
    for (int i = threadIdx.x; i < ATT_SPLIT; i += ATT_THREADS)
        if (k0 + i >= t.span.any.first && k0 + i < t.span.any.last)
            st_shared(&s.place[i], att_place(a, t.rows, t.row0, k0 + i));
    __syncthreads();
}

/* The warp's part of S of one block. */
template <class T, int DP>
__device__ __forceinline__ void att_dots(const uint16_t *k, const att_smem<DP> &smem,
                                         const uint32_t (&q)[DP / 16][4],
                                         float (&s)[att_shape<DP>::TILES][4]) {
    const int tiles = att_shape<DP>::TILES;
    int lane = threadIdx.x % 32, key = threadIdx.x / 32 * tiles * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < tiles; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[i][e] = 0;
#pragma unroll
    for (int d = 0; d < DP / 16; d++) {
        uint32_t a[4] = {q[d][0], q[d][1], q[d][2], q[d][3]}, b[2];
        if constexpr (!att_shape<DP>::Q_REGISTERS)
            ldmatrix_x4(a, &smem.q[att_at<DP>(lane % 16, 2 * d + lane / 16)]);
        if constexpr (tiles == 1) {
            ldmatrix_x2(b, k + att_at<DP>(key, 2 * d + lane / 8 % 2));
            att_mma<T>(s[0], a, b);
        } else {
            uint32_t two[4];
            ldmatrix_x4(two, k + att_at<DP>(key + lane / 16 * 8, 2 * d + lane / 8 % 2));
            b[0] = two[0], b[1] = two[1];
            att_mma<T>(s[0], a, b);
            b[0] = two[2], b[1] = two[3];
            att_mma<T>(s[1], a, b);
        }
    }
}

/* Masks, and each row's largest score among the warp's keys. */
template <int DP, bool GENERAL>
__device__ __forceinline__ void att_mask(att_smem<DP> &s, const weft_attention_args &a,
                                         const att_tile &t, int32_t k0,
                                         float (&d)[att_shape<DP>::TILES][4]) {
    const int tiles = att_shape<DP>::TILES;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < tiles; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int32_t key = k0 + (warp * tiles + i) * 8 + lane % 4 * 2 + e % 2;
            bool sees = key >= t.seen[e / 2].first && key < t.seen[e / 2].last;
            if (GENERAL && sees)
                d[i][e] = att_score(a, d[i][e], t.head[e / 2], key - t.pos[e / 2]) *
                          att_base2::UNIT;
            d[i][e] = sees ? d[i][e] : -INFINITY;
            most[e / 2] = fmaxf(most[e / 2], d[i][e]);
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 1));
        most[r] = fmaxf(most[r], __shfl_xor_sync(0xffffffffu, most[r], 2));
        if (lane % 4 == 0)
            st_shared(&s.most[lane / 4 + 8 * r][warp], most[r]);
    }
}

/* Weights of the warp's keys and their sums; what is left of earlier blocks. */
template <class T, int DP>
__device__ __forceinline__ void att_weights(att_smem<DP> &s, float unit, float (&most)[2],
                                            float (&alpha)[2],
                                            const float (&d)[att_shape<DP>::TILES][4]) {
    const int tiles = att_shape<DP>::TILES;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = lane / 4 + 8 * r;
        float4 m = ld_shared((const float4 *)s.most[row]);
        float largest = fmaxf(fmaxf(m.x, m.y), fmaxf(m.z, m.w)) * unit, sum = 0;
        float now = fmaxf(most[r], largest), level = att_level(now);
        alpha[r] = att_base2::exp(most[r] - level);
        most[r] = now;
#pragma unroll
        for (int i = 0; i < tiles; i++) {
            float lo = att_base2::exp(fmaf(d[i][2 * r], unit, -level));
            float hi = att_base2::exp(fmaf(d[i][2 * r + 1], unit, -level));
            uint16_t *to = &s.p[att_at<P_WIDTH>(row, warp * tiles + i) + lane % 4 * 2];
            st_shared((uint32_t *)to, att_pack<T>(lo, hi));
            sum = i ? sum + (lo + hi) : lo + hi;
        }
        st_shared(&s.sum[row][lane % 4][warp], sum);
    }
}

/* acc = acc * alpha + P V over one block, the warp's quarter of the width. */
template <class T, int DP>
__device__ __forceinline__ void att_values(const att_smem<DP> &s, const uint16_t *v,
                                           float (&acc)[att_shape<DP>::PARTS][4]) {
    typedef att_shape<DP> G;
    int lane = threadIdx.x % 32, part0 = threadIdx.x / 32 * G::PARTS;
#pragma unroll
    for (int d = 0; d < G::KEYS / 16; d++) {
        uint32_t p[4], two[4], b[2];
        ldmatrix_x4(p, &s.p[att_at<P_WIDTH>(lane % 16, 2 * d + lane / 16)]);
#pragma unroll
        for (int i = 0; i < G::PARTS; i += 2) {
            ldmatrix_x4_trans(two, v + att_at<DP>(d * 16 + lane % 16, part0 + i + lane / 16));
            b[0] = two[0], b[1] = two[1];
            att_mma<T>(acc[i], p, b);
            b[0] = two[2], b[1] = two[3];
            att_mma<T>(acc[i + 1], p, b);
        }
    }
}

/* A thread's share of the states of its two rows; `sum` is of the thread's columns until a split is
 * over. */
template <int PARTS> struct att_state { float most[2], sum[2], acc[PARTS][4]; };

template <int PARTS> __device__ __forceinline__ void att_clear(att_state<PARTS> &t) {
#pragma unroll
    for (int i = 0; i < PARTS * 4; i++)
        t.acc[i / 4][i % 4] = 0;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        t.most[r] = -INFINITY;
        t.sum[r] = 0;
    }
}

template <int PARTS>
__device__ __forceinline__ void att_join(att_state<PARTS> &run, const att_state<PARTS> &split) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        att_merge m = att_merge_of<att_base2>(run.most[r], split.most[r]);
        run.most[r] = m.most;
        run.sum[r] = att_merged(m, run.sum[r], split.sum[r]);
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int e = 2 * r; e < 2 * r + 2; e++)
                run.acc[i][e] = att_merged(m, run.acc[i][e], split.acc[i][e]);
    }
}

/* A thread's columns of a row: what it has, times alpha, plus the block's. */
template <int DP>
__device__ __forceinline__ void att_scale(const att_smem<DP> &s, const float (&alpha)[2],
                                          att_state<att_shape<DP>::PARTS> &t) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float4 w = ld_shared((const float4 *)s.sum[lane / 4 + 8 * r][lane % 4]);
        t.sum[r] = fmaf(t.sum[r], alpha[r], (w.x + w.y) + (w.z + w.w));
#pragma unroll
        for (int i = 0; i < att_shape<DP>::PARTS; i++) {
            t.acc[i][2 * r] *= alpha[r];
            t.acc[i][2 * r + 1] *= alpha[r];
        }
    }
}

template <class T, int DP, bool GENERAL>
__device__ static void att_split(att_smem<DP> &s, const weft_attention_args &a, const att_launch &l,
                                 const att_tile &t, const uint32_t (&q)[DP / 16][4], int32_t k0,
                                 att_state<att_shape<DP>::PARTS> &out) {
    typedef att_shape<DP> G;
    int32_t first = t.span.any.first > k0 ? t.span.any.first - k0 : 0;
    int32_t last = t.span.any.last - k0 < ATT_SPLIT ? t.span.any.last - k0 : (int)ATT_SPLIT;
    att_turns u = {k0, first / G::KEYS, (last + G::KEYS - 1) / G::KEYS};
    int turn = 0, part0 = threadIdx.x / 32 * G::PARTS;
    float d[G::TILES][4], alpha[2];
    att_find_keys(s, a, t, k0);
    for (int i = 0; i < G::STAGES - 1; i++)
        att_turn_fill<T, DP>(s, l, t, u, i);
    att_clear(out);
    for (int32_t k = k0 + u.first * G::KEYS; k < k0 + u.last * G::KEYS; k += G::KEYS) {
        att_dots<T, DP>(att_turn<T, DP>(s, l, t, u, turn++), s, q, d);
        att_mask<DP, GENERAL>(s, a, t, k, d);
        __syncthreads();
        att_weights<T, DP>(s, l.unit, out.most, alpha, d);
        uint16_t *v = att_turn<T, DP>(s, l, t, u, turn++);
        att_scale<DP>(s, alpha, out);
        if (att_is_edge(t.span, k, G::KEYS) &&
            att_find_wild<T, G::KEYS * G::CHUNKS, ATT_THREADS>(v)) {
            att_take_wild<T, DP, G::KEYS>(v, k, part0, t.seen, out.acc);
            att_zero_wild<T, G::KEYS * G::CHUNKS, ATT_THREADS>(v);
        }
        att_values<T, DP>(s, v, out.acc);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        out.sum[r] += __shfl_xor_sync(0xffffffffu, out.sum[r], 1);
        out.sum[r] += __shfl_xor_sync(0xffffffffu, out.sum[r], 2);
    }
    cp_async_wait_all();
    __syncthreads();
}

/* ---- results ---- */

/* States in scratch: planes of {most, sum} and of sums, [unit][split][row]. */
__device__ __forceinline__ float *att_plane(const att_launch &l, int64_t unit, int split, int row,
                                            float **pair, int64_t units) {
    int64_t at = (unit * l.splits + split) * ATT_ROWS + row;
    *pair = l.scratch + 2 * at;
    return l.scratch + 2 * units * l.splits * ATT_ROWS + at * l.pitch;
}

template <int PARTS>
__device__ static void att_leave(const att_launch &l, const att_tile &t, int64_t unit,
                                 int64_t units, int split, const att_state<PARTS> &state) {
    int lane = threadIdx.x % 32, part0 = threadIdx.x / 32 * PARTS;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = lane / 4 + 8 * r;
        float *pair, *to = att_plane(l, unit, split, row, &pair, units);
        if (t.from + row >= att_count(t.rows))
            continue;
        if (threadIdx.x / 32 == 0 && lane % 4 == 0)
            st_global((float2 *)pair, make_float2(state.most[r], state.sum[r]));
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            int at = (part0 + i) * 8 + lane % 4 * 2;
            if (at < l.pitch)
                st_global((float2 *)(to + at),
                          make_float2(state.acc[i][2 * r], state.acc[i][2 * r + 1]));
        }
    }
}

template <class T, int PARTS>
__device__ static void att_finish(const weft_attention_args &a, const att_tile &t,
                                  const att_state<PARTS> &state) {
    int lane = threadIdx.x % 32, part0 = threadIdx.x / 32 * PARTS;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        att_row row = att_row_of(t.rows, t.from + lane / 4 + 8 * r);
        if (!row.exists)
            continue;
        att_end end = att_end_of<att_base2>(a, row.head, state.most[r], state.sum[r]);
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            att_store2<T>(a, att_y(a, row), (part0 + i) * 8 + lane % 4 * 2,
                          fmaf(state.acc[i][2 * r], end.factor, 0.0f),
                          fmaf(state.acc[i][2 * r + 1], end.factor, 0.0f));
        if (threadIdx.x / 32 == 0 && lane % 4 == 0)
            att_store_lse(a, row, end.lse);
    }
}

/* ---- kernels ---- */

/* A block's rows: an item of the work list whose sequence does not decode, or a sequence that
 * does. */
__device__ static bool att_block(const weft_attention_args &a, const att_launch &l, att_rows &r) {
    int64_t kv_heads = a.k.shape[1];
    if (l.by_item) {
        if (blockIdx.x >= lead_rows(a.nwork, a.work.shape[0]))
            return false;
        r = att_item(a, blockIdx.x);
        return !att_decodes(a, att_sequence(a, r.seq, r.kv_head).queries);
    }
    r = att_sequence(a, (int32_t)(blockIdx.x / kv_heads), (int32_t)(blockIdx.x % kv_heads));
    return r.queries > 0 && att_decodes(a, r.queries);
}

template <class T> __device__ static void att_tile_of(const weft_attention_args &a, att_tile &t) {
    t.span = att_span_of(a, t.rows, t.from, t.from + ATT_ROWS);
    t.row0 = load_int(a.qstart, t.rows.seq * a.qstart.stride[0]);
    t.k = att_source_of<T>(a, a.k, t.rows.kv_head);
    t.v = att_source_of<T>(a, a.v, t.rows.kv_head);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        att_row row = att_row_of(t.rows, t.from + threadIdx.x % 32 / 4 + 8 * r);
        t.pos[r] = row.pos;
        t.head[r] = row.head;
        t.seen[r] = att_seen(a, row.pos, t.rows.kvlen);
    }
}

/* The tile's queries as operand A. */
template <int DP>
__device__ __forceinline__ void att_queries(att_smem<DP> &s, const weft_attention_args &a,
                                            const att_launch &l, const att_tile &t,
                                            uint32_t (&q)[DP / 16][4]) {
    int lane = threadIdx.x % 32;
    att_fill_q<DP, ATT_ROWS, ATT_THREADS>(s.q, a, t.rows, t.from, l.wide_q);
    cp_async_wait_all();
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DP / 16; d++)
        if constexpr (att_shape<DP>::Q_REGISTERS)
            ldmatrix_x4(q[d], &s.q[att_at<DP>(lane % 16, 2 * d + lane / 16)]);
    __syncthreads();
}

template <class T, int DP, bool GENERAL>
__device__ static void att_run_tile(att_smem<DP> &s, const weft_attention_args &a,
                                    const att_launch &l, const att_tile &t, int64_t unit) {
    uint32_t q[DP / 16][4];
    att_state<att_shape<DP>::PARTS> run, split;
    int32_t first = t.span.any.first / ATT_SPLIT;
    int32_t last = (t.span.any.last + ATT_SPLIT - 1) / ATT_SPLIT;
    if (l.splits && ((int32_t)blockIdx.y < first || (int32_t)blockIdx.y >= last))
        return;
    if (l.splits) {
        first = (int32_t)blockIdx.y;
        last = first + 1;
    }
    att_queries(s, a, l, t, q);
    att_clear(run);
    for (int32_t i = first; i < last; i++) {
        att_split<T, DP, GENERAL>(s, a, l, t, q, i * ATT_SPLIT, split);
        att_join(run, split);
    }
    if (l.splits)
        att_leave(l, t, unit, (int64_t)gridDim.x * gridDim.z, first, run);
    else
        att_finish<T>(a, t, run);
}

/* blockIdx.x chooses the rows, y the split if scratch has planes, tiles are shared over z. */
template <class T, int DP, bool GENERAL>
__global__ void __launch_bounds__(ATT_THREADS, 2)
    attention_tile_k(const __grid_constant__ weft_attention_args a, const att_launch l) {
    typedef att_smem<DP> smem;
    WEFT_SMEM(smem, s);
    att_tile t;
    if (!att_block(a, l, t.rows))
        return;
    for (t.from = blockIdx.z * ATT_ROWS; t.from < att_count(t.rows);
         t.from += gridDim.z * ATT_ROWS) {
        att_tile_of<T>(a, t);
        att_run_tile<T, DP, GENERAL>(s, a, l, t, (int64_t)blockIdx.x * gridDim.z + blockIdx.z);
    }
}

/* ---- combining splits ---- */

enum { COMBINE_THREADS = 128, COMBINE_AHEAD = 8 };

struct combine_smem {
    float earlier[COMBINE_THREADS], later[COMBINE_THREADS], sum[COMBINE_THREADS];
    float most[COMBINE_THREADS / 32];
};

/* The largest of thread 0 .. this one's. */
__device__ static float combine_most(combine_smem &s, float v) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        float below = __shfl_up_sync(0xffffffffu, v, d);
        v = lane >= d ? fmaxf(v, below) : v;
    }
    if (lane == 31)
        st_shared(&s.most[warp], v);
    __syncthreads();
    for (int w = 0; w < warp; w++)
        v = fmaxf(v, ld_shared(&s.most[w]));
    return v;
}

/* Factors of splits [split, split + n), a thread each; returns the largest score so far. */
__device__ static float combine_factors(combine_smem &s, const float2 *pair, int n, float most) {
    int i = threadIdx.x;
    float2 own = make_float2(-INFINITY, 0.0f);
    if (i < n)
        own = ld_global(pair + (int64_t)i * ATT_ROWS);
    __syncthreads();
    float now = fmaxf(most, combine_most(s, own.x)), before = __shfl_up_sync(0xffffffffu, now, 1);
    if (i % 32 == 0) {
        before = most;
        for (int w = 0; w < i / 32; w++)
            before = fmaxf(before, ld_shared(&s.most[w]));
    }
    att_merge m = att_merge_of<att_base2>(before, own.x);
    st_shared(&s.earlier[i], m.earlier);
    st_shared(&s.later[i], m.later);
    st_shared(&s.sum[i], own.y);
    __syncthreads();
    for (int w = 0; w < COMBINE_THREADS / 32; w++)
        most = fmaxf(most, ld_shared(&s.most[w]));
    return most;
}

/* A thread's two elements over n splits, left to right; loads run ahead. */
__device__ static void combine_some(const combine_smem &s, const float *acc, int64_t step, int n,
                                    bool exists, float2 &run, float &sum) {
    for (int i = 0; i < n; i += COMBINE_AHEAD) {
        float2 v[COMBINE_AHEAD];
#pragma unroll
        for (int j = 0; j < COMBINE_AHEAD; j++)
            v[j] = exists && i + j < n ? ld_global((const float2 *)(acc + (i + j) * step))
                                       : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int j = 0; j < COMBINE_AHEAD; j++)
            if (i + j < n) {
                att_merge m = {0, ld_shared(&s.earlier[i + j]), ld_shared(&s.later[i + j])};
                sum = att_merged(m, sum, ld_shared(&s.sum[i + j]));
                run.x = att_merged(m, run.x, v[j].x);
                run.y = att_merged(m, run.y, v[j].y);
            }
    }
}

/* blockIdx.x: as attention_tile_k; y: the row of the tile; z: the tile. */
template <class T>
__global__ void __launch_bounds__(COMBINE_THREADS)
    attention_combine_k(const __grid_constant__ weft_attention_args a, const att_launch l) {
    WEFT_SMEM(combine_smem, s);
    att_rows r;
    int from = blockIdx.z * ATT_ROWS, at = threadIdx.x * 2;
    if (!att_block(a, l, r) || from + (int)blockIdx.y >= att_count(r))
        return;
    att_span span = att_span_of(a, r, from, from + ATT_ROWS);
    int first = span.any.first / ATT_SPLIT, last = (span.any.last + ATT_SPLIT - 1) / ATT_SPLIT;
    int64_t unit = (int64_t)blockIdx.x * gridDim.z + blockIdx.z;
    float most = -INFINITY, sum = 0;
    float2 run = make_float2(0.0f, 0.0f);
    for (int split = first; split < last; split += COMBINE_THREADS) {
        int n = last - split < COMBINE_THREADS ? last - split : (int)COMBINE_THREADS;
        float *pair,
            *acc = att_plane(l, unit, split, blockIdx.y, &pair, (int64_t)gridDim.x * gridDim.z);
        most = combine_factors(s, (const float2 *)pair, n, most);
        combine_some(s, acc + at, (int64_t)ATT_ROWS * l.pitch, n, at < l.pitch, run, sum);
    }
    att_row row = att_row_of(r, from + blockIdx.y);
    att_end end = att_end_of<att_base2>(a, row.head, most, sum);
    if (at < l.pitch)
        att_store2<T>(a, att_y(a, row), at, fmaf(run.x, end.factor, 0.0f),
                      fmaf(run.y, end.factor, 0.0f));
    if (threadIdx.x == 0)
        att_store_lse(a, row, end.lse);
}

/* ---- the row ---- */

static int attention_ok(const weft_args *args) {
    const weft_attention_args &a = args->attention;
    int type = a.q.dtype;
    return (type == WEFT_BF16 || type == WEFT_F16) && a.k.dtype == type && a.v.dtype == type &&
           a.y.dtype == type && is_f32(a.slopes) && is_f32(a.bias) && is_f32(a.sinks) &&
           is_f32(a.lse) && a.group > 0 && a.q.shape[2] <= 256 && a.y.shape[2] <= 256;
}

/* Of a head, padded to what kernels are made for. */
static int attention_width(const weft_attention_args *a) {
    int64_t width = a->q.shape[2] > a->y.shape[2] ? a->q.shape[2] : a->y.shape[2];
    return width <= 64 ? 64 : width <= 128 ? 128 : 256;
}

/* Most splits of a sequence. */
static int attention_splits(const weft_attention_args *a) {
    int64_t keys = weft_has(&a->pages) ? a->pages.shape[1] * a->k.shape[2] : a->k.shape[0];
    return (int)((keys + ATT_SPLIT - 1) / ATT_SPLIT);
}

/* Tiles of one query's heads, or of a sequence that decodes. */
static unsigned attention_tiles(const weft_attention_args *a) {
    return (unsigned)(a->group + ATT_ROWS - 1) / ATT_ROWS;
}

static int attention_pitch(const weft_attention_args *a) {
    return (int)(a->y.shape[2] + CHUNK - 1) / CHUNK * CHUNK;
}

static bool attention_has_items(const weft_attention_args *a) {
    return a->q.shape[0] > 1 && a->q.shape[0] * a->group > ATT_ROWS;
}

/* Decode and prefill use it one after the other. */
static size_t attention_scratch(const weft_args *args) {
    const weft_attention_args *a = &args->attention;
    size_t units = (size_t)(a->kvlen.shape[0] * a->k.shape[1]) * attention_tiles(a);
    int splits = attention_splits(a);
    size_t decode = units * (size_t)splits * ATT_ROWS * 4 * (size_t)(2 + attention_pitch(a));
    size_t prefill = attention_has_items(a) && !att_is_general(*a)
                         ? pre_scratch(attention_width(a)) * pre_blocks(a->work.shape[0])
                         : 0;
    return splits < 2 ? 0 : decode > prefill ? decode : prefill;
}

/* Whether rows of t begin at multiples of 16 bytes and are contiguous. */
static bool attention_wide(const weft_tensor &t) {
    bool wide = (size_t)t.data % 16 == 0 && t.stride[t.ndim - 1] == 1;
    for (int i = 0; i + 1 < t.ndim; i++)
        wide &= t.stride[i] % CHUNK == 0 || t.shape[i] == 1;
    return wide;
}

static att_launch attention_plan(const weft_step *step) {
    const weft_attention_args *a = &step->args.attention;
    att_launch l;
    int splits = attention_splits(a);
    l.scratch = (float *)step->scratch;
    l.unit = att_is_general(*a) ? 1.0f : a->scale * att_base2::UNIT;
    l.wide_q = attention_wide(a->q);
    l.wide_k = attention_wide(a->k);
    l.wide_v = attention_wide(a->v);
    l.by_item = false;
    l.splits = splits > 1 ? splits : 0;
    l.pitch = attention_pitch(a);
    return l;
}

template <class T, int DP>
static void attention_tiles_run(const weft_step *step, weft_stream *stream, dim3 grid,
                                const att_launch &l) {
    const weft_attention_args *a = &step->args.attention;
    if (att_is_general(*a))
        WEFT_LAUNCH(step, stream, (attention_tile_k<T, DP, true>), grid, ATT_THREADS,
                    sizeof(att_smem<DP>), *a, l);
    else
        WEFT_LAUNCH(step, stream, (attention_tile_k<T, DP, false>), grid, ATT_THREADS,
                    sizeof(att_smem<DP>), *a, l);
}

template <class T, int DP>
static void attention_items_run(const weft_step *step, weft_stream *stream, const att_launch &l) {
    const weft_attention_args *a = &step->args.attention;
    typedef pre_shape<DP> G;
    if (att_is_general(*a) || !l.wide_q || !pre_takes(a->k) || !pre_takes(a->v) || !pre_takes(a->y))
        attention_tiles_run<T, DP>(step, stream, dim3((unsigned)a->work.shape[0], 1, 4), l);
    else
        WEFT_LAUNCH(step, stream, (attention_prefill_k<T, DP>), pre_blocks(a->work.shape[0]),
                    G::THREADS, sizeof(pre_smem<DP>), *a, l);
}

/* Sequences that decode; then the items of the others, if there can be any. */
template <class T, int DP> static void attention_typed(const weft_step *step, weft_stream *stream) {
    const weft_attention_args *a = &step->args.attention;
    att_launch l = attention_plan(step);
    unsigned units = (unsigned)(a->kvlen.shape[0] * a->k.shape[1]), tiles = attention_tiles(a);
    attention_tiles_run<T, DP>(step, stream, dim3(units, l.splits ? l.splits : 1, tiles), l);
    if (l.splits)
        WEFT_LAUNCH(step, stream, attention_combine_k<T>, dim3(units, ATT_ROWS, tiles),
                    COMBINE_THREADS, sizeof(combine_smem), *a, l);
    l.by_item = true;
    l.splits = 0;
    if (attention_has_items(a))
        attention_items_run<T, DP>(step, stream, l);
}

template <class T> static void attention_sized(const weft_step *step, weft_stream *stream) {
    const weft_attention_args *a = &step->args.attention;
    int width = attention_width(a);
    if (width == 64)
        attention_typed<T, 64>(step, stream);
    else if (width == 128)
        attention_typed<T, 128>(step, stream);
    else
        attention_typed<T, 256>(step, stream);
}

static void attention_run(const weft_step *step, weft_stream *stream) {
    const weft_attention_args *a = &step->args.attention;
    if (!a->q.shape[0] || !a->q.shape[1] || !a->kvlen.shape[0])
        return;
    if (a->q.dtype == WEFT_BF16)
        attention_sized<bf16>(step, stream);
    else
        attention_sized<f16>(step, stream);
}

WEFT_ROWS(attention_mma) = {WEFT_ROW(attention, "mma", MMA, 2, attention_scratch), WEFT_ROWS_END};
WEFT_CLAIMS(attention_mma) = {
    {"attention_tile_k<*,64,*>", ATT_THREADS, 2, sizeof(att_smem<64>), "HMMA LDSM LDGSTS.128"},
    {"attention_tile_k<*,128,*>", ATT_THREADS, 2, sizeof(att_smem<128>), "HMMA LDSM LDGSTS.128"},
    {"attention_tile_k<*,256,*>", ATT_THREADS, 2, sizeof(att_smem<256>), "HMMA LDSM LDGSTS.128"},
    {"attention_prefill_k<*,64>", pre_shape<64>::THREADS, 2, sizeof(pre_smem<64>),
     "HMMA LDSM LDGSTS.128"},
    {"attention_prefill_k<*,128>", pre_shape<128>::THREADS, 2, sizeof(pre_smem<128>),
     "HMMA LDSM LDGSTS.128"},
    {"attention_prefill_k<*,256>", pre_shape<256>::THREADS, 2, sizeof(pre_smem<256>),
     "HMMA LDSM LDGSTS.128"},
    {"attention_combine_k<*>", COMBINE_THREADS, 8, sizeof(combine_smem), "LDG.64x8"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
