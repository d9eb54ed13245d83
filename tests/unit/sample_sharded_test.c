/* SPDX-License-Identifier: Apache-2.0
 * sample_sharded against sample: whatever the logits, the options and the number of ranks, every
 * rank writes to the bit what sample writes of the whole row; and what it sends for it. */
#include "host/run/comm.h"
#include "host/run/sched.h"
#include "tests/unit/unit.h"
#include "weft/rng.h"
#include "weft/sample_shard.h"
#include "weft/step.h"
#include <math.h>
#include <string.h>

enum { ROWS = 5, MAX_VOCAB = 1400, MAX_RANKS = 8, HISTORY = 40, BIAS = 4, BREAKERS = 8 };

/* What a sampler writes, and what it writes to. */
typedef struct {
    int32_t id[ROWS], last[ROWS], top_id[ROWS][WEFT_TOP_LOGPROBS], history[ROWS][HISTORY];
    float logprob[ROWS], top_logprob[ROWS][WEFT_TOP_LOGPROBS], mu[ROWS][HISTORY + 1];
} written;

typedef struct {
    int ranks;
    int32_t vocab, part;
    uint64_t draws; /* random numbers taken */
    float logits[ROWS][MAX_VOCAB], slice[MAX_RANKS][ROWS][MAX_VOCAB];
    weft_sample_params params[ROWS];
    int32_t bias_id[ROWS][BIAS], breaker[ROWS][MAX_VOCAB / 32 + 1 + BREAKERS];
    float bias[ROWS][BIAS];
    written begin, want, got[MAX_RANKS];
    comm_link *link[MAX_RANKS];
    comm end[MAX_RANKS];
    void *scratch[MAX_RANKS + 1];
} rig;

static uint32_t draw(rig *r, uint32_t n) {
    return weft_philox4x32(42, 7, r->draws++).v[0] % n;
}

static float uniform(rig *r) {
    return weft_philox_uniform(weft_philox4x32(42, 8, r->draws++).v[0]);
}

static weft_tensor of(int dtype, const void *data, int64_t rows, int64_t cols, int64_t stride) {
    weft_tensor t = weft_tensor_make(dtype, 2, (int64_t[]){rows, cols});
    t.stride[0] = stride;
    t.data = (void *)(uintptr_t)data;
    t.id = 1;
    return t;
}

static weft_tensor flat(int dtype, void *data) {
    weft_tensor t = weft_tensor_make(dtype, 1, (int64_t[]){ROWS});
    t.data = data;
    t.id = 1;
    return t;
}

/* ---- Rows ---- */

/* Spread, near each other, of few values, with holes: each has a way of its own to go wrong. */
static void make_row(rig *r, int row) {
    uint32_t kind = draw(r, 7);
    float spread = kind == 0 ? 20.0f : kind == 1 ? 0.01f : 4.0f;
    for (int i = 0; i < r->vocab; i++) {
        float v = (uniform(r) + uniform(r) + uniform(r) - 1.5f) * spread;
        if (kind == 2)
            v = floorf(v);
        if (kind == 6)
            v = floorf(3 * uniform(r));
        if (kind == 3 && draw(r, 4) == 0)
            v = draw(r, 2) ? -INFINITY : NAN;
        if (kind == 4)
            v = draw(r, 50) ? -INFINITY : v;
        r->logits[row][i] = v;
    }
    if (kind == 5 && draw(r, 3) == 0)
        for (int i = 0; i < r->vocab; i++)
            r->logits[row][i] = draw(r, 2) ? -INFINITY : NAN;
}

static void set_penalties(rig *r, weft_sample_params *p) {
    if (draw(r, 4) == 0)
        p->repetition_penalty = 0.5f + 1.5f * uniform(r);
    if (draw(r, 4) == 0)
        p->frequency_penalty = 2 * uniform(r) - 1;
    if (draw(r, 4) == 0)
        p->presence_penalty = 2 * uniform(r) - 1;
    if (draw(r, 6) == 0)
        p->no_repeat_ngram = 1 + (int32_t)draw(r, 3);
    if (draw(r, 4) == 0) {
        p->dry_multiplier = uniform(r) + 0.2f;
        p->dry_base = 1.75f;
        p->dry_allowed_length = 1 + (int32_t)draw(r, 2);
        p->dry_last_n = draw(r, 2) ? -1 : 10;
    }
}

