/* SPDX-License-Identifier: Apache-2.0
 * Tiles of a matmul and of its gradients on tensor cores: C[row,token] = sum over k of W[row,k]
 * X[token,k], whichever of the three is the weight. What a block stages, how a warp multiplies it,
 * how leaves of k meet.
 *
 * A warp holds a tile of up to 64 rows by 64 tokens in registers; ldmatrix reads as few bytes an
 * mma as that allows, because mma.sync asks for nearly all of shared memory's bandwidth on sm_90:
 * of a 128 x 256 tile 352 clocks of some 410 (16 of k: 32 KiB read, 12 KiB written). Stages of 32 k
 * go through shared memory by cp.async, swizzled so that no bank is met twice; the fragments of the
 * next 16 k are fetched while those of the last are multiplied.
 *
 * An operand that lies in memory with k outermost ("turned") is staged as it lies, 32 rows of k,
 * and ldmatrix turns it.
 *
 * Leaves: two groups of warps take two leaves of a 128 x 128 tile at once; then each gives half of
 * its sums to the other, and the pairs that wait for their neighbours in the tree are parked in
 * shared memory. */
#pragma once
#include "kernels/lib/matmul.cuh"
#include <type_traits>

namespace WEFT_CU_NS {

/* Operands that lie turned. */
enum { TURNED_W = 1, TURNED_X = 2 };

/* Warps along rows of w and along tokens, a warp's tiles of 16 rows and of 8 tokens, leaves at
 * once, stages, blocks of an SM, turned operands. */
template <int ROW_WARPS_, int TOKEN_WARPS_, int M_, int N_, int LEAVES_, int STAGES_, int BLOCKS_,
          int TURNED_ = 0>
struct tiling {
    enum {
        TURNED = TURNED_,
        ROW_WARPS = ROW_WARPS_,
        TOKEN_WARPS = TOKEN_WARPS_,
        M = M_,
        N = N_,
        LEAVES = LEAVES_,
        STAGES = STAGES_,
        BLOCKS = BLOCKS_,
        WARPS = ROW_WARPS * TOKEN_WARPS,
        THREADS = 32 * WARPS * LEAVES,
        ROWS = 16 * M * ROW_WARPS,
        TOKENS = 8 * N * TOKEN_WARPS,
        ALL = LEAVES * (ROWS + TOKENS),     /* rows of a stage: of w for each leaf, then of x */
        STEP = THREADS / (TILED_K / CHUNK), /* rows between a thread's copies */
        COPIES = ALL / STEP,
        COPIES_W = LEAVES * ROWS / STEP,
        SPLIT = M * N * 2 / 4, /* fours of sums that a group gives away */
        TURN = N < 4 ? N : 4,  /* tiles of 8 tokens a warp turns around at once */
        PITCH = ROWS + MMA_PAD
    };
};
/* Of a block: large, two side by side, few (more in flight each); two leaves at once. */
template <int TURNED> using tiles_128x256 = tiling<2, 4, 4, 8, 1, 4, 1, TURNED>;
template <int TURNED> using tiles_128x128 = tiling<2, 2, 4, 8, 1, 4, 2, TURNED>;
template <int TURNED> using tiles_64x64 = tiling<2, 2, 2, 4, 1, 8, 3, TURNED>;
template <int TURNED> using leaves_128x128 = tiling<2, 2, 4, 8, 2, 3, 1, TURNED>;
template <int TURNED> using leaves_64x64 = tiling<2, 2, 2, 4, 2, 6, 1, TURNED>;

struct no_park {};
template <class L> struct tiled_park { float4 sum[2][L::SPLIT][L::THREADS]; };

template <class L> struct tiled_smem {
    union {
        __align__(128) uint16_t stage[L::STAGES][L::ALL * TILED_K];
        float4 given[L::LEAVES == 1 ? 1 : L::SPLIT][L::THREADS]; /* by a group to the other */
        float turn[L::TOKEN_WARPS * L::TURN * 8 * L::PITCH];     /* [token][row of w] */
    };
    typename std::conditional<L::LEAVES == 1, no_park, tiled_park<L>>::type park;
};

/* ---- copies --------------------------------------------------------------------------------- */

__device__ __forceinline__ int tiled_place(int row, int c) {
    return (c ^ (row >> 1 & 3)) * CHUNK;
}

/* Chunk c of row k of an operand that lies turned, ROWS elements a row. */
template <int ROWS> __device__ __forceinline__ int turned_place(int k, int c) {
    return k * ROWS + (c ^ (k & 7)) * CHUNK;
}

/* A thread's copy j of an operand: ROWS rows (or columns, if it lies turned) of each leaf from
 * `first` on, of which those before `end` exist; the last one stands for the others, whose sums go
 * nowhere. */
struct tiled_copy {
    int leaf, row, k; /* row, or chunk of a turned row; k, or chunk of k */
};

template <class L, int ROWS, bool TURNED>
__device__ __forceinline__ tiled_copy tiled_copy_of(int j) {
    enum { LEAF = ROWS * (TILED_K / CHUNK), CHUNKS = TURNED ? ROWS / CHUNK : TILED_K / CHUNK };
    int i = j * L::THREADS + (int)threadIdx.x, in = i % LEAF;
    if constexpr (TURNED)
        return tiled_copy{i / LEAF, in % CHUNKS, in / CHUNKS};
    return tiled_copy{i / LEAF, in / CHUNKS, in % CHUNKS};
}

/* Where it comes from, in chunks. */
template <class L, int ROWS, bool TURNED>
__device__ __forceinline__ uint32_t tiled_from(int j, int64_t stride, int64_t first, int64_t end,
                                               int64_t width) {
    tiled_copy c = tiled_copy_of<L, ROWS, TURNED>(j);
    int64_t at = TURNED ? first / CHUNK + c.row : first + c.row;
    int64_t last = TURNED ? (end - 1) / CHUNK : end - 1;
    at = at < last ? at : last;
    return TURNED ? (uint32_t)((c.leaf * width + c.k) * (stride / CHUNK) + at)
                  : (uint32_t)(at * (stride / CHUNK) + c.leaf * (width / CHUNK) + c.k);
}

/* Where copy 0 goes to, in a stage's part of the operand; copy j so many threads' chunks behind. */
template <class L, int ROWS, bool TURNED> __device__ __forceinline__ int tiled_to() {
    tiled_copy c = tiled_copy_of<L, ROWS, TURNED>(0);
    return TURNED ? turned_place<ROWS>(c.k, c.row)
                  : (c.leaf * ROWS + c.row) * TILED_K + tiled_place(c.row, c.k);
}

/* What a block multiplies; how many rows of operands that both lie turned exist. */
struct tiled_source {
    const weft_tensor *w, *x;
    int64_t end_k;
};

/* What a thread copies of each stage, and how far it has come. */
template <class L> struct tiled_copies {
    static constexpr bool W = (L::TURNED & TURNED_W) != 0, X = (L::TURNED & TURNED_X) != 0,
                          ENDS = W && X;
    uint32_t from[L::COPIES];
    int to_w, to_x;
    int k, width, left,
        leaf; /* next: k within the leaf, of that many; leaves to do, the next one */

    __device__ __forceinline__ tiled_copies(const tiled_source &o, const mma_block &b, int first)
        : to_w(tiled_to<L, L::ROWS, W>()), to_x(tiled_to<L, L::TOKENS, X>()), k(0),
          width((int)b.width), left(L::LEAVES == 1 ? 1 : b.leaves), leaf(first) {
#pragma unroll
        for (int j = 0; j < L::COPIES; j++)
            from[j] = j < L::COPIES_W
                          ? tiled_from<L, L::ROWS, W>(j, o.w->stride[0], b.n0, b.end_n, width)
                          : tiled_from<L, L::TOKENS, X>(j - L::COPIES_W, o.x->stride[0], b.t0,
                                                        b.end_t, width);
    }

    /* Chunks from the block's first k to the next stage's. */
    __device__ __forceinline__ uint32_t ahead(const weft_tensor &t, bool turned) const {
        uint32_t at = (uint32_t)leaf * (uint32_t)width + (uint32_t)k;
        return turned ? at * (uint32_t)(t.stride[0] / CHUNK) : at / CHUNK;
    }

    /* Whether the next stage has rows of k that do not exist: zeros. */
    __device__ __forceinline__ bool is_end(const tiled_source &o) const {
        return ENDS && (k + TILED_K > width ||
                        (leaf + L::LEAVES - 1) * (int64_t)width + k + TILED_K > o.end_k);
    }

    __device__ __forceinline__ bool exists(const tiled_source &o, int j) const {
        tiled_copy c = j < L::COPIES_W ? tiled_copy_of<L, L::ROWS, true>(j)
                                       : tiled_copy_of<L, L::TOKENS, true>(j - L::COPIES_W);
        return k + c.k < width && (leaf + c.leaf) * (int64_t)width + k + c.k < o.end_k;
    }

    /* The next stage, if there is one. */
    __device__ __forceinline__ void start(uint16_t (&to)[L::ALL * TILED_K], const tiled_source &o) {
        uint32_t w = ahead(*o.w, W), x = ahead(*o.x, X);
        if (left > 0) {
            if (is_end(o))
                start_end(to, o, w, x);
            else
#pragma unroll
                for (int j = 0; j < L::COPIES; j++)
                    one(to, o, j, w, x);
        }
        k += TILED_K;
        if (k >= width) {
            k = 0;
            left -= L::LEAVES;
            leaf += L::LEAVES;
        }
        cp_async_commit();
    }

    __device__ __forceinline__ void one(uint16_t (&to)[L::ALL * TILED_K], const tiled_source &o,
                                        int j, uint32_t w, uint32_t x) const {
        bool is_w = j < L::COPIES_W;
        cp_async16(&to[j * L::THREADS * CHUNK + (is_w ? to_w : to_x)],
                   (const uint4 *)(is_w ? o.w->data : o.x->data) + (from[j] + (is_w ? w : x)));
    }

    __device__ __forceinline__ void start_end(uint16_t (&to)[L::ALL * TILED_K],
                                              const tiled_source &o, uint32_t w, uint32_t x) const {
#pragma unroll
        for (int j = 0; j < L::COPIES; j++)
            if (exists(o, j))
                one(to, o, j, w, x);
            else
                st_shared((uint4 *)&to[j * L::THREADS * CHUNK + (j < L::COPIES_W ? to_w : to_x)],
                          make_uint4(0, 0, 0, 0));
    }
};

/* ---- products ------------------------------------------------------------------------------- */

/* A warp's place, and where its lanes read fragments: elements of a stage. */
template <class L> struct tiled_warp {
    int group, row, token, a, b;

    __device__ __forceinline__ tiled_warp() {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        group = warp / L::WARPS;
        row = warp % L::ROW_WARPS * 16 * L::M;
        token = warp % L::WARPS / L::ROW_WARPS * 8 * L::N;
        int ra = row + lane % 16, rb = token + lane / 16 * 8 + lane % 8;
        a = ra * TILED_K + tiled_place(ra, lane / 16);
        b = rb * TILED_K + tiled_place(rb, lane / 8 % 2);
        if constexpr (tiled_copies<L>::W) /* matrices (k, rows): 0 0, 0 8, 8 0, 8 8 */
            a = turned_place<L::ROWS>(lane / 16 * 8 + lane % 8, row / CHUNK + lane / 8 % 2);
        if constexpr (tiled_copies<L>::X)
            b = turned_place<L::TOKENS>(lane % 16, token / CHUNK + lane / 16);
        a += group * L::ROWS * TILED_K;
        b += (L::LEAVES * L::ROWS + group * L::TOKENS) * TILED_K;
    }
};

/* Fragments of 16 of k. */
template <class L> struct tiled_frags {
    uint32_t a[L::M][4], b[L::N / 2][4];

    /* half: which 16 of the stage's 32 */
    __device__ __forceinline__ void load(const uint16_t (&from)[L::ALL * TILED_K],
                                         const tiled_warp<L> &w, int half) {
        const uint16_t *p = from;
#pragma unroll
        for (int i = 0; i < L::M; i++)
            if constexpr (tiled_copies<L>::W)
                ldmatrix_x4_trans(a[i], p + (w.a ^ i * 16) + half * 16 * L::ROWS);
            else
                ldmatrix_x4(a[i], p + (w.a ^ half * 16) + i * 16 * TILED_K);
#pragma unroll
        for (int j = 0; j < L::N / 2; j++)
            if constexpr (tiled_copies<L>::X)
                ldmatrix_x4_trans(b[j], p + (w.b ^ j * 16) + half * 16 * L::TOKENS);
            else
                ldmatrix_x4(b[j], p + (w.b ^ half * 16) + j * 16 * TILED_K);
    }

    template <class T> __device__ __forceinline__ void multiply(float (&acc)[L::M][L::N][4]) const {
#pragma unroll
        for (int i = 0; i < L::M; i++)
#pragma unroll
            for (int j = 0; j < L::N; j++) {
                int at = i % 2 ? L::N - 1 - j : j; /* there and back: a fragment is used twice */
                uint32_t two[2] = {b[at / 2][at % 2 * 2], b[at / 2][at % 2 * 2 + 1]};
                mma16<T>(acc[i][at], a[i], two);
            }
    }
};

/* Stages run on from leaf to leaf: `stage` is the current one, its first fragments are in `now`. */
template <class L> struct tiled_state {
    tiled_copies<L> copies;
    tiled_warp<L> warp;
    tiled_frags<L> now;
    int stage, todo;

    /* steps: of a leaf, at least one */
    __device__ __forceinline__ tiled_state(tiled_smem<L> &s, const tiled_source &o,
                                           const mma_block &b, int first, int steps)
        : copies(o, b, first), stage(0), todo(steps * copies.left / L::LEAVES) {
        for (int i = 0; i < L::STAGES - 1; i++)
            copies.start(s.stage[i], o);
        cp_async_wait<L::STAGES - 2>();
        __syncthreads();
        now.load(s.stage[0], warp, 0);
    }

    /* The stage after this one is there for all, and nobody reads the one before it any more. */
    template <int YOUNGER> __device__ __forceinline__ void arrive() {
        cp_async_wait<YOUNGER>();
        __syncthreads();
    }

    /* A leaf's chains. With stages to spare the barrier comes at the top, where products of `now`
     * stand ready on both of its sides. halves: of k that there are; none of the others is a
     * step. */
    template <class T>
    __device__ __forceinline__ void chain(tiled_smem<L> &s, const tiled_source &o, int halves,
                                          float (&acc)[L::M][L::N][4]) {
#pragma unroll 1
        for (int i = 0; i < halves; i += 2) {
            tiled_frags<L> next;
            if constexpr (L::STAGES > 3)
                arrive<L::STAGES - 3>();
            next.load(s.stage[stage], warp, 1);
            copies.start(s.stage[stage ? stage - 1 : L::STAGES - 1], o);
            now.template multiply<T>(acc);
            if constexpr (L::STAGES <= 3)
                arrive<L::STAGES - 2>();
            if (--todo) /* else once more: nothing is there behind the last */
                stage = stage + 1 < L::STAGES ? stage + 1 : 0;
            now.load(s.stage[stage], warp, 0);
            if (!tiled_copies<L>::ENDS || i + 1 < halves)
                next.template multiply<T>(acc);
        }
    }
};

template <class L> __device__ __forceinline__ void tiled_clear(float (&acc)[L::M][L::N][4]) {
#pragma unroll
    for (int i = 0; i < L::M; i++)
#pragma unroll
        for (int j = 0; j < L::N; j++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                acc[i][j][q] = 0;
}

/* ---- results -------------------------------------------------------------------------------- */

/* Sums of tokens j * 8 .. of each warp, turned around: put(chunk, sums). */
template <class L, class PUT>
__device__ __forceinline__ void tiled_store(const float *turn, const mma_block &b, int j0,
                                            const PUT &put) {
    enum { STRIPS = L::ROWS / CHUNK, EACH = L::TURN * 8 };
    for (int i = threadIdx.x; i < L::TOKEN_WARPS * EACH * STRIPS; i += L::THREADS) {
        int t = i / STRIPS, r = i % STRIPS * CHUNK;
        chunk c = {b.t0 + t / EACH * (8 * L::N) + j0 * 8 + t % EACH, b.n0 + r, 0};
        float v[CHUNK];
        c.n = b.end_n - c.i < CHUNK ? (int)(b.end_n - c.i) : (int)CHUNK;
        if (c.row >= b.end_t || c.n <= 0)
            continue;
        const float4 *from = (const float4 *)(turn + t * L::PITCH + r);
        float4 lo = ld_shared(from), hi = ld_shared(from + 1);
        memcpy(v, &lo, 16);
        memcpy(v + 4, &hi, 16);
        put(c, v);
    }
}

/* Accumulators (rows g, g + 8; tokens 2p, 2p + 1) of M tiles from row `row` on. */
template <class L, int M, class PUT>
__device__ __forceinline__ void tiled_finish(tiled_smem<L> &s, const mma_block &b,
                                             const tiled_warp<L> &w, int row,
                                             const float (&acc)[L::M][L::N][4], const PUT &put) {
    int lane = threadIdx.x % 32, t0 = w.token / L::N * L::TURN + lane % 4 * 2;
#pragma unroll
    for (int j0 = 0; j0 < L::N; j0 += L::TURN) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < L::TURN; j++)
#pragma unroll
                for (int q = 0; q < 4; q++)
                    st_shared(&s.turn[(t0 + j * 8 + q % 2) * L::PITCH + row + i * 16 + lane / 4 +
                                      q / 2 * 8],
                              acc[i][j0 + j][q]);
        __syncthreads();
        tiled_store<L>(s.turn, b, j0, put);
    }
}

