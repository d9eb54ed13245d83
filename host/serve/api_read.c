/* SPDX-License-Identifier: Apache-2.0
 * Requests: one table of members, each with the function that reads it. */
#include "host/base/args.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/model/stop.h"
#include "host/model/stop_regex.h"
#include "host/serve/api.h"
#include "weft/ops.h"
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { EXTRAS = 16, LIST_MAX = 4096, TOKENS_MAX = 1 << 24 };

typedef struct member member;
typedef struct {
    api *a;
    api_request *r;
    json *j;
} reader;

struct member {
    const char *name;
    void (*read)(reader *p, const member *m);
    size_t at; /* of the field it sets */
    double min, max;
};

/* ---- Numbers ---- */

static void *field(const reader *p, const member *m) {
    return (char *)p->r + m->at;
}

static double number(reader *p, const member *m) {
    double v = json_double(p->j);
    if (!json_failed(p->j) && !(v >= m->min && v <= m->max))
        json_fail(p->j, "%s: %g is not in %g..%g", m->name, v, m->min, m->max);
    return v;
}

static void read_float(reader *p, const member *m) {
    float v = (float)number(p, m);
    memcpy(field(p, m), &v, sizeof v);
}

/* To the library 0 means off, or a default; here it is the least there is. */
static void read_positive(reader *p, const member *m) {
    double given = number(p, m);
    float v = given > 0 ? (float)given : FLT_MIN;
    memcpy(field(p, m), &v, sizeof v);
}

static void read_int(reader *p, const member *m) {
    int32_t v = (int32_t)json_int(p->j, (int64_t)m->min, (int64_t)m->max);
    memcpy(field(p, m), &v, sizeof v);
}

/* Servers that say "off" with -1. */
static void read_top_k(reader *p, const member *m) {
    int64_t v = json_int(p->j, -1, (int64_t)m->max);
    p->r->sampling.top_k = v > 0 ? (int32_t)v : 0;
}

static void read_max_tokens(reader *p, const member *m) {
    int64_t v = json_int(p->j, -1, (int64_t)m->max);
    if (v == 0 && !json_failed(p->j))
        json_fail(p->j, "%s: 0 is no number of tokens (1 or more, or -1 for no limit)", m->name);
    p->r->req.max_tokens = v > 0 ? (int32_t)v : 0;
}

static void read_seed(reader *p, const member *m) {
    int64_t v = json_int(p->j, -1, (int64_t)m->max);
    p->r->seeded = v >= 0; /* -1: one of its own, as if none were named */
    if (v >= 0)
        p->r->sampling.seed = (uint64_t)v;
}

static void read_dry_last_n(reader *p, const member *m) {
    int32_t v = (int32_t)json_int(p->j, -1, (int64_t)m->max);
    p->r->sampling.dry_last_n = v;
    if (v == 0)
        p->r->sampling.dry_multiplier = 0;
}

static void read_bool(reader *p, const member *m) {
    bool v = json_bool(p->j);
    memcpy(field(p, m), &v, sizeof v);
}

static void read_special_tokens(reader *p, const member *m) {
    (void)m;
    p->r->no_bos = !json_bool(p->j);
}

/* ---- Lists ---- */

/* A string, or an array of them, into the arena. */
static const char **texts(reader *p, const char *name, int most, int32_t *n) {
    const char **list = ARENA_NEW(&p->r->mem, const char *, most + 1);
    *n = 0;
    if (json_peek(p->j) == JSON_STRING) {
        list[(*n)++] = json_text(p->j);
        return list;
    }
    json_array(p->j);
    while (json_item(p->j)) {
        if (*n == most) {
            json_fail(p->j, "%s: more than %d entries", name, most);
            break;
        }
        list[(*n)++] = json_text(p->j);
    }
    return list;
}

static void read_stop(reader *p, const member *m) {
    p->r->req.stop = texts(p, m->name, STOP_MAX, &p->r->req.n_stop);
}

static void read_stop_regex(reader *p, const member *m) {
    p->r->req.stop_regex = texts(p, m->name, STOP_REGEX_MAX, &p->r->req.n_stop_regex);
}

