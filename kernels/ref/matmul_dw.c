/* SPDX-License-Identifier: Apache-2.0
 * matmul_dw and bias_db: gradients in a matmul's weight and bias. Each element is a chain over
 * ascending tokens for each virtual shard (ops_train.h). */
#include "kernels/ref/ref.h"

enum { TILE_N = 4, TILE_K = 128 };

int ref_matmul_dw_ok(const weft_args *args) {
    const weft_matmul_dw_args *a = &args->matmul_dw;
    return ref_is_float(&a->dy) && ref_is_float(&a->x) && a->dw.dtype == WEFT_F32 &&
           a->x.shape[0] == a->dy.shape[0] && a->dw.shape[0] == a->dy.shape[1] &&
           a->dw.shape[1] == a->x.shape[1] && ref_shards_ok(a->shards, a->dy.shape[0]);
}

typedef struct {
    const weft_matmul_dw_args *a;
    int64_t n0, nn, k0, nk; /* rows and columns of the gradient */
    float sum[8][TILE_N][TILE_K];
} matmul_dw_tile;

static void matmul_dw_chain(const matmul_dw_tile *tile, int64_t begin, int64_t end,
                            float (*sum)[TILE_K]) {
    const weft_matmul_dw_args *a = tile->a;
    double x[TILE_K] = {0}, dy[TILE_N];
    for (int64_t t = begin; t < end; t++) {
        ref_load(&a->x, t * a->x.stride[0] + tile->k0 * a->x.stride[1], a->x.stride[1], tile->nk,
                 x);
        ref_load(&a->dy, t * a->dy.stride[0] + tile->n0 * a->dy.stride[1], a->dy.stride[1],
                 tile->nn, dy);
        for (int64_t n = 0; n < tile->nn; n++)
            for (int k = 0; k < TILE_K; k++)
                sum[n][k] = ref_chain(sum[n][k], dy[n] * x[k]);
    }
}

static float *matmul_dw_at(const matmul_dw_tile *tile, int64_t n, int64_t k) {
    const weft_tensor *dw = &tile->a->dw;
    return (float *)dw->data + (tile->n0 + n) * dw->stride[0] + (tile->k0 + k) * dw->stride[1];
}

static void matmul_dw_one(matmul_dw_tile *tile) {
    const weft_matmul_dw_args *a = tile->a;
    int shards = a->shards;
    int64_t lead = ref_lead(&a->rows, a->dy.shape[0]), run = a->dy.shape[0] / shards;
    for (int64_t n = 0; n < tile->nn && shards == 1; n++)
        for (int64_t k = 0; k < tile->nk; k++)
            tile->sum[0][n][k] = *matmul_dw_at(tile, n, k);
    for (int s = 0; s < shards; s++)
        matmul_dw_chain(tile, s * run, (s + 1) * run < lead ? (s + 1) * run : lead, tile->sum[s]);
    for (int64_t n = 0; n < tile->nn; n++)
        for (int64_t k = 0; k < tile->nk; k++) {
            float leaf[8], *dw = matmul_dw_at(tile, n, k);
            for (int s = 0; s < shards; s++)
                leaf[s] = tile->sum[s][n][k];
            *dw = shards == 1 ? leaf[0] : *dw + weft_tree_sum(leaf, shards);
        }
}

static void matmul_dw_tiles(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_matmul_dw_args *a = ctx;
    int64_t rows = a->dw.shape[0], cols = a->dw.shape[1], tall = (rows + TILE_N - 1) / TILE_N;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        matmul_dw_tile tile = {.a = a, .n0 = i % tall * TILE_N, .k0 = i / tall * TILE_K};
        tile.nn = rows - tile.n0 < TILE_N ? rows - tile.n0 : TILE_N;
        tile.nk = cols - tile.k0 < TILE_K ? cols - tile.k0 : TILE_K;
        matmul_dw_one(&tile);
    }
}

void ref_matmul_dw_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dw_args *a = &step->args.matmul_dw;
    int64_t tiles = (a->dw.shape[0] + TILE_N - 1) / TILE_N;
    tiles *= (a->dw.shape[1] + TILE_K - 1) / TILE_K;
    weft_parallel(stream, tiles, 1, matmul_dw_tiles, a);
}

int ref_bias_db_ok(const weft_args *args) {
    const weft_bias_db_args *a = &args->bias_db;
    return ref_is_float(&a->dy) && a->db.dtype == WEFT_F32 && a->db.shape[0] == a->dy.shape[1] &&
           ref_shards_ok(a->shards, a->dy.shape[0]);
}

static float bias_db_chain(const void *ctx, int64_t i, int64_t begin, int64_t end, float sum) {
    const weft_bias_db_args *a = ctx;
    for (int64_t t = begin; t < end; t++)
        sum = ref_chain(sum, ref_get(&a->dy, t * a->dy.stride[0] + i * a->dy.stride[1]));
    return sum;
}

static void bias_db_columns(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_bias_db_args *a = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        ref_by_shards((float *)a->db.data + i * a->db.stride[0], a->shards, a->dy.shape[0],
                      ref_lead(&a->rows, a->dy.shape[0]), i, bias_db_chain, a);
}

void ref_bias_db_run(const weft_step *step, weft_stream *stream) {
    const weft_bias_db_args *a = &step->args.bias_db;
    weft_parallel(stream, a->dy.shape[1], ref_grain(a->dy.shape[0]), bias_db_columns, a);
}
