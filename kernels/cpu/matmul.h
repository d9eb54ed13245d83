/* SPDX-License-Identifier: Apache-2.0
 * What the classes of matmul share: cutting y into pieces, the walk over tiles, the epilogue. A
 * class gives its tiles, which add one stretch of k to a tile's accumulators, and its way to copy
 * rows.
 *
 * An output is 16 lane accumulators over its leaf's slice, folded by the fixed tree; leaves combine
 * by theirs: a function of its own row of x and of w alone. Tiles, blocks of k (accumulators wait
 * in memory), pieces and threads only choose when a lane's next product is added, never which. */
#pragma once
#include "cpu.h"

/* One stretch of k for a panel of w and `tiles` tiles of tokens, one after the other: rows of x and
 * w at byte strides. `next` is what will be read from memory after w: packed, a share of its lines
 * is fetched after each tile; else it is walked beside w. */
typedef struct {
    const char *x, *w, *next;
    int64_t xstride, wstride, nextstride;
    int64_t lines; /* of 64 bytes in each row of next */
    int64_t steps; /* whole granules */
    int tail;      /* elements after them */
    int tiles;
    int first;  /* start from +0 instead of acc */
    float *sum; /* the last stretch of a slice: folded lanes, [t][MM_PITCH]; NULL: lanes to acc */
} mm_stretch;

/* acc[t * rows + n] += the stretch. */
typedef void mm_tile_fn(const mm_stretch *s, v16 *acc);
/* A row as packed tiles read it: padded with +0 to a granule. What follows `ahead` bytes after is
 * fetched meanwhile. */
typedef void mm_copy_fn(int dtype, const void *from, void *to, int64_t n, int64_t ahead);

typedef struct {
    mm_tile_fn *const *tile[WEFT_I8 + 1]; /* by w's dtype: [tokens - 1][rows - 1] */
    mm_tile_fn *const *tile_packed;
    mm_copy_fn *copy;
    int packed;  /* dtype of packed rows */
    int granule; /* k of a step */
} mm_class;

enum {
    MM_TOKENS = 128, /* tokens of a piece: what a packed block of w is used for */
    MM_ROWS = 24,    /* rows of w in a piece: they, x and the lanes share L2 */
    MM_PITCH = (MM_ROWS + 15) / 16 * 16,
    MM_THIN = TILE_T < 4 ? 16 : 64,   /* tokens: up to here w is not worth packing, */
    MM_SHORT = TILE_T < 4 ? 0 : 1024, /* nor where a packed slice has less bytes */
    MM_STRETCH = 4096,                /* bytes of a packed row's stretch */
    MM_ACC = TILE_T * TILE_N,         /* v16 of a tile */
    MM_FOLD = (MM_ACC + 7) / 8 * 8,
    MM_PANELS = (MM_ROWS + TILE_N - 1) / TILE_N,
    MM_LEAVES = 8,
};

/* A worker's memory. */
typedef struct {
    v16 acc[MM_TOKENS / TILE_T * MM_PANELS * MM_ACC];
    float sum[MM_LEAVES][MM_TOKENS][MM_PITCH]; /* by leaf */
    char w[MM_ROWS * MM_STRETCH];
} mm_memory;
_Static_assert(sizeof(mm_memory) <= WEFT_WORKER_BYTES, "worker memory");

typedef struct {
    const weft_matmul_args *a;
    const mm_class *class;
    const weft_stream *stream;
    int64_t tokens, rows, slice; /* T, N, K of a leaf */
    int64_t chunk, chunks;       /* k of a stretch; stretches of a slice */
    int64_t row_block, token_block;
    char *x;    /* packed: [leaf][stretch][token][k]; NULL: x as it lies */
    int pack_w; /* else it comes from memory, a panel of rows at a time */
} mm_job;

typedef struct {
    int64_t n0, n1, t0, t1;
} mm_block;

static int64_t mm_padded(const mm_job *j, int64_t k) {
    return cpu_ceil(k, j->class->granule) * j->class->granule;
}
static int64_t mm_chunk_len(const mm_job *j, int64_t c) {
    return cpu_min(j->chunk, j->slice - c * j->chunk);
}
V16 int mm_bytes(int dtype) {
    return dtype == WEFT_F32 ? 4 : dtype == WEFT_I8 ? 1 : 2;
}

