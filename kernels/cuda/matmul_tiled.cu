/* SPDX-License-Identifier: Apache-2.0
 * matmul in bf16 and fp16 for many tokens, on tensor cores; the chains, and so the bits, are those
 * of matmul_mma.cu, the tiles those of kernels/lib/matmul_tiles.cuh. Planes of leaves need no tree:
 * one group of warps takes them one after the other. Bound by arithmetic; figures are in
 * docs/PERFORMANCE.md. */
#include "kernels/lib/matmul_tiles.cuh"

namespace WEFT_CU_NS {

template <class T, class L>
__global__ void __launch_bounds__(L::THREADS, L::BLOCKS)
    matmul_tiled_k(const __grid_constant__ weft_matmul_args a) {
    WEFT_SMEM(tiled_smem<L>, s);
    int64_t n0, t0;
    tiled_locate<L>(a.w.shape[0], a.x.shape[0], &n0, &t0);
    mma_block b = mma_block_at(a, L::ROWS, L::TOKENS, n0, t0);
    if (b.t0 >= b.end_t)
        return;
    tiled_source from = {&a.w, &a.x, 0};
    int halves = (int)(b.width / 16);
    tiled_state<L> state(s, from, b, L::LEAVES == 1 ? (int)blockIdx.y : 0, halves / 2);
    epilogue e = {&a.y, &a.bias, &a.res, a.act};
    auto put = [&](const chunk &c, float(&v)[CHUNK]) {
        if (a.partial)
            store8(a.y, blockIdx.y * a.y.stride[0] + c.row * a.y.stride[1] + c.i, c.n, v);
        else
            e.store8(c, v);
    };
    tiled_block<T, L>(s, from, b, state, halves, put);
}

template <class T, class L> static void tiled_launch(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    dim3 grid((unsigned)tiled_blocks<L>(a->w.shape[0], a->x.shape[0]),
              a->partial ? (unsigned)a->leaves : 1u);
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

template <class L> static int64_t rounds_of(const weft_matmul_args *a) {
    return tiled_rounds<L>(a->w.shape[0], a->x.shape[0], a->partial ? a->leaves : 1);
}

/* The tiles of least time: blocks of the busiest SM by what one costs there. */
bool matmul_tiled(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    if (a->leaves > 1 && !a->partial) {
        int64_t pairs = TILED_COST_128X128 * rounds_of<leaves_128x128<0>>(a);
        if (TILED_COST_64X64 * rounds_of<leaves_64x64<0>>(a) < pairs)
            return tiled_run<leaves_64x64<0>>(step, stream);
        return tiled_run<leaves_128x128<0>>(step, stream) ||
               tiled_run<leaves_64x64<0>>(step, stream);
    }
    int64_t large = TILED_COST_128X256 * rounds_of<tiles_128x256<0>>(a);
    int64_t middle = TILED_COST_128X128 * rounds_of<tiles_128x128<0>>(a);
    int64_t small = TILED_COST_64X64 * rounds_of<tiles_64x64<0>>(a);
    if (small < large && small < middle)
        return tiled_run<tiles_64x64<0>>(step, stream);
    if (middle < large)
        return tiled_run<tiles_128x128<0>>(step, stream);
    return tiled_run<tiles_128x256<0>>(step, stream);
}

/* Of pairs of leaves: their planes too, which the other tiles then make. */
template <class L> static int tiled_ok(const weft_args *args) {
    const weft_matmul_args *a = &args->matmul;
    bool alone = a->leaves == 1 || (a->partial && L::LEAVES == 1);
    return mma_takes(args) && mma_strides(a) && tiled_takes<L>(a, alone);
}

template <class L> static void tiled_row(const weft_step *step, weft_stream *stream) {
    if (!tiled_run<L>(step, stream) && !tiled_run<tiles_128x128<0>>(step, stream))
        matmul_any(step, stream);
}

#define TILED_ROW(name, tiles) WEFT_ROW_AS(matmul, name, MMA, 0, tiled_ok<tiles>, tiled_row<tiles>)

WEFT_ROWS(matmul_tiled) = {
    TILED_ROW("mma_128x256", tiles_128x256<0>), TILED_ROW("mma_128x128", tiles_128x128<0>),
    TILED_ROW("mma_64x64", tiles_64x64<0>),     TILED_ROW("mma_leaves", leaves_128x128<0>),
    TILED_ROW("mma_leaves64", leaves_64x64<0>), WEFT_ROWS_END};

#define TILED_CLAIM(name, tiles) \
    { \
        name, tiles::THREADS, tiles::BLOCKS, sizeof(tiled_smem<tiles>), \
            "HMMA.16816 LDSM.4 LDGSTS.128 STG.128" \
    }

WEFT_CLAIMS(matmul_tiled) = {
    TILED_CLAIM("matmul_tiled_k<*,tiling<2,4,4,8,1,4,1,0>>", tiles_128x256<0>),
    TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,4,8,1,4,2,0>>", tiles_128x128<0>),
    TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,2,4,1,8,3,0>>", tiles_64x64<0>),
    TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,4,8,2,3,1,0>>", leaves_128x128<0>),
    TILED_CLAIM("matmul_tiled_k<*,tiling<2,2,2,4,2,6,1,0>>", leaves_64x64<0>),
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
