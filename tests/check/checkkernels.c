/* SPDX-License-Identifier: Apache-2.0
 * checkkernels: every row of every backend against the reference. See `checkkernels --help`. */
#include "host/base/args.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/registry.h"
#include "tests/check/check.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* clang-format off */
#define CHECK_OPS(X) \
    X(embed) X(rope_table) X(rope) X(rmsnorm) X(layernorm) X(matmul) X(leaf_sum) X(rank_sum) \
    X(kv_append) X(attention) X(glu) X(activation) X(add_) X(softmax) X(argmax) \
    X(token_logprob) X(gather) \
    X(cast) X(quantize) X(sample) X(matmul_dx) X(matmul_dw) X(bias_db) X(rmsnorm_dx) \
    X(rmsnorm_dg) X(layernorm_dx) X(layernorm_dg) X(rope_dx) X(glu_dx) X(activation_dx) \
    X(attention_dx) X(embed_dw) X(cross_entropy) X(dropout) X(scale) X(fill_) X(accumulate) \
    X(sum_squares) X(adamw) X(sgd) X(ema)
/* clang-format on */
#define DECLARE_(op) extern const check_op check_##op;
#define LIST_(op) &check_##op,
CHECK_OPS(DECLARE_)
const check_op *const check_ops[] = {CHECK_OPS(LIST_) NULL};

enum { QUICK_CASES = 60, QUICK_SECONDS = 120, LONG_GIB = 14, PASSES = 16, OP_SHARES = 4 };

typedef struct {
    const char *op, *backend, *one, *row, *dtype, *shard;
    int64_t seed, threads, seconds, each, jobs, timeout, blocks;
    bool bench, json, quick, all_long, list, self_test, profile, claims, help;
} options;

#define OPT(field) offsetof(options, field)
static const arg_spec specs[] = {
    {"op", "", NULL, ARG_STRING, "GLOB", 0, 0, "*", "ops to check", OPT(op)},
    {"backend", "", NULL, ARG_STRING, "GLOB", 0, 0, "*",
     "backends to check; ref checks the reference's own invariances", OPT(backend)},
    {"case", "", NULL, ARG_STRING, "CASE", 0, 0, NULL, "exactly this case, as a failure prints it",
     OPT(one)},
    {"row", "", NULL, ARG_STRING, "GLOB", 0, 0, "*", "rows to check, by name", OPT(row)},
    {"dtype", "", NULL, ARG_STRING, "GLOB", 0, 0, "*", "types of cases to check", OPT(dtype)},
    {"each", "", NULL, ARG_INT, "N", 0, 1000000, "0",
     "stop a row when it has run so many cases of a type, small ones first; what each row has run "
     "is printed, fewer are a failure (0: run all)",
     OPT(each)},
    {"seconds", "", NULL, ARG_INT, "N", 0, 86400, "0",
     "stop after that long; what ran is a sample by the seed (0: run all)", OPT(seconds)},
    {"jobs", "", NULL, ARG_INT, "N", 0, 256, "0",
     "so many processes, each with a share of one op's cases: what hangs or kills the device "
     "costs that share only (0: one process, no protection)",
     OPT(jobs)},
    {"timeout", "", NULL, ARG_INT, "N", 1, 86400, "300", "seconds a process of --jobs may take",
     OPT(timeout)},
    {"shard", "", NULL, ARG_STRING, "I/N", 0, 0, "0/1", "every N-th case, beginning with the I-th",
     OPT(shard)},
    {"seed", "", NULL, ARG_INT, "N", 0, 9e15, "1", "of the inputs and of the sample of --quick",
     OPT(seed)},
    {"threads", "", NULL, ARG_INT, "N", 1, CHECK_THREADS, "3", "most threads to compare",
     OPT(threads)},
    {"quick", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "a sample of the cases, some 40 seconds; stops after 120", OPT(quick)},
    {"long", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "also the cases that need gigabytes",
     OPT(all_long)},
    {"list", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "print the cases and run none; with --bench, what is measured on a GPU", OPT(list)},
    {"bench", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "measure instead, against this machine's ceilings", OPT(bench)},
    {"profile", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "count on the emulator instead: bytes, sectors, bank conflicts, mma, barriers", OPT(profile)},
    {"blocks", "", NULL, ARG_INT, "N", 0, 1e9, "8",
     "blocks of a launch that --profile runs; 0: all", OPT(blocks)},
    {"claims", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "print what kernels/cuda claims of its kernels, for scripts/sass-gate", OPT(claims)},
    {"json", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "end with one line {\"cases\", \"failed\", \"skipped\"}; words go to stderr", OPT(json)},
    {"self-test", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "check the checker with broken kernels",
     OPT(self_test)},
    {"help", "h", NULL, ARG_FLAG, NULL, 0, 0, NULL, "this text", OPT(help)},
};
enum { SPECS = sizeof specs / sizeof *specs };

