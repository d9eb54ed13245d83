/* SPDX-License-Identifier: Apache-2.0
 * The tile itself, for either class: included after mm_step, which adds one granule. */

V16 void mm_tile(int nt, int nn, int dtype, const mm_stretch *s, v16 *out) {
    v16 acc[TILE_T][TILE_N];
    const char *x[TILE_T], *w[TILE_N];
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        x[t] = s->x + t * s->xstride;
    WEFT_UNROLL
    for (int r = 0; r < nn; r++)
        w[r] = s->w + r * s->wstride;
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        WEFT_UNROLL
    for (int r = 0; r < nn; r++)
        acc[t][r] = s->first ? v16_zero() : out[t * nn + r];
    int64_t ahead = s->next - s->w;
    for (int64_t i = 0; i < s->steps; i++) {
        MM_STEP(dtype, i, MM_GRANULE);
        WEFT_UNROLL
        for (int r = 0; r < nn; r++)
            __builtin_prefetch(w[r] + ahead + i * mm_step_bytes(dtype), 0, 2);
    }
    if (s->tail)
        MM_STEP(dtype, s->steps, s->tail);
    WEFT_UNROLL
    for (int t = 0; t < nt; t++)
        WEFT_UNROLL
    for (int r = 0; r < nn; r++)
        out[t * nn + r] = acc[t][r];
}

/* Every size of tile for one type of w, and their table. */
#define MM_TILE(type, name, t, n)                                   \
    static void mm_##name##_##t##n(const mm_stretch *s, v16 *acc) { \
        mm_tile(t, n, type, s, acc);                                \
    }
#define MM_ENTRY(type, name, t, n) mm_##name##_##t##n,
