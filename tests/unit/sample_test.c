/* SPDX-License-Identifier: Apache-2.0
 * The sampling chain: Hugging Face's processors in float64 (golden/sampling.json), brute force over
 * a sorted vocabulary, and the definition of the draw. */
#include "tests/unit/rig.h"

#include "host/base/file.h"
#include "host/base/json.h"
#include "weft/rng.h"
#include <stdio.h>

enum { MAX_HISTORY = 256, MAX_BIAS = 8, SETS = 256, ROWS = 256 };

/* One step of the sampler: every row has a slot of its own. */
typedef struct {
    int rows, vocab;
    float *logits, *probs, *bias, *logprob, *top_logprob;
    int32_t *history, *bias_id, *id, *last, *top_id;
    weft_sample_params *params;
    weft_args args;
} sampler;

static const weft_sample_params neutral = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};

static void sampler_views(sampler *s) {
    weft_sample_args *a = &s->args.sample;
    int64_t rows = s->rows, vocab = s->vocab;
    a->logits = view(WEFT_F32, s->logits, DIMS(rows, vocab));
    a->params = view(WEFT_I32, s->params, DIMS(rows, WEFT_SAMPLE_WORDS));
    a->bias_id = view(WEFT_I32, s->bias_id, DIMS(rows, MAX_BIAS));
    a->bias = view(WEFT_F32, s->bias, DIMS(rows, MAX_BIAS));
    a->id = view(WEFT_I32, s->id, DIMS(rows));
    a->logprob = view(WEFT_F32, s->logprob, DIMS(rows));
    a->top_id = view(WEFT_I32, s->top_id, DIMS(rows, WEFT_TOP_LOGPROBS));
    a->top_logprob = view(WEFT_F32, s->top_logprob, DIMS(rows, WEFT_TOP_LOGPROBS));
    a->probs = view(WEFT_F32, s->probs, DIMS(rows, vocab));
    a->history = view(WEFT_I32, s->history, DIMS(rows, MAX_HISTORY));
    a->last = view(WEFT_I32, s->last, DIMS(rows));
}

static sampler *sampler_new(int rows, int vocab) {
    sampler *s = mem_alloc(sizeof *s);
    size_t r = (size_t)rows, v = (size_t)vocab;
    s->rows = rows;
    s->vocab = vocab;
    s->logits = mem_alloc(r * v * 4);
    s->probs = mem_alloc(r * v * 4);
    s->bias = mem_alloc(r * MAX_BIAS * 4);
    s->bias_id = mem_alloc(r * MAX_BIAS * 4);
    s->history = mem_alloc(r * MAX_HISTORY * 4);
    s->logprob = mem_alloc(r * 4);
    s->id = mem_alloc(r * 4);
    s->last = mem_alloc(r * 4);
    s->top_id = mem_alloc(r * WEFT_TOP_LOGPROBS * 4);
    s->top_logprob = mem_alloc(r * WEFT_TOP_LOGPROBS * 4);
    s->params = mem_alloc(r * sizeof *s->params);
    for (int i = 0; i < rows; i++) {
        s->params[i] = neutral;
        s->params[i].slot = rows - 1 - i; /* not the row's own number */
        s->last[i] = -7;
    }
    sampler_views(s);
    return s;
}

static void sampler_free(sampler *s) {
    void *all[] = {s->logits, s->probs, s->bias,   s->bias_id,     s->history, s->logprob,
                   s->id,     s->last,  s->top_id, s->top_logprob, s->params,  s};
    for (int i = 0; i < COUNT(all); i++)
        mem_free(all[i]);
}

static void sampler_run(sampler *s) {
    run(WEFT_OP_sample, &s->args);
}

/* ---- the golden file ---- */

typedef struct {
    float logits[64];
    int32_t history[MAX_HISTORY];
    int history_len, prompt_len;
} golden_row;

typedef struct {
    weft_sample_params p;
    int32_t bias_id[MAX_BIAS];
    float bias[MAX_BIAS];
} golden_set;

