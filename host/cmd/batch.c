/* SPDX-License-Identifier: Apache-2.0
 * `weft batch`: a file of requests in, a file of answers out, at full batch. Lines are read a
 * window ahead of those written, which bounds memory and, where the order is kept, what a kill can
 * lose. */
#include "host/serve/batch.h"
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/base/hash.h"
#include "host/base/mem.h"
#include "host/base/progress.h"
#include "host/cmd/batch_out.h"
#include "host/cmd/batch_sum.h"
#include "host/cmd/cmd.h"
#include "host/model/engine.h"
#include "host/serve/api.h"
#include "weft/rng.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_SEQS = 32, DEFAULT_POOL = 65536, WINDOW_PART = 8, LINE_BYTES = 1 << 29 };

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

/* ---- One line on its way ---- */

typedef struct batch_run batch_run;
typedef struct item item;
struct item {
    batch_run *run;
    item *next; /* in the order of the input */
    int64_t line;
    api_request request;
    api_answer answer;
    batch_job *job;
    bool finished, error;
    buf text; /* of its output, once finished */
};

struct batch_run {
    const batch_args *args;
    const char *model;
    weft_engine *engine;
    weft_engine_info info;
    cmd_sampling sampler;
    weft_request preset;
    api api;
    batch *batch;
    cmd_lines in;
    bool lines_open, in_order, eof, closing;
    batch_state state;
    batch_out out;
    item *first, **last; /* read and not yet written, in order */
    int64_t held, total; /* lines among them; of the input that are not blank, 0: unknown */
    int window;
    batch_sum sum;
    progress bar;
    weft_status status; /* of a callback: what ends the run */
    char why[1024];     /* its message */
    buf settings;
};

/* A seed of its own for each line that names none: Philox of the run's and the line's number. */
static uint64_t seed_of(const batch_run *r, int64_t line) {
    weft_philox x = weft_philox4x32(r->state.seed, 0x62617463, (uint64_t)line);
    return ((uint64_t)x.v[0] << 32 | x.v[1]) >> 11;
}

static void free_item(item *i) {
    api_answer_fini(&i->answer);
    api_request_fini(&i->request);
    buf_fini(&i->text);
    mem_free(i);
}

static void begin_record(item *i, const char *custom_id) {
    buf_printf(&i->text, "{\"id\":\"line-%" PRId64 "\",\"custom_id\":", i->line);
    if (custom_id)
        buf_json_line(&i->text, custom_id, strlen(custom_id));
    else
        buf_puts(&i->text, "null");
}

static void write_error(item *i, const char *code, const char *why) {
    buf_clear(&i->text);
    begin_record(i, i->request.custom_id);
    buf_printf(&i->text,
               ",\"response\":null,\"error\":{\"code\":\"%s\",\"line\":%" PRId64 ",\"message\":",
               code, i->line);
    buf_json_line(&i->text, why, strlen(why));
    buf_puts(&i->text, "}}\n");
    i->finished = i->error = true;
}

static void write_answer(item *i, const weft_result *result) {
    begin_record(i, i->request.custom_id);
    buf_printf(&i->text,
               ",\"response\":{\"status_code\":200,\"request_id\":\"line-%" PRId64 "\",\"body\":",
               i->line);
    api_answer_write(&i->answer, result, &i->text);
    buf_puts(&i->text, "},\"error\":null}\n");
    i->finished = true;
}

/* Is it the line that is wrong, or this machine? */
static bool of_the_line(weft_status s) {
    return s == WEFT_USAGE || s == WEFT_UNSUPPORTED || s == WEFT_BAD_FILE;
}

static void stop_run(batch_run *r, weft_status s) {
    if (s == WEFT_OK || r->status != WEFT_OK)
        return;
    r->status = s;
    snprintf(r->why, sizeof r->why, "%s", weft_error());
}

static void on_done(void *user, batch_job *job, weft_status s, const batch_result *result) {
    item *i = ((api_answer *)user)->owner;
    batch_run *r = i->run;
    (void)job;
    i->job = NULL;
    if (r->closing)
        return;
    if (s != WEFT_OK && !of_the_line(s))
        stop_run(r, s);
    else if (s != WEFT_OK)
        write_error(i, "failed", weft_error());
    else if (result->result.finish == WEFT_FINISH_CANCELLED)
        write_error(i, "failed", "answer: is too large");
    else
        write_answer(i, &result->result);
    if (s == WEFT_OK)
        batch_sum_add(&r->sum, result);
}

