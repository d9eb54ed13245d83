/* SPDX-License-Identifier: Apache-2.0
 * matmul_dw, in either class: dw[n,k] is one chain over the tokens of a shard, ascending; lanes are
 * columns of x. One shard goes on from what dw holds, several begin at zero and are combined by the
 * fixed tree. x is packed once for all rows; a block packs its columns of dy. Bound by the fma
 * units from about 128 tokens on, below by reading and writing dw, which is fetched a tile
 * ahead. */
#pragma once

enum {
    DW_ROWS = 96, /* of dw in a block */
    DW_COLUMNS = 192,
    DW_PITCH = DW_ROWS + 16, /* steps of k do not meet in one set of L1 */
    DW_DEPTH = 256,          /* steps of a stretch */
    DW_PLANE = DW_ROWS * DW_COLUMNS,
    DW_PLANES = 4, /* that the tree of the shards keeps at once */
};

OUTER_TILES(dw_tile, 1, DW_PITCH)

/* A worker's memory. */
typedef struct {
    float a[DW_DEPTH * DW_PITCH], sum[DW_PLANES][DW_PLANE];
    float edge[OUTER_R * OUTER_PANEL];
} dw_memory;
_Static_assert(sizeof(dw_memory) <= WEFT_WORKER_BYTES, "worker memory");
_Static_assert(DW_COLUMNS % OUTER_PANEL == 0 && DW_ROWS % OUTER_R == 0, "whole tiles");

typedef struct {
    const weft_matmul_dw_args *a;
    const weft_stream *stream;
    int64_t tokens, rows, columns; /* T, N, K */
    int64_t shard, stretch;        /* tokens of each */
    int64_t steps, shard_steps;    /* of all shards, of one */
    int64_t column_block;
    float *x; /* packed: [panel][step][OUTER_PANEL] */
} dw_job;

typedef struct {
    int64_t n0, n1, k0, k1;
} dw_block;

/* Tokens [t, end) of a shard, and where their sums are: dw itself or a plane. */
typedef struct {
    int64_t t, end;
    float *c;
    int64_t cstride;
    int first, edges; /* edges: c has no room for whole vectors */
} dw_range;

/* The step that begins with token t of a shard. */
static int64_t dw_step(const dw_job *j, int64_t t) {
    return t / j->shard * j->shard_steps + t % j->shard / OUTER_K;
}

static void dw_pack_x(const void *ctx, int64_t begin, int64_t end, int worker) {
    const dw_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t shard = i / j->shard_steps;
        int64_t t = shard * j->shard + i % j->shard_steps * OUTER_K;
        int64_t last = cpu_min(j->tokens, (shard + 1) * j->shard);
        if (t < last)
            outer_pack_step(&j->a->x, t, last, 0, j->columns, j->x + i * OUTER_PANEL,
                            j->steps * OUTER_PANEL);
    }
}

static void dw_pack_dy(const dw_job *j, const dw_block *b, const dw_range *s, float *to) {
    for (int64_t t = s->t; t < s->end; t += OUTER_K, to += DW_PITCH)
        outer_pack_step(&j->a->dy, t, s->end, b->n0, b->n1 - b->n0, to, OUTER_PANEL);
}

/* The tile after this one, soon to be read and written. */
static outer_fetch dw_fetch(const dw_block *b, const dw_range *s, int64_t n, int64_t k) {
    if (n + OUTER_R < b->n1) {
        n += OUTER_R;
    } else {
        n = b->n0;
        k += OUTER_PANEL;
    }
    return outer_rectangle(s->c + (n - b->n0) * s->cstride + k - b->k0, cpu_min(OUTER_R, b->n1 - n),
                           cpu_min(OUTER_PANEL, b->k1 - k) * 4, s->cstride * 4);
}

static void dw_copy(float *to, int64_t tostride, const float *from, int64_t fromstride,
                    int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + r * tostride, from + r * fromstride, (size_t)columns * sizeof *to);
}

/* A tile whose last sixteen columns are not whole is worked on in a copy. */
static void dw_edge(outer_tile *o, int64_t nr, int64_t nk, float *copy) {
    float *c = o->c;
    int64_t stride = o->cstride;
    o->c = copy;
    o->cstride = OUTER_PANEL;
    dw_copy(copy, OUTER_PANEL, c, stride, nr, nk);
    outer_do(dw_tile, nr, nk, o);
    dw_copy(c, stride, copy, OUTER_PANEL, nr, nk);
}

/* One stretch of one shard for the whole block. */
static void dw_walk(const dw_job *j, const dw_block *b, const dw_range *s, dw_memory *mem) {
    dw_pack_dy(j, b, s, mem->a);
    for (int64_t k = b->k0; k < b->k1; k += OUTER_PANEL) {
        int64_t nk = cpu_min(OUTER_PANEL, b->k1 - k);
        for (int64_t n = b->n0; n < b->n1; n += OUTER_R) {
            int64_t nr = cpu_min(OUTER_R, b->n1 - n);
            outer_tile o = {
                .a = mem->a + n - b->n0, .k = outer_steps(s->end - s->t), .first = s->first};
            o.b = j->x + (k / OUTER_PANEL * j->steps + dw_step(j, s->t)) * OUTER_PANEL;
            o.c = s->c + (n - b->n0) * s->cstride + k - b->k0;
            o.cstride = s->cstride;
            outer_fetch next = dw_fetch(b, s, n, k);
            o.fetch = next.lines > 0 ? &next : NULL;
            if (s->edges && nk % 16)
                dw_edge(&o, nr, nk, mem->edge);
            else
                outer_do(dw_tile, nr, nk, &o);
        }
    }
}

