/* SPDX-License-Identifier: Apache-2.0
 * Reading a run back. Its lines are rows like those of an evaluation file; only the last one may be
 * broken, since the run may still be writing or have been killed. */
#include "host/train/runlog.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/model/eval/rows.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 1 << 30, OPTION_MAX = 1 << 20, MAX_OPTIONS = 1000 };

static void note(run_log *l, arena *a, const char *file, const char *what) {
    if (l->nnote < RUN_MAX_NOTES)
        l->note[l->nnote++] = arena_printf(a, "%s: %s", file, what);
}

/* ---- Lines ---- */

typedef weft_status line_fn(run_log *l, const row *r);

static weft_status number(const row *r, const char *key, double *out) {
    const row_field *f = row_find(r, key);
    json j;
    *out = NAN;
    if (!f)
        return WEFT_OK;
    if (f->kind == JSON_NULL) {
        *out = INFINITY;
        return WEFT_OK;
    }
    if (f->kind != JSON_NUMBER)
        return row_fail(r, "\"%s\" is not a number", key);
    json_init(&j, key, f->raw.s, f->raw.n, r->a);
    *out = json_double(&j);
    return json_done(&j) == WEFT_OK ? WEFT_OK : row_fail(r, "\"%s\" is out of range", key);
}

static weft_status step_of(const row *r, int64_t before, int64_t *out) {
    const row_field *f = row_find(r, "step");
    json j;
    if (!f)
        return row_fail(r, "has no \"step\"");
    json_init(&j, "step", f->raw.s, f->raw.n, r->a);
    *out = json_int(&j, 0, INT64_MAX);
    if (json_done(&j) != WEFT_OK)
        return row_fail(r, "\"step\" is not a whole number");
    if (*out < before)
        return row_fail(r, "step %lld comes behind step %lld", (long long)*out, (long long)before);
    return WEFT_OK;
}

/* The array grows by doubling; what it outgrew stays in the arena. */
static void *grown(arena *a, void *have, int64_t n, size_t size) {
    if (n < 64 ? n != 0 : (n & (n - 1)) != 0)
        return have;
    void *more = arena_alloc(a, size * (size_t)(n < 64 ? 64 : 2 * n));
    if (n)
        memcpy(more, have, size * (size_t)n);
    return more;
}

static weft_status step_line(run_log *l, const row *r) {
    run_step s;
    WEFT_TRY(step_of(r, l->nstep ? l->step[l->nstep - 1].step : 0, &s.step));
    WEFT_TRY(number(r, "loss", &s.loss));
    WEFT_TRY(number(r, "lr", &s.lr));
    WEFT_TRY(number(r, "grad_norm", &s.grad_norm));
    WEFT_TRY(number(r, "tokens", &s.tokens));
    WEFT_TRY(number(r, "val_loss", &s.val_loss));
    l->step = grown(r->a, l->step, l->nstep, sizeof s);
    l->step[l->nstep++] = s;
    return WEFT_OK;
}

static weft_status timing_line(run_log *l, const row *r) {
    run_timing t;
    WEFT_TRY(step_of(r, l->ntiming ? l->timing[l->ntiming - 1].step : 0, &t.step));
    WEFT_TRY(number(r, "seconds", &t.seconds));
    WEFT_TRY(number(r, "tokens_per_s", &t.tokens_per_s));
    WEFT_TRY(number(r, "pct_ceiling", &t.pct_ceiling));
    l->timing = grown(r->a, l->timing, l->ntiming, sizeof t);
    l->timing[l->ntiming++] = t;
    return WEFT_OK;
}

static weft_status sample_line(run_log *l, const row *r) {
    run_sample s;
    text prompt = {"", 0}, body;
    WEFT_TRY(step_of(r, l->nsample ? l->sample[l->nsample - 1].step : 0, &s.step));
    if (row_find(r, "prompt"))
        WEFT_TRY(row_text(r, "prompt", &prompt));
    WEFT_TRY(row_text(r, "text", &body));
    s.prompt = json_dup(r->a, prompt);
    s.text = json_dup(r->a, body);
    l->sample = grown(r->a, l->sample, l->nsample, sizeof s);
    l->sample[l->nsample++] = s;
    return WEFT_OK;
}

static weft_status read_lines(run_log *l, arena *a, const char *path, const char *file,
                              line_fn *line) {
    row_reader r = {.file = path, .a = a};
    size_t n;
    WEFT_TRY(file_read(path, FILE_MAX, a, &r.at, &n));
    r.end = r.at + n;
    for (bool more = true; more;) {
        row one;
        weft_status st = rows_next(&r, &one, &more);
        if (st == WEFT_OK && more)
            st = line(l, &one);
        if (st != WEFT_OK && r.at == r.end && n && r.end[-1] != '\n') {
            note(l, a, file, "the last line is cut off and left out");
            return WEFT_OK;
        }
        WEFT_TRY(st);
    }
    return WEFT_OK;
}

/* ---- Options ---- */