static void read_breakers(reader *p, const member *m) {
    weft_sampling *s = &p->r->sampling;
    s->dry_breaker = texts(p, m->name, WEFT_MAX_BREAKERS, &s->n_dry_breaker);
}

/* "a;b" or ["a", "b"]. */
static void read_samplers(reader *p, const member *m) {
    int32_t n;
    buf b;
    const char **list = texts(p, m->name, WEFT_STAGES, &n);
    buf_init(&b, 1 << 16);
    for (int i = 0; i < n; i++) {
        buf_puts(&b, i ? ";" : "");
        buf_puts(&b, list[i]);
    }
    p->r->sampling.samplers = arena_copy(&p->r->mem, b.data, b.len);
    buf_fini(&b);
}

static void read_stop_ids(reader *p, const member *m) {
    int32_t *id = ARENA_NEW(&p->r->mem, int32_t, LIST_MAX), n = 0;
    json_array(p->j);
    while (json_item(p->j)) {
        if (n == LIST_MAX) {
            json_fail(p->j, "%s: more than %d entries", m->name, LIST_MAX);
            break;
        }
        id[n++] = (int32_t)json_int(p->j, 0, p->a->info.vocab - 1);
    }
    p->r->req.stop_id = id;
    p->r->req.n_stop_id = n;
}

/* An id as a member's name. */
static int32_t id_of(reader *p, json_str key) {
    int64_t v = 0;
    bool digits = key.n > 0 && key.n < 10;
    for (size_t i = 0; i < key.n && digits; i++) {
        digits = key.s[i] >= '0' && key.s[i] <= '9';
        v = 10 * v + (key.s[i] - '0');
    }
    if (!digits || v >= p->a->info.vocab)
        json_fail(p->j, "logit_bias: \"%.*s\" is no token id in 0..%d",
                  (int)(key.n < 40 ? key.n : 40), key.s, (int)p->a->info.vocab - 1);
    return (int32_t)v;
}

static float bias_of(reader *p, const member *m) {
    if (json_peek(p->j) != JSON_BOOL)
        return (float)number(p, m);
    if (json_bool(p->j))
        json_fail(p->j, "%s: must be a number, or false for a token that is banned", m->name);
    return -INFINITY;
}

/* {"id": x}; false bans the token. */
static void read_bias(reader *p, const member *m) {
    weft_sampling *s = &p->r->sampling;
    int32_t *id = ARENA_NEW(&p->r->mem, int32_t, WEFT_MAX_BIAS);
    float *x = ARENA_NEW(&p->r->mem, float, WEFT_MAX_BIAS);
    int32_t n = 0;
    json_object(p->j);
    for (json_str key; json_key(p->j, &key); n++) {
        if (n == WEFT_MAX_BIAS) {
            json_fail(p->j, "%s: more than %d entries", m->name, WEFT_MAX_BIAS);
            break;
        }
        id[n] = id_of(p, key);
        x[n] = bias_of(p, m);
    }
    s->bias_id = id;
    s->bias = x;
    s->n_bias = n;
}

/* ---- Log-probabilities: a count, or whether, beside top_logprobs ---- */

static void read_logprobs(reader *p, const member *m) {
    api_request *r = p->r;
    if (json_peek(p->j) == JSON_BOOL) {
        r->logprobs = json_bool(p->j);
        return;
    }
    r->logprobs = true;
    r->sampling.logprobs = (int32_t)json_int(p->j, 0, (int64_t)m->max);
}

static void read_top_logprobs(reader *p, const member *m) {
    p->r->top = (int)json_int(p->j, 0, (int64_t)m->max);
}

/* ---- What is asked ---- */

static void read_prompt(reader *p, const member *m) {
    json_kind kind = json_peek(p->j);
    if (kind != JSON_STRING && kind != JSON_ARRAY)
        json_fail(p->j, "%s: must be text or an array of token ids", m->name);
    p->r->prompt = json_raw(p->j);
    p->r->has_prompt = true;
}

static void read_messages(reader *p, const member *m) {
    if (json_peek(p->j) != JSON_ARRAY)
        json_fail(p->j, "%s: must be an array of {\"role\", \"content\"}", m->name);
    p->r->messages = json_raw(p->j);
    p->r->chat = true;
}

