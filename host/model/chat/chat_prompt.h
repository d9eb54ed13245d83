/* SPDX-License-Identifier: Apache-2.0
 * From messages to the token ids a model continues. Control tokens are the template's alone: text
 * that spells one inside a message stays text. Which bytes of the rendering a message wrote is
 * found by rendering twice, once with private-use characters around every content; it is trusted
 * only if the two renderings are the same but for these characters (docs/CHAT.md). */
#pragma once
#include "host/model/chat/chat.h"
#include "host/model/tokenizer/tokenizer.h"

typedef struct {
    char *role;
    char *content;    /* NUL-terminated; NULL: the message has none that is text */
    size_t n;         /* bytes of content */
    char *raw, *rest; /* the message as JSON, and its members but content; NULL: role and content
                         are all there is */
    int32_t *ids;     /* tokens the model wrote it with, which may not be those its text encodes
                         to; NULL: not known */
    size_t n_ids;
    bool spells; /* content spells a control token */
} chat_message;

typedef struct {
    const tokenizer *tok;
    const chat_template *template;
    const char *name;         /* of the messages, in errors; NULL: none */
    int64_t now;              /* what the template takes for the time: constant, so that a later
                                 rendering begins with the earlier one */
    const char *const *extra; /* further arguments of the template: name, JSON, name, JSON, NULL */
    bool bos;                 /* put BOS in front if the rendering has none */
    bool joins;               /* ids of two texts, one behind the other, are the joined text */
    size_t nprefix, nsuffix;  /* ids TOK_SPECIAL adds */
    int32_t split[2];         /* BOS and EOS where the tokenizer does not find their names; -1 */
} chat_prompt;

/* A built-in template is general: BOS goes in front where the tokenizer adds one. A model's own
 * template says itself where BOS goes. */
weft_status chat_prompt_init(chat_prompt *p, const tokenizer *t, const chat_template *template);

/* Role and text, both copied. */
chat_message chat_message_new(const char *role, const char *content, size_t n);
/* The same from JSON that is one value; what it means is checked when it is rendered. */
weft_status chat_message_parse(const char *name, const char *json, size_t n, chat_message *out);
void chat_message_free(chat_message *m);
bool chat_message_is(const chat_message *m, const char *role);

/* Appends the ids of the messages with the generation prompt. *exposed: some content spells a
 * control token and could not be told from the template's own text, so it counts as one. */
weft_status chat_prompt_ids(const chat_prompt *p, const chat_message *m, size_t n, tok_ids *out,
                            bool *exposed);

/* What ends an answer beside the model's EOS: the control token the template writes behind one, -1
 * if none; or its text where the tokenizer has no such token ("" if none). */
enum { CHAT_STOP_TEXT = 64 };
void chat_prompt_stop(const chat_prompt *p, int32_t *id, char text[CHAT_STOP_TEXT]);

/* Do the ids spell the text? False also if the text was cut. */
bool chat_ids_spell(const tokenizer *t, const int32_t *ids, size_t n, const char *text,
                    size_t n_text);
