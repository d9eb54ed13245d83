/* SPDX-License-Identifier: Apache-2.0
 * /set: the rows of the command line's sampling options, read and written by name. A new row needs
 * nothing here. */
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/cmd/chat.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    cmd_sampling_args a;
} holder;

static const arg_spec rows[] = {CMD_SAMPLING_SPECS(holder, a)};

/* What the model's recommendation is called here, to show a value where none was given. */
static const struct {
    const char *name;
    size_t offset;
    bool integer;
} effective[] = {
    {"temp", offsetof(weft_sampling, temperature), false},
    {"top-k", offsetof(weft_sampling, top_k), true},
    {"top-p", offsetof(weft_sampling, top_p), false},
    {"min-p", offsetof(weft_sampling, min_p), false},
    {"typical", offsetof(weft_sampling, typical_p), false},
    {"repeat-penalty", offsetof(weft_sampling, repetition_penalty), false},
    {"frequency-penalty", offsetof(weft_sampling, frequency_penalty), false},
    {"presence-penalty", offsetof(weft_sampling, presence_penalty), false},
    {"no-repeat-ngram", offsetof(weft_sampling, no_repeat_ngram), true},
};

static const size_t field_size[] = {
    [ARG_FLAG] = sizeof(bool),     [ARG_INT] = sizeof(int64_t),
    [ARG_FLOAT] = sizeof(double),  [ARG_STRING] = sizeof(const char *),
    [ARG_LIST] = sizeof(arg_list), [ARG_CHOICE] = sizeof(const char *),
};

static const void *field(const cmd_sampling_args *a, const arg_spec *row) {
    return (const char *)a + (row->offset - offsetof(holder, a));
}

static void copy_field(cmd_sampling_args *to, const cmd_sampling_args *from, const arg_spec *row) {
    memcpy((char *)to + (row->offset - offsetof(holder, a)), field(from, row),
           field_size[row->kind]);
}

static void defaults(holder *h) {
    const char *none;
    int n;
    cmd_sampling_preset(&h->a);
    args_parse(rows, CMD_COUNT(rows), 0, NULL, h, &none, 0, &n);
}

static bool is_default(const cmd_sampling_args *a, const arg_spec *row) {
    holder h;
    defaults(&h);
    return memcmp(field(a, row), field(&h.a, row), field_size[row->kind]) == 0;
}

/* ---- Changing ---- */

/* What the arguments come to, in place of what was; the old stays if they are refused. */
static weft_status take(chat_settings *s, const cmd_sampling_args *args) {
    cmd_sampling made = {0};
    cmd_sampling_args *kept = ARENA_NEW(&s->mem, cmd_sampling_args, 1);
    *kept = *args;
    weft_status st = cmd_sampling_check(kept);
    if (st == WEFT_OK)
        st = cmd_sampling_open(&made, kept, s->engine);
    if (st != WEFT_OK) {
        cmd_sampling_close(&made);
        return st;
    }
    kept->seed = (int64_t)made.sampling.seed; /* one that was drawn stays for the conversation */
    cmd_sampling_close(&s->made);
    s->made = made;
    s->args = *kept;
    return WEFT_OK;
}

weft_status chat_settings_open(chat_settings *s, const cmd_sampling_args *args,
                               const weft_engine *e) {
    *s = (chat_settings){.engine = e};
    return take(s, args);
}

void chat_settings_close(chat_settings *s) {
    cmd_sampling_close(&s->made);
    arena_fini(&s->mem);
}

static const arg_spec *find(const char *name) {
    name += strspn(name, "-") > 2 ? 0 : strspn(name, "-");
    for (int i = 0; i < CMD_COUNT(rows); i++) {
        const arg_spec *r = &rows[i];
        if (strcmp(r->name, name) == 0 || (r->alias && strcmp(r->alias, name) == 0) ||
            (r->brief && *r->brief && strcmp(r->brief, name) == 0))
            return r;
    }
    return NULL;
}

static weft_status unknown(const char *name) {
    const char *words[2 * CMD_COUNT(rows)];
    int n = 0;
    for (int i = 0; i < CMD_COUNT(rows); i++) {
        words[n++] = rows[i].name;
        if (rows[i].alias)
            words[n++] = rows[i].alias;
    }
    const char *near = args_nearest(name, words, n);
    return weft_fail(WEFT_USAGE, "/set: there is no parameter \"%.100s\"; %s%s%s", name,
                     near ? "did you mean " : "/set alone lists them", near ? near : "",
                     near ? "?" : "");
}

static weft_status set_flag(const char *name, const char *value, bool *out) {
    *out = strcmp(value, "on") == 0;
    if (!*out && strcmp(value, "off") != 0)
        return weft_fail(WEFT_USAGE, "%s: \"%.100s\" is neither on nor off", name, value);
    return WEFT_OK;
}

static void grow_list(chat_settings *s, arg_list *l, const char *value) {
    const char **item = ARENA_NEW(&s->mem, const char *, l->n + 1);
    if (l->n > 0)
        memcpy(item, l->item, sizeof *item * (size_t)l->n);
    item[l->n] = value;
    *l = (arg_list){item, l->n + 1};
}

