/* SPDX-License-Identifier: Apache-2.0
 * `weft run`: generates text and streams it. */
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/cmd/cmd.h"
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

typedef struct {
    cmd_engine_args engine;
    cmd_prompt_args prompt;
    int64_t predict, top_k, no_repeat_ngram, seed, logprobs;
    double temp, top_p, min_p, typical, repeat, frequency, presence; /* NAN: the model's */
    arg_list stop, stop_id, bias;
    bool ignore_eos, json, print_ids, verbose;
} run_args;

#define AT(member) offsetof(run_args, member)
static const arg_spec specs[] = {
    CMD_PROMPT_SPECS(run_args, prompt),
    {"n-predict", "n", "max-tokens", ARG_INT, "N", -1, 1 << 24, "-1",
     "most tokens to generate; -1: until a stop or the context is full", AT(predict)},
    {"temp", "", "temperature", ARG_FLOAT, "X", 0, 100, NULL,
     "temperature; 0: greedy (default: the model's, else 1)", AT(temp)},
    {"top-k", "", NULL, ARG_INT, "N", 0, INT32_MAX, NULL,
     "sample from the N likeliest tokens; 0: off (default: the model's, else off)", AT(top_k)},
    {"top-p", "", NULL, ARG_FLOAT, "X", 0, 1, NULL,
     "sample from the likeliest tokens that make up X; 1: off (default: the model's, else off)",
     AT(top_p)},
    {"min-p", "", NULL, ARG_FLOAT, "X", 0, 1, NULL,
     "drop tokens less likely than X times the likeliest; 0: off", AT(min_p)},
    {"typical", "", "typical-p", ARG_FLOAT, "X", 0, 1, NULL,
     "locally typical sampling with mass X; 1: off", AT(typical)},
    {"repeat-penalty", "", "repetition-penalty", ARG_FLOAT, "X", 0.01, 100, NULL,
     "divide logits of tokens already seen, prompt included; 1: off", AT(repeat)},
    {"frequency-penalty", "", NULL, ARG_FLOAT, "X", -100, 100, NULL,
     "subtract X per time a token was generated; 0: off", AT(frequency)},
    {"presence-penalty", "", NULL, ARG_FLOAT, "X", -100, 100, NULL,
     "subtract X once from tokens that were generated; 0: off", AT(presence)},
    {"no-repeat-ngram", "", "no-repeat-ngram-size", ARG_INT, "N", 0, 1024, NULL,
     "never repeat N tokens in a row; 0: off", AT(no_repeat_ngram)},
    {"logit-bias", "", NULL, ARG_LIST, "ID+X|ID-X|ID=X", 0, 0, NULL,
     "add X to a token's logit; ID=-inf bans it; repeat for more", AT(bias)},
    {"seed", "s", NULL, ARG_INT, "N", -1, 9007199254740992.0, "-1",
     "random seed; the same seed gives the same text; -1: a new one each time", AT(seed)},
    {"stop", "", NULL, ARG_LIST, "TEXT", 0, 0, NULL,
     "end before this text; repeat for more (at most 64)", AT(stop)},
    {"stop-id", "", NULL, ARG_LIST, "ID", 0, 0, NULL, "end at this token; repeat for more",
     AT(stop_id)},
    {"ignore-eos", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "go on after the end-of-sequence token",
     AT(ignore_eos)},
    {"logprobs", "", NULL, ARG_INT, "K", 0, 20, NULL,
     "with --json: log-probability of each token and its K likeliest alternatives", AT(logprobs)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object at the end", AT(json)},
    {"print-ids", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print the generated token ids, not text",
     AT(print_ids)},
    {"stats", "v", "verbose", ARG_FLAG, NULL, 0, 0, NULL,
     "print the summary even where stderr is no terminal", AT(verbose)},
    CMD_ENGINE_SPECS(run_args, engine),
};

/* ---- Ctrl-C: the first asks, the second ends the process as usual ---- */

static volatile int interrupted;

static void on_interrupt(int sig) {
    (void)sig;
    interrupted = 1;
}

static void catch_interrupt(void) {
    struct sigaction now, ours = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    if (sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler != SIG_IGN)
        sigaction(SIGINT, &ours, NULL);
}

/* ---- From arguments to a request ---- */

typedef struct {
    const run_args *args;
    weft_engine *engine;
    weft_engine_info info;
    weft_sampling sampling;
    weft_request req;
    int32_t *prompt, *stop_id, *bias_id;
    float *bias;
    weft_result result;
    int32_t *ids; /* generated, [ctx_size] */
    int32_t n_ids;
    buf text;     /* generated, for --json */
    buf logprobs; /* JSON, for --logprobs */
    buf out;      /* on its way to stdout */
    weft_status written;
} run_state;

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

static weft_status collect_bias(run_state *r) {
    const arg_list *l = &r->args->bias;
    if (l->n > WEFT_MAX_BIAS)
        return weft_fail(WEFT_USAGE, "--logit-bias: given %d times (at most %d)", l->n,
                         WEFT_MAX_BIAS);
    r->bias_id = mem_alloc(sizeof *r->bias_id * (size_t)(l->n + 1));
    r->bias = mem_alloc(sizeof *r->bias * (size_t)(l->n + 1));
    for (int i = 0; i < l->n; i++)
        WEFT_TRY(parse_bias(l->item[i], r->info.vocab, &r->bias_id[i], &r->bias[i]));
    r->sampling.bias_id = r->bias_id;
    r->sampling.bias = r->bias;
    r->sampling.n_bias = l->n;
    return WEFT_OK;
}

static weft_status collect_stops(run_state *r) {
    const arg_list *l = &r->args->stop_id;
    r->stop_id = mem_alloc(sizeof *r->stop_id * (size_t)(l->n + 1));
    for (int i = 0; i < l->n; i++)
        WEFT_TRY(one_int("--stop-id", l->item[i], r->info.vocab - 1, &r->stop_id[i]));
    r->req.stop_id = r->stop_id;
    r->req.n_stop_id = l->n;
    r->req.stop = r->args->stop.item;
    r->req.n_stop = r->args->stop.n;
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

static weft_status set_sampling(run_state *r) {
    const run_args *a = r->args;
    weft_sampling *s = &r->sampling;
    *s = weft_sampling_default(r->engine);
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
    s->logprobs = a->logprobs > 0 ? (int32_t)a->logprobs : 0;
    WEFT_TRY(pick_seed(a->seed, &s->seed));
    WEFT_TRY(collect_bias(r));
    return collect_stops(r);
}

static weft_status set_prompt(run_state *r) {
    size_t n;
    WEFT_TRY(cmd_prompt_ids(&r->args->prompt, r->engine, &r->prompt, &n));
    if (n == 0 && r->info.bos_id < 0)
        return weft_fail(WEFT_USAGE,
                         "prompt: is empty and the model names no BOS token; give -p, -f "
                         "or --ids");
    if (n == 0) {
        mem_free(r->prompt);
        r->prompt = mem_alloc(sizeof *r->prompt);
        r->prompt[n++] = r->info.bos_id;
    }
    r->req.ids = r->prompt;
    r->req.n_ids = n;
    return WEFT_OK;
}

/* ---- Output ---- */

static void add_logprob(buf *b, const weft_tokenizer *t, int32_t id, float logprob) {
    char *text = NULL;
    size_t n = 0;
    buf_printf(b, "{\"id\":%d,\"logprob\":", (int)id);
    buf_json_float(b, logprob);
    if (t && id < weft_tokenizer_vocab(t) &&
        weft_detokenize(t, &id, 1, false, &text, &n) == WEFT_OK) {
        buf_puts(b, ",\"token\":");
        cmd_json_string(b, text, n);
        weft_free(text);
    }
}

static void add_logprobs(run_state *r, const weft_token *tok) {
    const weft_tokenizer *t = weft_engine_tokenizer(r->engine);
    buf *b = &r->logprobs;
    buf_puts(b, b->len ? "," : "");
    add_logprob(b, t, tok->id, tok->logprob);
    buf_puts(b, ",\"top\":[");
    for (int i = 0; i < tok->n_top; i++) {
        buf_puts(b, i ? "," : "");
        add_logprob(b, t, tok->top_id[i], tok->top_logprob[i]);
        buf_putc(b, '}');
    }
    buf_puts(b, "]}");
}

static bool on_token(void *user, const weft_token *tok) {
    run_state *r = user;
    const run_args *a = r->args;
    bool ids = a->print_ids || !weft_engine_tokenizer(r->engine);
    if (tok->id >= 0)
        r->ids[r->n_ids++] = tok->id;
    if (a->json) {
        buf_add(&r->text, tok->text, tok->n_text);
        if (a->logprobs >= 0 && tok->id >= 0)
            add_logprobs(r, tok);
        return !r->text.failed && !r->logprobs.failed;
    }
    if (ids && tok->id >= 0)
        buf_printf(&r->out, "%s%d", r->n_ids > 1 ? "," : "", (int)tok->id);
    else if (!ids)
        buf_add(&r->out, tok->text, tok->n_text);
    if (r->out.len > 0)
        r->written = cmd_flush(&r->out);
    return r->written == WEFT_OK;
}

static const char *finish_name(const weft_result *r) {
    static const char *const name[] = {[WEFT_FINISH_LENGTH] = "length",
                                       [WEFT_FINISH_EOS] = "stop",
                                       [WEFT_FINISH_STOP] = "stop",
                                       [WEFT_FINISH_CANCELLED] = "cancelled"};
    return name[r->finish];
}

static double per_second(double n, double seconds) {
    return seconds > 0 && n > 0 ? n / seconds : 0;
}

/* The first token comes out of the prompt's last step: what follows it is what generating costs. */
static double generate_rate(const weft_result *r) {
    return per_second(r->n_generated - 1, r->generate_seconds);
}

static void json_ids(buf *b, const char *key, const int32_t *ids, size_t n) {
    buf_printf(b, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++)
        buf_printf(b, "%s%d", i ? "," : "", (int)ids[i]);
    buf_putc(b, ']');
}

static void json_result(run_state *r) {
    buf *b = &r->out;
    const weft_result *t = &r->result;
    buf_puts(b, "{\"text\":");
    if (weft_engine_tokenizer(r->engine))
        cmd_json_string(b, r->text.data, r->text.len);
    else
        buf_puts(b, "null");
    json_ids(b, "ids", r->ids, (size_t)r->n_ids);
    json_ids(b, "prompt_ids", r->req.ids, r->req.n_ids);
    buf_printf(b, ",\"finish_reason\":\"%s\",\"seed\":%" PRIu64, finish_name(t), r->sampling.seed);
    if (r->args->logprobs >= 0)
        buf_printf(b, ",\"logprobs\":[%s]", r->logprobs.data);
    buf_printf(b,
               ",\"timings\":{\"prompt_n\":%d,\"prompt_ms\":%.3f,\"predicted_n\":%d,"
               "\"predicted_ms\":%.3f,\"prompt_per_second\":%.3f,\"predicted_per_second\":%.3f}}\n",
               (int)t->n_prompt, t->prompt_seconds * 1e3, (int)t->n_generated,
               t->generate_seconds * 1e3, per_second(t->n_prompt, t->prompt_seconds),
               generate_rate(t));
}

static void summary(const run_state *r) {
    const weft_result *t = &r->result;
    double rate = generate_rate(t);
    fprintf(stderr, "\nprompt    %6d tokens %9.1f ms %9.1f tok/s\n", (int)t->n_prompt,
            t->prompt_seconds * 1e3, per_second(t->n_prompt, t->prompt_seconds));
    fprintf(stderr, "generated %6d tokens %9.1f ms %9.1f tok/s %7.2f GB/s of weights\n",
            (int)t->n_generated, t->generate_seconds * 1e3, rate,
            rate * (double)r->info.weight_bytes_token * 1e-9);
    fprintf(stderr, "first token %.1f ms, seed %" PRIu64 ", finish: %s\n", t->prompt_seconds * 1e3,
            r->sampling.seed, finish_name(t));
}

/* ---- The command ---- */

static weft_status work(run_state *r) {
    WEFT_TRY(set_sampling(r));
    WEFT_TRY(set_prompt(r));
    r->ids = mem_alloc(sizeof *r->ids * (size_t)(r->info.ctx_size + 1));
    r->req.sampling = &r->sampling;
    r->req.ignore_eos = r->args->ignore_eos;
    r->req.cancel = &interrupted;
    r->req.max_tokens = r->args->predict > 0 ? (int32_t)r->args->predict : 0;
    catch_interrupt();
    WEFT_TRY(weft_generate(r->engine, &r->req, on_token, r, &r->result));
    WEFT_TRY(r->written);
    if (r->text.failed || r->logprobs.failed)
        return weft_fail(WEFT_NO_MEMORY, "--json: the result is too large");
    if (r->args->json)
        json_result(r);
    else
        buf_putc(&r->out, '\n');
    WEFT_TRY(cmd_flush(&r->out));
    bool stopped = r->result.finish == WEFT_FINISH_CANCELLED;
    if (r->args->verbose || stopped || (cmd_stderr_is_terminal() && !r->args->json))
        summary(r);
    return WEFT_OK;
}

static weft_status check(const run_args *a) {
    if (a->json && a->print_ids)
        return weft_fail(WEFT_USAGE, "--json and --print-ids: give one");
    if (a->logprobs >= 0 && !a->json)
        return weft_fail(WEFT_USAGE, "--logprobs: needs --json");
    if (a->predict == 0)
        return weft_fail(WEFT_USAGE,
                         "-n: 0 is no number of tokens (1 or more, or -1 for no limit)");
    return cmd_prompt_check(&a->prompt);
}

static weft_status open_and_work(const run_args *a, const char *model, bool *stopped) {
    run_state r = {.args = a};
    weft_engine_options opt = cmd_engine_options(&a->engine);
    WEFT_TRY(weft_engine_open(model, &opt, &r.engine));
    weft_engine_describe(r.engine, &r.info);
    buf_init(&r.text, SIZE_MAX);
    buf_init(&r.logprobs, SIZE_MAX);
    buf_init(&r.out, SIZE_MAX);
    weft_status s = work(&r);
    *stopped = r.result.finish == WEFT_FINISH_CANCELLED;
    buf_fini(&r.text);
    buf_fini(&r.logprobs);
    buf_fini(&r.out);
    mem_free(r.prompt);
    mem_free(r.stop_id);
    mem_free(r.bias_id);
    mem_free(r.bias);
    mem_free(r.ids);
    weft_engine_close(r.engine);
    return s;
}

static int run(int argc, char **argv) {
    run_args a = {.top_k = -1,
                  .no_repeat_ngram = -1,
                  .logprobs = -1,
                  .temp = NAN,
                  .top_p = NAN,
                  .min_p = NAN,
                  .typical = NAN,
                  .repeat = NAN,
                  .frequency = NAN,
                  .presence = NAN};
    const char *model;
    bool stopped = false;
    weft_status s = cmd_parse_model(&cmd_run, argc, argv, &a, &model);
    if (s == WEFT_OK)
        s = check(&a);
    if (s == WEFT_OK)
        s = open_and_work(&a, model, &stopped);
    mem_free(a.stop.item);
    mem_free(a.stop_id.item);
    mem_free(a.bias.item);
    if (s == WEFT_OK && stopped)
        return 128 + SIGINT;
    return cmd_fail(s);
}

const cmd_row cmd_run = {
    .name = "run",
    .usage = "MODEL [-p TEXT | -f FILE | --ids LIST] [-n N] [options]",
    .summary = "generate text",
    .notes =
        "Only what is generated goes to standard output, as it comes; the prompt is not repeated. "
        "Without a prompt the text starts at the BOS token. What -p and -f give is used byte for "
        "byte. Ctrl-C ends the text and prints the summary (exit code 130).\n\n"
        "  weft run MODEL -p \"Once upon a time\" -n 100\n"
        "  weft run MODEL -f prompt.txt --temp 0.7 --top-p 0.9 --seed 1\n"
        "  weft run MODEL --ids 1,2,3 -n 32 --temp 0 --ignore-eos --print-ids",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
