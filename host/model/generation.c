/* SPDX-License-Identifier: Apache-2.0
 * What becomes of a request's tokens: when to stop and what text is certain. Text that may become a
 * stop string, or a match of a stop expression, is held back. */
#include "host/model/generation.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include <string.h>

enum { TEXT_RESERVE = 8192, TEXT_MAX = 1 << 26 };

/* ---- The prompt ---- */

static weft_status tokenize(generation *g) {
    const weft_request *r = g->req;
    if (!g->tok)
        return weft_fail(WEFT_USAGE, "prompt: the model's folder has no tokenizer; give token ids");
    return weft_tokenize(weft_engine_tokenizer(g->engine), r->prompt, strlen(r->prompt), !r->no_bos,
                         &g->ids, &g->n_ids);
}

static void copy_ids(generation *g, const int32_t *ids, size_t n) {
    weft_free(g->ids);
    g->ids = mem_alloc(sizeof *ids * n);
    memcpy(g->ids, ids, sizeof *ids * n);
    g->n_ids = n;
}

static weft_status read_prompt(generation *g) {
    const weft_request *r = g->req;
    size_t n = 0;
    if (r->ids && r->prompt)
        return weft_fail(WEFT_USAGE, "prompt: text and ids were both given; give one");
    if (r->seq && (r->ids || r->prompt))
        return weft_fail(WEFT_USAGE, "prompt: is what the sequence holds; append to it instead");
    if (r->ids && r->n_ids > 0)
        copy_ids(g, r->ids, r->n_ids);
    else if (r->prompt)
        WEFT_TRY(tokenize(g));
    if (r->seq)
        weft_seq_tokens(r->seq, &n);
    if (n + g->n_ids == 0 && g->info.bos_id < 0)
        return weft_fail(WEFT_USAGE,
                         "prompt: is empty and the model names no BOS token to start at");
    if (n + g->n_ids == 0)
        copy_ids(g, &g->info.bos_id, 1);
    return WEFT_OK;
}

static weft_status append_prompt(generation *g) {
    int32_t most = g->req->max_tokens;
    size_t n;
    if (g->n_ids > 0)
        WEFT_TRY(weft_seq_append(g->seq, g->ids, g->n_ids));
    weft_free(g->ids);
    g->ids = NULL;
    weft_seq_tokens(g->seq, &n);
    g->result.n_prompt = (int32_t)n;
    int32_t room = g->info.ctx_size - (int32_t)n + 1; /* the last token is never computed */
    g->limit = most > 0 && most < room ? most : room;
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

/* ---- Its life ---- */

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

/* Nothing is to be sampled any more. */
static weft_status finish(generation *g) {
    weft_status s = give_rest(g);
    g->done = true;
    return s;
}

weft_status generation_take(generation *g, const weft_sampled *s) {
    if (ends(g, s->id)) {
        g->result.finish = WEFT_FINISH_EOS;
        return finish(g);
    }
    g->result.n_generated++;
    WEFT_TRY(give(g, s));
    return g->result.n_generated == g->limit ? finish(g) : WEFT_OK;
}

weft_status generation_cancel(generation *g) {
    g->result.finish = WEFT_FINISH_CANCELLED;
    return finish(g);
}

static void set_sampling(generation *g) {
    const weft_request *r = g->req;
    g->sampling = r->sampling ? *r->sampling : weft_sampling_default(g->engine);
    g->min = g->sampling.min_tokens;
    if (!g->sampling.stop_id) {
        g->sampling.stop_id = r->stop_id;
        g->sampling.n_stop_id = r->n_stop_id;
    }
}

weft_status generation_init(generation *g, weft_engine *e, const weft_request *req,
                            weft_token_fn *fn, void *user) {
    *g = (generation){.engine = e, .req = req, .fn = fn, .user = user};
    g->tok = (const tokenizer *)weft_engine_tokenizer(e);
    buf_init(&g->text, TEXT_MAX);
    if (g->tok)
        tok_stream_init(&g->stream, g->tok, true);
    weft_engine_describe(e, &g->info);
    if (req->max_tokens < 0 || req->n_stop_id < 0)
        return weft_fail(WEFT_USAGE, "max_tokens: %d (0 or more)", (int)req->max_tokens);
    if ((req->n_stop > 0 || req->n_stop_regex > 0) && !g->tok)
        return weft_fail(WEFT_USAGE,
                         "stop strings: the model's folder has no tokenizer; give stop ids");
    WEFT_TRY(stop_init(&g->stop, req->stop, req->n_stop));
    WEFT_TRY(stop_regex_open(req->stop_regex, req->n_stop_regex, &g->regex));
    set_sampling(g);
    return read_prompt(g);
}

weft_status generation_begin(generation *g) {
    const weft_request *r = g->req;
    WEFT_TRY(r->seq ? weft_seq_sampling(r->seq, &g->sampling)
                    : weft_seq_open(g->engine, &g->sampling, &g->seq));
    if (r->seq)
        g->seq = r->seq;
    WEFT_TRY(append_prompt(g));
    /* Room before the first token, so that sampling itself does not allocate. */
    static const char zeros[TEXT_RESERVE];
    buf_add(&g->text, zeros, sizeof zeros);
    buf_clear(&g->text);
    return g->tok ? prime(g) : WEFT_OK;
}

void generation_fini(generation *g) {
    if (g->tok)
        tok_stream_fini(&g->stream);
    if (!g->req->seq)
        weft_seq_close(g->seq);
    stop_fini(&g->stop);
    stop_regex_close(g->regex);
    buf_fini(&g->text);
    weft_free(g->ids);
}
