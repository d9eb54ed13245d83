/* SPDX-License-Identifier: Apache-2.0
 * Answers, and what all requests share. */
#include "host/serve/api.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include <inttypes.h>
#include <string.h>

enum { ANSWER_MAX = 1 << 28 };

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

void api_init(api *a, weft_engine *e, const char *folder, const char *template,
              const weft_request *preset) {
    *a = (api){.engine = e,
               .folder = folder,
               .template = template,
               .name = last_part(folder),
               .preset = *preset,
               .sampling = *preset->sampling,
               .stop_id = -1};
    weft_engine_describe(e, &a->info);
}

void api_fini(api *a) {
    chat_template_close(a->chat);
}

void api_request_fini(api_request *r) {
    tok_ids_fini(&r->ids);
    arena_fini(&r->mem);
}

void api_answer_init(api_answer *o, const api *a, const api_request *r) {
    *o = (api_answer){.api = a, .request = r};
    buf_init(&o->text, ANSWER_MAX);
    buf_init(&o->logprobs, ANSWER_MAX);
    buf_init(&o->ids, ANSWER_MAX);
}

void api_answer_fini(api_answer *o) {
    buf_fini(&o->text);
    buf_fini(&o->logprobs);
    buf_fini(&o->ids);
}

static void add_token(api_answer *o, int32_t id, float logprob) {
    const weft_tokenizer *t = weft_engine_tokenizer(o->api->engine);
    char *text = NULL;
    size_t n = 0;
    buf_printf(&o->logprobs, "{\"id\":%d,\"token\":", (int)id);
    if (t && id < weft_tokenizer_vocab(t) &&
        weft_detokenize(t, &id, 1, false, &text, &n) == WEFT_OK)
        buf_json_line(&o->logprobs, text, n);
    else
        buf_puts(&o->logprobs, "null");
    weft_free(text);
    buf_puts(&o->logprobs, ",\"logprob\":");
    buf_json_float(&o->logprobs, logprob);
}

static void add_logprobs(api_answer *o, const weft_token *t) {
    buf_puts(&o->logprobs, o->logprobs.len ? "," : "");
    add_token(o, t->id, t->logprob);
    buf_puts(&o->logprobs, ",\"top_logprobs\":[");
    for (int i = 0; i < t->n_top; i++) {
        buf_puts(&o->logprobs, i ? "," : "");
        add_token(o, t->top_id[i], t->top_logprob[i]);
        buf_putc(&o->logprobs, '}');
    }
    buf_puts(&o->logprobs, "]}");
}

bool api_answer_token(void *answer, const weft_token *t) {
    api_answer *o = answer;
    buf_add(&o->text, t->text, t->n_text);
    if (t->id >= 0 && o->request->logprobs)
        add_logprobs(o, t);
    if (t->id >= 0 && o->request->token_ids)
        buf_printf(&o->ids, "%s%d", o->ids.len ? "," : "", (int)t->id);
    return !o->text.failed && !o->logprobs.failed && !o->ids.failed;
}

static const char *finish_name(weft_finish f) {
    static const char *const name[] = {[WEFT_FINISH_LENGTH] = "length",
                                       [WEFT_FINISH_EOS] = "stop",
                                       [WEFT_FINISH_STOP] = "stop",
                                       [WEFT_FINISH_CANCELLED] = "cancelled"};
    return name[f];
}

static void write_text(const api_answer *o, buf *out) {
    bool chat = o->request->chat;
    buf_puts(out, chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    if (weft_engine_tokenizer(o->api->engine))
        buf_json_line(out, o->text.data, o->text.len);
    else
        buf_puts(out, "null");
    buf_puts(out, chat ? "}" : "");
}

void api_answer_write(const api_answer *o, const weft_result *r, buf *out) {
    const api_request *q = o->request;
    buf_printf(out,
               "{\"object\":\"%s\",\"model\":", q->chat ? "chat.completion" : "text_completion");
    buf_json_line(out, o->api->name, strlen(o->api->name));
    buf_printf(out, ",\"seed\":%" PRIu64 ",\"choices\":[{\"index\":0,", q->sampling.seed);
    write_text(o, out);
    if (q->token_ids)
        buf_printf(out, ",\"token_ids\":[%s]", o->ids.data);
    if (q->logprobs)
        buf_printf(out, ",\"logprobs\":{\"content\":[%s]}", o->logprobs.data);
    else
        buf_puts(out, ",\"logprobs\":null");
    buf_printf(out,
               ",\"finish_reason\":\"%s\"}],\"usage\":{\"prompt_tokens\":%d,"
               "\"completion_tokens\":%d,\"total_tokens\":%d}}",
               finish_name(r->finish), (int)r->n_prompt, (int)r->n_generated,
               (int)(r->n_prompt + r->n_generated));
}