/* ---- leaves --------------------------------------------------------------------------------- */

__device__ __forceinline__ float4 add4(const float4 &a, const float (&b)[4]) {
    return make_float4(a.x + b[0], a.y + b[1], a.z + b[2], a.w + b[3]);
}

/* The first half of `acc` becomes the pair's sums of the half of the tile that this group keeps. */
template <class L>
__device__ __forceinline__ void pair_up(float4 (&given)[L::SPLIT][L::THREADS], int group,
                                        float (&acc)[L::M][L::N][4]) {
    int me = threadIdx.x, other = me ^ L::WARPS * 32;
#pragma unroll
    for (int q = 0; q < L::SPLIT; q++) {
        const float *lo = acc[q / L::N][q % L::N], *hi = acc[q / L::N + L::M / 2][q % L::N];
        float4 v = group ? make_float4(lo[0], lo[1], lo[2], lo[3])
                         : make_float4(hi[0], hi[1], hi[2], hi[3]);
        st_shared(&given[q][me], v);
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < L::SPLIT; q++) {
        float(&lo)[4] = acc[q / L::N][q % L::N];
        const float(&hi)[4] = acc[q / L::N + L::M / 2][q % L::N];
        float keep[4] = {group ? hi[0] : lo[0], group ? hi[1] : lo[1], group ? hi[2] : lo[2],
                         group ? hi[3] : lo[3]};
        float4 v = add4(ld_shared(&given[q][other]), keep);
        memcpy(lo, &v, 16);
    }
}

