/* SPDX-License-Identifier: Apache-2.0
 * `weft run`: generates text and streams it. */
#include "host/base/file.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/cmd/cmd.h"
#include "host/cmd/explain.h"
#include "host/cmd/run_chat.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    cmd_engine_args engine;
    cmd_prompt_args prompt;
    cmd_sampling_args sampling;
    run_chat_args chat;
    int64_t logprobs;
    const char *html;
    bool explain, json, print_ids, verbose;
} run_args;

#define AT(member) offsetof(run_args, member)
static const arg_spec specs[] = {
    CMD_PROMPT_SPECS(run_args, prompt),
    RUN_CHAT_SPECS(run_args, chat),
    CMD_SAMPLING_SPECS(run_args, sampling),
    {"logprobs", "", NULL, ARG_INT, "K", 0, 20, NULL,
     "log-probability of each token and its K likeliest alternatives, in what --json, --explain "
     "and "
     "--html show",
     AT(logprobs)},
    {"explain", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "colour each token by its probability and list what else was likely (5, or --logprobs K)",
     AT(explain)},
    {"html", "", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "write the text as a page that explains each token under the pointer", AT(html)},
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
    const char *model;
    weft_engine *engine;
    weft_engine_info info;
    cmd_sampling sampler;
    run_chat chat;
    weft_request req;
    int32_t *prompt;
    weft_result result;
    int32_t *ids; /* generated, [ctx_size] */
    int32_t n_ids;
    buf text;     /* generated, for --json */
    buf logprobs; /* JSON, for --logprobs */
    buf out;      /* on its way to stdout */
    buf hidden;   /* what would be shown, where only --html asks */
    explain why;  /* for --explain and --html */
    weft_status written;
} run_state;

enum { EXPLAIN_TOP = 5 };

static bool explains(const run_args *a) {
    return a->explain || a->html;
}

static weft_status set_sampling(run_state *r) {
    WEFT_TRY(cmd_sampling_open(&r->sampler, &r->args->sampling, r->engine));
    int64_t k = r->args->logprobs;
    if (k < 0 && explains(r->args))
        k = EXPLAIN_TOP;
    r->sampler.sampling.logprobs = k > 0 ? (int32_t)k : 0;
    cmd_sampling_request(&r->sampler, &r->req);
    return WEFT_OK;
}

static weft_status set_prompt(run_state *r) {
    size_t n;
    const run_args *a = r->args;
    if (a->chat.on) {
        WEFT_TRY(
            run_chat_open(&r->chat, &a->chat, &a->prompt, r->model, r->engine, &r->prompt, &n));
        run_chat_stops(&r->chat, &r->req);
    } else {
        WEFT_TRY(cmd_prompt_ids(&a->prompt, r->engine, &r->prompt, &n));
    }
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
        buf_json_line(b, text, n);
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
    if (explains(a)) {
        explain_token(&r->why, tok, a->explain ? &r->out : &r->hidden);
        buf_clear(&r->hidden);
    }
    if (a->json) {
        buf_add(&r->text, tok->text, tok->n_text);
        if (a->logprobs >= 0 && tok->id >= 0)
            add_logprobs(r, tok);
        return !r->text.failed && !r->logprobs.failed;
    }
    if (!a->explain && ids && tok->id >= 0)
        buf_printf(&r->out, "%s%d", r->n_ids > 1 ? "," : "", (int)tok->id);
    else if (!a->explain && !ids)
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
        buf_json_line(b, r->text.data, r->text.len);
    else
        buf_puts(b, "null");
    json_ids(b, "ids", r->ids, (size_t)r->n_ids);
    json_ids(b, "prompt_ids", r->req.ids, r->req.n_ids);
    buf_printf(b, ",\"finish_reason\":\"%s\",\"seed\":%" PRIu64, finish_name(t),
               r->sampler.sampling.seed);
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
            r->sampler.sampling.seed, finish_name(t));
}

static weft_status write_html(run_state *r) {
    const weft_sampling *s = &r->sampler.sampling;
    char *prompt = NULL;
    char settings[256];
    size_t n = 0;
    buf page;
    if (weft_engine_tokenizer(r->engine))
        WEFT_TRY(weft_detokenize(weft_engine_tokenizer(r->engine), r->req.ids, r->req.n_ids, false,
                                 &prompt, &n));
    snprintf(settings, sizeof settings,
             "%s, %d tokens, temperature %g, seed %" PRIu64 ", finish: %s", r->info.family,
             (int)r->result.n_generated, (double)s->temperature, s->seed, finish_name(&r->result));
    buf_init(&page, SIZE_MAX);
    explain_html(&r->why, prompt, n, settings, &page);
    weft_status st = page.failed ? weft_fail(WEFT_NO_MEMORY, "--html: the page is too large")
                                 : file_write_atomic(r->args->html, page.data, page.len);
    buf_fini(&page);
    weft_free(prompt);
    return st;
}

