/* SPDX-License-Identifier: Apache-2.0
 * Matmul over int8 weights on tensor cores, for x of bf16, fp16 (int8_float) and int8 (int8_int):
 * y[T,N] = x[T,K] w[N,K]', leaves scaled by row (and token) before the tree.
 *
 * The weight is operand M and tokens are N in every phase. A chain is one warp's: R rows of w, one
 * leaf, all the block's tokens, 32 of k a step: 32 bytes of a row of w, which ldmatrix hands out
 * four neighbours a lane. Under int8 x that is the fragment of one m16n8k32. Under 16-bit x they
 * become two fragments of m16n8k16 in which a lane's columns are its four neighbours instead of
 * two pairs; x is read in the same order, so the sum is over the same sixteen of k. Granules of
 * padding alone are no step under floats, and add nothing under integers.
 *
 * A block's warps copy stages of KS bytes a row with cp.async (16-byte places of w swizzled by the
 * row, rows of x padded by a quarter of a line: no bank twice). Few tokens and one leaf: a block is
 * one warp with 8 rows of w, so that many chains share the memory's latency and each waits for its
 * own copies only. Else eight warps with 16 rows each. Leaves meet in shared memory. Grid: token
 * tiles, then strips of rows. */
#pragma once
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

/* ---- what x is ---- */

/* Four int8 of a word as two pairs of 16-bit floats, exactly. bf16: |low seven bits| + 128 has an
 * exponent of its own, and so has what is taken off: 128, or 256 under a set sign. */
template <class T> __device__ __forceinline__ void int8_widen(uint32_t w, uint32_t (&pair)[2]);
template <> __device__ __forceinline__ void int8_widen<bf16>(uint32_t w, uint32_t (&pair)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t b = prmt(w, 0, i ? 0x4342 : 0x4140);
        pair[i] = fma_bf16x2((b & 0x007f007fu) | 0x43004300u, 0x3f803f80u,
                             (b & 0x00800080u) | 0xc300c300u);
    }
}
/* fp16: 1024 + (q + 128) holds eight bits; 1152 comes off. */
template <> __device__ __forceinline__ void int8_widen<f16>(uint32_t w, uint32_t (&pair)[2]) {
    uint32_t u = w ^ 0x80808080u;
#pragma unroll
    for (int i = 0; i < 2; i++)
        pair[i] = fma_f16x2(prmt(u, 0x64646464u, i ? 0x4342 : 0x4140), 0x3c003c00u, 0xe480e480u);
}

/* x: bytes of its element; acc: what a chain adds up in. b: a token's 32 of k. */
template <class T> struct int8_float {
    typedef float acc;
    enum { X = 2, WORDS = 4 };

    __device__ static __forceinline__ void load(const char *x, int p, uint32_t (&b)[WORDS]) {
        uint2 lo = ld_shared((const uint2 *)(x + 8 * p));
        uint2 hi = ld_shared((const uint2 *)(x + 32 + 8 * p));
        b[0] = lo.x, b[1] = lo.y, b[2] = hi.x, b[3] = hi.y;
    }
    /* left: of k in this step, at least 1. */
    template <int TILES>
    __device__ static __forceinline__ void step(const uint32_t (&w)[4],
                                                const uint32_t (&b)[TILES][WORDS], int64_t left,
                                                acc (&sum)[TILES][4]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t top[2], low[2];
            int8_widen<T>(w[2 * h], top);
            int8_widen<T>(w[2 * h + 1], low);
            uint32_t a[4] = {top[0], low[0], top[1], low[1]};
            if (h == 0 || left > 16)
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    uint32_t two[2] = {b[j][2 * h], b[j][2 * h + 1]};
                    mma16<T>(sum[j], a, two);
                }
        }
    }
};

struct int8_int {
    typedef int32_t acc;
    enum { X = 1, WORDS = 2 };

    __device__ static __forceinline__ void load(const char *x, int p, uint32_t (&b)[WORDS]) {
        b[0] = ld_shared((const uint32_t *)(x + 4 * p));
        b[1] = ld_shared((const uint32_t *)(x + 16 + 4 * p));
    }
    template <int TILES>
    __device__ static __forceinline__ void step(const uint32_t (&w)[4],
                                                const uint32_t (&b)[TILES][WORDS], int64_t left,
                                                acc (&sum)[TILES][4]) {
        (void)left;
#pragma unroll
        for (int j = 0; j < TILES; j++)
            mma_m16n8k32_s8(sum[j], w, b[j], sum[j]);
    }
};

