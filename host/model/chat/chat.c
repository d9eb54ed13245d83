/* SPDX-License-Identifier: Apache-2.0
 * Finding a model's chat template, and rendering conversations with it. */
#include "host/model/chat/chat.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/model/chat/chat_builtin.h"
#include "host/model/chat/jinja.h"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { CONFIG_MAX = 64 << 20, BUILTINS_MAX = 32, JSON_NESTING = 200 };

struct chat_template {
    arena mem;
    const char *name;
    jinja_template *main, *tool_use; /* tool_use: for conversations with tools; NULL: main too */
    const char *tokens;              /* a JSON object, or NULL */
};

/* ---- What a model's folder says ---- */

typedef struct {
    const char *name, *text, *where;
    size_t n;
} named_template;

typedef struct {
    arena *mem;
    named_template *t;
    int n, cap;
    buf tokens; /* "name":"text" pairs, comma separated */
} found;

static void found_add(found *f, const char *where, const char *name, const char *text, size_t n) {
    if (f->n == f->cap) {
        int cap = f->cap ? 2 * f->cap : 8;
        named_template *t = ARENA_NEW(f->mem, named_template, cap);
        if (f->n)
            memcpy(t, f->t, (size_t)f->n * sizeof *t);
        f->t = t;
        f->cap = cap;
    }
    f->t[f->n++] = (named_template){.name = name, .text = text, .where = where, .n = n};
}

static const named_template *found_named(const found *f, const char *name) {
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->t[i].name, name) == 0)
            return &f->t[i];
    return NULL;
}

/* {"name": ..., "template": ...} */
static void read_named(json *j, found *f) {
    json_str text = {"", 0};
    const char *name = "";
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "name"))
            name = json_text(j);
        else if (json_is(key, "template"))
            text = json_string(j);
    }
    found_add(f, arena_printf(f->mem, "%s: chat_template \"%s\"", j->name, name), name, text.s,
              text.n);
}

static void read_templates(json *j, found *f) {
    if (json_peek(j) == JSON_NULL) {
        json_null(j);
    } else if (json_peek(j) == JSON_ARRAY) {
        json_array(j);
        while (json_item(j))
            read_named(j, f);
    } else {
        json_str s = json_string(j);
        found_add(f, arena_printf(f->mem, "%s: chat_template", j->name), "default", s.s, s.n);
    }
}

/* "bos_token": a string, or an object with "content". */
static void read_token(json *j, found *f, json_str name) {
    json_str text = {NULL, 0};
    if (json_peek(j) == JSON_STRING) {
        text = json_string(j);
    } else if (json_peek(j) == JSON_OBJECT) {
        json_object(j);
        for (json_str key; json_key(j, &key);)
            if (json_is(key, "content") && json_peek(j) == JSON_STRING)
                text = json_string(j);
    }
    if (!text.s)
        return;
    buf_puts(&f->tokens, f->tokens.len ? "," : "");
    buf_json_string(&f->tokens, name.s, name.n);
    buf_putc(&f->tokens, ':');
    buf_json_string(&f->tokens, text.s, text.n);
}

static bool is_token_name(json_str key) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                        "sep_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_is(key, names[i]))
            return true;
    return false;
}

static weft_status read_config(const char *path, found *f, bool templates, bool tokens) {
    const char *text;
    size_t n;
    WEFT_TRY(file_read(path, CONFIG_MAX, f->mem, &text, &n));
    json j;
    json_init(&j, path, text, n, f->mem);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (templates && json_is(key, "chat_template"))
            read_templates(&j, f);
        else if (tokens && is_token_name(key))
            read_token(&j, f, key);
    }
    return json_done(&j);
}

static weft_status read_file(const char *path, const char *name, found *f) {
    const char *text;
    size_t n;
    WEFT_TRY(file_read(path, JINJA_SOURCE_MAX, f->mem, &text, &n));
    found_add(f, path, name, text, n);
    return WEFT_OK;
}

