/* SPDX-License-Identifier: Apache-2.0
 * matmul, class LANE16: lane l adds products k = l, l + 16, ... of its slice in ascending order, by
 * fma from +0; the last granule is padded with +0 on both sides. Decode is bound by reading w;
 * prefill by the fma units: a tile of TILE_T tokens by TILE_N rows takes TILE_T + TILE_N loads for
 * their product of fmas, out of packed fp32 stretches in L1 and L2. int8 weights are the same sums
 * over their integers; the scale of a row meets its leaves at the end. */
#include "matmul.h"

V16 void mm_widen(int dtype, const char *from, float *to, int64_t n, int64_t ahead) {
    int bytes = 16 * mm_bytes(dtype);
    for (int64_t i = 0; i < n / 16; i++, from += bytes) {
        __builtin_prefetch(from + ahead, 0, 2);
        v16_store(to + i * 16, v16_get16(dtype, from));
    }
    if (n % 16)
        v16_store(to + n / 16 * 16, v16_get(dtype, from, 0, (int)(n % 16)));
}

static void mm_copy(int dtype, const void *from, void *to, int64_t n, int64_t ahead) {
    if (dtype == WEFT_F32)
        mm_widen(WEFT_F32, from, to, n, ahead);
    else if (dtype == WEFT_BF16)
        mm_widen(WEFT_BF16, from, to, n, ahead);
    else if (dtype == WEFT_I8)
        mm_widen(WEFT_I8, from, to, n, ahead);
    else
        mm_widen(WEFT_F16, from, to, n, ahead);
}

V16 v16 mm_load_w(int dtype, const char *p, int n) {
    return n == 16 ? v16_get16(dtype, p) : v16_get(dtype, p, 0, n);
}

/* One step of k: n lanes of every row. */
V16 void mm_step(int nt, int nn, int dtype, const char *const *x, const char *const *w, int64_t k,
                 int n, v16 (*acc)[TILE_N]) {
    v16 xv[TILE_T];
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        xv[t] = n == 16 ? v16_load((const float *)(const void *)(x[t] + k * 4))
                        : v16_load_n((const float *)(const void *)(x[t] + k * 4), n);
    WEFT_UNROLL
    for (int r = 0; r < nn; r++) {
        v16 wv = mm_load_w(dtype, w[r] + k * mm_bytes(dtype), n);
        WEFT_UNROLL
        for (int t = 0; t < nt; t++)
            acc[t][r] = v16_fma(xv[t], wv, acc[t][r]);
    }
}

V16 int64_t mm_step_bytes(int dtype) {
    return 16 * mm_bytes(dtype);
}

#define MM_STEP(dtype, k, n) mm_step(nt, nn, dtype, x, w, (k)*16, n, acc)
enum { MM_GRANULE = 16 };
#include "matmul_tile.h"

V16_TILES(MM_TILE, WEFT_F32, 0, f32)
V16_TILES(MM_TILE, WEFT_F16, 0, f16)
V16_TILES(MM_TILE, WEFT_BF16, 0, bf16)
V16_TILES(MM_TILE, WEFT_I8, 0, i8)
V16_TILES(MM_TILE, WEFT_F32, 1, packed)

static mm_tile_fn *const mm_f32[] = {V16_TILES(MM_ENTRY, WEFT_F32, 0, f32)};
static mm_tile_fn *const mm_f16[] = {V16_TILES(MM_ENTRY, WEFT_F16, 0, f16)};
static mm_tile_fn *const mm_bf16[] = {V16_TILES(MM_ENTRY, WEFT_BF16, 0, bf16)};
static mm_tile_fn *const mm_i8[] = {V16_TILES(MM_ENTRY, WEFT_I8, 0, i8)};
static mm_tile_fn *const mm_packed[] = {V16_TILES(MM_ENTRY, WEFT_F32, 1, packed)};
static const mm_class lane16 = {
    {[WEFT_F32] = mm_f32, [WEFT_F16] = mm_f16, [WEFT_BF16] = mm_bf16, [WEFT_I8] = mm_i8},
    mm_packed,
    mm_copy,
    WEFT_F32,
    16};

CPU_OK(matmul) {
    return mm_ok(&args->matmul);
}

CPU_SCRATCH(matmul) {
    return mm_scratch(&args->matmul, &lane16);
}

CPU_RUN(matmul) {
    mm_run(step, stream, &lane16);
}
