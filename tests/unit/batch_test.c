/* SPDX-License-Identifier: Apache-2.0
 * The batch scheduler against one request at a time: whatever shares a step, however small the
 * budget and the KV pool, whoever is preempted, cancelled or late, every request ends once, with
 * the bits weft_generate gives it alone. Random settings by seed; WEFT_LONG=1 runs many more. */
#include "host/base/buf.h"
#include "host/serve/batch.h"
#include "host/serve/batch_plan.h"
#include "tests/unit/unit.h"
#include <stdio.h>

enum { JOBS = 48, CTX = 192, MOST_TOKENS = 150 };

static const char *const demo = "bench/models/demo";

typedef struct {
    weft_request req;
    weft_sampling sampling;
    int32_t ids[CTX];
    const char *stop[2], *regex[1];
    int32_t stop_id[1];
} order;

/* All that a request gives, as bytes: what must not depend on the company. */
typedef struct {
    buf seen;
    int ended, calls, cancel_after;
    batch_job *job;
    batch_result result;
    weft_status status;
} outcome;

static weft_engine *open_demo(weft_engine_options o) {
    weft_engine *e = NULL;
    o.ctx_size = CTX;
    if (weft_engine_open(demo, &o, &e) != WEFT_OK)
        fail_msg("%s", weft_error());
    return e;
}

/* ---- Requests ---- */

static weft_sampling some_sampling(uint64_t *seed) {
    weft_sampling s = weft_sampling_greedy();
    uint64_t kind = next_random(seed) % 5;
    s.seed = next_random(seed) % 1000;
    s.logprobs = (int32_t)(next_random(seed) % 4);
    if (kind >= 1) {
        s.temperature = 0.9f;
        s.top_k = 50;
        s.min_p = 0.01f;
    }
    if (kind >= 3) {
        s.repetition_penalty = 1.1f;
        s.presence_penalty = 0.2f;
        s.frequency_penalty = 0.1f;
        s.no_repeat_ngram = 3;
    }
    if (kind == 4) {
        s.mirostat = 1 + (int)(next_random(seed) % 2);
        s.mirostat_tau = 3;
    }
    return s;
}

/* Prompts begin like one another for as long as chance says. */
static void write_order(order *o, uint64_t *seed) {
    static const char *const texts[] = {"It was", "", "Mr. Darcy, said Elizabeth, with a smile",
                                        "\xc3\xa9t\xc3\xa9 and it"};
    static const char *const stops[] = {"Elizabeth", ". ", " and the", "!"};
    uint64_t kind = next_random(seed) % 4;
    int n = 1 + (int)(next_random(seed) % (next_random(seed) % 4 ? 40 : CTX));
    int same = (int)(next_random(seed) % (uint64_t)(n + 1));
    *o = (order){.sampling = some_sampling(seed)};
    for (int i = 0; i < n; i++)
        o->ids[i] = i < same ? 5 + i % 50 : (int32_t)(next_random(seed) % 500);
    o->req = (weft_request){.max_tokens = 1 + (int32_t)(next_random(seed) % MOST_TOKENS)};
    if (kind == 0) {
        o->req.prompt = texts[next_random(seed) % 4];
    } else {
        o->req.ids = o->ids;
        o->req.n_ids = (size_t)n;
    }
    if (kind == 1) {
        o->stop[0] = stops[next_random(seed) % 4];
        o->stop[1] = "qqq";
        o->req.n_stop = 2;
    }
    if (kind == 2) {
        o->regex[0] = "[aeiou]{3}|said";
        o->req.n_stop_regex = 1;
    }
    o->req.ignore_eos = next_random(seed) % 4 > 0;
}

/* The pointers into an order, which has come to rest. */
static const weft_request *request_of(order *o) {
    o->req.sampling = &o->sampling;
    o->req.stop = o->stop;
    o->req.stop_regex = o->regex;
    if (o->req.ids)
        o->req.ids = o->ids;
    return &o->req;
}

static bool on_token(void *user, const weft_token *t) {
    outcome *out = user;
    assert_int_equal(out->ended, 0);
    buf_add(&out->seen, &t->id, sizeof t->id);
    if (t->id >= 0)
        buf_add(&out->seen, &t->logprob, sizeof t->logprob);
    buf_add(&out->seen, t->text, t->n_text);
    buf_putc(&out->seen, 0);
    for (int i = 0; i < t->n_top; i++) {
        buf_add(&out->seen, &t->top_id[i], sizeof *t->top_id);
        buf_add(&out->seen, &t->top_logprob[i], sizeof *t->top_logprob);
    }
    return ++out->calls != out->cancel_after;
}

