/* SPDX-License-Identifier: Apache-2.0
 * Everything here happens under one lock and takes no longer than reading a line or writing one. */
#include "host/cmd/batch_queue.h"
#include "host/base/clock.h"
#include <stdio.h>
#include <string.h>

struct queue_held {
    queue_held *next;
    int64_t line;
    bool finished, error;
    buf text; /* of its output, once finished */
};

enum { LINE_BYTES = 1 << 29 };

void queue_open(batch_queue *q, const queue_options *o) {
    *q = (batch_queue){.o = *o, .start = clock_seconds()};
    q->last = &q->first;
    pthread_mutex_init(&q->lock, NULL);
}

static void free_held(queue_held *h) {
    buf_fini(&h->text);
    mem_free(h);
}

void queue_close(batch_queue *q) {
    while (q->first) {
        queue_held *h = q->first;
        q->first = h->next;
        free_held(h);
    }
    pthread_mutex_destroy(&q->lock);
}

static void note_failure(batch_queue *q, weft_status s) {
    if (s == WEFT_OK || q->status != WEFT_OK)
        return;
    q->status = s;
    snprintf(q->why, sizeof q->why, "%s", weft_error());
}

void queue_fail(batch_queue *q, weft_status s) {
    pthread_mutex_lock(&q->lock);
    note_failure(q, s);
    pthread_mutex_unlock(&q->lock);
}

/* ---- Writing ---- */

static weft_status write_held(batch_queue *q, const queue_held *h) {
    double start = clock_seconds();
    WEFT_TRY(batch_out_write(q->o.out, h->error, &h->text));
    q->o.sum->io_seconds += clock_seconds() - start;
    q->o.sum->written++;
    q->o.sum->failed += h->error;
    progress_add(q->o.bar, 1);
    return WEFT_OK;
}

/* What may be written: the first of those held as far as they are finished, or all that are. */
static weft_status write_finished(batch_queue *q) {
    queue_held **at = &q->first;
    while (*at) {
        queue_held *h = *at;
        if (!h->finished && q->o.in_order)
            break;
        if (!h->finished) {
            at = &h->next;
            continue;
        }
        WEFT_TRY(write_held(q, h));
        *at = h->next;
        q->held--;
        free_held(h);
    }
    if (!*at)
        q->last = at;
    return WEFT_OK;
}

static weft_status take_answer(batch_queue *q, const queue_answer *a, const char *text) {
    queue_held *h = q->first;
    while (h && (h->line != a->line || h->finished))
        h = h->next;
    if (!h)
        return weft_fail(WEFT_PEER, "line %lld: is answered, but was not dealt out",
                         (long long)a->line);
    buf_add(&h->text, text, a->bytes);
    h->finished = true;
    h->error = a->error != 0;
    if (a->measured)
        batch_sum_add(q->o.sum, &a->result);
    return WEFT_OK;
}

static weft_status bad_frame(void) {
    return weft_fail(WEFT_PEER, "queue: a replica's message does not hold what it says");
}

static weft_status take_answers(batch_queue *q, const queue_ask *a, const char *p, uint64_t n) {
    for (int i = 0; i < a->answers; i++) {
        queue_answer one;
        if (n < sizeof one)
            return bad_frame();
        memcpy(&one, p, sizeof one);
        if (one.bytes > n - sizeof one)
            return bad_frame();
        WEFT_TRY(take_answer(q, &one, p + sizeof one));
        p += sizeof one + one.bytes;
        n -= sizeof one + one.bytes;
    }
    q->by[a->replica] += a->answers;
    return n == 0 ? WEFT_OK : bad_frame();
}

/* ---- Dealing out ---- */

bool queue_is_blank(const char *line, size_t n) {
    size_t k = 0;
    while (k < n && strchr(" \t\r", line[k]) && line[k])
        k++;
    return k == n;
}

static bool is_done(const batch_queue *q, int64_t line) {
    return q->o.out->done && line <= q->o.out->lines && q->o.out->done[line];
}

