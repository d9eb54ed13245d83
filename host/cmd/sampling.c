/* SPDX-License-Identifier: Apache-2.0
 * The options that choose tokens and end the text, as run and chat take them. */
#include "host/model/sampling.h"
#include "host/base/mem.h"
#include "host/cmd/cmd.h"
#include "host/model/engine.h"
#include "host/model/stop_regex.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static weft_status one_int(const char *key, const char *text, int64_t max, int32_t *out) {
    int64_t *v, n;
    WEFT_TRY(args_int_list(key, text, 0, max, &v, &n));
    *out = (int32_t)v[0];
    mem_free(v);
    return n == 1 ? WEFT_OK
                  : weft_fail(WEFT_USAGE, "%s: \"%.100s\": repeat it for more", key, text);
}

/* ID+X, ID-X, ID=X: the sign belongs to X, "=" does not. */
static weft_status parse_bias(const char *text, int32_t vocab, int32_t *id, float *x) {
    size_t digits = strspn(text, "0123456789");
    const char *value = text + digits + (text[digits] == '=');
    char head[16], *end = NULL;
    bool shaped = digits > 0 && digits < sizeof head && strchr("+-=", text[digits]) && *value;
    shaped = shaped && strspn(value, "+-.0123456789eE") == strlen(value);
    bool banned = digits > 0 && digits < sizeof head &&
                  (strcmp(value, "-inf") == 0 && (text[digits] == '=' || text[digits] == '-'));
    if (!shaped && !banned)
        return weft_fail(WEFT_USAGE, "--logit-bias: \"%.100s\" is not ID+X, ID-X or ID=X", text);
    memcpy(head, text, digits);
    head[digits] = 0;
    WEFT_TRY(one_int("--logit-bias", head, vocab - 1, id));
    double v = banned ? -HUGE_VAL : strtod(value, &end);
    if (!banned && (*end || !isfinite(v) || fabs(v) > 1e4))
        return weft_fail(WEFT_USAGE,
                         "--logit-bias: \"%.100s\": X is a number from -10000 to 10000, "
                         "or -inf",
                         text);
    *x = (float)v;
    return WEFT_OK;
}

static weft_status collect_bias(cmd_sampling *c, int32_t vocab) {
    const arg_list *l = &c->args->bias;
    if (l->n > WEFT_MAX_BIAS)
        return weft_fail(WEFT_USAGE, "--logit-bias: given %d times (at most %d)", l->n,
                         WEFT_MAX_BIAS);
    c->bias_id = mem_alloc(sizeof *c->bias_id * (size_t)(l->n + 1));
    c->bias = mem_alloc(sizeof *c->bias * (size_t)(l->n + 1));
    for (int i = 0; i < l->n; i++)
        WEFT_TRY(parse_bias(l->item[i], vocab, &c->bias_id[i], &c->bias[i]));
    c->sampling.bias_id = c->bias_id;
    c->sampling.bias = c->bias;
    c->sampling.n_bias = l->n;
    return WEFT_OK;
}

static weft_status collect_stops(cmd_sampling *c, int32_t vocab) {
    const arg_list *l = &c->args->stop_id;
    c->stop_id = mem_alloc(sizeof *c->stop_id * (size_t)(l->n + 1));
    for (int i = 0; i < l->n; i++)
        WEFT_TRY(one_int("--stop-id", l->item[i], vocab - 1, &c->stop_id[i]));
    return WEFT_OK;
}

static weft_status pick_seed(int64_t seed, uint64_t *out) {
    *out = (uint64_t)seed;
    if (seed >= 0)
        return WEFT_OK;
    if (getrandom(out, sizeof *out, 0) != (ssize_t)sizeof *out)
        return weft_fail(WEFT_IO, "--seed: the system gives no random number: %m; give one");
    *out >>= 11; /* within what --seed takes, so that the run can be repeated */
    return WEFT_OK;
}

static void set_float(float *field, double given) {
    if (!isnan(given))
        *field = (float)given;
}

/* 0 asks for the least mass there is, which is the likeliest token; to the library it means off. */
static void set_mass(float *field, double given) {
    if (!isnan(given))
        *field = given > 0 ? (float)given : FLT_MIN;
}

void cmd_sampling_preset(cmd_sampling_args *a) {
    *a = (cmd_sampling_args){.top_k = -1,
                             .no_repeat_ngram = -1,
                             .temp = NAN,
                             .top_p = NAN,
                             .min_p = NAN,
                             .typical = NAN,
                             .repeat = NAN,
                             .frequency = NAN,
                             .presence = NAN,
                             .top_n_sigma = NAN,
                             .dynatemp_exponent = 1,
                             .xtc_threshold = 0.1,
                             .dry_base = 1.75,
                             .dry_allowed_length = 2,
                             .dry_last_n = -1,
                             .mirostat_ent = 5,
                             .mirostat_lr = 0.1};
}

