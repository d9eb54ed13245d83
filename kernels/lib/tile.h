/* SPDX-License-Identifier: Apache-2.0
 * Tuning numbers, each with its reason. */
#pragma once
#include <stdint.h>

namespace WEFT_CU_NS {

/* Warps that share a row of a norm or softmax: a function of its width alone, because the tree over
 * them is part of the result. A thread then holds 1 to 4 chunks of eight up to 8192 elements. */
static inline int row_warps(int64_t width) {
    return width <= 512 ? 1 : width <= 2048 ? 4 : 8;
}

/* Matmul on tensor cores. A block is eight warps, each with 16 rows of the weight and one leaf, so
 * it stages 128 rows of weight whatever the number of leaves; 32 of k make a row 64 bytes, the
 * least that fills sectors and keeps four stages in 64 KiB (three blocks of an SM's 227 KiB). */
enum { MMA_WARPS = 8, MMA_ROWS = 128, MMA_K = 32, MMA_STAGES = 4 };

/* Tokens of a block, in tiles of 8 (the instruction's N): as few as hold them all, at most what the
 * staging of 128 rows of activations and 64 accumulators a thread allow. */
static inline int mma_tiles(int64_t tokens, int leaves) {
    int most = leaves == 1 ? 8 : 16 / leaves;
    int64_t need = (tokens + 7) / 8;
    int tiles = need <= 1 ? 1 : need <= 2 ? 2 : need <= 4 ? 4 : 8;
    return tiles < most ? tiles : most;
}

/* Matmul in fp32: 32 x 32 outputs, four a thread, bound by shared memory at a quarter of the FFMA
 * peak; a reference for the tensor cores rather than a fast path. */
enum { SIMT_TILE = 32, SIMT_K = 32, SIMT_THREADS = 256 };

} // namespace WEFT_CU_NS
