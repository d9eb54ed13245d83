/* SPDX-License-Identifier: Apache-2.0
 * Attention against its dense definition in long double: every pair of query and key is asked
 * whether it is visible. Then the bits that must not change: pages, layouts, chunks, batches. */
#include "tests/unit/rig.h"

enum {
    HEADS = 4, /* local query heads */
    KV_HEADS = 2,
    D = 6,
    DV = 5,
    PAGE = 4,
    MAX_KEYS = 24,
    MAX_PAGES = MAX_KEYS / PAGE,
    MAX_SEQS = 3,
    MAX_TOKENS = 48,
    REACH = 3 /* of the relative bias */
};

typedef struct {
    int seqs;
    int queries[MAX_SEQS], pos[MAX_SEQS], keys[MAX_SEQS];
    int chunk;      /* most queries of a work item */
    int paged;      /* 0: the batch's own rows */
    int transposed; /* keys innermost inside a page */
    int shuffle;    /* seed of the physical order of pages */
    float scale, softcap;
    int causal, window, group, head0, slopes, bias, sinks;
} attention_case;

typedef struct {
    float q[MAX_SEQS][MAX_KEYS][HEADS][D]; /* by sequence and absolute position */
    float k[MAX_SEQS][MAX_KEYS][KV_HEADS][D], v[MAX_SEQS][MAX_KEYS][KV_HEADS][DV];
    float slopes[HEADS], bias[HEADS][2 * REACH + 1], sinks[HEADS];
} attention_data;

typedef struct {
    float y[MAX_SEQS][MAX_KEYS][HEADS][DV], lse[MAX_SEQS][MAX_KEYS][HEADS];
} attention_result;

static const attention_data *data_of(uint64_t seed) {
    static attention_data d;
    fill_random((float *)&d, sizeof d / 4, seed);
    return &d;
}

/* ---- the definition ---- */

static int is_visible(const attention_case *c, int i, int j) {
    return (!c->causal || j <= i) && (c->window <= 0 || j > i - c->window);
}

static double define_score(const attention_case *c, const attention_data *d, int s, int i, int j,
                           int h) {
    int kv = (h + c->head0) / c->group;
    int far = j - i < -REACH ? -REACH : j - i > REACH ? REACH : j - i;
    long double dot = 0;
    for (int e = 0; e < D; e++)
        dot += (long double)d->q[s][i][h][e] * d->k[s][j][kv][e];
    dot *= c->scale;
    dot = c->softcap > 0 ? c->softcap * tanhl(dot / c->softcap) : dot;
    dot += c->slopes ? (long double)d->slopes[h] * (j - i) : 0;
    dot += c->bias ? d->bias[h][far + REACH] : 0;
    return (double)dot;
}

static void define_one(const attention_case *c, const attention_data *d, int s, int i, int h,
                       double y[DV], double *lse) {
    long double total = c->sinks ? expl(d->sinks[h]) : 0, sum[DV] = {0};
    for (int j = 0; j < c->keys[s]; j++)
        if (is_visible(c, i, j)) {
            long double p = expl(define_score(c, d, s, i, j, h));
            total += p;
            for (int e = 0; e < DV; e++)
                sum[e] += p * d->v[s][j][(h + c->head0) / c->group][e];
        }
    for (int e = 0; e < DV; e++)
        y[e] = total > 0 ? (double)(sum[e] / total) : 0;
    *lse = (double)logl(total);
}

/* ---- the row under test ---- */

typedef struct {
    float q[MAX_TOKENS][HEADS][D], k[MAX_SEQS * MAX_PAGES * PAGE * KV_HEADS * D],
        v[MAX_SEQS * MAX_PAGES * PAGE * KV_HEADS * DV], y[MAX_TOKENS][HEADS][DV],
        lse[MAX_TOKENS][HEADS];
    int32_t pages[MAX_SEQS][MAX_PAGES], qstart[MAX_SEQS + 1], qpos[MAX_SEQS], kvlen[MAX_SEQS];
    int32_t work[MAX_TOKENS * KV_HEADS][4], nwork;
    weft_args a;
} attention_rig;

