/* SPDX-License-Identifier: Apache-2.0
 * `weft eval`: a model's accuracy, perplexity or translations on a file, with standard errors. */
#include "host/cmd/eval.h"
#include "host/base/clock.h"
#include "host/base/progress.h"
#include "host/model/engine.h"
#include <string.h>

#define AT(member) offsetof(eval_args, member)
static const arg_spec specs[] = {
    {"task", "", NULL, ARG_CHOICE,
     "hellaswag|arc_easy|arc_challenge|piqa|boolq|winogrande|lambada|perplexity|bleu|rouge", 0, 0,
     NULL, "what to measure", AT(task)},
    {"file", "f", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "the rows (JSONL), or the text of perplexity; - is standard input", AT(file)},
    {"limit", "", NULL, ARG_INT, "N", 1, 1LL << 40, NULL, "only the first N rows", AT(limit)},
    {"samples", "", "log-samples", ARG_STRING, "FILE", 0, 0, NULL,
     "write what each row came to, a JSON line each", AT(samples)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object", AT(json)},
    {"bos", "", NULL, ARG_CHOICE, "auto|yes|no", 0, 0, "auto",
     "begin every context with BOS; auto: as the tokenizer's files say", AT(bos)},
    {"batch", "", "batch-size", ARG_INT, "N", 1, 1024, "8", "rows in work at once", AT(batch)},
    {"window", "", NULL, ARG_INT, "N", 2, 1 << 24, NULL,
     "perplexity: tokens of a window, its BOS included (the context, at most 4096)", AT(window)},
    {"stride", "", NULL, ARG_INT, "N", 1, 1 << 24, NULL,
     "perplexity: tokens from one window's begin to the next's (a window's worth)", AT(stride)},
    {"ref", "", NULL, ARG_LIST, "FILE", 0, 0, NULL,
     "bleu, rouge: references, a line each; may be repeated", AT(ref)},
    {"hyp", "", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "bleu, rouge: hypotheses, a line each, in place of -f", AT(hyp)},
    {"max-tokens", "n", NULL, ARG_INT, "N", 1, 1 << 24, "256",
     "bleu, rouge with MODEL: longest answer to a prompt", AT(max_tokens)},
    {"tokenize", "", NULL, ARG_CHOICE, "13a|intl|char|none", 0, 0, "13a",
     "bleu: sacrebleu's tokenizer", AT(tokenizer)},
    {"lowercase", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "bleu: ignore case", AT(lowercase)},
    {"stemmer", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "rouge: Porter's stemmer", AT(stem)},
    CMD_ENGINE_SPECS(eval_args, engine),
};

/* ---- Scoring a model ---- */

static weft_status set_bos(eval_run *r, const tokenizer *t) {
    int32_t bos = tokenizer_bos(t), eos = tokenizer_eos(t);
    const char *mode = r->args->bos;
    if (strcmp(mode, "yes") == 0 && bos < 0)
        return weft_fail(WEFT_USAGE, "--bos: the tokenizer has no BOS token");
    bool add = strcmp(mode, "yes") == 0 || (strcmp(mode, "auto") == 0 && tokenizer_adds_bos(t));
    r->coder.tok = t;
    r->coder.bos = add ? bos : -1;
    r->coder.prefix = bos >= 0 ? bos : eos;
    return WEFT_OK;
}

static weft_status set_window(eval_run *r, int64_t ctx, int64_t max_ctx) {
    int64_t window = r->args->window, stride = r->args->stride;
    int64_t limit = ctx ? ctx : max_ctx;
    window = window ? window : limit < 4096 ? limit : 4096;
    stride = stride ? stride : window - 1;
    if (window > limit || window < 2)
        return weft_fail(WEFT_USAGE, "--window: %lld is not in 2..%lld, the context",
                         (long long)window, (long long)limit);
    if (stride >= window)
        return weft_fail(WEFT_USAGE, "--stride: %lld leaves no context (1 to %lld)",
                         (long long)stride, (long long)window - 1);
    r->coder.window = (int32_t)window;
    r->coder.stride = (int32_t)stride;
    return WEFT_OK;
}

/* What there is to know before weights are read: the tokenizer, and the longest context. */
static weft_status prepare(eval_run *r, const weft_engine *dry, const tokenizer *t) {
    weft_engine_info info;
    weft_engine_describe(dry, &info);
    WEFT_TRY(set_bos(r, t));
    if (r->task->kind == EVAL_PERPLEXITY)
        WEFT_TRY(set_window(r, r->args->engine.ctx, info.max_ctx));
    WEFT_TRY(eval_open(&r->set, r->task, r->args->file, r->args->limit));
    r->items = r->set.nitem;
    WEFT_TRY(eval_encode(&r->set, &r->coder));
    int32_t need = r->set.longest > 1 ? r->set.longest - 1 : 1;
    r->ctx = r->args->engine.ctx ? (int32_t)r->args->engine.ctx : info.max_ctx;
    WEFT_TRY(eval_truncate(&r->set, r->ctx));
    r->ctx = need < r->ctx ? need : r->ctx;
    return WEFT_OK;
}

static void tick(void *user, int64_t done) {
    progress *p = user;
    progress_add(p, done - p->done);
}

static weft_status score(eval_run *r) {
    weft_engine_options opt = cmd_engine_options(&r->args->engine);
    weft_engine *e;
    progress bar;
    opt.score = true;
    opt.ctx_size = r->ctx;
    opt.max_seqs = (int)r->args->batch;
    WEFT_TRY(cmd_open(r->model, &opt, &e));
    progress_start(&bar, r->task->name,
                   r->task->kind == EVAL_PERPLEXITY ? "windows" : "continuations", r->set.nrequest);
    weft_status st = score_requests(e, r->set.request, r->set.nrequest, tick, &bar);
    progress_end(&bar);
    weft_engine_close(e);
    return st;
}

static weft_status score_model(eval_run *r) {
    weft_engine_options opt = cmd_engine_options(&r->args->engine);
    weft_engine *dry;
    if (!r->args->file)
        return weft_fail(WEFT_USAGE, "--file: missing");
    if (!r->model)
        return weft_fail(WEFT_USAGE, "MODEL: missing; --task %s needs one", r->task->name);
    WEFT_TRY(engine_open_dry(r->model, &opt, &dry));
    tokenizer *t = NULL;
    weft_status st = tokenizer_open(r->model, &t);
    if (st == WEFT_OK)
        st = prepare(r, dry, t);
    weft_engine_close(dry);
    tokenizer_close(t);
    if (st == WEFT_OK)
        st = score(r);
    if (st != WEFT_OK)
        return st;
    if (r->set.truncated)
        cmd_warn("%lld of %lld continuations were longer than the context (%d) and lost their "
                 "beginning",
                 (long long)r->set.truncated, (long long)r->set.nrequest, (int)r->ctx);
    eval_finish(&r->set, &r->result);
    return WEFT_OK;
}

/* ---- Texts and references ---- */

typedef struct {
    buf text;
} answer;

static bool on_token(void *user, const weft_token *t) {
    answer *a = user;
    buf_add(&a->text, t->text, t->n_text);
    return true;
}

static weft_status answer_row(eval_run *r, weft_engine *e, translation *t) {
    weft_sampling greedy = weft_sampling_greedy();
    const char *prompt = arena_copy(&r->pairs.a, t->prompt.s, t->prompt.n);
    weft_request req = {.prompt = prompt,
                        .max_tokens = (int32_t)r->args->max_tokens,
                        .sampling = &greedy,
                        .no_bos = strcmp(r->args->bos, "no") == 0};
    answer a;
    weft_result result;
    buf_init(&a.text, 1 << 28);
    weft_status st = weft_generate(e, &req, on_token, &a, &result);
    text hyp = text_strip((text){a.text.data, a.text.len});
    t->hyp = (text){arena_copy(&r->pairs.a, hyp.s, hyp.n), hyp.n};
    buf_fini(&a.text);
    return st == WEFT_OK ? st : err_prefix(st, "%s:%lld", r->pairs.file, (long long)t->line);
}

static weft_status generate(eval_run *r) {
    weft_engine_options opt = cmd_engine_options(&r->args->engine);
    weft_engine *e;
    progress bar;
    weft_status st = WEFT_OK;
    WEFT_TRY(cmd_open(r->model, &opt, &e));
    progress_start(&bar, r->task->name, "rows", r->pairs.without);
    if (!weft_engine_tokenizer(e))
        st = weft_fail(WEFT_USAGE, "%s: has no tokenizer", r->model);
    for (int64_t i = 0; i < r->pairs.n && st == WEFT_OK; i++)
        if (r->pairs.row[i].prompt.s) {
            st = answer_row(r, e, &r->pairs.row[i]);
            progress_add(&bar, 1);
        }
    progress_end(&bar);
    weft_engine_close(e);
    return st;
}

static weft_status read_pairs(eval_run *r) {
    const eval_args *a = r->args;
    if ((a->hyp != NULL) != (a->ref.n > 0) || (a->hyp != NULL) == (a->file != NULL))
        return weft_fail(WEFT_USAGE, "--task %s: give --file, or --hyp and --ref", r->task->name);
    if (a->ref.n > TRANSLATION_MAX_REFS)
        return weft_fail(WEFT_USAGE, "--ref: at most %d", TRANSLATION_MAX_REFS);
    return a->file ? translation_rows(&r->pairs, a->file, a->limit)
                   : translation_lines(&r->pairs, a->hyp, a->ref.item, a->ref.n, a->limit);
}

static weft_status compare_texts(eval_run *r) {
    static const char *const name[] = {"13a", "intl", "char", "none"};
    r->how = (translation_options){.rouge = strcmp(r->task->name, "rouge") == 0,
                                   .stem = r->args->stem,
                                   .lowercase = r->args->lowercase};
    for (int i = 0; i < CMD_COUNT(name); i++)
        if (strcmp(r->args->tokenizer, name[i]) == 0)
            r->how.tokenizer = (bleu_tokenizer)i;
    WEFT_TRY(read_pairs(r));
    r->items = r->pairs.n;
    if (r->pairs.without && !r->model)
        return weft_fail(WEFT_BAD_FILE,
                         "%s:%lld: has a \"prompt\" and no \"hypothesis\"; give MODEL to write it",
                         r->pairs.file, (long long)r->pairs.first_without);
    if (r->model && !r->pairs.without)
        return weft_fail(WEFT_USAGE, "MODEL: every row of %s has its hypothesis; leave MODEL out",
                         r->pairs.file);
    if (r->model)
        WEFT_TRY(generate(r));
    return translation_finish(&r->pairs, &r->how, &r->result);
}

/* ---- The command ---- */

static weft_status work(eval_run *r) {
    double begin = clock_seconds();
    bool texts = r->task->kind == EVAL_TRANSLATION;
    WEFT_TRY(texts ? compare_texts(r) : score_model(r));
    r->seconds = clock_seconds() - begin;
    if (r->args->samples)
        WEFT_TRY(eval_write_samples(r));
    return r->args->json ? eval_print_json(r) : eval_print_table(r);
}

static weft_status parse_and_work(int argc, char **argv, eval_args *a) {
    const char *given = NULL;
    int n;
    WEFT_TRY(args_parse(specs, CMD_COUNT(specs), argc, argv, a, &given, 1, &n));
    if (n && a->engine.model)
        return weft_fail(WEFT_USAGE, "MODEL: \"%.200s\" and -m %.200s; give one", given,
                         a->engine.model);
    if (!a->task)
        return weft_fail(WEFT_USAGE, "--task: missing; one of %s", specs[0].value);
    eval_run r = {.args = a, .task = eval_task_find(a->task), .model = n ? given : a->engine.model};
    weft_status st = work(&r);
    eval_close(&r.set);
    translation_close(&r.pairs);
    return st;
}

static int run(int argc, char **argv) {
    eval_args a = {.json = false};
    weft_status st = parse_and_work(argc, argv, &a);
    mem_free(a.ref.item);
    return cmd_fail(st);
}

const cmd_row cmd_eval = {
    .name = "eval",
    .usage = "[MODEL] --task TASK --file FILE [options]",
    .summary = "accuracy, perplexity, BLEU and ROUGE on a file",
    .notes = "Tasks are scored as lm-evaluation-harness does, BLEU as sacrebleu, ROUGE as "
             "rouge-score; docs/EVAL.md has every definition and the rows each task takes. A "
             "text too long for the context loses its beginning, and is counted. bleu and rouge "
             "compare texts and need MODEL only for rows with a \"prompt\" in place of a "
             "\"hypothesis\".\n\n"
             "  weft eval MODEL --task hellaswag -f hellaswag_val.jsonl --limit 500\n"
             "  weft eval MODEL --task perplexity -f wiki.test.raw --window 1024 --stride 512\n"
             "  weft eval --task bleu --hyp out.de --ref test.de",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
