/* SPDX-License-Identifier: Apache-2.0
 * attention: lanes are keys. Blocks of 64 keys and splits of 512 begin at absolute positions; a
 * row, one query of one head, sees of each block one run of keys and is a function of those alone:
 *   score  one chain of fma over d ascending a key, then scale, softcap, slope, bias
 *   block  m' = max(m, scores); l and acc scale by e^(m - m'); l takes e^(s - m') as 16 lanes,
 *          acc[d] takes p v[d] by fma, keys ascending. A masked value is never touched.
 *   split  state starts anew, l folds by the fixed tree; splits combine left to right.
 * Keys of a page side by side (the device's layout) are read as they lie, others are packed so.
 * Rows of an item share each block: the outer products below are bound by the fma units in prefill
 * and by reading K and V in decode. (Dao et al., "FlashAttention", 2022) */
#include "score.h"

enum {
    ATT_BLOCK = 64,
    ATT_SPLIT = 512,
    ATT_ROWS = 96,   /* of an item in flight */
    ATT_WIDTH = 256, /* of a head */
};

/* What a row has gathered: of the split, then of all splits. */
typedef struct {
    float acc[ATT_WIDTH], l, m;
    int any;
} att_state;

typedef struct {
    int64_t pos, lo, hi; /* its position; it sees keys [lo, hi) */
    int64_t token, head; /* where it lies in q and y */
    v16 l;
    att_state now, all;
    float q[ATT_WIDTH];
} att_row;

typedef struct {
    att_row row[ATT_ROWS];
    float k[ATT_WIDTH][ATT_BLOCK]; /* packed keys */
    float v[ATT_BLOCK][16];        /* the last columns of values, where they are less than 16 */
    float s[TILE_N][ATT_BLOCK];    /* scores, then weights, of a tile of rows */
} att_memory;
_Static_assert(sizeof(att_memory) <= WEFT_WORKER_BYTES, "worker memory");

/* K or V of one sequence and kv head. Without pages, one endless page. */
typedef struct {
    const char *base;
    const int32_t *pages;
    int64_t page_step;                 /* between entries of pages */
    int64_t page, key, d, size, bytes; /* strides in bytes; keys in a page; bytes of an element */
    int dtype;
} att_keys;

typedef struct {
    const weft_attention_args *a;
    att_memory *mem;
    att_keys k, v;
    int64_t rows;
    int64_t lo, hi; /* keys that any row sees */
} att_item;

typedef struct {
    const weft_attention_args *a;
    const weft_stream *stream;
} att_job;

/* ---- the outer product: out[r][c] += a[r][i] b[i][c], i ascending ---- */

/* Rows of b one step apart; the vectors of a row may lie anywhere. */
typedef struct {
    const char *b[TILE_T];
    int64_t n;
} att_run;

typedef struct {
    const float *a;
    const att_run *run;
    float *out;
    int64_t astride, bstep, shift, ostride; /* floats, bytes, bytes from run's b, floats */
    int runs;
    int first; /* start from +0 instead of out */
} att_outer;

typedef void att_outer_fn(const att_outer *o);

V16 void att_product(int nc, int nr, int dtype, const att_outer *o) {
    v16 acc[TILE_N][TILE_T], b[TILE_T];
    const float *a = o->a;
    WEFT_UNROLL
    for (int r = 0; r < nr; r++) {
        WEFT_UNROLL
        for (int c = 0; c < nc; c++)
            acc[r][c] = o->first ? v16_zero() : v16_load(o->out + r * o->ostride + c * 16);
    }
    for (int run = 0; run < o->runs; run++)
        for (int64_t i = 0; i < o->run[run].n; i++, a++) {
            WEFT_UNROLL
            for (int c = 0; c < nc; c++)
                b[c] = v16_get16(dtype, o->run[run].b[c] + o->shift + i * o->bstep);
            WEFT_UNROLL
            for (int r = 0; r < nr; r++) {
                v16 factor = v16_set1(a[r * o->astride]);
                WEFT_UNROLL
                for (int c = 0; c < nc; c++)
                    acc[r][c] = v16_fma(factor, b[c], acc[r][c]);
            }
        }
    WEFT_UNROLL
    for (int r = 0; r < nr; r++) {
        WEFT_UNROLL
        for (int c = 0; c < nc; c++)
            v16_store(o->out + r * o->ostride + c * 16, acc[r][c]);
    }
}

