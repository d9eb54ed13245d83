/* SPDX-License-Identifier: Apache-2.0
 * Parameters of sampling: presets, checks, and the words and tables that a sequence's slot gets. */
#include "host/model/sampling.h"
#include "host/base/args.h"
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

/* ---- The order of stages ---- */

static const struct {
    const char *name;
    int stage;
} stage_names[] = {
    {"penalties", WEFT_STAGE_PENALTIES},
    {"dry", WEFT_STAGE_DRY},
    {"top_n_sigma", WEFT_STAGE_TOP_N_SIGMA},
    {"temperature", WEFT_STAGE_TEMPERATURE},
    {"top_k", WEFT_STAGE_TOP_K},
    {"top_p", WEFT_STAGE_TOP_P},
    {"min_p", WEFT_STAGE_MIN_P},
    {"typ_p", WEFT_STAGE_TYPICAL},
    {"xtc", WEFT_STAGE_XTC},
    {"temp", WEFT_STAGE_TEMPERATURE},
    {"typical_p", WEFT_STAGE_TYPICAL},
    {"typical", WEFT_STAGE_TYPICAL},
};
enum { STAGE_NAMES = sizeof stage_names / sizeof *stage_names, NAME_BYTES = 32 };

/* A stage's number by its name, which may have '-' for '_'; 0: there is none. */
static int stage_named(const char *s, size_t n, char name[NAME_BYTES]) {
    n = n < NAME_BYTES - 1 ? n : NAME_BYTES - 1;
    for (size_t i = 0; i < n; i++)
        name[i] = (char)(s[i] == '-' ? '_' : s[i]);
    name[n] = 0;
    for (int i = 0; i < STAGE_NAMES; i++)
        if (strcmp(stage_names[i].name, name) == 0)
            return stage_names[i].stage;
    return WEFT_STAGE_END;
}

static weft_status unknown_stage(const char *key, const char *name) {
    const char *all[STAGE_NAMES], *near;
    for (int i = 0; i < STAGE_NAMES; i++)
        all[i] = stage_names[i].name;
    near = args_nearest(name, all, STAGE_NAMES);
    return weft_fail(WEFT_USAGE, "%s: \"%s\" is no sampler; %s%s%s", key, name,
                     near ? "did you mean "
                          : "they are penalties, dry, top_n_sigma, temperature, "
                            "top_k, top_p, min_p, typ_p, xtc",
                     near ? near : "", near ? "?" : "");
}

weft_status sampling_order(const char *key, const char *text, uint8_t order[WEFT_ORDER_BYTES]) {
    uint8_t found[WEFT_ORDER_BYTES] = {0};
    bool seen[WEFT_STAGES] = {false};
    int n = 0;
    for (const char *p = text;; p++) {
        char name[NAME_BYTES];
        size_t len = strcspn(p, ";");
        int stage = stage_named(p, len, name);
        if (stage == WEFT_STAGE_END)
            return unknown_stage(key, name);
        if (seen[stage])
            return weft_fail(WEFT_USAGE, "%s: %s is named twice", key, name);
        seen[stage] = true;
        found[n++] = (uint8_t)stage;
        p += len;
        if (!*p)
            break;
    }
    memcpy(order, found, sizeof found);
    return WEFT_OK;
}

/* ---- Checks ---- */

static weft_status check_float(const char *name, float v, float min, float max) {
    if (v >= min && v <= max)
        return WEFT_OK;
    return weft_fail(WEFT_USAGE, "%s: %g is not in %g..%g", name, (double)v, (double)min,
                     (double)max);
}

