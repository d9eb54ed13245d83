/* SPDX-License-Identifier: Apache-2.0
 * `weft batch`: a file of requests in, a file of answers out, at full batch. Here it is opened and
 * closed; batch_queue.c deals lines out and writes answers, batch_replica.c computes them. */
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/hash.h"
#include "host/base/mem.h"
#include "host/cmd/batch_replica.h"
#include "host/model/engine.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_POOL = 65536, WINDOW_PART = 8 };

typedef struct {
    cmd_engine_args engine;
    cmd_sampling_args sampling;
    const char *input, *output, *errors, *order, *template;
    int64_t max_seqs, kv_tokens;
    bool no_cache, restart, json, verbose;
} batch_args;

#define AT(member) offsetof(batch_args, member)
static const arg_spec specs[] = {
    {"input", "i", "input-file", ARG_STRING, "IN.jsonl", 0, 0, NULL,
     "the requests, one JSON object a line; - reads standard input", AT(input)},
    {"output", "o", "output-file", ARG_STRING, "OUT.jsonl", 0, 0, NULL,
     "the answers; - writes standard output. A file that holds some already is gone on with",
     AT(output)},
    {"errors", "", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "lines that failed, with the reason (default: OUT.errors.jsonl; with -o -: among the answers)",
     AT(errors)},
    {"order", "", NULL, ARG_CHOICE, "input|finished", 0, 0, "input",
     "answers in the order of the input, or each as soon as it is there", AT(order)},
    {"max-seqs", "", "max-num-seqs", ARG_INT, "N", 1, 4096, "32", "most requests computed at once",
     AT(max_seqs)},
    {"kv-tokens", "", NULL, ARG_INT, "N", 0, 1 << 30, "0",
     "KV cache in tokens, for all; 0: a context for each, but at most 65536 (or one context)",
     AT(kv_tokens)},
    {"no-prefix-cache", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "compute prompts that begin alike each for itself", AT(no_cache)},
    {"restart", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "throw away what OUT and its errors hold, and start anew", AT(restart)},
    {"chat-template", "", NULL, ARG_STRING, "FILE|NAME", 0, 0, NULL,
     "a template in place of the model's: a file, one of the model's, or a built-in one",
     AT(template)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print a summary as one JSON object at the end",
     AT(json)},
    {"stats", "v", "verbose", ARG_FLAG, NULL, 0, 0, NULL,
     "print the summary even where stderr is no terminal", AT(verbose)},
    CMD_SAMPLING_SPECS(batch_args, sampling),
    CMD_ENGINE_SPECS(batch_args, engine),
};

/* ---- SIGINT and SIGTERM: the first ends it cleanly, the second as usual ---- */

static volatile sig_atomic_t stopped_by;

static void on_signal(int sig) {
    stopped_by = sig;
}