/* A value over those of `a`. */
static weft_status put(chat_settings *s, cmd_sampling_args *a, const char *name,
                       const char *value) {
    holder h;
    const arg_spec *row = find(name);
    if (!row)
        return unknown(name);
    defaults(&h);
    value = arena_copy(&s->mem, value, strlen(value));
    if (strcmp(value, "default") == 0) {
        copy_field(a, &h.a, row);
    } else if (row->kind == ARG_LIST) {
        arg_list l;
        memcpy(&l, field(a, row), sizeof l);
        grow_list(s, &l, value);
        memcpy((char *)&h + row->offset, &l, sizeof l);
        copy_field(a, &h.a, row);
    } else if (row->kind == ARG_FLAG) {
        WEFT_TRY(set_flag(row->name, value, (bool *)((char *)&h + row->offset)));
        copy_field(a, &h.a, row);
    } else {
        char *word = arena_printf(&s->mem, "--%s=%s", row->name, value);
        const char *none;
        int n;
        WEFT_TRY(args_parse(rows, CMD_COUNT(rows), 1, &word, &h, &none, 0, &n));
        copy_field(a, &h.a, row);
    }
    return WEFT_OK;
}

weft_status chat_set(chat_settings *s, const char *name, const char *value) {
    cmd_sampling_args a = s->args;
    WEFT_TRY(put(s, &a, name, value));
    return take(s, &a);
}

/* ---- Showing ---- */

static void add_value(const cmd_sampling_args *a, const arg_spec *row, buf *out) {
    const void *at = field(a, row);
    const char *text;
    int64_t i;
    double x;
    arg_list l;
    switch (row->kind) {
    case ARG_FLAG: buf_puts(out, *(const bool *)at ? "true" : "false"); break;
    case ARG_INT: memcpy(&i, at, sizeof i), buf_printf(out, "%" PRId64, i); break;
    case ARG_FLOAT: memcpy(&x, at, sizeof x), buf_json_double(out, x); break;
    case ARG_STRING:
    case ARG_CHOICE:
        memcpy(&text, at, sizeof text);
        if (text)
            buf_json_line(out, text, strlen(text));
        else
            buf_puts(out, "null");
        break;
    case ARG_LIST:
        memcpy(&l, at, sizeof l);
        buf_putc(out, '[');
        for (int k = 0; k < l.n; k++) {
            buf_puts(out, k ? "," : "");
            buf_json_line(out, l.item[k], strlen(l.item[k]));
        }
        buf_putc(out, ']');
        break;
    }
}

static bool add_effective(const chat_settings *s, const arg_spec *row, buf *out) {
    for (int i = 0; i < CMD_COUNT(effective); i++) {
        if (strcmp(effective[i].name, row->name) != 0)
            continue;
        const char *at = (const char *)&s->made.sampling + effective[i].offset;
        int32_t k;
        float x;
        if (effective[i].integer)
            memcpy(&k, at, sizeof k), buf_printf(out, "%d", (int)k);
        else
            memcpy(&x, at, sizeof x), buf_json_float(out, x);
        return true;
    }
    return false;
}

static void show(const chat_settings *s, const arg_spec *row, buf *out) {
    static const char *const off[] = {[ARG_FLAG] = "off", [ARG_INT] = "-",  [ARG_FLOAT] = "-",
                                      [ARG_STRING] = "-", [ARG_LIST] = "-", [ARG_CHOICE] = "-"};
    buf_printf(out, "  %-22s ", row->name);
    if (!is_default(&s->args, row))
        add_value(&s->args, row, out);
    else if (!add_effective(s, row, out))
        buf_puts(out, row->preset ? row->preset : off[row->kind]);
    else
        buf_puts(out, "  (the model's)");
    buf_putc(out, '\n');
}

weft_status chat_set_show(const chat_settings *s, const char *name, buf *out) {
    if (name) {
        const arg_spec *row = find(name);
        if (!row)
            return unknown(name);
        show(s, row, out);
        return WEFT_OK;
    }
    for (int i = 0; i < CMD_COUNT(rows); i++)
        show(s, &rows[i], out);
    return WEFT_OK;
}

void chat_set_json(const chat_settings *s, buf *out) {
    const char *comma = "";
    buf_putc(out, '{');
    for (int i = 0; i < CMD_COUNT(rows); i++) {
        if (is_default(&s->args, &rows[i]))
            continue;
        buf_printf(out, "%s\"%s\": ", comma, rows[i].name);
        add_value(&s->args, &rows[i], out);
        comma = ", ";
    }
    buf_putc(out, '}');
}

/* ---- Loading ---- */

static char *value_text(json *j, arena *mem) {
    if (json_peek(j) == JSON_STRING)
        return json_text(j);
    json_str raw = json_raw(j);
    if (json_is(raw, "true") || json_is(raw, "false"))
        return arena_printf(mem, "%s", json_is(raw, "true") ? "on" : "off");
    return json_dup(mem, raw);
}

static weft_status load_one(chat_settings *s, cmd_sampling_args *a, const char *name, json *j) {
    if (json_peek(j) != JSON_ARRAY)
        return put(s, a, name, value_text(j, &s->mem));
    json_array(j);
    while (json_item(j))
        WEFT_TRY(put(s, a, name, value_text(j, &s->mem)));
    return WEFT_OK;
}

weft_status chat_set_load(chat_settings *s, json_str object, const char *file) {
    holder h;
    json j;
    defaults(&h);
    json_init(&j, file, object.s, object.n, &s->mem);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        weft_status st = load_one(s, &h.a, json_dup(&s->mem, key), &j);
        if (json_failed(&j))
            break;
        if (st != WEFT_OK)
            return err_prefix(WEFT_BAD_FILE, "%s: sampling", file);
    }
    WEFT_TRY(json_done(&j));
    weft_status st = take(s, &h.a);
    return st == WEFT_OK ? st : err_prefix(WEFT_BAD_FILE, "%s: sampling", file);
}
