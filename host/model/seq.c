/* SPDX-License-Identifier: Apache-2.0
 * The life of a sequence: open, append, truncate, close; and scoring, which is one sequence whose
 * every position is compared with the token that follows. */
#include "host/base/err.h"
#include "host/model/engine.h"
#include <math.h>
#include <string.h>

weft_sampling weft_sampling_greedy(void) {
    return (weft_sampling){.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
}

static float said_or(double v, float preset) {
    return isnan(v) ? preset : (float)v;
}

weft_sampling weft_sampling_default(const weft_engine *e) {
    const model_config *c = &e->config;
    weft_sampling s = weft_sampling_greedy();
    if (c->generation.do_sample == 0)
        return s;
    s.temperature = said_or(c->generation.temperature, 1);
    s.top_p = said_or(c->generation.top_p, 1);
    s.min_p = said_or(c->generation.min_p, 0);
    s.typical_p = said_or(c->generation.typical_p, 1);
    s.repetition_penalty = said_or(c->generation.repetition_penalty, 1);
    s.top_k = c->generation.top_k > 0 ? (int32_t)c->generation.top_k : 0;
    return s;
}

static weft_status check_float(const char *name, float v, float min, float max) {
    if (v >= min && v <= max)
        return WEFT_OK;
    return weft_fail(WEFT_USAGE, "%s: %g is not in %g..%g", name, (double)v, (double)min,
                     (double)max);
}

static weft_status check_sampling(const weft_engine *e, const weft_sampling *s) {
    WEFT_TRY(check_float("temperature", s->temperature, 0, 1000));
    WEFT_TRY(check_float("top_p", s->top_p, 0, 1));
    WEFT_TRY(check_float("min_p", s->min_p, 0, 1));
    WEFT_TRY(check_float("typical_p", s->typical_p, 0, 1));
    WEFT_TRY(check_float("repetition_penalty", s->repetition_penalty, 0, 1000));
    WEFT_TRY(check_float("frequency_penalty", s->frequency_penalty, -1000, 1000));
    WEFT_TRY(check_float("presence_penalty", s->presence_penalty, -1000, 1000));
    if (s->top_k < 0 || s->no_repeat_ngram < 0)
        return weft_fail(WEFT_USAGE, "top_k, no_repeat_ngram: must not be negative; 0 is off");
    if (s->logprobs < 0 || s->logprobs > WEFT_TOP_LOGPROBS)
        return weft_fail(WEFT_USAGE, "logprobs: %d is not in 0..%d", s->logprobs,
                         WEFT_TOP_LOGPROBS);
    if (s->n_bias < 0 || s->n_bias > WEFT_MAX_BIAS)
        return weft_fail(WEFT_USAGE, "logit bias: %d entries; at most %d", s->n_bias,
                         WEFT_MAX_BIAS);
    for (int i = 0; i < s->n_bias; i++) {
        if (s->bias_id[i] < 0 || s->bias_id[i] >= e->config.vocab)
            return weft_fail(WEFT_USAGE, "logit bias: token %d is not in 0..%lld", s->bias_id[i],
                             (long long)e->config.vocab - 1);
        if (isnan(s->bias[i]))
            return weft_fail(WEFT_USAGE, "logit bias: token %d: not a number", s->bias_id[i]);
    }
    return WEFT_OK;
}

static float or_one(float x) {
    return x == 0 ? 1 : x;
}

static weft_sample_params params_of(const weft_sampling *s, int slot) {
    return (weft_sample_params){.slot = slot,
                                .n_bias = s->n_bias,
                                .seed = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)},
                                .stream = {(uint32_t)s->stream, (uint32_t)(s->stream >> 32)},
                                .temperature = s->temperature,
                                .top_k = s->top_k,
                                .top_p = or_one(s->top_p),
                                .min_p = s->min_p,
                                .typical_p = or_one(s->typical_p),
                                .repetition_penalty = or_one(s->repetition_penalty),
                                .frequency_penalty = s->frequency_penalty,
                                .presence_penalty = s->presence_penalty,
                                .no_repeat_ngram = s->no_repeat_ngram,
                                .n_top = s->logprobs};
}

static weft_status send_bias(weft_engine *e, const weft_sampling *s, int slot) {
    for (int i = 0; i < e->shape.tp && s->n_bias; i++) {
        const engine_rank *r = &e->rank[i];
        char *state = r->base[WEFT_SPACE_STATE];
        int64_t at = (int64_t)slot * WEFT_MAX_BIAS * 4;
        uint64_t n = (uint64_t)s->n_bias * 4;
        WEFT_TRY(e->dev->copy(e->dev, r->stream, state + r->io.bias_id.off + at, s->bias_id, n,
                              DEVICE_TO));
        WEFT_TRY(
            e->dev->copy(e->dev, r->stream, state + r->io.bias.off + at, s->bias, n, DEVICE_TO));
    }
    return WEFT_OK;
}

weft_status weft_seq_open(weft_engine *e, const weft_sampling *sampling, weft_seq **out) {
    weft_sampling greedy = weft_sampling_greedy();
    const weft_sampling *s = sampling ? sampling : &greedy;
    WEFT_TRY(check_sampling(e, s));
    for (int i = 0; i < e->shape.slots; i++) {
        weft_seq *q = &e->seq[i];
        if (q->open)
            continue;
        WEFT_TRY(send_bias(e, s, i));
        *q = (weft_seq){.e = e,
                        .slot = i,
                        .open = true,
                        .params = params_of(s, i),
                        .tokens = q->tokens,
                        .logits_row = -1};
        *out = q;
        return WEFT_OK;
    }
    return weft_fail(WEFT_AGAIN, "sequences: all %d are open; close one", e->shape.slots);
}

void weft_seq_close(weft_seq *s) {
    if (!s || !s->open)
        return;
    kv_truncate(&s->e->kv, s->slot, 0);
    s->open = false;
}

weft_status weft_seq_append(weft_seq *s, const int32_t *ids, size_t n) {
    const weft_engine *e = s->e;
    if (n > (size_t)(e->shape.ctx - s->n))
        return weft_fail(WEFT_USAGE,
                         "prompt: %zu tokens do not fit the context (%d of %d used); raise "
                         "--ctx-size (the model allows %lld)",
                         n, s->n, e->shape.ctx, (long long)e->config.max_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->config.vocab)
            return weft_fail(WEFT_USAGE, "prompt: token %d at %zu is not in 0..%lld", ids[i], i,
                             (long long)e->config.vocab - 1);
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
    kv_truncate(&s->e->kv, s->slot, s->computed);
    return WEFT_OK;
}

weft_status weft_seq_logits(const weft_seq *s, float *logits) {
    const weft_engine *e = s->e;
    if (s->logits_row < 0)
        return weft_fail(WEFT_USAGE, "logits: the last step sampled nothing for this sequence");
    int64_t row = (int64_t)s->logits_row * e->shape.vocab_padded * 4;
    return engine_result(e, &e->rank[0].io.logits, row, logits, (uint64_t)e->config.vocab * 4);
}

/* Scores tokens [at, at + n) of a sequence that holds them all; logprob and logits are the
 * caller's. */
static weft_status score_chunk(weft_engine *e, weft_seq *s, int32_t n, int32_t *target,
                               float *logprob, float *logits) {
    const decoder_io *io = &e->rank[0].io;
    int32_t at = s->computed;
    for (int32_t i = 0; i < n; i++)
        target[i] = at + i + 1 < s->n ? s->tokens[at + i + 1] : -1;
    step_part part = {s, n, -1};
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
    weft_seq *s;
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
