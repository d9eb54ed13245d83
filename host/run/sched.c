/* SPDX-License-Identifier: Apache-2.0
 * The loop over steps, and the rank threads around it. */
#include "host/run/sched.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/nvtx.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static void run_step(const weft_step *s, weft_stream *stream) {
    nvtx_push(s->tag);
    s->kernel->run(s, stream);
    nvtx_pop();
}

void sched_run(const weft_plan *p, weft_stream *stream) {
    for (int i = 0; i < p->nstep; i++)
        run_step(&p->step[i], stream);
}

static weft_status run_stepwise(device *d, const weft_plan *p, weft_stream *stream) {
    for (int i = 0; i < p->nstep; i++) {
        run_step(&p->step[i], stream);
        weft_status s = d->sync(d, stream);
        if (s != WEFT_OK)
            return err_prefix(s, "%s", p->step[i].tag);
    }
    return WEFT_OK;
}

/* Rows of other backends work while they are called: there is nothing to record. */
static bool can_capture(const device *d, const weft_plan *p) {
    for (int i = 0; i < p->nstep; i++)
        if (strcmp(p->step[i].kernel->backend, d->backend) != 0)
            return false;
    return true;
}

static weft_status capture(device *d, weft_plan *p, weft_stream *stream) {
    WEFT_TRY(d->capture(d, stream));
    sched_run(p, stream);
    return d->capture_end(d, stream, &p->graph);
}

/* ---- Two lanes ---- */

weft_status sched_join(device *d, weft_stream *stream, weft_stream *side) {
    if (!side)
        return WEFT_OK;
    WEFT_TRY(d->mark(d, side, PLAN_MARKS));
    return d->follow(d, stream, side, PLAN_MARKS);
}

/* A mark that was made anew since is a later one: it is enough to wait for. So is the lane's end
 * for a step that an earlier part of the plan has run. */
static weft_status wait_for_lane(device *d, const weft_plan *p, int i, weft_stream *own,
                                 weft_stream *other) {
    int wait = (int)p->step[i].wait;
    if (wait == 0)
        return WEFT_OK;
    return wait > i ? sched_join(d, own, other)
                    : d->follow(d, own, other, p->step[i - wait].awaited - 1);
}

static weft_status run_lanes(device *d, const weft_plan *p, weft_stream *stream,
                             weft_stream *side) {
    weft_stream *const lane[WEFT_LANES] = {[WEFT_LANE_COMPUTE] = stream, [WEFT_LANE_COMM] = side};
    WEFT_TRY(sched_join(d, side, stream));
    for (int i = 0; i < p->nstep; i++) {
        const weft_step *s = &p->step[i];
        weft_stream *own = lane[s->lane], *other = lane[!s->lane];
        WEFT_TRY(wait_for_lane(d, p, i, own, other));
        run_step(s, own);
        if (s->awaited)
            WEFT_TRY(d->mark(d, own, s->awaited - 1));
    }
    return WEFT_OK;
}

static bool has_lanes(const weft_plan *p) {
    for (int i = 0; i < p->nstep; i++)
        if (p->step[i].lane != WEFT_LANE_COMPUTE)
            return true;
    return false;
}

weft_status sched_replay(device *d, weft_plan *p, weft_stream *stream, weft_stream *side) {
    int before = p->replays;
    p->replays += before < 2;
    if (d->stepwise)
        return run_stepwise(d, p, stream);
    if (side && has_lanes(p))
        return run_lanes(d, p, stream, side);
    if (d->graphs && before == 1 && can_capture(d, p))
        WEFT_TRY(capture(d, p, stream));
    if (p->graph)
        return d->launch(d, stream, p->graph);
    sched_run(p, stream);
    return WEFT_OK;
}

void sched_forget(device *d, weft_plan *p) {
    if (p->graph)
        d->graph_close(d, p->graph);
    p->graph = NULL;
}

