/* SPDX-License-Identifier: Apache-2.0
 * The outer product of matmul's gradients: c[R,C] += a[R,K] b[K,C], each element one chain in
 * ascending k. b is packed into panels of OUTER_PANEL columns, a row of a panel after the other; a
 * tile of OUTER_R rows by a panel stays in registers while k passes. Tiles, blocks of k (c waits in
 * memory) and threads only choose when an element's next product is added, never which.
 *
 * A step of k is what outer_fma.h or outer_pairs.h, either of which includes this file, makes of
 * it: OUTER_K elements of k in a slot of 32 bits. */
#pragma once

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
    const float *a, *b; /* slots */
    float *c;
    int64_t k, cstride; /* steps; floats */
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
                acc[r][c] = outer_mul(factor, b[c], acc[r][c]);
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

/* Steps that k elements take. */
V16 int64_t outer_steps(int64_t k) {
    return cpu_ceil(k, OUTER_K);
}

/* Equal stretches of k, at most `most` long and whole steps. */
V16 int64_t outer_stretch(int64_t k, int64_t most) {
    int64_t len = cpu_ceil(k, cpu_max(1, cpu_ceil(k, most)));
    return cpu_max(1, outer_steps(len)) * OUTER_K;
}
