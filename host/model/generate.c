/* SPDX-License-Identifier: Apache-2.0
 * weft_generate: one prompt to its text. Tokens come from weft_engine_step; this file decides when
 * to stop and what text is certain. Text that may become a stop string, or a match of a stop
 * expression, is held back. */
#include "host/base/buf.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/model/stop.h"
#include "host/model/stop_regex.h"
#include "host/model/tokenizer/tokenizer.h"
#include "weft.h"
#include <string.h>

enum { TEXT_RESERVE = 8192, TEXT_MAX = 1 << 26 };

typedef struct {
    weft_engine *engine;
    const weft_request *req;
    weft_engine_info info;
    weft_seq *seq;
    const tokenizer *tok; /* NULL: ids only */
    tok_stream stream;
    stop_match stop;
    stop_regex *regex; /* NULL: none */
    buf text;          /* decoded, not given out */
    size_t seen;       /* of which the stop strings and expressions have seen this much */
    int32_t min;       /* tokens whose text they do not see */
    int32_t limit;     /* most tokens to generate */
    weft_token_fn *fn;
    void *user;
    weft_result result;
    bool done;
} generation;

/* ---- The prompt ---- */

static weft_status append_text(generation *g) {
    const weft_request *r = g->req;
    int32_t *ids = NULL;
    size_t n = 0;
    if (!g->tok)
        return weft_fail(WEFT_USAGE, "prompt: the model's folder has no tokenizer; give token ids");
    const weft_tokenizer *t = weft_engine_tokenizer(g->engine);
    WEFT_TRY(weft_tokenize(t, r->prompt, strlen(r->prompt), !r->no_bos, &ids, &n));
    weft_status s = n > 0 ? weft_seq_append(g->seq, ids, n) : WEFT_OK;
    weft_free(ids);
    return s;
}

static weft_status append_prompt(generation *g) {
    const weft_request *r = g->req;
    size_t n = 0;
    if (r->ids && r->prompt)
        return weft_fail(WEFT_USAGE, "prompt: text and ids were both given; give one");
    if (r->seq && (r->ids || r->prompt))
        return weft_fail(WEFT_USAGE, "prompt: is what the sequence holds; append to it instead");
    if (r->ids && r->n_ids > 0)
        WEFT_TRY(weft_seq_append(g->seq, r->ids, r->n_ids));
    else if (r->prompt)
        WEFT_TRY(append_text(g));
    weft_seq_tokens(g->seq, &n);
    if (n == 0 && g->info.bos_id < 0)
        return weft_fail(WEFT_USAGE,
                         "prompt: is empty and the model names no BOS token to start at");
    if (n == 0)
        WEFT_TRY(weft_seq_append(g->seq, &g->info.bos_id, 1));
    weft_seq_tokens(g->seq, &n);
    g->result.n_prompt = (int32_t)n;
    int32_t room = g->info.ctx_size - (int32_t)n + 1; /* the last token is never computed */
    g->limit = r->max_tokens > 0 && r->max_tokens < room ? r->max_tokens : room;
    return WEFT_OK;
}

/* ---- Text ---- */

/* A model's vocabulary may be padded past its tokenizer's: such a token has no text. */
static bool has_text(const generation *g, int32_t id) {
    size_t n;
    return g->tok && id >= 0 && id < tokenizer_vocab_size(g->tok) &&
           tokenizer_piece(g->tok, id, &n);
}

/* The decoder sees the prompt first: whether a leading space is text depends on what came
 * before. */
