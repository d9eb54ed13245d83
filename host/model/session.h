/* SPDX-License-Identifier: Apache-2.0
 * A conversation on one sequence. The sequence's tokens are always a function of the messages (text
 * and, for answers, the ids they were written with), so a turn computes only what differs from the
 * turn before, and undo, regenerate and load need nothing of their own. */
#pragma once
#include "host/model/chat/chat_prompt.h"
#include "weft.h"

typedef struct {
    weft_engine *engine;
    weft_engine_info info;
    weft_seq *seq;
    chat_prompt prompt;
    chat_message *message;
    size_t n, cap;
    uint64_t attempt; /* of the last answer: 0, or how often it was asked for again; the stream of
                         its random numbers */
    int32_t stop_id;  /* the template's end of turn beside the model's EOS; -1: none */
    char stop_text[CHAT_STOP_TEXT];
} session;

typedef struct {
    weft_result result;
    int32_t reused; /* tokens of the prompt whose K and V were kept */
    size_t dropped; /* oldest turns given up to make room */
    bool full;      /* the answer ended because the context did */
    bool exposed;   /* see chat_prompt_ids */
} session_turn;

weft_status session_open(session *s, weft_engine *e, const chat_template *t);
void session_close(session *s);

void session_add(session *s, chat_message m); /* takes m over */
void session_cut(session *s, size_t n);       /* keeps the first n messages */
/* Sets the system message; NULL or "" removes it. */
void session_system(session *s, const char *text);
const char *session_system_text(const session *s); /* NULL: none */
/* Index of the last message of that role; s->n if there is none. */
size_t session_last(const session *s, const char *role);

/* Ids of the whole conversation as the next answer would see it. */
weft_status session_ids(const session *s, tok_ids *out);

/* Answers the last message and adds the answer. If the conversation leaves too little room, its
 * oldest turns are dropped (the system message stays); WEFT_USAGE if even the last one alone does
 * not fit, and nothing is changed. Of `req`, sampling, limits, stops and cancel count. */
weft_status session_answer(session *s, const weft_request *req, weft_token_fn *fn, void *user,
                           session_turn *out);
