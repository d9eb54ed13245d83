/* SPDX-License-Identifier: Apache-2.0
 * Between two steps a replica trades answers for lines. */
#include "host/cmd/batch_replica.h"
#include "host/base/clock.h"
#include "host/model/engine.h"
#include "host/serve/api.h"
#include "weft/rng.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 1 << 29, IDLE_US = 2000 };
#define LOOK_SECONDS 0.05 /* how long the queue may go without news */

typedef struct replica replica;
typedef struct item item;
struct item {
    replica *of;
    item *next; /* among the finished, or among the open */
    int64_t line;
    api_request request;
    api_answer answer;
    batch_job *job;
    bool error, measured;
    batch_result result;
    buf text; /* of its output */
};

struct replica {
    const replica_options *o;
    weft_engine *e;
    api api;
    batch *batch;
    item *open;     /* submitted, in no order */
    item *finished; /* and not yet handed in; the latest first */
    bool empty, over, closing;
    replica_end end;
    double asked;
    buf ask, reply;
    weft_status status; /* of a callback: what ends the run */
    char why[1024];     /* its message */
};

/* A seed of its own for each line that names none: Philox of the run's and the line's number. */
static uint64_t seed_of(const replica *r, int64_t line) {
    weft_philox x = weft_philox4x32(r->o->seed, 0x62617463, (uint64_t)line);
    return ((uint64_t)x.v[0] << 32 | x.v[1]) >> 11;
}

static void free_item(item *i) {
    api_answer_fini(&i->answer);
    api_request_fini(&i->request);
    buf_fini(&i->text);
    mem_free(i);
}

static void begin_record(item *i, const char *custom_id) {
    buf_printf(&i->text, "{\"id\":\"line-%" PRId64 "\",\"custom_id\":", i->line);
    if (custom_id)
        buf_json_line(&i->text, custom_id, strlen(custom_id));
    else
        buf_puts(&i->text, "null");
}

static void finish(item *i) {
    replica *r = i->of;
    item **at = &r->open;
    while (*at != i)
        at = &(*at)->next;
    *at = i->next;
    i->next = r->finished;
    r->finished = i;
}

static void write_error(item *i, const char *code, const char *why) {
    buf_clear(&i->text);
    begin_record(i, i->request.custom_id);
    buf_printf(&i->text,
               ",\"response\":null,\"error\":{\"code\":\"%s\",\"line\":%" PRId64 ",\"message\":",
               code, i->line);
    buf_json_line(&i->text, why, strlen(why));
    buf_puts(&i->text, "}}\n");
    i->error = true;
    finish(i);
}

static void write_answer(item *i, const weft_result *result) {
    begin_record(i, i->request.custom_id);
    buf_printf(&i->text,
               ",\"response\":{\"status_code\":200,\"request_id\":\"line-%" PRId64 "\",\"body\":",
               i->line);
    api_answer_write(&i->answer, result, &i->text);
    buf_puts(&i->text, "},\"error\":null}\n");
    finish(i);
}

/* Is it the line that is wrong, or this machine? */
static bool of_the_line(weft_status s) {
    return s == WEFT_USAGE || s == WEFT_UNSUPPORTED || s == WEFT_BAD_FILE;
}

static void stop_run(replica *r, weft_status s) {
    if (s == WEFT_OK || r->status != WEFT_OK)
        return;
    r->status = s;
    snprintf(r->why, sizeof r->why, "%s", weft_error());
}

static void on_done(void *user, batch_job *job, weft_status s, const batch_result *result) {
    item *i = ((api_answer *)user)->owner;
    replica *r = i->of;
    (void)job;
    i->job = NULL;
    if (r->closing)
        return;
    i->measured = s == WEFT_OK;
    i->result = *result;
    if (s != WEFT_OK && !of_the_line(s))
        stop_run(r, s);
    else if (s != WEFT_OK)
        write_error(i, "failed", weft_error());
    else if (result->result.finish == WEFT_FINISH_CANCELLED)
        write_error(i, "failed", "answer: is too large");
    else
        write_answer(i, &result->result);
}

/* ---- Lines ---- */

static weft_status submit(replica *r, item *i, const char *name, const char *line, size_t n) {
    WEFT_TRY(api_read_line(&r->api, name, line, n, &i->request));
    if (!i->request.seeded)
        i->request.sampling.seed = seed_of(r, i->line);
    batch_call call = {.request = &i->request.req,
                       .on_token = api_answer_token,
                       .on_done = on_done,
                       .user = &i->answer};
    return batch_submit(r->batch, &call, &i->job);
}

static weft_status add_line(replica *r, int64_t number, const char *line, size_t n) {
    item *i = mem_alloc(sizeof *i);
    arena names = {0};
    i->of = r;
    i->line = number;
    buf_init(&i->text, LINE_BYTES);
    api_answer_init(&i->answer, &r->api, &i->request);
    i->answer.owner = i;
    i->next = r->open;
    r->open = i;
    weft_status s = submit(r, i, arena_printf(&names, "%s:%" PRId64, r->o->input, number), line, n);
    arena_fini(&names);
    if (s == WEFT_OK || !of_the_line(s))
        return s;
    write_error(i, "invalid_request", weft_error());
    return WEFT_OK;
}