/* Templates in the order of chat.h; found_named gives the first of a name. */
static weft_status search_folder(const char *dir, const char *choice, found *f) {
    const char *jinja = file_join(f->mem, dir, "chat_template.jinja");
    const char *config = file_join(f->mem, dir, "tokenizer_config.json");
    const char *map = file_join(f->mem, dir, "special_tokens_map.json");
    const char *processor = file_join(f->mem, dir, "chat_template.json");
    const char *more = file_join(f->mem, dir, "additional_chat_templates");
    const char *name = choice && !strchr(choice, '/') ? choice : "tool_use";
    const char *extra = file_join(f->mem, more, arena_printf(f->mem, "%s.jinja", name));
    if (file_exists(jinja))
        WEFT_TRY(read_file(jinja, "default", f));
    if (file_exists(extra))
        WEFT_TRY(read_file(extra, name, f));
    if (file_exists(processor))
        WEFT_TRY(read_config(processor, f, true, false));
    if (file_exists(config))
        WEFT_TRY(read_config(config, f, true, true));
    if (f->tokens.len == 0 && file_exists(map))
        WEFT_TRY(read_config(map, f, false, true));
    return WEFT_OK;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static weft_status search(const char *path, const char *choice, found *f) {
    if (!path)
        return WEFT_OK;
    if (file_is_dir(path))
        return search_folder(path, choice, f);
    if (ends_with(path, ".json"))
        return read_config(path, f, true, true);
    return read_file(path, "default", f);
}

/* ---- A template's life ---- */

static const char *builtin_list(arena *a) {
    const char *list = "";
    for (int i = 0; chat_builtin_name(i); i++)
        list = arena_printf(a, "%s%s%s", list, i ? ", " : "", chat_builtin_name(i));
    return list;
}

const char *const *chat_template_builtins(void) {
    static const char *names[BUILTINS_MAX + 1];
    for (int i = 0; i < BUILTINS_MAX && chat_builtin_name(i); i++)
        names[i] = chat_builtin_name(i);
    return names;
}

static weft_status nothing_found(const char *path, const char *choice, found *f) {
    if (choice)
        return weft_fail(WEFT_USAGE,
                         "--chat-template %s: no file and no template of this name; names: %s",
                         choice, builtin_list(f->mem));
    return weft_fail(WEFT_USAGE,
                     "%s: has no chat template; give --chat-template FILE or one of: %s",
                     path ? path : "the model", builtin_list(f->mem));
}

static weft_status choose(const char *path, const char *choice, found *f, named_template *out) {
    const named_template *own = found_named(f, choice ? choice : "default");
    const char *builtin = choice ? chat_builtin_text(choice) : NULL;
    if (own) {
        *out = *own;
    } else if (builtin) {
        *out = (named_template){choice, builtin, choice, strlen(builtin)};
    } else if (choice && file_exists(choice)) {
        WEFT_TRY(read_file(choice, choice, f));
        *out = f->t[f->n - 1];
    } else {
        return nothing_found(path, choice, f);
    }
    return WEFT_OK;
}

static chat_template *template_new(const char *name, const char *tokens) {
    chat_template *t = mem_alloc(sizeof *t);
    t->name = arena_copy(&t->mem, name, strlen(name));
    t->tokens = tokens ? arena_copy(&t->mem, tokens, strlen(tokens)) : NULL;
    return t;
}

void chat_template_close(chat_template *t) {
    if (!t)
        return;
    jinja_free(t->main);
    jinja_free(t->tool_use);
    arena_fini(&t->mem);
    mem_free(t);
}

weft_status chat_template_parse(const char *name, const char *text, size_t n, const char *tokens,
                                chat_template **out) {
    chat_template *t = template_new(name, tokens);
    weft_status s = jinja_compile(name, text, n, &t->main);
    if (s == WEFT_OK)
        *out = t;
    else
        chat_template_close(t);
    return s;
}

static weft_status open_found(const char *path, const char *choice, found *f, chat_template **out) {
    WEFT_TRY(search(path, choice, f));
    named_template main = {0};
    WEFT_TRY(choose(path, choice, f, &main));
    const char *tokens = arena_printf(f->mem, "{%s}", f->tokens.data);
    chat_template *t;
    WEFT_TRY(chat_template_parse(main.where, main.text, main.n, tokens, &t));
    const named_template *tool = choice ? NULL : found_named(f, "tool_use");
    weft_status s = tool ? jinja_compile(tool->where, tool->text, tool->n, &t->tool_use) : WEFT_OK;
    if (s == WEFT_OK)
        *out = t;
    else
        chat_template_close(t);
    return s;
}

weft_status chat_template_open(const char *path, const char *choice, chat_template **out) {
    arena mem = {0};
    found f = {.mem = &mem};
    buf_init(&f.tokens, 1 << 20);
    weft_status s = open_found(path, choice, &f, out);
    buf_fini(&f.tokens);
    arena_fini(&mem);
    return s;
}

const char *chat_template_name(const chat_template *t) {
    return t->name;
}

/* ---- The clock ---- */

int64_t chat_now(void) {
    time_t t = time(NULL);
    struct tm tm;
    localtime_r(&t, &tm);
    return (int64_t)timegm(&tm);
}

weft_status chat_now_parse(const char *text, int64_t *now) {
    static const char form[] = "dddd-dd-ddTdd:dd:dd";
    struct tm tm = {0}, back;
    bool ok = strlen(text) == sizeof form - 1;
    for (size_t i = 0; ok && form[i]; i++)
        ok = form[i] == 'd' ? text[i] >= '0' && text[i] <= '9' : text[i] == form[i];
    int v[6] = {0};
    static const int at[6] = {0, 5, 8, 11, 14, 17}, len[6] = {4, 2, 2, 2, 2, 2};
    for (int i = 0; ok && i < 6; i++)
        for (int k = 0; k < len[i]; k++)
            v[i] = v[i] * 10 + (text[at[i] + k] - '0');
    tm = (struct tm){.tm_year = v[0] - 1900,
                     .tm_mon = v[1] - 1,
                     .tm_mday = v[2],
                     .tm_hour = v[3],
                     .tm_min = v[4],
                     .tm_sec = v[5]};
    back = tm;
    time_t t = timegm(&back);
    ok = ok && v[0] >= 1 && back.tm_mon == tm.tm_mon && back.tm_mday == tm.tm_mday &&
         back.tm_hour == tm.tm_hour && back.tm_min == tm.tm_min && back.tm_sec == tm.tm_sec;
    if (!ok)
        return weft_fail(WEFT_USAGE, "%.40s: no time; it reads like 2025-12-31T23:59:58", text);
    *now = (int64_t)t;
    return WEFT_OK;
}

/* ---- The shape of the arguments ---- */

typedef struct {
    json *j;
    const char *name; /* in front of paths, or NULL */
    bool has_tools;
    json_str *message; /* raw texts; grown as they come */
    bool *assistant;
    size_t n, cap;
    buf others; /* raw "key":value pairs beside messages and add_generation_prompt */
} shape;

static void wrong(shape *s, const char *path, const char *what) {
    if (json_failed(s->j))
        return;
    s->j->status = weft_fail(WEFT_BAD_FILE, "%s%s%s: %s", s->name ? s->name : "",
                             s->name ? ": " : "", path, what);
}

static const char *kind_name(json_kind k) {
    static const char *const name[] = {"nothing",  "an object",     "an array", "a string",
                                       "a number", "true or false", "null"};
    return name[k];
}

static void want(shape *s, const char *path, json_kind have, const char *what) {
    char text[128];
    snprintf(text, sizeof text, "must be %s, not %s", what, kind_name(have));
    wrong(s, path, text);
}

static void check_parts(shape *s, const char *path) {
    char at[224];
    json_array(s->j);
    for (int i = 0; json_item(s->j); i++) {
        json_kind k = json_peek(s->j);
        snprintf(at, sizeof at, "%s[%d]", path, i);
        if (k != JSON_OBJECT && k != JSON_STRING && k != JSON_NONE)
            want(s, at, k, "an object with a type");
        json_skip(s->j);
    }
}

static void check_content(shape *s, const char *path) {
    json_kind k = json_peek(s->j);
    if (k == JSON_ARRAY)
        check_parts(s, path);
    else if (k != JSON_STRING && k != JSON_NULL && k != JSON_NONE)
        want(s, path, k, "a string, null or an array of parts");
}

/* An array of objects, or null. */
static void check_objects(shape *s, const char *path) {
    char at[224];
    json_kind k = json_peek(s->j);
    if (k == JSON_NULL) {
        json_null(s->j);
        return;
    }
    if (k != JSON_ARRAY) {
        if (k != JSON_NONE)
            want(s, path, k, "an array of objects");
        return;
    }
    json_array(s->j);
    for (int i = 0; json_item(s->j); i++) {
        snprintf(at, sizeof at, "%s[%d]", path, i);
        k = json_peek(s->j);
        if (k != JSON_OBJECT && k != JSON_NONE)
            want(s, at, k, "an object");
        json_skip(s->j);
    }
}

static bool check_role(shape *s, const char *path) {
    json_kind k = json_peek(s->j);
    if (k == JSON_STRING)
        return json_is(json_string(s->j), "assistant");
    if (k != JSON_NONE)
        want(s, path, k, "a string");
    return false;
}

static bool check_message(shape *s, size_t i) {
    char path[128], at[160];
    bool role = false, assistant = false;
    snprintf(path, sizeof path, "messages[%zu]", i);
    json_kind k = json_peek(s->j);
    if (k != JSON_OBJECT) {
        if (k != JSON_NONE)
            want(s, path, k, "an object");
        return false;
    }
    json_object(s->j);
    for (json_str key; json_key(s->j, &key);) {
        snprintf(at, sizeof at, "%s.%.*s", path, key.n > 24 ? 24 : (int)key.n, key.s);
        if (json_is(key, "role")) {
            role = true;
            assistant = check_role(s, at);
        } else if (json_is(key, "content")) {
            check_content(s, at);
        } else if (json_is(key, "tool_calls")) {
            check_objects(s, at);
        }
    }
    snprintf(at, sizeof at, "%s.role", path);
    if (!role)
        wrong(s, at, "missing");
    return assistant;
}

static void keep_message(shape *s, const char *begin, bool assistant) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        json_str *m = ARENA_NEW(s->j->arena, json_str, cap);
        bool *a = ARENA_NEW(s->j->arena, bool, cap);
        if (s->n) {
            memcpy(m, s->message, s->n * sizeof *m);
            memcpy(a, s->assistant, s->n * sizeof *a);
        }
        s->message = m;
        s->assistant = a;
        s->cap = cap;
    }
    s->message[s->n] = (json_str){begin, (size_t)(s->j->p - begin)};
    s->assistant[s->n++] = assistant;
}

