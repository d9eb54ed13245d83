/* SPDX-License-Identifier: Apache-2.0
 * attention_dx: one pass over a sequence for each kv head. Blocks of keys ascend; for each, the
 * query heads that share it and their queries in tiles:
 *   s = q k', dp = dy v'      chains of fma over d ascending, lanes are keys
 *   p = e^(score - lse), ds = p (dp - dy.y) dscore/ds
 *   dq += ds k                keys ascending, lanes are elements of a head
 *   dk += ds' q, dv += p' dy  heads, then queries ascending
 * so every element is one chain whatever the sizes of blocks and tiles. dq waits in scratch, dk and
 * dv in the worker's memory. What no query of a tile sees is left out; ds and p of other masked
 * keys are 0. Bound by the fma units. (Dao et al., "FlashAttention", 2022) */
#include "outer_fma.h"
#include "score.h"

enum {
    ADX_KEYS = 96,    /* of a block */
    ADX_QUERIES = 48, /* of a tile */
    ADX_WIDTH = 256,  /* of a head */
    ADX_PITCH = ADX_WIDTH + 16,
    ADX_PANELS = (ADX_WIDTH + OUTER_PANEL - 1) / OUTER_PANEL * OUTER_PANEL,
    ADX_KEY_PANELS = (ADX_KEYS + OUTER_PANEL - 1) / OUTER_PANEL * OUTER_PANEL,
};

OUTER_TILES(adx_down, ADX_PITCH, 1)
OUTER_TILES(adx_across, 1, ADX_PITCH)

/* A worker's memory. Panels are [panel][step of k][OUTER_PANEL]. */
typedef struct {
    float kt[ADX_WIDTH * ADX_KEY_PANELS], vt[ADX_WIDTH * ADX_KEY_PANELS]; /* steps are elements */
    float k[ADX_KEYS * ADX_PANELS];                                       /* steps are keys */
    float dk[ADX_KEYS * ADX_WIDTH], dv[ADX_KEYS * ADX_WIDTH];
    float q[ADX_QUERIES * ADX_PITCH], dy[ADX_QUERIES * ADX_PITCH];     /* rows are queries */
    float qp[ADX_QUERIES * ADX_PANELS], dyp[ADX_QUERIES * ADX_PANELS]; /* steps are queries */
    float p[ADX_QUERIES * ADX_PITCH], ds[ADX_QUERIES * ADX_PITCH];
} adx_memory;
_Static_assert(sizeof(adx_memory) <= WEFT_WORKER_BYTES, "worker memory");

typedef struct {
    const weft_attention_dx_args *a;
    const weft_stream *stream;
    float *dq, *delta; /* [T][H][padded width], [T][H] */
    int64_t width;     /* of dq's rows */
} adx_job;

/* A sequence and kv head. */
typedef struct {
    const adx_job *j;
    const weft_attention_dx_args *a;
    adx_memory *mem;
    int64_t start, queries, pos, keys; /* first row, rows, position of the first, keys there are */
    int64_t kv, h0, h1;                /* its query heads */
} adx_item;

/* Keys [j0, j1) for the queries [i0, i1) of head h. */
typedef struct {
    int64_t j0, j1, h, i0, i1;
} adx_tile;

/* Whole vectors. */
V16 int64_t adx_padded(int64_t width) {
    return cpu_ceil(width, 16) * 16;
}

static const void *adx_at(const weft_tensor *t, int64_t row, int64_t head) {
    return cpu_at(t, row * t->stride[0] + head * t->stride[1]);
}

/* Keys that query i sees: [lo, hi). */
static int64_t adx_lo(const adx_item *it, int64_t i) {
    return it->a->window > 0 ? cpu_max(0, it->pos + i - it->a->window + 1) : 0;
}
static int64_t adx_hi(const adx_item *it, int64_t i) {
    return it->a->causal ? cpu_max(0, cpu_min(it->keys, it->pos + i + 1)) : it->keys;
}

/* ---- packing ---- */

/* Keys [j0, j1) of t: element d of key j is step d, column j - j0. */
static void adx_transpose(const weft_tensor *t, const adx_item *it, const adx_tile *b, float *to) {
    int64_t width = t->shape[2];
    float f[16];
    for (int64_t j = b->j0; j < b->j1; j++) {
        const void *from = adx_at(t, it->start + j, it->kv);
        int64_t column = j - b->j0;
        float *at = to + column / OUTER_PANEL * OUTER_PANEL * width + column % OUTER_PANEL;
        CPU_EACH16(i, n, width) {
            v16_store(f, v16_get(t->dtype, from, i, (int)n));
            for (int64_t l = 0; l < n; l++)
                at[(i + l) * OUTER_PANEL] = f[l];
        }
    }
}

