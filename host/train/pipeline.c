/* SPDX-License-Identifier: Apache-2.0
 * The order of a pipeline's work: a clock runs over all ranks' forwards and backwards; an exchange
 * happens when what it moves is there. */
#include "host/train/pipeline.h"
#include "host/base/err.h"
#include <stdlib.h>

enum { FORWARD_TIME = 1, BACKWARD_TIME = 2 };

/* An action at its time; of several at once exchanges come first. */
typedef struct {
    int64_t time;
    int order; /* among all that there are */
    bool computes;
    pipe_action a;
} event;

typedef struct {
    int ranks, chunks, micros, rank;
    int *next;        /* [ranks] forwards and backwards done */
    int64_t *free;    /* [ranks] when the rank is done with them */
    int64_t *done[2]; /* [stages * micros] when a forward, a backward ends; -1: not yet */
    event *event;     /* of this rank */
    int n, order;
} clockwork;

/* ---- What a rank computes, in order ---- */

static int warm_up(const clockwork *w, int rank) {
    int most = w->micros * w->chunks, n = w->ranks - 1 - rank;
    if (w->chunks > 1)
        n = 2 * n + (w->chunks - 1) * w->ranks;
    return n < most ? n : most;
}

/* The k-th forward: chunks take turns, `ranks` micro-batches each. */
static pipe_action kth(const clockwork *w, int k, bool backward) {
    int turn = w->ranks * w->chunks, chunk = k % turn / w->ranks;
    pipe_action a = {.kind = backward ? PIPE_BACKWARD : PIPE_FORWARD, .micro = k};
    if (w->chunks > 1) {
        a.chunk = backward ? w->chunks - 1 - chunk : chunk;
        a.micro = k / turn * w->ranks + k % w->ranks;
    }
    return a;
}

/* The i-th of all: forwards alone, then backwards and forwards in turns, then backwards alone. */
static pipe_action ith(const clockwork *w, int rank, int i) {
    int warm = warm_up(w, rank), all = w->micros * w->chunks, pairs = 2 * (all - warm);
    if (i < warm)
        return kth(w, i, false);
    if (i < warm + pairs)
        return kth(w, (i - warm) / 2 + ((i - warm) % 2 ? 0 : warm), (i - warm) % 2);
    return kth(w, all - warm + (i - warm - pairs), true);
}

/* ---- The clock ---- */

static int64_t *ends(const clockwork *w, const pipe_action *a, int rank, int stages_on) {
    int stage = a->chunk * w->ranks + rank + stages_on;
    return &w->done[a->kind == PIPE_BACKWARD][(int64_t)stage * w->micros + a->micro];
}

/* When what an action needs is there; -1: nobody knows yet. */
static int64_t ready_at(const clockwork *w, const pipe_action *a, int rank) {
    int stage = a->chunk * w->ranks + rank, last = w->ranks * w->chunks - 1;
    pipe_action forward = {PIPE_FORWARD, a->chunk, a->micro};
    if (a->kind == PIPE_FORWARD)
        return stage == 0 ? 0 : *ends(w, a, rank, -1);
    return stage == last ? *ends(w, &forward, rank, 0) : *ends(w, a, rank, 1);
}

static void note(clockwork *w, int rank, int64_t time, bool computes, pipe_action a) {
    if (rank == w->rank)
        w->event[w->n++] = (event){time, w->order, computes, a};
    w->order++;
}

/* What a computation made goes to the neighbour at once. */
static void note_exchange(clockwork *w, const pipe_action *a, int rank, int64_t time) {
    bool back = a->kind == PIPE_BACKWARD;
    int stage = a->chunk * w->ranks + rank, to = stage + (back ? -1 : 1);
    if (to < 0 || to == w->ranks * w->chunks)
        return;
    note(w, rank, time, false,
         (pipe_action){back ? PIPE_GIVE_GRAD : PIPE_GIVE, a->chunk, a->micro});
    w->order--; /* both ends are one event */
    note(w, to % w->ranks, time, false,
         (pipe_action){back ? PIPE_TAKE_GRAD : PIPE_TAKE, to / w->ranks, a->micro});
}