typedef struct {
    golden_row row[ROWS];
    golden_set set[SETS];
    int rows, sets, cases, within;
    double worst;
} golden;

static float read_logit(json *j) {
    if (json_peek(j) == JSON_NUMBER)
        return (float)json_double(j);
    json_str s = json_string(j);
    return json_is(s, "-inf") ? -INFINITY : json_is(s, "inf") ? INFINITY : NAN;
}

static void read_row(json *j, golden_row *r) {
    int n = 0;
    json_object(j);
    for (json_str key; json_key(j, &key);)
        if (json_is(key, "logits"))
            for (json_array(j); json_item(j); n++)
                r->logits[n < 64 ? n : 0] = read_logit(j);
        else if (json_is(key, "history"))
            for (json_array(j); json_item(j); r->history_len++)
                r->history[r->history_len % MAX_HISTORY] = (int32_t)json_int(j, 0, 63);
        else if (json_is(key, "prompt_len"))
            r->prompt_len = (int)json_int(j, 0, MAX_HISTORY);
        else
            json_skip(j);
    assert_int_equal(n, 64);
    assert_in_range(r->history_len, 0, MAX_HISTORY - 1);
}

static void read_bias(json *j, golden_set *s) {
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        int i = s->p.n_bias++ % MAX_BIAS;
        s->bias_id[i] = (int32_t)strtol(key.s, NULL, 10);
        s->bias[i] = (float)json_double(j);
    }
    assert_in_range(s->p.n_bias, 0, MAX_BIAS);
}

static void read_set(json *j, golden_set *s) {
    s->p = neutral;
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        struct {
            const char *name;
            float *at;
        } floats[] = {{"temperature", &s->p.temperature},
                      {"top_p", &s->p.top_p},
                      {"min_p", &s->p.min_p},
                      {"typical_p", &s->p.typical_p},
                      {"repetition_penalty", &s->p.repetition_penalty},
                      {"frequency_penalty", &s->p.frequency_penalty},
                      {"presence_penalty", &s->p.presence_penalty}};
        float *at = NULL;
        for (int i = 0; i < COUNT(floats); i++)
            at = json_is(key, floats[i].name) ? floats[i].at : at;
        if (at)
            *at = (float)json_double(j);
        else if (json_is(key, "top_k"))
            s->p.top_k = (int32_t)json_int(j, 0, INT32_MAX);
        else if (json_is(key, "no_repeat_ngram_size"))
            s->p.no_repeat_ngram = (int32_t)json_int(j, 0, INT32_MAX);
        else if (json_is(key, "logit_bias"))
            read_bias(j, s);
        else
            fail_msg("unknown parameter %.*s", (int)key.n, key.s);
    }
}

typedef struct {
    int row, set;
    bool masked, tie, close;
    double probs[64];
} golden_case;