/* What the run has come to. */
typedef struct {
    const options *o;
    FILE *words;
    check_state k;
    int64_t cases, failed, skipped, declined;
    bool late;              /* cases were skipped for want of time */
    double until, op_until; /* ends: of all; of this op, so that a slow one leaves time */
    int pass;               /* of --seconds: a sixteenth of the cases */
    uint64_t shard, shards;
    check_counts counts; /* of --each */
    check_choice choice;
} session;

static bool backend_wanted(const session *s, const weft_kernel *row, bool sole) {
    if (strcmp(row->backend, "ref") == 0 && !sole && strcmp(s->o->backend, "*") == 0)
        return false; /* the truth is not compared with itself unless asked for */
    for (const check_backend *b = s->k.backends; b->name; b++)
        if (strcmp(b->name, row->backend) == 0)
            return sole || fnmatch(s->o->backend, row->backend, 0) == 0;
    return false;
}

/* An op that only the reference does is checked on the reference's row. */
static bool only_reference(weft_op op) {
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++)
            if (r->op == op && strcmp(r->backend, "ref") != 0)
                return false;
    return true;
}

static const weft_kernel *next_row(const session *s, weft_op op, int *table, int *at) {
    bool sole = only_reference(op);
    for (; registry_tables[*table]; ++*table, *at = 0)
        while (registry_tables[*table][*at].name) {
            const weft_kernel *r = &registry_tables[*table][(*at)++];
            if (r->op == op && backend_wanted(s, r, sole))
                return r;
        }
    return NULL;
}

static void report(session *s, const check_case *c, const weft_kernel *row) {
    buf text;
    buf_init(&text, 4096);
    check_case_print(&text, c);
    fprintf(s->words,
            "FAIL %s/%s %s\n  replay: checkkernels --backend %s --case '%s%srow=%s' --seed %lld\n",
            row->backend, row->name, s->k.why, row->backend, text.data,
            text.data[text.len - 1] == ':' ? "" : ",", row->name, (long long)s->o->seed);
    fflush(s->words);
    buf_fini(&text);
}

/* First results of each numerics class: later rows of the class must repeat their bits. */
typedef struct {
    check_result result[8];
    const weft_kernel *row[8];
    int n;
} class_results;

static void compare_class(session *s, const check_set *set, class_results *seen,
                          const weft_kernel *row, const check_result *base) {
    for (int i = 0; i < seen->n && !s->k.bad; i++) {
        char what[96];
        if (!check_same_arith(seen->row[i], row) ||
            strcmp(seen->row[i]->backend, row->backend) != 0)
            continue;
        snprintf(what, sizeof what, "row %s of the same numerics class differs",
                 seen->row[i]->name);
        check_results_equal(&s->k, set, base, &seen->result[i], what);
    }
}

static void run_one(session *s, const check_set *set, const weft_kernel *row,
                    const check_result *truth, class_results *seen) {
    check_result base = {0};
    s->k.bad = false;
    s->cases++;
    check_row(&s->k, row, set, truth, &base);
    compare_class(s, set, seen, row, &base);
    if (s->k.bad) {
        s->failed++;
        report(s, &set->c, row);
    }
    if (seen->n < 8 && !s->k.bad) {
        seen->result[seen->n] = base;
        seen->row[seen->n++] = row;
    } else {
        check_result_fini(&base);
    }
}

