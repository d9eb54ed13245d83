/* SPDX-License-Identifier: Apache-2.0
 * `weft chat`: a conversation in a terminal or through a pipe. */
#include "host/cmd/chat.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    cmd_engine_args engine;
    cmd_sampling_args sampling;
    cmd_chat_args chat;
    const char *load;
    bool stats;
} chat_args_given;

#define AT(member) offsetof(chat_args_given, member)
static const arg_spec specs[] = {
    CMD_CHAT_SPECS(chat_args_given, chat),
    {"load", "", NULL, ARG_STRING, "FILE", 0, 0, NULL, "go on with a conversation /save wrote",
     AT(load)},
    CMD_SAMPLING_SPECS(chat_args_given, sampling),
    {"stats", "v", "verbose", ARG_FLAG, NULL, 0, 0, NULL, "print tokens and times of every turn",
     AT(stats)},
    CMD_ENGINE_SPECS(chat_args_given, engine),
};

/* ---- Ctrl-C: stops the answer; if nothing stops it, the third ends the process ---- */

static volatile int interrupted;

static void on_interrupt(int sig) {
    if (++interrupted < 3)
        return;
    signal(sig, SIG_DFL);
    raise(sig);
}

static void catch_interrupt(struct sigaction *before) {
    struct sigaction ours = {.sa_handler = on_interrupt};
    if (sigaction(SIGINT, NULL, before) == 0 && before->sa_handler != SIG_IGN)
        sigaction(SIGINT, &ours, NULL);
}

/* ---- Output ---- */

static bool colours(const chat_state *c) {
    const char *term = getenv("TERM");
    return c->terminal && cmd_stderr_is_terminal() && !getenv("NO_COLOR") && term &&
           strcmp(term, "dumb") != 0;
}

void chat_note(const chat_state *c, const char *fmt, ...) {
    if (!c->terminal)
        return;
    va_list ap;
    va_start(ap, fmt);
    fputs(colours(c) ? "\033[2m" : "", stderr);
    vfprintf(stderr, fmt, ap);
    fputs(colours(c) ? "\033[0m\n" : "\n", stderr);
    va_end(ap);
}

/* Something the user must know, in a pipe too. */
static void announce(const chat_state *c, const char *text) {
    if (c->terminal)
        chat_note(c, "(%s)", text);
    else
        cmd_warn("%s", text);
}

/* What a model writes must not move the cursor or talk to the terminal. */
static void add_visible(buf *b, const char *s, size_t n) {
    const char *end = s + n;
    while (s < end) {
        uint32_t cp = 0;
        int k = utf8_next(s, end, &cp);
        k = k ? k : 1;
        bool control = (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0);
        if (control)
            buf_puts(b, "\xef\xbf\xbd");
        else
            buf_add(b, s, (size_t)k);
        s += k;
    }
}

static void announce_dropped(chat_state *c) {
    char text[160];
    if (c->announced || c->turn.dropped == 0)
        return;
    c->announced = true;
    snprintf(text, sizeof text, "the oldest %zu turn%s left out: the context has %d tokens%s",
             c->turn.dropped, c->turn.dropped == 1 ? " is" : "s are", (int)c->session.info.ctx_size,
             session_system_text(&c->session) ? "; the system message stays" : "");
    announce(c, text);
}

static bool on_token(void *user, const weft_token *t) {
    chat_state *c = user;
    buf b;
    announce_dropped(c);
    buf_init(&b, 1 << 27);
    if (c->terminal)
        add_visible(&b, t->text, t->n_text);
    else
        buf_add(&b, t->text, t->n_text);
    if (b.len > 0)
        c->written = cmd_flush(&b);
    buf_fini(&b);
    return c->written == WEFT_OK;
}

/* ---- A turn ---- */

static const char *ending(const chat_state *c) {
    static const char *const name[] = {[WEFT_FINISH_LENGTH] = "length",
                                       [WEFT_FINISH_EOS] = "stop",
                                       [WEFT_FINISH_STOP] = "stop",
                                       [WEFT_FINISH_CANCELLED] = "cancelled"};
    return c->turn.full ? "context full" : name[c->turn.result.finish];
}

