/* SPDX-License-Identifier: Apache-2.0
 * The outer product of matmul's gradients: c[R,C] += a[R,K] b[K,C], each element one chain of fma
 * in ascending k. b is packed into panels of OUTER_PANEL columns, a row of a panel after the other;
 * a tile of OUTER_R rows by a panel stays in registers while k passes. Tiles, blocks of k (c waits
 * in memory) and threads only choose when an element's next product is added, never which. */
#pragma once
#include "cpu.h"

enum { OUTER_PANEL = 16 * OUTER_C };

/* A rectangle of memory to fetch while tiles are worked on, a line a step of k; then the next. */
typedef struct outer_fetch {
    const char *at;
    int64_t rows, lines; /* that are left; lines of 64 bytes in a row */
    int64_t stride;      /* bytes from row to row */
    int64_t done;        /* lines of the row at hand */
    struct outer_fetch *then;
} outer_fetch;

typedef struct {
    const float *a, *b;
    float *c;
    int64_t k, cstride;
    int first;          /* start from +0 instead of c */
    outer_fetch *fetch; /* NULL: nothing */
} outer_tile;

typedef void outer_fn(outer_tile *o);

V16 outer_fetch outer_rectangle(const void *at, int64_t rows, int64_t bytes, int64_t stride) {
    outer_fetch f = {at, rows, cpu_ceil(bytes, 64), stride, 0, NULL};
    return f;
}

/* Fetches one line of *f, which moves on. */
V16 void outer_fetch_line(outer_fetch **f) {
    outer_fetch *now = *f;
    __builtin_prefetch(now->at + now->done * 64, 0, 2);
    if (++now->done < now->lines)
        return;
    now->done = 0;
    now->at += now->stride;
    if (--now->rows <= 0)
        *f = now->then;
}

/* astride: between rows of a; astep: between steps of k. */
V16 void outer_product(int64_t astride, int64_t astep, int nr, int nc, outer_tile *o) {
    v16 acc[OUTER_R][OUTER_C], b[OUTER_C];
    const float *ap = o->a, *bp = o->b;
    outer_fetch *fetch = o->fetch;
    WEFT_UNROLL
    for (int r = 0; r < nr; r++) {
        WEFT_UNROLL
        for (int c = 0; c < nc; c++)
            acc[r][c] = o->first ? v16_zero() : v16_load(o->c + r * o->cstride + c * 16);
    }
    for (int64_t k = 0; k < o->k; k++, ap += astep, bp += OUTER_PANEL) {
        if (fetch)
            outer_fetch_line(&fetch);
        WEFT_UNROLL
        for (int c = 0; c < nc; c++)
            b[c] = v16_load(bp + c * 16);
        WEFT_UNROLL
        for (int r = 0; r < nr; r++) {
            v16 factor = v16_set1(ap[r * astride]);
            WEFT_UNROLL
            for (int c = 0; c < nc; c++)
                acc[r][c] = v16_fma(factor, b[c], acc[r][c]);
        }
    }
    WEFT_UNROLL
    for (int r = 0; r < nr; r++) {
        WEFT_UNROLL
        for (int c = 0; c < nc; c++)
            v16_store(o->c + r * o->cstride + c * 16, acc[r][c]);
    }
    o->fetch = fetch;
}

/* Every size of tile for one way that a may lie, and their table: [rows - 1][vectors - 1]. */
#define OUTER_TILE(name, astride, astep, r, c) \
    static void name##_##r##c(outer_tile *o) { \
        outer_product(astride, astep, r, c, o); \
    }
#define OUTER_ENTRY(name, astride, astep, r, c) name##_##r##c,
#define OUTER_TILES(name, astride, astep) \
    V16_OUTER(OUTER_TILE, name, astride, astep) \
    static outer_fn *const name[] = {V16_OUTER(OUTER_ENTRY, name, astride, astep)};

V16 void outer_do(outer_fn *const *table, int64_t nr, int64_t columns, outer_tile *o) {
    table[(nr - 1) * OUTER_C + (columns + 15) / 16 - 1](o);
}

/* A row of b, `pitch` floats from panel to panel; what is missing of the last sixteen is +0. */
V16 void outer_pack_as(int dtype, const void *from, int64_t columns, float *to, int64_t pitch) {
    for (int64_t at = 0; at < columns; at += OUTER_PANEL, to += pitch)
        CPU_EACH16(i, n, cpu_min(OUTER_PANEL, columns - at)) {
            v16_store(to + i, v16_get(dtype, from, at + i, (int)n));
        }
}

static void outer_pack(int dtype, const void *from, int64_t columns, float *to, int64_t pitch) {
    switch (dtype) {
    case WEFT_F32: outer_pack_as(WEFT_F32, from, columns, to, pitch); return;
    case WEFT_BF16: outer_pack_as(WEFT_BF16, from, columns, to, pitch); return;
    case WEFT_I8: outer_pack_as(WEFT_I8, from, columns, to, pitch); return;
    default: outer_pack_as(WEFT_F16, from, columns, to, pitch);
    }
}

/* Equal stretches of k, at most `most` long. */
V16 int64_t outer_stretch(int64_t k, int64_t most) {
    return cpu_max(1, cpu_ceil(k, cpu_max(1, cpu_ceil(k, most))));
}