static weft_status take_reply(replica *r) {
    const char *p = r->reply.data, *end = p + r->reply.len;
    queue_reply head;
    if (r->reply.len == 0)
        return WEFT_OK;
    memcpy(&head, p, sizeof head);
    p += sizeof head;
    r->end = (replica_end){head.stop, head.failed != 0};
    r->over = head.over;
    r->empty = head.empty;
    for (int i = 0; i < head.lines && !r->end.stop; i++) {
        queue_line line;
        memcpy(&line, p, sizeof line);
        p += sizeof line;
        WEFT_ASSERT(line.bytes <= (uint64_t)(end - p));
        WEFT_TRY(add_line(r, line.line, p, line.bytes));
        p += line.bytes;
    }
    return WEFT_OK;
}

/* ---- The queue ---- */

static bool leads(const replica *r) {
    return r->e->self <= 0;
}

/* Alone it has lines ready beside those that run; among several each takes what it has room for,
 * so that none waits for another at the end. */
static int room(const replica *r, const batch_stats *now) {
    int most = r->o->replicas > 1 ? r->o->max_seqs - now->running : r->o->max_seqs;
    return r->empty || now->waiting >= most ? 0 : most - now->waiting;
}

static void hand_in(replica *r) {
    while (r->finished) {
        item *i = r->finished;
        queue_answer a = {.line = i->line,
                          .error = i->error,
                          .measured = i->measured,
                          .bytes = i->text.len,
                          .result = i->result};
        buf_add(&r->ask, &a, sizeof a);
        buf_add(&r->ask, i->text.data, i->text.len);
        r->finished = i->next;
        free_item(i);
    }
}

static weft_status put_question(replica *r, const queue_ask *a) {
    buf_clear(&r->ask);
    buf_add(&r->ask, a, sizeof *a);
    hand_in(r);
    if (r->ask.failed)
        return weft_fail(WEFT_NO_MEMORY, "answers: are too large");
    r->asked = clock_seconds();
    if (!r->o->serve)
        return queue_serve(r->o->queue, r->ask.data, r->ask.len, &r->reply);
    return comm_ask(r->o->serve, r->ask.data, r->ask.len, &r->reply);
}

/* Where there is something to say, or it is time to hear whether all is well. */
static weft_status ask(replica *r) {
    queue_ask a = {.replica = r->e->replica};
    bool late = clock_seconds() - r->asked > LOOK_SECONDS;
    batch_describe(r->batch, &a.stats);
    a.room = room(r, &a.stats);
    a.idle = batch_idle(r->batch);
    for (const item *i = r->finished; i; i = i->next)
        a.answers++;
    if (a.answers == 0 && a.room == 0 && !a.idle && !late)
        return WEFT_OK;
    WEFT_TRY(put_question(r, &a));
    queue_reply head;
    memcpy(&head, r->reply.data, sizeof head);
    if (a.idle && head.lines == 0 && !head.over && !head.stop)
        usleep(IDLE_US);
    return WEFT_OK;
}

static weft_status to_all_ranks(replica *r) {
    uint64_t n = r->reply.len;
    comm *c;
    if (r->e->self < 0)
        return WEFT_OK;
    c = &r->e->rank[r->e->self].end[WEFT_GROUP_WORLD];
    WEFT_TRY(comm_broadcast(c, 0, &n, sizeof n, "lines"));
    if (n == 0)
        return WEFT_OK;
    if (!leads(r)) {
        char *data = mem_alloc(n);
        weft_status s = comm_broadcast(c, 0, data, n, "lines");
        buf_add(&r->reply, data, n);
        mem_free(data);
        return s;
    }
    return comm_broadcast(c, 0, r->reply.data, n, "lines");
}

static void drop_all(item **list) {
    while (*list) {
        item *i = *list;
        *list = i->next;
        free_item(i);
    }
}

static weft_status trade(replica *r) {
    buf_clear(&r->reply);
    if (leads(r))
        WEFT_TRY(ask(r));
    else
        drop_all(&r->finished);
    WEFT_TRY(to_all_ranks(r));
    WEFT_TRY(take_reply(r));
    /* Without steps to fail, an idle replica would not hear of the others. */
    return comm_status(r->e->rank[r->e->self < 0 ? 0 : r->e->self].link);
}

static weft_status loop(replica *r) {
    for (;;) {
        WEFT_TRY(trade(r));
        if (r->end.stop || r->over)
            return WEFT_OK;
        if (!batch_idle(r->batch))
            WEFT_TRY(batch_step(r->batch));
        if (r->status != WEFT_OK)
            return weft_fail(r->status, "%s", r->why);
    }
}

/* ---- Life ---- */

/* The others, of this process or not, end too. */
static void tell_failure(const replica *r, weft_status s) {
    if (r->o->queue)
        queue_fail(r->o->queue, s);
    if (r->e->self >= 0)
        comm_abort(r->e->rank[r->e->self].link, s);
}

static void open_replica(replica *r, const replica_options *o, weft_engine *e) {
    *r = (replica){.o = o, .e = e};
    buf_init(&r->ask, SIZE_MAX);
    buf_init(&r->reply, SIZE_MAX);
    api_init(&r->api, e, o->model, o->template, o->preset);
    r->batch = batch_open(e, &(batch_options){0});
}

static void close_replica(replica *r) {
    r->closing = true;
    batch_close(r->batch);
    drop_all(&r->finished);
    drop_all(&r->open);
    api_fini(&r->api);
    buf_fini(&r->ask);
    buf_fini(&r->reply);
}

weft_status replica_run(const replica_options *o, weft_engine *e, replica_end *end) {
    replica r;
    open_replica(&r, o, e);
    weft_status s = loop(&r);
    if (s != WEFT_OK)
        tell_failure(&r, s);
    *end = r.end;
    close_replica(&r);
    return s;
}