static void add_extra(reader *p, const char *name, json_str raw) {
    api_request *r = p->r;
    if (r->n_extra == EXTRAS) {
        json_fail(p->j, "more than %d arguments of the template", EXTRAS);
        return;
    }
    r->extra[2 * r->n_extra] = name;
    r->extra[2 * r->n_extra++ + 1] = json_dup(&r->mem, raw);
}

static void read_extra(reader *p, const member *m) {
    add_extra(p, m->name, json_raw(p->j));
}

static void read_kwargs(reader *p, const member *m) {
    (void)m;
    json_object(p->j);
    for (json_str key; json_key(p->j, &key);)
        add_extra(p, json_dup(&p->r->mem, key), json_raw(p->j));
}

/* ---- What this does not do, or need not know ---- */

static void ignore(reader *p, const member *m) {
    (void)m;
    json_skip(p->j);
}

static void only_one(reader *p, const member *m) {
    if (json_int(p->j, 1, INT32_MAX) > 1)
        json_fail(p->j, "%s: only 1 is supported; repeat the line with another seed", m->name);
}

static void only_false(reader *p, const member *m) {
    if (json_bool(p->j))
        json_fail(p->j, "%s: true is not supported here", m->name);
}

static void only_true(reader *p, const member *m) {
    if (!json_bool(p->j))
        json_fail(p->j, "%s: false is not supported here", m->name);
}

static void not_supported(reader *p, const member *m) {
    json_fail(p->j, "%s: is not supported", m->name);
}

static void only_text(reader *p, const member *m) {
    json_object(p->j);
    for (json_str key; json_key(p->j, &key);)
        if (!json_is(key, "type") || !json_is(json_string(p->j), "text"))
            json_fail(p->j, "%s: only {\"type\": \"text\"} is supported", m->name);
}

static void only_auto(reader *p, const member *m) {
    json_str s = {"", 0};
    if (json_peek(p->j) == JSON_STRING)
        s = json_string(p->j);
    if (!json_is(s, "auto") && !json_is(s, "none"))
        json_fail(p->j, "%s: only \"auto\" and \"none\" are supported", m->name);
}

/* ---- The table ---- */