static void lay_pages(const attention_case *c, const attention_data *d, attention_rig *r) {
    enum { ALL = MAX_SEQS * MAX_PAGES };
    int order[ALL] = {0};
    uint64_t seed = (uint64_t)c->shuffle;
    for (int i = 0; i < ALL; i++) {
        int at = c->shuffle ? (int)(next_random(&seed) % (uint64_t)(i + 1)) : i;
        order[i] = order[at];
        order[at] = i;
    }
    weft_tensor *k = &r->a.attention.k, *v = &r->a.attention.v;
    *k = view(WEFT_F32, r->k, DIMS(ALL, KV_HEADS, PAGE, D));
    *v = view(WEFT_F32, r->v, DIMS(ALL, KV_HEADS, PAGE, DV));
    if (c->transposed) {
        k->stride[2] = 1;
        k->stride[3] = PAGE;
    }
    for (int s = 0; s < MAX_SEQS; s++)
        for (int j = 0; j < MAX_KEYS; j++) {
            int page = order[s * MAX_PAGES + j / PAGE];
            r->pages[s][j / PAGE] = page;
            for (int h = 0; h < KV_HEADS; h++) {
                for (int e = 0; e < D; e++)
                    r->k[page * k->stride[0] + h * k->stride[1] + j % PAGE * k->stride[2] +
                         e * k->stride[3]] = d->k[s][j][h][e];
                for (int e = 0; e < DV; e++)
                    r->v[page * v->stride[0] + h * v->stride[1] + j % PAGE * v->stride[2] + e] =
                        d->v[s][j][h][e];
            }
        }
    r->a.attention.pages = view(WEFT_I32, r->pages, DIMS(MAX_SEQS, MAX_PAGES));
}

/* The batch's own keys: row qstart[s] + j. */
static void lay_rows(const attention_case *c, const attention_data *d, attention_rig *r) {
    r->a.attention.k = view(WEFT_F32, r->k, DIMS(MAX_TOKENS, KV_HEADS, D));
    r->a.attention.v = view(WEFT_F32, r->v, DIMS(MAX_TOKENS, KV_HEADS, DV));
    for (int s = 0; s < c->seqs; s++)
        for (int j = 0; j < c->keys[s]; j++) {
            int row = r->qstart[s] + j;
            memcpy(r->k + row * KV_HEADS * D, d->k[s][j], sizeof d->k[s][j]);
            memcpy(r->v + row * KV_HEADS * DV, d->v[s][j], sizeof d->v[s][j]);
        }
}

static void lay_work(const attention_case *c, attention_rig *r) {
    for (int s = 0; s < c->seqs; s++)
        for (int first = 0; first < c->queries[s]; first += c->chunk)
            for (int h = 0; h < KV_HEADS; h++) {
                int n = c->queries[s] - first < c->chunk ? c->queries[s] - first : c->chunk;
                int32_t item[4] = {s, first, n, h};
                memcpy(r->work[r->nwork++], item, sizeof item);
            }
    memset(r->work[r->nwork], 0x7f, 16); /* the next item is not true */
}

static void lay_queries(const attention_case *c, const attention_data *d, attention_rig *r) {
    for (int s = 0; s < c->seqs; s++) {
        r->qstart[s + 1] = r->qstart[s] + c->queries[s];
        r->qpos[s] = c->pos[s];
        r->kvlen[s] = c->keys[s];
        for (int i = 0; i < c->queries[s]; i++)
            memcpy(r->q[r->qstart[s] + i], d->q[s][c->pos[s] + i], sizeof r->q[0]);
    }
}

static void lay_args(const attention_case *c, const attention_data *d, attention_rig *r) {
    weft_attention_args *a = &r->a.attention;
    a->q = view(WEFT_F32, r->q, DIMS(MAX_TOKENS, HEADS, D));
    a->y = view(WEFT_F32, r->y, DIMS(MAX_TOKENS, HEADS, DV));
    a->lse = view(WEFT_F32, r->lse, DIMS(MAX_TOKENS, HEADS));
    a->qstart = view(WEFT_I32, r->qstart, DIMS(MAX_SEQS + 1));
    a->qpos = view(WEFT_I32, r->qpos, DIMS(MAX_SEQS));
    a->kvlen = view(WEFT_I32, r->kvlen, DIMS(MAX_SEQS));
    a->work = view(WEFT_I32, r->work, DIMS(MAX_TOKENS * KV_HEADS, 4));
    a->nwork = view(WEFT_I32, &r->nwork, DIMS(1));
    if (c->slopes)
        a->slopes = view(WEFT_F32, d->slopes, DIMS(HEADS));
    if (c->bias)
        a->bias = view(WEFT_F32, d->bias, DIMS(HEADS, 2 * REACH + 1));
    if (c->sinks)
        a->sinks = view(WEFT_F32, d->sinks, DIMS(HEADS));
    a->scale = c->scale;
    a->softcap = c->softcap;
    a->causal = c->causal;
    a->window = c->window;
    a->group = c->group;
    a->head0 = c->head0;
}

