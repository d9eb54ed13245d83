/* SPDX-License-Identifier: Apache-2.0
 * Conversion in tiles, which are read the way the file lies. */
#include "host/model/weights_convert.h"
#include "host/model/quant.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { TILE_ROWS = 32, TILE_COLS = 256 };

/* n elements, `step` apart. One loop per type: the compiler keeps the contiguous ones in
 * vectors. */
static void load(const weight_source *f, int64_t at, int64_t step, float *to, int64_t n) {
    const char *p = f->data + weft_dtype_bytes(f->dtype, at);
    uint16_t h;
    if (f->dtype == WEFT_I8) {
        for (int64_t i = 0; i < n; i++)
            to[i] = (float)(int8_t)p[i * step];
    } else if (f->dtype == WEFT_F32) {
        for (int64_t i = 0; i < n; i++)
            memcpy(&to[i], p + 4 * i * step, 4);
    } else if (f->dtype == WEFT_BF16) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i * step, 2);
            to[i] = weft_bf16_to_f32(h);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            memcpy(&h, p + 2 * i * step, 2);
            to[i] = weft_f16_to_f32(h);
        }
    }
}

static void store(int dtype, const float *from, char *to, int64_t n) {
    uint16_t h;
    if (dtype == WEFT_I8) {
        for (int64_t i = 0; i < n; i++)
            to[i] = (char)(int8_t)from[i];
    } else if (dtype == WEFT_F32) {
        memcpy(to, from, (size_t)n * 4);
    } else if (dtype == WEFT_BF16) {
        for (int64_t i = 0; i < n; i++) {
            h = weft_f32_to_bf16(from[i]);
            memcpy(to + 2 * i, &h, 2);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            h = weft_f32_to_f16(from[i]);
            memcpy(to + 2 * i, &h, 2);
        }
    }
}

typedef struct {
    const weight_source *from, *whole;
    int dtype;
    char *to;
} job;

/* A stored column is contiguous where a stored row is not: tiles are read the way the file lies. */
static void load_tile(const weight_source *f, int64_t i0, int64_t rows, int64_t j0, int64_t cols,
                      float tile[TILE_ROWS][TILE_COLS]) {
    if (f->col == 1) {
        for (int64_t i = 0; i < rows; i++)
            load(f, f->at + (i0 + i) * f->row + j0, 1, tile[i], cols);
        return;
    }
    float column[TILE_ROWS];
    for (int64_t j = 0; j < cols; j++) {
        load(f, f->at + i0 * f->row + (j0 + j) * f->col, f->row, column, rows);
        for (int64_t i = 0; i < rows; i++)
            tile[i][j] = column[i];
    }
}

static void convert_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const job *b = ctx;
    const weight_source *f = b->from;
    float tile[TILE_ROWS][TILE_COLS];
    (void)worker;
    for (int64_t i = begin; i < end; i += TILE_ROWS)
        for (int64_t j = 0; j < f->cols; j += TILE_COLS) {
            int64_t rows = end - i < TILE_ROWS ? end - i : TILE_ROWS;
            int64_t cols = f->cols - j < TILE_COLS ? f->cols - j : TILE_COLS;
            load_tile(f, i, rows, j, cols, tile);
            for (int64_t r = 0; r < rows; r++)
                store(b->dtype, tile[r], b->to + weft_dtype_bytes(b->dtype, (i + r) * f->cols + j),
                      cols);
        }
}

static void copy_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const job *b = ctx;
    const weight_source *f = b->from;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        memcpy(b->to + weft_dtype_bytes(b->dtype, i * f->cols),
               f->data + weft_dtype_bytes(f->dtype, f->at + i * f->row),
               (size_t)weft_dtype_bytes(f->dtype, f->cols));
}

static int64_t shorter(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Scales of up to TILE_ROWS rows, each a function of the row alone. */
static void scale_rows(const weight_source *f, int64_t i0, int64_t rows, float scale[TILE_ROWS]) {
    float tile[TILE_ROWS][TILE_COLS], most[TILE_ROWS] = {0};
    for (int64_t j = 0; j < f->cols; j += TILE_COLS) {
        int64_t cols = shorter(f->cols - j, TILE_COLS);
        load_tile(f, i0, rows, j, cols, tile);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++)
                most[r] = isfinite(tile[r][c]) ? fmaxf(most[r], fabsf(tile[r][c])) : INFINITY;
    }
    for (int64_t r = 0; r < rows; r++)
        scale[r] = quant_scale(most[r]);
}

static void quantize_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const job *b = ctx;
    const weight_source *f = b->from;
    float tile[TILE_ROWS][TILE_COLS], scale[TILE_ROWS];
    (void)worker;
    for (int64_t i = begin; i < end; i += TILE_ROWS) {
        int64_t rows = shorter(end - i, TILE_ROWS);
        scale_rows(b->whole, i, rows, scale);
        if (b->dtype == WEFT_F32) {
            memcpy(b->to + i * 4, scale, (size_t)rows * 4);
            continue;
        }
        for (int64_t j = 0; j < f->cols; j += TILE_COLS) {
            int64_t cols = shorter(f->cols - j, TILE_COLS);
            load_tile(f, i, rows, j, cols, tile);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < cols; c++)
                    b->to[(i + r) * f->cols + j + c] = (char)quant_value(tile[r][c], scale[r]);
        }
    }
}

void weight_convert(weft_stream *s, const weight_source *from, const weight_source *whole,
                    int dtype, char *to) {
    job b = {from, whole, dtype, to};
    bool same = from->dtype == dtype && from->col == 1;
    weft_parallel(s, from->rows, TILE_ROWS,
                  whole->data ? quantize_rows
                  : same      ? copy_rows
                              : convert_rows,
                  &b);
}