/* Columns that no key fills are +0, so that whole vectors may be read. */
static void adx_pack_keys(const adx_item *it, const adx_tile *b) {
    const weft_tensor *k = &it->a->k, *v = &it->a->v;
    adx_memory *mem = it->mem;
    if (b->j1 - b->j0 < ADX_KEYS) {
        memset(mem->kt, 0, (size_t)(k->shape[2] * ADX_KEY_PANELS) * sizeof *mem->kt);
        memset(mem->vt, 0, (size_t)(v->shape[2] * ADX_KEY_PANELS) * sizeof *mem->vt);
    }
    adx_transpose(k, it, b, mem->kt);
    adx_transpose(v, it, b, mem->vt);
    for (int64_t j = b->j0; j < b->j1; j++)
        outer_pack(k->dtype, adx_at(k, it->start + j, it->kv), k->shape[2],
                   mem->k + (j - b->j0) * OUTER_PANEL, ADX_KEYS * OUTER_PANEL);
}

static void adx_pack_rows(const weft_tensor *t, const adx_item *it, const adx_tile *b, float *rows,
                          float *panels) {
    for (int64_t i = b->i0; i < b->i1; i++) {
        const void *from = adx_at(t, it->start + i, b->h);
        float *row = rows + (i - b->i0) * ADX_PITCH;
        CPU_EACH16(c, n, t->shape[2]) {
            v16_store(row + c, v16_get(t->dtype, from, c, (int)n));
        }
        outer_pack(WEFT_F32, row, t->shape[2], panels + (i - b->i0) * OUTER_PANEL,
                   ADX_QUERIES * OUTER_PANEL);
    }
}

/* ---- a tile ---- */

/* to = rows times transposed keys, for the columns that each OUTER_R queries see of the block. */
static void adx_dots(const adx_item *it, const adx_tile *b, const float *rows, const float *keys,
                     int64_t width, float *to) {
    for (int64_t i = b->i0; i < b->i1; i += OUTER_R) {
        int64_t i1 = cpu_min(b->i1, i + OUTER_R);
        int64_t lo = cpu_max(0, adx_lo(it, i) - b->j0) / OUTER_PANEL * OUTER_PANEL;
        int64_t hi = cpu_min(b->j1, adx_hi(it, i1 - 1)) - b->j0;
        outer_tile o = {.a = rows + (i - b->i0) * ADX_PITCH, .k = width, .first = 1};
        o.cstride = ADX_PITCH;
        for (int64_t c = lo; c < hi; c += OUTER_PANEL) {
            o.b = keys + c * width;
            o.c = to + (i - b->i0) * ADX_PITCH + c;
            outer_do(adx_down, i1 - i, cpu_min(OUTER_PANEL, hi - c), &o);
        }
    }
}

/* Scores and dy v' to p and ds, for one query; what it does not see is 0. */
static void adx_weights(const adx_item *it, const adx_tile *b, int64_t i, float *p, float *ds) {
    const weft_attention_dx_args *a = it->a;
    att_score score = {&a->slopes, &a->bias, a->scale, a->softcap};
    int64_t row = it->start + i, lo = adx_lo(it, i) - b->j0, hi = adx_hi(it, i) - b->j0;
    float lse = *(const float *)adx_at(&a->lse, row, b->h);
    v16 delta = v16_set1(it->j->delta[row * a->q.shape[1] + b->h]), zero = v16_zero();
    for (int64_t c = 0; c < ADX_KEYS; c += 16) {
        int from = (int)cpu_max(0, cpu_min(16, lo - c)), to = (int)cpu_max(0, cpu_min(16, hi - c));
        v16 w = zero, g = zero, tanh = zero, slope = v16_set1(a->scale);
        if (from < to && lse != -INFINITY) {
            w = att_score_of(&score, b->h, b->j0 + c - it->pos - i, v16_load(p + c), &tanh);
            w = v16_pick(from, to, v16_exp(v16_sub(w, v16_set1(lse))), zero);
            if (a->softcap > 0)
                slope = v16_mul(slope, v16_sub(v16_set1(1.0f), v16_mul(tanh, tanh)));
            g = v16_mul(v16_mul(w, v16_sub(v16_load(ds + c), delta)), slope);
            g = v16_pick(from, to, g, zero);
        }
        v16_store(p + c, w);
        v16_store(ds + c, g);
    }
}