static void read_case(json *j, golden_case *c) {
    int n = 0;
    memset(c, 0, sizeof *c);
    json_object(j);
    for (json_str key; json_key(j, &key);)
        if (json_is(key, "row"))
            c->row = (int)json_int(j, 0, ROWS - 1);
        else if (json_is(key, "set"))
            c->set = (int)json_int(j, 0, SETS - 1);
        else if (json_is(key, "ambiguous_tie"))
            c->tie = json_bool(j);
        else if (json_is(key, "threshold_within"))
            c->close = json_double(j) < 1e-7;
        else if (json_is(key, "probs") && json_peek(j) == JSON_NULL)
            c->masked = (json_null(j), true);
        else if (json_is(key, "probs"))
            for (json_array(j); json_item(j); n++)
                c->probs[n % 64] = json_double(j);
        else
            json_skip(j);
    assert_int_equal(n, c->masked ? 0 : 64);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double farthest(const float *got, const golden_case *c) {
    double g[64], w[64], worst = 0;
    for (int i = 0; i < 64; i++) {
        g[i] = got[i];
        w[i] = c->probs[i];
    }
    if (c->tie) {
        qsort(g, 64, sizeof *g, by_value);
        qsort(w, 64, sizeof *w, by_value);
    }
    for (int i = 0; i < 64; i++)
        worst = fabs(g[i] - w[i]) > worst ? fabs(g[i] - w[i]) : worst;
    return worst;
}

static void check_case(golden *g, sampler *s, const golden_case *c) {
    const golden_row *r = &g->row[c->row];
    const golden_set *set = &g->set[c->set];
    memcpy(s->logits, r->logits, sizeof r->logits);
    memcpy(s->history, r->history, sizeof r->history);
    memcpy(s->bias_id, set->bias_id, sizeof set->bias_id);
    memcpy(s->bias, set->bias, sizeof set->bias);
    s->params[0] = set->p;
    s->params[0].history_len = r->history_len;
    s->params[0].prompt_len = r->prompt_len;
    sampler_run(s);
    double far = farthest(s->probs, c);
    if (c->masked ? s->id[0] != -1 : s->id[0] < 0 || (far > 1e-6 && !c->close))
        fail_msg("row %d, set %d: %g from the golden probabilities", c->row, c->set, far);
    g->within += c->close;
    g->worst = far > g->worst && !c->close ? far : g->worst;
    g->cases++;
}

static void read_golden(json *j, golden *g) {
    sampler *s = sampler_new(1, 64);
    json_object(j);
    for (json_str key; json_key(j, &key);)
        if (json_is(key, "rows"))
            for (json_array(j); json_item(j);)
                read_row(j, &g->row[g->rows++ % ROWS]);
        else if (json_is(key, "sets"))
            for (json_array(j); json_item(j);)
                read_set(j, &g->set[g->sets++ % SETS]);
        else if (json_is(key, "cases"))
            for (json_array(j); json_item(j);) {
                golden_case c;
                read_case(j, &c);
                check_case(g, s, &c);
            }
        else
            json_skip(j);
    sampler_free(s);
}

CASE(golden_probabilities) {
    char path[4096];
    arena a = {0};
    const char *text;
    size_t n;
    snprintf(path, sizeof path, "%s/golden/sampling.json", fixtures());
    if (!file_exists(path)) {
        print_message("%s is not there\n", path);
        skip();
    }
    golden *g = mem_alloc(sizeof *g);
    json *j = ARENA_NEW(&a, json, 1);
    assert_int_equal(file_read(path, 1 << 26, &a, &text, &n), WEFT_OK);
    json_init(j, "sampling.json", text, n, &a);
    read_golden(j, g);
    assert_int_equal(json_done(j), WEFT_OK);
    assert_int_equal(g->cases, g->rows * g->sets);
    print_message("%d cases, farthest %.2g, %d at a threshold\n", g->cases, g->worst, g->within);
    arena_fini(&a);
    mem_free(g);
}

/* ---- definitions ---- */

static const float small_logits[6] = {0.5f, 2.0f, -INFINITY, 2.0f, NAN, -1.0f};

CASE(greedy_takes_the_lowest_of_equals) {
    sampler *s = sampler_new(1, 6);
    memcpy(s->logits, small_logits, sizeof small_logits);
    s->params[0].temperature = 0;
    sampler_run(s);
    assert_int_equal(s->id[0], 1);
    for (int i = 0; i < 6; i++)
        assert_true(s->probs[i] == (i == 1));
    sampler_free(s);
}

CASE(nan_and_minus_infinity_are_never_drawn) {
    sampler *s = sampler_new(1, 6);
    memcpy(s->logits, small_logits, sizeof small_logits);
    sampler_run(s);
    double z = exp(0.5) + 2 * exp(2.0) + exp(-1.0);
    double want[6] = {exp(0.5) / z, exp(2.0) / z, 0, exp(2.0) / z, 0, exp(-1.0) / z};
    expect_near("probs", s->probs, want, 6, 1e-7);
    sampler_free(s);
}

CASE(nothing_to_draw_from_gives_minus_one) {
    sampler *s = sampler_new(3, 4);
    float rows[12] = {NAN,       NAN, NAN,       NAN, -INFINITY, -INFINITY,
                      -INFINITY, NAN, -INFINITY, 1,   -INFINITY, -INFINITY};
    memcpy(s->logits, rows, sizeof rows);
    s->params[1].temperature = 0;
    s->params[2].n_bias = 1;
    s->bias_id[0] = 1; /* row 2 has slot 0 */
    s->bias[0] = -INFINITY;
    s->history[0] = 3;
    for (int i = 0; i < 3; i++)
        s->params[i].history_len = 1;
    sampler_run(s);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(s->id[i], -1);
        assert_int_equal(s->last[i], -7);
        assert_int_equal(s->history[i * MAX_HISTORY + 1], 0);
    }
    for (int i = 0; i < 12; i++)
        assert_true(s->probs[i] == 0);
    sampler_free(s);
}

