/* SPDX-License-Identifier: Apache-2.0
 * `weft bench`: tokens/s of prefill and of decode, beside what this machine's memory and arithmetic
 * allow. Rows are named as llama-bench names them: pp512 computes a prompt, tg128 generates. */
#include "host/cmd/bench.h"
#include "host/base/clock.h"
#include "host/base/mem.h"
#include "host/base/progress.h"
#include "host/cmd/cmd.h"
#include "host/cmd/roofline.h"
#include "host/model/engine.h"
#include "weft/rng.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BATCH_MAX = 256, REPEAT_MAX = 1000 };

typedef struct {
    cmd_engine_args engine;
    int64_t prompt, generate, depth, repeat, batch, least, most;
    bool json, collectives;
} bench_args;

#define AT(member) offsetof(bench_args, member)
static const arg_spec specs[] = {
    {"n-prompt", "p", NULL, ARG_INT, "N", 0, 1 << 24, "512",
     "tokens of the prompt; 0: no such test", AT(prompt)},
    {"n-gen", "n", NULL, ARG_INT, "N", 0, 1 << 24, "128", "tokens to generate; 0: no such test",
     AT(generate)},
    {"n-depth", "d", NULL, ARG_INT, "N", 0, 1 << 24, "0",
     "tokens in the cache before a test begins", AT(depth)},
    {"repetitions", "r", NULL, ARG_INT, "N", 1, REPEAT_MAX, "5", "runs of each test", AT(repeat)},
    {"batch", "b", NULL, ARG_INT, "N", 1, BATCH_MAX, "1",
     "also generate for N sequences at once (tg128x16)", AT(batch)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "print a JSON array, an object a test",
     AT(json)},
    {"collectives", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "instead of a model, how fast --tp ranks talk over --comm; `--comm` alone: over each "
     "transport",
     AT(collectives)},
    {"least-bytes", "", NULL, ARG_INT, "N", 1024, 1 << 30, "4096",
     "of a collective's smallest size", AT(least)},
    {"most-bytes", "", NULL, ARG_INT, "N", 1024, 1 << 30, "4194304",
     "of its largest, in steps of 4", AT(most)},
    CMD_ENGINE_SPECS(bench_args, engine),
};

typedef struct {
    char name[48];
    int64_t prompt, steps; /* one of them is 0 */
    int64_t batch, depth;
    double tok_s, tok_s_sd, gb_s, gflop_s;
} bench_test;

typedef struct {
    const bench_args *args;
    weft_engine *engine[SHARD_MAX_RANKS]; /* a replica each; NULL: other processes' */
    weft_engine *self;                    /* the first of this process */
    int replicas;
    weft_engine_info info;
    roofline_ceiling ceiling;
    bench_test test[3];
    int ntest;
    int32_t *ids; /* random, [ctx] */
    progress bar;
    int64_t rss;
} bench_state;

/* ---- One run ---- */

/* Steps until every sequence has sampled a token. */
static weft_status drain(weft_engine *e, weft_seq *const *seq, int n, weft_sampled *out) {
    size_t have, want;
    weft_seq_tokens(seq[n - 1], &want);
    do {
        WEFT_TRY(weft_engine_step(e, seq, n, out));
        weft_seq_tokens(seq[n - 1], &have);
    } while (have == want);
    return WEFT_OK;
}

/* depth tokens computed, one sampled and pending; without a depth one token is pending. */
static weft_status fill(const bench_state *b, weft_engine *e, const bench_test *t,
                        weft_seq *const *seq, weft_sampled *out) {
    for (int64_t i = 0; i < t->batch; i++) {
        WEFT_TRY(weft_seq_append(seq[i], b->ids, t->depth > 0 ? (size_t)t->depth : 1));
        if (t->depth > 0)
            WEFT_TRY(drain(e, &seq[i], 1, out));
    }
    return WEFT_OK;
}

/* What is timed: `steps` of generating, or the prompt with the pending token as its first. */
static weft_status timed(const bench_state *b, weft_engine *e, const bench_test *t, int64_t steps,
                         weft_seq *const *seq, weft_sampled *out, double *seconds) {
    double start = clock_seconds();
    if (t->prompt > 0) {
        if (t->prompt > 1)
            WEFT_TRY(weft_seq_append(seq[0], b->ids, (size_t)t->prompt - 1));
        WEFT_TRY(drain(e, seq, 1, out));
    }
    for (int64_t i = 0; i < steps; i++)
        WEFT_TRY(weft_engine_step(e, seq, (int)t->batch, out));
    *seconds = clock_seconds() - start;
    return WEFT_OK;
}