static weft_status prime(generation *g) {
    size_t n;
    const int32_t *ids = weft_seq_tokens(g->seq, &n);
    for (size_t i = 0; i < n; i++) {
        if (has_text(g, ids[i]))
            WEFT_TRY(tok_stream_push(&g->stream, ids[i], &g->text));
        buf_clear(&g->text);
    }
    return WEFT_OK;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The text ends `back` bytes before what the stops have seen. */
static void stop_at(generation *g, size_t back, size_t *n) {
    g->result.finish = WEFT_FINISH_STOP;
    g->done = true;
    *n = back < g->seen ? g->seen - back : 0;
}

/* *n: bytes of `text` that are certain now. A stop found ends the job; text ends before it. */
static weft_status certain(generation *g, size_t *n) {
    if (g->result.n_generated <= g->min)
        g->seen = g->text.len;
    while (g->seen < g->text.len) {
        char c = g->text.data[g->seen++];
        size_t word = (size_t)stop_feed(&g->stop, c), match;
        WEFT_TRY(stop_regex_feed(g->regex, c, &match));
        if (word > 0 || match > 0) {
            stop_at(g, larger(word, match), n);
            return WEFT_OK;
        }
    }
    *n = g->text.len - larger((size_t)stop_partial(&g->stop), stop_regex_partial(g->regex));
    return WEFT_OK;
}

static void forget(generation *g, size_t n) {
    memmove(g->text.data, g->text.data + n, g->text.len - n);
    g->text.len -= n;
    g->seen -= n;
}

static void report(generation *g, const weft_sampled *s, size_t n_text) {
    weft_token t = {.id = -1, .text = g->text.data, .n_text = n_text};
    if (s) {
        t.id = s->id;
        t.logprob = s->logprob;
        t.n_top = s->n_top;
        t.top_id = s->top_id;
        t.top_logprob = s->top_logprob;
    }
    if (g->fn && !g->fn(g->user, &t)) {
        g->result.finish = WEFT_FINISH_CANCELLED;
        g->done = true;
    }
}

static weft_status give(generation *g, const weft_sampled *s) {
    if (has_text(g, s->id))
        WEFT_TRY(tok_stream_push(&g->stream, s->id, &g->text));
    size_t n;
    WEFT_TRY(certain(g, &n));
    report(g, s, n);
    forget(g, n);
    return g->text.failed ? weft_fail(WEFT_NO_MEMORY, "text: too much is held back") : WEFT_OK;
}

/* What was held back, once nothing can follow it. */
static weft_status give_rest(generation *g) {
    size_t n, match = 0;
    if (!g->tok || g->done)
        return WEFT_OK;
    tok_stream_flush(&g->stream, &g->text);
    WEFT_TRY(certain(g, &n));
    if (!g->done)
        WEFT_TRY(stop_regex_finish(g->regex, &match));
    if (match > 0)
        stop_at(g, match, &n);
    else if (!g->done)
        n = g->text.len;
    if (n > 0)
        report(g, NULL, n);
    return WEFT_OK;
}

/* ---- The loop ---- */

static bool ends(const generation *g, int32_t id) {
    const weft_request *r = g->req;
    for (int i = 0; i < r->n_stop_id; i++)
        if (r->stop_id[i] == id)
            return true;
    for (int i = 0; i < g->info.n_eos && !r->ignore_eos; i++)
        if (g->info.eos_id[i] == id)
            return true;
    return false;
}

static bool cancelled(generation *g) {
    if (!g->req->cancel || !*g->req->cancel)
        return false;
    g->result.finish = WEFT_FINISH_CANCELLED;
    return true;
}

/* One token sampled, after as many steps as the prompt still needs. */
static weft_status next(generation *g, weft_sampled *s, bool *stopped) {
    for (int32_t left = g->result.n_prompt; left >= 0; left--) {
        *stopped = cancelled(g);
        if (*stopped)
            return WEFT_OK;
        weft_status st = weft_engine_step(g->engine, &g->seq, 1, s);
        if (st == WEFT_AGAIN)
            return weft_fail(WEFT_USAGE,
                             "kv_tokens: the cache is full at %d tokens; open the "
                             "engine with more",
                             (int)(g->result.n_prompt + g->result.n_generated));
        if (st != WEFT_OK || s->id >= 0)
            return st;
    }
    return weft_fail(WEFT_USAGE, "sampling: every token is masked or not a number; look at the "
                                 "logit bias and the weights");
}

static weft_status loop(generation *g) {
    double start = clock_seconds(), first = start;
    weft_status s = WEFT_OK;
    while (!g->done && s == WEFT_OK) {
        weft_sampled sampled;
        bool stopped;
        s = next(g, &sampled, &stopped);
        if (s != WEFT_OK || stopped)
            break;
        if (g->result.n_generated == 0)
            first = clock_seconds();
        if (ends(g, sampled.id)) {
            g->result.finish = WEFT_FINISH_EOS;
            break;
        }
        g->result.n_generated++;
        s = give(g, &sampled);
        if (g->result.n_generated == g->limit)
            break;
    }
    double end = clock_seconds();
    g->result.prompt_seconds = (first > start ? first : end) - start;
    g->result.generate_seconds = first > start ? end - first : 0;
    return s == WEFT_OK ? give_rest(g) : s;
}

static weft_status prepare(generation *g) {
    const weft_request *r = g->req;
    weft_engine_describe(g->engine, &g->info);
    g->tok = (const tokenizer *)weft_engine_tokenizer(g->engine);
    if (r->max_tokens < 0 || r->n_stop_id < 0)
        return weft_fail(WEFT_USAGE, "max_tokens: %d (0 or more)", (int)r->max_tokens);
    if ((r->n_stop > 0 || r->n_stop_regex > 0) && !g->tok)
        return weft_fail(WEFT_USAGE,
                         "stop strings: the model's folder has no tokenizer; give stop ids");
    WEFT_TRY(stop_init(&g->stop, r->stop, r->n_stop));
    WEFT_TRY(stop_regex_open(r->stop_regex, r->n_stop_regex, &g->regex));
    weft_sampling sampling = r->sampling ? *r->sampling : weft_sampling_default(g->engine);
    g->min = sampling.min_tokens;
    if (!sampling.stop_id) {
        sampling.stop_id = r->stop_id;
        sampling.n_stop_id = r->n_stop_id;
    }
    g->seq = r->seq;
    WEFT_TRY(r->seq ? weft_seq_sampling(r->seq, &sampling)
                    : weft_seq_open(g->engine, &sampling, &g->seq));
    WEFT_TRY(append_prompt(g));
    /* Room before the first token, so that the loop itself does not allocate. */
    static const char zeros[TEXT_RESERVE];
    buf_add(&g->text, zeros, sizeof zeros);
    buf_clear(&g->text);
    return g->tok ? prime(g) : WEFT_OK;
}

weft_status weft_generate(weft_engine *e, const weft_request *req, weft_token_fn *fn, void *user,
                          weft_result *out) {
    generation g = {.engine = e, .req = req, .fn = fn, .user = user};
    buf_init(&g.text, TEXT_MAX);
    const tokenizer *t = (const tokenizer *)weft_engine_tokenizer(e);
    if (t)
        tok_stream_init(&g.stream, t, true);
    weft_status s = prepare(&g);
    if (s == WEFT_OK)
        s = loop(&g);
    if (s == WEFT_OK && out)
        *out = g.result;
    if (t)
        tok_stream_fini(&g.stream);
    if (!req->seq)
        weft_seq_close(g.seq);
    stop_fini(&g.stop);
    stop_regex_close(g.regex);
    buf_fini(&g.text);
    return s;
}