static int level_of(const session *s, const weft_kernel *row) {
    for (const check_backend *b = s->k.backends; b->name; b++)
        if (!strcmp(b->name, row->backend))
            return b->device->level;
    return -1;
}

/* Under --each: whether a row has still to run cases of this type. */
static bool lacks(session *s, const check_set *set, const weft_kernel *row) {
    return !s->o->each ||
           check_count_of(&s->counts, row->op, set->c.dtype, row->name)->ran < s->o->each;
}

static bool someone_lacks(session *s, const check_set *set) {
    int table = 0, at = 0;
    for (const weft_kernel *r; (r = next_row(s, set->c.op->op, &table, &at));)
        if (fnmatch(s->o->row, r->name, 0) == 0 && weft_kernel_fits(r, level_of(s, r)) &&
            (!r->ok || r->ok(&set->args)) && lacks(s, set, r))
            return true;
    return false;
}

static void run_case(session *s, const check_case *c, const char *only) {
    check_set set;
    check_result truth;
    class_results seen = {.n = 0};
    const weft_kernel *ref = check_reference(c->op->op);
    int table = 0, at = 0;
    check_set_init(&set, c, (uint64_t)s->o->seed);
    c->op->build(&set);
    s->k.bad = false;
    s->k.row = ref;
    if (!ref || (ref->ok && !ref->ok(&set.args))) {
        check_fail(&s->k, "the reference refuses the case");
        s->cases++, s->failed++;
        report(s, c, ref ? ref : weft_kernels_ref);
        check_set_fini(&set);
        return;
    }
    if (s->o->each && !someone_lacks(s, &set)) {
        check_set_fini(&set);
        return;
    }
    check_exec(&s->k, ref, &set, s->k.threads > 1 ? 2 : 1, false, &truth);
    if (!s->k.bad)
        check_differences(&s->k, &set, &truth);
    if (s->k.bad) {
        s->cases++, s->failed++;
        report(s, c, ref);
    }
    for (const weft_kernel *r; (r = next_row(s, c->op->op, &table, &at));) {
        if ((only && strcmp(only, r->name) != 0) || fnmatch(s->o->row, r->name, 0))
            continue;
        if (!weft_kernel_fits(r, level_of(s, r)))
            s->skipped++;
        else if (r->ok && !r->ok(&set.args))
            s->declined++;
        else if (lacks(s, &set, r)) {
            run_one(s, &set, r, &truth, &seen);
            if (s->o->each)
                check_count_of(&s->counts, r->op, c->dtype, r->name)->ran++;
        }
    }
    for (int i = 0; i < seen.n; i++)
        check_result_fini(&seen.result[i]);
    check_result_fini(&truth);
    check_set_fini(&set);
}

/* ---- the list of cases ---------------------------------------------------------------------- */

typedef void each_case(session *s, const check_case *c, int64_t *count);

static void count_case(session *s, const check_case *c, int64_t *count) {
    (void)s, (void)c;
    ++*count;
}

static void list_case(session *s, const check_case *c, int64_t *count) {
    buf text;
    buf_init(&text, 4096);
    check_case_print(&text, c);
    fprintf(s->words, "%s\n", text.data);
    buf_fini(&text);
    ++*count;
}

static void name_too_large(session *s, const check_case *c, int64_t *count) {
    (void)count;
    fprintf(s->words, "skipped a case of %s: less than %d GiB of memory is free\n",
            weft_op_table[c->op->op].name, LONG_GIB);
    s->skipped++;
}

static void choose_case(session *s, const check_case *c, int64_t *count) {
    (void)count;
    check_choice_add(&s->choice, c, (uint64_t)s->o->seed);
}