static weft_status run_replica(const bench_state *b, weft_engine *e, const bench_test *t,
                               int64_t steps, double *seconds) {
    weft_seq *seq[BATCH_MAX] = {NULL};
    weft_sampled out[BATCH_MAX];
    weft_status s = WEFT_OK;
    for (int64_t i = 0; i < t->batch && s == WEFT_OK; i++)
        s = weft_seq_open(e, NULL, &seq[i]);
    if (s == WEFT_OK)
        s = fill(b, e, t, seq, out);
    if (s == WEFT_OK)
        s = timed(b, e, t, steps, seq, out, seconds);
    for (int64_t i = 0; i < t->batch; i++)
        weft_seq_close(seq[i]);
    return s;
}

/* ---- Replicas: all do the same at once, and the slowest says how long it took ---- */

typedef struct {
    const bench_state *b;
    const bench_test *t;
    int64_t steps;
    double seconds[SHARD_MAX_RANKS];
} bench_team;

static weft_status run_one(void *ctx, int i) {
    bench_team *m = ctx;
    return run_replica(m->b, m->b->engine[i], m->t, m->steps, &m->seconds[i]);
}

static double longest(const double *seconds, int n) {
    double most = 0;
    for (int i = 0; i < n; i++)
        most = seconds[i] > most ? seconds[i] : most;
    return most;
}

static weft_status run_threads(const bench_state *b, const bench_test *t, int64_t steps,
                               double *seconds) {
    bench_team m = {.b = b, .t = t, .steps = steps};
    WEFT_TRY(sched_each(b->replicas, run_one, &m));
    *seconds = longest(m.seconds, b->replicas);
    return WEFT_OK;
}

static weft_status run_processes(const bench_state *b, const bench_test *t, int64_t steps,
                                 double *seconds) {
    engine_rank *r = &b->self->rank[b->self->self];
    double all[SHARD_MAX_RANKS];
    WEFT_TRY(comm_barrier(&r->all, "bench"));
    WEFT_TRY(run_replica(b, b->self, t, steps, seconds));
    comm_step(r->link, b->self->step, 10 * *seconds); /* others may be slower */
    WEFT_TRY(comm_collect(&r->all, seconds, all, sizeof *seconds, "bench"));
    *seconds = longest(all, r->all.ranks);
    return WEFT_OK;
}

static weft_status run_once(const bench_state *b, const bench_test *t, int64_t steps,
                            double *seconds) {
    if (b->replicas == 1)
        return run_replica(b, b->self, t, steps, seconds);
    return b->self->self < 0 ? run_threads(b, t, steps, seconds)
                             : run_processes(b, t, steps, seconds);
}

/* ---- One test ---- */

static void mean_and_spread(const double *x, int64_t n, double *mean, double *sd) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    *sd = n > 1 ? sqrt(squares / (double)(n - 1)) : 0;
}

static weft_status run_test(bench_state *b, bench_test *t) {
    double seconds, total = 0, rate[REPEAT_MAX];
    double tokens = (double)(b->replicas * (t->prompt > 0 ? t->prompt : t->steps * t->batch));
    roofline_work w = t->prompt > 0 ? roofline_prefill(&b->info, t->prompt, t->depth)
                                    : roofline_decode(&b->info, t->steps, t->batch, t->depth);
    WEFT_TRY(run_once(b, t, t->steps > 0, &seconds)); /* warms caches, pages and clocks */
    for (int64_t i = 0; i < b->args->repeat; i++) {
        WEFT_TRY(run_once(b, t, t->steps, &seconds));
        total += seconds;
        rate[i] = tokens / seconds;
        progress_add(&b->bar, 1);
    }
    mean_and_spread(rate, b->args->repeat, &t->tok_s, &t->tok_s_sd);
    double each = total / (double)b->args->repeat;
    t->gb_s = b->replicas * w.bytes / each * 1e-9;
    t->gflop_s = b->replicas * w.flops / each * 1e-9;
    return WEFT_OK;
}

static void add_test(bench_state *b, int64_t prompt, int64_t steps, int64_t batch) {
    bench_test *t = &b->test[b->ntest++];
    *t = (bench_test){.prompt = prompt, .steps = steps, .batch = batch, .depth = b->args->depth};
    int n = snprintf(t->name, sizeof t->name, "%s%" PRId64, prompt ? "pp" : "tg", prompt + steps);
    if (batch > 1)
        n += snprintf(t->name + n, sizeof t->name - (size_t)n, "x%" PRId64, batch);
    if (t->depth > 0)
        snprintf(t->name + n, sizeof t->name - (size_t)n, "@d%" PRId64, t->depth);
}

