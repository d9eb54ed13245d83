/* SPDX-License-Identifier: Apache-2.0
 * The commands behind a slash, as a table. */
#include "host/base/mem.h"
#include "host/cmd/chat.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *name, *usage, *help;
    weft_status (*run)(chat_state *c, const char *rest); /* rest: "" if nothing follows */
} slash;

static weft_status help(chat_state *c, const char *rest);

/* What commands print is for the person, like every remark: stdout has the answers alone. */
static weft_status say(buf *b) {
    if (!b->failed && write(STDERR_FILENO, b->data, b->len) < 0)
        return weft_fail(WEFT_IO, "stderr: cannot write: %m");
    return WEFT_OK;
}

static weft_status print_and_free(buf *b) {
    weft_status s = say(b);
    buf_fini(b);
    return s;
}

static weft_status system_message(chat_state *c, const char *rest) {
    const char *now = session_system_text(&c->session);
    if (!*rest) {
        chat_note(c, "%s", now ? now : "(no system message)");
        return WEFT_OK;
    }
    session_system(&c->session, strcmp(rest, "none") == 0 ? NULL : rest);
    return WEFT_OK;
}

static weft_status regen(chat_state *c, const char *rest) {
    (void)rest;
    return chat_regen(c);
}

static weft_status undo(chat_state *c, const char *rest) {
    (void)rest;
    session *s = &c->session;
    size_t at = session_last(s, "user");
    if (at == s->n)
        return weft_fail(WEFT_USAGE, "/undo: there is no turn left");
    chat_note(c, "(taken back: %.60s)", s->message[at].content);
    session_cut(s, at);
    s->attempt = 0;
    return WEFT_OK;
}

static weft_status clear(chat_state *c, const char *rest) {
    (void)rest;
    session *s = &c->session;
    session_cut(s, session_system_text(s) ? 1 : 0);
    s->attempt = 0;
    chat_note(c, "(a new conversation%s)", s->n ? " with the same system message" : "");
    return WEFT_OK;
}

/* "~/x" as the shell would have it. */
static const char *file_name(arena *a, const char *name) {
    const char *home = getenv("HOME");
    return strncmp(name, "~/", 2) == 0 && home ? arena_printf(a, "%s%s", home, name + 1) : name;
}

static weft_status with_file(chat_state *c, const char *command, const char *rest, bool save) {
    arena a = {0};
    if (!*rest)
        return weft_fail(WEFT_USAGE, "%s: needs a file name", command);
    const char *path = file_name(&a, rest);
    weft_status s = save ? chat_save(c, path) : chat_load(c, path);
    if (s == WEFT_OK)
        chat_note(c, "(%zu messages %s %s)", c->session.n, save ? "to" : "from", path);
    arena_fini(&a);
    return s;
}

static weft_status save(chat_state *c, const char *rest) {
    return with_file(c, "/save", rest, true);
}

static weft_status load(chat_state *c, const char *rest) {
    return with_file(c, "/load", rest, false);
}

static weft_status set(chat_state *c, const char *rest) {
    arena a = {0};
    buf b;
    size_t n = strcspn(rest, " \t=");
    const char *name = n ? arena_copy(&a, rest, n) : NULL, *value = rest + n;
    value += strspn(value, " \t");
    if (*value == '=')
        value += 1 + strspn(value + 1, " \t");
    buf_init(&b, 1 << 20);
    weft_status s = name && *value ? chat_set(&c->set, name, value) : WEFT_OK;
    if (s == WEFT_OK && (c->terminal || !*value))
        s = chat_set_show(&c->set, name, &b);
    if (s == WEFT_OK)
        s = say(&b);
    buf_fini(&b);
    arena_fini(&a);
    return s;
}