/* ---- shapes ---- */

/* TOK tokens a block: 1, or TILES tiles of eight. LEAVES: the most a block has. */
template <class O, int TILES_, int TOK_, int WARPS_, int R_, int KS_, int STAGES_>
struct int8_shape {
    typedef O op;
    enum {
        TILES = TILES_,
        TOK = TOK_,
        WARPS = WARPS_,
        R = R_,
        KS = KS_,
        STAGES = STAGES_,
        ROWS = WARPS * R,
        MOST_X = TILES == 8   ? 128
                 : TILES == 4 ? 128
                              : TILES * 64,
        XROWS = WARPS == 1 ? TOK
                : TOK == 1 ? 8
                           : MOST_X,
        XPITCH = KS * O::X + 16 * O::X, /* a quarter of a line, or an eighth, past whole lines */
        SUMS = (XROWS < TOK ? TOK : XROWS) * (ROWS + MMA_PAD)
    };
};

template <class S> struct int8_smem {
    union {
        struct {
            __align__(128) char w[S::ROWS * S::KS];
            __align__(16) char x[S::XROWS * S::XPITCH];
        } stage[S::STAGES];
        float sum[S::SUMS]; /* [leaf][token][row of w] */
    };
};

/* One token or up to eight with one leaf; the same with leaves; 16, 32 and 64 tokens a block. */
template <class O> using int8_one = int8_shape<O, 1, 1, 1, 8, INT8_K, INT8_STAGES>;
template <class O> using int8_few = int8_shape<O, 1, 8, 1, 8, INT8_K, INT8_STAGES>;
template <class O> using int8_one_leafy = int8_shape<O, 1, 1, 8, 16, 128, 4>;
template <class O> using int8_few_leafy = int8_shape<O, 1, 8, 8, 16, 64, 4>;
template <class O> using int8_narrow = int8_shape<O, 2, 16, 8, 16, 64, 3>;
template <class O> using int8_many = int8_shape<O, 4, 32, 8, 16, 64, 3>;
template <class O> using int8_most = int8_shape<O, 8, 64, 8, 16, 64, 3>;

/* Place of 16-byte chunk c of a row of w: eight neighbours of a chunk are in all eight places of a
 * line, whether a row is half a line or more. */
template <class S> __device__ __forceinline__ int int8_place(int row, int c) {
    return row * S::KS + (c ^ (S::KS == 64 ? row >> 1 & 3 : row & 7)) * 16;
}

/* ---- copies ---- */

/* 16 bytes at byte k of a row of a leaf, `left` of them there; what is outside is zero. */
template <bool WIDE>
__device__ __forceinline__ void int8_load16(char *to, const char *from, int64_t left) {
    int n = left <= 0 ? 0 : left < 16 ? (int)left : 16;
    if constexpr (WIDE) {
        cp_async16(to, from, n); /* not cp_async16_once: its comment says why */
    } else {
        uint32_t q[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 16; i++)
            if (i < n)
                q[i / 4] |= (uint32_t)(uint8_t)ld_const(from + i) << i % 4 * 8;
        st_shared((uint4 *)to, make_uint4(q[0], q[1], q[2], q[3]));
    }
}

template <class S, bool WIDE>
__device__ __forceinline__ void int8_fill_w(char *to, const weft_matmul_args &a, const mma_block &b,
                                            int64_t k0) {
    enum { CHUNKS = S::KS / 16, THREADS = S::WARPS * 32 };
#pragma unroll
    for (int j = 0; j < S::ROWS * CHUNKS / THREADS; j++) {
        int i = j * THREADS + threadIdx.x, r = i / CHUNKS, c = i % CHUNKS;
        int64_t n = b.n0 + r % b.rows, k = k0 + c * 16, left = b.width - k;
        left = n < b.end_n ? left : 0;
        const char *from = (const char *)a.w.data;
        from += left > 0 ? n * a.w.stride[0] + r / b.rows * b.width + k : 0;
        int8_load16<WIDE>(to + int8_place<S>(r, c), from, left);
    }
}

