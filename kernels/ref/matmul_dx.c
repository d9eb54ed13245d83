/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx: dx = dy w, what a matmul's gradient is in its input. Each leaf of each output is one
 * chain of double sums over ascending n, whatever the tile. */
#include "kernels/ref/ref.h"

enum { TILE_T = 16, TILE_K = 64 };

int ref_matmul_dx_ok(const weft_args *args) {
    const weft_matmul_dx_args *a = &args->matmul_dx;
    bool tree = a->leaves == 1 || a->leaves == 2 || a->leaves == 4 || a->leaves == 8;
    bool scaled = a->w.dtype == WEFT_I8;
    if (!tree || a->w.shape[0] % a->leaves || a->w.shape[0] != a->dy.shape[1] ||
        a->w.shape[1] != a->dx.shape[1])
        return 0;
    return ref_is_float(&a->dy) && (scaled || ref_is_float(&a->w)) &&
           weft_has(&a->wscale) == scaled && (!scaled || a->wscale.dtype == WEFT_F32) &&
           ref_is_float_or_absent(&a->res) && ref_is_float(&a->dx);
}

typedef struct {
    const weft_matmul_dx_args *a;
    int64_t t0, nt, k0, nk; /* rows and columns of the output */
    float leaf[TILE_T][TILE_K][8];
} matmul_dx_tile;

/* dy[t,n], times what an integer weight's row is to be multiplied by. */
static double matmul_dx_factor(const weft_matmul_dx_args *a, int64_t t, int64_t n) {
    double dy = ref_get(&a->dy, t * a->dy.stride[0] + n * a->dy.stride[1]);
    if (!weft_has(&a->wscale))
        return dy;
    return ref_round(a->dy.dtype, dy * ref_get(&a->wscale, n * a->wscale.stride[0]));
}

static void matmul_dx_leaf(matmul_dx_tile *tile, int leaf) {
    const weft_matmul_dx_args *a = tile->a;
    int64_t width = a->w.shape[0] / a->leaves;
    double sum[TILE_T][TILE_K] = {{0}}, w[TILE_K] = {0};
    for (int64_t n = leaf * width; n < (leaf + 1) * width; n++) {
        ref_load(&a->w, n * a->w.stride[0] + tile->k0 * a->w.stride[1], a->w.stride[1], tile->nk,
                 w);
        for (int64_t t = 0; t < tile->nt; t++) {
            double dy = matmul_dx_factor(a, tile->t0 + t, n);
            for (int k = 0; k < TILE_K; k++)
                sum[t][k] += dy * w[k];
        }
    }
    for (int64_t t = 0; t < tile->nt; t++)
        for (int64_t k = 0; k < tile->nk; k++)
            tile->leaf[t][k][leaf] = (float)sum[t][k];
}

static void matmul_dx_finish(const matmul_dx_tile *tile, int64_t t, int64_t k) {
    const weft_matmul_dx_args *a = tile->a;
    int64_t row = tile->t0 + t, col = tile->k0 + k;
    double v = ref_round(a->dx.dtype, weft_tree_sum(tile->leaf[t][k], a->leaves));
    if (weft_has(&a->res))
        v += ref_get(&a->res, row * a->res.stride[0] + col * a->res.stride[1]);
    ref_put(&a->dx, row * a->dx.stride[0] + col * a->dx.stride[1], v);
}

static void matmul_dx_tiles(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_matmul_dx_args *a = ctx;
    int64_t rows = ref_lead(&a->rows, a->dy.shape[0]), cols = a->w.shape[1];
    int64_t tall = (rows + TILE_T - 1) / TILE_T;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        matmul_dx_tile tile = {.a = a, .t0 = i % tall * TILE_T, .k0 = i / tall * TILE_K};
        tile.nt = rows - tile.t0 < TILE_T ? rows - tile.t0 : TILE_T;
        tile.nk = cols - tile.k0 < TILE_K ? cols - tile.k0 : TILE_K;
        for (int leaf = 0; leaf < a->leaves; leaf++)
            matmul_dx_leaf(&tile, leaf);
        for (int64_t t = 0; t < tile.nt; t++)
            for (int64_t k = 0; k < tile.nk; k++)
                matmul_dx_finish(&tile, t, k);
    }
}

void ref_matmul_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dx_args *a = &step->args.matmul_dx;
    int64_t rows = ref_lead(&a->rows, a->dy.shape[0]);
    int64_t tiles = (rows + TILE_T - 1) / TILE_T * ((a->w.shape[1] + TILE_K - 1) / TILE_K);
    weft_parallel(stream, tiles, 1, matmul_dx_tiles, a);
}
