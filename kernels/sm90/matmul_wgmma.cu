/* SPDX-License-Identifier: Apache-2.0
 * matmul in bf16 and fp16 for many tokens by wgmma, which reads both operands from shared memory:
 * on sm_90 twice the rate of mma.sync. A granule of 16 k has the bits of mma.sync m16n8k16 there,
 * so the chains, and the results, are those of kernels/cuda/matmul_mma.cu.
 *
 * A warpgroup holds 64 rows of w by 64, 128 or 256 tokens. Stages of 32 or 64 k go through shared
 * memory by cp.async in the layout that wgmma's descriptors call swizzled, all threads copying. The
 * products of a stage run while the barrier of the next one is passed; a stage is filled again once
 * the products after its own have been issued, and a barrier later. Blocks next to each other share
 * tiles in L2.
 *
 * Leaves: one after the other; those that wait for their neighbours in the tree do so in registers
 * (one leaf) and in shared memory (two and four). Bound by arithmetic and by shared memory.
 * Measured: nowhere yet. */
#include "kernels/lib/matmul.cuh"
#include <ptx_sm90.cuh>

namespace WEFT_CU_NS {

/* Warpgroups along rows of w, tokens, k of a stage, stages, blocks of an SM, whether leaves
 * meet. */
template <int GROUPS_, int TOKENS_, int K_, int STAGES_, int BLOCKS_, bool TREE_> struct wg_tiling {
    enum {
        TOKENS = TOKENS_,
        K = K_,
        STAGES = STAGES_,
        BLOCKS = BLOCKS_,
        TREE = TREE_,
        THREADS = 128 * GROUPS_,
        ROWS = 64 * GROUPS_,
        SUMS = TOKENS / 2,            /* of a thread */
        ALL = ROWS + TOKENS,          /* rows of a stage: of w, then of x */
        STEP = THREADS / (K / CHUNK), /* rows between a thread's copies */
        COPIES = ALL / STEP,
        COPIES_W = ROWS / STEP,
        AHEAD = STAGES - 2, /* stages on their way while one is multiplied */
        PITCH = ROWS + MMA_PAD
    };
};
typedef wg_tiling<2, 256, 64, 4, 1, false> wg_128x256;
typedef wg_tiling<2, 128, 32, 6, 2, false> wg_128x128;
typedef wg_tiling<1, 64, 64, 4, 3, false> wg_64x64;
typedef wg_tiling<2, 128, 32, 6, 1, true> wg_tree_128x128;
typedef wg_tiling<1, 64, 64, 4, 2, true> wg_tree_64x64;

template <class L> struct wg_smem {
    union {
        __align__(1024) uint16_t stage[L::STAGES][L::ALL][L::K];
        float turn[L::TOKENS * L::PITCH]; /* [token][row of w] */
    };
    float4 park[L::TREE ? 2 : 1][L::TREE ? L::SUMS / 4 : 1][L::TREE ? L::THREADS : 1];
};

/* ---- copies --------------------------------------------------------------------------------- */

/* Where 16-byte chunk c of a row lies: its address bits from 4 on, turned over by those from 7
 * on. */
template <class L> __device__ __forceinline__ int wg_place(int row, int c) {
    return (c ^ (row / (64 / L::K) & (L::K / CHUNK - 1))) * CHUNK;
}

/* What a thread copies of each stage, and how far it has come; leaves lie next to each other. Rows
 * that are not there: the last one, whose sums go nowhere. */
template <class L> struct wg_copies {
    uint32_t from[L::COPIES], at, end; /* in 16-byte chunks */
    int row, c;                        /* first row, its chunk */

    __device__ __forceinline__ wg_copies(const weft_matmul_args &a, const mma_block &b)
        : at((uint32_t)(blockIdx.y * (b.width / CHUNK))),
          end(at + (uint32_t)((L::TREE ? b.leaves : 1) * (b.width / CHUNK))),
          row(threadIdx.x / (L::K / CHUNK)), c(threadIdx.x % (L::K / CHUNK)) {
#pragma unroll
        for (int j = 0; j < L::COPIES; j++) {
            bool w = j < L::COPIES_W;
            int64_t i = w ? b.n0 + row + j * L::STEP : b.t0 + row + (j - L::COPIES_W) * L::STEP;
            int64_t last = (w ? b.end_n : b.end_t) - 1;
            i = i < last ? i : last;
            from[j] = (uint32_t)(i * (w ? a.w.stride[0] : a.x.stride[0]) / CHUNK + c);
        }
    }

    /* The next stage; past the last, zeros that nobody looks at. */
    __device__ __forceinline__ void start(uint16_t (&to)[L::ALL][L::K], const weft_matmul_args &a) {
        bool more = at < end;
#pragma unroll
        for (int j = 0; j < L::COPIES; j++) {
            const uint4 *p = (const uint4 *)(j < L::COPIES_W ? a.w.data : a.x.data);
            cp_async16(&to[row + j * L::STEP][wg_place<L>(row, c)], p + (more ? from[j] + at : 0u),
                       more ? 16 : 0);
        }
        cp_async_commit();
        at += L::K / CHUNK;
    }
};

/* ---- products ------------------------------------------------------------------------------- */

template <class T> struct wg_mma;
template <> struct wg_mma<bf16> {
    template <int N>
    static __device__ __forceinline__ void add(float (&d)[N / 2], uint64_t w, uint64_t x,
                                               int more) {
        wgmma_bf16<N>(d, w, x, more);
    }
};
template <> struct wg_mma<f16> {
    template <int N>
    static __device__ __forceinline__ void add(float (&d)[N / 2], uint64_t w, uint64_t x,
                                               int more) {
        wgmma_f16<N>(d, w, x, more);
    }
};

/* Stages run on from leaf to leaf: `stage` is the next one to multiply. */
template <class L> struct wg_state {
    wg_copies<L> copies;
    int group, stage;

    __device__ __forceinline__ wg_state(wg_smem<L> &s, const weft_matmul_args &a,
                                        const mma_block &b)
        : copies(a, b), group(__shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0)), stage(0) {
        for (int i = 0; i < L::AHEAD; i++)
            copies.start(s.stage[i], a);
    }