#define ATT_OUTER(type, name, c, r) \
    static void att_##name##_##c##r(const att_outer *o) { \
        att_product(c, r, type, o); \
    }
#define ATT_ENTRY(type, name, c, r) att_##name##_##c##r,
V16_TILES(ATT_OUTER, WEFT_F32, f32)
V16_TILES(ATT_OUTER, WEFT_F16, f16)
V16_TILES(ATT_OUTER, WEFT_BF16, bf16)

static att_outer_fn *const att_f32[] = {V16_TILES(ATT_ENTRY, WEFT_F32, f32)};
static att_outer_fn *const att_f16[] = {V16_TILES(ATT_ENTRY, WEFT_F16, f16)};
static att_outer_fn *const att_bf16[] = {V16_TILES(ATT_ENTRY, WEFT_BF16, bf16)};
static att_outer_fn *const *const att_outers[] = {att_f32, att_f16, att_bf16};

static void att_do(int dtype, int64_t nc, int64_t nr, const att_outer *o) {
    att_outers[dtype][(nc - 1) * TILE_N + nr - 1](o);
}

/* ---- where keys are ---- */

static att_keys att_find(const weft_attention_args *a, const weft_tensor *t, int64_t seq,
                         int64_t head) {
    int64_t bytes = t->dtype == WEFT_F32 ? 4 : 2;
    att_keys k = {.dtype = t->dtype, .bytes = bytes, .size = INT64_MAX};
    k.base = (const char *)t->data + head * t->stride[1] * bytes;
    if (weft_has(&a->pages)) {
        k.pages = (const int32_t *)a->pages.data + seq * a->pages.stride[0];
        k.page_step = a->pages.stride[1];
        k.size = t->shape[2];
        k.page = t->stride[0] * bytes;
        k.key = t->stride[2] * bytes;
        k.d = t->stride[3] * bytes;
        return k;
    }
    k.base += att_int(&a->qstart, seq) * t->stride[0] * bytes;
    k.key = t->stride[0] * bytes;
    k.d = t->stride[2] * bytes;
    return k;
}

static const char *att_key(const att_keys *k, int64_t j) {
    if (k->pages == NULL)
        return k->base + j * k->key;
    return k->base + k->pages[j / k->size * k->page_step] * k->page + j % k->size * k->key;
}

/* Sixteen keys from a multiple of 16 lie side by side in one page. */
static int att_transposed(const att_keys *k) {
    return k->pages && k->key == k->bytes && k->size % 16 == 0;
}

/* ---- one block ---- */

typedef struct {
    int64_t j0, lo, hi; /* first key; keys of it that any row sees, hence that exist */
} att_block;

static void att_pack_key(const att_item *it, const char *from, int64_t column) {
    int64_t width = it->a->q.shape[2];
    float(*to)[ATT_BLOCK] = it->mem->k, f[16];
    if (it->k.d != it->k.bytes) {
        for (int64_t d = 0; d < width; d++) {
            v16_store(f, v16_get(it->k.dtype, from + d * it->k.d, 0, 1));
            to[d][column] = f[0];
        }
        return;
    }
    CPU_EACH16(i, n, width) {
        v16_store(f, v16_get(it->k.dtype, from, i, (int)n));
        for (int64_t l = 0; l < n; l++)
            to[i + l][column] = f[l];
    }
}

/* Keys and ragged columns of values, once for all rows. Lanes that no row sees hold zeros. */
static void att_pack(const att_item *it, const att_block *b) {
    int64_t ragged = it->a->y.shape[2] % 16, at = it->a->y.shape[2] - ragged;
    if (!att_transposed(&it->k)) {
        memset(it->mem->k, 0, (size_t)it->a->q.shape[2] * sizeof *it->mem->k);
        for (int64_t j = b->lo; j < b->hi; j++)
            att_pack_key(it, att_key(&it->k, j), j - b->j0);
    }
    for (int64_t j = b->lo; j < b->hi && ragged; j++)
        v16_store(it->mem->v[j - b->j0], v16_get(it->v.dtype, att_key(&it->v, j), at, (int)ragged));
}