/* --quick: about QUICK_CASES of an op, chosen by the seed. `count` holds how many there are. */
static void check_one(session *s, const check_case *c, int64_t *count) {
    uint64_t stride = (uint64_t)(*count + QUICK_CASES - 1) / QUICK_CASES;
    uint64_t share = check_hash(check_case_seed(c, 0), 1);
    uint64_t order = check_hash(check_case_seed(c, (uint64_t)s->o->seed), 2);
    if (share % s->shards != s->shard || s->k.dead ||
        (s->o->seconds && (int)(order % PASSES) != s->pass))
        return;
    if (s->o->quick && stride > 1 && check_case_seed(c, (uint64_t)s->o->seed) % stride)
        return;
    if ((s->o->quick || s->o->seconds) && clock_seconds() > s->op_until) {
        s->skipped++;
        s->late = true;
        return;
    }
    run_case(s, c, NULL);
}

static bool type_wanted(const session *s, const char *name, size_t n) {
    char text[16];
    snprintf(text, sizeof text, "%.*s", (int)n, name);
    return fnmatch(s->o->dtype, text, 0) == 0;
}

static void cross(session *s, const check_op *op, const check_group *g, each_case *fn,
                  int64_t *count) {
    for (const char *d = g->dtypes; *d;) {
        size_t n = strcspn(d, " ");
        for (const char *const *shape = g->shapes; *shape && type_wanted(s, d, n); shape++)
            for (const char *const *variant = g->variants; *variant; variant++) {
                char text[256];
                check_case c;
                snprintf(text, sizeof text, "%.*s:%s%s%s", (int)n, d, *shape, **variant ? "," : "",
                         *variant);
                if (!check_case_parse(op, text, &c, NULL)) {
                    fprintf(stderr, "%s: bad case '%s'\n", weft_op_table[op->op].name, text);
                    s->failed++;
                    return;
                }
                fn(s, &c, count);
            }
        d += n + (d[n] == ' ');
    }
}

static bool has_memory(void) {
    return (int64_t)sysconf(_SC_AVPHYS_PAGES) * sysconf(_SC_PAGESIZE) > (int64_t)LONG_GIB << 30;
}

static void all_cases(session *s, const check_op *op, each_case *fn, int64_t *count) {
    for (const check_group *g = op->groups; g->dtypes; g++) {
        if (g->only_long && !s->o->all_long)
            continue;
        bool large = g->only_long && fn == check_one && !has_memory();
        cross(s, op, g, large ? name_too_large : fn, count);
    }
}

static int ops_left(const session *s, int from) {
    int n = 0;
    for (int i = from; check_ops[i]; i++)
        n += fnmatch(s->o->op, weft_op_table[check_ops[i]->op].name, 0) == 0;
    return n;
}

/* Four even shares of what is left: most ops need less than one. */
static double op_end(const session *s, int op) {
    double now = clock_seconds(), left = s->until - now;
    int n = ops_left(s, op);
    return now + (n > OP_SHARES ? OP_SHARES * left / n : left);
}

static void run_each(session *s, const check_op *op) {
    int64_t count = 0;
    all_cases(s, op, choose_case, &count);
    check_choice_sort(&s->choice);
    for (int i = 0; i < s->choice.n && !s->k.dead; i++)
        run_case(s, &s->choice.of[i].c, NULL);
    check_choice_fini(&s->choice);
}

static void check_ops_wanted(session *s) {
    for (int i = 0; check_ops[i]; i++) {
        const char *name = weft_op_table[check_ops[i]->op].name;
        if (fnmatch(s->o->op, name, 0))
            continue;
        int64_t count = 0, cases = s->cases, failed = s->failed, declined = s->declined;
        double from = clock_seconds();
        s->op_until = op_end(s, i);
        all_cases(s, check_ops[i], s->o->list ? list_case : count_case, &count);
        if (s->o->list)
            continue;
        if (s->o->each)
            run_each(s, check_ops[i]);
        for (s->pass = 0; !s->o->each && s->pass < (s->o->seconds ? PASSES : 1); s->pass++)
            all_cases(s, check_ops[i], check_one, &count);
        fprintf(s->words, "%-14s %6lld run, %lld failed, %lld declined by ok()%s  %.1f s\n", name,
                (long long)(s->cases - cases), (long long)(s->failed - failed),
                (long long)(s->declined - declined),
                only_reference(check_ops[i]->op) ? ", ref is the only row" : "",
                clock_seconds() - from);
        fflush(s->words);
    }
}