/* dq += ds k. */
static void adx_queries(const adx_item *it, const adx_tile *b) {
    int64_t width = it->a->q.shape[2], heads = it->a->q.shape[1];
    for (int64_t i = b->i0; i < b->i1; i += OUTER_R) {
        int64_t i1 = cpu_min(b->i1, i + OUTER_R), lo = cpu_max(0, adx_lo(it, i) - b->j0);
        int64_t hi = cpu_min(b->j1, adx_hi(it, i1 - 1)) - b->j0;
        outer_tile o = {.a = it->mem->ds + (i - b->i0) * ADX_PITCH + lo, .k = hi - lo};
        o.cstride = heads * it->j->width;
        for (int64_t c = 0; c < width && lo < hi; c += OUTER_PANEL) {
            o.b = it->mem->k + c * ADX_KEYS + lo * OUTER_PANEL;
            o.c = it->j->dq + ((it->start + i) * heads + b->h) * it->j->width + c;
            outer_do(adx_down, i1 - i, cpu_min(OUTER_PANEL, width - c), &o);
        }
    }
}

/* sum += w' rows: the gradient of keys or values. The first query of the tile that sees a key is
 * where its chain goes on. */
static void adx_keys(const adx_item *it, const adx_tile *b, const float *w, const float *panels,
                     int64_t width, float *sum) {
    for (int64_t j = b->j0; j < b->j1; j += OUTER_R) {
        int64_t j1 = cpu_min(b->j1, j + OUTER_R), i = b->i0, end = b->i1;
        if (it->a->causal)
            i = cpu_max(i, j - it->pos);
        if (it->a->window > 0)
            end = cpu_min(end, j1 - 1 + it->a->window - it->pos);
        outer_tile o = {.a = w + (i - b->i0) * ADX_PITCH + j - b->j0, .k = end - i};
        o.cstride = ADX_WIDTH;
        for (int64_t c = 0; c < width && i < end; c += OUTER_PANEL) {
            o.b = panels + c * ADX_QUERIES + (i - b->i0) * OUTER_PANEL;
            o.c = sum + (j - b->j0) * ADX_WIDTH + c;
            outer_do(adx_across, j1 - j, cpu_min(OUTER_PANEL, width - c), &o);
        }
    }
}

static void adx_do_tile(const adx_item *it, const adx_tile *b) {
    const weft_attention_dx_args *a = it->a;
    adx_memory *mem = it->mem;
    if (adx_hi(it, b->i1 - 1) <= b->j0 || adx_lo(it, b->i0) >= b->j1)
        return;
    adx_pack_rows(&a->q, it, b, mem->q, mem->qp);
    adx_pack_rows(&a->dy, it, b, mem->dy, mem->dyp);
    adx_dots(it, b, mem->q, mem->kt, a->q.shape[2], mem->p);
    adx_dots(it, b, mem->dy, mem->vt, a->v.shape[2], mem->ds);
    for (int64_t i = b->i0; i < b->i1; i++)
        adx_weights(it, b, i, mem->p + (i - b->i0) * ADX_PITCH, mem->ds + (i - b->i0) * ADX_PITCH);
    if (weft_has(&a->dq))
        adx_queries(it, b);
    adx_keys(it, b, mem->ds, mem->qp, a->q.shape[2], mem->dk);
    adx_keys(it, b, mem->p, mem->dyp, a->v.shape[2], mem->dv);
}

/* ---- a sequence and kv head ---- */

static void adx_store(const weft_tensor *t, int64_t row, int64_t head, const float *from) {
    if (!weft_has(t))
        return;
    void *to = cpu_at(t, row * t->stride[0] + head * t->stride[1]);
    CPU_EACH16(i, n, t->shape[2]) {
        v16_put(t->dtype, to, i, (int)n, from ? v16_get(WEFT_F32, from, i, (int)n) : v16_zero());
    }
}

/* dy.y: sixteen lanes and the fixed tree. */
static float adx_delta(const weft_attention_dx_args *a, int64_t row, int64_t h) {
    v16 sum = v16_zero();
    const void *dy = adx_at(&a->dy, row, h), *y = adx_at(&a->y, row, h);
    CPU_EACH16(i, n, a->v.shape[2]) {
        sum = v16_fma(v16_get(a->dy.dtype, dy, i, (int)n), v16_get(a->y.dtype, y, i, (int)n), sum);
    }
    return v16_sum(sum);
}

static void adx_begin(const adx_item *it) {
    int64_t heads = it->a->q.shape[1], width = it->j->width;
    for (int64_t row = it->start; row < it->start + it->queries; row++)
        for (int64_t h = it->h0; h < it->h1; h++) {
            memset(it->j->dq + (row * heads + h) * width, 0, (size_t)width * sizeof(float));
            it->j->delta[row * heads + h] = adx_delta(it->a, row, h);
        }
}