static void add_option(run_log *l, arena *a, const char *key, json_kind kind, json_str raw) {
    l->option = grown(a, l->option, l->noption, sizeof *l->option);
    if (kind == JSON_STRING && raw.n >= 2)
        raw = (json_str){raw.s + 1, raw.n - 2};
    char *value = json_dup(a, raw), *to = value;
    for (const char *from = value; *from; from++) /* an array may be laid out over lines */
        if (!strchr("\n\r\t", *from) && !(*from == ' ' && from > value && from[-1] == ' '))
            *to++ = *from;
    *to = 0;
    l->option[l->noption++] = (run_option){key, value};
}

static void flatten(run_log *l, arena *a, json *j, const char *prefix) {
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        const char *name = arena_printf(a, "%s.%.*s", prefix, key.n > 200 ? 200 : (int)key.n,
                                        key.s);
        json_kind kind = json_peek(j);
        if (kind == JSON_OBJECT)
            flatten(l, a, j, name);
        else if (l->noption < MAX_OPTIONS)
            add_option(l, a, name, kind, json_raw(j));
    }
}

/* The trainer's train.json is a checkpoint's state, of which "options" is a part. */
static json_str options_in(arena *a, const char *path, json_str all) {
    json j;
    json_str part = all;
    json_init(&j, path, all.s, all.n, a);
    if (json_peek(&j) != JSON_OBJECT)
        return all;
    json_object(&j);
    for (json_str key; json_key(&j, &key);)
        if (json_is(key, "options") && json_peek(&j) == JSON_OBJECT)
            part = json_raw(&j);
    return json_done(&j) == WEFT_OK ? part : all;
}

static weft_status read_options(run_log *l, arena *a, const char *path, const char *file,
                                const char *prefix) {
    const char *data;
    size_t n;
    json j;
    if (!file_exists(path)) {
        note(l, a, file, "not there");
        return WEFT_OK;
    }
    WEFT_TRY(file_read(path, OPTION_MAX, a, &data, &n));
    json_str part = options_in(a, path, (json_str){data, n});
    json_init(&j, path, part.s, part.n, a);
    flatten(l, a, &j, prefix);
    return json_done(&j);
}

/* ---- The folder ---- */

static const char *last_part(arena *a, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    const char *from = path + n;
    while (from > path && from[-1] != '/')
        from--;
    return arena_copy(a, from, (size_t)(path + n - from));
}

static weft_status read_optional(run_log *l, arena *a, const char *file, line_fn *line) {
    const char *path = file_join(a, l->path, file);
    if (!file_exists(path)) {
        note(l, a, file, "not there");
        return WEFT_OK;
    }
    return read_lines(l, a, path, file, line);
}

weft_status run_log_read(const char *path, arena *a, run_log *out) {
    *out = (run_log){.path = path, .name = last_part(a, path)};
    bool folder = file_is_dir(path);
    const char *metrics = folder ? file_join(a, path, "metrics.jsonl") : path;
    WEFT_TRY(read_lines(out, a, metrics, "metrics.jsonl", step_line));
    if (out->nstep == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: has no whole line", metrics);
    if (!folder)
        return WEFT_OK;
    WEFT_TRY(read_optional(out, a, "timing.jsonl", timing_line));
    WEFT_TRY(read_optional(out, a, "samples.jsonl", sample_line));
    WEFT_TRY(read_options(out, a, file_join(a, path, "config.json"), "config.json", "model"));
    return read_options(out, a, file_join(a, path, "train.json"), "train.json", "train");
}

/* ---- Curves ---- */

static const void *at(const void *base, size_t stride, int64_t i) {
    return (const char *)base + stride * (size_t)i;
}

static double value_at(const double *y, size_t stride, int64_t i) {
    return *(const double *)at(y, stride, i);
}

static void take(curve_point *p, int64_t step, double v) {
    p->to = step;
    if (!isfinite(v)) {
        p->bad++;
        return;
    }
    p->min = isnan(p->min) || v < p->min ? v : p->min;
    p->max = isnan(p->max) || v > p->max ? v : p->max;
}

int curve_of(const int64_t *x, const double *y, size_t stride, int64_t n, int most,
             curve_point *out) {
    int64_t there = 0, seen = 0, finite = 0;
    int points = 0;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        there += !isnan(value_at(y, stride, i));
    for (int64_t i = 0; i < n; i++) {
        double v = value_at(y, stride, i);
        int64_t step = *(const int64_t *)at(x, stride, i);
        if (isnan(v))
            continue;
        int piece = there <= most ? (int)seen : (int)(seen * most / there);
        seen++;
        if (piece == points) {
            out[points++] = (curve_point){step, step, NAN, NAN, NAN, 0};
            sum = 0;
            finite = 0;
        }
        curve_point *p = &out[points - 1];
        take(p, step, v);
        sum += isfinite(v) ? v : 0;
        finite += isfinite(v);
        p->mean = finite ? sum / (double)finite : NAN;
    }
    return points;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double curve_median(const double *y, size_t stride, int64_t n) {
    double *v = mem_alloc(sizeof *v * (size_t)(n ? n : 1)), median = NAN;
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(value_at(y, stride, i)))
            v[m++] = value_at(y, stride, i);
    qsort(v, (size_t)m, sizeof *v, by_value);
    if (m)
        median = (v[m / 2] + v[(m - 1) / 2]) / 2;
    mem_free(v);
    return median;
}