/* What waits at the places this thread has read its partner's sums from. */
template <class L>
__device__ __forceinline__ void add_parked(const float4 (&park)[L::SPLIT][L::THREADS],
                                           float (&acc)[L::M][L::N][4]) {
    int other = threadIdx.x ^ L::WARPS * 32;
#pragma unroll
    for (int q = 0; q < L::SPLIT; q++) {
        float4 v = add4(ld_shared(&park[q][other]), acc[q / L::N][q % L::N]);
        memcpy(acc[q / L::N][q % L::N], &v, 16);
    }
}

template <class L>
__device__ __forceinline__ void park_sums(float4 (&park)[L::SPLIT][L::THREADS],
                                          const float (&acc)[L::M][L::N][4]) {
    int other = threadIdx.x ^ L::WARPS * 32;
#pragma unroll
    for (int q = 0; q < L::SPLIT; q++) {
        const float *v = acc[q / L::N][q % L::N];
        st_shared(&park[q][other], make_float4(v[0], v[1], v[2], v[3]));
    }
}

/* Pair p of leaves into the tree; the last one finds all copies done and the stages free. Pairs 0
 * and 2 meet where the first pair is parked, 1 where two pairs are. */
template <class L>
__device__ __forceinline__ void tree_of_pairs(tiled_smem<L> &s, int p, bool last, int group,
                                              float (&acc)[L::M][L::N][4]) {
    if (last) {
        cp_async_wait_all();
        __syncthreads();
        pair_up<L>(s.given, group, acc);
    } else {
        pair_up<L>(s.park.sum[p & 1], group, acc);
    }
    if (p & 1)
        add_parked<L>(s.park.sum[0], acc);
    if (p == 3)
        add_parked<L>(s.park.sum[1], acc);
    if (!last)
        park_sums<L>(s.park.sum[p & 1], acc);
}