CASE(the_token_enters_its_slots_history) {
    sampler *s = sampler_new(2, 4);
    s->logits[2] = 50;
    s->logits[4 + 3] = 50;
    s->params[0].history_len = 5;
    s->params[1].history_len = MAX_HISTORY; /* full: only `last` is told */
    sampler_run(s);
    assert_int_equal(s->history[1 * MAX_HISTORY + 5], 2);
    assert_int_equal(s->last[1], 2);
    assert_int_equal(s->last[0], 3);
    assert_int_equal(s->id[0], 2);
    assert_int_equal(s->id[1], 3);
    for (int i = 0; i < MAX_HISTORY; i++)
        assert_int_equal(s->history[i], 0);
    sampler_free(s);
}

CASE(rows_past_the_true_number_are_left_alone) {
    sampler *s = sampler_new(3, 4);
    int32_t rows = 2;
    s->id[2] = 77;
    s->probs[8] = 5;
    s->args.sample.rows = view(WEFT_I32, &rows, DIMS(1));
    sampler_run(s);
    assert_int_equal(s->id[2], 77);
    assert_true(s->probs[8] == 5);
    assert_int_equal(s->last[0], -7);
    sampler_free(s);
}

/* The definition: the first id, ascending, at which the running sum of probabilities passes u. */
CASE(the_draw_inverts_the_cumulative_sum) {
    enum { DRAWS = 400, VOCAB = 50 };
    sampler *s = sampler_new(DRAWS, VOCAB);
    fill_random(s->logits, VOCAB, 11);
    for (int i = 0; i < DRAWS; i++) {
        memcpy(s->logits + (size_t)i * VOCAB, s->logits, VOCAB * 4);
        s->params[i].seed[0] = 5;
        s->params[i].seed[1] = 6;
        s->params[i].stream[0] = (uint32_t)i / 20;
        s->params[i].history_len = i % 20;
    }
    sampler_run(s);
    double count[VOCAB] = {0};
    for (int i = 0; i < DRAWS; i++) {
        weft_philox r = weft_philox4x32(5 | 6ull << 32, (uint64_t)i / 20, (uint64_t)i % 20);
        double u = (r.v[0] >> 8) / 16777216.0, sum = 0, before = 0;
        for (int k = 0; k <= s->id[i]; k++) {
            before = sum;
            sum += s->probs[k];
        }
        assert_true(before <= u + 1e-6 && u < sum + 1e-6);
        count[s->id[i]]++;
    }
    for (int k = 0; k < VOCAB; k++) { /* five standard deviations */
        double p = s->probs[k], mean = DRAWS * p;
        assert_true(fabs(count[k] - mean) <= 5 * sqrt(mean * (1 - p)) + 1);
    }
    sampler_free(s);
}