static weft_status stats(chat_state *c, const char *rest) {
    (void)rest;
    buf b;
    size_t n;
    buf_init(&b, 1 << 16);
    weft_seq_tokens(c->session.seq, &n);
    buf_printf(&b, "%zu messages, %zu of %d tokens of context, seed %llu", c->session.n, n,
               (int)c->session.info.ctx_size, (unsigned long long)c->set.made.sampling.seed);
    if (c->session.attempt)
        buf_printf(&b, ", attempt %llu", (unsigned long long)c->session.attempt + 1);
    buf_putc(&b, '\n');
    if (c->turns > 0) {
        chat_turn_stats(c, &b);
        buf_printf(&b,
                   "in all: prompts %lld tokens kept, %lld computed, %.1f ms\n"
                   "in all: answers %lld tokens, %.1f ms\n",
                   (long long)c->reused, (long long)c->computed, c->prompt_seconds * 1e3,
                   (long long)c->generated, c->generate_seconds * 1e3);
    }
    return print_and_free(&b);
}

static weft_status quit(chat_state *c, const char *rest) {
    (void)rest;
    c->quit = true;
    return WEFT_OK;
}

static const slash commands[] = {
    {"help", "", "this list", help},
    {"system", "[TEXT]", "set the system message (none: remove it), or show it", system_message},
    {"regen", "", "answer the last message again, differently", regen},
    {"undo", "", "take back the last message and its answer", undo},
    {"clear", "", "start over; the system message stays", clear},
    {"save", "FILE", "write the conversation, to go on exactly here", save},
    {"load", "FILE", "go on with a saved conversation", load},
    {"set", "[NAME [VALUE]]", "set a parameter (default: reset it), or show it", set},
    {"stats", "", "tokens, times and what was kept", stats},
    {"quit", "", "leave, as Ctrl-D does", quit},
};

static int count(void) {
    return CMD_COUNT(commands);
}

static weft_status help(chat_state *c, const char *rest) {
    (void)c;
    (void)rest;
    buf b;
    buf_init(&b, 1 << 16);
    for (int i = 0; i < count(); i++) {
        size_t line = b.len;
        buf_printf(&b, "  /%s %s", commands[i].name, commands[i].usage);
        buf_printf(&b, "%*s%s\n", (int)(line + 26 > b.len ? line + 26 - b.len : 1), "",
                   commands[i].help);
    }
    buf_puts(&b, "A line that ends in \\ goes on; a line of \"\"\" opens and closes a block.\n"
                 "A line that starts with // is a message that starts with /.\n"
                 "Ctrl-C stops an answer or clears the line; Ctrl-D quits.\n");
    return print_and_free(&b);
}

static weft_status unknown(const char *word) {
    const char *names[CMD_COUNT(commands)];
    for (int i = 0; i < count(); i++)
        names[i] = commands[i].name;
    const char *near = args_nearest(word, names, count());
    return weft_fail(WEFT_USAGE, "/%.60s: unknown command; %s%s%s", word,
                     near ? "did you mean /" : "/help lists them", near ? near : "",
                     near ? "?" : "");
}

weft_status chat_slash(chat_state *c, const char *line, size_t n) {
    arena a = {0};
    const char *text = arena_copy(&a, line + 1, n - 1);
    size_t k = strcspn(text, " \t\n");
    const char *word = arena_copy(&a, text, k), *rest = text + k + strspn(text + k, " \t\n");
    char *end = arena_copy(&a, rest, strlen(rest));
    for (size_t e = strlen(end); e > 0 && strchr(" \t\n", end[e - 1]); e--)
        end[e - 1] = 0;
    int i = 0;
    while (i < count() && strcmp(commands[i].name, word) != 0)
        i++;
    weft_status s = WEFT_OK;
    if (i == count())
        s = unknown(word);
    else if (*end && !*commands[i].usage)
        s = weft_fail(WEFT_USAGE, "/%s: takes nothing behind it", word);
    else
        s = commands[i].run(c, end);
    arena_fini(&a);
    return s;
}