/* ---- Output ---- */

/* Of whichever ceiling is nearer: that is the one that binds. */
static double share(const bench_state *b, const bench_test *t) {
    double read = t->gb_s / b->ceiling.gb_s, compute = t->gflop_s / b->ceiling.gflop_s;
    return read > compute ? read : compute;
}

static weft_status print_json(const bench_state *b) {
    buf out;
    buf_init(&out, 1 << 16);
    for (int i = 0; i < b->ntest; i++) {
        const bench_test *t = &b->test[i];
        buf_printf(&out, "%s{\"test\":\"%s\",\"dtype\":\"%s\",\"tok_s\":%.4f,\"tok_s_sd\":%.4f,",
                   i ? ",\n " : "[", t->name, b->info.dtype, t->tok_s, t->tok_s_sd);
        buf_printf(&out,
                   "\"gb_s\":%.4f,\"ceiling_gb_s\":%.4f,\"gflop_s\":%.4f,\"ceiling_gflop_s\":%.4f,",
                   t->gb_s, b->ceiling.gb_s, t->gflop_s, b->ceiling.gflop_s);
        buf_printf(&out, "\"share\":%.4f,\"rss_bytes\":%" PRId64 "}", share(b, t), b->rss);
    }
    buf_puts(&out, b->ntest ? "]\n" : "[]\n");
    weft_status s = cmd_flush(&out);
    buf_fini(&out);
    return s;
}

static void print_head(const bench_state *b, buf *out) {
    char bytes[CMD_SIZE_TEXT], rss[CMD_SIZE_TEXT];
    const weft_engine_info *m = &b->info;
    int ranks = shard_ranks(&b->self->shape.mesh);
    buf_printf(out, "%s, %.1f M parameters, %s of %s weights, on %s: %d thread%s, %d rank%s\n",
               m->family, (double)m->parameters * 1e-6, cmd_size(bytes, (double)m->weight_bytes),
               m->dtype, m->device, (int)m->threads, m->threads == 1 ? "" : "s", ranks,
               ranks == 1 ? "" : "s");
    buf_printf(out, "measured here: reads %.1f GB/s, arithmetic %.1f GFLOP/s; peak memory %s\n\n",
               b->ceiling.gb_s, b->ceiling.gflop_s, cmd_size(rss, (double)b->rss));
}

static weft_status print_table(const bench_state *b) {
    buf out;
    buf_init(&out, 1 << 16);
    print_head(b, &out);
    buf_printf(&out, "%-14s %-5s %20s %9s %10s %12s\n", "test", "dtype", "tok/s +- sd", "GB/s",
               "GFLOP/s", "% of ceiling");
    for (int i = 0; i < b->ntest; i++) {
        const bench_test *t = &b->test[i];
        bool reads = t->gb_s / b->ceiling.gb_s >= t->gflop_s / b->ceiling.gflop_s;
        buf_printf(&out, "%-14s %-5s %11.2f +- %5.2f %9.2f %10.2f %5.1f %s\n", t->name,
                   b->info.dtype, t->tok_s, t->tok_s_sd, t->gb_s, t->gflop_s, 100 * share(b, t),
                   reads ? "reads" : "compute");
    }
    weft_status s = cmd_flush(&out);
    buf_fini(&out);
    return s;
}

/* ---- The command ---- */

static void choose_tests(bench_state *b) {
    const bench_args *a = b->args;
    if (a->prompt > 0)
        add_test(b, a->prompt, 0, 1);
    if (a->generate > 0)
        add_test(b, 0, a->generate, 1);
    if (a->generate > 0 && a->batch > 1)
        add_test(b, 0, a->generate, a->batch);
}