/* Where token t's packed stretch is, and how far the next token's. */
static char *mm_packed_x(const mm_job *j, int leaf, int64_t c, int64_t t, int64_t *stride) {
    int bytes = mm_bytes(j->class->packed);
    int64_t before = leaf * mm_padded(j, j->slice) + c * j->chunk;
    *stride = mm_padded(j, mm_chunk_len(j, c)) * bytes;
    return j->x + before * j->tokens * bytes + t * *stride;
}

static const char *mm_x(const mm_job *j, int leaf, int64_t c, int64_t t, int64_t *stride) {
    const weft_tensor *x = &j->a->x;
    if (j->x)
        return mm_packed_x(j, leaf, c, t, stride);
    *stride = x->stride[0] * mm_bytes(x->dtype);
    return (const char *)cpu_at(x, t * x->stride[0] + leaf * j->slice + c * j->chunk);
}

static void mm_pack_token(const mm_job *j, int64_t t, int leaf) {
    const weft_tensor *x = &j->a->x;
    for (int64_t c = 0; c < j->chunks; c++) {
        int64_t stride, at = leaf * j->slice + c * j->chunk;
        char *to = mm_packed_x(j, leaf, c, t, &stride);
        j->class->copy(x->dtype, cpu_at(x, t * x->stride[0] + at), to, mm_chunk_len(j, c), 1024);
    }
}

static void mm_pack_x(const void *ctx, int64_t begin, int64_t end, int worker) {
    const mm_job *j = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int leaf = 0; leaf < j->a->leaves; leaf++)
            mm_pack_token(j, t, leaf);
}

static const char *mm_w(const mm_job *j, int leaf, int64_t c, int64_t n) {
    const weft_tensor *w = &j->a->w;
    return (const char *)cpu_at(w, n * w->stride[0] + leaf * j->slice + c * j->chunk);
}

static void mm_pack_w(const mm_job *j, const mm_block *b, int leaf, int64_t c, char *to) {
    int64_t len = mm_chunk_len(j, c), padded = mm_padded(j, len);
    int64_t row = j->a->w.stride[0] * mm_bytes(j->a->w.dtype);
    for (int64_t n = b->n0; n < b->n1; n++) {
        j->class->copy(j->a->w.dtype, mm_w(j, leaf, c, n), to, len, n + 1 < b->n1 ? row : 0);
        to += padded * mm_bytes(j->class->packed);
    }
}

/* The panel of rows n against all tokens of the block: whole tiles, then what is left. */
static void mm_panel(const mm_job *j, const mm_block *b, int leaf, int64_t c, int64_t n,
                     mm_stretch *s, mm_memory *mem) {
    int wdtype = j->pack_w ? j->class->packed : j->a->w.dtype, nn = (int)cpu_min(TILE_N, b->n1 - n);
    mm_tile_fn *const *tile = j->pack_w ? j->class->tile_packed : j->class->tile[wdtype];
    v16 *acc = mem->acc + (n - b->n0) / TILE_N * MM_ACC;
    for (int64_t t = b->t0; t < b->t1; t += s->tiles * TILE_T) {
        int nt = (int)cpu_min(TILE_T, b->t1 - t);
        s->tiles = nt == TILE_T ? (int)((b->t1 - t) / TILE_T) : 1;
        s->x = mm_x(j, leaf, c, t, &s->xstride);
        s->sum = c == j->chunks - 1 ? &mem->sum[leaf][t - b->t0][n - b->n0] : NULL;
        tile[(nt - 1) * TILE_N + nn - 1](s, acc + (t - b->t0) / TILE_T * (MM_PANELS * MM_ACC));
        s->lines = 0;
    }
}

/* What will be packed after row n's stretch: its next one, or the next block's first. */
static const char *mm_after(const mm_job *j, const mm_block *b, int leaf, int64_t c, int64_t n) {
    if (c + 1 < j->chunks)
        return mm_w(j, leaf, c + 1, n);
    if (leaf + 1 < j->a->leaves)
        return mm_w(j, leaf + 1, 0, n);
    return mm_w(j, 0, 0, b->n1 < j->rows ? cpu_min(n + b->n1 - b->n0, j->rows - TILE_N) : 0);
}

