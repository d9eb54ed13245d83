/* SPDX-License-Identifier: Apache-2.0
 * The part of `weft run` behind --chat. */
#pragma once
#include "host/cmd/cmd.h"
#include "host/model/chat/chat_prompt.h"

typedef struct {
    bool on;
    const char *messages;
    cmd_chat_args chat;
} run_chat_args;

#define RUN_CHAT_SPECS(type, at) \
    {"chat", \
     "", \
     NULL, \
     ARG_FLAG, \
     NULL, \
     0, \
     0, \
     NULL, \
     "the prompt is a message: apply the chat template to it", \
     offsetof(type, at.on)}, \
        {"messages", \
         "", \
         NULL, \
         ARG_STRING, \
         "FILE", \
         0, \
         0, \
         NULL, \
         "with --chat: a JSON array of {role, content}, or an object with messages, tools, " \
         "documents; - reads standard input", \
         offsetof(type, at.messages)}, \
        CMD_CHAT_SPECS(type, at.chat)

typedef struct {
    int32_t stop_id; /* see chat_prompt_stop */
    char stop_text[CHAT_STOP_TEXT];
    int32_t *id; /* the request's stops with these */
    const char **text;
} run_chat;

weft_status run_chat_check(const run_chat_args *a, const cmd_prompt_args *p);
/* --system, then --messages, then -p or -f as the user's last words; *ids is mem_alloc'ed. */
weft_status run_chat_open(run_chat *out, const run_chat_args *a, const cmd_prompt_args *p,
                          const char *model, const weft_engine *e, int32_t **ids, size_t *n);
void run_chat_stops(run_chat *r, weft_request *req); /* borrowed by the request */
void run_chat_close(run_chat *r);