static void on_done(void *user, batch_job *job, weft_status s, const batch_result *r) {
    outcome *out = user;
    assert_ptr_equal(job, out->job);
    assert_int_equal(out->ended++, 0);
    out->status = s;
    out->result = *r;
}

static void start(outcome *out, int n) {
    for (int i = 0; i < n; i++) {
        out[i] = (outcome){0};
        buf_init(&out[i].seen, 1 << 20);
    }
}

static void finish(outcome *out, int n) {
    for (int i = 0; i < n; i++)
        buf_fini(&out[i].seen);
}

static void alone(order *o, outcome *out, int n) {
    weft_engine *e = open_demo((weft_engine_options){.max_seqs = 1});
    start(out, n);
    for (int i = 0; i < n; i++) {
        out[i].status = weft_generate(e, request_of(&o[i]), on_token, &out[i],
                                      &out[i].result.result);
        assert_int_equal(out[i].status, WEFT_OK);
    }
    weft_engine_close(e);
}

/* ---- Together ---- */

typedef struct {
    int max_seqs, ubatch, budget, running, threads, pages;
    bool cache;
    int late;   /* a new request every so many steps; 0: all at once */
    int cancel; /* every so many are cancelled; 0: none */
} setting;

static setting some_setting(uint64_t *seed) {
    static const int many[] = {2, 3, 5, 16, 40}, budgets[] = {1, 3, 16, 50, 200, 0};
    setting s = {.max_seqs = many[next_random(seed) % 5],
                 .ubatch = budgets[next_random(seed) % 6],
                 .budget = budgets[next_random(seed) % 6],
                 .threads = 1 + (int)(next_random(seed) % 2),
                 .cache = next_random(seed) % 3 > 0,
                 .late = next_random(seed) % 2 ? 0 : (int)(next_random(seed) % 4),
                 .cancel = next_random(seed) % 3 ? 0 : 5};
    int least = CTX / KV_PAGE, all = least * s.max_seqs;
    s.running = next_random(seed) % 3 ? 0 : 1 + (int)(next_random(seed) % (uint64_t)s.max_seqs);
    s.pages = next_random(seed) % 3 ? least + (int)(next_random(seed) % 6) : (least + all) / 2;
    return s;
}

static void describe(const setting *s, uint64_t seed, char what[256]) {
    snprintf(what, 256,
             "seed %llu: max_seqs %d ubatch %d budget %d running %d threads %d pages %d cache %d "
             "late %d cancel %d",
             (unsigned long long)seed, s->max_seqs, s->ubatch, s->budget, s->running, s->threads,
             s->pages, s->cache, s->late, s->cancel);
}

/* The pool's books are in order after every step, and whole at the end. */
static void check_pool(const weft_engine *e, bool at_end) {
    int available = 0;
    for (int i = e->kv.page[e->kv.pages].after; i != e->kv.pages; i = e->kv.page[i].after)
        available += e->kv.page[i].refs == 0;
    assert_int_equal(available, e->kv.free_count);
    if (at_end)
        assert_int_equal(available, e->kv.pages);
}

/* The step that was planned adds up. */
static void check_plan(const batch *b) {
    int32_t pages = 0, tokens = 0;
    for (int i = 0; i < b->nparts; i++) {
        pages += b->claim[i];
        tokens += b->part[i].take;
    }
    assert_int_equal(b->claimed, pages);
    assert_int_equal(b->budget - b->left, tokens);
    assert_in_range(tokens, b->nparts, b->budget);
}

static void together(order *o, outcome *out, int n, const setting *s, batch_stats *stats) {
    weft_engine *e = open_demo((weft_engine_options){.max_seqs = s->max_seqs,
                                                     .ubatch_size = s->ubatch,
                                                     .threads = s->threads,
                                                     .kv_tokens = (int64_t)s->pages * KV_PAGE,
                                                     .prefix_cache = s->cache});
    batch *b = batch_open(e, &(batch_options){.running = s->running, .budget = s->budget});
    int submitted = 0, steps = 0;
    start(out, n);
    while (submitted < n || !batch_idle(b)) {
        for (; submitted < n && (s->late == 0 || submitted <= steps / s->late); submitted++) {
            outcome *mine = &out[submitted];
            batch_call call = {request_of(&o[submitted]), on_token, on_done, mine};
            mine->cancel_after = s->cancel && submitted % s->cancel == 2 ? 1 + submitted % 7 : 0;
            assert_int_equal(batch_submit(b, &call, &mine->job), WEFT_OK);
        }
        if (s->cancel && steps % 3 == 0 && steps / 3 < submitted && steps / 3 % s->cancel == 1 &&
            !out[steps / 3].ended)
            batch_cancel(out[steps / 3].job);
        if (batch_step(b) != WEFT_OK)
            fail_msg("%s", weft_error());
        check_pool(e, false);
        check_plan(b);
        assert_true(++steps < 100000);
    }
    batch_describe(b, stats);
    batch_close(b);
    check_pool(e, true);
    weft_engine_close(e);
}