static void deal(batch_queue *q, const char *line, size_t n, buf *reply) {
    queue_held *h = mem_alloc(sizeof *h);
    queue_line head = {.line = q->o.in->number, .bytes = n};
    h->line = head.line;
    buf_init(&h->text, LINE_BYTES);
    *q->last = h;
    q->last = &h->next;
    q->held++;
    q->dealt++;
    buf_add(reply, &head, sizeof head);
    buf_add(reply, line, n);
}

/* Among several, no replica takes at once more than its share of what is left, if that is known. */
static int64_t share(const batch_queue *q, int64_t room) {
    int64_t left = q->o.total - q->dealt, most = (left + q->o.replicas - 1) / q->o.replicas;
    return q->o.replicas > 1 && q->o.total > 0 && most > 0 && most < room ? most : room;
}

static weft_status deal_out(batch_queue *q, const queue_ask *a, queue_reply *r, buf *reply) {
    int64_t most = share(q, a->room);
    while (!q->eof && r->lines < most && q->held < q->o.window) {
        if (!(a->idle && r->lines == 0 && q->o.may_wait) && !cmd_lines_ready(q->o.in))
            break; /* a slow writer does not hold up what runs */
        const char *line;
        size_t n;
        WEFT_TRY(cmd_lines_next(q->o.in, &line, &n));
        q->eof = !line;
        if (q->eof || queue_is_blank(line, n) || is_done(q, q->o.in->number))
            continue;
        deal(q, line, n, reply);
        r->lines++;
    }
    return WEFT_OK;
}

/* ---- A replica's question ---- */

void queue_stats(const batch_queue *q, batch_stats *out) {
    *out = (batch_stats){0};
    for (int i = 0; i < q->o.replicas; i++) {
        const batch_stats *s = &q->stats[i];
        out->steps += s->steps;
        out->parts += s->parts;
        out->computed += s->computed;
        out->cached += s->cached;
        out->prompt += s->prompt;
        out->generated += s->generated;
        out->preempted += s->preempted;
        out->engine_seconds += s->engine_seconds;
        out->plan_seconds += s->plan_seconds;
        out->text_seconds += s->text_seconds;
    }
}

static void show_rate(batch_queue *q) {
    batch_stats now;
    double seconds = clock_seconds() - q->start;
    queue_stats(q, &now);
    snprintf(q->o.bar->note, sizeof q->o.bar->note, ", %.1f tok/s",
             seconds > 0 ? (double)now.generated / seconds : 0);
    progress_add(q->o.bar, 0);
}

static weft_status serve(batch_queue *q, const queue_ask *a, const char *p, uint64_t n,
                         queue_reply *r, buf *reply) {
    q->stats[a->replica] = a->stats;
    WEFT_TRY(take_answers(q, a, p, n));
    WEFT_TRY(write_finished(q));
    show_rate(q);
    if (*q->o.stopped == 0)
        WEFT_TRY(deal_out(q, a, r, reply));
    return reply->failed ? weft_fail(WEFT_NO_MEMORY, "%s: lines are too large", q->o.in->name)
                         : WEFT_OK;
}

weft_status queue_serve(void *queue, const char *ask, uint64_t n, buf *reply) {
    batch_queue *q = queue;
    queue_ask a;
    queue_reply r = {.lines = 0};
    buf lines;
    if (n < sizeof a)
        return bad_frame();
    memcpy(&a, ask, sizeof a);
    if (a.replica < 0 || a.replica >= q->o.replicas)
        return bad_frame();
    buf_init(&lines, SIZE_MAX);
    pthread_mutex_lock(&q->lock);
    if (q->status == WEFT_OK)
        note_failure(q, serve(q, &a, ask + sizeof a, n - sizeof a, &r, &lines));
    r.stop = q->status != WEFT_OK ? -1 : (int)*q->o.stopped;
    r.empty = q->eof;
    r.over = q->eof && q->held == 0;
    r.failed = q->o.out->n_failed + q->o.sum->failed > 0;
    pthread_mutex_unlock(&q->lock);
    buf_add(reply, &r, sizeof r);
    buf_add(reply, lines.data, lines.len);
    buf_fini(&lines);
    return WEFT_OK;
}