static void attend(const attention_case *c, const attention_data *d, attention_result *out) {
    attention_rig *r = mem_alloc(sizeof *r);
    fill_value(&r->y[0][0][0], sizeof r->y / 4, 99);
    fill_value(r->k, sizeof r->k / 4, NAN); /* what no sequence holds must not matter */
    fill_value(r->v, sizeof r->v / 4, NAN);
    lay_queries(c, d, r);
    lay_args(c, d, r);
    (c->paged ? lay_pages : lay_rows)(c, d, r);
    lay_work(c, r);
    run(WEFT_OP_attention, &r->a);
    for (int s = 0; s < c->seqs; s++)
        for (int i = 0; i < c->queries[s]; i++) {
            memcpy(out->y[s][c->pos[s] + i], r->y[r->qstart[s] + i], sizeof r->y[0]);
            memcpy(out->lse[s][c->pos[s] + i], r->lse[r->qstart[s] + i], sizeof r->lse[0]);
        }
    for (int t = r->qstart[c->seqs]; t < MAX_TOKENS; t++)
        assert_true(r->y[t][0][0] == 99);
    mem_free(r);
}

/* ---- cases ---- */

/* A decode, a chunk in the middle and a prefill in one step. */
static const attention_case mixed = {.seqs = 3,
                                     .queries = {1, 5, 9},
                                     .pos = {22, 8, 0},
                                     .keys = {23, 13, 9},
                                     .chunk = 4,
                                     .paged = 1,
                                     .shuffle = 3,
                                     .scale = 0.4f,
                                     .causal = 1,
                                     .group = 2};

static void expect_definition(const attention_case *c, const char *what) {
    const attention_data *d = data_of(17);
    attention_result *r = mem_alloc(sizeof *r);
    attend(c, d, r);
    for (int s = 0; s < c->seqs; s++)
        for (int i = c->pos[s]; i < c->pos[s] + c->queries[s]; i++)
            for (int h = 0; h < HEADS; h++) {
                double y[DV], lse;
                define_one(c, d, s, i, h, y, &lse);
                expect_near(what, r->y[s][i][h], y, DV, 4e-7);
                if (lse > -INFINITY)
                    expect_near(what, &r->lse[s][i][h], &lse, 1, 1e-6 + 1e-7 * fabs(lse));
                else
                    assert_true(r->lse[s][i][h] == -INFINITY);
            }
    mem_free(r);
}

static void expect_same(const attention_case *a, const attention_case *b, const char *what) {
    attention_result *x = mem_alloc(sizeof *x), *y = mem_alloc(sizeof *y);
    attend(a, data_of(18), x);
    attend(b, data_of(18), y);
    expect_same_bits(what, &x->y[0][0][0][0], &y->y[0][0][0][0], sizeof x->y / 4);
    expect_same_bits(what, &x->lse[0][0][0], &y->lse[0][0][0], sizeof x->lse / 4);
    mem_free(x);
    mem_free(y);
}

CASE(every_mask_and_score_follows_the_definition) {
    static const struct {
        const char *name;
        attention_case c;
    } table[] = {
        {"causal", {.causal = 1}},
        {"bidirectional", {.causal = 0}},
        {"window", {.causal = 1, .window = 5}},
        {"window of one", {.causal = 1, .window = 1}},
        {"window, not causal", {.window = 3}},
        {"softcap", {.causal = 1, .softcap = 1.5f}},
        {"slopes", {.causal = 1, .slopes = 1}},
        {"slopes, not causal", {.slopes = 1}},
        {"bias", {.causal = 1, .bias = 1}},
        {"bias, not causal", {.bias = 1}},
        {"sinks", {.causal = 1, .sinks = 1}},
        {"sinks and window", {.causal = 1, .window = 2, .sinks = 1}},
        {"all", {.causal = 1, .window = 7, .softcap = 2, .slopes = 1, .bias = 1, .sinks = 1}}};
    for (int i = 0; i < COUNT(table); i++) {
        attention_case c = mixed;
        c.causal = table[i].c.causal;
        c.window = table[i].c.window;
        c.softcap = table[i].c.softcap;
        c.slopes = table[i].c.slopes;
        c.bias = table[i].c.bias;
        c.sinks = table[i].c.sinks;
        expect_definition(&c, table[i].name);
    }
}

CASE(heads_share_keys_by_group) {
    attention_case c = mixed;
    c.group = 4; /* MQA: kv head 0 serves all, head 1 nobody */
    expect_definition(&c, "multi-query");
    c.group = 3;
    c.head0 = 1; /* this rank starts in the middle of a group: 0 0 1 1 */
    expect_definition(&c, "head0");
    c.group = 8;
    c.head0 = 8;
    expect_definition(&c, "another rank's group");
}