template <class S, bool WIDE>
__device__ __forceinline__ void int8_fill_x(char *to, const weft_matmul_args &a, const mma_block &b,
                                            int64_t k0) {
    enum { X = S::op::X, CHUNKS = S::KS * X / 16, THREADS = S::WARPS * 32 };
    for (int i = threadIdx.x; i < b.leaves * b.tokens * CHUNKS; i += THREADS) {
        int r = i / CHUNKS, c = i % CHUNKS;
        int64_t t = b.t0 + r % b.tokens, k = k0 * X + c * 16, left = b.width * X - k;
        left = t < b.end_t ? left : 0;
        const char *from = (const char *)a.x.data;
        from += left > 0 ? (t * a.x.stride[0] + r / b.tokens * b.width) * X + k : 0;
        int8_load16<WIDE>(to + r * S::XPITCH + c * 16, from, left);
    }
}

/* ---- the chain ---- */

/* Rows g (and g + 8) of 32 bytes of k: words of k 4p .. 4p + 3 and 16 + 4p ... */
template <class S>
__device__ __forceinline__ void int8_load_w(const char *w, int w0, int c, uint32_t (&f)[4]) {
    int lane = threadIdx.x % 32;
    if constexpr (S::R == 16) {
        int r = w0 + lane % 16;
        ldmatrix_x4(f, w + int8_place<S>(r, c + lane / 16));
    } else {
        uint32_t two[2];
        int r = w0 + lane % 8;
        ldmatrix_x2(two, w + int8_place<S>(r, c + lane / 8 % 2));
        f[0] = two[0], f[1] = 0, f[2] = two[1], f[3] = 0;
    }
}

template <class S>
__device__ __forceinline__ void int8_load_x(const char *x, int x0, int k,
                                            uint32_t (&f)[S::TILES][S::op::WORDS]) {
    int g = threadIdx.x % 32 / 4, p = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < S::TILES; j++) {
#pragma unroll
        for (int i = 0; i < S::op::WORDS; i++)
            f[j][i] = 0;
        if (S::TOK > 1 || g == 0)
            S::op::load(x + (x0 + 8 * j + g) * S::XPITCH + k * S::op::X, p, f[j]);
    }
}

/* A stage, of which `left` of k are there: fragments of the next step are fetched before this one
 * is multiplied, since a chain waits for itself. */
template <class S>
__device__ __forceinline__ void int8_multiply(const char *w, const char *x, int w0, int x0,
                                              int64_t left,
                                              typename S::op::acc (&acc)[S::TILES][4]) {
    uint32_t fw[2][4], fx[2][S::TILES][S::op::WORDS];
    int8_load_w<S>(w, w0, 0, fw[0]);
    int8_load_x<S>(x, x0, 0, fx[0]);
#pragma unroll
    for (int k = 0; k < S::KS; k += 32) {
        int now = k / 32 % 2;
        if (k + 32 < S::KS) {
            int8_load_w<S>(w, w0, k / 16 + 2, fw[1 - now]);
            int8_load_x<S>(x, x0, k + 32, fx[1 - now]);
        }
        if (k < left)
            S::op::template step<S::TILES>(fw[now], fx[now], left - k, acc);
    }
}

template <class S, bool WIDE>
__device__ __forceinline__ void int8_stream(int8_smem<S> &s, const weft_matmul_args &a,
                                            const mma_block &b,
                                            typename S::op::acc (&acc)[S::TILES][4]) {
    int warp = threadIdx.x / 32, leaf = warp % b.leaves, group = warp / b.leaves;
    int steps = (int)((b.width + S::KS - 1) / S::KS);
    for (int i = 0; i < S::STAGES - 1; i++) {
        if (i < steps) {
            int8_fill_w<S, WIDE>(s.stage[i].w, a, b, (int64_t)i * S::KS);
            int8_fill_x<S, WIDE>(s.stage[i].x, a, b, (int64_t)i * S::KS);
        }
        cp_async_commit();
    }
    for (int i = 0, at = 0; i < steps; i++) {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads();
        int ahead = i + S::STAGES - 1, to = at ? at - 1 : (int)S::STAGES - 1;
        if (ahead < steps) {
            int8_fill_w<S, WIDE>(s.stage[to].w, a, b, (int64_t)ahead * S::KS);
            int8_fill_x<S, WIDE>(s.stage[to].x, a, b, (int64_t)ahead * S::KS);
        }
        cp_async_commit();
        if constexpr (!WIDE)
            __syncwarp(); /* byte loads branch; ldmatrix and mma want the warp in one piece */
        int8_multiply<S>(s.stage[at].w, s.stage[at].x, leaf * b.rows + group * S::R,
                         leaf * b.tokens, b.width - (int64_t)i * S::KS, acc);
        at = at + 1 < S::STAGES ? at + 1 : 0;
    }
    cp_async_wait_all();
    __syncthreads();
}