#define S(member) offsetof(api_request, sampling.member)
#define R(member) offsetof(api_request, member)
static const member members[] = {
    {"prompt", read_prompt, 0, 0, 0},
    {"messages", read_messages, 0, 0, 0},
    {"tools", read_extra, 0, 0, 0},
    {"documents", read_extra, 0, 0, 0},
    {"chat_template_kwargs", read_kwargs, 0, 0, 0},
    {"max_tokens", read_max_tokens, 0, 0, TOKENS_MAX},
    {"max_completion_tokens", read_max_tokens, 0, 0, TOKENS_MAX},
    {"n_predict", read_max_tokens, 0, 0, TOKENS_MAX},
    {"temperature", read_float, S(temperature), 0, 100},
    {"temp", read_float, S(temperature), 0, 100},
    {"top_k", read_top_k, 0, 0, INT32_MAX},
    {"top_p", read_positive, S(top_p), 0, 1},
    {"min_p", read_float, S(min_p), 0, 1},
    {"typical_p", read_positive, S(typical_p), 0, 1},
    {"typical", read_positive, S(typical_p), 0, 1},
    {"repetition_penalty", read_float, S(repetition_penalty), 0.01, 100},
    {"repeat_penalty", read_float, S(repetition_penalty), 0.01, 100},
    {"frequency_penalty", read_float, S(frequency_penalty), -100, 100},
    {"presence_penalty", read_float, S(presence_penalty), -100, 100},
    {"no_repeat_ngram_size", read_int, S(no_repeat_ngram), 0, 1024},
    {"no_repeat_ngram", read_int, S(no_repeat_ngram), 0, 1024},
    {"top_n_sigma", read_float, S(top_n_sigma), 0, 100},
    {"dynatemp_range", read_float, S(dynatemp_range), 0, 100},
    {"dynatemp_exponent", read_positive, S(dynatemp_exponent), 0, 100},
    {"dynatemp_exp", read_positive, S(dynatemp_exponent), 0, 100},
    {"xtc_probability", read_float, S(xtc_probability), 0, 1},
    {"xtc_threshold", read_positive, S(xtc_threshold), 0, 1},
    {"dry_multiplier", read_float, S(dry_multiplier), 0, 100},
    {"dry_base", read_float, S(dry_base), 1, 100},
    {"dry_allowed_length", read_int, S(dry_allowed_length), 1, 1 << 20},
    {"dry_penalty_last_n", read_dry_last_n, 0, 0, TOKENS_MAX},
    {"dry_last_n", read_dry_last_n, 0, 0, TOKENS_MAX},
    {"dry_sequence_breakers", read_breakers, 0, 0, 0},
    {"dry_sequence_breaker", read_breakers, 0, 0, 0},
    {"mirostat", read_int, S(mirostat), 0, 2},
    {"mirostat_tau", read_positive, S(mirostat_tau), 0, 100},
    {"mirostat_ent", read_positive, S(mirostat_tau), 0, 100},
    {"mirostat_eta", read_positive, S(mirostat_eta), 0, 100},
    {"mirostat_lr", read_positive, S(mirostat_eta), 0, 100},
    {"samplers", read_samplers, 0, 0, 0},
    {"min_tokens", read_int, S(min_tokens), 0, TOKENS_MAX},
    {"logit_bias", read_bias, 0, -1e4, 1e4},
    {"seed", read_seed, 0, 0, 9007199254740992.0},
    {"stop", read_stop, 0, 0, 0},
    {"stop_regex", read_stop_regex, 0, 0, 0},
    {"stop_token_ids", read_stop_ids, 0, 0, 0},
    {"stop_id", read_stop_ids, 0, 0, 0},
    {"ignore_eos", read_bool, R(req.ignore_eos), 0, 0},
    {"no_bos", read_bool, R(no_bos), 0, 0},
    {"add_special_tokens", read_special_tokens, 0, 0, 0},
    {"logprobs", read_logprobs, 0, 0, WEFT_TOP_LOGPROBS},
    {"top_logprobs", read_top_logprobs, 0, 0, WEFT_TOP_LOGPROBS},
    {"return_token_ids", read_bool, R(token_ids), 0, 0},
    {"n", only_one, 0, 0, 0},
    {"best_of", only_one, 0, 0, 0},
    {"stream", only_false, 0, 0, 0},
    {"echo", only_false, 0, 0, 0},
    {"add_generation_prompt", only_true, 0, 0, 0},
    {"suffix", not_supported, 0, 0, 0},
    {"functions", not_supported, 0, 0, 0},
    {"response_format", only_text, 0, 0, 0},
    {"tool_choice", only_auto, 0, 0, 0},
    {"model", ignore, 0, 0, 0},
    {"user", ignore, 0, 0, 0},
    {"metadata", ignore, 0, 0, 0},
    {"store", ignore, 0, 0, 0},
    {"service_tier", ignore, 0, 0, 0},
    {"stream_options", ignore, 0, 0, 0},
    {"parallel_tool_calls", ignore, 0, 0, 0},
    {"safety_identifier", ignore, 0, 0, 0},
    {"prompt_cache_key", ignore, 0, 0, 0},
};
enum { MEMBERS = sizeof members / sizeof *members };

static void unknown(reader *p, json_str key) {
    const char *names[MEMBERS], *word = json_dup(&p->r->mem, key), *near;
    for (int i = 0; i < MEMBERS; i++)
        names[i] = members[i].name;
    near = args_nearest(word, names, MEMBERS);
    json_fail(p->j, "\"%.100s\": no such parameter%s%s%s", word, near ? "; did you mean " : "",
              near ? near : "", near ? "?" : "");
}

/* null says nothing. */
static void read_member(reader *p, json_str key) {
    for (int i = 0; i < MEMBERS; i++) {
        if (!json_is(key, members[i].name))
            continue;
        if (json_peek(p->j) == JSON_NULL && members[i].read != read_prompt)
            json_null(p->j);
        else
            members[i].read(p, &members[i]);
        return;
    }
    unknown(p, key);
}

static void read_members(reader *p) {
    json_object(p->j);
    for (json_str key; json_key(p->j, &key);)
        read_member(p, key);
}