/* What a cancelled request gave is how it would have gone on. */
static void expect_same(const char *what, const outcome *want, const outcome *got, int n) {
    for (int i = 0; i < n; i++) {
        const weft_result *a = &want[i].result.result, *b = &got[i].result.result;
        bool cut = b->finish == WEFT_FINISH_CANCELLED, held_back;
        if (got[i].ended != 1 || got[i].status != WEFT_OK)
            fail_msg("%s: job %d ended %d times, status %d", what, i, got[i].ended, got[i].status);
        held_back = cut && got[i].cancel_after == 0;
        size_t len = got[i].seen.len;
        if (held_back && len > want[i].seen.len)
            len = want[i].seen.len;
        if ((!cut && (len != want[i].seen.len || a->finish != b->finish ||
                      a->n_generated != b->n_generated || a->n_prompt != b->n_prompt)) ||
            (!held_back && memcmp(want[i].seen.data, got[i].seen.data, len) != 0))
            fail_msg("%s: job %d: %d tokens, finish %d; alone %d, %d", what, i, b->n_generated,
                     b->finish, a->n_generated, a->finish);
    }
}

CASE(company_changes_no_bit) {
    order *o = calloc(JOBS, sizeof *o);
    outcome want[JOBS], got[JOBS];
    bool long_run = getenv("WEFT_LONG") != NULL;
    int64_t preempted = 0, cached = 0;
    for (uint64_t seed = 1; seed <= (long_run ? 100 : 12); seed++) {
        uint64_t r = seed;
        char what[256];
        batch_stats stats;
        setting s = some_setting(&r);
        describe(&s, seed, what);
        if (seed % 4 == 1) {
            for (int i = 0; i < JOBS; i++)
                write_order(&o[i], &r);
            alone(o, want, JOBS);
        }
        together(o, got, JOBS, &s, &stats);
        expect_same(what, want, got, JOBS);
        assert_int_equal(got[0].result.preempted, 0); /* the oldest of all */
        finish(got, JOBS);
        if (seed % 4 == 0)
            finish(want, JOBS);
        preempted += stats.preempted;
        cached += stats.cached;
        assert_true(s.cache || stats.cached == 0);
    }

    assert_true(preempted > 20); /* the settings do what they are for */
    assert_true(cached > 500);
    free(o);
}

/* ---- Fairness ---- */

/* Short requests without end: each that ends is followed by another. */
typedef struct {
    batch *b;
    order o;
    outcome out;
    bool stop;
    int *ended;
} stream;

static void again(void *user, batch_job *job, weft_status s, const batch_result *r);

static void next_of(stream *s) {
    batch_call call = {request_of(&s->o), NULL, again, s};
    assert_int_equal(batch_submit(s->b, &call, &s->out.job), WEFT_OK);
}

static void again(void *user, batch_job *job, weft_status st, const batch_result *r) {
    stream *s = user;
    (void)r;
    assert_ptr_equal(job, s->out.job);
    assert_int_equal(st, WEFT_OK);
    ++*s->ended;
    if (!s->stop)
        next_of(s);
}

/* A long request among more short ones than there is room for ends when it would have among as many
 * as fit, whatever comes after it. */
