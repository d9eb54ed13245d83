/* SPDX-License-Identifier: Apache-2.0
 * `weft quantize`: a model folder with int8 matrices out of one with floats. */
#include "host/model/quantize.h"
#include "host/base/clock.h"
#include "host/base/mem.h"
#include "host/base/progress.h"
#include "host/cmd/cmd.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef struct {
    const char *model, *output, *dtype, *act, *eval;
    int64_t threads, ctx;
    bool force, json;
} quantize_args;

#define AT(member) offsetof(quantize_args, member)
static const arg_spec specs[] = {
    {"model", "m", NULL, ARG_STRING, "MODEL", 0, 0, NULL, "the model folder, as the first argument",
     AT(model)},
    {"output", "o", NULL, ARG_STRING, "DIR", 0, 0, NULL, "the folder to write", AT(output)},
    {"dtype", "", NULL, ARG_CHOICE, "int8", 0, 0, "int8", "type of the layers' matrices",
     AT(dtype)},
    {"act", "", NULL, ARG_CHOICE, "float|int8", 0, 0, "float",
     "what those matrices multiply: floats, or int8 with a scale a token", AT(act)},
    {"eval", "", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "report the perplexity of this text before and after", AT(eval)},
    {"ctx-size", "c", NULL, ARG_INT, "N", 0, 1 << 24, "0",
     "context of --eval; longer texts go in windows that advance by half of it; 0: the model's, at "
     "most 4096",
     AT(ctx)},
    {"threads", "t", NULL, ARG_INT, "N", 0, 1024, "0", "CPU threads; 0: every core", AT(threads)},
    {"force", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "write into DIR even if it exists", AT(force)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object", AT(json)},
};

typedef struct {
    const quantize_args *args;
    const char *model;
    progress bar;
    quantize_result r;
    double seconds, nll_from, nll_to; /* nll NAN: not asked for */
    size_t tokens;
} quantize_state;

/* ---- Perplexity ---- */

static weft_status score_text(const quantize_state *s, weft_engine *e, size_t *tokens,
                              double *nll) {
    cmd_prompt_args prompt = {.file = s->args->eval};
    weft_engine_info info;
    int32_t *ids = NULL;
    size_t n = 0;
    weft_engine_describe(e, &info);
    WEFT_TRY(cmd_prompt_ids(&prompt, e, &ids, &n));
    float *logprob = mem_alloc(sizeof *logprob * (n + 1));
    weft_status st = WEFT_OK;
    if (n < 2)
        st = weft_fail(WEFT_USAGE, "--eval: %s has %zu tokens; two at least are needed",
                       s->args->eval, n);
    else
        st = score_windows(e, ids, n, (size_t)info.ctx_size / 2, logprob, NULL);
    *nll = score_mean_nll(logprob, n);
    *tokens = n;
    mem_free(logprob);
    mem_free(ids);
    return st;
}

static weft_status evaluate(quantize_state *s, const char *model, double *nll) {
    weft_engine *e = NULL;
    weft_engine_options opt = {
        .score = true, .threads = (int)s->args->threads, .ctx_size = (int)s->args->ctx};
    *nll = (double)NAN;
    if (!s->args->eval)
        return WEFT_OK;
    WEFT_TRY(cmd_open(model, &opt, &e));
    weft_status st = score_text(s, e, &s->tokens, nll);
    weft_engine_close(e);
    return st;
}

/* ---- Output ---- */

static void text(const quantize_state *s, buf *b) {
    char from[CMD_SIZE_TEXT], to[CMD_SIZE_TEXT];
    buf_printf(b, "%d matrices to int8%s: %s to %s in %d file%s, %.1f s\n", s->r.matrices,
               strcmp(s->args->act, "int8") == 0 ? ", int8 activations" : "",
               cmd_size(from, (double)s->r.bytes_from), cmd_size(to, (double)s->r.bytes_to),
               s->r.files, s->r.files == 1 ? "" : "s", s->seconds);
    if (!isnan(s->nll_from))
        buf_printf(b, "perplexity of %zu tokens: %.6f, was %.6f (%+.3f %%)\n", s->tokens,
                   exp(s->nll_to), exp(s->nll_from), 100 * (exp(s->nll_to - s->nll_from) - 1));
    buf_printf(b, "written to %s\n", s->args->output);
}

static void json_text_of(const quantize_state *s, buf *b) {
    buf_puts(b, "{\"output\":");
    buf_json_line(b, s->args->output, strlen(s->args->output));
    buf_printf(b,
               ",\"dtype\":\"int8\",\"act\":\"%s\",\"matrices\":%d,\"files\":%d,"
               "\"bytes_from\":%" PRIu64 ",\"bytes_to\":%" PRIu64 ",\"seconds\":%.3f",
               s->args->act, s->r.matrices, s->r.files, s->r.bytes_from, s->r.bytes_to, s->seconds);
    if (!isnan(s->nll_from)) {
        buf_printf(b, ",\"eval\":{\"tokens\":%zu,\"nll_from\":", s->tokens);
        buf_json_double(b, s->nll_from);
        buf_puts(b, ",\"nll_to\":");
        buf_json_double(b, s->nll_to);
        buf_puts(b, ",\"ppl_from\":");
        buf_json_double(b, exp(s->nll_from));
        buf_puts(b, ",\"ppl_to\":");
        buf_json_double(b, exp(s->nll_to));
        buf_putc(b, '}');
    }
    buf_puts(b, "}\n");
}

/* ---- The command ---- */

static void start_bar(void *user, int64_t bytes) {
    quantize_state *s = user;
    progress_start(&s->bar, "quantizing", "MiB", bytes >> 20);
}

/* In whole MiB, which is what the bar counts. */
static void move_bar(void *user, int64_t bytes) {
    quantize_state *s = user;
    s->r.bytes_from += (uint64_t)bytes;
    progress_add(&s->bar, (int64_t)(s->r.bytes_from >> 20) - s->bar.done);
}

static weft_status convert(quantize_state *s) {
    quantize_job job = {.from = s->model,
                        .to = s->args->output,
                        .activations = strcmp(s->args->act, "int8") == 0,
                        .force = s->args->force,
                        .threads = (int)s->args->threads,
                        .start = start_bar,
                        .step = move_bar,
                        .user = s};
    double began = clock_seconds();
    weft_status st = quantize_folder(&job, &s->r);
    progress_end(&s->bar);
    s->seconds = clock_seconds() - began;
    return st;
}

static weft_status work(const quantize_args *a, const char *model) {
    quantize_state s = {.args = a, .model = model};
    buf b;
    if (!a->output || !*a->output)
        return weft_fail(WEFT_USAGE, "--output: is missing; give the folder to write with -o DIR");
    WEFT_TRY(evaluate(&s, model, &s.nll_from));
    WEFT_TRY(convert(&s));
    WEFT_TRY(evaluate(&s, a->output, &s.nll_to));
    buf_init(&b, SIZE_MAX);
    (a->json ? json_text_of : text)(&s, &b);
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

static int run(int argc, char **argv) {
    quantize_args a = {.json = false};
    const char *model;
    weft_status s = cmd_parse_model(&cmd_quantize, argc, argv, &a, &model);
    return cmd_fail(s == WEFT_OK ? work(&a, model) : s);
}

const cmd_row cmd_quantize = {
    .name = "quantize",
    .usage = "MODEL -o DIR [options]",
    .summary = "write a model with int8 matrices",
    .notes =
        "The matrices of the layers become int8 with one scale a row; embeddings, head, norms and "
        "biases stay as stored, and the tokenizer comes along. DIR is an ordinary model folder in "
        "the format of compressed-tensors (int-quantized, by channel). --act int8 also makes what "
        "they multiply int8, a scale a token, found at run time: faster prompts, a little less "
        "accurate. To try int8 without writing anything: weft run MODEL --dtype int8.\n\n"
        "  weft quantize MODEL -o MODEL-int8\n"
        "  weft quantize MODEL -o MODEL-w8a8 --act int8 --eval text.txt",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