/* ---- A line ---- */

static void read_url(reader *p) {
    json_str s = json_string(p->j);
    p->r->has_url = true;
    p->r->url_chat = json_is(s, "/v1/chat/completions");
    if (!json_failed(p->j) && !p->r->url_chat && !json_is(s, "/v1/completions"))
        json_fail(p->j, "url: \"%.*s\" is neither /v1/completions nor /v1/chat/completions",
                  (int)(s.n < 80 ? s.n : 80), s.s);
}

static void read_method(reader *p) {
    if (!json_is(json_string(p->j), "POST"))
        json_fail(p->j, "method: only \"POST\" is known");
}

static void read_custom_id(reader *p) {
    if (json_peek(p->j) == JSON_NULL) {
        json_null(p->j);
        return;
    }
    const char *text = json_text(p->j);
    p->r->custom_id = json_failed(p->j) ? NULL : text;
}

static void read_line_member(reader *p, json_str key) {
    api_request *r = p->r;
    if (json_is(key, "custom_id")) {
        read_custom_id(p);
    } else if (json_is(key, "method")) {
        read_method(p);
    } else if (json_is(key, "url")) {
        read_url(p);
    } else if (json_is(key, "body")) {
        read_members(p);
        r->has_body = true;
    } else {
        r->has_field = true;
        read_member(p, key);
    }
}

static void read_line(reader *p) {
    api_request *r = p->r;
    json_object(p->j);
    for (json_str key; json_key(p->j, &key);)
        read_line_member(p, key);
    if (r->has_body && r->has_field)
        json_fail(p->j, "parameters beside \"body\"; put them into it");
    if (r->has_url && !json_failed(p->j) && r->url_chat != r->chat)
        json_fail(p->j, "url: %s needs \"%s\"",
                  r->url_chat ? "/v1/chat/completions" : "/v1/completions",
                  r->url_chat ? "messages" : "prompt");
}

/* ---- From text to ids ---- */

static weft_status tokenize(reader *p, const char *name, json_str s) {
    const weft_tokenizer *t = weft_engine_tokenizer(p->a->engine);
    int32_t *ids = NULL;
    size_t n = 0;
    if (!t)
        return weft_fail(WEFT_USAGE, "%s: the model's folder has no tokenizer; give token ids",
                         name);
    weft_status st = weft_tokenize(t, s.s, s.n, !p->r->no_bos, &ids, &n);
    for (size_t i = 0; st == WEFT_OK && i < n; i++)
        tok_ids_add(&p->r->ids, ids[i]);
    weft_free(ids);
    return st == WEFT_OK ? st : err_prefix(st, "%s: prompt", name);
}

static weft_status prompt_ids(reader *p, const char *name) {
    json j;
    json_str text = {NULL, 0};
    int n = 0;
    json_init(&j, name, p->r->prompt.s, p->r->prompt.n, &p->r->mem);
    if (json_peek(&j) == JSON_STRING) {
        text = json_string(&j);
    } else {
        json_array(&j);
        for (; json_item(&j); n++) {
            if (json_peek(&j) != JSON_STRING)
                tok_ids_add(&p->r->ids, (int32_t)json_int(&j, 0, p->a->info.vocab - 1));
            else if (n == 0)
                text = json_string(&j);
            else
                json_fail(&j, "prompt: one text a line");
            if (text.s && n > 0)
                json_fail(&j, "prompt: one text a line");
        }
    }
    WEFT_TRY(json_done(&j));
    return text.s ? tokenize(p, name, text) : WEFT_OK;
}

static weft_status open_template(api *a) {
    const tokenizer *tok = (const tokenizer *)weft_engine_tokenizer(a->engine);
    if (!tok)
        return weft_fail(WEFT_USAGE, "messages: the model's folder has no tokenizer");
    if (a->chat)
        return WEFT_OK;
    WEFT_TRY(chat_template_open(a->folder, a->template, &a->chat));
    WEFT_TRY(chat_prompt_init(&a->prompt, tok, a->chat));
    chat_prompt_stop(&a->prompt, &a->stop_id, a->stop_text);
    return WEFT_OK;
}

