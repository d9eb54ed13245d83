/* SPDX-License-Identifier: Apache-2.0
 * The tile itself, for either class: included after mm_step, which adds one granule. */

/* Folds a tile's lanes into its sums, eight trees at a time. */
V16 void mm_fold(int nt, int nn, v16 (*acc)[TILE_N], float *sum) {
    v16 lanes[MM_FOLD];
    float flat[MM_FOLD];
    WEFT_UNROLL
    for (int i = 0; i < (nt * nn + 7) / 8 * 8; i++)
        lanes[i] = i < nt * nn ? acc[i / nn][i % nn] : v16_zero();
    WEFT_UNROLL
    for (int i = 0; i < nt * nn; i += 8)
        v16_sum8(lanes + i, flat + i);
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        memcpy(sum + t * MM_PITCH, flat + t * nn, (size_t)nn * sizeof *sum);
}

V16 void mm_tile(int nt, int nn, int dtype, int packed, const mm_stretch *s, const char *first_x,
                 v16 *out, float *sum) {
    v16 acc[TILE_T][TILE_N];
    const char *x[TILE_T], *w[TILE_N];
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        x[t] = first_x + t * s->xstride;
    WEFT_UNROLL
    for (int r = 0; r < nn; r++)
        w[r] = s->w + r * s->wstride;
    WEFT_UNROLL
    for (int t = 0; t < nt; t++) {
        WEFT_UNROLL
        for (int r = 0; r < nn; r++)
            acc[t][r] = s->first ? v16_zero() : out[t * nn + r];
    }
    int64_t ahead = packed ? 0 : s->next - s->w;
    for (int64_t i = 0; i < s->steps; i++) {
        MM_STEP(dtype, i, MM_GRANULE);
        if (packed || i * mm_step_bytes(dtype) % 64)
            continue;
        WEFT_UNROLL
        for (int r = 0; r < nn; r++)
            __builtin_prefetch(w[r] + ahead + i * mm_step_bytes(dtype), 0, 2);
    }
    if (!packed && s->tail)
        MM_STEP(dtype, s->steps, s->tail);
    if (sum) {
        mm_fold(nt, nn, acc, sum);
        return;
    }
    WEFT_UNROLL
    for (int t = 0; t < nt; t++) {
        WEFT_UNROLL
        for (int r = 0; r < nn; r++)
            out[t * nn + r] = acc[t][r];
    }
}

/* The i-th tile's share of the lines to fetch. */
V16 void mm_fetch(const mm_stretch *s, int nn, int64_t i) {
    int64_t from = i * s->lines / s->tiles, to = (i + 1) * s->lines / s->tiles;
    for (int r = 0; r < nn; r++)
        for (int64_t l = from; l < to; l++)
            __builtin_prefetch(s->next + r * s->nextstride + l * 64, 0, 2);
}

/* The tiles of a stretch in one loop: a call for each would cost a tenth of the time. */
V16 void mm_tiles(int nt, int nn, int dtype, int packed, const mm_stretch *s, v16 *acc) {
    const char *x = s->x;
    float *sum = s->sum;
    for (int i = 0; i < s->tiles; i++) {
        mm_tile(nt, nn, dtype, packed, s, x, acc, sum);
        if (packed)
            mm_fetch(s, nn, i);
        x += nt * s->xstride;
        acc += MM_PANELS * MM_ACC;
        sum = sum ? sum + nt * MM_PITCH : NULL;
    }
}

/* Every size of tile for one type of w, and their table. Packed rows are whole granules and near;
 * others may have a tail, and the rows after them are fetched meanwhile. */
#define MM_TILE(type, packed, name, t, n) \
    static void mm_##name##_##t##n(const mm_stretch *s, v16 *acc) { \
        mm_tiles(t, n, type, packed, s, acc); \
    }
#define MM_ENTRY(type, packed, name, t, n) mm_##name##_##t##n,
