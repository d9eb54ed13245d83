/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx and matmul_dw in bf16 and fp16 in the tiles of kernels/lib/matmul_tiles.cuh; the
 * chains, and so the bits, are those of matmul_dx_mma.cu, which takes what does not lie in whole
 * chunks.
 *
 * dx[t,k] sums dy[t,n] w[n,k] over n: w lies turned, k takes the place of its rows. dw[n,k] sums
 * dy[t,n] x[t,k] over tokens: both lie turned, tokens that do not exist are staged as zeros. With
 * one shard its sums begin with what dw holds. Leaves and shards go in pairs. Bound by arithmetic.
 * Measured: nowhere yet. */
#include "kernels/lib/matmul_tiles.cuh"

namespace WEFT_CU_NS {

template <class T, class L>
__global__ void __launch_bounds__(L::THREADS, L::BLOCKS)
    matmul_dx_tiled_k(const __grid_constant__ weft_matmul_dx_args a) {
    WEFT_SMEM(tiled_smem<L>, s);
    mma_block b = {a.leaves, L::ROWS, L::TOKENS, 0, 0, a.w.shape[1], 0, a.w.shape[0] / a.leaves};
    b.end_t = lead_rows(a.rows, a.dy.shape[0]);
    tiled_locate<L>(b.end_n, a.dy.shape[0], &b.n0, &b.t0);
    if (b.t0 >= b.end_t)
        return;
    tiled_source from = {&a.w, &a.dy, 0};
    int halves = (int)(b.width / 16);
    tiled_state<L> state(s, from, b, 0, halves / 2);
    weft_tensor none = {};
    epilogue e = {&a.dx, &none, &a.res, 0};
    auto put = [&](const chunk &c, float(&v)[CHUNK]) { e.store8(c, v); };
    tiled_block<T, L>(s, from, b, state, halves, put);
}

/* f(n, k, sum) of the M tiles from row `row` on that a thread holds: rows are k here, tokens n. */
template <class L, int M, class F>
__device__ __forceinline__ void grad_each(const mma_block &b, const tiled_warp<L> &w, int row,
                                          float (&acc)[L::M][L::N][4], const F &f) {
    int lane = threadIdx.x % 32;
    int64_t k0 = b.n0 + row + lane / 4, n0 = b.t0 + w.token + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < L::N; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int64_t k = k0 + 16 * i + q / 2 * 8, n = n0 + 8 * j + q % 2;
                if (k < b.end_n && n < b.end_t)
                    f(n, k, acc[i][j][q]);
            }
}

template <class T, class L>
__global__ void __launch_bounds__(L::THREADS, L::BLOCKS)
    matmul_dw_tiled_k(const __grid_constant__ weft_matmul_dw_args a) {
    WEFT_SMEM(tiled_smem<L>, s);
    int64_t lead = lead_rows(a.rows, a.dy.shape[0]);
    mma_block b = {a.shards, L::ROWS, L::TOKENS, 0, 0, a.x.shape[1], a.dy.shape[1], 0};
    b.width = L::LEAVES == 1 ? lead : a.dy.shape[0] / a.shards;
    tiled_locate<L>(b.end_n, b.end_t, &b.n0, &b.t0);
    if (!b.width)
        return;
    float acc[L::M][L::N][4], *dw = (float *)a.dw.data;
    tiled_source from = {&a.x, &a.dy, lead};
    int steps = (int)((b.width + TILED_K - 1) / TILED_K);
    tiled_state<L> state(s, from, b, 0, steps);
    if constexpr (L::LEAVES == 1) {
        tiled_clear<L>(acc);
        grad_each<L, L::M>(b, state.warp, state.warp.row, acc, [&](int64_t n, int64_t k, float &v) {
            v = ld_global(dw + n * a.dw.stride[0] + k);
        });
        state.template chain<T>(s, from, (int)((lead + 15) / 16), acc);
        cp_async_wait_all();
        grad_each<L, L::M>(b, state.warp, state.warp.row, acc, [&](int64_t n, int64_t k, float v) {
            st_global(dw + n * a.dw.stride[0] + k, v);
        });
    } else {
        tiled_pairs<T, L>(s, from, state, b.leaves, 2 * steps, acc);
        int row = state.warp.row + state.warp.group * L::M / 2 * 16;
        grad_each<L, L::M / 2>(b, state.warp, row, acc, [&](int64_t n, int64_t k, float v) {
            float *to = dw + n * a.dw.stride[0] + k;
            st_global(to, ld_global(to) + v);
        });
    }
}

/* ---- host ---- */

/* Whether a matrix lies in whole chunks that can be counted in 32 bits: what a plan knows of it. */
static bool grad_chunks(const weft_tensor &t) {
    return t.stride[0] % CHUNK == 0 && t.stride[0] >= 0 && t.shape[1] % CHUNK == 0 &&
           (uint64_t)(t.shape[0] * t.stride[0]) < (uint64_t)CHUNK << 31;
}

static bool grad_aligned(const weft_tensor &t) {
    return (size_t)t.data % 16 == 0;
}

template <class L> static bool grad_fits(int leaves) {
    return (leaves == 1) == (L::LEAVES == 1) && sizeof(tiled_smem<L>) <= launch_most_shared();
}

template <class L> static int matmul_dx_tiled_ok(const weft_args *args) {
    const weft_matmul_dx_args &a = args->matmul_dx;
    return matmul_dx_takes(args) && grad_chunks(a.dy) && grad_chunks(a.w) && a.w.shape[0] > 0 &&
           a.w.shape[0] / a.leaves % TILED_K == 0 && grad_fits<L>(a.leaves);
}