/* One stretch of k for the whole block. */
static void mm_walk(const mm_job *j, const mm_block *b, int leaf, int64_t c, mm_memory *mem) {
    int64_t len = mm_chunk_len(j, c), whole = j->pack_w ? mm_padded(j, len) : len;
    int64_t wstride = j->a->w.stride[0] * mm_bytes(j->a->w.dtype);
    mm_stretch s = {.steps = whole / j->class->granule, .tail = (int)(whole % j->class->granule)};
    s.first = c == 0;
    s.nextstride = wstride;
    s.wstride = j->pack_w ? whole * mm_bytes(j->class->packed) : wstride;
    for (int64_t n = b->n0; n < b->n1; n += TILE_N) {
        s.w = j->pack_w ? mem->w + (n - b->n0) * s.wstride : mm_w(j, leaf, c, n);
        s.next = n + 2 * TILE_N <= j->rows ? s.w + TILE_N * s.wstride : s.w;
        if (j->pack_w && j->rows >= TILE_N) {
            s.next = mm_after(j, b, leaf, c, n);
            s.lines = len * mm_bytes(j->a->w.dtype) / 64;
        }
        mm_panel(j, b, leaf, c, n, &s, mem);
        s.lines = 0;
    }
}

/* Sums over the integers of int8 weights become sums over what they stand for. */
static void mm_scale(const weft_matmul_args *a, const mm_block *b, mm_memory *mem) {
    CPU_EACH16(i, n, b->n1 - b->n0) {
        v16 scale = v16_get(WEFT_F32, a->wscale.data, b->n0 + i, (int)n);
        for (int leaf = 0; leaf < a->leaves; leaf++)
            for (int64_t t = 0; t < b->t1 - b->t0; t++) {
                float *sum = &mem->sum[leaf][t][i];
                v16_store_n(sum, (int)n, v16_mul(v16_load_n(sum, (int)n), scale));
            }
    }
}

static void mm_store(const weft_matmul_args *a, const mm_block *b, const mm_memory *mem) {
    for (int64_t t = b->t0; t < b->t1; t++)
        CPU_EACH16(i, n, b->n1 - b->n0) {
            v16 leaf[MM_LEAVES];
            for (int l = 0; l < a->leaves; l++)
                leaf[l] = v16_load(&mem->sum[l][t - b->t0][i]);
            cpu_finish(&a->y, &a->bias, a->act, &a->res, t, b->n0 + i, (int)n,
                       cpu_tree(leaf, a->leaves));
        }
}

static void mm_store_partial(const weft_matmul_args *a, const mm_block *b, const mm_memory *mem) {
    for (int leaf = 0; leaf < a->leaves; leaf++)
        for (int64_t t = b->t0; t < b->t1; t++) {
            float *y = (float *)a->y.data + leaf * a->y.stride[0] + t * a->y.stride[1];
            memcpy(y + b->n0, mem->sum[leaf][t - b->t0], (size_t)(b->n1 - b->n0) * sizeof *y);
        }
}

static void mm_do_block(const mm_job *j, const mm_block *b, mm_memory *mem) {
    for (int leaf = 0; leaf < j->a->leaves; leaf++)
        for (int64_t c = 0; c < j->chunks; c++) {
            if (j->pack_w)
                mm_pack_w(j, b, leaf, c, mem->w);
            mm_walk(j, b, leaf, c, mem);
        }
    if (weft_has(&j->a->wscale))
        mm_scale(j->a, b, mem);
    (j->a->partial ? mm_store_partial : mm_store)(j->a, b, mem);
}

/* Blocks in order of tokens, then rows: x stays near while w passes. */
static void mm_blocks(const void *ctx, int64_t begin, int64_t end, int worker) {
    const mm_job *j = ctx;
    mm_memory *mem = weft_worker_memory(j->stream, worker);
    int64_t across = cpu_ceil(j->rows, j->row_block);
    for (int64_t i = begin; i < end; i++) {
        mm_block b = {.n0 = i % across * j->row_block, .t0 = i / across * j->token_block};
        b.n1 = cpu_min(j->rows, b.n0 + j->row_block);
        b.t1 = cpu_min(j->tokens, b.t0 + j->token_block);
        mm_do_block(j, &b, mem);
    }
}

