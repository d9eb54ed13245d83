/* SPDX-License-Identifier: Apache-2.0
 * Tuning numbers, each with its reason. */
#pragma once
#include <stdint.h>

namespace WEFT_CU_NS {

/* Warps that share a row of a norm or softmax: a function of its width alone, because the tree over
 * them is part of the result. */
static inline int row_warps(int64_t width) {
    return width <= 512 ? 1 : width <= 2048 ? 4 : 8;
}

/* Chunks of eight that a thread of such a row holds in registers: the whole row up to 8192
 * elements, in no more than 32 registers of fp32. */
constexpr int row_held(int warps) {
    return warps == 8 ? 4 : 2;
}

/* Narrow rows of a norm share a block, a warp each: eight make 256 threads. */
enum { NORM_ROWS = 8 };

/* token_logprob: rows wider than this take 32 warps, so that one block's loads use an SM's share of
 * the bandwidth; a thread has this many chunks in flight. */
enum { LOGPROB_NARROW = 8192, LOGPROB_FLIGHT = 2 };

/* sample. One launch looks at the raw logits in slices of 4096, 16 a thread, so that a single row
 * fills a part of the GPU; then a block runs each row's chain: 512 threads of up to 128 registers,
 * eight loads of each in flight. What is selected from is narrowed to FEW tokens by 2048 buckets
 * and then compared in pairs; a vocabulary cut to LIST tokens moves to shared memory. At most SLOTS
 * rows have scratch (12 bytes a token) at a time. */
enum {
    SAMPLE_SCAN_THREADS = 256,
    SAMPLE_SLICE = 4096,
    SAMPLE_THREADS = 512,
    SAMPLE_WARPS = 16,
    SAMPLE_FLIGHT = 8,
    SAMPLE_BUCKETS = 2048,
    SAMPLE_FEW = 512,
    SAMPLE_LIST = 1024,
    SAMPLE_VOCAB = 262144,
    SAMPLE_SLOTS = 128
};

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

/* Matmul for few tokens: 512 of k over the chains of a block make 16 KiB of weights a stage, with
 * rows of 128 bytes (a line) or more; two blocks of 96 KiB fit an SM of sm_80 and sm_90 and keep
 * some 80 KiB in flight, of which 20 (bandwidth x latency / SMs) are needed; one fits sm_86. */
enum { SKINNY_K = 512, SKINNY_BYTES = 96 << 10 };

/* Rows of weight of a block: more share the activations better, but 1.5 blocks an SM of a large GPU
 * come first. */
static inline int skinny_rows(int64_t n, int leaves) {
    int groups = 8 / leaves;
    while (groups > 1 && n / (16 * groups) < 192)
        groups /= 2;
    return 16 * groups;
}

/* Tokens up to which that is faster than tiles. With leaves a block has 16 to 64 rows, and reads
 * all of the activations for them. */
static inline int64_t skinny_tokens(int leaves) {
    return leaves == 1 ? 32 : 16;
}

/* Matmul in tiles: 64-byte rows let four stages of 128 x 256 fit 96 KiB, which every GPU has, and
 * cover 2400 clocks of latency. Bands of 16 strips of 128 rows by 8 tiles of 256 tokens make a
 * square of what 132 SMs work on at a time. */
enum { TILED_K = 32, TILED_BAND = 16 };

/* Time of a block's 16 k on an SM of sm_90, relative to one another: what binds is mma.sync for the
 * large tile, two of the middle ones side by side read a tenth more, the small one is bound by
 * shared memory. */
enum { TILED_COST_128X256 = 100, TILED_COST_128X128 = 55, TILED_COST_64X64 = 28 };

/* int8 weights, few tokens, one leaf: a warp is a block and streams 8 rows of w by itself. 256
 * bytes of a row a stage are 16 matrix instructions, enough to hide the wait at its end; six stages
 * keep 10 KiB of w in flight, and four such warps an SM (4096 rows on 132) the 20 KiB that are
 * needed twice over. */
enum { INT8_K = 256, INT8_STAGES = 6 };

/* Matmul by wgmma: a band of strips as above. */
enum { WGMMA_BAND = 16 };

/* Time of a block's 16 k on an SM, relative to one another: the large tile's products read 62 % of
 * what shared memory gives and its copies write the rest; two of the middle one side by side ask
 * for a fourth more; the small one reads as long as it multiplies, and waits more. */
enum { WGMMA_COST_128X256 = 100, WGMMA_COST_128X128 = 62, WGMMA_COST_64X64 = 25 };

/* Matmul in fp32: 32 x 32 outputs, four a thread, bound by shared memory at a quarter of the FFMA
 * peak; a reference for the tensor cores rather than a fast path. */
enum { SIMT_TILE = 32, SIMT_K = 32, SIMT_THREADS = 256 };

/* Attention: keys of a split, part of the arithmetic (docs/NUMERICS.md): long enough that combining
 * is nothing beside reading 512 keys, short enough that 8k of context fill the SMs with 8 kv
 * heads. */
enum { ATT_SPLIT = 512 };

/* Keys of a block by the padded width of a head, part of the arithmetic too: 16 KiB of K at
 * most. */
__host__ __device__ constexpr int att_key_block(int width) {
    return width > 128 ? 32 : 64;
}

/* Blocks of K and V on their way in decode: 64 KiB, so that two thread blocks keep an H200's SM
 * busy and one fits the 99 KiB of consumer GPUs; wide heads have more beside them. */
__host__ __device__ constexpr int att_stages(int width) {
    return width <= 64 ? 8 : width <= 128 ? 4 : 3;
}

} // namespace WEFT_CU_NS