template <class L> static int matmul_dw_tiled_ok(const weft_args *args) {
    const weft_matmul_dw_args &a = args->matmul_dw;
    return matmul_dw_takes(args) && grad_chunks(a.dy) && grad_chunks(a.x) && grad_fits<L>(a.shards);
}

template <class L> static bool dx_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dx_args *a = &step->args.matmul_dx;
    dim3 grid((unsigned)tiled_blocks<L>(a->w.shape[1], a->dy.shape[0]));
    if (!matmul_dx_tiled_ok<L>(&step->args) || !grad_aligned(a->dy) || !grad_aligned(a->w))
        return false;
    if (grid.x && a->dy.dtype == WEFT_BF16)
        WEFT_LAUNCH(step, stream, (matmul_dx_tiled_k<bf16, L>), grid, L::THREADS,
                    sizeof(tiled_smem<L>), *a);
    else if (grid.x)
        WEFT_LAUNCH(step, stream, (matmul_dx_tiled_k<f16, L>), grid, L::THREADS,
                    sizeof(tiled_smem<L>), *a);
    return true;
}

template <class L> static bool dw_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dw_args *a = &step->args.matmul_dw;
    dim3 grid((unsigned)tiled_blocks<L>(a->x.shape[1], a->dy.shape[1]));
    if (!matmul_dw_tiled_ok<L>(&step->args) || !grad_aligned(a->dy) || !grad_aligned(a->x))
        return false;
    if (grid.x && a->dy.dtype == WEFT_BF16)
        WEFT_LAUNCH(step, stream, (matmul_dw_tiled_k<bf16, L>), grid, L::THREADS,
                    sizeof(tiled_smem<L>), *a);
    else if (grid.x)
        WEFT_LAUNCH(step, stream, (matmul_dw_tiled_k<f16, L>), grid, L::THREADS,
                    sizeof(tiled_smem<L>), *a);
    return true;
}

/* Whether the large tiles take less time: blocks of the busiest SM by what one costs there. */
template <int TURNED> static bool grad_large(int64_t rows, int64_t tokens) {
    return TILED_COST_128X256 * tiled_rounds<tiles_128x256<TURNED>>(rows, tokens, 1) <=
           TILED_COST_128X128 * tiled_rounds<tiles_128x128<TURNED>>(rows, tokens, 1);
}

bool matmul_dx_tiled(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dx_args *a = &step->args.matmul_dx;
    if (a->leaves > 1)
        return dx_run<leaves_128x128<TURNED_W>>(step, stream);
    if (grad_large<TURNED_W>(a->w.shape[1], a->dy.shape[0]))
        return dx_run<tiles_128x256<TURNED_W>>(step, stream);
    return dx_run<tiles_128x128<TURNED_W>>(step, stream);
}

bool matmul_dw_tiled(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dw_args *a = &step->args.matmul_dw;
    if (a->shards > 1)
        return dw_run<leaves_128x128<TURNED_W | TURNED_X>>(step, stream);
    if (grad_large<TURNED_W | TURNED_X>(a->x.shape[1], a->dy.shape[1]))
        return dw_run<tiles_128x256<TURNED_W | TURNED_X>>(step, stream);
    return dw_run<tiles_128x128<TURNED_W | TURNED_X>>(step, stream);
}

/* Rows that name a tile, for tests and research; unaligned operands go the general way. */
template <class L> static void matmul_dx_row(const weft_step *step, weft_stream *stream) {
    if (!dx_run<L>(step, stream))
        matmul_dx_any(step, stream);
}

template <class L> static void matmul_dw_row(const weft_step *step, weft_stream *stream) {
    if (!dw_run<L>(step, stream))
        matmul_dw_any(step, stream);
}

#define GRAD_ROW(op, name, tiles) \
    WEFT_ROW_AS(op, name, MMA, 0, op##_tiled_ok<tiles>, op##_row<tiles>)

WEFT_ROWS(matmul_grad_tiled) = {GRAD_ROW(matmul_dx, "mma_128x256", tiles_128x256<1>),
                                GRAD_ROW(matmul_dx, "mma_128x128", tiles_128x128<1>),
                                GRAD_ROW(matmul_dx, "mma_leaves", leaves_128x128<1>),
                                GRAD_ROW(matmul_dw, "mma_128x256", tiles_128x256<3>),
                                GRAD_ROW(matmul_dw, "mma_128x128", tiles_128x128<3>),
                                GRAD_ROW(matmul_dw, "mma_shards", leaves_128x128<3>),
                                WEFT_ROWS_END};

#define GRAD_CLAIM(name, tiles) \
    { \
        name, tiles::THREADS, tiles::BLOCKS, sizeof(tiled_smem<tiles>), \
            "HMMA.16816 LDSM.MT88.4 LDGSTS.128" \
    }

WEFT_CLAIMS(matmul_grad_tiled) = {
    GRAD_CLAIM("matmul_d?_tiled_k<*,tiling<2,4,4,8,1,4,1,?>>", tiles_128x256<1>),
    GRAD_CLAIM("matmul_d?_tiled_k<*,tiling<2,2,4,8,1,4,2,?>>", tiles_128x128<1>),
    GRAD_CLAIM("matmul_d?_tiled_k<*,tiling<2,2,4,8,2,3,1,?>>", leaves_128x128<1>), WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