static void name_skipped(const session *s) {
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++)
            if (backend_wanted(s, r, false) && !weft_kernel_fits(r, level_of(s, r)))
                fprintf(s->words, "skipped %s %s/%s: not on this machine\n",
                        weft_op_table[r->op].name, r->backend, r->name);
    if (s->late)
        fprintf(s->words,
                "skipped what was left after %lld seconds, or after an op's share of them\n",
                (long long)(s->o->seconds ? s->o->seconds : QUICK_SECONDS));
    if (strcmp(s->o->op, "*") == 0)
        fprintf(s->words, "collectives need several ranks and are checked with them, not here\n");
}

static int replay(session *s) {
    const char *colon = strchr(s->o->one, ':'), *row;
    char name[32] = "";
    check_case c;
    if (colon && (size_t)(colon - s->o->one) < sizeof name)
        memcpy(name, s->o->one, (size_t)(colon - s->o->one));
    for (int i = 0; check_ops[i]; i++)
        if (!strcmp(weft_op_table[check_ops[i]->op].name, name) &&
            check_case_parse(check_ops[i], colon + 1, &c, &row)) {
            run_case(s, &c, row);
            if (s->cases == 0)
                fprintf(s->words, "no row ran: declined by ok(), or not on this machine\n");
            return 0;
        }
    weft_fail(WEFT_USAGE, "--case: '%s' is no case (OP:DTYPE:KEY=N,...,row=NAME); see --list",
              s->o->one);
    return -1;
}

