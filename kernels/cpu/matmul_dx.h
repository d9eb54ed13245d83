/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx, in either class: dx[t,k] is one chain over the rows n of w a leaf, ascending; lanes
 * are columns of w, so nothing is folded. A block is tokens by columns; stretches of dy and w are
 * packed for it, and while one is worked on the next of both is fetched. Bound by the fma units: w
 * is read once for all tokens of a block. */
#pragma once

enum {
    DX_TOKENS = 256,
    DX_COLUMNS = 192,
    DX_DEPTH = 256,           /* steps of a stretch */
    DX_PITCH = DX_DEPTH + 16, /* rows of dy do not meet in one set of L1 */
    DX_SUMS = 512 * DX_COLUMNS,
    DX_LEAVES = 8,
};

OUTER_TILES(dx_tile, DX_PITCH, 1)

/* A worker's memory. */
typedef struct {
    float sum[DX_SUMS]; /* leaves that wait for their partner in the tree, the newest last */
    float b[DX_DEPTH * DX_COLUMNS], a[DX_TOKENS * DX_PITCH];
} dx_memory;
_Static_assert(sizeof(dx_memory) <= WEFT_WORKER_BYTES, "worker memory");
_Static_assert(DX_COLUMNS % OUTER_PANEL == 0, "whole panels");

typedef struct {
    const weft_matmul_dx_args *a;
    const weft_stream *stream;
    int64_t tokens, columns, slice; /* T, K, N of a leaf */
    int64_t token_block, column_block;
    int64_t stretch;
} dx_job;

typedef struct {
    int64_t t0, t1, k0, k1;
} dx_block;

/* Rows [n, end) of w and columns of dy. */
typedef struct {
    int64_t n, end;
} dx_range;

/* The numbers of int8 rows go to dy's side, rounded as dy is. */
static void dx_scale(const dx_job *j, dx_range s, float *row) {
    int dtype = j->a->dy.dtype;
    CPU_EACH16(i, n, s.end - s.n) {
        v16 scale = v16_get(WEFT_F32, j->a->wscale.data, s.n + i, (int)n);
        v16_store(row + i, v16_round(dtype, v16_mul(v16_load(row + i), scale)));
    }
}

static void dx_pack_dy(const dx_job *j, const dx_block *b, dx_range s, dx_memory *mem) {
    for (int64_t t = b->t0; t < b->t1; t++) {
        float *row = mem->a + (t - b->t0) * DX_PITCH;
        outer_pack_row(&j->a->dy, t, s.n, s.end - s.n, row);
        if (weft_has(&j->a->wscale))
            dx_scale(j, s, row);
    }
}

static const char *dx_w(const dx_job *j, int64_t n, int64_t k) {
    return (const char *)cpu_at(&j->a->w, n * j->a->w.stride[0] + k);
}

static void dx_pack_w(const dx_job *j, const dx_block *b, dx_range s, dx_memory *mem) {
    float *to = mem->b;
    for (int64_t n = s.n; n < s.end; n += OUTER_K, to += OUTER_PANEL)
        outer_pack_step(&j->a->w, n, s.end, b->k0, b->k1 - b->k0, to,
                        outer_steps(s.end - s.n) * OUTER_PANEL);
}

/* The stretch after s, or the next block's first: what the tiles of this one fetch. */
static void dx_next(const dx_job *j, const dx_block *b, dx_range s, outer_fetch *f) {
    const weft_tensor *w = &j->a->w, *dy = &j->a->dy;
    int64_t n = s.end, k = b->k0, wbytes = cpu_bytes(w->dtype), bytes = cpu_bytes(dy->dtype);
    if (n == w->shape[0]) {
        n = 0;
        k = b->k1;
    }
    int64_t rows = cpu_min(j->stretch, w->shape[0] - n),
            columns = cpu_min(b->k1 - b->k0, j->columns - k);
    f[0] = outer_rectangle(dx_w(j, n, k), columns > 0 ? rows : 0, columns * wbytes,
                           w->stride[0] * wbytes);
    f[1] = outer_rectangle(cpu_at(dy, b->t0 * dy->stride[0] + n), b->t1 - b->t0, rows * bytes,
                           dy->stride[0] * bytes);
    f[0].then = &f[1];
}

/* sum takes the products of one stretch. */
static void dx_walk(const dx_job *j, const dx_block *b, dx_range s, int first, dx_memory *mem,
                    float *sum) {
    int64_t width = j->column_block;
    outer_fetch next[2];
    dx_next(j, b, s, next);
    outer_tile o = {.fetch = next[0].rows > 0 ? &next[0] : &next[1],
                    .k = outer_steps(s.end - s.n),
                    .cstride = width,
                    .first = first,
                    .b = mem->b};
    for (int64_t k = b->k0; k < b->k1; k += OUTER_PANEL, o.b += o.k * OUTER_PANEL)
        for (int64_t t = b->t0; t < b->t1; t += OUTER_R) {
            o.a = mem->a + (t - b->t0) * DX_PITCH;
            o.c = sum + (t - b->t0) * width + k - b->k0;
            outer_do(dx_tile, cpu_min(OUTER_R, b->t1 - t), cpu_min(OUTER_PANEL, b->k1 - k), &o);
        }
}

