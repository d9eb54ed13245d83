/* SPDX-License-Identifier: Apache-2.0
 * matmul: y = x w' with bias, activation and residual. Each leaf of each output is one chain of
 * double sums over ascending k, whatever the tile; eight columns run side by side for speed. */
#include "kernels/ref/ref.h"

enum { TILE_T = 16, TILE_N = 8 };

/* Float by float, float by int8, int8 by int8; an integer operand with its scales. */
static bool matmul_types(const weft_matmul_args *a) {
    bool ix = a->x.dtype == WEFT_I8, iw = a->w.dtype == WEFT_I8;
    if (ix &&
        (!iw || a->xscale.shape[1] != a->leaves || a->x.shape[1] / a->leaves > WEFT_S32_TERMS))
        return false;
    return (ix || ref_is_float(&a->x)) && (iw || ref_is_float(&a->w)) &&
           weft_has(&a->xscale) == ix && weft_has(&a->wscale) == iw &&
           (!ix || a->xscale.dtype == WEFT_F32) && (!iw || a->wscale.dtype == WEFT_F32);
}

int ref_matmul_ok(const weft_args *args) {
    const weft_matmul_args *a = &args->matmul;
    bool tree = a->leaves == 1 || a->leaves == 2 || a->leaves == 4 || a->leaves == 8;
    if (!tree || a->x.shape[1] % a->leaves || a->w.shape[1] != a->x.shape[1])
        return 0;
    if (a->partial && (a->y.dtype != WEFT_F32 || weft_has(&a->bias) || weft_has(&a->res) || a->act))
        return 0;
    return matmul_types(a) && ref_is_float(&a->y) && ref_is_float_or_absent(&a->bias) &&
           ref_is_float_or_absent(&a->res);
}

typedef struct {
    const weft_matmul_args *a;
    int64_t t0, nt, n0, nn; /* rows and columns of the output; nt, nn true ones */
    float leaf[TILE_T][TILE_N][8];
} matmul_tile;

/* w[n0 .., k .. k + nk] with columns innermost; columns that do not exist are zero. */
static void matmul_load_w(const matmul_tile *tile, int64_t k, int64_t nk, double (*w)[TILE_N]) {
    const weft_tensor *src = &tile->a->w;
    double row[REF_BLOCK] = {0};
    for (int64_t n = 0; n < TILE_N; n++) {
        if (n < tile->nn)
            ref_load(src, (tile->n0 + n) * src->stride[0] + k * src->stride[1], src->stride[1], nk,
                     row);
        for (int64_t i = 0; i < nk; i++)
            w[i][n] = n < tile->nn ? row[i] : 0.0;
    }
}

static void matmul_chain(const double *x, double (*w)[TILE_N], int64_t nk, double sum[TILE_N]) {
    double s[TILE_N];
    memcpy(s, sum, sizeof s);
    for (int64_t k = 0; k < nk; k++)
        for (int n = 0; n < TILE_N; n++)
            s[n] += x[k] * w[k][n];
    memcpy(sum, s, sizeof s);
}

/* A leaf's sum as it goes to the tree. */
static float matmul_scaled(const weft_matmul_args *a, double sum, int64_t t, int64_t n, int leaf) {
    float v = (float)sum;
    if (weft_has(&a->xscale))
        v *= (float)ref_get(&a->xscale, t * a->xscale.stride[0] + leaf * a->xscale.stride[1]);
    return weft_has(&a->wscale) ? v * (float)ref_get(&a->wscale, n * a->wscale.stride[0]) : v;
}

static void matmul_leaf(matmul_tile *tile, int leaf) {
    const weft_matmul_args *a = tile->a;
    int64_t width = a->x.shape[1] / a->leaves, end = (leaf + 1) * width;
    double sum[TILE_T][TILE_N] = {{0}}, w[REF_BLOCK][TILE_N], x[REF_BLOCK];
    for (int64_t k = leaf * width; k < end; k += REF_BLOCK) {
        int64_t nk = end - k < REF_BLOCK ? end - k : REF_BLOCK;
        matmul_load_w(tile, k, nk, w);
        for (int64_t t = 0; t < tile->nt; t++) {
            ref_load(&a->x, (tile->t0 + t) * a->x.stride[0] + k * a->x.stride[1], a->x.stride[1],
                     nk, x);
            matmul_chain(x, w, nk, sum[t]);
        }
    }
    for (int64_t t = 0; t < tile->nt; t++)
        for (int64_t n = 0; n < tile->nn; n++)
            tile->leaf[t][n][leaf] = matmul_scaled(a, sum[t][n], tile->t0 + t, tile->n0 + n, leaf);
}

static void matmul_finish(const weft_matmul_args *a, int64_t t, int64_t n, const float *leaf) {
    int dtype = a->y.dtype;
    double v = weft_tree_sum(leaf, a->leaves);
    if (weft_has(&a->bias))
        v += ref_get(&a->bias, n * ref_step(&a->bias));
    v = ref_round(dtype, ref_act(a->act, ref_round(dtype, v)));
    if (weft_has(&a->res))
        v += ref_get(&a->res, t * a->res.stride[0] + n * a->res.stride[1]);
    ref_put(&a->y, t * a->y.stride[0] + n * a->y.stride[1], v);
}

static void matmul_store_leaves(const weft_matmul_args *a, int64_t t, int64_t n,
                                const float *leaf) {
    for (int l = 0; l < a->leaves; l++)
        ref_put(&a->y, l * a->y.stride[0] + t * a->y.stride[1] + n * a->y.stride[2], leaf[l]);
}

/* Tiles are numbered column strip by column strip, so that a worker meets the same weights. */
static void matmul_tiles(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_matmul_args *a = ctx;
    int64_t rows = ref_lead(&a->rows, a->x.shape[0]), cols = a->w.shape[0];
    int64_t tall = (rows + TILE_T - 1) / TILE_T;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        matmul_tile tile = {.a = a, .t0 = i % tall * TILE_T, .n0 = i / tall * TILE_N};
        tile.nt = rows - tile.t0 < TILE_T ? rows - tile.t0 : TILE_T;
        tile.nn = cols - tile.n0 < TILE_N ? cols - tile.n0 : TILE_N;
        for (int leaf = 0; leaf < a->leaves; leaf++)
            matmul_leaf(&tile, leaf);
        for (int64_t t = 0; t < tile.nt; t++)
            for (int64_t n = 0; n < tile.nn; n++)
                (a->partial ? matmul_store_leaves : matmul_finish)(a, tile.t0 + t, tile.n0 + n,
                                                                   tile.leaf[t][n]);
    }
}

void ref_matmul_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_args *a = &step->args.matmul;
    int64_t rows = ref_lead(&a->rows, a->x.shape[0]);
    int64_t tiles = (rows + TILE_T - 1) / TILE_T * ((a->w.shape[0] + TILE_N - 1) / TILE_N);
    weft_parallel(stream, tiles, ref_grain(a->x.shape[1] * TILE_N), matmul_tiles, a);
}
