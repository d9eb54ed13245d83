/* SPDX-License-Identifier: Apache-2.0
 * Continuations in lanes. A lane is a sequence with the request it works on; every step takes
 * pending tokens from all lanes up to what a scoring step holds, and a lane that is done takes the
 * next request of its group, or the next group. */
#include "host/model/eval/scoring.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/model/engine.h"

typedef struct {
    weft_seq *seq;
    int64_t at; /* request in work; -1: none */
    int32_t row, take;
} lane;

typedef struct {
    weft_engine *e;
    score_request *request;
    int64_t n, next, done; /* next: first of the next group that nobody has */
    lane *lane;
    int nlane;
    step_part *part;
    int32_t *target;
    float *score, *logits; /* [score_rows], [vocab] */
} scorer;

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static int32_t common(const score_request *a, const score_request *b) {
    int32_t n = 0, end = smaller(a->n, b->n) - 1;
    while (n < end && a->ids[n] == b->ids[n])
        n++;
    return n;
}

/* The last token of a request is only ever a target. */
static weft_status begin(lane *l, const score_request *r, int32_t keep) {
    keep = smaller(keep, r->first);
    WEFT_TRY(weft_seq_truncate(l->seq, (size_t)keep));
    return weft_seq_append(l->seq, r->ids + keep, (size_t)(r->n - 1 - keep));
}

static weft_status advance(scorer *s, lane *l) {
    int64_t was = l->at, to = was + 1;
    bool same = was >= 0 && to < s->n && s->request[to].group == s->request[was].group;
    if (!same) {
        to = s->next;
        while (s->next < s->n && s->request[s->next].group == s->request[to].group)
            s->next++;
    }
    l->at = to < s->n ? to : -1;
    if (l->at < 0)
        return WEFT_OK;
    return begin(l, &s->request[to], same ? common(&s->request[was], &s->request[to]) : 0);
}

static int choose(scorer *s) {
    int32_t rows = 0;
    int parts = 0;
    for (int i = 0; i < s->nlane; i++) {
        lane *l = &s->lane[i];
        l->take = 0;
        if (l->at < 0 || parts == s->e->shape.S)
            continue;
        const score_request *r = &s->request[l->at];
        int32_t from = l->seq->computed;
        l->row = rows;
        l->take = smaller(l->seq->n - from, s->e->shape.score_rows - rows);
        for (int32_t k = 0; k < l->take; k++)
            s->target[rows++] = r->ids[from + k + 1];
        if (l->take)
            s->part[parts++] = (step_part){.seq = l->seq, .take = l->take, .row = -1};
    }
    return parts;
}

static weft_status look_at(scorer *s, int32_t row, int32_t id, bool *greedy) {
    int64_t vocab = s->e->config.vocab;
    int32_t best = 0;
    WEFT_TRY(engine_result(s->e, &engine_sampler(s->e)->io.logits,
                           row * s->e->shape.vocab_padded * 4, s->logits, (uint64_t)vocab * 4));
    for (int32_t i = 1; i < vocab; i++)
        if (s->logits[i] > s->logits[best])
            best = i;
    *greedy &= best == id;
    return WEFT_OK;
}

/* The lane's rows of the step: row k scored token from + k + 1. */
static weft_status collect(scorer *s, const lane *l) {
    score_request *r = &s->request[l->at];
    int32_t from = l->seq->computed - l->take;
    for (int32_t k = 0; k < l->take; k++) {
        int32_t token = from + k + 1;
        if (token < r->first)
            continue;
        r->logprob[token - r->first] = s->score[l->row + k];
        if (r->look && r->greedy)
            WEFT_TRY(look_at(s, l->row + k, r->ids[token], &r->greedy));
    }
    return WEFT_OK;
}

static weft_status step(scorer *s) {
    int parts = choose(s);
    int32_t rows = 0;
    for (int i = 0; i < parts; i++)
        rows += s->part[i].take;
    WEFT_TRY(engine_run(s->e, s->part, parts, s->target));
    WEFT_TRY(engine_result(s->e, &engine_sampler(s->e)->io.score, 0, s->score, (uint64_t)rows * 4));
    for (int i = 0; i < s->nlane; i++) {
        lane *l = &s->lane[i];
        if (!l->take)
            continue;
        WEFT_TRY(collect(s, l));
        if (l->seq->computed < l->seq->n)
            continue;
        s->done++;
        WEFT_TRY(advance(s, l));
    }
    return WEFT_OK;
}

static weft_status run(scorer *s, score_tick *tick, void *user) {
    for (int i = 0; i < s->nlane; i++) {
        WEFT_TRY(weft_seq_open(s->e, NULL, &s->lane[i].seq));
        WEFT_TRY(advance(s, &s->lane[i]));
    }
    while (s->done < s->n) {
        WEFT_TRY(step(s));
        if (tick)
            tick(user, s->done);
    }
    return WEFT_OK;
}

weft_status score_requests(weft_engine *e, score_request *request, int64_t n, score_tick *tick,
                           void *user) {
    scorer s = {.e = e, .request = request, .n = n, .nlane = e->shape.slots};
    arena a = {0};
    if (!e->score)
        return weft_fail(WEFT_USAGE, "score: the engine was opened without options.score");
    for (int64_t i = 0; i < n; i++)
        request[i].greedy = request[i].look;
    s.lane = ARENA_NEW(&a, lane, s.nlane);
    for (int i = 0; i < s.nlane; i++)
        s.lane[i].at = -1;
    s.part = ARENA_NEW(&a, step_part, e->shape.S);
    s.target = ARENA_NEW(&a, int32_t, e->shape.score_rows);
    s.score = ARENA_NEW(&a, float, e->shape.score_rows);
    s.logits = ARENA_NEW(&a, float, e->config.vocab);
    weft_status st = run(&s, tick, user);
    for (int i = 0; i < s.nlane; i++)
        weft_seq_close(s.lane[i].seq);
    arena_fini(&a);
    return st;
}