static void check_messages(shape *s) {
    json_kind k = json_peek(s->j);
    if (k != JSON_ARRAY) {
        if (k != JSON_NONE)
            want(s, "messages", k, "an array of messages");
        return;
    }
    json_array(s->j);
    for (size_t i = 0; json_item(s->j); i++) {
        json_peek(s->j); /* moves to where the value begins */
        const char *begin = s->j->p;
        bool assistant = check_message(s, i);
        if (!json_failed(s->j))
            keep_message(s, begin, assistant);
    }
}

static void keep_other(shape *s, json_str key, const char *begin) {
    if (json_failed(s->j))
        return;
    buf_puts(&s->others, s->others.len ? "," : "");
    buf_json_string(&s->others, key.s, key.n);
    buf_putc(&s->others, ':');
    buf_add(&s->others, begin, (size_t)(s->j->p - begin));
}

static void check_argument(shape *s, json_str key) {
    json_kind k = json_peek(s->j);
    const char *begin = s->j->p;
    if (json_is(key, "messages")) {
        check_messages(s);
        return;
    }
    if (json_is(key, "add_generation_prompt")) {
        if (k != JSON_BOOL && k != JSON_NULL && k != JSON_NONE)
            want(s, "add_generation_prompt", k, "true or false");
        json_skip(s->j);
        return;
    }
    if (json_is(key, "tools"))
        s->has_tools = k != JSON_NULL;
    if (json_is(key, "tools") || json_is(key, "documents"))
        check_objects(s, json_is(key, "tools") ? "tools" : "documents");
    else
        json_skip(s->j);
    keep_other(s, key, begin);
}

