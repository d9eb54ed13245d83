/* SPDX-License-Identifier: Apache-2.0
 * `weft run --chat`: the prompt is a conversation, rendered once with the model's template. */
#include "host/cmd/run_chat.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/cmd/cmd.h"
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 28, EXTRAS = 64 };

typedef struct {
    arena mem; /* the file and its strings */
    const char *name;
    chat_message *m;
    size_t n;
    const char *extra[2 * EXTRAS + 1];
    int n_extra;
} conversation;

weft_status run_chat_check(const run_chat_args *a, const cmd_prompt_args *p) {
    bool prompt = p->text || p->file;
    const char *needs = a->messages             ? "--messages"
                        : a->chat.system        ? "--system"
                        : a->chat.chat_template ? "--chat-template"
                                                : NULL;
    if (!a->on && needs)
        return weft_fail(WEFT_USAGE, "%s: needs --chat", needs);
    if (!a->on)
        return WEFT_OK;
    if (p->ids)
        return weft_fail(WEFT_USAGE, "--chat and --ids: a template needs text; give -p, -f or "
                                     "--messages");
    if (!prompt && !a->messages)
        return weft_fail(WEFT_USAGE, "--chat: needs a message; give -p, -f or --messages");
    return WEFT_OK;
}

/* ---- What is said ---- */

static void add(conversation *c, chat_message m) {
    if ((c->n & (c->n + 1)) == 0) /* full at every power of two less one */
        c->m = mem_grow(c->m, sizeof *c->m * (2 * c->n + 1));
    c->m[c->n++] = m;
}

/* Messages of another shape are refused by the template's reader, by path. */
static void read_messages(json *j, conversation *c) {
    json_array(j);
    while (json_item(j)) {
        json_str raw = json_raw(j);
        chat_message m;
        if (json_failed(j))
            break;
        chat_message_parse(c->name, raw.s, raw.n, &m);
        add(c, m);
    }
}

static void read_extra(json *j, conversation *c, json_str key) {
    json_str raw = json_raw(j);
    if (c->n_extra == EXTRAS) {
        json_fail(j, "more than %d arguments", EXTRAS);
        return;
    }
    c->extra[2 * c->n_extra] = json_dup(&c->mem, key);
    c->extra[2 * c->n_extra++ + 1] = json_dup(&c->mem, raw);
}

static weft_status read_file(conversation *c, const char *path) {
    const char *data;
    size_t n;
    json j;
    bool found = false;
    c->name = strcmp(path, "-") == 0 ? "standard input" : path;
    WEFT_TRY(file_read(path, FILE_MAX, &c->mem, &data, &n));
    json_init(&j, c->name, data, n, &c->mem);
    if (json_peek(&j) == JSON_ARRAY) {
        read_messages(&j, c);
        return json_done(&j);
    }
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (json_is(key, "messages")) {
            read_messages(&j, c);
            found = true;
        } else if (json_is(key, "add_generation_prompt")) {
            json_skip(&j); /* an answer is what is asked for */
        } else {
            read_extra(&j, c, key);
        }
    }
    if (!found && !json_failed(&j))
        json_fail(&j, "messages: missing; give an array of {\"role\", \"content\"} or an object "
                      "that has one");
    return json_done(&j);
}

static weft_status read_prompt(conversation *c, const cmd_prompt_args *p) {
    const char *path = p->file ? p->file : p->text, *data = p->text;
    size_t n = p->text ? strlen(p->text) : 0;
    if (p->file || strcmp(path, "-") == 0)
        WEFT_TRY(file_read(path, FILE_MAX, &c->mem, &data, &n));
    add(c, chat_message_new("user", data, n));
    return WEFT_OK;
}

static weft_status read_conversation(conversation *c, const run_chat_args *a,
                                     const cmd_prompt_args *p) {
    if (a->chat.system)
        add(c, chat_message_new("system", a->chat.system, strlen(a->chat.system)));
    if (a->messages)
        WEFT_TRY(read_file(c, a->messages));
    if (p->text || p->file)
        WEFT_TRY(read_prompt(c, p));
    if (c->n == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: messages: is empty", c->name);
    return WEFT_OK;
}

static void free_conversation(conversation *c) {
    for (size_t i = 0; i < c->n; i++)
        chat_message_free(&c->m[i]);
    mem_free(c->m);
    arena_fini(&c->mem);
}

/* ---- What comes of it ---- */

static weft_status open_prompt(const run_chat_args *a, const char *model, const weft_engine *e,
                               chat_template **t, chat_prompt *prompt) {
    const tokenizer *tok = (const tokenizer *)weft_engine_tokenizer(e);
    if (!tok)
        return weft_fail(WEFT_USAGE, "--chat: the model's folder has no tokenizer");
    WEFT_TRY(chat_template_open(model, a->chat.chat_template, t));
    return chat_prompt_init(prompt, tok, *t);
}

static weft_status make(run_chat *out, const run_chat_args *a, const cmd_prompt_args *p,
                        const char *model, const weft_engine *e, chat_template **t, conversation *c,
                        tok_ids *ids) {
    chat_prompt prompt;
    bool exposed;
    WEFT_TRY(read_conversation(c, a, p));
    WEFT_TRY(open_prompt(a, model, e, t, &prompt));
    prompt.name = c->name;
    prompt.extra = c->extra;
    WEFT_TRY(chat_prompt_ids(&prompt, c->m, c->n, ids, &exposed));
    if (exposed)
        cmd_warn("a message spells a control token, and this template hides where messages are: "
                 "it counts as one");
    chat_prompt_stop(&prompt, &out->stop_id, out->stop_text);
    return WEFT_OK;
}

weft_status run_chat_open(run_chat *out, const run_chat_args *a, const cmd_prompt_args *p,
                          const char *model, const weft_engine *e, int32_t **ids, size_t *n) {
    conversation c = {0};
    chat_template *t = NULL;
    tok_ids made = {0};
    *out = (run_chat){.stop_id = -1};
    weft_status s = make(out, a, p, model, e, &t, &c, &made);
    if (s == WEFT_OK) {
        *n = made.n;
        *ids = mem_alloc(sizeof **ids * (made.n + 1));
        if (made.n > 0)
            memcpy(*ids, made.v, sizeof **ids * made.n);
    }
    tok_ids_fini(&made);
    chat_template_close(t);
    free_conversation(&c);
    return s;
}

/* The request's stops and, behind them, what ends a turn of the template. */
void run_chat_stops(run_chat *r, weft_request *req) {
    size_t ids = (size_t)req->n_stop_id, texts = (size_t)req->n_stop;
    if (req->ignore_eos)
        return;
    r->id = mem_alloc(sizeof *r->id * (ids + 1));
    r->text = mem_alloc(sizeof *r->text * (texts + 1));
    if (ids > 0)
        memcpy(r->id, req->stop_id, sizeof *r->id * ids);
    if (texts > 0)
        memcpy(r->text, req->stop, sizeof *r->text * texts);
    r->id[ids] = r->stop_id;
    r->text[texts] = r->stop_text;
    req->n_stop_id += r->stop_id >= 0;
    req->n_stop += r->stop_text[0] != 0;
    req->stop_id = r->id;
    req->stop = r->text;
}

void run_chat_close(run_chat *r) {
    mem_free(r->id);
    mem_free(r->text);
}