/* q.k of nr rows from r for all keys of the block that any row sees. */
static void att_scores(const att_item *it, const att_block *b, int64_t r, int64_t nr) {
    int64_t g1 = cpu_ceil(b->hi - b->j0, 16);
    int transposed = att_transposed(&it->k);
    att_run run = {.n = it->a->q.shape[2]};
    att_outer o = {.a = it->mem->row[r].q, .run = &run, .runs = 1, .first = 1};
    o.astride = sizeof(att_row) / sizeof(float);
    o.ostride = ATT_BLOCK;
    o.bstep = transposed ? it->k.d : (int64_t)sizeof *it->mem->k;
    for (int64_t g = (b->lo - b->j0) / 16; g < g1; g += TILE_T) {
        int64_t nc = cpu_min(TILE_T, g1 - g);
        for (int64_t c = 0; c < nc; c++)
            run.b[c] = transposed ? att_key(&it->k, b->j0 + (g + c) * 16)
                                  : (const char *)&it->mem->k[0][(g + c) * 16];
        o.out = &it->mem->s[0][g * 16];
        att_do(transposed ? it->k.dtype : WEFT_F32, nc, nr, &o);
    }
}

/* The exponent's zero: a row whose every score is -infinity has weights 0, not NaN. */
static float att_zero(float m) {
    return m == -INFINITY ? 0.0f : m;
}

static void att_rescale(att_row *row, int64_t width, float m) {
    v16 alpha = v16_set1(weft_expf(row->now.m - att_zero(m)));
    row->l = v16_mul(row->l, alpha);
    for (int64_t i = 0; i < width; i += 16)
        v16_store(row->now.acc + i, v16_mul(v16_load(row->now.acc + i), alpha));
    row->now.m = m;
}

/* Scores to weights, for the keys [lo, hi) of the block that the row sees. */
static void att_weights(const att_item *it, att_row *row, int64_t j0, int64_t lo, int64_t hi,
                        float *s) {
    v16 most = v16_set1(-INFINITY), score[ATT_BLOCK / 16], tanh;
    att_score a = {&it->a->slopes, &it->a->bias, it->a->scale, it->a->softcap};
    int64_t g0 = (lo - j0) / 16, g1 = cpu_ceil(hi - j0, 16);
    for (int64_t g = g0; g < g1; g++) {
        int64_t j = j0 + g * 16;
        v16 v = att_score_of(&a, row->head, j - row->pos, v16_load(s + g * 16), &tanh);
        score[g] = v16_pick((int)cpu_max(0, lo - j), (int)cpu_min(16, hi - j), v,
                            v16_set1(-INFINITY));
        most = v16_max(score[g], most);
    }
    float m = v16_hmax(most);
    if (m > row->now.m)
        att_rescale(row, it->a->y.shape[2], m);
    v16 zero = v16_set1(att_zero(row->now.m));
    for (int64_t g = g0; g < g1; g++) {
        v16 p = v16_exp(v16_sub(score[g], zero));
        row->l = v16_add(row->l, p);
        v16_store(s + g * 16, p);
    }
    row->now.any = 1;
}

/* The values of keys [lo, hi) as runs, each in one page. */
static int att_value_runs(const att_keys *v, int64_t lo, int64_t hi, att_run *run) {
    int runs = 0;
    for (int64_t j = lo; j < hi; j += run[runs++].n) {
        const char *at = att_key(v, j);
        run[runs].n = cpu_min(hi - j, v->size - j % v->size);
        for (int c = 0; c < TILE_T; c++)
            run[runs].b[c] = at + c * 16 * v->bytes;
    }
    return runs;
}

/* acc of nr rows from r takes the keys [lo, hi). */
static void att_values(const att_item *it, int64_t j0, int64_t r, int64_t nr, const float *p,
                       int64_t lo, int64_t hi) {
    int64_t whole = it->a->y.shape[2] / 16;
    if (lo >= hi)
        return;
    att_run run[ATT_BLOCK], packed = {.b = {(const char *)it->mem->v[lo - j0]}, .n = hi - lo};
    att_outer o = {.a = p + (lo - j0), .run = run, .astride = ATT_BLOCK, .bstep = it->v.key};
    o.ostride = sizeof(att_row) / sizeof(float);
    o.runs = att_value_runs(&it->v, lo, hi, run);
    for (int64_t at = 0; at < whole; at += TILE_T) {
        o.shift = at * 16 * it->v.bytes;
        o.out = it->mem->row[r].now.acc + at * 16;
        att_do(it->v.dtype, cpu_min(TILE_T, whole - at), nr, &o);
    }
    if (it->a->y.shape[2] % 16) {
        o.run = &packed;
        o.runs = 1;
        o.shift = 0;
        o.bstep = sizeof *it->mem->v;
        o.out = it->mem->row[r].now.acc + whole * 16;
        att_do(WEFT_F32, 1, nr, &o);
    }
}

