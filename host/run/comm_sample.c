/* SPDX-License-Identifier: Apache-2.0
 * sample_sharded: rows of logits stay where they are; ranks exchange offers, sums and, where a
 * token is drawn from all, its place (weft/sample_shard.h). All rows of a step go together. */
#include "host/base/err.h"
#include "host/run/comm.h"
#include "host/run/ops.h"
#include "weft/sample_shard.h"
#include "weft/step.h"
#include <string.h>

enum { SLOTS = 8 }; /* rows in flight, each with scratch of its own */

/* What every rank has of every row: [ranks][R], and this rank's own [R]. */
typedef struct {
    sample_offer *offer, *offers;
    sample_share *share, *shares;
    sample_tops *top, *tops;
    sample_verdict *verdict, *verdicts;
    float *row, *whole; /* one row's slice; the slices of all */
    char *scratch;      /* SLOTS of slot_bytes */
    uint64_t slot_bytes;
} room;

typedef struct {
    const weft_sample_sharded_args *a;
    comm *c;
    sample_slice slice;
    room m;
    int64_t R, rows, row0; /* of the bucket; of the step; of the group under way */
} work;

int comm_sample_ok(const weft_args *args) {
    const weft_sample_sharded_args *a = &args->sample_sharded;
    return a->logits.dtype == WEFT_F32 && a->params.dtype == WEFT_I32 &&
           a->params.shape[1] == WEFT_SAMPLE_WORDS && a->params.stride[1] == 1 &&
           a->logits.stride[1] == 1 && weft_has(&a->logprob) && weft_has(&a->top_id) &&
           weft_has(&a->top_logprob) && a->ranks <= COMM_MAX_RANKS &&
           (!weft_has(&a->breaker) || a->breaker.stride[1] == 1);
}

static weft_sample_args whole_args(const weft_sample_sharded_args *a) {
    return (weft_sample_args){.logits = a->logits,
                              .params = a->params,
                              .bias_id = a->bias_id,
                              .bias = a->bias,
                              .breaker = a->breaker,
                              .rows = a->rows,
                              .id = a->id,
                              .logprob = a->logprob,
                              .top_id = a->top_id,
                              .top_logprob = a->top_logprob,
                              .history = a->history,
                              .last = a->last,
                              .mu = a->mu};
}

/* Takes n elements of `size` from *at, which may be NULL to count alone. */
static void *take(char *base, uint64_t *used, int64_t n, uint64_t size) {
    char *p = base ? base + *used : NULL;
    *used += ((uint64_t)n * size + 63) / 64 * 64;
    return p;
}

static uint64_t lay_out(const weft_sample_sharded_args *a, char *base, room *m) {
    int64_t R = a->logits.shape[0], all = R * a->ranks;
    weft_sample_args w = whole_args(a);
    uint64_t used = 0;
    m->slot_bytes = sample_shard_scratch(&w, a->vocab);
    m->offer = take(base, &used, R, sizeof *m->offer);
    m->offers = take(base, &used, all, sizeof *m->offers);
    m->share = take(base, &used, R, sizeof *m->share);
    m->shares = take(base, &used, all, sizeof *m->shares);
    m->top = take(base, &used, R, sizeof *m->top);
    m->tops = take(base, &used, all, sizeof *m->tops);
    m->verdict = take(base, &used, R, sizeof *m->verdict);
    m->verdicts = take(base, &used, all, sizeof *m->verdicts);
    m->row = take(base, &used, a->logits.shape[1], sizeof *m->row);
    m->whole = take(base, &used, a->logits.shape[1] * a->ranks, sizeof *m->whole);
    m->scratch = take(base, &used, R < SLOTS ? R : SLOTS, m->slot_bytes);
    return used;
}

size_t comm_sample_scratch(const weft_args *args) {
    room m;
    return lay_out(&args->sample_sharded, NULL, &m);
}

int64_t comm_sample_sent(const weft_args *args, int ranks) {
    int64_t row = (int64_t)(sizeof(sample_offer) + sizeof(sample_share));
    return args->sample_sharded.logits.shape[0] * row * (ranks - 1);
}

/* ---- Rows side by side ---- */

typedef void row_fn(work *w, const sample_slice *s, int64_t row);

typedef struct {
    work *w;
    row_fn *fn;
} row_job;

static void run_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const row_job *j = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        sample_slice s = j->w->slice;
        s.scratch = j->w->m.scratch + (uint64_t)i * j->w->m.slot_bytes;
        j->fn(j->w, &s, j->w->row0 + i);
    }
}

static void each_row(work *w, weft_stream *stream, row_fn *fn) {
    row_job j = {w, fn};
    for (w->row0 = 0; w->row0 < w->rows; w->row0 += SLOTS) {
        int64_t left = w->rows - w->row0;
        weft_parallel(stream, left < SLOTS ? left : SLOTS, 1, run_rows, &j);
    }
}

static void offer_row(work *w, const sample_slice *s, int64_t row) {
    sample_make_offer(s, row, &w->m.offer[row]);
}

static void share_row(work *w, const sample_slice *s, int64_t row) {
    sample_make_share(s, row, &w->m.offers[row], w->R, &w->m.share[row]);
}

