/* SPDX-License-Identifier: Apache-2.0
 * matmul, class BF16DOT: bf16 by bf16 on AVX512-BF16. Lane l takes the pairs k = 2l, 2l + 1 of
 * every 32 of its slice in ascending order; VDPBF16PS adds a pair's two products to the lane one
 * after the other, odd k first, denormals as zeros. The last granule is padded with +0 on both
 * sides. The fixed tree folds the lanes and combines leaves. */
#include "matmul.h"

static void mm_copy(int dtype, const void *from, void *to, int64_t n, int64_t ahead) {
    const char *f = from;
    (void)dtype;
    for (int64_t i = 0; i < n / 32 * 64; i += 64) {
        __builtin_prefetch(f + i + ahead, 0, 2);
        _mm512_storeu_si512((char *)to + i, _mm512_loadu_si512(f + i));
    }
    if (n % 32) {
        __mmask32 have = (__mmask32)((1u << n % 32) - 1u);
        _mm512_storeu_si512((char *)to + n / 32 * 64,
                            _mm512_maskz_loadu_epi16(have, f + n / 32 * 64));
    }
}

typedef __m512i mm_pairs;

V16 mm_pairs mm_load(const char *p, int n) {
    if (n == 32)
        return _mm512_loadu_si512(p);
    return _mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1u), p);
}

/* One step of k: n elements of every row. */
V16 void mm_step(int nt, int nn, const char *const *x, const char *const *w, int64_t k, int n,
                 v16 (*acc)[TILE_N]) {
    mm_pairs xv[TILE_T];
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        xv[t] = mm_load(x[t] + k * 2, n);
    WEFT_UNROLL
    for (int r = 0; r < nn; r++) {
        mm_pairs wv = mm_load(w[r] + k * 2, n);
        WEFT_UNROLL
        for (int t = 0; t < nt; t++)
            acc[t][r] = _mm512_dpbf16_ps(acc[t][r], (__m512bh)xv[t], (__m512bh)wv);
    }
}

V16 int64_t mm_step_bytes(int dtype) {
    (void)dtype;
    return 64;
}

#define MM_STEP(dtype, k, n) mm_step(nt, nn, x, w, (k)*32, n, acc)
enum { MM_GRANULE = 32 };
#include "matmul_tile.h"

V16_TILES(MM_TILE, WEFT_BF16, 0, bf16)
V16_TILES(MM_TILE, WEFT_BF16, 1, packed)

static mm_tile_fn *const mm_bf16[] = {V16_TILES(MM_ENTRY, WEFT_BF16, 0, bf16)};
static mm_tile_fn *const mm_packed[] = {V16_TILES(MM_ENTRY, WEFT_BF16, 1, packed)};
static const mm_class bf16dot = {{NULL, NULL, mm_bf16}, mm_packed, mm_copy, WEFT_BF16, 32};

CPU_OK(matmul) {
    const weft_matmul_args *a = &args->matmul;
    return mm_ok(a) && a->x.dtype == WEFT_BF16 && a->w.dtype == WEFT_BF16;
}

CPU_SCRATCH(matmul) {
    return mm_scratch(&args->matmul, &bf16dot);
}

CPU_RUN(matmul) {
    mm_run(step, stream, &bf16dot);
}
