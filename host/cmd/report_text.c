/* SPDX-License-Identifier: Apache-2.0
 * A report on the terminal: a few lines a run, its losses in braille, and what differs. */
#include "host/base/utf8.h"
#include "host/cmd/report.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 10, LEFT = 10, MOST_COLUMNS = 110 };

/* Of a cell of two by four dots. */
static const unsigned char dot[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};

typedef struct {
    unsigned char cell[ROWS][MOST_COLUMNS]; /* dots */
    bool cross[ROWS][MOST_COLUMNS];         /* a validation loss is there */
    int columns;
    double low, high;
    int64_t from, to;
} plot;

/* ---- Numbers for people ---- */

static void short_number(char out[24], double x) {
    static const char unit[] = " kMGTP";
    int u = 0;
    if (!isfinite(x)) {
        snprintf(out, 24, "-");
        return;
    }
    while (fabs(x) >= 1000 && u < 5) {
        x /= 1000;
        u++;
    }
    snprintf(out, 24, "%.*f%.*s", u && fabs(x) < 100 ? 1 : 0, x, u > 0, unit + u);
}

static void duration(char out[24], double s) {
    if (!isfinite(s))
        snprintf(out, 24, "-");
    else if (s < 60)
        snprintf(out, 24, "%.1f s", s);
    else if (s < 3600)
        snprintf(out, 24, "%d:%02d min", (int)s / 60, (int)s % 60);
    else
        snprintf(out, 24, "%d:%02d h", (int)(s / 3600), (int)(s / 60) % 60);
}

/* No control characters: names and options come from files. At most `most` characters. */
static void plain(buf *out, const char *s, int most) {
    const char *end = s + strlen(s);
    for (uint32_t cp; s < end && most > 0; most--) {
        int k = utf8_next(s, end, &cp);
        bool shown = k > 0 && cp >= 0x20 && !(cp >= 0x7f && cp < 0xa0) &&
                     !(cp >= 0x2028 && cp <= 0x202e) && !(cp >= 0x2066 && cp <= 0x2069);
        if (shown)
            buf_add(out, s, (size_t)k);
        else
            buf_putc(out, '?');
        s += k > 0 ? k : 1;
    }
    if (s < end)
        buf_puts(out, "~");
}

/* ---- The plot ---- */

static void set_dot(plot *p, int x, int y) {
    p->cell[y / 4][x / 2] |= dot[x % 2][y % 4];
}

static int height_of(const plot *p, double v) {
    double range = p->high - p->low, up = range > 0 ? (v - p->low) / range : 0.5;
    int y = (int)lround((1 - up) * (4 * ROWS - 1));
    return y < 0 ? 0 : y >= 4 * ROWS ? 4 * ROWS - 1 : y;
}

static int column_of(const plot *p, int64_t step) {
    double range = (double)(p->to - p->from);
    return range > 0 ? (int)((double)(step - p->from) / range * (2 * p->columns - 1)) : 0;
}

static void stretch(plot *p, const curve_point *c, int n) {
    for (int i = 0; i < n; i++)
        if (isfinite(c[i].mean)) {
            p->low = fmin(p->low, c[i].mean);
            p->high = fmax(p->high, c[i].mean);
        }
}

/* A straight line from (x0, y0), which is there, to (x, y): every column has the dots between its
 * neighbour's height and its own. */
static void draw_to(plot *p, int x0, int y0, int x, int y) {
    for (int c = x0 + (x > x0), before = y0; c <= x; c++) {
        int here = x > x0 ? y0 + (int)lround((double)(y - y0) * (c - x0) / (x - x0)) : y;
        set_dot(p, c, here);
        for (int at = before + (before < here) - (before > here); at != here;
             at += at < here ? 1 : -1)
            set_dot(p, c, at);
        before = here;
    }
}

static void draw_line(plot *p, const curve_point *c, int n) {
    for (int i = 0, x0 = -1, y0 = 0; i < n; i++) {
        bool there = isfinite(c[i].mean) != 0;
        int x = column_of(p, c[i].from), y = there ? height_of(p, c[i].mean) : 0;
        if (there && x0 < 0)
            set_dot(p, x, y);
        else if (there)
            draw_to(p, x0, y0, x, y);
        x0 = there ? x : -1;
        y0 = y;
    }
}

static void draw_crosses(plot *p, const curve_point *c, int n) {
    for (int i = 0; i < n; i++)
        if (isfinite(c[i].mean))
            p->cross[height_of(p, c[i].mean) / 4][column_of(p, c[i].from) / 2] = true;
}