/* ---- Reading ---- */

static bool is_blank(const char *line, size_t n) {
    size_t k = 0;
    while (k < n && strchr(" \t\r", line[k]) && line[k])
        k++;
    return k == n;
}

static weft_status submit(batch_run *r, item *i, const char *name, const char *line, size_t n) {
    WEFT_TRY(api_read_line(&r->api, name, line, n, &i->request));
    if (!i->request.seeded)
        i->request.sampling.seed = seed_of(r, i->line);
    batch_call call = {.request = &i->request.req,
                       .on_token = api_answer_token,
                       .on_done = on_done,
                       .user = &i->answer};
    return batch_submit(r->batch, &call, &i->job);
}

static weft_status add_line(batch_run *r, const char *line, size_t n) {
    item *i = mem_alloc(sizeof *i);
    arena names = {0};
    i->run = r;
    i->line = r->in.number;
    buf_init(&i->text, LINE_BYTES);
    api_answer_init(&i->answer, &r->api, &i->request);
    i->answer.owner = i;
    *r->last = i;
    r->last = &i->next;
    r->held++;
    weft_status s = submit(r, i, arena_printf(&names, "%s:%" PRId64, r->in.name, i->line), line, n);
    arena_fini(&names);
    if (s == WEFT_OK || !of_the_line(s))
        return s;
    write_error(i, "invalid_request", weft_error());
    return WEFT_OK;
}

static bool is_done(const batch_run *r, int64_t line) {
    return r->out.done && line <= r->out.lines && r->out.done[line];
}

/* Lines that wait are enough to fill a step. */
static weft_status read_ahead(batch_run *r) {
    batch_stats now;
    batch_describe(r->batch, &now);
    int waiting = now.waiting;
    r->in.stop = &stopped_by;
    while (!r->eof && r->held < r->window && waiting < (int)r->info.max_seqs) {
        if (waiting + now.running > 0 && !cmd_lines_ready(&r->in))
            break; /* a slow writer does not hold up what runs */
        const char *line;
        size_t n;
        WEFT_TRY(cmd_lines_next(&r->in, &line, &n));
        r->eof = !line;
        if (r->eof || is_blank(line, n) || is_done(r, r->in.number))
            continue;
        WEFT_TRY(add_line(r, line, n));
        waiting++;
    }
    return WEFT_OK;
}

/* ---- Writing ---- */

static weft_status write_item(batch_run *r, const item *i) {
    double start = clock_seconds();
    WEFT_TRY(batch_out_write(&r->out, i->error, &i->text));
    r->sum.io_seconds += clock_seconds() - start;
    r->sum.written++;
    r->sum.failed += i->error;
    progress_add(&r->bar, 1);
    return WEFT_OK;
}

/* What may be written: the first of those held as far as they are finished, or all that are. */
static weft_status write_finished(batch_run *r) {
    item **at = &r->first;
    while (*at) {
        item *i = *at;
        if (!i->finished && r->in_order)
            break;
        if (!i->finished) {
            at = &i->next;
            continue;
        }
        WEFT_TRY(write_item(r, i));
        *at = i->next;
        r->held--;
        free_item(i);
    }
    if (!*at)
        r->last = at;
    return WEFT_OK;
}

/* ---- The loop ---- */

static void show_rate(batch_run *r, double start) {
    batch_stats now;
    double seconds = clock_seconds() - start;
    batch_describe(r->batch, &now);
    snprintf(r->bar.note, sizeof r->bar.note, ", %.1f tok/s",
             seconds > 0 ? (double)now.generated / seconds : 0);
    progress_add(&r->bar, 0);
}

/* What comes between two steps. */
static weft_status advance(batch_run *r, double start) {
    WEFT_TRY(batch_step(r->batch));
    WEFT_TRY(r->status == WEFT_OK ? write_finished(r) : r->status);
    show_rate(r, start);
    return WEFT_OK;
}

/* Rank 0 says when to stop: a signal or a full disk is its own, or comes to each at another
 * step. */