static weft_status work(bench_state *b) {
    weft_engine_describe(b->self, &b->info);
    b->ids = mem_alloc(sizeof *b->ids * (size_t)b->info.ctx_size);
    for (int32_t i = 0; i < b->info.ctx_size; i++)
        b->ids[i] = (int32_t)(weft_philox4x32(1, 0, (uint64_t)i).v[0] % (uint32_t)b->info.vocab);
    progress_start(&b->bar, "bench", "runs", b->ntest * b->args->repeat);
    weft_status s = WEFT_OK;
    for (int i = 0; i < b->ntest && s == WEFT_OK; i++)
        s = run_test(b, &b->test[i]);
    progress_end(&b->bar);
    b->rss = clock_rss_bytes(); /* before measuring the ceilings takes memory of its own */
    if (s == WEFT_OK)
        s = roofline_measure(b->self, &b->ceiling);
    if (s != WEFT_OK)
        return s;
    return b->args->json ? print_json(b) : print_table(b);
}

static weft_status open_and_work(const bench_args *a, const char *model) {
    bench_state b = {.args = a};
    weft_engine_options opt = cmd_engine_options(&a->engine);
    int64_t need = a->depth + (a->prompt > a->generate ? a->prompt : a->generate);
    if (need == 0 || a->prompt + a->generate == 0)
        return weft_fail(WEFT_USAGE, "-p and -n: both are 0; there is nothing to measure");
    if (opt.ctx_size > 0 && opt.ctx_size < need)
        return weft_fail(WEFT_USAGE, "-c: %d is less than depth and test need (%" PRId64 ")",
                         opt.ctx_size, need);
    opt.ctx_size = (int)need;
    opt.max_seqs = (int)a->batch;
    choose_tests(&b);
    WEFT_TRY(cmd_open_replicas(model, &opt, b.engine));
    b.replicas = engine_replicas(&opt);
    for (int i = b.replicas; i-- > 0;)
        b.self = b.engine[i] ? b.engine[i] : b.self;
    weft_status s = work(&b);
    mem_free(b.ids);
    for (int i = 0; i < b.replicas; i++)
        weft_engine_close(b.engine[i]);
    return s;
}

static weft_status run_collectives(int argc, char **argv, bool all) {
    bench_args a = {.json = false};
    int n;
    WEFT_TRY(args_parse(specs, CMD_COUNT(specs), argc, argv, &a, NULL, 0, &n));
    if (a.engine.tp < 2)
        return weft_fail(WEFT_USAGE, "--comm: --tp %d; give the number of ranks, 2 or more",
                         (int)a.engine.tp);
    bench_comm_args b = {.comm = a.engine.comm,
                         .device = a.engine.device,
                         .ranks = (int)a.engine.tp,
                         .least = a.least,
                         .most = a.most,
                         .timeout = a.engine.timeout,
                         .json = a.json};
    return all ? bench_comm_all(&b, argc, argv) : bench_comm(&b);
}

/* `--comm` that names no transport stands for all of them; takes it out of the words. */
static bool takes_all(int *argc, char **argv) {
    for (int i = 0; i < *argc; i++) {
        bool bare = i + 1 == *argc || argv[i + 1][0] == '-';
        if (strcmp(argv[i], "--comm") != 0 || (!bare && strcmp(argv[i + 1], "all") != 0))
            continue;
        int words = bare ? 1 : 2;
        *argc -= words;
        memmove(argv + i, argv + i + words, sizeof *argv * (size_t)(*argc - i));
        return true;
    }
    return false;
}

static int run(int argc, char **argv) {
    bench_args a = {.json = false};
    const char *model;
    if (takes_all(&argc, argv))
        return cmd_fail(run_collectives(argc, argv, true));
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--collectives") == 0)
            return cmd_fail(run_collectives(argc, argv, false));
    weft_status s = cmd_parse_model(&cmd_bench, argc, argv, &a, &model);
    return cmd_fail(s == WEFT_OK ? open_and_work(&a, model) : s);
}

const cmd_row cmd_bench = {
    .name = "bench",
    .usage = "MODEL [-p N] [-n N] [-d N] [-r N] [options]",
    .summary = "tokens/s, GB/s and GFLOP/s, and how near this machine's ceilings they are",
    .notes =
        "pp512 computes a prompt of 512 tokens, tg128 generates 128 one by one, tg128x16 for 16 "
        "sequences at once; @d1024 means behind 1024 others. With --dp each replica does as much, "
        "and "
        "tok/s is of all together. Tokens are random and greedy; "
        "tokenising is not timed. GB/s counts weights once a step and the keys and values read; "
        "the ceilings are measured in the same process after the tests, with as many threads.\n\n"
        "  weft bench MODEL\n"
        "  weft bench MODEL -p 0 -n 64 -d 1024 --batch 16 --json\n"
        "  weft bench --comm --tp 4\n"
        "  weft bench --collectives --tp 4 --comm tcp",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