weft_status cmd_sampling_check(const cmd_sampling_args *a) {
    if (a->predict == 0)
        return weft_fail(WEFT_USAGE,
                         "-n: 0 is no number of tokens (1 or more, or -1 for no limit)");
    uint8_t order[WEFT_ORDER_BYTES];
    if (a->samplers)
        WEFT_TRY(sampling_order("--samplers", a->samplers, order));
    stop_regex *r = NULL;
    WEFT_TRY(stop_regex_open(a->stop_regex.item, a->stop_regex.n, &r));
    stop_regex_close(r);
    return WEFT_OK;
}

void cmd_sampling_args_free(cmd_sampling_args *a) {
    mem_free(a->stop.item);
    mem_free(a->stop_id.item);
    mem_free(a->bias.item);
    mem_free(a->stop_regex.item);
    mem_free(a->dry_breaker.item);
}

static float positive(double given) {
    return given > 0 ? (float)given : FLT_MIN; /* to the library 0 means the default */
}

static void set_dry(weft_sampling *s, const cmd_sampling_args *a) {
    const arg_list *l = &a->dry_breaker;
    static const char *const none[1];
    s->dry_multiplier = a->dry_last_n == 0 ? 0 : (float)a->dry_multiplier;
    s->dry_base = (float)a->dry_base;
    s->dry_allowed_length = (int32_t)a->dry_allowed_length;
    s->dry_last_n = (int32_t)a->dry_last_n;
    bool named_none = l->n == 1 && strcmp(l->item[0], "none") == 0;
    s->dry_breaker = named_none ? none : l->n > 0 ? l->item : NULL;
    s->n_dry_breaker = named_none ? 0 : l->n;
}

static void set_others(weft_sampling *s, const cmd_sampling_args *a) {
    if (a->top_n_sigma > 0)
        s->top_n_sigma = (float)a->top_n_sigma;
    s->dynatemp_range = (float)a->dynatemp_range;
    s->dynatemp_exponent = positive(a->dynatemp_exponent);
    s->xtc_probability = (float)a->xtc_probability;
    s->xtc_threshold = positive(a->xtc_threshold);
    s->mirostat = (int32_t)a->mirostat;
    s->mirostat_tau = positive(a->mirostat_ent);
    s->mirostat_eta = positive(a->mirostat_lr);
    s->min_tokens = (int32_t)a->min_tokens;
    s->samplers = a->samplers;
}

weft_status cmd_sampling_open(cmd_sampling *c, const cmd_sampling_args *a, const weft_engine *e) {
    weft_engine_info info;
    weft_engine_describe(e, &info);
    *c = (cmd_sampling){.args = a, .sampling = weft_sampling_default(e)};
    weft_sampling *s = &c->sampling;
    set_float(&s->temperature, a->temp);
    set_mass(&s->top_p, a->top_p);
    set_float(&s->min_p, a->min_p);
    set_mass(&s->typical_p, a->typical);
    set_float(&s->repetition_penalty, a->repeat);
    set_float(&s->frequency_penalty, a->frequency);
    set_float(&s->presence_penalty, a->presence);
    if (a->top_k >= 0)
        s->top_k = (int32_t)a->top_k;
    if (a->no_repeat_ngram >= 0)
        s->no_repeat_ngram = (int32_t)a->no_repeat_ngram;
    set_dry(s, a);
    set_others(s, a);
    WEFT_TRY(pick_seed(a->seed, &s->seed));
    WEFT_TRY(engine_share(e, &s->seed));
    WEFT_TRY(collect_bias(c, info.vocab));
    return collect_stops(c, info.vocab);
}

void cmd_sampling_request(const cmd_sampling *c, weft_request *req) {
    const cmd_sampling_args *a = c->args;
    req->sampling = &c->sampling;
    req->stop_id = c->stop_id;
    req->n_stop_id = a->stop_id.n;
    req->stop = a->stop.item;
    req->n_stop = a->stop.n;
    req->stop_regex = a->stop_regex.item;
    req->n_stop_regex = a->stop_regex.n;
    req->ignore_eos = a->ignore_eos;
    req->max_tokens = a->predict > 0 ? (int32_t)a->predict : 0;
}

void cmd_sampling_close(cmd_sampling *c) {
    mem_free(c->stop_id);
    mem_free(c->bias_id);
    mem_free(c->bias);
}
