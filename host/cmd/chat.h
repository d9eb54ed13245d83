/* SPDX-License-Identifier: Apache-2.0
 * `weft chat`, split by role: chat.c talks, chat_line.c reads what the user types, chat_slash.c are
 * the commands behind a slash, chat_set.c the parameters, chat_file.c save and load. */
#pragma once
#include "host/base/json.h"
#include "host/cmd/cmd.h"
#include "host/model/session.h"

/* ---- Reading: lines with editing and history in a terminal, plain lines from a pipe ---- */

typedef struct chat_reader chat_reader;
weft_status chat_reader_open(bool terminal, chat_reader **out);
void chat_reader_close(chat_reader *r); /* saves the history; a warning if that fails */
/* What the user said next, without the marks of continued lines and blocks, borrowed until the next
 * call; NULL at the end. *block: it was a block, and so is no command. */
weft_status chat_reader_next(chat_reader *r, const char **text, size_t *n, bool *block);

/* ---- Parameters: the sampling options of the command line by their names ---- */

typedef struct {
    cmd_sampling_args args; /* lists and texts live in `mem` or are the command line's */
    cmd_sampling made;
    const weft_engine *engine;
    arena mem;
} chat_settings;

weft_status chat_settings_open(chat_settings *s, const cmd_sampling_args *args,
                               const weft_engine *e);
void chat_settings_close(chat_settings *s);
/* name: "temp" or "--temp"; value: as on the command line, "default" for what the model says. A
 * list grows by the value, a flag is "on" or "off". Nothing changes on failure. */
weft_status chat_set(chat_settings *s, const char *name, const char *value);
weft_status chat_set_show(const chat_settings *s, const char *name, buf *out); /* NULL: all */
void chat_set_json(const chat_settings *s, buf *out); /* what differs from the defaults; the seed */
/* The settings of a JSON object, everything else as by default. */
weft_status chat_set_load(chat_settings *s, json_str object, const char *file);

/* ---- The conversation ---- */

typedef struct {
    session session;
    chat_settings set;
    chat_template *template;
    chat_reader *reader;
    weft_engine *engine;
    const char *model;
    session_turn turn; /* the last one */
    int64_t turns, computed, reused, generated;
    double prompt_seconds, generate_seconds;
    bool terminal; /* both ends are one: prompts, notes and no raw control characters */
    bool stats, quit;
    bool announced;      /* what the running turn has to say was said */
    weft_status written; /* of stdout */
} chat_state;

/* A remark to the person, on stderr; in a pipe only what is worth a warning is said. */
void chat_note(const chat_state *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Answers the last message. */
weft_status chat_answer(chat_state *c);
void chat_turn_stats(const chat_state *c, buf *out);

weft_status chat_slash(chat_state *c, const char *line, size_t n); /* a line that starts with / */
weft_status chat_regen(chat_state *c);
weft_status chat_save(const chat_state *c, const char *path);
weft_status chat_load(chat_state *c, const char *path);