static void set_cuts(rig *r, weft_sample_params *p) {
    static const int32_t few[] = {1, 3, 40, 64, 65, 200, 5000};
    if (draw(r, 2) == 0)
        p->top_k = few[draw(r, 7)];
    if (draw(r, 2) == 0)
        p->top_p = uniform(r) * (draw(r, 3) ? 1.0f : 0.2f) * (float)(draw(r, 5) > 0);
    if (draw(r, 3) == 0)
        p->min_p = draw(r, 4) ? uniform(r) * 0.2f : 1;
    if (draw(r, 6) == 0)
        p->typical_p = uniform(r);
    if (draw(r, 6) == 0)
        p->top_n_sigma = 3 * uniform(r);
    if (draw(r, 6) == 0) {
        p->xtc_probability = 0.7f;
        p->xtc_threshold = 0.3f * uniform(r);
    }
    if (draw(r, 10) == 0) {
        p->mirostat = 1 + (int32_t)draw(r, 2);
        p->mirostat_tau = 3;
        p->mirostat_eta = 0.1f;
    }
}

static void set_order(rig *r, weft_sample_params *p) {
    uint8_t all[WEFT_STAGES - 1];
    for (int i = 0; i < WEFT_STAGES - 1; i++)
        all[i] = (uint8_t)(i + 1);
    for (int i = WEFT_STAGES - 2; i > 0; i--) {
        uint32_t k = draw(r, (uint32_t)i + 1);
        uint8_t v = all[i];
        all[i] = all[k];
        all[k] = v;
    }
    int n = 1 + (int)draw(r, WEFT_STAGES - 1);
    memcpy(p->order, all, (size_t)n);
    p->order[n] = WEFT_STAGE_END;
}

static weft_sample_params make_params(rig *r, int row) {
    weft_sample_params p = {.slot = ROWS - 1 - row,
                            .temperature = draw(r, 3)   ? 0.3f + uniform(r)
                                           : draw(r, 2) ? 0
                                                        : 1,
                            .top_p = 1,
                            .typical_p = 1,
                            .repetition_penalty = 1,
                            .history_len = (int32_t)draw(r, HISTORY - 1),
                            .n_top = draw(r, 2) ? 0 : (int32_t)draw(r, WEFT_TOP_LOGPROBS + 1),
                            .n_bias = (int32_t)draw(r, BIAS),
                            .seed = {draw(r, 1000), 3},
                            .stream = {(uint32_t)row, 0}};
    p.prompt_len = p.history_len / 2;
    p.n_held = BIAS - p.n_bias;
    p.min_tokens = draw(r, 4) ? 0 : 1000;
    p.n_breaker = draw(r, 2) ? BREAKERS : 0;
    if (draw(r, 8) == 0) {
        p.dynatemp_range = 0.2f;
        p.dynatemp_exponent = 1;
    }
    set_penalties(r, &p);
    set_cuts(r, &p);
    if (draw(r, 3) == 0)
        set_order(r, &p);
    return p;
}

static void make_state(rig *r) {
    memset(&r->begin, 0, sizeof r->begin);
    memset(r->breaker, 0, sizeof r->breaker);
    for (int s = 0; s < ROWS; s++) {
        for (int i = 0; i < HISTORY; i++)
            r->begin.history[s][i] = (int32_t)draw(r, draw(r, 2) ? 6 : (uint32_t)r->vocab);
        for (int i = 0; i < HISTORY + 1; i++)
            r->begin.mu[s][i] = draw(r, 2) ? NAN : 4 * uniform(r);
        for (int i = 0; i < BIAS; i++) {
            r->bias_id[s][i] = (int32_t)draw(r, (uint32_t)r->vocab);
            r->bias[s][i] = draw(r, 4) ? 8 * uniform(r) - 4 : -INFINITY;
        }
        int32_t *several = r->breaker[s] + (r->vocab + 31) / 32;
        memcpy(several, (int32_t[]){2, 1, 2, 2, 3, 1}, 6 * sizeof(int32_t));
        r->breaker[s][0] = 1 << 5;
    }
}

