/* SPDX-License-Identifier: Apache-2.0
 * matmul in bf16 and fp16 for few tokens, on tensor cores: w is streamed once, at the memory's
 * speed. The chains are those of matmul_mma.cu, so the bits are too.
 *
 * A chain is one warp's: 16 rows of w, one leaf, all the block's tokens. A block has C = leaves x
 * groups of 16 rows chains, one to eight, and eight warps that all copy. A stage is 512 / C of k
 * for every chain (rows of 128 bytes to 1 KiB, 16 KiB in all): fewer chains get longer rows, so
 * that what is in flight does not depend on the shape. cp.async, 16-byte places swizzled by the
 * row; fragments of the next 32 of k are fetched while the chain's mma run, as a chain alone waits
 * only for itself (some 33 clocks an instruction). Grid: token tiles (neighbours share w in L2),
 * then strips of rows. Two blocks an SM. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/matmul.cuh"

namespace WEFT_CU_NS {

template <int TILES> struct skinny_smem {
    enum {
        W = 16 * SKINNY_K,
        X = 8 * TILES * SKINNY_K,
        STAGES = SKINNY_BYTES / 2 / (W + X),
        COPIES_W = W / CHUNK / (MMA_WARPS * 32),
        COPIES_X = X / CHUNK / (MMA_WARPS * 32)
    };
    union {
        struct {
            __align__(128) uint16_t w[W], x[X]; /* [row or token of a leaf][k] */
        } stage[STAGES];
        float sum[8 * TILES * 8 * (16 + MMA_PAD)]; /* [leaf][token][row of w] */
    };
};

/* Element of 16-byte chunk c of a row; 128 bytes and more. */
__device__ __forceinline__ int skinny_place(int row, int c, int k) {
    return row * k + (c ^ (row & 7)) * CHUNK;
}

/* What a thread copies of each stage: chunk c of some rows, from chunks `w` and `x` of the tensors
 * on. ABSENT: zeros. */
template <int TILES> struct skinny_copies {
    typedef skinny_smem<TILES> smem;
    static constexpr uint32_t ABSENT = 0xffffffffu;
    uint32_t w[smem::COPIES_W], x[smem::COPIES_X];
    int k, row, c, step; /* k of a stage; first row; its chunk; rows between copies */

    __device__ __forceinline__ skinny_copies(const weft_matmul_args &a, const mma_block &b, int k_)
        : k(k_) {
        int per = k / CHUNK, width = (int)(b.width / CHUNK);
        c = threadIdx.x % per;
        row = threadIdx.x / per;
        step = MMA_WARPS * 32 / per;
#pragma unroll
        for (int j = 0; j < smem::COPIES_W; j++) {
            int r = row + j * step;
            int64_t n = b.n0 + r % b.rows;
            n = n < b.end_n ? n
                            : b.end_n - 1; /* a row that is not there: any, its sums go nowhere */
            w[j] = (uint32_t)(n * a.w.stride[0] / CHUNK) + (uint32_t)(r / b.rows * width + c);
        }
#pragma unroll
        for (int j = 0; j < smem::COPIES_X; j++) {
            int r = row + j * step, leaf = r / (8 * TILES);
            int64_t t = b.t0 + r % (8 * TILES);
            bool exists = leaf < b.leaves && t < b.end_t;
            x[j] = (uint32_t)(t * a.x.stride[0] / CHUNK) + (uint32_t)(leaf * width + c);
            x[j] = exists ? x[j] : ABSENT;
        }
    }

    /* Stage `s` of k0 on. `rows` of x: what there are chains for. */
    __device__ __forceinline__ void start(smem &to, int s, const weft_matmul_args &a,
                                          const mma_block &b, int64_t k0) const {
        int left = (int)(b.width - k0) - c * CHUNK;
        int n = left <= 0 ? 0 : left < CHUNK ? 2 * left : 16;
        uint32_t at = (uint32_t)(k0 / CHUNK);
        const uint4 *from_w = (const uint4 *)a.w.data, *from_x = (const uint4 *)a.x.data;
#pragma unroll
        for (int j = 0; j < smem::COPIES_W; j++)
            cp_async16_once(&to.stage[s].w[skinny_place(row + j * step, c, k)],
                            from_w + (n ? w[j] + at : 0u), n);
#pragma unroll
        for (int j = 0; j < smem::COPIES_X; j++)
            if (row + j * step < b.leaves * 8 * TILES) {
                bool some = n && x[j] != ABSENT;
                cp_async16(&to.stage[s].x[skinny_place(row + j * step, c, k)],
                           from_x + (some ? x[j] + at : 0u), some ? n : 0);
            }
    }
};

/* Fragments of 32 of k: two granules. */
template <int TILES> struct skinny_frags {
    uint32_t a[2][4], b[TILES][4];

    __device__ __forceinline__ void load(const uint16_t *w, const uint16_t *x, int w0, int x0,
                                         int c, int k) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2; i++)
            ldmatrix_x4(a[i], &w[skinny_place(w0 + lane % 16, c + 2 * i + lane / 16, k)]);
#pragma unroll
        for (int j = 0; j < TILES; j++)
            ldmatrix_x4(b[j], &x[skinny_place(x0 + 8 * j + lane % 8, c + lane / 8, k)]);
    }

    template <class T>
    __device__ __forceinline__ void multiply(float (&acc)[TILES][4], bool both) const {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (i == 0 || both) /* a granule of padding alone is no step */
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    uint32_t two[2] = {b[j][2 * i], b[j][2 * i + 1]};
                    mma16<T>(acc[j], a[i], two);
                }
    }
};