static void adx_block(const adx_item *it, adx_tile b) {
    adx_memory *mem = it->mem;
    for (int64_t j = 0; j < b.j1 - b.j0; j++) {
        memset(mem->dk + j * ADX_WIDTH, 0, (size_t)adx_padded(it->a->q.shape[2]) * sizeof *mem->dk);
        memset(mem->dv + j * ADX_WIDTH, 0, (size_t)adx_padded(it->a->v.shape[2]) * sizeof *mem->dv);
    }
    adx_pack_keys(it, &b);
    for (b.h = it->h0; b.h < it->h1; b.h++)
        for (b.i0 = 0; b.i0 < it->queries; b.i0 = b.i1) {
            b.i1 = cpu_min(it->queries, b.i0 + ADX_QUERIES);
            adx_do_tile(it, &b);
        }
    for (int64_t j = b.j0; j < cpu_min(b.j1, it->queries); j++) {
        adx_store(&it->a->dk, it->start + j, it->kv, mem->dk + (j - b.j0) * ADX_WIDTH);
        adx_store(&it->a->dv, it->start + j, it->kv, mem->dv + (j - b.j0) * ADX_WIDTH);
    }
}

static void adx_do_item(const adx_item *it) {
    int64_t heads = it->a->q.shape[1];
    adx_begin(it);
    for (int64_t j = 0; j < it->keys; j += ADX_KEYS)
        adx_block(it, (adx_tile){.j0 = j, .j1 = cpu_min(it->keys, j + ADX_KEYS)});
    for (int64_t row = it->start; row < it->start + it->queries; row++)
        for (int64_t h = it->h0; h < it->h1; h++)
            adx_store(&it->a->dq, row, h, it->j->dq + (row * heads + h) * it->j->width);
    for (int64_t row = it->start + it->keys; row < it->start + it->queries; row++) {
        adx_store(&it->a->dk, row, it->kv, NULL);
        adx_store(&it->a->dv, row, it->kv, NULL);
    }
}

static void adx_items(const void *ctx, int64_t begin, int64_t end, int worker) {
    const adx_job *j = ctx;
    const weft_attention_dx_args *a = j->a;
    for (int64_t i = begin; i < end; i++) {
        int64_t s = i / a->k.shape[1];
        adx_item it = {.j = j, .a = a, .kv = i % a->k.shape[1]};
        it.mem = weft_worker_memory(j->stream, worker);
        it.start = att_int(&a->qstart, s);
        it.queries = att_int(&a->qstart, s + 1) - it.start;
        it.pos = att_int(&a->qpos, s);
        it.keys = cpu_max(0, cpu_min(att_int(&a->kvlen, s), a->k.shape[0] - it.start));
        it.h0 = cpu_max(0, it.kv * a->group - a->head0);
        it.h1 = cpu_max(it.h0, cpu_min(a->q.shape[1], (it.kv + 1) * a->group - a->head0));
        if (it.queries > 0)
            adx_do_item(&it);
    }
}

/* Rows before the first sequence and after the last. */
static void adx_zero(const weft_tensor *t, const weft_tensor *qstart, int64_t sequences) {
    int64_t first = att_int(qstart, 0), end = att_int(qstart, sequences);
    for (int64_t row = 0; weft_has(t) && row < t->shape[0]; row++)
        for (int64_t h = 0; h < t->shape[1] && (row < first || row >= end); h++)
            adx_store(t, row, h, NULL);
}

static int adx_heads_ok(const weft_tensor *t) {
    return !weft_has(t) || (t->ndim == 3 && cpu_flat(t) && t->shape[2] <= ADX_WIDTH);
}

CPU_OK(attention_dx) {
    const weft_attention_dx_args *a = &args->attention_dx;
    return adx_heads_ok(&a->dy) && adx_heads_ok(&a->q) && adx_heads_ok(&a->k) &&
           adx_heads_ok(&a->v) && adx_heads_ok(&a->y) && adx_heads_ok(&a->dq) &&
           adx_heads_ok(&a->dk) && adx_heads_ok(&a->dv) && a->lse.dtype == WEFT_F32 &&
           (!weft_has(&a->slopes) || cpu_is_float(&a->slopes)) &&
           (!weft_has(&a->bias) || cpu_is_float(&a->bias)) && a->group > 0;
}

CPU_SCRATCH(attention_dx) {
    const weft_attention_dx_args *a = &args->attention_dx;
    return (size_t)(a->q.shape[0] * a->q.shape[1] * (adx_padded(a->q.shape[2]) + 1)) *
           sizeof(float);
}

CPU_RUN(attention_dx) {
    const weft_attention_dx_args *a = &step->args.attention_dx;
    int64_t sequences = a->kvlen.shape[0];
    adx_job j = {.a = a, .stream = stream, .dq = step->scratch, .width = adx_padded(a->q.shape[2])};
    j.delta = j.dq + a->q.shape[0] * a->q.shape[1] * j.width;
    adx_zero(&a->dq, &a->qstart, sequences);
    adx_zero(&a->dk, &a->qstart, sequences);
    adx_zero(&a->dv, &a->qstart, sequences);
    weft_parallel(stream, sequences * a->k.shape[1], 1, adx_items, &j);
}
