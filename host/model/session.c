/* SPDX-License-Identifier: Apache-2.0
 * A turn: messages to ids, ids to the sequence by their common prefix, and the answer back to a
 * message. */
#include "host/model/session.h"
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include <string.h>

enum { ANSWER_MAX = 1 << 26, ROOM_PART = 4 };

weft_status session_open(session *s, weft_engine *e, const chat_template *t) {
    *s = (session){.engine = e, .stop_id = -1};
    const tokenizer *tok = (const tokenizer *)weft_engine_tokenizer(e);
    if (!tok)
        return weft_fail(WEFT_USAGE, "chat: the model's folder has no tokenizer");
    weft_engine_describe(e, &s->info);
    WEFT_TRY(chat_prompt_init(&s->prompt, tok, t));
    chat_prompt_stop(&s->prompt, &s->stop_id, s->stop_text);
    return weft_seq_open(e, NULL, &s->seq);
}

void session_close(session *s) {
    session_cut(s, 0);
    mem_free(s->message);
    weft_seq_close(s->seq);
    *s = (session){0};
}

/* ---- Messages ---- */

static void make_room(session *s) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->message = mem_grow(s->message, sizeof *s->message * s->cap);
    }
}

void session_add(session *s, chat_message m) {
    make_room(s);
    s->message[s->n++] = m;
}

void session_cut(session *s, size_t n) {
    while (s->n > n)
        chat_message_free(&s->message[--s->n]);
}

static void remove_range(session *s, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        chat_message_free(&s->message[i]);
    memmove(s->message + begin, s->message + end, sizeof *s->message * (s->n - end));
    s->n -= end - begin;
}

static bool has_system(const session *s) {
    return s->n > 0 && chat_message_is(&s->message[0], "system");
}

const char *session_system_text(const session *s) {
    return has_system(s) ? s->message[0].content : NULL;
}

void session_system(session *s, const char *text) {
    if (has_system(s))
        remove_range(s, 0, 1);
    if (!text || !*text)
        return;
    make_room(s);
    memmove(s->message + 1, s->message, sizeof *s->message * s->n++);
    s->message[0] = chat_message_new("system", text, strlen(text));
}

size_t session_last(const session *s, const char *role) {
    for (size_t i = s->n; i-- > 0;)
        if (chat_message_is(&s->message[i], role))
            return i;
    return s->n;
}

/* ---- What fits ---- */

static bool leads(const chat_message *m) {
    return chat_message_is(m, "system") || chat_message_is(m, "developer");
}

/* The conversation without messages [head, from): where turns begin is where users speak. */
typedef struct {
    chat_message *m; /* borrowed contents */
    size_t head, from, n;
} view;

static view view_all(const session *s) {
    view v = {.m = mem_alloc(sizeof *v.m * (s->n + 1)), .n = s->n};
    while (v.head < s->n && leads(&s->message[v.head]))
        v.head++;
    v.from = v.head;
    return v;
}

static weft_status view_ids(const session *s, view *v, tok_ids *out, bool *exposed) {
    size_t left = v->n - v->from;
    if (v->head > 0)
        memcpy(v->m, s->message, sizeof *v->m * v->head);
    if (left > 0)
        memcpy(v->m + v->head, s->message + v->from, sizeof *v->m * left);
    out->n = 0;
    WEFT_TRY(chat_prompt_ids(&s->prompt, v->m, v->head + left, out, exposed));
    return out->n ? WEFT_OK
                  : weft_fail(WEFT_BAD_FILE, "%s: renders this conversation to nothing",
                              chat_template_name(s->prompt.template));
}

/* Where the turn behind the one at v->from begins; v->n if that is the last. */
static size_t next_turn(const session *s, size_t from) {
    size_t i = from + 1;
    while (i < s->n && !chat_message_is(&s->message[i], "user"))
        i++;
    return i < s->n ? i : s->n;
}

static size_t bytes(const session *s, size_t begin, size_t end) {
    size_t n = 0;
    for (size_t i = begin; i < end; i++)
        n += s->message[i].n;
    return n;
}

/* Gives up turns worth about `excess` of `total` tokens, judged by their share of the text. */
static bool drop(const session *s, view *v, size_t excess, size_t total, size_t *dropped) {
    double per_byte = (double)total / (double)(bytes(s, v->from, v->n) + 1), gone = 0;
    size_t at = v->from;
    do {
        size_t next = next_turn(s, at);
        if (next == s->n)
            break;
        gone += (double)bytes(s, at, next) * per_byte;
        at = next;
        ++*dropped;
    } while (gone < 0.9 * (double)excess);
    bool any = at > v->from;
    v->from = at;
    return any;
}

/* Tokens kept free for an answer. */
static size_t room(const session *s, const weft_request *req) {
    size_t part = (size_t)s->info.ctx_size / ROOM_PART;
    size_t most = req->max_tokens > 0 ? (size_t)req->max_tokens : part;
    return most < part ? most : part > 0 ? part : 1;
}

static weft_status too_long(const session *s, size_t n) {
    return weft_fail(
        WEFT_USAGE,
        "message: is %zu tokens with its template%s, and the context has %d; shorten it "
        "or raise --ctx-size (the model allows %d)",
        n, session_system_text(s) ? " and the system message" : "", (int)s->info.ctx_size,
        (int)s->info.max_ctx);
}