/* ---- the end ---- */

/* Accumulators (rows g, g + 8; tokens 2p, 2p + 1) as fp32 to [leaf][token][row]. */
template <class S>
__device__ __forceinline__ void int8_park(float *sum, const mma_block &b,
                                          const typename S::op::acc (&acc)[S::TILES][4]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = b.rows + MMA_PAD;
    int leaf = warp % b.leaves, row = warp / b.leaves * S::R + lane / 4;
#pragma unroll
    for (int j = 0; j < S::TILES; j++)
#pragma unroll
        for (int i = 0; i < S::R / 4; i++) {
            int t = 8 * j + lane % 4 * 2 + i % 2;
            if (t < b.tokens)
                st_shared(&sum[(leaf * b.tokens + t) * pitch + row + i / 2 * 8], (float)acc[j][i]);
        }
}

/* Scales, the leaves' tree and the epilogue, eight rows of w a thread. */
template <class S>
__device__ __forceinline__ void int8_finish(const float *from, const weft_matmul_args &a,
                                            const mma_block &b) {
    int strips = b.rows / CHUNK, pitch = b.rows + MMA_PAD;
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
    for (int i = threadIdx.x; i < b.tokens * strips; i += S::WARPS * 32) {
        int t = i / strips, r = i % strips * CHUNK;
        chunk c = {b.t0 + t, b.n0 + r, 0};
        tree_sum sum[CHUNK];
        float v[CHUNK], scale[CHUNK];
        c.n = b.end_n - c.i < CHUNK ? (int)(b.end_n - c.i) : (int)CHUNK;
        if (c.row >= b.end_t || c.n <= 0)
            continue;
        load8(a.wscale, c.i, c.n, scale);
        for (int l = 0; l < b.leaves; l++) {
            float xs = S::op::X == 1 ? load1(a.xscale, c.row * a.xscale.stride[0] + l) : 1.0f;
#pragma unroll
            for (int j = 0; j < CHUNK; j++) {
                float leaf = ld_shared(from + (l * b.tokens + t) * pitch + r + j);
                leaf = (S::op::X == 1 ? leaf * xs : leaf) * scale[j];
                v[j] = a.partial ? leaf : sum[j].add(l, leaf);
            }
            if (a.partial)
                store8(a.y, l * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, v);
        }
        if (!a.partial)
            e.store8(c, v);
    }
}

template <class S, bool WIDE>
__global__ void __launch_bounds__(S::WARPS * 32)
    matmul_int8_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(int8_smem<S>, s);
    int rows = S::ROWS / a.leaves;
    mma_block b = mma_block_at(a, rows, S::TOK, blockIdx.y * (int64_t)rows,
                               blockIdx.x * (int64_t)S::TOK);
    typename S::op::acc acc[S::TILES][4];
    if (b.t0 >= b.end_t)
        return;
    if (threadIdx.x == 0) /* the end would wait for them */
        prefetch_l2((const float *)a.wscale.data + b.n0);
#pragma unroll
    for (int j = 0; j < S::TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[j][i] = 0;
    int8_stream<S, WIDE>(s, a, b, acc);
    int8_park<S>(s.sum, b, acc);
    __syncthreads();
    int8_finish<S>(s.sum, a, b);
}

/* ---- host ---- */

inline bool int8_scale_ok(const weft_tensor &t) {
    return weft_has(&t) && t.dtype == WEFT_F32 && t.stride[t.ndim - 1] == 1;
}