static void dw_shard(const dw_job *j, const dw_block *b, int64_t shard, dw_range s,
                     dw_memory *mem) {
    int64_t begin = shard * j->shard, end = cpu_min(j->tokens, begin + j->shard);
    if (begin >= end && s.first)
        memset(s.c, 0, DW_PLANE * sizeof *s.c);
    for (s.t = begin; s.t < end; s.t += j->stretch, s.first = 0) {
        s.end = cpu_min(end, s.t + j->stretch);
        dw_walk(j, b, &s, mem);
    }
}

static void dw_join(float *left, const float *right, int64_t n) {
    for (int64_t i = 0; i < n; i += 16)
        v16_store(left + i, v16_add(v16_load(left + i), v16_load(right + i)));
}

static void dw_add(const dw_block *b, const float *sum, float *dw, int64_t stride) {
    for (int64_t n = b->n0; n < b->n1; n++, dw += stride, sum += DW_COLUMNS)
        CPU_EACH16(i, c, b->k1 - b->k0) {
            v16 v = v16_get(WEFT_F32, dw, i, (int)c);
            v16_put(WEFT_F32, dw, i, (int)c, v16_add(v, v16_load(sum + i)));
        }
}

/* Shards join as soon as their partner is there: shard 1 with 0, 3 with 2 and then both. */
static void dw_do_block(const dw_job *j, const dw_block *b, dw_memory *mem) {
    const weft_tensor *dw = &j->a->dw;
    float *at = (float *)dw->data + b->n0 * dw->stride[0] + b->k0;
    if (j->a->shards == 1) {
        dw_shard(j, b, 0, (dw_range){.c = at, .cstride = dw->stride[0], .edges = 1}, mem);
        return;
    }
    int64_t top = 0;
    for (int shard = 0; shard < j->a->shards; shard++, top++) {
        dw_range s = {.c = mem->sum[top], .cstride = DW_COLUMNS, .first = 1};
        dw_shard(j, b, shard, s, mem);
        for (int done = shard + 1; done % 2 == 0; done /= 2, top--)
            dw_join(mem->sum[top - 1], mem->sum[top], DW_PLANE);
    }
    dw_add(b, mem->sum[0], at, dw->stride[0]);
}

static void dw_blocks(const void *ctx, int64_t begin, int64_t end, int worker) {
    const dw_job *j = ctx;
    int64_t across = cpu_ceil(j->columns, j->column_block);
    for (int64_t i = begin; i < end; i++) {
        dw_block b = {.n0 = i / across * DW_ROWS, .k0 = i % across * j->column_block};
        b.n1 = cpu_min(j->rows, b.n0 + DW_ROWS);
        b.k1 = cpu_min(j->columns, b.k0 + j->column_block);
        dw_do_block(j, &b, weft_worker_memory(j->stream, worker));
    }
}

static int dw_ok(const weft_matmul_dw_args *a) {
    return cpu_shards_ok(a->shards, a->dy.shape[0]) && a->dy.ndim == 2 && a->x.ndim == 2 &&
           a->dw.ndim == 2 && a->dw.dtype == WEFT_F32 && outer_takes(&a->dy) &&
           outer_takes(&a->x) && cpu_flat(&a->dw);
}

static size_t dw_scratch(const weft_matmul_dw_args *a) {
    int64_t columns = cpu_ceil(a->x.shape[1], OUTER_PANEL) * OUTER_PANEL;
    return (size_t)(a->shards * outer_steps(a->x.shape[0] / a->shards) * columns) * sizeof(float);
}

static void dw_run(const weft_step *step, weft_stream *stream) {
    const weft_matmul_dw_args *a = &step->args.matmul_dw;
    dw_job j = {.a = a, .stream = stream, .rows = a->dw.shape[0], .columns = a->dw.shape[1]};
    j.tokens = cpu_true_rows(&a->rows, &a->dy);
    j.shard = a->dy.shape[0] / a->shards;
    j.shard_steps = outer_steps(j.shard);
    j.steps = a->shards * j.shard_steps;
    j.x = step->scratch;
    if (j.tokens == 0 || j.rows == 0 || j.columns == 0)
        return;
    j.stretch = outer_stretch(cpu_min(j.tokens, j.shard), DW_DEPTH * OUTER_K);
    int64_t down = cpu_ceil(j.rows, DW_ROWS);
    int64_t panels = cpu_ceil(j.columns, OUTER_PANEL) * down / (4 * (int64_t)stream->threads);
    j.column_block = cpu_max(1, cpu_min(panels, DW_COLUMNS / OUTER_PANEL)) * OUTER_PANEL;
    cpu_each_row(stream, j.steps, j.columns, dw_pack_x, &j);
    weft_parallel(stream, down * cpu_ceil(j.columns, j.column_block), 1, dw_blocks, &j);
}