static void catch_signals(void) {
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction now, ours = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    for (int i = 0; i < CMD_COUNT(caught); i++)
        if (sigaction(caught[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaction(caught[i], &ours, NULL);
}

/* ---- The run ---- */

typedef struct {
    const batch_args *args;
    const char *model;
    weft_engine *engine[SHARD_MAX_RANKS]; /* a replica each; NULL: other processes' */
    weft_engine *self;                    /* the first of this process */
    int replicas;
    weft_engine_info info;
    cmd_sampling sampler;
    weft_request preset;
    cmd_lines in;
    bool lines_open, failed; /* failed: some lines are errors */
    batch_state state;
    batch_out out;
    int64_t total; /* lines of the input that are not blank, 0: unknown */
    batch_queue queue;
    batch_sum sum;
    progress bar;
    buf settings;
} batch_run;

typedef struct {
    const replica_options *options;
    batch_run *run;
    replica_end end[SHARD_MAX_RANKS];
} drivers;

static weft_status drive(void *ctx, int i) {
    drivers *d = ctx;
    weft_engine *e = d->options->serve ? d->run->self : d->run->engine[i];
    return replica_run(d->options, e, &d->end[i]);
}

/* A thread for each replica of this process. */
static weft_status drive_all(batch_run *r, const replica_options *o) {
    drivers d = {.options = o, .run = r};
    int n = o->serve ? 1 : r->replicas;
    WEFT_TRY(sched_each(n, drive, &d));
    for (int i = 0; i < n; i++)
        if (d.end[i].stop > 0)
            stopped_by = d.end[i].stop;
    r->failed = d.end[0].failed;
    return WEFT_OK;
}

static void open_queue(batch_run *r) {
    bool alone = r->replicas == 1 && r->self->self < 0;
    int64_t left = r->total > 0 ? r->total - r->out.n_done : 0;
    queue_options o = {.in = &r->in,
                       .out = &r->out,
                       .sum = &r->sum,
                       .bar = &r->bar,
                       .in_order = strcmp(r->args->order, "input") == 0,
                       .may_wait = alone,
                       .window = WINDOW_PART * (int)r->args->max_seqs * r->replicas,
                       .replicas = r->replicas,
                       .total = left,
                       .stopped = &stopped_by};
    r->in.stop = &stopped_by;
    progress_start(&r->bar, "batch", "lines", left);
    queue_open(&r->queue, &o);
}

static weft_status serve_and_drive(batch_run *r) {
    bool queue = batch_leads(r->self);
    replica_options o = {.model = r->model,
                         .template = r->args->template,
                         .input = r->args->input,
                         .preset = &r->preset,
                         .seed = r->state.seed,
                         .max_seqs = (int)r->info.max_seqs,
                         .replicas = r->replicas,
                         .queue = queue ? &r->queue : NULL};
    if (r->self->self >= 0)
        WEFT_TRY(comm_serve_open(&r->self->rank[r->self->self].all, r->replicas - 1, queue_serve,
                                 &r->queue, &o.serve));
    weft_status s = drive_all(r, &o);
    comm_serve_close(o.serve);
    return s;
}

/* All lines, from the first that is not answered. */
static weft_status deal_and_answer(batch_run *r) {
    if (!batch_leads(r->self))
        return serve_and_drive(r);
    open_queue(r);
    double start = clock_seconds();
    weft_status s = serve_and_drive(r);
    r->sum.seconds = clock_seconds() - start;
    queue_stats(&r->queue, &r->sum.stats);
    r->sum.replicas = r->replicas;
    memcpy(r->sum.by, r->queue.by, sizeof r->sum.by);
    progress_end(&r->bar);
    if (r->queue.status != WEFT_OK)
        s = weft_fail(r->queue.status, "%s", r->queue.why);
    queue_close(&r->queue);
    return s;
}

/* ---- Before it ---- */

/* Blank lines count as lines but not as requests. */
static weft_status survey(batch_run *r, int64_t *lines) {
    hash_stream *h = hash_open();
    const char *line;
    size_t n;
    weft_status s;
    while ((s = cmd_lines_next(&r->in, &line, &n)) == WEFT_OK && line && !stopped_by) {
        hash_add(h, line, n);
        hash_add(h, "\n", 1);
        r->total += !queue_is_blank(line, n);
    }
    *lines = r->in.number;
    r->state.input = hash_value(h) | 1; /* 0 is a pipe's */
    hash_close(h);
    return s;
}

static weft_status open_input(batch_run *r, int64_t *lines) {
    const char *path = r->args->input;
    bool pipe = strcmp(path, "-") == 0 || !file_is_regular(path);
    *lines = 0;
    r->lines_open = true;
    WEFT_TRY(cmd_lines_open(&r->in, path));
    if (pipe && r->self->self >= 0)
        return weft_fail(WEFT_USAGE,
                         "-i: ranks in processes of their own cannot share %s; give a "
                         "file that all can read",
                         r->in.name);
    if (pipe)
        return WEFT_OK;
    WEFT_TRY(survey(r, lines));
    cmd_lines_close(&r->in);
    return cmd_lines_open(&r->in, path);
}

/* Names and shapes of the weights with a few bytes of each: another model, or another state of its
 * training, has other ones. */
static uint64_t fingerprint(const weft_engine *e) {
    hash_stream *h = hash_open();
    for (int i = 0; i < e->st.ntensor; i++) {
        const st_tensor *t = &e->st.tensor[i];
        uint64_t few = t->bytes < 64 ? t->bytes : 64;
        hash_add(h, t->name, strlen(t->name) + 1);
        hash_add(h, t->shape, sizeof t->shape[0] * (size_t)t->ndim);
        hash_add(h, t->data, few);
        hash_add(h, (const char *)t->data + (t->bytes - few) / 2, few);
    }
    uint64_t v = hash_value(h);
    hash_close(h);
    return v;
}

static void add_setting(buf *b, const arg_spec *s, const void *args) {
    const char *at = (const char *)args + s->offset;
    const arg_list *list = (const arg_list *)(const void *)at;
    const char *text;
    double x;
    int64_t i;
    switch (s->kind) {
    case ARG_FLAG: buf_puts(b, *(const bool *)at ? " yes" : " no"); break;
    case ARG_INT:
        memcpy(&i, at, sizeof i);
        buf_printf(b, " %" PRId64, i);
        break;
    case ARG_FLOAT:
        memcpy(&x, at, sizeof x);
        buf_putc(b, ' ');
        buf_json_double(b, x);
        break;
    case ARG_LIST:
        for (int k = 0; k < list->n; k++) {
            buf_putc(b, ' ');
            buf_json_string(b, list->item[k], strlen(list->item[k]));
        }
        break;
    default: memcpy(&text, at, sizeof text); buf_printf(b, " %s", text ? text : "-");
    }
}

/* Everything of the command line that an answer depends on and that is not as it is by default. */
static void describe_settings(batch_run *r) {
    static const char *const matter[] = {"order", "chat-template"};
    batch_args plain = {0};
    int none;
    cmd_sampling_preset(&plain.sampling);
    args_parse(specs, CMD_COUNT(specs), 0, NULL, &plain, NULL, 0, &none);
    plain.sampling.seed = r->args->sampling.seed; /* has a place of its own */
    buf *b = &r->settings;
    buf_printf(b, "%s %s/%s, context %d", r->info.device, r->info.dtype, r->info.weights,
               (int)r->info.ctx_size);
    for (int i = 0; i < CMD_COUNT(specs); i++) {
        const arg_spec *s = &specs[i];
        size_t from = offsetof(batch_args, sampling);
        bool counts = s->offset >= from && s->offset < from + sizeof plain.sampling;
        for (int k = 0; k < CMD_COUNT(matter); k++)
            counts |= strcmp(s->name, matter[k]) == 0;
        buf one, other;
        buf_init(&one, 1 << 16);
        buf_init(&other, 1 << 16);
        add_setting(&one, s, r->args);
        add_setting(&other, s, &plain);
        if (counts && strcmp(one.data, other.data) != 0)
            buf_printf(b, ", %s%s", s->name, one.data);
        buf_fini(&one);
        buf_fini(&other);
    }
    r->state.settings = b->data;
}

static weft_status open_output(batch_run *r, int64_t lines) {
    const batch_args *a = r->args;
    uint64_t given = r->sampler.sampling.seed;
    r->state.model = fingerprint(r->self);
    r->state.seed = given;
    describe_settings(r);
    WEFT_TRY(batch_out_open(&r->out, a->input, a->output, a->errors, &r->state, lines, a->restart));
    if (a->sampling.seed >= 0 && r->state.seed != given)
        return weft_fail(WEFT_USAGE,
                         "--seed: %s holds answers under seed %" PRIu64
                         "; leave it out, or --restart to start anew",
                         a->output, r->state.seed);
    return WEFT_OK;
}

/* ---- After it ---- */

/* Lines that are errors, of this run and of those before it. */
static weft_status report_failed(const batch_run *r) {
    if (!batch_leads(r->self))
        return r->failed ? batch_lines_failed() : WEFT_OK;
    int64_t failed = r->out.n_failed + r->sum.failed, all = r->out.n_done + r->sum.written;
    if (failed == 0)
        return WEFT_OK;
    return weft_fail(WEFT_BAD_FILE, "%s: %" PRId64 " of %" PRId64 " lines failed; see %s",
                     r->in.name, failed, all, r->out.errors.name);
}

static weft_status conclude(batch_run *r) {
    if (!batch_leads(r->self))
        return stopped_by ? WEFT_OK : report_failed(r);
    r->sum.skipped = r->out.n_done;
    r->sum.seed = r->state.seed;
    if (r->args->json)
        WEFT_TRY(batch_sum_json(&r->sum));
    else if (r->args->verbose || cmd_stderr_is_terminal())
        batch_sum_print(&r->sum);
    return stopped_by || r->queue.status != WEFT_OK ? WEFT_OK : report_failed(r);
}

/* What rank 0 finds in the files. */
static weft_status open_files(batch_run *r) {
    int64_t lines;
    WEFT_TRY(open_input(r, &lines));
    return stopped_by ? WEFT_OK : open_output(r, lines);
}

static weft_status work(batch_run *r) {
    weft_status opened = batch_leads(r->self) ? open_files(r) : WEFT_OK;
    int stop = stopped_by;
    WEFT_TRY(batch_share_opened(r->self, opened, &r->state.seed, &stop));
    stopped_by = stop;
    if (stop)
        return WEFT_OK;
    weft_status s = deal_and_answer(r), closed = conclude(r);
    return s == WEFT_OK ? closed : s;
}

static weft_status pool_tokens(const batch_args *a, const char *model, int64_t *out) {
    arena mem = {0};
    model_config c;
    weft_status s = config_read(model, &mem, &c);
    int64_t ctx = s != WEFT_OK       ? 0
                  : a->engine.ctx    ? a->engine.ctx
                  : c.max_ctx < 4096 ? c.max_ctx
                                     : 4096;
    int64_t all = (ctx + KV_PAGE - 1) / KV_PAGE * KV_PAGE * a->max_seqs;
    int64_t most = ctx > DEFAULT_POOL ? ctx : DEFAULT_POOL;
    arena_fini(&mem);
    if (s == WEFT_OK && a->kv_tokens > 0 && a->kv_tokens < ctx)
        return weft_fail(WEFT_USAGE,
                         "--kv-tokens: %" PRId64 " hold no context of %" PRId64 "; "
                         "give more, or a smaller -c",
                         a->kv_tokens, ctx);
    *out = a->kv_tokens > 0 ? a->kv_tokens : most;
    *out = *out < all ? *out : all;
    return s;
}

static weft_status open_engines(batch_run *r) {
    weft_engine_options opt = cmd_engine_options(&r->args->engine);
    WEFT_TRY(pool_tokens(r->args, r->model, &opt.kv_tokens));
    opt.max_seqs = (int)r->args->max_seqs;
    opt.prefix_cache = !r->args->no_cache;
    r->replicas = engine_replicas(&opt);
    WEFT_TRY(cmd_open_replicas(r->model, &opt, r->engine));
    for (int i = r->replicas; i-- > 0;)
        r->self = r->engine[i] ? r->engine[i] : r->self;
    weft_engine_describe(r->self, &r->info);
    return WEFT_OK;
}

static void close_run(batch_run *r) {
    if (r->lines_open)
        cmd_lines_close(&r->in);
    batch_sum_fini(&r->sum);
    cmd_sampling_close(&r->sampler);
    buf_fini(&r->settings);
    for (int i = 0; i < r->replicas; i++)
        weft_engine_close(r->engine[i]);
}

static weft_status open_and_work(const batch_args *a, const char *model) {
    batch_run r = {.args = a, .model = model};
    WEFT_TRY(open_engines(&r));
    buf_init(&r.settings, 1 << 18);
    r.out = (batch_out){.answers = {.fd = -1}, .errors = {.fd = -1}};
    catch_signals();
    weft_status s = cmd_sampling_open(&r.sampler, &a->sampling, r.self);
    if (s == WEFT_OK) {
        cmd_sampling_request(&r.sampler, &r.preset);
        s = work(&r);
    }
    char why[1024];
    snprintf(why, sizeof why, "%s", weft_error());
    weft_status closed = batch_out_close(&r.out);
    close_run(&r);
    if (s != WEFT_OK)
        return weft_fail(s, "%s", why);
    return closed;
}

static weft_status check(const batch_args *a) {
    if (!a->input)
        return weft_fail(WEFT_USAGE, "-i: missing; usage: weft batch %s", cmd_batch.usage);
    if (!a->output)
        return weft_fail(WEFT_USAGE, "-o: missing; usage: weft batch %s", cmd_batch.usage);
    if (a->json && strcmp(a->output, "-") == 0)
        return weft_fail(WEFT_USAGE, "--json and -o -: both go to standard output; give a file");
    return cmd_sampling_check(&a->sampling);
}

static int run(int argc, char **argv) {
    batch_args a = {0};
    const char *model;
    cmd_sampling_preset(&a.sampling);
    weft_status s = cmd_parse_model(&cmd_batch, argc, argv, &a, &model);
    if (s == WEFT_OK)
        s = check(&a);
    if (s == WEFT_OK)
        s = open_and_work(&a, model);
    cmd_sampling_args_free(&a.sampling);
    if (s == WEFT_OK && stopped_by)
        return 128 + stopped_by;
    return cmd_fail(s);
}

const cmd_row cmd_batch = {
    .name = "batch",
    .usage = "MODEL -i IN.jsonl -o OUT.jsonl [options]",
    .summary = "answer a file of requests",
    .notes =
        "A line is {\"prompt\": TEXT} or {\"messages\": [...]} with max_tokens, temperature, "
        "top_p, "
        "seed, stop and whatever else a request may say (docs/BATCH.md), or a line of OpenAI's "
        "batch files: {\"custom_id\", \"method\", \"url\", \"body\": {...}}. Options here hold for "
        "lines that say nothing. An answer is {\"id\", \"custom_id\", \"response\": "
        "{\"status_code\", "
        "\"body\"}, \"error\"}, the same bytes whatever shares its steps; a line without a seed "
        "gets "
        "one of its own, which the answer names.\n\n"
        "Any interruption may be followed by the same command: it goes on after the last whole "
        "line. Lines that fail go to the errors' file and make the exit code 3; to try them again, "
        "remove that file. Ctrl-C and SIGTERM end it cleanly (128 + the signal).\n\n"
        "  weft batch MODEL -i in.jsonl -o out.jsonl\n"
        "  weft batch MODEL -i in.jsonl -o out.jsonl --order finished -n 200 --json\n"
        "  generate | weft batch MODEL -i - -o - | use",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