    /* A leaf's chains. */
    template <class T>
    __device__ __forceinline__ void chain(wg_smem<L> &s, const weft_matmul_args &a, int steps,
                                          float (&acc)[L::SUMS]) {
#pragma unroll 1
        for (int i = 0; i < steps; i++) {
            cp_async_wait<L::AHEAD - 1>();
            fence_proxy_async();
            __syncthreads();
            uint64_t w = wgmma_descriptor(&s.stage[stage][group * 64][0], 2 * L::K);
            uint64_t x = wgmma_descriptor(&s.stage[stage][L::ROWS][0], 2 * L::K);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < L::K / 16; k++)
                wg_mma<T>::template add<L::TOKENS>(acc, w + 2 * k, x + 2 * k, k || i);
            wgmma_commit();
            int free = stage < 2 ? stage + L::AHEAD : stage - 2;
            copies.start(s.stage[free], a);
            wgmma_wait<1>();
            stage = stage + 1 < L::STAGES ? stage + 1 : 0;
        }
        wgmma_wait<0>();
        wgmma_hold(acc);
    }
};

/* ---- leaves --------------------------------------------------------------------------------- */

template <class L>
__device__ __forceinline__ void wg_park(float4 (&park)[L::SUMS / 4][L::THREADS],
                                        const float (&acc)[L::SUMS]) {
#pragma unroll
    for (int i = 0; i < L::SUMS; i += 4)
        st_shared(&park[i / 4][threadIdx.x],
                  make_float4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3]));
}

template <class L>
__device__ __forceinline__ void wg_add_parked(const float4 (&park)[L::SUMS / 4][L::THREADS],
                                              float (&acc)[L::SUMS]) {
#pragma unroll
    for (int i = 0; i < L::SUMS; i += 4) {
        float4 v = ld_shared(&park[i / 4][threadIdx.x]);
        acc[i] = v.x + acc[i];
        acc[i + 1] = v.y + acc[i + 1];
        acc[i + 2] = v.z + acc[i + 2];
        acc[i + 3] = v.w + acc[i + 3];
    }
}

/* Leaves 2p and 2p + 1, then the tree as far as they complete it. */
template <class T, class L>
__device__ __forceinline__ void wg_pair(wg_state<L> &state, wg_smem<L> &s,
                                        const weft_matmul_args &a, int steps, int p, bool last,
                                        float (&acc)[L::SUMS]) {
    float one[L::SUMS];
    state.template chain<T>(s, a, steps, acc);
#pragma unroll
    for (int i = 0; i < L::SUMS; i++)
        one[i] = acc[i];
    state.template chain<T>(s, a, steps, acc);
#pragma unroll
    for (int i = 0; i < L::SUMS; i++)
        acc[i] = one[i] + acc[i];
    if (p & 1)
        wg_add_parked<L>(s.park[0], acc);
    if (p == 3)
        wg_add_parked<L>(s.park[1], acc);
    if (!last)
        wg_park<L>(s.park[p & 1], acc);
}