/* Rows of w in a block: one panel while w streams from memory, else blocks enough for threads. */
static int64_t mm_row_block(const mm_job *j, int threads) {
    if (!j->pack_w)
        return TILE_N;
    int64_t across = cpu_ceil(j->tokens, MM_TOKENS);
    int64_t panels = j->rows * across / (4 * (int64_t)threads * TILE_N);
    return cpu_max(1, cpu_min(panels, MM_ROWS / TILE_N)) * TILE_N;
}

/* Panels a thread takes at once: at least 16 KiB of w, and a 128th of it where that is more. */
static int64_t mm_grain(const mm_job *j) {
    if (j->pack_w)
        return 1;
    int64_t panel = TILE_N * j->slice * j->a->leaves * mm_bytes(j->a->w.dtype);
    return cpu_max(cpu_ceil(16 << 10, cpu_max(1, panel)), cpu_ceil(j->rows, TILE_N) / 128);
}

static int mm_packs(const mm_job *j) {
    return j->tokens > MM_THIN && j->slice * mm_bytes(j->class->packed) >= MM_SHORT;
}

/* Cuts a slice into equal stretches; a single tile of tokens reads it in one. */
static void mm_cut(mm_job *j) {
    int64_t most = MM_STRETCH / mm_bytes(j->class->packed);
    j->chunks = j->tokens <= TILE_T ? 1 : cpu_max(1, cpu_ceil(j->slice, most));
    j->chunk = mm_padded(j, cpu_ceil(j->slice, j->chunks));
    j->chunks = cpu_max(1, cpu_ceil(j->slice, cpu_max(1, j->chunk)));
}

static void mm_run(const weft_step *step, weft_stream *stream, const mm_class *class) {
    const weft_matmul_args *a = &step->args.matmul;
    mm_job j = {.a = a, .class = class, .stream = stream, .rows = a->w.shape[0]};
    j.tokens = cpu_true_rows(&a->rows, &a->x);
    j.slice = a->x.shape[1] / a->leaves;
    if (j.tokens == 0 || j.rows == 0)
        return;
    mm_cut(&j);
    j.pack_w = mm_packs(&j);
    j.row_block = mm_row_block(&j, stream->threads);
    j.token_block = MM_TOKENS;
    if (j.tokens > TILE_T || a->x.dtype != class->packed) {
        j.x = step->scratch;
        cpu_each_row(stream, j.tokens, a->x.shape[1], mm_pack_x, &j);
    }
    weft_parallel(stream, cpu_ceil(j.rows, j.row_block) * cpu_ceil(j.tokens, j.token_block),
                  mm_grain(&j), mm_blocks, &j);
}

/* Floats, or int8 with a number for each row. */
static int mm_w_ok(const weft_matmul_args *a) {
    if (a->w.dtype != WEFT_I8)
        return cpu_flat(&a->w) && !weft_has(&a->wscale);
    return a->w.stride[1] == 1 && weft_has(&a->wscale) && a->wscale.dtype == WEFT_F32 &&
           cpu_flat(&a->wscale);
}

static int mm_ok(const weft_matmul_args *a) {
    int leaves = a->leaves, extra = a->act || weft_has(&a->bias) || weft_has(&a->res);
    if (leaves != 1 && leaves != 2 && leaves != 4 && leaves != 8)
        return 0;
    if (a->partial && (extra || a->y.dtype != WEFT_F32))
        return 0;
    return a->x.ndim == 2 && a->w.ndim == 2 && a->x.shape[1] % leaves == 0 &&
           a->w.shape[1] == a->x.shape[1] && cpu_flat(&a->x) && mm_w_ok(a) && cpu_flat(&a->y) &&
           cpu_flat(&a->bias) && cpu_flat(&a->res);
}

static size_t mm_scratch(const weft_matmul_args *a, const mm_class *class) {
    int64_t slice = a->x.shape[1] / a->leaves;
    int64_t k = cpu_ceil(slice, class->granule) * class->granule * a->leaves;
    return (size_t)(a->x.shape[0] * k * mm_bytes(class->packed));
}