/* ---- Both ways ---- */

static const weft_kernel *row_of(const weft_kernel *table, weft_op op) {
    const weft_kernel *k = table;
    while (k->op != op || !k->name) {
        assert_non_null(k->name);
        k++;
    }
    return k;
}

/* Fields that both ops have. */
#define FILL(a, r, w) \
    do { \
        int64_t breakers = ((r)->vocab + 31) / 32 + BREAKERS; \
        int64_t room = (int64_t)(sizeof(r)->breaker[0] / sizeof(int32_t)); \
        (a)->params = of(WEFT_I32, (r)->params, ROWS, WEFT_SAMPLE_WORDS, WEFT_SAMPLE_WORDS); \
        (a)->bias_id = of(WEFT_I32, (r)->bias_id, ROWS, BIAS, BIAS); \
        (a)->bias = of(WEFT_F32, (r)->bias, ROWS, BIAS, BIAS); \
        (a)->breaker = of(WEFT_I32, (r)->breaker, ROWS, breakers, room); \
        (a)->id = flat(WEFT_I32, (w)->id); \
        (a)->logprob = flat(WEFT_F32, (w)->logprob); \
        (a)->top_id = of(WEFT_I32, (w)->top_id, ROWS, WEFT_TOP_LOGPROBS, WEFT_TOP_LOGPROBS); \
        (a)->top_logprob = of(WEFT_F32, (w)->top_logprob, ROWS, WEFT_TOP_LOGPROBS, \
                              WEFT_TOP_LOGPROBS); \
        (a)->history = of(WEFT_I32, (w)->history, ROWS, HISTORY, HISTORY); \
        (a)->last = flat(WEFT_I32, (w)->last); \
        (a)->mu = of(WEFT_F32, (w)->mu, ROWS, HISTORY + 1, HISTORY + 1); \
    } while (0)

static void serial(weft_stream *s, int64_t n, int64_t grain, weft_range_fn *fn, const void *ctx) {
    (void)s;
    for (int64_t i = 0; i < n; i += grain)
        fn(ctx, i, i + grain < n ? i + grain : n, 0);
}

static void run_step(rig *r, weft_step *s, int place) {
    r->scratch[place] = realloc(r->scratch[place], s->kernel->scratch(&s->args));
    s->scratch = r->scratch[place];
    assert_true(s->kernel->ok(&s->args));
    weft_stream stream = {.parallel = serial};
    s->kernel->run(s, &stream);
}

static void sample_whole_rows(rig *r) {
    weft_step s = {.kernel = row_of(weft_kernels_ref, WEFT_OP_sample)};
    weft_sample_args *a = &s.args.sample;
    r->want = r->begin;
    a->logits = of(WEFT_F32, r->logits, ROWS, r->vocab, MAX_VOCAB);
    FILL(a, r, &r->want);
    run_step(r, &s, MAX_RANKS);
}

static void sample_slices(void *ctx, int rank) {
    rig *r = ctx;
    weft_step s = {.kernel = row_of(comm_host_kernels, WEFT_OP_sample_sharded),
                   .state = &r->end[rank]};
    weft_sample_sharded_args *a = &s.args.sample_sharded;
    r->got[rank] = r->begin;
    a->logits = of(WEFT_F32, r->slice[rank], ROWS, r->part, MAX_VOCAB);
    FILL(a, r, &r->got[rank]);
    a->vocab = r->vocab;
    a->ranks = r->ranks;
    run_step(r, &s, rank);
}

/* Columns past the vocabulary hold what must not matter. */
static void cut(rig *r) {
    r->part = (r->vocab + r->ranks - 1) / r->ranks;
    for (int k = 0; k < r->ranks; k++)
        for (int row = 0; row < ROWS; row++)
            for (int32_t i = 0; i < r->part; i++) {
                int32_t id = k * r->part + i;
                r->slice[k][row][i] = id < r->vocab ? r->logits[row][id] : 1e30f;
            }
}

