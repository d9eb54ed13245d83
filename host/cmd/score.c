/* SPDX-License-Identifier: Apache-2.0
 * `weft score`: log-probability of each token given those before it, and perplexity. Texts longer
 * than the context are scored in overlapping windows, on request. */
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/cmd/cmd.h"
#include "host/model/engine.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    cmd_engine_args engine;
    cmd_prompt_args prompt;
    const char *logits;
    int64_t stride;
    bool json;
} score_args;

#define AT(member) offsetof(score_args, member)
static const arg_spec specs[] = {
    CMD_PROMPT_SPECS(score_args, prompt),
    {"logits", "", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "write the raw logits as one fp32 tensor `logits` [tokens, vocabulary] (safetensors)",
     AT(logits)},
    {"stride", "", NULL, ARG_INT, "N", 0, 1 << 24, "0",
     "score a text longer than the context in windows that advance by N tokens; 0: refuse it",
     AT(stride)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print one JSON object", AT(json)},
    CMD_ENGINE_SPECS(score_args, engine),
};

typedef struct {
    const score_args *args;
    weft_engine *engine[SHARD_MAX_RANKS]; /* a replica each; NULL: other processes' */
    weft_engine *self;                    /* the first of this process */
    int replicas;
    weft_engine_info info;
    int32_t *ids;
    size_t n;
    float *logprob; /* [n] */
    float *logits;  /* [n, vocab] or NULL */
    double nll;     /* mean over tokens 1..n-1; NAN if there are none */
} score_state;

static weft_status check_length(const score_state *s) {
    size_t ctx = (size_t)s->info.ctx_size;
    if (s->n == 0)
        return weft_fail(WEFT_USAGE, "prompt: is empty; give -p, -f or --ids");
    if (s->n > ctx && s->args->stride == 0)
        return weft_fail(WEFT_USAGE,
                         "prompt: %zu tokens are more than the context (%zu); raise it with "
                         "-c, or score windows with --stride",
                         s->n, ctx);
    if (s->n > ctx && s->args->logits)
        return weft_fail(WEFT_USAGE, "--logits: %zu tokens do not fit one context (%zu)", s->n,
                         ctx);
    if (s->args->stride >= (int64_t)ctx)
        return weft_fail(WEFT_USAGE, "--stride: %lld leaves no context (1 to %zu)",
                         (long long)s->args->stride, ctx - 1);
    return WEFT_OK;
}

/* Tokens of a window, of which it scores those from `done` on: the one before it did not reach
 * them. */
typedef struct {
    size_t begin, done, end;
} window;

static window first_window(size_t n, size_t ctx) {
    return (window){0, 0, n < ctx ? n : ctx};
}

static window next_window(window w, size_t n, size_t ctx, size_t stride) {
    size_t begin = w.end + stride < ctx ? 0 : w.end + stride - ctx;
    return (window){begin, w.end, n - begin < ctx ? n : begin + ctx};
}

static size_t context(const weft_engine *e) {
    weft_engine_info info;
    weft_engine_describe(e, &info);
    return (size_t)info.ctx_size;
}

static weft_status score_window(weft_engine *e, const int32_t *ids, window w, float *logprob,
                                float *logits) {
    float *part = mem_alloc(sizeof *part * (w.end - w.begin));
    weft_status st = weft_score(e, ids + w.begin, w.end - w.begin, part, logits);
    for (size_t t = w.done; st == WEFT_OK && t < w.end; t++)
        logprob[t] = part[t - w.begin];
    mem_free(part);
    return st;
}

weft_status score_windows(weft_engine *e, const int32_t *ids, size_t n, size_t stride,
                          float *logprob, float *logits) {
    size_t ctx = context(e);
    for (window w = first_window(n, ctx);; w = next_window(w, n, ctx, stride)) {
        WEFT_TRY(score_window(e, ids, w, logprob, logits));
        if (w.end == n)
            return WEFT_OK;
    }
}

/* ---- Windows dealt out to replicas: all cost alike, so in turn ---- */

static size_t count_windows(const score_state *s) {
    size_t k = 1, ctx = (size_t)s->info.ctx_size, stride = (size_t)s->args->stride;
    for (window w = first_window(s->n, ctx); w.end < s->n; w = next_window(w, s->n, ctx, stride))
        k++;
    return k;
}

static weft_status check_replicas(const score_state *s) {
    size_t windows = count_windows(s);
    char most[40] = "";
    if ((size_t)s->replicas <= windows)
        return WEFT_OK;
    if (windows > 1)
        snprintf(most, sizeof most, " to %zu", windows);
    return weft_fail(WEFT_USAGE, "--dp: %d replicas for %zu window%s of the text; possible: 1%s",
                     s->replicas, windows, windows == 1 ? "" : "s", most);
}

/* What a replica in other processes has scored; it may be a window behind. */
static weft_status share_window(const score_state *s, size_t k, window w) {
    weft_engine *e = s->self;
    engine_rank *r = &e->rank[e->self];
    double chunks = (double)(w.end - w.begin) / e->shape.score_rows + 1;
    comm_step(r->link, e->step, e->expected_score * chunks);
    return comm_broadcast(&r->all, (int)(k % (size_t)s->replicas) * e->shape.ranks,
                          s->logprob + w.done, sizeof *s->logprob * (w.end - w.done), "scores");
}

/* The windows of replica `turn`; where replicas are processes, with those of the others. */
static weft_status score_turn(score_state *s, weft_engine *e, size_t turn) {
    size_t ctx = (size_t)s->info.ctx_size, dp = (size_t)s->replicas, n = s->n, shared = 0;
    window w = first_window(n, ctx), behind = w;
    for (size_t k = 0;; k++) {
        if (k % dp == turn)
            WEFT_TRY(score_window(e, s->ids, w, s->logprob, s->logits));
        bool last = w.end == n;
        for (; e->self >= 0 && dp > 1 && (last || k % dp == dp - 1) && shared <= k; shared++) {
            WEFT_TRY(share_window(s, shared, behind));
            behind = next_window(behind, n, ctx, (size_t)s->args->stride);
        }
        if (last)
            return WEFT_OK;
        w = next_window(w, n, ctx, (size_t)s->args->stride);
    }
}

static weft_status score_one(void *ctx, int i) {
    score_state *s = ctx;
    return score_turn(s, s->engine[i], (size_t)i);
}

static weft_status score_all(score_state *s) {
    WEFT_TRY(check_replicas(s));
    if (s->self->self >= 0 || s->replicas == 1)
        return score_turn(s, s->self, (size_t)s->self->replica);
    return sched_each(s->replicas, score_one, s);
}

double score_mean_nll(const float *logprob, size_t n) {
    double sum = 0;
    for (size_t t = 1; t < n; t++)
        sum -= (double)logprob[t];
    return n > 1 ? sum / (double)(n - 1) : (double)NAN;
}

static weft_status write_logits(const score_state *s) {
    int64_t vocab = s->info.vocab;
    st_tensor t = {.name = "logits",
                   .dtype = WEFT_F32,
                   .ndim = 2,
                   .shape = {(int64_t)s->n, vocab},
                   .bytes = (uint64_t)s->n * (uint64_t)vocab * sizeof(float),
                   .data = s->logits};
    return safetensors_write(s->args->logits, &t, 1);
}

/* ---- Output ---- */

static weft_status print_json(const score_state *s) {
    buf b;
    buf_init(&b, SIZE_MAX);
    buf_puts(&b, "{\"tokens\":[");
    for (size_t t = 0; t < s->n; t++)
        buf_printf(&b, "%s%d", t ? "," : "", (int)s->ids[t]);
    buf_puts(&b, "],\"logprobs\":[null");
    for (size_t t = 1; t < s->n; t++) {
        buf_putc(&b, ',');
        buf_json_float(&b, s->logprob[t]);
    }
    buf_puts(&b, "],\"nll\":");
    buf_json_double(&b, s->nll);
    buf_puts(&b, ",\"ppl\":");
    buf_json_double(&b, exp(s->nll));
    buf_puts(&b, "}\n");
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

static void table_row(buf *b, const score_state *s, size_t t) {
    const weft_tokenizer *tok = weft_engine_tokenizer(s->self);
    char *text = NULL;
    size_t n = 0;
    buf_printf(b, "%7zu %8d ", t, (int)s->ids[t]);
    if (t == 0)
        buf_puts(b, "         -");
    else
        buf_printf(b, "%10.5f", (double)s->logprob[t]);
    if (tok && s->ids[t] < weft_tokenizer_vocab(tok) &&
        weft_detokenize(tok, &s->ids[t], 1, false, &text, &n) == WEFT_OK) {
        buf_puts(b, "  ");
        buf_json_line(b, text, n);
        weft_free(text);
    }
    buf_putc(b, '\n');
}

static weft_status print_table(const score_state *s) {
    buf b;
    buf_init(&b, 1 << 20);
    weft_status st = WEFT_OK;
    buf_puts(&b, "  place       id    logprob  text\n");
    for (size_t t = 0; t < s->n && st == WEFT_OK; t++) {
        table_row(&b, s, t);
        if (b.len > 1 << 16)
            st = cmd_flush(&b);
    }
    if (s->n > 1)
        buf_printf(&b, "%zu tokens, mean negative log-likelihood %.6f, perplexity %.6f\n", s->n,
                   s->nll, exp(s->nll));
    if (st == WEFT_OK)
        st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

/* ---- The command ---- */

static weft_status work(score_state *s) {
    weft_engine_describe(s->self, &s->info);
    WEFT_TRY(cmd_prompt_ids(&s->args->prompt, s->self, &s->ids, &s->n));
    WEFT_TRY(check_length(s));
    s->logprob = mem_alloc(sizeof *s->logprob * s->n);
    if (s->args->logits) {
        s->logits = malloc(s->n * (size_t)s->info.vocab * sizeof *s->logits);
        if (!s->logits)
            return weft_fail(WEFT_NO_MEMORY, "--logits: %zu x %d numbers do not fit into memory",
                             s->n, (int)s->info.vocab);
    }
    WEFT_TRY(score_all(s));
    s->nll = score_mean_nll(s->logprob, s->n);
    if (s->args->logits)
        WEFT_TRY(write_logits(s));
    return s->args->json ? print_json(s) : print_table(s);
}

static weft_status open_and_work(const score_args *a, const char *model) {
    score_state s = {.args = a};
    weft_engine_options opt = cmd_engine_options(&a->engine);
    opt.score = true;
    WEFT_TRY(cmd_prompt_check(&a->prompt));
    WEFT_TRY(cmd_open_replicas(model, &opt, s.engine));
    s.replicas = engine_replicas(&opt);
    for (int i = s.replicas; i-- > 0;)
        s.self = s.engine[i] ? s.engine[i] : s.self;
    weft_status st = work(&s);
    mem_free(s.ids);
    mem_free(s.logprob);
    free(s.logits);
    for (int i = 0; i < s.replicas; i++)
        weft_engine_close(s.engine[i]);
    return st;
}

static int run(int argc, char **argv) {
    score_args a = {.json = false};
    const char *model;
    weft_status s = cmd_parse_model(&cmd_score, argc, argv, &a, &model);
    return cmd_fail(s == WEFT_OK ? open_and_work(&a, model) : s);
}

const cmd_row cmd_score = {
    .name = "score",
    .usage = "MODEL -p TEXT | -f FILE | --ids LIST [options]",
    .summary = "log-probabilities and perplexity of a text",
    .notes =
        "The first token has no context and no log-probability (null in JSON); nll is the mean "
        "over "
        "the others and ppl its exponential. With --stride N each window after the first scores "
        "its "
        "last N tokens with the context before them: smaller strides cost more and see more.\n\n"
        "  weft score MODEL -f text.txt --json\n"
        "  weft score MODEL --ids 1,2,3 --logits logits.safetensors\n"
        "  weft score MODEL -f book.txt -c 1024 --stride 512",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