typedef struct {
    sched_team *team;
    int rank;
    pthread_t thread;
} rank_thread;

struct sched_team {
    int ranks, started, busy;
    uint64_t job; /* number of the job under way; 0 before the first */
    bool stop;
    sched_rank_fn *fn;
    void *ctx;
    pthread_mutex_t lock;
    pthread_cond_t begin, done;
    rank_thread *rank;
};

static bool next_job(sched_team *t, uint64_t *seen) {
    pthread_mutex_lock(&t->lock);
    while (t->job == *seen && !t->stop)
        pthread_cond_wait(&t->begin, &t->lock);
    bool go = !t->stop;
    *seen = t->job;
    pthread_mutex_unlock(&t->lock);
    return go;
}

static void *rank_main(void *arg) {
    rank_thread *self = arg;
    sched_team *t = self->team;
    uint64_t seen = 0;
    while (next_job(t, &seen)) {
        t->fn(t->ctx, self->rank);
        pthread_mutex_lock(&t->lock);
        if (--t->busy == 0)
            pthread_cond_signal(&t->done);
        pthread_mutex_unlock(&t->lock);
    }
    return NULL;
}

weft_status sched_team_open(int ranks, sched_team **out) {
    sched_team *t = mem_alloc(sizeof *t);
    t->ranks = ranks;
    t->rank = mem_alloc(sizeof(rank_thread) * (size_t)ranks);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begin, NULL);
    pthread_cond_init(&t->done, NULL);
    for (int r = 1; r < ranks; r++) {
        t->rank[r] = (rank_thread){.team = t, .rank = r};
        if (pthread_create(&t->rank[r].thread, NULL, rank_main, &t->rank[r]) != 0) {
            sched_team_close(t);
            return weft_fail(WEFT_NO_MEMORY,
                             "rank %d: its thread cannot be started; lower --tp or --pp", r);
        }
        t->started++;
    }
    *out = t;
    return WEFT_OK;
}

void sched_team_run(sched_team *t, sched_rank_fn *fn, void *ctx) {
    pthread_mutex_lock(&t->lock);
    t->fn = fn;
    t->ctx = ctx;
    t->busy = t->ranks - 1;
    t->job++;
    pthread_cond_broadcast(&t->begin);
    pthread_mutex_unlock(&t->lock);
    fn(ctx, 0);
    pthread_mutex_lock(&t->lock);
    while (t->busy > 0)
        pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void sched_team_close(sched_team *t) {
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->begin);
    pthread_mutex_unlock(&t->lock);
    for (int r = 1; r <= t->started; r++)
        pthread_join(t->rank[r].thread, NULL);
    pthread_cond_destroy(&t->done);
    pthread_cond_destroy(&t->begin);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->rank);
    mem_free(t);
}

/* ---- One call each ---- */

enum { WHY_BYTES = 1024 };

typedef struct {
    weft_status status;
    char why[WHY_BYTES];
} outcome;

typedef struct {
    sched_each_fn *fn;
    void *ctx;
    outcome *of;
} each;

static void run_each(void *ctx, int i) {
    const each *e = ctx;
    e->of[i].status = e->fn(e->ctx, i);
    snprintf(e->of[i].why, WHY_BYTES, "%s", err_message());
}

weft_status sched_each(int n, sched_each_fn *fn, void *ctx) {
    each e = {.fn = fn, .ctx = ctx};
    sched_team *team;
    weft_status s = WEFT_OK;
    WEFT_TRY(sched_team_open(n, &team));
    e.of = mem_alloc(sizeof *e.of * (size_t)n);
    sched_team_run(team, run_each, &e);
    sched_team_close(team);
    for (int i = 0; i < n && s == WEFT_OK; i++)
        if (e.of[i].status != WEFT_OK)
            s = weft_fail(e.of[i].status, "%s", e.of[i].why);
    mem_free(e.of);
    return s;
}