static weft_status check_shape(shape *s, json *j, const char *text, size_t n, arena *mem) {
    json_init(j, s->name ? s->name : "arguments", text, n, mem);
    j->max_depth = JSON_NESTING;
    s->j = j;
    json_kind k = json_peek(j);
    if (k != JSON_OBJECT && k != JSON_NONE)
        json_fail(j, "must be an object, not %s", kind_name(k));
    json_object(j);
    for (json_str key; json_key(j, &key);)
        check_argument(s, key);
    return json_done(j);
}

/* ---- Rendering ---- */

void chat_output_init(chat_output *o) {
    *o = (chat_output){.span = NULL};
    buf_init(&o->text, JINJA_OUTPUT_MAX);
    buf_init(&o->raised, JINJA_OUTPUT_MAX);
}

void chat_output_fini(chat_output *o) {
    buf_fini(&o->text);
    buf_fini(&o->raised);
    mem_free(o->span);
    o->span = NULL;
    o->nspan = 0;
}

typedef struct {
    const jinja_template *t;
    const char *tokens;
    int64_t now;
    const shape *s;
    buf args;
} renderer;

/* The conversation cut behind `n` messages. */
static weft_status render_prefix(renderer *r, size_t n, bool prompt, jinja_output *o) {
    buf_clear(&r->args);
    buf_puts(&r->args, "{\"messages\":[");
    for (size_t i = 0; i < n; i++) {
        buf_puts(&r->args, i ? "," : "");
        buf_add(&r->args, r->s->message[i].s, r->s->message[i].n);
    }
    buf_printf(&r->args, "],\"add_generation_prompt\":%s%s", prompt ? "true" : "false",
               r->s->others.len ? "," : "");
    buf_add(&r->args, r->s->others.data, r->s->others.len);
    buf_putc(&r->args, '}');
    if (r->args.failed)
        return weft_fail(WEFT_NO_MEMORY, "the conversation is too long");
    return jinja_render(r->t, "arguments", r->args.data, r->args.len, r->tokens, r->now, o);
}