static void open_ranks(rig *r, int ranks) {
    static const int all[MAX_RANKS] = {0, 1, 2, 3, 4, 5, 6, 7};
    r->ranks = ranks;
    assert_int_equal(comm_local_open(ranks, 0, r->link), WEFT_OK);
    for (int k = 0; k < ranks; k++)
        r->end[k] = comm_group(r->link[k], WEFT_GROUP_TP, ranks, all);
}

static void close_ranks(rig *r) {
    for (int k = 0; k < r->ranks; k++)
        comm_close(r->link[k]);
}

/* Bytes that rank 0 sent. */
static int64_t compare(rig *r, sched_team *team) {
    uint64_t before = r->end[0].sent;
    cut(r);
    sample_whole_rows(r);
    sched_team_run(team, sample_slices, r);
    for (int k = 0; k < r->ranks; k++)
        assert_memory_equal(&r->got[k], &r->want, sizeof r->want);
    return (int64_t)(r->end[0].sent - before);
}

static int64_t planned(const rig *r) {
    int64_t row = (int64_t)(sizeof(sample_offer) + sizeof(sample_share));
    return ROWS * (r->ranks - 1) * row;
}

static void free_rig(rig *r) {
    for (int k = 0; k <= MAX_RANKS; k++)
        free(r->scratch[k]);
    free(r);
}

/* Each test's share of every number of ranks. */
static void on_ranks(void (*test)(rig *, sched_team *)) {
    for (int ranks = 1; ranks <= MAX_RANKS; ranks = ranks < 4 ? ranks + 1 : ranks * 2) {
        rig *r = calloc(1, sizeof *r);
        sched_team *team;
        open_ranks(r, ranks);
        assert_int_equal(sched_team_open(ranks, &team), WEFT_OK);
        test(r, team);
        sched_team_close(team);
        close_ranks(r);
        free_rig(r);
    }
}

static void random_rows(rig *r, sched_team *team) {
    static const int32_t sizes[] = {3, 9, 60, 64, 131, 500, 1400};
    int rounds = getenv("WEFT_LONG") ? 3000 : 150;
    r->draws = (uint64_t)r->ranks << 40;
    for (int n = 0; n < rounds; n++) {
        r->vocab = sizes[draw(r, 7)];
        for (int row = 0; row < ROWS; row++) {
            make_row(r, row);
            r->params[row] = make_params(r, row);
        }
        make_state(r);
        compare(r, team);
    }
}

CASE(every_option_on_every_number_of_ranks) {
    on_ranks(random_rows);
}

static void distinct_rows(rig *r) {
    r->vocab = 1400;
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < r->vocab; i++)
            r->logits[row][i] = (float)((i * 577 + row * 31) % 1400) * 0.01f;
        r->params[row] = (weft_sample_params){
            .slot = row, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .temperature = 1};
    }
    make_state(r);
}

/* What cuts to the likeliest few is exactly the plan's bytes; a draw from all adds one verdict a
 * row; what needs the entropy gathers its row. */
static void bytes_by_option(rig *r, sched_team *team) {
    int others = r->ranks - 1;
    for (int kind = 0; kind < 5; kind++) {
        int64_t more = 0;
        distinct_rows(r);
        for (int row = 0; row < ROWS; row++) {
            weft_sample_params *p = &r->params[row];
            p->temperature = kind == 0 ? 0 : 0.8f;
            p->top_k = kind == 1 ? 40 : 0;
            p->top_p = kind == 2 ? 0.3f : 1;
            p->typical_p = kind == 4 ? 0.5f : 1;
        }
        int64_t sent = compare(r, team);
        if (kind == 3)
            more = ROWS * others * (int64_t)sizeof(sample_verdict);
        if (kind == 4)
            more = (int64_t)ROWS * others * r->part * 4;
        assert_int_equal(sent, planned(r) + more);
    }
}

CASE(bytes_are_the_plan_s) {
    on_ranks(bytes_by_option);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_option_on_every_number_of_ranks),
        cmocka_unit_test(bytes_are_the_plan_s),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