/* One block for the nr rows from r: they see runs that differ at their ends only. */
static void att_tile(const att_item *it, const att_block *b, int64_t r, int64_t nr) {
    int64_t lo[TILE_N], hi[TILE_N], common_lo = b->lo, common_hi = b->hi, none = 1;
    for (int64_t i = 0; i < nr; i++) {
        const att_row *row = &it->mem->row[r + i];
        lo[i] = cpu_max(row->lo, b->lo);
        hi[i] = cpu_max(lo[i], cpu_min(row->hi, b->hi));
        common_lo = cpu_max(common_lo, lo[i]);
        common_hi = cpu_min(common_hi, hi[i]);
        none = none && lo[i] == hi[i];
    }
    if (none)
        return;
    common_hi = cpu_max(common_lo, common_hi);
    att_scores(it, b, r, nr);
    for (int64_t i = 0; i < nr; i++)
        if (lo[i] < hi[i])
            att_weights(it, &it->mem->row[r + i], b->j0, lo[i], hi[i], it->mem->s[i]);
    for (int64_t i = 0; i < nr; i++)
        att_values(it, b->j0, r + i, 1, it->mem->s[i], lo[i], cpu_min(hi[i], common_lo));
    att_values(it, b->j0, r, nr, it->mem->s[0], common_lo, common_hi);
    for (int64_t i = 0; i < nr; i++)
        att_values(it, b->j0, r + i, 1, it->mem->s[i], cpu_max(lo[i], common_hi), hi[i]);
}

/* ---- splits and rows ---- */

static void att_restart(att_row *row, int64_t width) {
    memset(row->now.acc, 0, (size_t)cpu_ceil(width, 16) * 64);
    row->now.m = -INFINITY;
    row->now.any = 0;
    row->l = v16_zero();
}

/* The finished split joins those before it; the first that saw a key is taken as it is. */
static void att_join(att_row *row, int64_t width) {
    if (!row->now.any)
        return;
    row->now.l = v16_sum(row->l);
    if (!row->all.any) {
        row->all = row->now;
        return;
    }
    float m = row->now.m > row->all.m ? row->now.m : row->all.m;
    v16 f = v16_set1(weft_expf(row->all.m - att_zero(m)));
    v16 g = v16_set1(weft_expf(row->now.m - att_zero(m)));
    for (int64_t i = 0; i < width; i += 16) {
        v16 kept = v16_mul(v16_load(row->all.acc + i), f);
        v16_store(row->all.acc + i, v16_fma(v16_load(row->now.acc + i), g, kept));
    }
    row->all.l = fmaf(row->now.l, weft_expf(row->now.m - att_zero(m)),
                      row->all.l * weft_expf(row->all.m - att_zero(m)));
    row->all.m = m;
}

static void att_store(const weft_attention_args *a, att_row *row) {
    att_state *s = &row->all;
    float m = s->m, factor = 1.0f, l = s->any ? s->l : 0.0f;
    if (weft_has(&a->sinks)) {
        float sink = att_float(&a->sinks, row->head * a->sinks.stride[0]);
        m = sink > m ? sink : m;
        factor = weft_expf(s->m - att_zero(m));
        l = fmaf(l, factor, weft_expf(sink - att_zero(m)));
    }
    void *y = cpu_at(&a->y, row->token * a->y.stride[0] + row->head * a->y.stride[1]);
    v16 by = v16_set1(l == 0 ? 1.0f : l);
    CPU_EACH16(i, n, a->y.shape[2]) {
        v16 v = s->any ? v16_mul(v16_load(s->acc + i), v16_set1(factor)) : v16_zero();
        v16_put(a->y.dtype, y, i, (int)n, v16_div(v, by));
    }
    if (weft_has(&a->lse))
        v16_put(a->lse.dtype,
                cpu_at(&a->lse, row->token * a->lse.stride[0] + row->head * a->lse.stride[1]), 0, 1,
                v16_set1(att_zero(m) + weft_logf(l)));
}