CASE(a_row_does_not_know_its_batch) {
    enum { N = 19, VOCAB = 333 };
    sampler *all = sampler_new(N, VOCAB), *one = sampler_new(1, VOCAB);
    fill_random(all->logits, (int64_t)N * VOCAB, 3);
    for (int i = 0; i < N; i++) {
        weft_sample_params *p = &all->params[i];
        p->temperature = 0.3f + 0.1f * (float)i;
        p->top_k = i % 3 ? 17 * i : 0;
        p->top_p = i % 4 ? 0.9f : 1;
        p->typical_p = i % 5 ? 1 : 0.8f;
        p->seed[0] = (uint32_t)i;
        p->n_top = 4;
    }
    sampler_run(all);
    for (int i = 0; i < N; i++) {
        memcpy(one->logits, all->logits + (size_t)i * VOCAB, VOCAB * 4);
        one->params[0] = all->params[i];
        one->params[0].slot = 0;
        sampler_run(one);
        assert_int_equal(one->id[0], all->id[i]);
        expect_same_bits("probs", one->probs, all->probs + (size_t)i * VOCAB, VOCAB);
        expect_same_bits("logprob", one->logprob, all->logprob + i, 1);
    }
    sampler_free(all);
    sampler_free(one);
}

CASE(logprobs_are_of_the_raw_logits) {
    sampler *s = sampler_new(1, 6);
    memcpy(s->logits, small_logits, sizeof small_logits);
    s->params[0].temperature = 0;
    s->params[0].n_bias = 1;
    s->bias_id[0] = 5;
    s->bias[0] = 100;
    s->params[0].n_top = 5;
    sampler_run(s);
    double z = log(exp(0.5) + 2 * exp(2.0) + exp(-1.0));
    double want = -1 - z, top[4] = {2 - z, 2 - z, 0.5 - z, -1 - z};
    int32_t ids[5] = {1, 3, 0, 5, -1};
    assert_int_equal(s->id[0], 5);
    expect_near("logprob", s->logprob, &want, 1, 1e-6);
    expect_near("top", s->top_logprob, top, 4, 1e-6);
    assert_memory_equal(s->top_id, ids, sizeof ids);
    assert_true(s->top_logprob[4] == -INFINITY);
    sampler_free(s);
}

/* After a b, a third "a" may not be followed by b again; a shorter history bans nothing. */
CASE(no_repeat_ngrams) {
    sampler *s = sampler_new(2, 6);
    int32_t history[5] = {1, 2, 3, 1, 4}, ab[4] = {1, 2, 5, 1};
    memcpy(s->history + MAX_HISTORY, ab, sizeof ab); /* row 0 */
    memcpy(s->history, history, sizeof history);     /* row 1 */
    s->params[0].history_len = 4;
    s->params[1].history_len = 5;
    s->params[0].no_repeat_ngram = 2;
    s->params[1].no_repeat_ngram = 6;
    sampler_run(s);
    for (int i = 0; i < 6; i++) {
        assert_true((s->probs[i] == 0) == (i == 2));
        assert_true(s->probs[6 + i] > 0);
    }
    sampler_free(s);
}

/* ---- brute force ---- */

typedef struct {
    double p;
    int id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : (x->id > y->id) - (x->id < y->id);
}

/* top-k, then top-p of what is left, over the fully sorted vocabulary. */
static void brute_force(const float *logits, int vocab, const weft_sample_params *p,
                        double *probs) {
    ranked *r = mem_alloc((size_t)vocab * sizeof *r);
    double total = 0, kept = 0;
    int n = 0;
    for (int i = 0; i < vocab; i++)
        r[i] = (ranked){logits[i], i};
    qsort(r, (size_t)vocab, sizeof *r, by_rank);
    int k = p->top_k > 0 && p->top_k < vocab ? p->top_k : vocab;
    while (k < vocab && r[k].p == r[k - 1].p)
        k++;
    double most = r[0].p;
    for (int i = 0; i < k; i++)
        total += r[i].p = exp((r[i].p - most) / (double)p->temperature);
    for (n = 0; n < k && (n == 0 || kept < (double)p->top_p * total); n++)
        kept += r[n].p;
    memset(probs, 0, (size_t)vocab * sizeof *probs);
    for (int i = 0; i < n; i++)
        probs[r[i].id] = r[i].p / kept;
    mem_free(r);
}

