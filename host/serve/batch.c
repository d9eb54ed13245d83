/* SPDX-License-Identifier: Apache-2.0
 * The life of a job: it waits, has a place, takes part in steps, ends. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/model/sampling.h"
#include "host/serve/batch_plan.h"

static int within(int v, int most) {
    return v > 0 && v < most ? v : most;
}

batch *batch_open(weft_engine *e, const batch_options *o) {
    batch *b = mem_alloc(sizeof *b);
    b->e = e;
    b->budget = within(o->budget, e->shape.T);
    b->running = within(o->running, e->shape.S);
    b->wait_end = &b->wait;
    size_t n = (size_t)b->running;
    b->run = mem_alloc(sizeof(batch_job *) * n);
    b->who = mem_alloc(sizeof(batch_job *) * n);
    b->part = mem_alloc(sizeof *b->part * n);
    b->claim = mem_alloc(sizeof *b->claim * n);
    b->out = mem_alloc(sizeof *b->out * n);
    return b;
}

bool batch_idle(const batch *b) {
    return !b->wait && b->nrun == 0;
}

void batch_describe(const batch *b, batch_stats *out) {
    *out = b->stats;
    out->running = b->nrun;
    out->waiting = 0;
    for (const batch_job *j = b->wait; j; j = j->next)
        out->waiting++;
}

/* ---- In and out ---- */

/* A sequence is never longer than the context, so one that is refused here never fits. */
static weft_status check_fit(const batch *b, const generation *g) {
    int64_t pool = (int64_t)b->e->kv.pages * KV_PAGE;
    WEFT_TRY(engine_check_tokens(b->e, 0, g->ids, g->n_ids));
    if ((int64_t)g->n_ids > pool)
        return weft_fail(WEFT_USAGE, "prompt: %zu tokens do not fit the KV cache (%lld)", g->n_ids,
                         (long long)pool);
    return WEFT_OK;
}

static weft_status check(const batch *b, batch_job *j) {
    const batch_call *c = &j->call;
    WEFT_ASSERT(!c->request->seq);
    WEFT_TRY(generation_init(&j->g, b->e, c->request, c->on_token, c->user));
    WEFT_TRY(sampling_check(b->e, &j->g.sampling));
    return check_fit(b, &j->g);
}

weft_status batch_submit(batch *b, const batch_call *call, batch_job **out) {
    batch_job *j = mem_alloc(sizeof *j);
    *j = (batch_job){.call = *call, .part = -1, .submitted = clock_seconds()};
    weft_status s = check(b, j);
    if (s != WEFT_OK) {
        generation_fini(&j->g);
        mem_free(j);
        return s;
    }
    *b->wait_end = j;
    b->wait_end = &j->next;
    *out = j;
    return WEFT_OK;
}

void batch_cancel(batch_job *j) {
    j->cancelled = true;
}

static void end(batch *b, batch_job *j, weft_status s) {
    double now = clock_seconds(), first = j->first > 0 ? j->first : now;
    batch_result r = {.result = j->g.result, .cached = j->cached, .preempted = j->preempted};
    r.result.prompt_seconds = first - j->submitted;
    r.result.generate_seconds = now - first;
    r.waited = (j->placed > 0 ? j->placed : now) - j->submitted;
    r.seconds = now - j->submitted;
    b->stats.prompt += r.result.n_prompt;
    if (j->call.on_done)
        j->call.on_done(j->call.user, j, s, &r);
    generation_fini(&j->g);
    mem_free(j);
}

static batch_job *pop_waiting(batch *b) {
    batch_job *j = b->wait;
    b->wait = j->next;
    if (!b->wait)
        b->wait_end = &b->wait;
    return j;
}

static void leave(batch *b, batch_job *j) {
    int n = 0;
    for (int i = 0; i < b->nrun; i++)
        if (b->run[i] != j)
            b->run[n++] = b->run[i];
    b->nrun = n;
}

static void end_running(batch *b, batch_job *j, weft_status s) {
    leave(b, j);
    end(b, j, s);
}

void batch_close(batch *b) {
    if (!b)
        return;
    while (b->nrun > 0) {
        batch_job *j = b->run[b->nrun - 1];
        end_running(b, j, generation_cancel(&j->g));
    }
    while (b->wait) {
        batch_job *j = pop_waiting(b);
        end(b, j, generation_cancel(&j->g));
    }
    mem_free(b->run);
    mem_free(b->who);
    mem_free(b->part);
    mem_free(b->claim);
    mem_free(b->out);
    mem_free(b);
}

/* ---- Before a step ---- */

static bool cancelled(const batch_job *j) {
    const weft_request *r = j->call.request;
    return j->cancelled || (r->cancel && *r->cancel);
}

static void end_cancelled(batch *b) {
    for (int i = b->nrun; i-- > 0;)
        if (cancelled(b->run[i]))
            end_running(b, b->run[i], generation_cancel(&b->run[i]->g));
    for (batch_job **at = &b->wait; *at;) {
        batch_job *j = *at;
        if (!cancelled(j)) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        if (!*at)
            b->wait_end = at;
        end(b, j, generation_cancel(&j->g));
    }
}

/* Places for the oldest that wait, as long as everyone who has one may run. */
static void admit(batch *b) {
    while (plan_activate(b) && b->nrun < b->running && b->wait) {
        weft_status s = generation_begin(&b->wait->g);
        if (s == WEFT_AGAIN && b->nrun > 0)
            return; /* sequences that others opened */
        batch_job *j = pop_waiting(b);
        j->next = NULL;
        j->placed = clock_seconds();
        if (s == WEFT_OK)
            b->run[b->nrun++] = j;
        else
            end(b, j, s);
    }
}

/* ---- After it ---- */

static void deliver(batch *b, batch_job *j, const weft_sampled *out) {
    if (j->first <= 0)
        j->first = clock_seconds();
    weft_status s = out->id < 0 ? engine_unsampled(j->g.seq) : generation_take(&j->g, out);
    b->stats.generated++;
    j->begun = true;
    if (s != WEFT_OK || j->g.done)
        end_running(b, j, s);
}

static void count(batch *b) {
    b->stats.steps++;
    b->stats.parts += b->nparts;
    b->stats.computed += b->budget - b->left;
}

/* A pool that even one sequence has to itself and that is too small for it. */
static void end_stuck(batch *b) {
    batch_job *j = plan_oldest(b);
    if (j)
        end_running(
            b, j,
            weft_fail(WEFT_USAGE,
                      "kv_tokens: the cache is full at %d tokens; open the engine with more",
                      (int)j->g.seq->computed));
}

weft_status batch_step(batch *b) {
    double start = clock_seconds();
    end_cancelled(b);
    admit(b);
    plan_step(b);
    double planned = clock_seconds();
    b->stats.plan_seconds += planned - start;
    if (b->nparts == 0) {
        end_stuck(b);
        return WEFT_OK;
    }
    WEFT_TRY(engine_step(b->e, b->part, b->nparts, b->out));
    double stepped = clock_seconds();
    b->stats.engine_seconds += stepped - planned;
    count(b);
    for (int i = 0; i < b->nparts; i++)
        if (b->part[i].row >= 0)
            deliver(b, b->who[i], &b->out[i]);
    b->stats.text_seconds += clock_seconds() - stepped;
    return WEFT_OK;
}