/* ---- blocks --------------------------------------------------------------------------------- */

/* The first half of `acc` becomes the sums of all pairs of leaves. */
template <class T, class L>
__device__ __forceinline__ void tiled_pairs(tiled_smem<L> &s, const tiled_source &from,
                                            tiled_state<L> &state, int leaves, int halves,
                                            float (&acc)[L::M][L::N][4]) {
    int pairs = leaves / 2;
    for (int p = 0; p < pairs; p++) {
        tiled_clear<L>(acc);
        state.template chain<T>(s, from, halves, acc);
        tree_of_pairs<L>(s, p, p == pairs - 1, state.warp.group, acc);
    }
}

/* A block's sums, one leaf's or all leaves': put(chunk, sums). halves: of a leaf's k. */
template <class T, class L, class PUT>
__device__ __forceinline__ void tiled_block(tiled_smem<L> &s, const tiled_source &from,
                                            const mma_block &b, tiled_state<L> &state, int halves,
                                            const PUT &put) {
    float acc[L::M][L::N][4];
    if constexpr (L::LEAVES == 1) {
        tiled_clear<L>(acc);
        state.template chain<T>(s, from, halves, acc);
        cp_async_wait_all();
        tiled_finish<L, L::M>(s, b, state.warp, state.warp.row, acc, put);
    } else {
        tiled_pairs<T, L>(s, from, state, b.leaves, halves, acc);
        int row = state.warp.row + state.warp.group * L::M / 2 * 16;
        tiled_finish<L, L::M / 2>(s, b, state.warp, row, acc, put);
    }
}