/* The request's stops and, behind them, what ends a turn of the template. */
static void add_turn_stops(const api *a, api_request *r) {
    weft_request *q = &r->req;
    int32_t *id = ARENA_NEW(&r->mem, int32_t, q->n_stop_id + 1);
    const char **text = ARENA_NEW(&r->mem, const char *, q->n_stop + 1);
    if (q->n_stop_id > 0)
        memcpy(id, q->stop_id, sizeof *id * (size_t)q->n_stop_id);
    if (q->n_stop > 0)
        memcpy(text, q->stop, sizeof *text * (size_t)q->n_stop);
    if (a->stop_id >= 0)
        id[q->n_stop_id++] = a->stop_id;
    if (a->stop_text[0])
        text[q->n_stop++] = a->stop_text;
    q->stop_id = id;
    q->stop = text;
}

static weft_status render(reader *p, const char *name, const chat_message *m, size_t n) {
    chat_prompt prompt = p->a->prompt;
    bool exposed;
    if (n == 0)
        return weft_fail(WEFT_USAGE, "%s: messages: is empty", name);
    prompt.name = name;
    prompt.extra = p->r->n_extra > 0 ? p->r->extra : NULL;
    WEFT_TRY(chat_prompt_ids(&prompt, m, n, &p->r->ids, &exposed));
    return p->r->ids.n > 0
               ? WEFT_OK
               : weft_fail(WEFT_USAGE, "%s: the template renders the messages to nothing", name);
}

static weft_status message_ids(reader *p, const char *name) {
    WEFT_TRY(open_template(p->a));
    json j;
    chat_message *m = NULL;
    size_t n = 0;
    json_init(&j, name, p->r->messages.s, p->r->messages.n, &p->r->mem);
    json_array(&j);
    while (json_item(&j)) {
        json_str raw = json_raw(&j);
        if (json_failed(&j))
            break;
        m = mem_grow(m, sizeof *m * (n + 1));
        chat_message_parse(name, raw.s, raw.n, &m[n++]);
    }
    weft_status st = json_done(&j);
    if (st == WEFT_OK)
        st = render(p, name, m, n);
    for (size_t i = 0; i < n; i++)
        chat_message_free(&m[i]);
    mem_free(m);
    if (st == WEFT_OK && !p->r->req.ignore_eos)
        add_turn_stops(p->a, p->r);
    return st;
}

/* ---- The whole ---- */

static weft_status conclude(reader *p, const char *name) {
    api_request *r = p->r;
    WEFT_TRY(json_done(p->j));
    if (r->chat && r->has_prompt)
        return weft_fail(WEFT_USAGE, "%s: prompt and messages were both given; give one", name);
    if (!r->chat && !r->has_prompt)
        return weft_fail(WEFT_USAGE, "%s: neither prompt nor messages", name);
    if (r->top > 0 && !r->logprobs)
        return weft_fail(WEFT_USAGE, "%s: top_logprobs: needs \"logprobs\": true", name);
    if (r->top > r->sampling.logprobs)
        r->sampling.logprobs = r->top;
    WEFT_TRY(r->chat ? message_ids(p, name) : prompt_ids(p, name));
    r->token_ids |= !weft_engine_tokenizer(p->a->engine);
    r->req.sampling = &r->sampling;
    r->req.ids = r->ids.n > 0 ? r->ids.v : NULL;
    r->req.n_ids = r->ids.n;
    return WEFT_OK;
}

static weft_status read_text(api *a, const char *name, const char *text, size_t n,
                             void (*read)(reader *), api_request *out) {
    json j;
    *out = (api_request){.req = a->preset, .sampling = a->sampling, .no_bos = a->preset.no_bos};
    reader p = {.a = a, .r = out, .j = &j};
    json_init(&j, name, arena_copy(&out->mem, text, n), n, &out->mem);
    read(&p);
    return conclude(&p, name);
}

weft_status api_read_line(api *a, const char *name, const char *text, size_t n, api_request *out) {
    return read_text(a, name, text, n, read_line, out);
}

weft_status api_read_body(api *a, const char *name, const char *text, size_t n, api_request *out) {
    return read_text(a, name, text, n, read_members, out);
}