/* Ids of as many of the latest turns as leave room for an answer. */
static weft_status fit(const session *s, view *v, const weft_request *req, tok_ids *ids,
                       session_turn *out) {
    size_t ctx = (size_t)s->info.ctx_size, keep = room(s, req);
    for (;;) {
        WEFT_TRY(view_ids(s, v, ids, &out->exposed));
        if (ids->n + keep <= ctx)
            return WEFT_OK;
        if (!drop(s, v, ids->n + keep - ctx, ids->n, &out->dropped))
            return ids->n < ctx ? WEFT_OK : too_long(s, ids->n);
    }
}

weft_status session_ids(const session *s, tok_ids *out) {
    bool exposed;
    return chat_prompt_ids(&s->prompt, s->message, s->n, out, &exposed);
}

/* ---- The answer ---- */

typedef struct {
    buf text;
    tok_ids ids;
    weft_token_fn *fn;
    void *user;
} answer;

static bool on_token(void *user, const weft_token *t) {
    answer *a = user;
    if (t->id >= 0)
        tok_ids_add(&a->ids, t->id);
    buf_add(&a->text, t->text, t->n_text);
    return (!a->fn || a->fn(a->user, t)) && !a->text.failed;
}

/* Leaves the sequence holding exactly `ids`, with what it has in common with them kept. */
static weft_status rewind_to(session *s, const tok_ids *ids, int32_t *reused) {
    size_t n, same = 0;
    const int32_t *have = weft_seq_tokens(s->seq, &n);
    while (same < n && same < ids->n && have[same] == ids->v[same])
        same++;
    WEFT_TRY(weft_seq_truncate(s->seq, same));
    WEFT_TRY(weft_seq_append(s->seq, ids->v + same, ids->n - same));
    *reused = (int32_t)(same < ids->n ? same : same - 1); /* the last one is computed again */
    return WEFT_OK;
}

/* The caller's request, with what ends a turn of this template and the attempt's random numbers. */
typedef struct {
    weft_request req;
    weft_sampling sampling;
    int32_t *stop_id;
    const char **stop;
} request;

static void request_init(const session *s, const weft_request *from, request *r) {
    size_t ids = (size_t)from->n_stop_id, texts = (size_t)from->n_stop;
    *r = (request){.req = *from,
                   .sampling = from->sampling ? *from->sampling : weft_sampling_default(s->engine),
                   .stop_id = mem_alloc(sizeof *r->stop_id * (ids + 1)),
                   .stop = mem_alloc(sizeof *r->stop * (texts + 1))};
    if (ids > 0)
        memcpy(r->stop_id, from->stop_id, sizeof *r->stop_id * ids);
    if (texts > 0)
        memcpy(r->stop, from->stop, sizeof *r->stop * texts);
    if (s->stop_id >= 0 && !from->ignore_eos)
        r->stop_id[r->req.n_stop_id++] = s->stop_id;
    if (s->stop_text[0] && !from->ignore_eos)
        r->stop[r->req.n_stop++] = s->stop_text;
    r->sampling.stream = s->attempt;
    r->req.seq = s->seq;
    r->req.prompt = NULL;
    r->req.ids = NULL;
    r->req.stop_id = r->stop_id;
    r->req.stop = r->stop;
    r->req.sampling = &r->sampling;
}

static void add_answer(session *s, const answer *a) {
    chat_message m = chat_message_new("assistant", a->text.data, a->text.len);
    if (a->ids.n > 0 && chat_ids_spell(s->prompt.tok, a->ids.v, a->ids.n, m.content, m.n)) {
        m.ids = mem_alloc(sizeof *m.ids * a->ids.n);
        memcpy(m.ids, a->ids.v, sizeof *m.ids * a->ids.n);
        m.n_ids = a->ids.n;
    }
    session_add(s, m);
}

static weft_status generate(session *s, const weft_request *from, answer *a, session_turn *out) {
    request r;
    request_init(s, from, &r);
    weft_status st = weft_generate(s->engine, &r.req, on_token, a, &out->result);
    if (st == WEFT_OK && a->text.failed)
        st = weft_fail(WEFT_NO_MEMORY, "answer: is too long (limit %d bytes)", ANSWER_MAX);
    int32_t end = out->result.n_prompt + out->result.n_generated;
    out->full = out->result.finish == WEFT_FINISH_LENGTH && end > s->info.ctx_size;
    mem_free(r.stop_id);
    mem_free(r.stop);
    return st;
}

weft_status session_answer(session *s, const weft_request *req, weft_token_fn *fn, void *user,
                           session_turn *out) {
    answer a = {.fn = fn, .user = user};
    view v = view_all(s);
    tok_ids ids = {0};
    *out = (session_turn){0};
    buf_init(&a.text, ANSWER_MAX);
    weft_status st = fit(s, &v, req, &ids, out);
    if (st == WEFT_OK) {
        remove_range(s, v.head, v.from);
        st = rewind_to(s, &ids, &out->reused);
    }
    if (st == WEFT_OK)
        st = generate(s, req, &a, out);
    if (st == WEFT_OK)
        add_answer(s, &a);
    tok_ids_fini(&ids);
    tok_ids_fini(&a.ids);
    buf_fini(&a.text);
    mem_free(v.m);
    return st;
}