/* The warp's chain over a stage, of which `left` of k are there. */
template <class T, int TILES>
__device__ __forceinline__ void skinny_chain(const uint16_t *w, const uint16_t *x, int w0, int x0,
                                             int k, int64_t left, float (&acc)[TILES][4]) {
    int granules = left < k ? (int)((left + 15) / 16) : k / 16;
    int pairs = (granules + 1) / 2, even = (pairs - 1) & ~1;
    skinny_frags<TILES> now, next;
    now.load(w, x, w0, x0, 0, k);
    for (int p = 0; p < even; p += 2) { /* `now` and `next` by turns: no copies */
        next.load(w, x, w0, x0, 4 * p + 4, k);
        now.template multiply<T>(acc, true);
        now.load(w, x, w0, x0, 4 * p + 8, k);
        next.template multiply<T>(acc, true);
    }
    if (even + 1 < pairs) {
        next.load(w, x, w0, x0, 4 * even + 4, k);
        now.template multiply<T>(acc, true);
        next.template multiply<T>(acc, granules % 2 == 0);
    } else {
        now.template multiply<T>(acc, granules % 2 == 0);
    }
}

template <class T, int TILES>
__device__ __forceinline__ void skinny_stream(skinny_smem<TILES> &s, const weft_matmul_args &a,
                                              const mma_block &b, float (&acc)[TILES][4]) {
    enum { STAGES = skinny_smem<TILES>::STAGES };
    int warp = threadIdx.x / 32, leaf = warp % b.leaves, group = warp / b.leaves;
    int chains = b.leaves * b.rows / 16, k = SKINNY_K / chains;
    int steps = (int)((b.width + k - 1) / k);
    skinny_copies<TILES> copies(a, b, k);
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < steps)
            copies.start(s, i, a, b, (int64_t)i * k);
        cp_async_commit();
    }
    for (int i = 0, at = 0; i < steps; i++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        int ahead = i + STAGES - 1, to = at ? at - 1 : STAGES - 1;
        if (ahead < steps)
            copies.start(s, to, a, b, (int64_t)ahead * k);
        cp_async_commit();
        if (warp < chains)
            skinny_chain<T, TILES>(s.stage[at].w, s.stage[at].x, leaf * b.rows + group * 16,
                                   leaf * 8 * TILES, k, b.width - (int64_t)i * k, acc);
        at = at + 1 < STAGES ? at + 1 : 0;
    }
    cp_async_wait_all();
    __syncthreads();
}

template <class T, int TILES>
__global__ void __launch_bounds__(MMA_WARPS * 32, 2)
    matmul_skinny_k(const __grid_constant__ weft_matmul_args a, int rows) {
    WEFT_SMEM(skinny_smem<TILES>, s);
    int tokens = TILES * 8;
    mma_block b = mma_block_at(a, rows, tokens, blockIdx.y * (int64_t)rows,
                               blockIdx.x * (int64_t)tokens);
    float acc[TILES][4];
    if (b.t0 >= b.end_t)
        return;
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[j][i] = 0;
    skinny_stream<T, TILES>(s, a, b, acc);
    if ((int)threadIdx.x / 32 < a.leaves * rows / 16)
        mma_park<TILES>(s.sum, b, acc);
    __syncthreads();
    mma_finish(s.sum, a, b);
}

template <class T, int TILES>
static void matmul_launch(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int rows = skinny_rows(a->w.shape[0], a->leaves);
    dim3 grid((unsigned)((a->x.shape[0] + TILES * 8 - 1) / (TILES * 8)),
              (unsigned)((a->w.shape[0] + rows - 1) / rows));
    WEFT_LAUNCH(step, stream, (matmul_skinny_k<T, TILES>), grid, MMA_WARPS * 32,
                sizeof(skinny_smem<TILES>), *a, rows);
}

template <class T> static void matmul_typed(const weft_step *step, weft_stream *stream) {
    int64_t tokens = step->args.matmul.x.shape[0];
    if (tokens <= 8)
        matmul_launch<T, 1>(step, stream);
    else if (tokens <= 16)
        matmul_launch<T, 2>(step, stream);
    else
        matmul_launch<T, 4>(step, stream);
}

void matmul_skinny(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (!a->x.shape[0] || !a->w.shape[0])
        return;
    if (!mma_wide(a))
        matmul_any(step, stream);
    else if (a->x.dtype == WEFT_BF16)
        matmul_typed<bf16>(step, stream);
    else
        matmul_typed<f16>(step, stream);
}

static int matmul_ok(const weft_args *args) {
    return mma_takes(args) && mma_strides(&args->matmul);
}

static void matmul_run(const weft_step *step, weft_stream *stream) {
    matmul_skinny(step, stream);
}

WEFT_ROWS(matmul_skinny) = {WEFT_ROW(matmul, "mma_skinny", MMA, 0, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(matmul_skinny) = {{"matmul_skinny_k<*,1>", MMA_WARPS * 32, 2, sizeof(skinny_smem<1>),
                               "HMMA.16816 LDSM.4 LDGSTS.128"},
                              {"matmul_skinny_k<*,2>", MMA_WARPS * 32, 2, sizeof(skinny_smem<2>),
                               "HMMA.16816 LDSM.4 LDGSTS.128"},
                              {"matmul_skinny_k<*,4>", MMA_WARPS * 32, 2, sizeof(skinny_smem<4>),
                               "HMMA.16816 LDSM.4 LDGSTS.128"},
                              WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
