/* SPDX-License-Identifier: Apache-2.0
 * weft_generate: one request at a time. Tokens come from weft_engine_step, generation.c makes text
 * of them. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/model/generation.h"

static bool cancelled(const generation *g) {
    return g->req->cancel && *g->req->cancel;
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
        bool stopped = false;
        s = next(g, &sampled, &stopped);
        if (s == WEFT_OK && first <= start && !stopped)
            first = clock_seconds();
        if (s == WEFT_OK)
            s = stopped ? generation_cancel(g) : generation_take(g, &sampled);
    }
    double end = clock_seconds();
    g->result.prompt_seconds = (first > start ? first : end) - start;
    g->result.generate_seconds = first > start ? end - first : 0;
    return s;
}

weft_status weft_generate(weft_engine *e, const weft_request *req, weft_token_fn *fn, void *user,
                          weft_result *out) {
    generation g;
    weft_status s = generation_init(&g, e, req, fn, user);
    if (s == WEFT_OK)
        s = generation_begin(&g);
    if (s == WEFT_OK)
        s = loop(&g);
    if (s == WEFT_OK && out)
        *out = g.result;
    generation_fini(&g);
    return s;
}