static void att_start(const weft_attention_args *a, att_row *row, int64_t kvlen) {
    row->hi = a->causal ? cpu_min(kvlen, row->pos + 1) : kvlen;
    row->lo = a->window > 0 ? cpu_max(0, row->pos - a->window + 1) : 0;
    row->all.any = 0;
    row->all.m = -INFINITY;
    const void *q = cpu_at(&a->q, row->token * a->q.stride[0] + row->head * a->q.stride[1]);
    CPU_EACH16(i, n, a->q.shape[2]) {
        v16_store(row->q + i, v16_get(a->q.dtype, q, i, (int)n));
    }
}

static void att_split(const att_item *it, int64_t start) {
    int64_t width = it->a->y.shape[2], end = cpu_min(it->hi, start + ATT_SPLIT);
    for (int64_t r = 0; r < it->rows; r++)
        att_restart(&it->mem->row[r], width);
    int64_t from = cpu_max(start, it->lo / ATT_BLOCK * ATT_BLOCK);
    for (int64_t j0 = from; j0 < end; j0 += ATT_BLOCK) {
        att_block b = {j0, cpu_max(j0, it->lo), cpu_min(j0 + ATT_BLOCK, it->hi)};
        att_pack(it, &b);
        for (int64_t r = 0; r < it->rows; r += TILE_N)
            att_tile(it, &b, r, cpu_min(TILE_N, it->rows - r));
    }
    for (int64_t r = 0; r < it->rows; r++)
        att_join(&it->mem->row[r], width);
}

static void att_run_rows(att_item *it) {
    it->lo = INT64_MAX;
    it->hi = 0;
    for (int64_t r = 0; r < it->rows; r++) {
        it->lo = cpu_min(it->lo, it->mem->row[r].lo);
        it->hi = cpu_max(it->hi, it->mem->row[r].hi);
    }
    for (int64_t s = it->lo / ATT_SPLIT * ATT_SPLIT; s < it->hi; s += ATT_SPLIT)
        att_split(it, s);
    for (int64_t r = 0; r < it->rows; r++)
        att_store(it->a, &it->mem->row[r]);
}

/* work = {sequence, first query, queries, local kv head}: its rows are queries by heads. */
static void att_run_item(const weft_attention_args *a, att_memory *mem, const int32_t *work,
                         int64_t step) {
    int64_t seq = work[0], first = work[step], queries = work[2 * step], kv = work[3 * step];
    att_item it = {.a = a, .mem = mem};
    it.k = att_find(a, &a->k, seq, kv);
    it.v = att_find(a, &a->v, seq, kv);
    int64_t h0 = cpu_max(0, kv * a->group - a->head0);
    int64_t heads = cpu_min(a->q.shape[1], (kv + 1) * a->group - a->head0) - h0;
    for (int64_t at = 0; at < queries * heads; at += it.rows) {
        it.rows = cpu_min(ATT_ROWS, queries * heads - at);
        for (int64_t r = 0; r < it.rows; r++) {
            att_row *row = &mem->row[r];
            int64_t query = first + (at + r) / heads;
            row->head = h0 + (at + r) % heads;
            row->pos = att_int(&a->qpos, seq) + query;
            row->token = att_int(&a->qstart, seq) + query;
            att_start(a, row, att_int(&a->kvlen, seq));
        }
        att_run_rows(&it);
    }
}

static void att_items(const void *ctx, int64_t begin, int64_t end, int worker) {
    const att_job *j = ctx;
    const weft_tensor *work = &j->a->work;
    for (int64_t i = begin; i < end; i++)
        att_run_item(j->a, weft_worker_memory(j->stream, worker),
                     (const int32_t *)work->data + i * work->stride[0], work->stride[1]);
}

CPU_OK(attention) {
    const weft_attention_args *a = &args->attention;
    return cpu_flat(&a->q) && cpu_flat(&a->v) && cpu_flat(&a->y) && cpu_is_float(&a->k) &&
           (!weft_has(&a->lse) || cpu_is_float(&a->lse)) &&
           (!weft_has(&a->slopes) || cpu_is_float(&a->slopes)) &&
           (!weft_has(&a->bias) || cpu_is_float(&a->bias)) &&
           (!weft_has(&a->sinks) || cpu_is_float(&a->sinks)) && a->group > 0 &&
           a->q.shape[2] <= ATT_WIDTH && a->y.shape[2] <= ATT_WIDTH;
}

CPU_RUN(attention) {
    const weft_attention_args *a = &step->args.attention;
    att_job j = {a, stream};
    weft_parallel(stream, cpu_true_rows(&a->nwork, &a->work), 1, att_items, &j);
}