/* One leaf into sum. */
static void dx_leaf(const dx_job *j, const dx_block *b, int64_t leaf, dx_memory *mem, float *sum) {
    int64_t begin = leaf * j->slice, end = begin + j->slice;
    for (int64_t n = begin; n < end; n += j->stretch) {
        dx_range s = {n, cpu_min(end, n + j->stretch)};
        dx_pack_dy(j, b, s, mem);
        dx_pack_w(j, b, s, mem);
        dx_walk(j, b, s, n == begin, mem, sum);
    }
}

static void dx_join(float *left, const float *right, int64_t n) {
    for (int64_t i = 0; i < n; i += 16)
        v16_store(left + i, v16_add(v16_load(left + i), v16_load(right + i)));
}

static void dx_store(const dx_job *j, const dx_block *b, const float *sum) {
    weft_tensor none = {0};
    for (int64_t t = b->t0; t < b->t1; t++)
        CPU_EACH16(i, n, b->k1 - b->k0) {
            cpu_finish(&j->a->dx, &none, WEFT_ACT_NONE, &j->a->res, t, b->k0 + i, (int)n,
                       v16_load(sum + (t - b->t0) * j->column_block + i));
        }
}

/* Leaves join as soon as their partner is there: leaf 1 with 0, 3 with 2 and then both. */
static void dx_do_block(const dx_job *j, const dx_block *b, dx_memory *mem) {
    int64_t plane = (b->t1 - b->t0) * j->column_block, top = 0;
    for (int leaf = 0; leaf < j->a->leaves; leaf++, top++) {
        dx_leaf(j, b, leaf, mem, mem->sum + top * plane);
        for (int done = leaf + 1; done % 2 == 0; done /= 2, top--)
            dx_join(mem->sum + (top - 1) * plane, mem->sum + top * plane, plane);
    }
    dx_store(j, b, mem->sum);
}

/* Blocks of the same columns follow each other: their part of w stays near. */
static void dx_blocks(const void *ctx, int64_t begin, int64_t end, int worker) {
    const dx_job *j = ctx;
    int64_t down = cpu_ceil(j->tokens, j->token_block);
    for (int64_t i = begin; i < end; i++) {
        dx_block b = {.t0 = i % down * j->token_block, .k0 = i / down * j->column_block};
        b.t1 = cpu_min(j->tokens, b.t0 + j->token_block);
        b.k1 = cpu_min(j->columns, b.k0 + j->column_block);
        dx_do_block(j, &b, weft_worker_memory(j->stream, worker));
    }
}

/* Blocks as large as memory allows and threads leave. */
static void dx_cut(dx_job *j) {
    int64_t waiting = 1, threads = j->stream->threads;
    for (int l = j->a->leaves; l > 1; l /= 2)
        waiting++;
    int64_t most = cpu_min(DX_TOKENS, DX_SUMS / DX_COLUMNS / waiting) / OUTER_R * OUTER_R;
    j->stretch = outer_stretch(j->slice, DX_DEPTH * OUTER_K);
    j->token_block = outer_stretch(j->tokens, most);
    int64_t down = cpu_ceil(j->tokens, j->token_block);
    int64_t panels = cpu_ceil(j->columns, OUTER_PANEL) * down / (2 * threads);
    j->column_block = cpu_max(1, cpu_min(panels, DX_COLUMNS / OUTER_PANEL)) * OUTER_PANEL;
}

static int dx_ok(const weft_matmul_dx_args *a) {
    int leaves = a->leaves, integers = a->w.dtype == WEFT_I8 && a->w.stride[1] == 1;
    if (leaves != 1 && leaves != 2 && leaves != 4 && leaves != DX_LEAVES)
        return 0;
    if (integers != weft_has(&a->wscale) || (integers && a->wscale.dtype != WEFT_F32))
        return 0;
    return a->dy.ndim == 2 && a->w.ndim == 2 && a->dx.ndim == 2 && a->w.shape[0] % leaves == 0 &&
           outer_takes(&a->dy) && (integers || outer_takes(&a->w)) && cpu_flat(&a->wscale) &&
           cpu_flat(&a->res) && cpu_flat(&a->dx);
}

static void dx_run(const weft_matmul_dx_args *a, weft_stream *stream) {
    dx_job j = {.a = a, .stream = stream, .columns = a->w.shape[1]};
    j.tokens = cpu_true_rows(&a->rows, &a->dy);
    j.slice = a->w.shape[0] / a->leaves;
    if (j.tokens == 0 || j.columns == 0)
        return;
    dx_cut(&j);
    weft_parallel(stream, cpu_ceil(j.tokens, j.token_block) * cpu_ceil(j.columns, j.column_block),
                  1, dx_blocks, &j);
}
