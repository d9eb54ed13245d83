/* SPDX-License-Identifier: Apache-2.0
 * A conversation as a file: messages with the ids the model wrote, what chooses tokens, and the
 * time and attempt the text depends on. */
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/cmd/chat.h"
#include <inttypes.h>
#include <string.h>

enum { FILE_MAX = 1 << 28, FORMAT = 1 };

/* The whole text up to the end of the last answer as ids: two places that agree in these go on
 * alike. Empty if there is no answer or the template refuses the conversation. */
static void history_ids(const session *s, tok_ids *out) {
    size_t last = session_last(s, "assistant");
    session before = *s;
    before.n = last;
    if (last == s->n || !s->message)
        return;
    if (session_ids(&before, out) != WEFT_OK) {
        out->n = 0;
        err_clear();
        return;
    }
    const chat_message *answer = &s->message[last];
    for (size_t i = 0; i < answer->n_ids; i++)
        tok_ids_add(out, answer->ids[i]);
}

static void add_ids(buf *b, const int32_t *ids, size_t n) {
    buf_putc(b, '[');
    for (size_t i = 0; i < n; i++)
        buf_printf(b, "%s%d", i ? "," : "", (int)ids[i]);
    buf_putc(b, ']');
}

static void add_message(buf *b, const chat_message *m) {
    buf_puts(b, "{\"role\": ");
    buf_json_line(b, m->role, strlen(m->role));
    buf_puts(b, ", \"content\": ");
    buf_json_line(b, m->content, m->n);
    if (m->ids) {
        buf_puts(b, ", \"ids\": ");
        add_ids(b, m->ids, m->n_ids);
    }
    buf_putc(b, '}');
}

weft_status chat_save(const chat_state *c, const char *path) {
    const session *s = &c->session;
    tok_ids ids = {0};
    buf b;
    buf_init(&b, FILE_MAX);
    history_ids(s, &ids);
    buf_printf(&b, "{\"weft_chat\": %d,\n \"model\": ", FORMAT);
    buf_json_line(&b, c->model, strlen(c->model));
    buf_puts(&b, ",\n \"template\": ");
    buf_json_line(&b, chat_template_name(c->template), strlen(chat_template_name(c->template)));
    buf_printf(&b, ",\n \"now\": %" PRId64 ",\n \"attempt\": %" PRIu64 ",\n \"sampling\": ",
               s->prompt.now, s->attempt);
    chat_set_json(&c->set, &b);
    buf_puts(&b, ",\n \"messages\": [");
    for (size_t i = 0; i < s->n; i++) {
        buf_puts(&b, i ? ",\n  " : "\n  ");
        add_message(&b, &s->message[i]);
    }
    buf_puts(&b, "],\n \"tokens\": ");
    add_ids(&b, ids.v, ids.n);
    buf_printf(&b, ",\n \"position\": %zu}\n", ids.n);
    weft_status st = b.failed ? weft_fail(WEFT_NO_MEMORY, "%s: the conversation is too large", path)
                              : file_write_atomic(path, b.data, b.len);
    tok_ids_fini(&ids);
    buf_fini(&b);
    return st;
}

/* ---- Loading: everything is read and checked before anything changes ---- */

typedef struct {
    session s; /* messages, attempt and time only */
    json_str sampling;
    tok_ids tokens;
    int64_t vocab;
    bool respelt; /* ids that do not spell their content were left out */
} loaded;

static void read_ids(json *j, int64_t vocab, tok_ids *out) {
    json_array(j);
    while (json_item(j))
        tok_ids_add(out, (int32_t)json_int(j, 0, vocab - 1));
}

static void keep_ids(loaded *l, chat_message *m, const tok_ids *ids) {
    if (ids->n == 0)
        return;
    if (!chat_ids_spell(l->s.prompt.tok, ids->v, ids->n, m->content, m->n)) {
        l->respelt = true;
        return;
    }
    m->ids = mem_alloc(sizeof *m->ids * ids->n);
    memcpy(m->ids, ids->v, sizeof *m->ids * ids->n);
    m->n_ids = ids->n;
}

static void read_message(json *j, loaded *l) {
    json_str role = {0}, content = {0};
    tok_ids ids = {0};
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "role"))
            role = (json_str){json_text(j), 0};
        else if (json_is(key, "content"))
            content = json_string(j);
        else if (json_is(key, "ids"))
            read_ids(j, l->vocab, &ids);
        else
            json_skip(j);
    }
    if (!json_failed(j) && (!role.s || !*role.s || !content.s))
        json_fail(j, "messages[%zu]: needs \"role\" and \"content\", both text", l->s.n);
    if (!json_failed(j)) {
        chat_message m = chat_message_new(role.s, content.s, content.n);
        keep_ids(l, &m, &ids);
        session_add(&l->s, m);
    }
    tok_ids_fini(&ids);
}

static weft_status read_file(json *j, loaded *l) {
    bool ours = false;
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "weft_chat"))
            ours = json_int(j, FORMAT, FORMAT);
        else if (json_is(key, "now"))
            l->s.prompt.now = json_int(j, 0, INT64_C(253402300799));
        else if (json_is(key, "attempt"))
            l->s.attempt = (uint64_t)json_int(j, 0, INT64_MAX);
        else if (json_is(key, "sampling"))
            l->sampling = json_raw(j);
        else if (json_is(key, "tokens"))
            read_ids(j, l->vocab, &l->tokens);
        else if (json_is(key, "messages")) {
            json_array(j);
            while (json_item(j))
                read_message(j, l);
        } else
            json_skip(j);
    }
    if (!json_failed(j) && !ours)
        json_fail(j, "\"weft_chat\" is missing: this is no conversation that /save wrote");
    return json_done(j);
}

static bool goes_on_alike(const loaded *l) {
    tok_ids now = {0};
    history_ids(&l->s, &now);
    bool same = now.n == l->tokens.n &&
                (now.n == 0 || memcmp(now.v, l->tokens.v, now.n * sizeof *now.v) == 0);
    tok_ids_fini(&now);
    return same;
}

static void replace(chat_state *c, loaded *l) {
    session *s = &c->session;
    session_cut(s, 0);
    for (size_t i = 0; i < l->s.n; i++)
        session_add(s, l->s.message[i]);
    l->s.n = 0;
    s->attempt = l->s.attempt;
    s->prompt.now = l->s.prompt.now;
}

weft_status chat_load(chat_state *c, const char *path) {
    const session *s = &c->session;
    arena a = {0};
    const char *data;
    size_t n;
    loaded l = {.s = {.prompt = s->prompt, .engine = s->engine}, .vocab = s->info.vocab};
    weft_status st = file_read(path, FILE_MAX, &a, &data, &n);
    if (st == WEFT_OK) {
        json j;
        json_init(&j, path, data, n, &a);
        st = read_file(&j, &l);
    }
    if (st == WEFT_OK && l.sampling.s)
        st = chat_set_load(&c->set, l.sampling, path);
    if (st == WEFT_OK) {
        bool alike = goes_on_alike(&l);
        replace(c, &l);
        if (l.respelt)
            cmd_warn("%s: the ids of an answer do not spell its text; the text counts", path);
        else if (!alike)
            cmd_warn("%s: was written with another model, tokenizer or template; the conversation "
                     "may go on differently",
                     path);
    }
    session_cut(&l.s, 0);
    mem_free(l.s.message);
    tok_ids_fini(&l.tokens);
    arena_fini(&a);
    return st;
}