static bool begins_with(const buf *whole, const buf *part) {
    return part->len <= whole->len && memcmp(whole->data, part->data, part->len) == 0;
}

static bool span_of(renderer *r, size_t i, const buf *whole, jinja_output *o, chat_span *span) {
    if (render_prefix(r, i, true, o) != WEFT_OK || !begins_with(whole, &o->text))
        return false;
    span->begin = o->text.len;
    if (render_prefix(r, i + 1, false, o) != WEFT_OK || !begins_with(whole, &o->text))
        return false;
    span->end = o->text.len;
    return span->end >= span->begin;
}

static void prefix_spans(renderer *r, chat_output *out) {
    jinja_output o;
    const shape *s = r->s;
    size_t n = 0, end = 0;
    bool ok = true;
    jinja_output_init(&o);
    buf_init(&r->args, SIZE_MAX);
    out->span = mem_grow(out->span, (s->n + 1) * sizeof *out->span);
    for (size_t i = 0; ok && i < s->n; i++) {
        if (!s->assistant[i])
            continue;
        chat_span *span = &out->span[n];
        ok = span_of(r, i, &out->text, &o, span) && span->begin >= end;
        end = span->end;
        n += ok && span->end > span->begin;
    }
    out->spans = ok ? CHAT_SPANS_PREFIX : CHAT_SPANS_UNKNOWN;
    out->nspan = ok ? n : 0;
    buf_fini(&r->args);
    jinja_output_fini(&o);
    err_clear(); /* that a prefix has no rendering of its own is no failure of this one */
}