/* Hugging Face's TypicalLogitsWarper on probabilities, by a full sort. */
static void brute_typical(double *probs, int vocab, double mass) {
    ranked *r = mem_alloc((size_t)vocab * sizeof *r);
    double entropy = 0, seen = 0, total = 0;
    int n = 0, last = 0;
    for (int i = 0; i < vocab; i++)
        entropy -= probs[i] > 0 ? probs[i] * log(probs[i]) : 0;
    for (int i = 0; i < vocab; i++)
        if (probs[i] > 0)
            r[n++] = (ranked){-fabs(-log(probs[i]) - entropy), i};
    qsort(r, (size_t)n, sizeof *r, by_rank);
    for (; last < n - 1 && seen + probs[r[last].id] < mass; last++)
        seen += probs[r[last].id];
    for (int i = 0; i < n; i++)
        total += r[i].p < r[last].p ? (probs[r[i].id] = 0) : probs[r[i].id];
    for (int i = 0; i < vocab; i++)
        probs[i] /= total;
    mem_free(r);
}

CASE(large_vocabularies_agree_with_a_full_sort) {
    enum { VOCAB = 128256 };
    static const struct {
        float scale, temperature, top_p, typical_p;
        int top_k;
    } set[] = {{3, 1, 0.95f, 1, 0},        {3, 0.7f, 1, 1, 40},     {0.01f, 1, 0.9f, 1, 0},
               {0, 1, 0.5f, 1, 0},         {0, 2, 1, 1, 50},        {5, 0.2f, 0.9f, 1, 9},
               {1, 1, 0.999999f, 1, 0},    {2, 1, 0.9f, 1, 100000}, {2, 1, 1e-9f, 1, 300},
               {40, 1, 0.5f, 1, 1},        {3, 1, 1, 0.9f, 0},      {1, 2, 1, 0.2f, 0},
               {2, 1, 0.97f, 0.5f, 20000}, {0, 1, 1, 0.3f, 0}};
    sampler *s = sampler_new(COUNT(set), VOCAB);
    double *want = mem_alloc(VOCAB * sizeof *want);
    for (int i = 0; i < COUNT(set); i++) {
        float *x = s->logits + (size_t)i * VOCAB;
        fill_random(x, VOCAB, (uint64_t)i);
        for (int k = 0; k < VOCAB; k++)
            x[k] *= set[i].scale;
        s->params[i].temperature = set[i].temperature;
        s->params[i].top_p = set[i].top_p;
        s->params[i].top_k = set[i].top_k;
        s->params[i].typical_p = set[i].typical_p;
    }
    sampler_run(s);
    for (int i = 0; i < COUNT(set); i++) {
        brute_force(s->logits + (size_t)i * VOCAB, VOCAB, &s->params[i], want);
        if (set[i].typical_p < 1)
            brute_typical(want, VOCAB, (double)set[i].typical_p);
        expect_near("probs", s->probs + (size_t)i * VOCAB, want, VOCAB, 5e-8);
    }
    mem_free(want);
    sampler_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_probabilities),
        cmocka_unit_test(greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(nan_and_minus_infinity_are_never_drawn),
        cmocka_unit_test(nothing_to_draw_from_gives_minus_one),
        cmocka_unit_test(the_token_enters_its_slots_history),
        cmocka_unit_test(rows_past_the_true_number_are_left_alone),
        cmocka_unit_test(the_draw_inverts_the_cumulative_sum),
        cmocka_unit_test(a_row_does_not_know_its_batch),
        cmocka_unit_test(logprobs_are_of_the_raw_logits),
        cmocka_unit_test(no_repeat_ngrams),
        cmocka_unit_test(large_vocabularies_agree_with_a_full_sort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
