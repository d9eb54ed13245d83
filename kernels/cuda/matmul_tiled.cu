/* SPDX-License-Identifier: Apache-2.0
 * matmul in bf16 and fp16 for many tokens, on tensor cores; the chains, and so the bits, are those
 * of matmul_mma.cu.
 *
 * A warp holds a tile of up to 64 rows of w by 64 tokens in registers; ldmatrix reads as few bytes
 * an mma as that allows, because mma.sync asks for nearly all of shared memory's bandwidth on
 * sm_90: of a 128 x 256 tile 352 clocks of some 410 (16 of k: 32 KiB read, 12 KiB written). Stages
 * of 32 k go through shared memory by cp.async, swizzled so that no bank is met twice; the
 * fragments of the next 16 k are fetched while those of the last are multiplied. Blocks next to
 * each other share tiles in L2.
 *
 * Leaves: two groups of warps take two leaves of a 128 x 128 tile at once; then each gives half of
 * its sums to the other, and the pairs that wait for their neighbours in the tree are parked in
 * shared memory. Planes of leaves need no tree: one group takes them one after the other. Bound by
 * arithmetic. Measured: nowhere yet. */
#include "kernels/lib/matmul.cuh"
#include <type_traits>

namespace WEFT_CU_NS {

/* Warps along rows of w and along tokens, a warp's tiles of 16 rows and of 8 tokens, leaves at
 * once, stages, blocks of an SM. */
template <int ROW_WARPS_, int TOKEN_WARPS_, int M_, int N_, int LEAVES_, int STAGES_, int BLOCKS_>
struct tiling {
    enum {
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
typedef tiling<2, 4, 4, 8, 1, 4, 1> tiles_128x256;
typedef tiling<2, 2, 4, 8, 1, 4, 2> tiles_128x128;
typedef tiling<2, 2, 2, 4, 1, 8, 3> tiles_64x64; /* few blocks: more in flight each */
typedef tiling<2, 2, 4, 8, 2, 3, 1> leaves_128x128;
typedef tiling<2, 2, 2, 4, 2, 6, 1> leaves_64x64;

struct no_park {};
template <class L> struct tiled_park { float4 sum[2][L::SPLIT][L::THREADS]; };

template <class L> struct tiled_smem {
    union {
        __align__(128) uint16_t stage[L::STAGES][L::ALL][TILED_K];
        float4 given[L::LEAVES == 1 ? 1 : L::SPLIT][L::THREADS]; /* by a group to the other */
        float turn[L::TOKEN_WARPS * L::TURN * 8 * L::PITCH];     /* [token][row of w] */
    };
    typename std::conditional<L::LEAVES == 1, no_park, tiled_park<L>>::type park;
};

/* ---- copies --------------------------------------------------------------------------------- */

__device__ __forceinline__ int tiled_place(int row, int c) {
    return (c ^ (row >> 1 & 3)) * CHUNK;
}

/* What a thread copies of each stage, and how far it has come. Rows that are not there: the last
 * one, whose sums go nowhere. */
template <class L> struct tiled_copies {
    uint32_t from[L::COPIES]; /* in 16-byte chunks */
    int row, c, width;        /* first row, its chunk; of a leaf */
    int k, left;              /* next: k within the leaf, leaves of this block */
    uint32_t leaf;            /* where it begins, in chunks */

    __device__ __forceinline__ tiled_copies(const weft_matmul_args &a, const mma_block &b)
        : row(threadIdx.x / (TILED_K / CHUNK)), c(threadIdx.x % (TILED_K / CHUNK)),
          width((int)b.width), k(0), left(L::LEAVES == 1 ? 1 : b.leaves),
          leaf((uint32_t)(blockIdx.y * (b.width / CHUNK))) {
#pragma unroll
        for (int j = 0; j < L::COPIES; j++) {
            bool w = j < L::COPIES_W;
            int r = row + (w ? j : j - L::COPIES_W) * L::STEP;
            int of = w ? (int)L::ROWS : (int)L::TOKENS;
            int64_t i = (w ? b.n0 : b.t0) + r % of, end = w ? b.end_n : b.end_t;
            i = i < end ? i : end - 1;
            from[j] = (uint32_t)(i * (w ? a.w.stride[0] : a.x.stride[0]) / CHUNK) +
                      (uint32_t)(r / of * (width / CHUNK) + c);
        }
    }

    /* The next stage, if there is one. */
    __device__ __forceinline__ void start(uint16_t (&to)[L::ALL][TILED_K],
                                          const weft_matmul_args &a) {
        uint32_t at = leaf + (uint32_t)(k / CHUNK);
        if (left > 0) {
#pragma unroll
            for (int j = 0; j < L::COPIES; j++)
                cp_async16(&to[row + j * L::STEP][tiled_place(row, c)],
                           (const uint4 *)(j < L::COPIES_W ? a.w.data : a.x.data) + (from[j] + at));
        }
        k += TILED_K;
        if (k >= width) {
            k = 0;
            left -= L::LEAVES;
            leaf += (uint32_t)(L::LEAVES * width / CHUNK);
        }
        cp_async_commit();
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
        int ra = group * L::ROWS + row + lane % 16;
        int rb = L::LEAVES * L::ROWS + group * L::TOKENS + token + lane / 16 * 8 + lane % 8;
        a = ra * TILED_K + tiled_place(ra, lane / 16);
        b = rb * TILED_K + tiled_place(rb, lane / 8 % 2);
    }
};

/* Fragments of 16 of k. */
template <class L> struct tiled_frags {
    uint32_t a[L::M][4], b[L::N / 2][4];

    /* half: which 16 of the stage's 32 */
    __device__ __forceinline__ void load(const uint16_t (&from)[L::ALL][TILED_K],
                                         const tiled_warp<L> &w, int half) {
        const uint16_t *p = &from[0][0];
#pragma unroll
        for (int i = 0; i < L::M; i++)
            ldmatrix_x4(a[i], p + (w.a ^ half * 16) + i * 16 * TILED_K);
#pragma unroll
        for (int j = 0; j < L::N / 2; j++)
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

    __device__ __forceinline__ tiled_state(tiled_smem<L> &s, const weft_matmul_args &a,
                                           const mma_block &b)
        : copies(a, b), stage(0), todo((int)(b.width / TILED_K) * copies.left / L::LEAVES) {
        for (int i = 0; i < L::STAGES - 1; i++)
            copies.start(s.stage[i], a);
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
     * stand ready on both of its sides. */
    template <class T>
    __device__ __forceinline__ void chain(tiled_smem<L> &s, const weft_matmul_args &a, int steps,
                                          float (&acc)[L::M][L::N][4]) {
#pragma unroll 1
        for (int i = 0; i < steps; i++) {
            tiled_frags<L> next;
            if constexpr (L::STAGES > 3)
                arrive<L::STAGES - 3>();
            next.load(s.stage[stage], warp, 1);
            copies.start(s.stage[stage ? stage - 1 : L::STAGES - 1], a);
            now.template multiply<T>(acc);
            if constexpr (L::STAGES <= 3)
                arrive<L::STAGES - 2>();
            if (--todo) /* else once more: nothing is there behind the last */
                stage = stage + 1 < L::STAGES ? stage + 1 : 0;
            now.load(s.stage[stage], warp, 0);
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

/* Sums of tokens j * 8 .. of each warp, turned around, to plane `leaf` or through the epilogue. */
template <class L>
__device__ static void tiled_store(const float *turn, const weft_matmul_args &a, const mma_block &b,
                                   int j0, int leaf) {
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
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
        if (a.partial)
            store8(a.y, leaf * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, v);
        else
            e.store8(c, v);
    }
}

/* Accumulators (rows g, g + 8; tokens 2p, 2p + 1) of M tiles from row `row` on to y. */
template <class L, int M>
__device__ __forceinline__ void tiled_finish(tiled_smem<L> &s, const weft_matmul_args &a,
                                             const mma_block &b, const tiled_warp<L> &w, int row,
                                             const float (&acc)[L::M][L::N][4], int leaf) {
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
        tiled_store<L>(s.turn, a, b, j0, leaf);
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

/* ---- kernels -------------------------------------------------------------------------------- */

/* Bands of 16 strips of w, inside one the strips first: blocks that run together share both. */
template <class L>
__device__ __forceinline__ void tiled_locate(const weft_matmul_args &a, mma_block &b) {
    int64_t strips = (a.w.shape[0] + L::ROWS - 1) / L::ROWS;
    int64_t tiles = (a.x.shape[0] + L::TOKENS - 1) / L::TOKENS;
    int64_t band = blockIdx.x / (TILED_BAND * tiles), in = blockIdx.x % (TILED_BAND * tiles);
    int64_t high = strips - band * TILED_BAND;
    high = high < TILED_BAND ? high : (int64_t)TILED_BAND;
    b = mma_block_at(a, L::ROWS, L::TOKENS, (band * TILED_BAND + in % high) * L::ROWS,
                     in / high * L::TOKENS);
}

template <class T, class L>
__global__ void __launch_bounds__(L::THREADS, L::BLOCKS)
    matmul_tiled_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(tiled_smem<L>, s);
    mma_block b;
    tiled_locate<L>(a, b);
    if (b.t0 >= b.end_t)
        return;
    float acc[L::M][L::N][4];
    tiled_state<L> state(s, a, b);
    int steps = (int)(b.width / TILED_K);
    if constexpr (L::LEAVES == 1) {
        tiled_clear<L>(acc);
        state.template chain<T>(s, a, steps, acc);
        cp_async_wait_all();
        tiled_finish<L, L::M>(s, a, b, state.warp, state.warp.row, acc, blockIdx.y);
    } else {
        int pairs = b.leaves / 2, group = state.warp.group;
        for (int p = 0; p < pairs; p++) {
            tiled_clear<L>(acc);
            state.template chain<T>(s, a, steps, acc);
            tree_of_pairs<L>(s, p, p == pairs - 1, group, acc);
        }
        tiled_finish<L, L::M / 2>(s, a, b, state.warp, state.warp.row + group * L::M / 2 * 16, acc,
                                  0);
    }
}

template <class T, class L> static void tiled_launch(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int64_t strips = (a->w.shape[0] + L::ROWS - 1) / L::ROWS;
    int64_t tiles = (a->x.shape[0] + L::TOKENS - 1) / L::TOKENS;
    dim3 grid((unsigned)(strips * tiles), a->partial ? (unsigned)a->leaves : 1u);
    WEFT_LAUNCH(step, stream, (matmul_tiled_k<T, L>), grid, L::THREADS, sizeof(tiled_smem<L>), *a);
}

/* Whether tiles of this kind can: whole stages, one leaf or its plane a block, or pairs of them. */
template <class L> static bool tiled_takes(const weft_matmul_args *a, bool alone) {
    int64_t width = a->x.shape[1] / a->leaves;
    return width > 0 && width % TILED_K == 0 && alone == (L::LEAVES == 1) &&
           sizeof(tiled_smem<L>) <= launch_most_shared();
}

template <class L> static bool tiled_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (!a->x.shape[0] || !a->w.shape[0])
        return true;
    if (!mma_wide(a) || !tiled_takes<L>(a, a->leaves == 1 || a->partial))
        return false;
    if (a->x.dtype == WEFT_BF16)
        tiled_launch<bf16, L>(step, stream);
    else
        tiled_launch<f16, L>(step, stream);
    return true;
}

template <class L> static int64_t tiled_rounds(const weft_matmul_args *a) {
    int64_t strips = (a->w.shape[0] + L::ROWS - 1) / L::ROWS;
    int64_t tiles = (a->x.shape[0] + L::TOKENS - 1) / L::TOKENS, sms = launch_processors();
    return (strips * tiles * (a->partial ? a->leaves : 1) + sms - 1) / sms;
}

/* The tiles of least time: blocks of the busiest SM by what one costs there. */
bool matmul_tiled(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (a->leaves > 1 && !a->partial) {
        int64_t pairs = TILED_COST_128X128 * tiled_rounds<leaves_128x128>(a);
        if (TILED_COST_64X64 * tiled_rounds<leaves_64x64>(a) < pairs)
            return tiled_run<leaves_64x64>(step, stream);
        return tiled_run<leaves_128x128>(step, stream) || tiled_run<leaves_64x64>(step, stream);
    }
    int64_t large = TILED_COST_128X256 * tiled_rounds<tiles_128x256>(a);
    int64_t middle = TILED_COST_128X128 * tiled_rounds<tiles_128x128>(a);
    int64_t small = TILED_COST_64X64 * tiled_rounds<tiles_64x64>(a);
    if (small < large && small < middle)
        return tiled_run<tiles_64x64>(step, stream);
    if (middle < large)
        return tiled_run<tiles_128x128>(step, stream);
    return tiled_run<tiles_128x256>(step, stream);
}

/* Of pairs of leaves: their planes too, which the other tiles then make. */
template <class L> static int tiled_ok(const weft_args *args) {
    const weft_matmul_args *a = &args->matmul;
    bool alone = a->leaves == 1 || (a->partial && L::LEAVES == 1);
    return mma_takes(args) && mma_strides(a) && tiled_takes<L>(a, alone);
}

template <class L> static void tiled_row(const weft_step *step, weft_stream *stream) {
    if (!tiled_run<L>(step, stream) && !tiled_run<tiles_128x128>(step, stream))
        matmul_any(step, stream);
}

#define TILED_ROW(name, tiles) WEFT_ROW_AS(matmul, name, MMA, 0, tiled_ok<tiles>, tiled_row<tiles>)

WEFT_ROWS(matmul_tiled) = {
    TILED_ROW("mma_128x256", tiles_128x256), TILED_ROW("mma_128x128", tiles_128x128),
    TILED_ROW("mma_64x64", tiles_64x64),     TILED_ROW("mma_leaves", leaves_128x128),
    TILED_ROW("mma_leaves64", leaves_64x64), WEFT_ROWS_END};

#define TILED_CLAIM(name, tiles) \
    { \
        name, tiles::THREADS, tiles::BLOCKS, sizeof(tiled_smem<tiles>), \
            "HMMA.16816 LDSM.4 LDGSTS.128 STG.128" \
    }

WEFT_CLAIMS(matmul_tiled) = {TILED_CLAIM("matmul_tiled_k<*,tiling<2,4,4,8,1,4,1>>", tiles_128x256),
                             TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,4,8,1,4,2>>", tiles_128x128),
                             TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,2,4,1,8,3>>", tiles_64x64),
                             TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,4,8,2,3,1>>", leaves_128x128),
                             TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,2,4,2,6,1>>", leaves_64x64),
                             WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