CASE(nobody_starves) {
    enum { STREAMS = 12, LONG_TOKENS = 100 };
    static const int budgets[] = {1, 3, 16, 64};
    for (int k = 0; k < 4; k++) {
        weft_engine *e = open_demo((weft_engine_options){.max_seqs = 4,
                                                         .ubatch_size = 64,
                                                         .kv_tokens = k % 2 ? 4 * CTX : CTX,
                                                         .prefix_cache = k % 2});
        batch *b = batch_open(e, &(batch_options){.budget = budgets[k]});
        int ended = 0, steps = 0;
        stream s[STREAMS];
        for (int i = 0; i < STREAMS; i++) {
            s[i] = (stream){.b = b, .ended = &ended};
            s[i].o.req = (weft_request){.max_tokens = 20, .ignore_eos = true, .n_ids = 33};
            s[i].o.req.ids = s[i].o.ids;
            for (int t = 0; t < 33; t++)
                s[i].o.ids[t] = (i * 37 + t * 11) % 500;
            next_of(&s[i]);
        }
        order o = {.req = {.max_tokens = LONG_TOKENS, .ignore_eos = true, .n_ids = 90}};
        outcome out;
        start(&out, 1);
        o.req.ids = o.ids;
        batch_call call = {request_of(&o), on_token, on_done, &out};
        assert_int_equal(batch_submit(b, &call, &out.job), WEFT_OK);
        while (!out.ended && steps++ < 100000)
            assert_int_equal(batch_step(b), WEFT_OK);
        /* those before it and its own, were they alone one behind the other; twice that */
        int tokens = STREAMS * 53 + 190;
        assert_true(out.ended);
        assert_int_equal(out.result.result.n_generated, LONG_TOKENS);
        if (steps > 2 * tokens)
            fail_msg("budget %d: %d steps", budgets[k], steps);
        for (int i = 0; i < STREAMS; i++)
            s[i].stop = true;
        while (!batch_idle(b))
            assert_int_equal(batch_step(b), WEFT_OK);
        assert_true(ended >= STREAMS);
        finish(&out, 1);
        batch_close(b);
        weft_engine_close(e);
    }
}

CASE(what_cannot_run_is_refused) {
    weft_engine *e = open_demo((weft_engine_options){.max_seqs = 2, .kv_tokens = 4 * KV_PAGE});
    batch *b = batch_open(e, &(batch_options){0});
    order o = {.req = {.n_ids = CTX}};
    outcome out[2];
    start(out, 2);
    batch_call call = {request_of(&o), on_token, on_done, &out[0]};
    batch_job *none = NULL;
    o.req.ids = o.ids;
    o.req.n_ids = CTX + 1;
    assert_int_equal(batch_submit(b, &call, &none), WEFT_USAGE);
    expect_message("do not fit the context");
    o.req.n_ids = 100;
    assert_int_equal(batch_submit(b, &call, &none), WEFT_USAGE);
    expect_message("do not fit the KV cache (64)");
    o.req.n_ids = 4;
    o.ids[2] = -1;
    assert_int_equal(batch_submit(b, &call, &none), WEFT_USAGE);
    expect_message("not in 0..");
    o.ids[2] = 1;
    o.sampling.top_p = 2;
    assert_int_equal(batch_submit(b, &call, &none), WEFT_USAGE);
    expect_message("top_p");
    o.sampling = weft_sampling_greedy();
    o.req.max_tokens = -1;
    assert_int_equal(batch_submit(b, &call, &none), WEFT_USAGE);
    assert_null(none);
    assert_true(batch_idle(b));
    /* one that outgrows the pool ends alone, with its reason; another goes on */
    o.req.max_tokens = 100;
    o.req.ignore_eos = true;
    order small = {.req = {.n_ids = 3, .max_tokens = 5, .ignore_eos = true}};
    small.req.ids = small.ids;
    assert_int_equal(batch_submit(b, &call, &out[0].job), WEFT_OK);
    batch_call other = {request_of(&small), on_token, on_done, &out[1]};
    assert_int_equal(batch_submit(b, &other, &out[1].job), WEFT_OK);
    while (!batch_idle(b))
        assert_int_equal(batch_step(b), WEFT_OK);
    expect_message("the cache is full at 64 tokens");
    assert_int_equal(out[0].status, WEFT_USAGE);
    assert_int_equal(out[1].status, WEFT_OK);
    assert_int_equal(out[1].result.result.n_generated, 5);
    finish(out, 2);
    batch_close(b);
    weft_engine_close(e);
}

/* Closing ends everyone, once, wherever they are. */
CASE(closing_ends_all) {
    weft_engine *e = open_demo((weft_engine_options){.max_seqs = 3});
    batch *b = batch_open(e, &(batch_options){0});
    order o[8] = {0};
    outcome out[8];
    start(out, 8);
    for (int i = 0; i < 8; i++) {
        o[i].req = (weft_request){.n_ids = 20, .ids = o[i].ids, .max_tokens = 50};
        batch_call call = {request_of(&o[i]), on_token, on_done, &out[i]};
        assert_int_equal(batch_submit(b, &call, &out[i].job), WEFT_OK);
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal(batch_step(b), WEFT_OK);
    batch_close(b);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(out[i].ended, 1);
        assert_int_equal(out[i].result.result.finish, WEFT_FINISH_CANCELLED);
    }
    check_pool(e, true);
    finish(out, 8);
    weft_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(company_changes_no_bit),
        cmocka_unit_test(nobody_starves),
        cmocka_unit_test(what_cannot_run_is_refused),
        cmocka_unit_test(closing_ends_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