void chat_turn_stats(const chat_state *c, buf *out) {
    const weft_result *r = &c->turn.result;
    int computed = (int)(r->n_prompt - c->turn.reused);
    double rate = r->generate_seconds > 0 ? (r->n_generated - 1) / r->generate_seconds : 0;
    buf_printf(out, "turn %lld: prompt %d tokens, %d kept, %d computed, %.1f ms\n",
               (long long)c->turns, (int)r->n_prompt, (int)c->turn.reused, computed,
               r->prompt_seconds * 1e3);
    buf_printf(out, "turn %lld: answer %d tokens, %.1f ms, %.1f tok/s, finish: %s\n",
               (long long)c->turns, (int)r->n_generated, r->generate_seconds * 1e3,
               rate > 0 ? rate : 0, ending(c));
}

static void count_turn(chat_state *c) {
    const weft_result *r = &c->turn.result;
    buf b;
    c->turns++;
    c->reused += c->turn.reused;
    c->computed += r->n_prompt - c->turn.reused;
    c->generated += r->n_generated;
    c->prompt_seconds += r->prompt_seconds;
    c->generate_seconds += r->generate_seconds;
    if (!c->stats)
        return;
    buf_init(&b, 1024);
    chat_turn_stats(c, &b);
    fputs(b.data, stderr);
    buf_fini(&b);
}

static void remarks(chat_state *c) {
    bool cancelled = c->turn.result.finish == WEFT_FINISH_CANCELLED;
    announce_dropped(c);
    if (c->turn.full)
        announce(c, "the context is full: the answer ends here; the next message leaves out the "
                    "oldest turns");
    else if (c->turn.result.finish == WEFT_FINISH_LENGTH)
        chat_note(c, "(the answer ends at -n %d tokens)", (int)c->turn.result.n_generated);
    if (c->turn.exposed)
        announce(c, "a message spells a control token, and this template hides where messages are: "
                    "it counts as one");
    if (cancelled)
        chat_note(c, "(stopped)");
}

weft_status chat_answer(chat_state *c) {
    weft_request req = {.cancel = &interrupted};
    struct sigaction before;
    cmd_sampling_request(&c->set.made, &req);
    interrupted = 0;
    c->announced = false;
    catch_interrupt(&before);
    weft_status s = session_answer(&c->session, &req, on_token, c, &c->turn);
    sigaction(SIGINT, &before, NULL);
    WEFT_TRY(s);
    WEFT_TRY(c->written);
    const chat_message *answer = &c->session.message[c->session.n - 1];
    bool ends = answer->n > 0 && answer->content[answer->n - 1] == '\n';
    WEFT_TRY(cmd_write("\n\n", c->terminal && !ends ? 2 : 1));
    count_turn(c);
    remarks(c);
    return WEFT_OK;
}

static bool nothing_written(const chat_state *c) {
    return c->turn.result.finish == WEFT_FINISH_CANCELLED && c->turn.result.n_generated == 0;
}

static weft_status talk(chat_state *c, const char *text, size_t n) {
    session *s = &c->session;
    s->attempt = 0;
    session_add(s, chat_message_new("user", text, n));
    weft_status st = chat_answer(c);
    if (st != WEFT_OK) {
        session_cut(s, s->n - 1);
    } else if (nothing_written(c)) {
        session_cut(s, s->n - 2);
        chat_note(c, "(nothing was written: the message is taken back)");
    }
    return st;
}

weft_status chat_regen(chat_state *c) {
    session *s = &c->session;
    size_t at = session_last(s, "assistant");
    if (at == s->n || at + 1 != s->n)
        return weft_fail(WEFT_USAGE, "/regen: there is no answer to write again");
    chat_message old = s->message[--s->n];
    s->attempt++;
    weft_status st = chat_answer(c);
    if (st == WEFT_OK && !nothing_written(c)) {
        chat_message_free(&old);
        return WEFT_OK;
    }
    session_cut(s, st == WEFT_OK ? s->n - 1 : s->n);
    session_add(s, old);
    s->attempt--;
    return st;
}

/* ---- The conversation ---- */