/* What must lie in a range; a 0 that means "default" lies in it. */
#define S(member) offsetof(weft_sampling, member)
static const struct {
    const char *name;
    size_t at;
    float min, max;
} floats[] = {
    {"temperature", S(temperature), 0, 1000},
    {"top_p", S(top_p), 0, 1},
    {"min_p", S(min_p), 0, 1},
    {"typical_p", S(typical_p), 0, 1},
    {"repetition_penalty", S(repetition_penalty), 0, 1000},
    {"frequency_penalty", S(frequency_penalty), -1000, 1000},
    {"presence_penalty", S(presence_penalty), -1000, 1000},
    {"top_n_sigma", S(top_n_sigma), 0, 1000},
    {"dynatemp_range", S(dynatemp_range), 0, 1000},
    {"dynatemp_exponent", S(dynatemp_exponent), 0, 1000},
    {"xtc_probability", S(xtc_probability), 0, 1},
    {"xtc_threshold", S(xtc_threshold), 0, 1},
    {"dry_multiplier", S(dry_multiplier), 0, 1000},
    {"mirostat_tau", S(mirostat_tau), 0, 1000},
    {"mirostat_eta", S(mirostat_eta), 0, 1000},
};

static weft_status check_ints(const weft_sampling *s) {
    if (s->top_k < 0 || s->no_repeat_ngram < 0 || s->min_tokens < 0 || s->dry_allowed_length < 0)
        return weft_fail(WEFT_USAGE, "top_k, no_repeat_ngram, min_tokens, dry_allowed_length: must "
                                     "not be negative");
    if (s->dry_last_n < -1)
        return weft_fail(WEFT_USAGE, "dry_last_n: %d (-1 is the whole history)", s->dry_last_n);
    if (s->mirostat < 0 || s->mirostat > 2)
        return weft_fail(WEFT_USAGE, "mirostat: %d is not 0 (off), 1 or 2", s->mirostat);
    if (s->dry_base != 0)
        WEFT_TRY(check_float("dry_base", s->dry_base, 1, 1000));
    if (s->logprobs < 0 || s->logprobs > WEFT_TOP_LOGPROBS)
        return weft_fail(WEFT_USAGE, "logprobs: %d is not in 0..%d", s->logprobs,
                         WEFT_TOP_LOGPROBS);
    return WEFT_OK;
}

static weft_status check_tokens(const char *what, const int32_t *id, int n, int max,
                                int64_t vocab) {
    if (n < 0 || n > max)
        return weft_fail(WEFT_USAGE, "%s: %d entries; at most %d", what, n, max);
    for (int i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= vocab)
            return weft_fail(WEFT_USAGE, "%s: token %d is not in 0..%lld", what, id[i],
                             (long long)vocab - 1);
    return WEFT_OK;
}

weft_status sampling_check(const weft_engine *e, const weft_sampling *s) {
    uint8_t order[WEFT_ORDER_BYTES];
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        float v;
        memcpy(&v, (const char *)s + floats[i].at, sizeof v);
        WEFT_TRY(check_float(floats[i].name, v, floats[i].min, floats[i].max));
    }
    WEFT_TRY(check_ints(s));
    WEFT_TRY(check_tokens("logit bias", s->bias_id, s->n_bias, WEFT_MAX_BIAS, e->config.vocab));
    for (int i = 0; i < s->n_bias; i++)
        if (isnan(s->bias[i]))
            return weft_fail(WEFT_USAGE, "logit bias: token %d: not a number", s->bias_id[i]);
    if (s->min_tokens > 0)
        WEFT_TRY(check_tokens("min_tokens: stop tokens", s->stop_id, s->n_stop_id, WEFT_MAX_HELD,
                              e->config.vocab));
    return s->samplers ? sampling_order("samplers", s->samplers, order) : WEFT_OK;
}

/* ---- What the kernel reads ---- */

static float or_else(float x, float preset) {
    return x == 0 ? preset : x;
}