CASE(a_query_that_sees_no_key_gives_zeros) {
    attention_case c = mixed;
    attention_result *r = mem_alloc(sizeof *r);
    c.keys[1] = 0;
    c.keys[2] = 3; /* with a window of 2, later queries see nothing */
    c.window = 2;
    expect_definition(&c, "nothing visible");
    attend(&c, data_of(17), r);
    for (int e = 0; e < DV; e++)
        assert_true(r->y[1][8][0][e] == 0 && r->y[2][7][3][e] == 0);
    c.sinks = 1;
    expect_definition(&c, "only the sink");
    mem_free(r);
}

CASE(pages_and_layouts_do_not_change_a_bit) {
    attention_case own = mixed, paged;
    own.pos[0] = own.pos[1] = 0; /* self-attention only: all keys are queries of this step */
    own.queries[0] = own.keys[0] = 17;
    own.queries[1] = own.keys[1] = 13;
    own.softcap = 3;
    own.slopes = 1;
    paged = own;
    own.paged = 0;
    expect_same(&own, &paged, "pages");
    paged.shuffle = 99;
    expect_same(&own, &paged, "shuffled pages");
    paged.transposed = 1;
    expect_same(&own, &paged, "transposed pages");
}

CASE(chunks_of_work_do_not_change_a_bit) {
    for (int chunk = 1; chunk < 10; chunk++) {
        attention_case c = mixed;
        c.chunk = chunk;
        expect_same(&mixed, &c, "chunk");
    }
}

/* A prefill of 20 in one step, then in steps of `n`, each with the keys known by then. */
CASE(steps_of_a_prefill_do_not_change_a_bit) {
    const attention_data *d = data_of(19);
    attention_case whole = mixed;
    attention_result *x = mem_alloc(sizeof *x), *y = mem_alloc(sizeof *y);
    whole.seqs = 1;
    whole.pos[0] = 0;
    whole.queries[0] = whole.keys[0] = 20;
    whole.window = 9;
    attend(&whole, d, x);
    for (int n = 1; n < 8; n += 2) {
        for (int at = 0; at < 20; at += n) {
            attention_case part = whole;
            part.pos[0] = at;
            part.queries[0] = 20 - at < n ? 20 - at : n;
            part.keys[0] = at + part.queries[0];
            attend(&part, d, y);
        }
        expect_same_bits("steps", &x->y[0][0][0][0], &y->y[0][0][0][0], 20 * HEADS * DV);
    }
    mem_free(x);
    mem_free(y);
}

CASE(q_k_and_v_may_be_views_of_one_buffer) {
    enum { T = 6, W = 3 * D };
    float fused[T][W], q[T][D], k[T][D], v[T][D], y[2][T][D];
    int32_t qstart[2] = {0, T}, qpos = 0, kvlen = T, work[4] = {0, 0, T, 0}, nwork = 1;
    fill_random(&fused[0][0], T * W, 5);
    for (int t = 0; t < T; t++)
        for (int e = 0; e < D; e++) {
            q[t][e] = fused[t][e];
            k[t][e] = fused[t][D + e];
            v[t][e] = fused[t][2 * D + e];
        }
    weft_args a = {0};
    weft_attention_args *s = &a.attention;
    s->q = view(WEFT_F32, q, DIMS(T, 1, D));
    s->k = view(WEFT_F32, k, DIMS(T, 1, D));
    s->v = view(WEFT_F32, v, DIMS(T, 1, D));
    s->qstart = view(WEFT_I32, qstart, DIMS(2));
    s->qpos = view(WEFT_I32, &qpos, DIMS(1));
    s->kvlen = view(WEFT_I32, &kvlen, DIMS(1));
    s->work = view(WEFT_I32, work, DIMS(1, 4));
    s->nwork = view(WEFT_I32, &nwork, DIMS(1));
    s->y = view(WEFT_F32, y[0], DIMS(T, 1, D));
    s->scale = 1;
    s->group = 1;
    run(WEFT_OP_attention, &a);
    s->q.data = fused[0];
    s->k.data = fused[0] + D;
    s->v.data = fused[0] + 2 * D;
    s->q.stride[0] = s->k.stride[0] = s->v.stride[0] = W;
    s->y.data = y[1];
    run(WEFT_OP_attention, &a);
    expect_same_bits("fused", &y[0][0][0], &y[1][0][0], T * D);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mask_and_score_follows_the_definition),
        cmocka_unit_test(heads_share_keys_by_group),
        cmocka_unit_test(a_query_that_sees_no_key_gives_zeros),
        cmocka_unit_test(pages_and_layouts_do_not_change_a_bit),
        cmocka_unit_test(chunks_of_work_do_not_change_a_bit),
        cmocka_unit_test(steps_of_a_prefill_do_not_change_a_bit),
        cmocka_unit_test(q_k_and_v_may_be_views_of_one_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
