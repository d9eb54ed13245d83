/* SPDX-License-Identifier: Apache-2.0
 * `weft report`: training runs side by side, as one HTML page or on the terminal. */
#include "host/cmd/report.h"
#include "host/base/file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *out;
    bool text;
} report_args;

#define AT(member) offsetof(report_args, member)
static const arg_spec specs[] = {
    {"output", "o", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "the page (default: report.html); - is standard output", AT(out)},
    {"text", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "a summary on the terminal in place of the page",
     AT(text)},
};

/* ---- What both forms say ---- */

static void summarize_losses(const run_log *l, report_summary *s) {
    double sum = 0, n = 0;
    s->first = s->last = s->best_val = s->last_val = NAN;
    for (int64_t i = 0; i < l->nstep; i++) {
        const run_step *t = &l->step[i];
        s->tokens = isfinite(t->tokens) ? t->tokens : s->tokens;
        s->bad += isinf(t->loss) != 0;
        s->first = isnan(s->first) && isfinite(t->loss) ? t->loss : s->first;
        if (isfinite(t->loss) && i >= l->nstep - (l->nstep + 19) / 20) {
            sum += t->loss;
            n++;
        }
        s->last_val = isfinite(t->val_loss) ? t->val_loss : s->last_val;
        if (isfinite(t->val_loss) && !(t->val_loss >= s->best_val)) {
            s->best_val = t->val_loss;
            s->best_step = t->step;
        }
    }
    s->last = n > 0 ? sum / n : (double)NAN;
}

static void summarize_norms(const run_log *l, report_summary *s) {
    s->worst_norm = NAN;
    for (int64_t i = 0; i < l->nstep; i++)
        if (isfinite(l->step[i].grad_norm) && !(l->step[i].grad_norm <= s->worst_norm)) {
            s->worst_norm = l->step[i].grad_norm;
            s->worst_step = l->step[i].step;
        }
    s->median_norm = curve_median(&l->step[0].grad_norm, sizeof *l->step, l->nstep);
}

report_summary report_summarize(const run_log *l) {
    report_summary s = {.tokens = NAN, .seconds = NAN, .speed = NAN, .ceiling = NAN};
    summarize_losses(l, &s);
    summarize_norms(l, &s);
    for (int64_t i = 0; i < l->ntiming; i++)
        if (isfinite(l->timing[i].seconds))
            s.seconds = (isnan(s.seconds) ? 0 : s.seconds) + l->timing[i].seconds;
    if (l->ntiming) {
        s.speed = curve_median(&l->timing[0].tokens_per_s, sizeof *l->timing, l->ntiming);
        s.ceiling = curve_median(&l->timing[0].pct_ceiling, sizeof *l->timing, l->ntiming);
    }
    return s;
}

const char *report_option(const run_log *l, const char *key) {
    for (int64_t i = 0; i < l->noption; i++)
        if (strcmp(l->option[i].key, key) == 0)
            return l->option[i].value;
    return NULL;
}

static bool among(const char *const *keys, int n, const char *key) {
    for (int i = 0; i < n; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

const char **report_keys(const report *r, arena *a, int *n) {
    int64_t most = 0;
    for (int i = 0; i < r->n; i++)
        most += r->run[i].noption;
    const char **keys = ARENA_NEW(a, const char *, most + 1);
    *n = 0;
    for (int i = 0; i < r->n; i++)
        for (int64_t k = 0; k < r->run[i].noption; k++)
            if (i == 0 || !among(keys, *n, r->run[i].option[k].key))
                keys[(*n)++] = r->run[i].option[k].key;
    return keys;
}

bool report_differs(const report *r, const char *key) {
    const char *first = report_option(&r->run[0], key);
    for (int i = 1; i < r->n; i++) {
        const char *other = report_option(&r->run[i], key);
        if (!first != !other || (first && strcmp(first, other) != 0))
            return true;
    }
    return false;
}

/* ---- The command ---- */

static bool same_name(const report *r, int i) {
    for (int k = 0; k < r->n; k++)
        if (k != i && strcmp(r->run[k].name, r->run[i].name) == 0)
            return true;
    return false;
}

static weft_status read_runs(report *r, const char *const *path, int n) {
    bool twice[REPORT_MAX_RUNS];
    for (int i = 0; i < n; i++) {
        WEFT_TRY(run_log_read(path[i], &r->a, &r->run[i]));
        r->n++;
        for (int k = 0; k < r->run[i].nnote; k++)
            cmd_warn("%s: %s", path[i], r->run[i].note[k]);
    }
    for (int i = 0; i < n; i++)
        twice[i] = same_name(r, i);
    for (int i = 0; i < n; i++)
        r->run[i].name = twice[i] ? path[i] : r->run[i].name;
    return WEFT_OK;
}

static weft_status write_page(const report *r, const char *path) {
    char size[CMD_SIZE_TEXT];
    buf b;
    buf_init(&b, 1 << 30);
    report_html(r, &b);
    weft_status st = b.failed ? weft_fail(WEFT_NO_MEMORY, "%s: the page is too large", path)
                     : strcmp(path, "-") == 0 ? cmd_write(b.data, b.len)
                                              : file_write_atomic(path, b.data, b.len);
    cmd_size(size, (double)b.len);
    buf_clear(&b);
    if (st == WEFT_OK && strcmp(path, "-") != 0) {
        buf_printf(&b, "%s: %d run%s, %s\n", path, r->n, r->n == 1 ? "" : "s", size);
        st = cmd_flush(&b);
    }
    buf_fini(&b);
    return st;
}

static weft_status write_text(const report *r) {
    buf b;
    buf_init(&b, 1 << 24);
    report_text(r, cmd_width(), &b);
    weft_status st = cmd_flush(&b);
    buf_fini(&b);
    return st;
}

static weft_status work(int argc, char **argv, report *r) {
    report_args a = {.text = false};
    const char *path[REPORT_MAX_RUNS];
    int n;
    WEFT_TRY(args_parse(specs, CMD_COUNT(specs), argc, argv, &a, path, REPORT_MAX_RUNS, &n));
    if (n == 0)
        return weft_fail(WEFT_USAGE, "RUN: missing; usage: weft report %s", cmd_report.usage);
    if (a.text && a.out)
        return weft_fail(WEFT_USAGE, "-o and --text: give one");
    WEFT_TRY(read_runs(r, path, n));
    return a.text ? write_text(r) : write_page(r, a.out ? a.out : "report.html");
}

static int run(int argc, char **argv) {
    report *r = mem_alloc(sizeof *r);
    weft_status st = work(argc, argv, r);
    arena_fini(&r->a);
    mem_free(r);
    return cmd_fail(st);
}

const cmd_row cmd_report = {
    .name = "report",
    .usage = "RUN... [-o report.html | --text]",
    .summary = "training runs side by side, as a page or on the terminal",
    .notes = "RUN is a training run's folder, or a metrics file alone. The page needs nothing "
             "else and no network: losses, learning rate, gradient norm and speed of up to 16 "
             "runs over one another, what they wrote while they learned, and the options that "
             "differ. Long runs are thinned for drawing; their extremes stay.\n\n"
             "  weft report runs/a runs/b -o report.html\n"
             "  weft report runs/a --text",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