static weft_status go_on(batch_run *r, weft_status s, bool *stop) {
    int why = s != WEFT_OK ? -1 : (int)stopped_by;
    WEFT_TRY(batch_share(r->engine, &why, sizeof why));
    if (why > 0)
        stopped_by = why;
    *stop = why != 0 || s != WEFT_OK;
    return WEFT_OK;
}

static weft_status loop(batch_run *r) {
    double start = clock_seconds();
    weft_status s = WEFT_OK, shared;
    bool stop = false;
    while ((shared = go_on(r, s, &stop)) == WEFT_OK && !stop) {
        s = read_ahead(r);
        if (s == WEFT_OK && batch_idle(r->batch) && r->eof)
            break;
        if (s == WEFT_OK)
            s = advance(r, start);
    }
    s = s == WEFT_OK ? shared : s;
    if (s == WEFT_OK && !stop)
        s = write_finished(r);
    r->sum.seconds = clock_seconds() - start;
    batch_describe(r->batch, &r->sum.stats);
    if (s == WEFT_OK && r->status != WEFT_OK)
        s = weft_fail(r->status, "%s", r->why);
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
        r->total += !is_blank(line, n);
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
    if (pipe && r->engine->self >= 0)
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
    r->state.model = fingerprint(r->engine);
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
    int64_t failed = r->out.n_failed + r->sum.failed, all = r->out.n_done + r->sum.written;
    if (failed == 0)
        return WEFT_OK;
    return weft_fail(WEFT_BAD_FILE, "%s: %" PRId64 " of %" PRId64 " lines failed; see %s",
                     r->in.name, failed, all, r->out.errors.name);
}

static weft_status conclude(batch_run *r) {
    progress_end(&r->bar);
    r->sum.skipped = r->out.n_done;
    r->sum.seed = r->state.seed;
    if (r->args->json)
        WEFT_TRY(batch_sum_json(&r->sum));
    else if (r->args->verbose || cmd_stderr_is_terminal())
        batch_sum_print(&r->sum);
    return stopped_by || r->status != WEFT_OK ? WEFT_OK : report_failed(r);
}

static weft_status work(batch_run *r) {
    int64_t lines;
    WEFT_TRY(open_input(r, &lines));
    if (stopped_by)
        return WEFT_OK;
    weft_status opened = batch_leads(r->engine) ? open_output(r, lines) : WEFT_OK;
    WEFT_TRY(batch_out_share(&r->out, r->engine, opened, &r->state, r->in.name, lines));
    api_init(&r->api, r->engine, r->model, r->args->template, &r->preset);
    r->batch = batch_open(r->engine, &(batch_options){0});
    progress_start(&r->bar, "batch", "lines", r->total > 0 ? r->total - r->out.n_done : 0);
    weft_status s = loop(r), closed;
    stop_run(r, s);
    r->closing = true;
    batch_close(r->batch);
    closed = conclude(r);
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

static weft_status open_and_work(const batch_args *a, const char *model) {
    batch_run r = {.args = a, .model = model, .in_order = strcmp(a->order, "input") == 0};
    weft_engine_options opt = cmd_engine_options(&a->engine);
    WEFT_TRY(pool_tokens(a, model, &opt.kv_tokens));
    opt.max_seqs = (int)a->max_seqs;
    opt.prefix_cache = !a->no_cache;
    WEFT_TRY(cmd_open(model, &opt, &r.engine));
    weft_engine_describe(r.engine, &r.info);
    r.window = WINDOW_PART * (int)a->max_seqs;
    r.last = &r.first;
    buf_init(&r.settings, 1 << 18);
    catch_signals();
    weft_status s = cmd_sampling_open(&r.sampler, &a->sampling, r.engine);
    if (s == WEFT_OK) {
        cmd_sampling_request(&r.sampler, &r.preset);
        s = work(&r);
    }
    if (r.lines_open)
        cmd_lines_close(&r.in);
    weft_status closed = batch_out_close(&r.out);
    while (r.first) {
        item *i = r.first;
        r.first = i->next;
        free_item(i);
    }
    api_fini(&r.api);
    batch_sum_fini(&r.sum);
    cmd_sampling_close(&r.sampler);
    buf_fini(&r.settings);
    weft_engine_close(r.engine);
    if (s != WEFT_OK && r.why[0])
        err_set_message(r.why);
    return s == WEFT_OK ? closed : s;
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