/* ---- results -------------------------------------------------------------------------------- */

/* Eight floats; neighbours begin with other halves, so that no bank is met twice. */
__device__ __forceinline__ void wg_read8(const float *from, int odd, float (&v)[CHUNK]) {
    const float4 *p = (const float4 *)from;
    float4 x = ld_shared(p + odd), y = ld_shared(p + (odd ^ 1));
    float4 lo = odd ? y : x, hi = odd ? x : y;
    memcpy(v, &lo, 16);
    memcpy(v + 4, &hi, 16);
}

template <class L>
__device__ static void wg_store(const float *turn, const weft_matmul_args &a, const mma_block &b) {
    enum { STRIPS = L::ROWS / CHUNK };
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
    for (int i = threadIdx.x; i < L::TOKENS * STRIPS; i += L::THREADS) {
        int t = i / STRIPS, r = i % STRIPS * CHUNK;
        chunk c = {b.t0 + t, b.n0 + r, 0};
        float v[CHUNK];
        c.n = b.end_n - c.i < CHUNK ? (int)(b.end_n - c.i) : (int)CHUNK;
        if (c.row >= b.end_t || c.n <= 0)
            continue;
        wg_read8(turn + t * L::PITCH + r, i / 4 & 1, v);
        if (a.partial)
            store8(a.y, blockIdx.y * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, v);
        else
            e.store8(c, v);
    }
}

/* Sums (rows g, g + 8; tokens 2p, 2p + 1) turned around in what were stages, then on to y. */
template <class L>
__device__ __forceinline__ void wg_finish(wg_smem<L> &s, const weft_matmul_args &a,
                                          const mma_block &b, const float (&acc)[L::SUMS]) {
    int lane = threadIdx.x % 32;
    float *to = s.turn + lane % 4 * 2 * L::PITCH + threadIdx.x / 32 * 16 + lane / 4;
    cp_async_wait_all();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < L::SUMS; i++)
        st_shared(to + (i / 4 * 8 + i % 2) * L::PITCH + i / 2 % 2 * 8, acc[i]);
    __syncthreads();
    wg_store<L>(s.turn, a, b);
}

/* ---- kernels -------------------------------------------------------------------------------- */

/* Bands of strips of w, inside one the strips first: blocks that run together share both. */
template <class L>
__device__ __forceinline__ void wg_locate(const weft_matmul_args &a, mma_block &b) {
    uint32_t strips = (uint32_t)((a.w.shape[0] + L::ROWS - 1) / L::ROWS);
    uint32_t tiles = (uint32_t)((a.x.shape[0] + L::TOKENS - 1) / L::TOKENS);
    uint32_t band = blockIdx.x / (WGMMA_BAND * tiles), in = blockIdx.x % (WGMMA_BAND * tiles);
    uint32_t high = strips - band * WGMMA_BAND;
    high = high < WGMMA_BAND ? high : (uint32_t)WGMMA_BAND;
    b = mma_block_at(a, L::ROWS, L::TOKENS, (int64_t)(band * WGMMA_BAND + in % high) * L::ROWS,
                     (int64_t)(in / high) * L::TOKENS);
}

template <class T, class L>
__global__ void __launch_bounds__(L::THREADS, L::BLOCKS)
    matmul_wgmma_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(wg_smem<L>, s);
    mma_block b;
    wg_locate<L>(a, b);
    if (b.t0 >= b.end_t)
        return;
    float acc[L::SUMS] = {};
    wg_state<L> state(s, a, b);
    int steps = (int)(b.width / L::K);
    if constexpr (L::TREE) {
        int pairs = b.leaves / 2;
#pragma unroll 1
        for (int p = 0; p < pairs; p++)
            wg_pair<T, L>(state, s, a, steps, p, p == pairs - 1, acc);
    } else {
        state.template chain<T>(s, a, steps, acc);
    }
    wg_finish<L>(s, a, b, acc);
}

/* ---- rows ----------------------------------------------------------------------------------- */

template <class L> static int64_t wg_tiles(const weft_matmul_args *a) {
    return (a->w.shape[0] + L::ROWS - 1) / L::ROWS * ((a->x.shape[0] + L::TOKENS - 1) / L::TOKENS);
}

template <class T, class L> static void wg_launch(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    dim3 grid((unsigned)wg_tiles<L>(a), a->partial ? (unsigned)a->leaves : 1u);
    WEFT_LAUNCH(step, stream, (matmul_wgmma_k<T, L>), grid, L::THREADS, sizeof(wg_smem<L>), *a);
}