/* The rank whose next action can begin first; -1: all are done. */
static int soonest(const clockwork *w, int64_t *begin) {
    int best = -1;
    for (int r = 0; r < w->ranks; r++) {
        if (w->next[r] == 2 * w->micros * w->chunks)
            continue;
        pipe_action a = ith(w, r, w->next[r]);
        int64_t at = ready_at(w, &a, r);
        if (at < 0)
            continue;
        at = at > w->free[r] ? at : w->free[r];
        if (best < 0 || at < *begin) {
            best = r;
            *begin = at;
        }
    }
    return best;
}

static void run_clock(clockwork *w) {
    int64_t begin = 0;
    for (int r; (r = soonest(w, &begin)) >= 0;) {
        pipe_action a = ith(w, r, w->next[r]++);
        int64_t end = begin + (a.kind == PIPE_BACKWARD ? BACKWARD_TIME : FORWARD_TIME);
        note(w, r, begin, true, a);
        *ends(w, &a, r, 0) = w->free[r] = end;
        note_exchange(w, &a, r, end);
    }
    for (int r = 0; r < w->ranks; r++)
        WEFT_ASSERT(w->next[r] == 2 * w->micros * w->chunks);
}

/* ---- One rank's list ---- */

static int by_time(const void *a, const void *b) {
    const event *x = a, *y = b;
    if (x->time != y->time)
        return x->time < y->time ? -1 : 1;
    if (x->computes != y->computes)
        return x->computes ? 1 : -1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* A micro-batch takes room from its first action to its last. */
static void count_slots(const clockwork *w, pipeline *p) {
    int open[PIPE_MAX_CHUNKS] = {0};
    for (int i = 0; i < p->n; i++) {
        const pipe_action *a = &p->action[i];
        int stage = a->chunk * w->ranks + w->rank;
        pipe_kind first = stage == 0 ? PIPE_FORWARD : PIPE_TAKE;
        if (a->kind == first && ++open[a->chunk] > p->slots[a->chunk])
            p->slots[a->chunk] = open[a->chunk];
        open[a->chunk] -= a->kind == (stage == 0 ? PIPE_BACKWARD : PIPE_GIVE_GRAD);
    }
}

void pipeline_build(int ranks, int chunks, int micros, int rank, arena *mem, pipeline *out) {
    int64_t stages = (int64_t)ranks * chunks, end = 0;
    clockwork w = {.ranks = ranks, .chunks = chunks, .micros = micros, .rank = rank};
    WEFT_ASSERT(chunks <= PIPE_MAX_CHUNKS && (chunks == 1 || micros % ranks == 0));
    w.next = ARENA_NEW(mem, int, ranks);
    w.free = ARENA_NEW(mem, int64_t, ranks);
    w.event = ARENA_NEW(mem, event, (int64_t)PIPE_KINDS * chunks * micros);
    for (int k = 0; k < 2; k++) {
        w.done[k] = ARENA_NEW(mem, int64_t, stages * micros);
        for (int64_t i = 0; i < stages * micros; i++)
            w.done[k][i] = -1;
    }
    run_clock(&w);
    qsort(w.event, (size_t)w.n, sizeof *w.event, by_time);
    *out = (pipeline){.action = ARENA_NEW(mem, pipe_action, w.n), .n = w.n};
    for (int i = 0; i < w.n; i++)
        out->action[i] = w.event[i].a;
    count_slots(&w, out);
    for (int r = 0; r < ranks; r++)
        end = w.free[r] > end ? w.free[r] : end;
    double busy = (double)(FORWARD_TIME + BACKWARD_TIME) * chunks * micros;
    out->idle = 1 - busy / (double)end;
}