weft_sample_params sampling_params(const weft_engine *e, const weft_sampling *s, int slot) {
    weft_sample_params p = {.slot = slot,
                            .n_bias = s->n_bias,
                            .seed = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)},
                            .stream = {(uint32_t)s->stream, (uint32_t)(s->stream >> 32)},
                            .temperature = s->temperature,
                            .top_k = s->top_k,
                            .top_p = or_else(s->top_p, 1),
                            .min_p = s->min_p,
                            .typical_p = or_else(s->typical_p, 1),
                            .repetition_penalty = or_else(s->repetition_penalty, 1),
                            .frequency_penalty = s->frequency_penalty,
                            .presence_penalty = s->presence_penalty,
                            .no_repeat_ngram = s->no_repeat_ngram,
                            .n_top = s->logprobs,
                            .top_n_sigma = s->top_n_sigma,
                            .dynatemp_range = s->dynatemp_range,
                            .dynatemp_exponent = or_else(s->dynatemp_exponent, 1),
                            .xtc_probability = s->xtc_probability,
                            .xtc_threshold = or_else(s->xtc_threshold, 0.1f),
                            .dry_multiplier = s->dry_multiplier,
                            .dry_base = or_else(s->dry_base, 1.75f),
                            .dry_allowed_length = s->dry_allowed_length ? s->dry_allowed_length : 2,
                            .dry_last_n = s->dry_last_n ? s->dry_last_n : -1,
                            .mirostat = s->mirostat,
                            .mirostat_tau = or_else(s->mirostat_tau, 5),
                            .mirostat_eta = or_else(s->mirostat_eta, 0.1f),
                            .min_tokens = s->min_tokens,
                            .n_held = s->min_tokens > 0 ? e->config.n_eos + s->n_stop_id : 0};
    if (s->samplers && sampling_order("samplers", s->samplers, p.order) != WEFT_OK)
        memset(p.order, 0, sizeof p.order); /* sampling_check refuses it first */
    return p;
}

static weft_status send_words(weft_engine *e, int32_t slot, size_t place, int64_t column,
                              const void *words, int64_t n) {
    for (int i = 0; i < e->shape.ranks && n > 0; i++) {
        const engine_rank *r = &e->rank[i];
        if (!engine_samples(e, r) || !engine_owns(e, r))
            continue;
        const decoder_place *p = (const decoder_place *)(const void *)((const char *)&r->io +
                                                                       place);
        int64_t at = p->off + (slot * p->layout.stride[0] + column) * 4;
        WEFT_TRY(e->dev->copy(e->dev, r->stream, (char *)r->base[WEFT_SPACE_STATE] + at, words,
                              (uint64_t)n * 4, DEVICE_TO));
    }
    return WEFT_OK;
}

#define IO(member) offsetof(decoder_io, member)

static weft_status send_tokens(weft_engine *e, const weft_sampling *s, int32_t slot) {
    WEFT_TRY(send_words(e, slot, IO(bias_id), 0, s->bias_id, s->n_bias));
    WEFT_TRY(send_words(e, slot, IO(bias), 0, s->bias, s->n_bias));
    if (s->min_tokens == 0)
        return WEFT_OK;
    WEFT_TRY(send_words(e, slot, IO(bias_id), s->n_bias, e->config.eos_id, e->config.n_eos));
    return send_words(e, slot, IO(bias_id), s->n_bias + e->config.n_eos, s->stop_id, s->n_stop_id);
}

static weft_status send_breakers(weft_engine *e, const weft_sampling *s, weft_sample_params *p) {
    static const char *const usual[] = {"\n", ":", "\"", "*"};
    const char *const *text = s->dry_breaker ? s->dry_breaker : usual;
    int n = s->dry_breaker ? s->n_dry_breaker : 4;
    if (s->dry_breaker && n > 0 && !e->tok)
        return weft_fail(WEFT_USAGE, "dry breakers: the model's folder has no tokenizer");
    int64_t size = sampling_breaker_words(e->config.vocab);
    int32_t *words = mem_alloc(sizeof *words * (size_t)size);
    weft_status st = WEFT_OK;
    if (e->tok)
        st = sampling_breakers(e->tok, e->config.vocab, text, n, words, &p->n_breaker);
    if (st == WEFT_OK)
        st = send_words(e, p->slot, IO(breaker), 0, words, size);
    mem_free(words);
    return st;
}

weft_status sampling_send(weft_engine *e, const weft_sampling *s, weft_sample_params *p) {
    WEFT_TRY(send_tokens(e, s, p->slot));
    return p->dry_multiplier != 0 ? send_breakers(e, s, p) : WEFT_OK;
}