/* Whether stages fit: whole ones alone, because padding's products might make a zero of -0. */
template <class L> static bool wg_fits(const weft_matmul_args *a) {
    int64_t width = a->x.shape[1] / a->leaves;
    return width > 0 && width % L::K == 0;
}

template <class L> static bool wg_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (!a->x.shape[0] || !a->w.shape[0])
        return true;
    if (!mma_wide(a) || !wg_fits<L>(a) || L::TREE != (a->leaves > 1 && !a->partial))
        return false;
    if (a->x.dtype == WEFT_BF16)
        wg_launch<bf16, L>(step, stream);
    else
        wg_launch<f16, L>(step, stream);
    return true;
}

template <class L> static int64_t wg_time(const weft_matmul_args *a, int64_t cost) {
    int64_t sms = launch_processors();
    return (wg_tiles<L>(a) * (a->partial ? a->leaves : 1) + sms - 1) / sms * cost;
}

/* The tiles of least time: blocks of the busiest SM by what one costs there. */
static bool wg_choose(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int64_t large = wg_time<wg_128x256>(a, WGMMA_COST_128X256);
    int64_t middle = wg_time<wg_128x128>(a, WGMMA_COST_128X128);
    int64_t small = wg_time<wg_64x64>(a, WGMMA_COST_64X64);
    if (a->leaves > 1 && !a->partial)
        return (small < middle && wg_run<wg_tree_64x64>(step, stream)) ||
               wg_run<wg_tree_128x128>(step, stream);
    if (small < large && small < middle && wg_run<wg_64x64>(step, stream))
        return true;
    return (large <= middle && wg_run<wg_128x256>(step, stream)) ||
           wg_run<wg_128x128>(step, stream);
}

/* Of a tree: its leaves as planes too, which the other tiles then make. */
template <class L> static int wg_ok(const weft_args *args) {
    const weft_matmul_args *a = &args->matmul;
    return mma_takes(args) && mma_strides(a) && wg_fits<L>(a) &&
           (L::TREE ? a->leaves > 1 : a->leaves == 1 || a->partial);
}

/* Last: operands that are not aligned, which ok() cannot see. */
template <class L> static void wg_row(const weft_step *step, weft_stream *stream) {
    if (!wg_run<L>(step, stream) && !wg_run<wg_128x128>(step, stream))
        matmul_any(step, stream);
}

static int matmul_ok(const weft_args *args) {
    return wg_ok<wg_128x128>(args) || wg_ok<wg_tree_128x128>(args);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (a->x.shape[0] <= skinny_tokens(a->leaves))
        matmul_skinny(step, stream);
    else if (!wg_choose(step, stream) && !matmul_tiled(step, stream))
        matmul_any(step, stream);
}

#define WGMMA_ROW(name, rank, ok, run) \
    { \
        WEFT_OP_matmul, WEFT_CU_BACKEND, name, WEFT_ARITH_MMA, rank, WEFT_SM90A, ok, NULL, NULL, \
            run, 0 \
    }
#define WGMMA_TILES(name, tiles) WGMMA_ROW(name, 0, wg_ok<tiles>, wg_row<tiles>)

WEFT_ROWS(matmul_wgmma) = {WGMMA_ROW("wgmma", 3, matmul_ok, matmul_run),
                           WGMMA_TILES("wgmma_128x256", wg_128x256),
                           WGMMA_TILES("wgmma_128x128", wg_128x128),
                           WGMMA_TILES("wgmma_64x64", wg_64x64),
                           WGMMA_TILES("wgmma_tree_128x128", wg_tree_128x128),
                           WGMMA_TILES("wgmma_tree_64x64", wg_tree_64x64),
                           WEFT_ROWS_END};

#define WGMMA_CLAIM(name, tiles) \
    { \
        "matmul_wgmma_k<*,wg_tiling<" name ">>", tiles::THREADS, tiles::BLOCKS, \
            sizeof(wg_smem<tiles>), "HGMMA LDGSTS.128 STG.128" \
    }
WEFT_CLAIMS(matmul_wgmma) = {WGMMA_CLAIM("2,256,64,4,1,false", wg_128x256),
                             WGMMA_CLAIM("2,128,32,6,2,false", wg_128x128),
                             WGMMA_CLAIM("1,64,64,4,3,false", wg_64x64),
                             WGMMA_CLAIM("2,128,32,6,1,true", wg_tree_128x128),
                             WGMMA_CLAIM("1,64,64,4,2,true", wg_tree_64x64),
                             WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
