/* SPDX-License-Identifier: Apache-2.0
 * Chat templates: from messages to the prompt a model was tuned on. The language is jinja.h's; here
 * are where a template is found, what it is given, and which bytes of the result the assistant
 * wrote. */
#pragma once
#include "host/base/buf.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A compiled template with the special tokens of its model. Immutable: any number of threads may
 * render with one. */
typedef struct chat_template chat_template;

/* `path`: a model folder, or a template file (then without special tokens), or NULL.
 * `choice`: what --chat-template says, NULL for the model's own: a name among the model's own (a
 * tokenizer_config.json may hold a list), a name among the built-in ones, or a file.
 * A folder is searched in this order: chat_template.jinja, additional_chat_templates/NAME.jinja,
 * chat_template.json, "chat_template" of tokenizer_config.json. Of a list, "tool_use" serves
 * conversations with tools and "default" the others. WEFT_USAGE if there is none or the name is
 * unknown, WEFT_BAD_FILE with line and column if it is no template. */
weft_status chat_template_open(const char *path, const char *choice, chat_template **out);
void chat_template_close(chat_template *t); /* NULL is fine */

/* A template given as text (GGUF metadata); `tokens` is a JSON object such as
 * {"bos_token": "<s>", "eos_token": "</s>"}, or NULL. `name` is for messages. Both are copied. */
weft_status chat_template_parse(const char *name, const char *text, size_t n, const char *tokens,
                                chat_template **out);
const char *chat_template_name(const chat_template *t); /* "chat_template.jinja", "chatml" */
/* The built-in names in order, ended by NULL. */
const char *const *chat_template_builtins(void);

typedef struct {
    size_t begin, end; /* bytes of the text */
} chat_span;

/* How the assistant's spans are known.
 * MARKED: the template has {% generation %} and the spans are what these blocks wrote.
 * PREFIX: it has none; span i is what message i adds to the rendering of the messages before it
 * with add_generation_prompt, so it begins behind the generation prompt and has the end of turn.
 *         Only if every such rendering is a prefix of the next and of the whole.
 * UNKNOWN: neither; there are no spans. */
typedef enum { CHAT_SPANS_UNKNOWN, CHAT_SPANS_MARKED, CHAT_SPANS_PREFIX } chat_spans;

typedef struct {
    buf text;         /* UTF-8; empty after a failure */
    bool want_spans;  /* set by the caller before chat_render; PREFIX costs a rendering a turn */
    chat_spans spans; /* how `span` is known */
    chat_span *span;  /* ascending, disjoint, none empty */
    size_t nspan;
    buf raised; /* after a failure by raise_exception: its text, exactly; else empty */
    bool did_raise;
} chat_output;

void chat_output_init(chat_output *o);
void chat_output_fini(chat_output *o);

/* Seconds of the wall clock (no zone) since 1970-01-01T00:00:00; what strftime_now shows. */
int64_t chat_now(void);
weft_status chat_now_parse(const char *text, int64_t *now); /* "2025-12-31T23:59:58", WEFT_USAGE */

/* Renders. `json` is an object of arguments: messages, tools, documents, add_generation_prompt and
 * any other variable. Special tokens come from the template unless the object has them; tools and
 * documents are none unless given; everything else absent is undefined. `name` names the JSON in
 * messages ("messages.json"); NULL: its paths stand alone. WEFT_BAD_FILE: messages of a wrong shape
 * ("messages[2].content: ..."), or the template failed ("chat_template.jinja:3:14: ..."). `o` is
 * reset first and may be used again. */
weft_status chat_render(const chat_template *t, const char *name, const char *json, size_t n,
                        int64_t now, chat_output *o);

/* ---- The arguments, built from role and text ---- */

/*     chat_args a;
 *     chat_args_begin(&a);
 *     chat_args_message(&a, "user", text, n);
 *     chat_args_value(&a, "enable_thinking", "false");      (optional, any number, anywhere)
 *     chat_args_end(&a, true);
 *     WEFT_TRY(chat_render(t, NULL, a.json.data, a.json.len, chat_now(), &o));
 *     chat_args_fini(&a);
 */
typedef struct {
    buf json, values;
    size_t messages; /* so far */
} chat_args;

void chat_args_begin(chat_args *a); /* as zeroed storage; begin again after fini only */
void chat_args_message(chat_args *a, const char *role, const char *content, size_t n);
/* A whole message as JSON text ({"role": ..., ...}), already checked to be one value. */
void chat_args_message_json(chat_args *a, const char *json, size_t n);
/* Another argument; `json` is one JSON value as text. A name may be given once. */
void chat_args_value(chat_args *a, const char *name, const char *json);
void chat_args_end(chat_args *a, bool add_generation_prompt);
void chat_args_fini(chat_args *a);