static weft_status one(chat_state *c, const char *text, size_t n, bool block) {
    if (!block && n > 1 && text[0] == '/' && text[1] == '/')
        return talk(c, text + 1, n - 1);
    if (!block && n > 0 && text[0] == '/')
        return chat_slash(c, text, n);
    return talk(c, text, n);
}

/* In a terminal a failure is told and the conversation goes on; in a pipe it ends it. */
static weft_status converse(chat_state *c) {
    while (!c->quit) {
        const char *text = NULL;
        size_t n = 0;
        bool block;
        interrupted = 0;
        weft_status s = chat_reader_next(c->reader, &text, &n, &block);
        if (s == WEFT_OK && !text)
            break;
        if (s == WEFT_OK)
            s = one(c, text, n, block);
        if (s != WEFT_OK && (!c->terminal || c->written != WEFT_OK))
            return s;
        if (s != WEFT_OK)
            cmd_fail(s);
        if (!c->terminal && interrupted)
            break;
    }
    return WEFT_OK;
}

static void greet(const chat_state *c) {
    const weft_engine_info *i = &c->session.info;
    const char *slash = strrchr(c->model, '/'), *name = slash && slash[1] ? slash + 1 : c->model;
    chat_note(c, "%.40s: %s, context %d, template %.40s", name, i->family, (int)i->ctx_size,
              chat_template_name(c->template));
    chat_note(c, "/help lists the commands; Ctrl-C stops an answer, Ctrl-D quits");
}

static weft_status begin(chat_state *c, const chat_args_given *a) {
    weft_engine_options opt = cmd_engine_options(&a->engine);
    WEFT_TRY(chat_template_open(c->model, a->chat.chat_template, &c->template));
    WEFT_TRY(weft_engine_open(c->model, &opt, &c->engine));
    WEFT_TRY(session_open(&c->session, c->engine, c->template));
    WEFT_TRY(chat_settings_open(&c->set, &a->sampling, c->engine));
    if (a->load)
        WEFT_TRY(chat_load(c, a->load));
    if (a->chat.system)
        session_system(&c->session, a->chat.system);
    WEFT_TRY(chat_reader_open(c->terminal, &c->reader));
    struct sigaction before;
    if (c->terminal)
        catch_interrupt(&before); /* in a pipe only while answering: reading ends as usual */
    greet(c);
    return converse(c);
}

static int run(int argc, char **argv) {
    chat_args_given a = {0};
    chat_state c = {.terminal = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1};
    cmd_sampling_preset(&a.sampling);
    weft_status s = cmd_parse_model(&cmd_chat, argc, argv, &a, &c.model);
    if (s == WEFT_OK)
        s = cmd_sampling_check(&a.sampling);
    c.stats = a.stats;
    if (s == WEFT_OK)
        s = begin(&c, &a);
    chat_reader_close(c.reader);
    chat_settings_close(&c.set);
    session_close(&c.session);
    weft_engine_close(c.engine);
    chat_template_close(c.template);
    cmd_sampling_args_free(&a.sampling);
    if (s == WEFT_OK && !c.terminal && interrupted)
        return 128 + SIGINT;
    return cmd_fail(s);
}

const cmd_row cmd_chat = {
    .name = "chat",
    .usage = "MODEL [--system TEXT] [--chat-template FILE|NAME] [options]",
    .summary = "talk to a model",
    .notes =
        "A line is a message. A line that ends in \\ goes on, and a line of \"\"\" opens and "
        "closes "
        "a block. /help lists the commands: /system /regen /undo /clear /save /load /set /stats "
        "/quit. Ctrl-C stops an answer, Ctrl-D quits. Only answers go to standard output; through "
        "a pipe there are no prompts, and the first failure ends the conversation.\n\n"
        "What was computed for earlier turns is kept. When the context is full, the oldest turns "
        "are left out, with a line that says so; the system message stays. The history of what "
        "was typed is in $XDG_STATE_HOME/weft/history (~/.local/state/weft/history).\n\n"
        "  weft chat MODEL\n"
        "  weft chat MODEL --chat-template chatml --temp 0.7 --seed 1\n"
        "  printf 'Hello\\n/save hello.json\\n' | weft chat MODEL",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
