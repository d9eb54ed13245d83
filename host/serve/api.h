/* SPDX-License-Identifier: Apache-2.0
 * Requests and answers in OpenAI's form (platform.openai.com/docs/api-reference: completions, chat
 * completions, batch), with the further parameters of vLLM, llama.cpp and `weft run` under the
 * names they have there. What a line of `weft batch` says, a body of HTTP says. */
#pragma once
#include "host/base/buf.h"
#include "host/base/json.h"
#include "host/model/chat/chat_prompt.h"
#include "weft.h"

typedef struct {
    weft_engine *engine;
    weft_engine_info info;
    const char *folder, *template, *name; /* of the model; borrowed */
    weft_request preset;                  /* what holds where a request says nothing; borrowed */
    weft_sampling sampling;
    chat_template *chat; /* opened for the first request with messages */
    chat_prompt prompt;
    int32_t stop_id;
    char stop_text[CHAT_STOP_TEXT];
} api;

/* template: as --chat-template, NULL for the model's own. preset.sampling must be set. */
void api_init(api *a, weft_engine *e, const char *folder, const char *template,
              const weft_request *preset);
void api_fini(api *a);

typedef struct {
    arena mem;
    weft_request req; /* points into this struct and its arena */
    weft_sampling sampling;
    tok_ids ids;
    const char *custom_id; /* of a batch line; NULL: none */
    bool chat;             /* messages were given */
    bool seeded;           /* the request names a seed */
    bool logprobs, token_ids;
    bool no_bos;
    /* While it is read. */
    json_str prompt, messages;
    bool has_prompt, has_body, has_field, has_url, url_chat;
    const char *extra[2 * 16 + 1];
    int n_extra, top;
} api_request;

/* A line of `weft batch`: {"custom_id", "method", "url", "body": {...}} or the body's members
 * themselves, beside an optional custom_id. `name` says where in messages; the text is copied.
 * After a failure too custom_id is set if it was read, and api_request_fini frees what there is. */
weft_status api_read_line(api *a, const char *name, const char *text, size_t n, api_request *out);
/* The body alone, as POST sends it. */
weft_status api_read_body(api *a, const char *name, const char *text, size_t n, api_request *out);
void api_request_fini(api_request *r);

/* What a request's tokens add up to. */
typedef struct {
    const api *api;
    const api_request *request;
    buf text, logprobs, ids;
    void *owner; /* the caller's */
} api_answer;

void api_answer_init(api_answer *o, const api *a, const api_request *r);
void api_answer_fini(api_answer *o);
/* A weft_token_fn over an api_answer: false when it is too large. */
bool api_answer_token(void *answer, const weft_token *t);
/* {"object", "model", "seed", "choices", "usage"}: one line, a function of request and model. */
void api_answer_write(const api_answer *o, const weft_result *r, buf *out);