/* Bands of 16 strips of rows, inside one the strips first: blocks that run together share both
 * operands in L2. */
template <class L>
__device__ __forceinline__ void tiled_locate(int64_t rows, int64_t tokens, int64_t *n0,
                                             int64_t *t0) {
    int64_t strips = (rows + L::ROWS - 1) / L::ROWS, tiles = (tokens + L::TOKENS - 1) / L::TOKENS;
    int64_t band = blockIdx.x / (TILED_BAND * tiles), in = blockIdx.x % (TILED_BAND * tiles);
    int64_t high = strips - band * TILED_BAND;
    high = high < TILED_BAND ? high : (int64_t)TILED_BAND;
    *n0 = (band * TILED_BAND + in % high) * L::ROWS;
    *t0 = in / high * L::TOKENS;
}

template <class L> static int64_t tiled_blocks(int64_t rows, int64_t tokens) {
    return (rows + L::ROWS - 1) / L::ROWS * ((tokens + L::TOKENS - 1) / L::TOKENS);
}

/* Blocks of the busiest SM, of `planes` times so many. */
template <class L> static int64_t tiled_rounds(int64_t rows, int64_t tokens, int64_t planes) {
    int64_t sms = launch_processors();
    return (tiled_blocks<L>(rows, tokens) * planes + sms - 1) / sms;
}

} // namespace WEFT_CU_NS
