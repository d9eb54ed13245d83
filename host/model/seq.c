/* SPDX-License-Identifier: Apache-2.0
 * The life of a sequence: open, append, truncate, close; and scoring, which is one sequence whose
 * every position is compared with the token that follows. */
#include "host/base/err.h"
#include "host/model/engine.h"
#include "host/model/sampling.h"
#include <string.h>

/* The parameters and what the sampler keeps beside the history start anew. */
static weft_status set_sampling(weft_seq *q, const weft_sampling *s) {
    weft_sample_params p = sampling_params(q->e, s, q->slot);
    WEFT_TRY(sampling_send(q->e, s, &p));
    q->params = p;
    if (p.mirostat)
        q->uploaded = 0; /* its state goes with the history */
    return WEFT_OK;
}

weft_status weft_seq_open(weft_engine *e, const weft_sampling *sampling, weft_seq **out) {
    weft_sampling greedy = weft_sampling_greedy();
    const weft_sampling *s = sampling ? sampling : &greedy;
    WEFT_TRY(sampling_check(e, s));
    for (int i = 0; i < e->shape.slots; i++) {
        weft_seq *q = &e->seq[i];
        if (q->open)
            continue;
        *q = (weft_seq){.e = e, .slot = i, .tokens = q->tokens, .logits_row = -1};
        WEFT_TRY(set_sampling(q, s));
        q->open = true;
        *out = q;
        return WEFT_OK;
    }
    return weft_fail(WEFT_AGAIN, "sequences: all %d are open; close one", e->shape.slots);
}

weft_status weft_seq_sampling(weft_seq *s, const weft_sampling *sampling) {
    weft_sampling greedy = weft_sampling_greedy();
    WEFT_TRY(sampling_check(s->e, sampling ? sampling : &greedy));
    return set_sampling(s, sampling ? sampling : &greedy);
}

void weft_seq_close(weft_seq *s) {
    if (!s || !s->open)
        return;
    kv_truncate(&s->e->kv, s->slot, 0);
    s->open = false;
}

weft_status engine_check_tokens(const weft_engine *e, int32_t used, const int32_t *ids, size_t n) {
    if (n > (size_t)(e->shape.ctx - used))
        return weft_fail(WEFT_USAGE,
                         "prompt: %zu tokens do not fit the context (%d of %d used); raise "
                         "--ctx-size (the model allows %lld)",
                         n, used, e->shape.ctx, (long long)e->config.max_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->config.vocab)
            return weft_fail(WEFT_USAGE, "prompt: token %d at %zu is not in 0..%lld", ids[i], i,
                             (long long)e->config.vocab - 1);
    return WEFT_OK;
}

weft_status weft_seq_append(weft_seq *s, const int32_t *ids, size_t n) {
    WEFT_TRY(engine_check_tokens(s->e, s->n, ids, n));
    memcpy(s->tokens + s->n, ids, n * sizeof *ids);
    s->n += (int32_t)n;
    s->prompt_len = s->n;
    return WEFT_OK;
}

const int32_t *weft_seq_tokens(const weft_seq *s, size_t *n) {
    *n = (size_t)s->n;
    return s->tokens;
}

static int32_t at_most(int32_t a, int32_t b) {
    return a < b ? a : b;
}

weft_status weft_seq_truncate(weft_seq *s, size_t n) {
    if (n > (size_t)s->n)
        return weft_fail(WEFT_USAGE, "truncate: the sequence has %d tokens, not %zu", s->n, n);
    s->n = (int32_t)n;
    s->prompt_len = at_most(s->prompt_len, s->n);
    s->uploaded = at_most(s->uploaded, s->n);
    /* The last token left must be computed again: the next sample needs its logits. */
    s->computed = at_most(s->computed, s->n > 0 ? s->n - 1 : 0);
    s->logits_row = -1;
    s->computed = kv_truncate(&s->e->kv, s->slot, s->computed);
    return WEFT_OK;
}

int32_t seq_reuse(weft_seq *s) {
    int32_t before = s->computed;
    s->computed = kv_reuse(&s->e->kv, s->slot, s->tokens, before, s->n - 1);
    return s->computed - before;
}

void seq_evict(weft_seq *s) {
    s->computed = kv_truncate(&s->e->kv, s->slot, 0);
}

weft_status weft_seq_logits(const weft_seq *s, float *logits) {
    const weft_engine *e = s->e;
    if (s->logits_row < 0)
        return weft_fail(WEFT_USAGE, "logits: the last step sampled nothing for this sequence");
    return engine_logits(e, s->logits_row, logits);
}

/* Scores tokens [at, at + n) of a sequence that holds them all; logprob and logits are the
 * caller's. */
static weft_status score_chunk(weft_engine *e, weft_seq *s, int32_t n, int32_t *target,
                               float *logprob, float *logits) {
    const decoder_io *io = &engine_sampler(e)->io;
    int32_t at = s->computed;
    for (int32_t i = 0; i < n; i++)
        target[i] = at + i + 1 < s->n ? s->tokens[at + i + 1] : -1;
    step_part part = {.seq = s, .take = n, .row = -1};
    WEFT_TRY(engine_run(e, &part, 1, target));
    int32_t scored = at + n < s->n ? n : n - 1;
    WEFT_TRY(engine_result(e, &io->score, 0, logprob + at + 1, (uint64_t)scored * 4));
    for (int32_t i = 0; i < n && logits; i++)
        WEFT_TRY(engine_result(e, &io->logits, i * e->shape.vocab_padded * 4,
                               logits + (int64_t)(at + i) * e->config.vocab,
                               (uint64_t)e->config.vocab * 4));
    return WEFT_OK;
}

weft_status weft_score(weft_engine *e, const int32_t *ids, size_t n, float *logprob,
                       float *logits) {
    weft_seq *s = NULL;
    if (!e->score)
        return weft_fail(WEFT_USAGE, "score: the engine was opened without options.score");
    if (n == 0)
        return weft_fail(WEFT_USAGE, "score: no tokens");
    WEFT_TRY(weft_seq_open(e, NULL, &s));
    int32_t *target = mem_alloc(sizeof(int32_t) * (size_t)e->shape.score_rows);
    weft_status status = weft_seq_append(s, ids, n);
    logprob[0] = 0;
    while (status == WEFT_OK && s->computed < s->n)
        status = score_chunk(e, s, at_most(e->shape.score_rows, s->n - s->computed), target,
                             logprob, logits);
    mem_free(target);
    weft_seq_close(s);
    return status;
}