/* What follows the text. */
static weft_status conclude(run_state *r) {
    const run_args *a = r->args;
    bool colours = r->why.colours != EXPLAIN_PLAIN;
    if (a->json)
        json_result(r);
    else
        buf_putc(&r->out, '\n');
    if (a->explain) {
        buf_putc(&r->out, '\n');
        explain_list(&r->why, colours ? cmd_width() : 0, &r->out);
    }
    WEFT_TRY(cmd_flush(&r->out));
    return a->html ? write_html(r) : WEFT_OK;
}

/* ---- The command ---- */

static weft_status work(run_state *r) {
    WEFT_TRY(set_sampling(r));
    WEFT_TRY(set_prompt(r));
    r->ids = mem_alloc(sizeof *r->ids * (size_t)(r->info.ctx_size + 1));
    r->req.cancel = &interrupted;
    catch_interrupt();
    WEFT_TRY(weft_generate(r->engine, &r->req, on_token, r, &r->result));
    WEFT_TRY(r->written);
    if (r->text.failed || r->logprobs.failed)
        return weft_fail(WEFT_NO_MEMORY, "--json: the result is too large");
    WEFT_TRY(conclude(r));
    bool stopped = r->result.finish == WEFT_FINISH_CANCELLED;
    if (r->args->verbose || stopped || (cmd_stderr_is_terminal() && !r->args->json))
        summary(r);
    return WEFT_OK;
}

static weft_status check(const run_args *a) {
    if (a->json && a->print_ids)
        return weft_fail(WEFT_USAGE, "--json and --print-ids: give one");
    if (a->explain && (a->json || a->print_ids))
        return weft_fail(WEFT_USAGE, "--explain and %s: give one",
                         a->json ? "--json" : "--print-ids");
    if (a->logprobs >= 0 && !a->json && !explains(a))
        return weft_fail(WEFT_USAGE, "--logprobs: needs --json, --explain or --html");
    WEFT_TRY(cmd_sampling_check(&a->sampling));
    WEFT_TRY(run_chat_check(&a->chat, &a->prompt));
    return cmd_prompt_check(&a->prompt);
}

static weft_status open_and_work(const run_args *a, const char *model, bool *stopped) {
    run_state r = {.args = a, .model = model};
    weft_engine_options opt = cmd_engine_options(&a->engine);
    WEFT_TRY(cmd_open(model, &opt, &r.engine));
    weft_engine_describe(r.engine, &r.info);
    buf_init(&r.text, SIZE_MAX);
    buf_init(&r.logprobs, SIZE_MAX);
    buf_init(&r.out, SIZE_MAX);
    buf_init(&r.hidden, SIZE_MAX);
    explain_init(&r.why, weft_engine_tokenizer(r.engine), explain_stdout());
    weft_status s = work(&r);
    *stopped = r.result.finish == WEFT_FINISH_CANCELLED;
    buf_fini(&r.text);
    buf_fini(&r.logprobs);
    buf_fini(&r.out);
    buf_fini(&r.hidden);
    explain_fini(&r.why);
    mem_free(r.prompt);
    cmd_sampling_close(&r.sampler);
    run_chat_close(&r.chat);
    mem_free(r.ids);
    weft_engine_close(r.engine);
    return s;
}

static int run(int argc, char **argv) {
    run_args a = {.logprobs = -1};
    const char *model;
    bool stopped = false;
    cmd_sampling_preset(&a.sampling);
    weft_status s = cmd_parse_model(&cmd_run, argc, argv, &a, &model);
    if (s == WEFT_OK)
        s = check(&a);
    if (s == WEFT_OK)
        s = open_and_work(&a, model, &stopped);
    cmd_sampling_args_free(&a.sampling);
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
        "byte. Ctrl-C ends the text and prints the summary (exit code 130).\n\n" CMD_SAMPLING_NOTES
        "\n\n"
        "  weft run MODEL -p \"Once upon a time\" -n 100\n"
        "  weft run MODEL -f prompt.txt --temp 0.7 --top-p 0.9 --seed 1\n"
        "  weft run MODEL --chat --system \"Be brief.\" -p \"Who are you?\"\n"
        "  weft run MODEL --ids 1,2,3 -n 32 --temp 0 --ignore-eos --print-ids",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