static void top_row(work *w, const sample_slice *s, int64_t row) {
    sample_make_tops(s, row, &w->m.top[row]);
}

static void judge_row(work *w, const sample_slice *s, int64_t row) {
    sample_make_verdict(s, row, &w->m.offers[row], &w->m.shares[row], w->R, &w->m.verdict[row]);
}

static void find_row(work *w, const sample_slice *s, int64_t row) {
    sample_verdict *v = &w->m.verdict[row];
    if (v->kind == SAMPLE_ELSEWHERE && v->owner == s->rank)
        sample_find(s, row, &w->m.offers[row], w->R, v);
}

static void settle_row(work *w, const sample_slice *s, int64_t row) {
    if (w->m.verdict[row].kind == SAMPLE_CHOSEN)
        sample_settle(s, row, &w->m.offers[row], &w->m.shares[row], &w->m.tops[row], w->R,
                      &w->m.verdict[row]);
}

/* ---- What is exchanged ---- */

static bool any_wants_tops(const work *w) {
    sample_slice s = w->slice;
    bool any = false;
    s.scratch = w->m.scratch;
    for (int64_t i = 0; i < w->rows; i++)
        any |= sample_wants_tops(&s, i) != 0;
    return any;
}

static weft_status exchange_tops(work *w, weft_stream *stream) {
    if (!any_wants_tops(w))
        return WEFT_OK;
    memset(w->m.top, 0, sizeof *w->m.top * (size_t)w->R);
    each_row(w, stream, top_row);
    return comm_collect(w->c, w->m.top, w->m.tops, sizeof *w->m.top * (uint64_t)w->R, "sample.top");
}

/* Tokens drawn from all, of the ranks that have them. */
static weft_status exchange_places(work *w, weft_stream *stream) {
    bool any = false;
    for (int64_t i = 0; i < w->rows; i++)
        any |= w->m.verdict[i].kind == SAMPLE_ELSEWHERE;
    if (!any)
        return WEFT_OK;
    each_row(w, stream, find_row);
    WEFT_TRY(comm_collect(w->c, w->m.verdict, w->m.verdicts, sizeof *w->m.verdict * (uint64_t)w->R,
                          "sample.draw"));
    for (int64_t i = 0; i < w->rows; i++)
        if (w->m.verdict[i].kind == SAMPLE_ELSEWHERE)
            w->m.verdict[i] = w->m.verdicts[w->m.verdict[i].owner * w->R + i];
    return WEFT_OK;
}

static weft_status gather_row(work *w, int64_t row) {
    const weft_tensor *t = &w->a->logits;
    sample_slice s = w->slice;
    uint64_t part = (uint64_t)t->shape[1] * sizeof(float);
    s.scratch = w->m.scratch;
    memset(w->m.row, 0, part);
    memcpy(w->m.row, (const float *)t->data + row * t->stride[0], (size_t)s.count * sizeof(float));
    WEFT_TRY(comm_collect(w->c, w->m.row, w->m.whole, part, "sample.row"));
    sample_whole(&s, row, w->m.whole);
    return WEFT_OK;
}

static weft_status gather_unsure(work *w) {
    for (int64_t i = 0; i < w->rows; i++)
        if (w->m.verdict[i].kind == SAMPLE_UNSURE)
            WEFT_TRY(gather_row(w, i));
    return WEFT_OK;
}

static weft_status sample_rows(work *w, weft_stream *stream) {
    room *m = &w->m;
    uint64_t R = (uint64_t)w->R;
    memset(m->offer, 0, sizeof *m->offer * R);
    memset(m->share, 0, sizeof *m->share * R);
    memset(m->verdict, 0, sizeof *m->verdict * R);
    each_row(w, stream, offer_row);
    WEFT_TRY(comm_collect(w->c, m->offer, m->offers, sizeof *m->offer * R, "sample.offer"));
    each_row(w, stream, share_row);
    WEFT_TRY(comm_collect(w->c, m->share, m->shares, sizeof *m->share * R, "sample.share"));
    WEFT_TRY(exchange_tops(w, stream));
    each_row(w, stream, judge_row);
    WEFT_TRY(exchange_places(w, stream));
    each_row(w, stream, settle_row);
    return gather_unsure(w);
}

void comm_sample_run(const weft_step *step, weft_stream *stream) {
    const weft_sample_sharded_args *a = &step->args.sample_sharded;
    work w = {.a = a, .c = step->state, .R = a->logits.shape[0], .rows = a->logits.shape[0]};
    int64_t part = a->logits.shape[1], first = part * w.c->rank;
    if (weft_has(&a->rows))
        w.rows = *(const int32_t *)a->rows.data;
    w.rows = w.rows < w.R ? w.rows : w.R;
    first = first < a->vocab ? first : a->vocab;
    w.slice = (sample_slice){.a = whole_args(a),
                             .vocab = a->vocab,
                             .first = first,
                             .count = a->vocab - first < part ? a->vocab - first : part,
                             .ranks = w.c->ranks,
                             .rank = w.c->rank};
    lay_out(a, step->scratch, &w.m);
    /* A failed exchange is the link's: whoever waits for the step asks for it. */
    weft_status s = sample_rows(&w, stream);
    (void)s;
}