static void print_plot(const plot *p, buf *out) {
    for (int row = 0; row < ROWS; row++) {
        if (row == 0 || row == ROWS - 1)
            buf_printf(out, "%*.4g ", LEFT - 2, row ? p->low : p->high);
        else
            buf_printf(out, "%*s", LEFT - 1, "");
        buf_puts(out, "\xe2\x94\x82"); /* a vertical line */
        for (int c = 0; c < p->columns; c++) {
            char text[4];
            uint32_t cp = p->cross[row][c] ? 0xd7 : 0x2800u + p->cell[row][c];
            buf_add(out, text, (size_t)utf8_put(text, cp == 0x2800 ? ' ' : cp));
        }
        while (out->len > 0 && out->data[out->len - 1] == ' ')
            out->data[--out->len] = 0;
        buf_putc(out, '\n');
    }
    buf_printf(out, "%*s\xe2\x94\x94", LEFT - 1, "");
    for (int c = 0; c < p->columns; c++)
        buf_puts(out, "\xe2\x94\x80");
    char last[24];
    int n = snprintf(last, sizeof last, "%lld", (long long)p->to);
    buf_printf(out, "\n%*s%-*lld%s\n", LEFT, "", p->columns - n, (long long)p->from, last);
}

static void plot_losses(const run_log *l, int width, buf *out) {
    curve_point train[2 * MOST_COLUMNS], val[2 * MOST_COLUMNS];
    plot p = {.low = INFINITY, .high = -INFINITY};
    p.columns = width - LEFT < MOST_COLUMNS ? width - LEFT : MOST_COLUMNS;
    p.from = l->step[0].step;
    p.to = l->step[l->nstep - 1].step;
    int nt = curve_of(&l->step[0].step, &l->step[0].loss, sizeof *l->step, l->nstep, 2 * p.columns,
                      train);
    int nv = curve_of(&l->step[0].step, &l->step[0].val_loss, sizeof *l->step, l->nstep,
                      2 * p.columns, val);
    stretch(&p, train, nt);
    stretch(&p, val, nv);
    if (p.low > p.high)
        return;
    draw_line(&p, train, nt);
    draw_crosses(&p, val, nv);
    print_plot(&p, out);
}

/* ---- A run ---- */

static void facts(const run_log *l, buf *out) {
    char tokens[24], time[24], speed[24];
    report_summary s = report_summarize(l);
    short_number(tokens, s.tokens);
    duration(time, s.seconds);
    short_number(speed, s.speed);
    buf_printf(out, "  steps %lld to %lld, %s tokens, %s", (long long)l->step[0].step,
               (long long)l->step[l->nstep - 1].step, tokens, time);
    if (isfinite(s.speed))
        buf_printf(out, ", %s tokens/s", speed);
    if (isfinite(s.ceiling))
        buf_printf(out, " (%.0f %% of the ceiling)", s.ceiling);
    buf_puts(out, "\n  loss ");
    buf_printf(out, "%.4f at first, %.4f over the last 5 %%", s.first, s.last);
    if (s.bad)
        buf_printf(out, ", not finite %lld times", (long long)s.bad);
    if (isfinite(s.best_val))
        buf_printf(out, "\n  validation (\xc3\x97) best %.4f at step %lld, last %.4f", s.best_val,
                   (long long)s.best_step, s.last_val);
    if (isfinite(s.worst_norm))
        buf_printf(out, "\n  gradient norm %.3g, largest %.3g at step %lld", s.median_norm,
                   s.worst_norm, (long long)s.worst_step);
    buf_puts(out, "\n\n");
}

static void last_sample(const run_log *l, int width, buf *out) {
    if (!l->nsample)
        return;
    const run_sample *s = &l->sample[l->nsample - 1];
    buf_printf(out, "\n  at step %lld: ", (long long)s->step);
    plain(out, s->prompt, 24);
    buf_puts(out, " | ");
    plain(out, s->text, width > 60 ? width - 50 : 10);
    buf_putc(out, '\n');
}

static void differences(const report *r, int width, buf *out) {
    arena a = {0};
    int n, shown = 0, cell = (width - 30) / r->n;
    cell = cell < 6 ? 6 : cell > 24 ? 24 : cell;
    const char **keys = report_keys(r, &a, &n);
    for (int i = 0; i < n; i++) {
        if (!report_differs(r, keys[i]))
            continue;
        buf_puts(out, shown++ ? "" : "\nwhat differs\n");
        buf_puts(out, "  ");
        size_t line = out->len;
        plain(out, keys[i], 27);
        for (int k = 0; k < r->n; k++) {
            const char *value = report_option(&r->run[k], keys[i]);
            do
                buf_putc(out, ' ');
            while (out->len - line < 28 + (size_t)(k * cell));
            plain(out, value ? value : "-", cell - 2);
        }
        buf_putc(out, '\n');
    }
    arena_fini(&a);
}

void report_text(const report *r, int width, buf *out) {
    for (int i = 0; i < r->n; i++) {
        buf_puts(out, i ? "\n" : "");
        plain(out, r->run[i].name, width - 2);
        buf_putc(out, '\n');
        facts(&r->run[i], out);
        plot_losses(&r->run[i], width, out);
        last_sample(&r->run[i], width, out);
    }
    if (r->n > 1)
        differences(r, width, out);
}