inline int int8_takes(const weft_matmul_args &a) {
    bool tree = a.leaves == 1 || a.leaves == 2 || a.leaves == 4 || a.leaves == 8;
    bool plain = a.y.dtype == WEFT_F32 && !weft_has(&a.bias) && !weft_has(&a.res) && !a.act;
    return tree && a.x.shape[1] % a.leaves == 0 && a.w.shape[1] == a.x.shape[1] &&
           a.w.dtype == WEFT_I8 && a.w.stride[1] == 1 && a.x.stride[1] == 1 &&
           int8_scale_ok(a.wscale) && is_flat(a.y) && is_flat(a.bias) && is_flat(a.res) &&
           (!a.partial || plain);
}

/* Whether rows can be fetched 16 bytes at a time. */
template <class O> inline bool int8_wide(const weft_matmul_args *a) {
    int64_t x = O::X;
    return (size_t)a->x.data % 16 == 0 && (size_t)a->w.data % 16 == 0 &&
           a->x.stride[0] * x % 16 == 0 && a->w.stride[0] % 16 == 0 &&
           (a->leaves == 1 || a->x.shape[1] / a->leaves % 16 == 0);
}

template <class S, bool WIDE> static void int8_launch(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int rows = S::ROWS / a->leaves;
    dim3 grid((unsigned)((a->x.shape[0] + S::TOK - 1) / S::TOK),
              (unsigned)((a->w.shape[0] + rows - 1) / rows));
    WEFT_LAUNCH(step, stream, (matmul_int8_k<S, WIDE>), grid, S::WARPS * 32, sizeof(int8_smem<S>),
                *a);
}

/* Tokens of a block: as matmul_mma's, 128 rows of x at most. */
template <class O> static void int8_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int64_t tokens = a->x.shape[0];
    int tiles = mma_tiles(tokens, a->leaves);
    if (!tokens || !a->w.shape[0])
        return;
    if (!int8_wide<O>(a))
        int8_launch<int8_narrow<O>, false>(step, stream);
    else if (tokens == 1 && a->leaves == 1)
        int8_launch<int8_one<O>, true>(step, stream);
    else if (tokens <= 8 && a->leaves == 1)
        int8_launch<int8_few<O>, true>(step, stream);
    else if (tokens == 1)
        int8_launch<int8_one_leafy<O>, true>(step, stream);
    else if (tiles == 1)
        int8_launch<int8_few_leafy<O>, true>(step, stream);
    else if (tiles == 2)
        int8_launch<int8_narrow<O>, true>(step, stream);
    else if (tiles == 4)
        int8_launch<int8_many<O>, true>(step, stream);
    else
        int8_launch<int8_most<O>, true>(step, stream);
}

/* Claims of every shape of one x; `x` is its name in the kernels'. */
#define INT8_CLAIM_(x, O, tail, shape, blocks, needs) \
    { \
        "matmul_int8_k<int8_shape<" x tail, shape<O>::WARPS * 32, blocks, \
            sizeof(int8_smem<shape<O>>), needs \
    }
#define INT8_CLAIMS(x, O, mma) \
    INT8_CLAIM_(x, O, ",1,1,1,8,*", int8_one, 10, mma " LDSM LDGSTS"), \
        INT8_CLAIM_(x, O, ",1,8,1,8,*", int8_few, 5, mma " LDSM LDGSTS"), \
        INT8_CLAIM_(x, O, ",1,1,8,16,*", int8_one_leafy, 2, mma " LDSM LDGSTS"), \
        INT8_CLAIM_(x, O, ",1,8,8,16,*", int8_few_leafy, 2, mma " LDSM LDGSTS"), \
        INT8_CLAIM_(x, O, ",2,16,8,16,64,3>,true>", int8_narrow, 2, mma " LDSM LDGSTS"), \
        INT8_CLAIM_(x, O, ",2,16,8,16,64,3>,false>", int8_narrow, 2, mma " LDSM"), \
        INT8_CLAIM_(x, O, ",4,*", int8_many, 2, mma " LDSM LDGSTS"), \
        INT8_CLAIM_(x, O, ",8,*", int8_most, 2, mma " LDSM LDGSTS")

} // namespace WEFT_CU_NS