static bool type_in(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at++)
        if ((at == list || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
            return true;
    return false;
}

static void add_types(const session *s, check_jobs *j, const check_op *op) {
    bool seen[WEFT_DTYPES] = {false};
    for (const check_group *g = op->groups; g->dtypes; g++)
        for (int t = 0; t < WEFT_DTYPES; t++)
            if (!seen[t] && type_in(g->dtypes, weft_dtype_name(t)) &&
                type_wanted(s, weft_dtype_name(t), 15)) {
                seen[t] = true;
                check_jobs_add_type(j, op->op, t);
            }
}

/* A share for each process: large ops are several. */
static void run_apart(session *s) {
    check_jobs j = {.jobs = (int)s->o->jobs,
                    .timeout = (double)s->o->timeout,
                    .until = s->o->seconds ? clock_seconds() + (double)s->o->seconds : 0,
                    .seed = s->o->seed,
                    .threads = s->o->threads,
                    .backend = s->o->backend,
                    .row = s->o->row,
                    .each = s->o->each,
                    .all_long = s->o->all_long,
                    .quick = s->o->quick,
                    .words = s->words};
    for (int i = 0; check_ops[i]; i++) {
        int64_t count = 0;
        int table = 0, at = 0;
        if (fnmatch(s->o->op, weft_op_table[check_ops[i]->op].name, 0) ||
            !next_row(s, check_ops[i]->op, &table, &at))
            continue;
        all_cases(s, check_ops[i], count_case, &count);
        if (s->o->each)
            add_types(s, &j, check_ops[i]);
        else
            check_jobs_add(&j, check_ops[i]->op, count);
    }
    check_jobs_run(&j);
    s->cases = j.cases;
    s->failed = j.failed;
    s->skipped = j.skipped;
    s->counts = j.counts;
}

static bool parse_shard(session *s) {
    int i, n;
    if (sscanf(s->o->shard, "%d/%d", &i, &n) != 2 || n < 1 || i < 0 || i >= n)
        return false;
    s->shard = (uint64_t)i;
    s->shards = (uint64_t)n;
    return true;
}

static int run_checks(session *s) {
    s->until = clock_seconds() + (s->o->seconds ? (double)s->o->seconds : QUICK_SECONDS);
    if (!parse_shard(s)) {
        fprintf(stderr, "checkkernels: error: --shard: '%s' is not I/N\n", s->o->shard);
        return 2;
    }
    if (s->o->jobs && !s->o->one && !s->o->list) {
        run_apart(s);
    } else if (s->o->one ? replay(s) : (check_ops_wanted(s), 0)) {
        fprintf(stderr, "checkkernels: error: %s\n", err_message());
        return 2;
    }
    if (s->o->list)
        return 0;
    if (!s->o->one)
        name_skipped(s);
    if (s->o->each && !s->o->one && !s->o->json &&
        check_counts_print(&s->counts, s->o->each, s->words))
        s->failed++;
    if (s->o->json)
        printf("{\"cases\":%lld,\"failed\":%lld,\"skipped\":%lld}\n", (long long)s->cases,
               (long long)s->failed, (long long)s->skipped);
    if (s->o->json && s->o->each)
        check_counts_write(&s->counts, stdout);
    if (!s->o->json)
        printf("%lld cases, %lld failed, %lld skipped\n", (long long)s->cases, (long long)s->failed,
               (long long)s->skipped);
    return s->k.dead ? CHECK_DEAD : s->failed ? 1 : 0;
}

static int print_help(void) {
    buf text;
    buf_init(&text, 1 << 16);
    args_help(&text, specs, SPECS, 100);
    printf("checkkernels: every kernel row against the reference\n\n%s", text.data);
    buf_fini(&text);
    return 0;
}

/* Asked for by name it must be there. */
static weft_status open_gpu(session *s, check_backend *gpu) {
    gpu->name = "cuda";
    weft_status st = check_backends_open(gpu, 1, s->k.threads);
    if (st == WEFT_OK || strcmp(s->o->backend, "*") != 0)
        return st;
    fprintf(s->words, "skipped backend cuda: %s\n", err_message());
    *gpu = (check_backend){.name = NULL};
    return WEFT_OK;
}

/* --backend cuda, and no other. */
static bool gpu_only(const session *s) {
    return fnmatch(s->o->backend, "cuda", 0) == 0 && fnmatch(s->o->backend, "cpu", 0) != 0;
}

int main(int argc, char **argv) {
    static options o;
    static check_backend backends[5] = {{.name = "ref"}, {.name = "cpu"}, {.name = "emu"}};
    int positional = 0, rc;
    session s = {.o = &o, .words = stdout, .k = {.backends = backends}};
    weft_status st = args_parse(specs, SPECS, argc - 1, argv + 1, &o, NULL, 0, &positional);
    if (st == WEFT_OK && o.help)
        return print_help();
    if (st == WEFT_OK && o.bench && o.list)
        return check_list_gpu(o.op);
    if (st == WEFT_OK && o.claims)
        return check_print_claims();
    s.words = o.json ? stderr : stdout;
    s.k.threads = (int)o.threads;
    if (st == WEFT_OK)
        st = check_backends_open(backends, 3, (int)o.threads);
    if (st == WEFT_OK && fnmatch(o.backend, "cuda", 0) == 0)
        st = open_gpu(&s, &backends[3]);
    if (st != WEFT_OK) {
        fprintf(stderr, "checkkernels: error: %s\n", err_message());
        return err_exit_code(st);
    }
    check_profile profile = {o.op, o.one, o.blocks, o.json};
    rc = o.self_test               ? check_self_test(&s.k, (uint64_t)o.seed)
         : o.profile               ? check_profile_run(&s.k, &profile)
         : o.bench && gpu_only(&s) ? check_bench_gpu(&s.k, o.op, o.row, o.one, o.json)
         : o.bench                 ? check_bench(&s.k, o.op, o.backend, o.json)
                                   : run_checks(&s);
    check_backends_close(backends);
    return rc;
}