static void marked_spans(const jinja_output *o, chat_output *out) {
    out->span = mem_grow(out->span, (o->nspan + 1) * sizeof *out->span);
    for (size_t i = 0; i < o->nspan; i++)
        out->span[i] = (chat_span){o->span[i].begin, o->span[i].end};
    out->nspan = o->nspan;
    out->spans = CHAT_SPANS_MARKED;
}

static weft_status render(const chat_template *t, const shape *s, const char *text, size_t n,
                          int64_t now, chat_output *out) {
    renderer r = {.t = s->has_tools && t->tool_use ? t->tool_use : t->main,
                  .tokens = t->tokens,
                  .now = now,
                  .s = s};
    jinja_output o;
    jinja_output_init(&o);
    weft_status st = jinja_render(r.t, s->name ? s->name : "arguments", text, n, t->tokens, now,
                                  &o);
    out->did_raise = o.did_raise && st != WEFT_OK;
    buf_add(&out->text, o.text.data, o.text.len);
    if (out->did_raise)
        buf_add(&out->raised, o.raised.data, o.raised.len);
    if (st == WEFT_OK && out->want_spans) {
        if (jinja_has_generation(r.t) && !o.spans_lost)
            marked_spans(&o, out);
        else
            prefix_spans(&r, out);
    }
    jinja_output_fini(&o);
    return st;
}

weft_status chat_render(const chat_template *t, const char *name, const char *json_text, size_t n,
                        int64_t now, chat_output *o) {
    arena mem = {0};
    json *j = mem_alloc(sizeof *j);
    shape s = {.name = name};
    buf_init(&s.others, SIZE_MAX);
    buf_clear(&o->text);
    buf_clear(&o->raised);
    o->did_raise = false;
    o->nspan = 0;
    o->spans = CHAT_SPANS_UNKNOWN;
    weft_status st = check_shape(&s, j, json_text, n, &mem);
    if (st == WEFT_OK)
        st = render(t, &s, json_text, n, now, o);
    buf_fini(&s.others);
    mem_free(j);
    arena_fini(&mem);
    return st;
}

/* ---- The arguments, built ---- */

void chat_args_begin(chat_args *a) {
    *a = (chat_args){.messages = 0};
    buf_init(&a->json, SIZE_MAX);
    buf_init(&a->values, SIZE_MAX);
    buf_puts(&a->json, "{\"messages\":[");
}

void chat_args_message_json(chat_args *a, const char *text, size_t n) {
    buf_puts(&a->json, a->messages++ ? "," : "");
    buf_add(&a->json, text, n);
}

void chat_args_message(chat_args *a, const char *role, const char *content, size_t n) {
    buf_puts(&a->json, a->messages++ ? ",{\"role\":" : "{\"role\":");
    buf_json_string(&a->json, role, strlen(role));
    buf_puts(&a->json, ",\"content\":");
    buf_json_string(&a->json, content, n);
    buf_putc(&a->json, '}');
}

void chat_args_value(chat_args *a, const char *name, const char *value) {
    buf_putc(&a->values, ',');
    buf_json_string(&a->values, name, strlen(name));
    buf_putc(&a->values, ':');
    buf_puts(&a->values, value);
}

void chat_args_end(chat_args *a, bool add_generation_prompt) {
    buf_printf(&a->json, "],\"add_generation_prompt\":%s",
               add_generation_prompt ? "true" : "false");
    buf_add(&a->json, a->values.data, a->values.len);
    buf_putc(&a->json, '}');
}

void chat_args_fini(chat_args *a) {
    buf_fini(&a->json);
    buf_fini(&a->values);
}
