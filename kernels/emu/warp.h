/* SPDX-License-Identifier: Apache-2.0
 * The matrix instructions of a warp; kernels/emu/ptx.cuh gives them their PTX names. */
#pragma once
#include "kernels/emu/emu.h"

namespace emu {

enum mma_kind { MMA_BF16, MMA_F16, MMA_TF32, MMA_S8 };

/* d and c are four fp32, or s32 for MMA_S8. */
void mma(mma_kind kind, void *d, const uint32_t *a, const uint32_t *b, const void *c, site at);
/* What the hardware adds in one step of depth 16 (tf32: 8), for eight columns: products and
 * accumulator are aligned to the largest exponent among them, cut towards zero to 25 fraction bits,
 * added exactly and rounded once, to nearest even. Fits every result of an H200
 * (bench/probe.cu). */
void mma_row(mma_kind kind, const float *a, const float (*b)[8], float c[8], int depth);
void ldmatrix(uint32_t *r, const void *row, int matrices, bool trans, site at);
/* wgmma m64nNk16 with both operands in shared memory; d: the thread's n accumulators, added to if
 * `add`. Done by the wait for its group. */
uint64_t wgmma_descriptor(const void *p, int row_bytes, site at);
void wgmma(mma_kind kind, float *d, int n, uint64_t a, uint64_t b, int add, site at);
void wgmma_fence(site at);
void wgmma_commit(site at);
void wgmma_wait(int pending, site at);
void stmatrix(void *row, const uint32_t *r, int matrices, bool trans, site at);

} // namespace emu
