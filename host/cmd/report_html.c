/* SPDX-License-Identifier: Apache-2.0
 * A report as one page: tables and sample texts written here, charts drawn by report.js from JSON
 * in the page. Whatever comes from a run is text: escaped in the markup, and with every '<' as
 * \u003c in the JSON. The page's policy forbids it any network. */
#include "host/base/utf8.h"
#include "host/cmd/report.h"
#include <math.h>
#include <string.h>

enum { POINTS = 800, MOST_SAMPLES = 100, MOST_TEXT = 8000 };

/* The files as they are; the rule of this object in the Makefile names them. */
__asm__(".section .rodata\n"
        "report_css: .incbin \"host/cmd/report.css\"\n.byte 0\n"
        "report_js: .incbin \"host/cmd/report.js\"\n.byte 0\n"
        ".previous\n");
extern const char report_css[] __attribute__((visibility("hidden")));
extern const char report_js[] __attribute__((visibility("hidden")));

/* ---- Text ---- */

static void escaped(buf *out, const char *s, size_t most) {
    const char *end = s + strlen(s);
    uint32_t cp;
    for (size_t n = 0; s < end; n++) {
        int k = utf8_next(s, end, &cp);
        if (n == most) {
            buf_puts(out, "\xe2\x80\xa6");
            return;
        }
        const char *name = cp == '&'    ? "&amp;"
                           : cp == '<'  ? "&lt;"
                           : cp == '>'  ? "&gt;"
                           : cp == '"'  ? "&quot;"
                           : cp == '\'' ? "&#39;"
                                        : NULL;
        bool control = (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0) ||
                       (cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
        if (k == 0 || control)
            buf_puts(out, "\xef\xbf\xbd");
        else if (name)
            buf_puts(out, name);
        else
            buf_add(out, s, (size_t)k);
        s += k > 0 ? k : 1;
    }
}

/* ---- The data ---- */

static void json_numbers(buf *out, const char *key, const curve_point *c, int n, size_t member) {
    buf_printf(out, ",\"%s\":[", key);
    for (int i = 0; i < n; i++) {
        buf_puts(out, i ? "," : "");
        buf_json_float(out, (float)*(const double *)((const char *)&c[i] + member));
    }
    buf_putc(out, ']');
}

static void json_steps(buf *out, const char *key, const curve_point *c, int n, size_t member) {
    buf_printf(out, ",\"%s\":[", key);
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s%lld", i ? "," : "",
                   (long long)*(const int64_t *)((const char *)&c[i] + member));
    buf_putc(out, ']');
}

static void json_curve(buf *out, const char *key, const int64_t *x, const double *y, size_t stride,
                       int64_t rows) {
    curve_point c[POINTS];
    int n = rows ? curve_of(x, y, stride, rows, POINTS, c) : 0;
    bool thin = false, bad = false;
    for (int i = 0; i < n; i++) {
        thin |= c[i].to > c[i].from;
        bad |= c[i].bad > 0;
    }
    buf_printf(out, ",\"%s\":{\"thin\":%s", key, thin ? "true" : "false");
    json_steps(out, "x", c, n, offsetof(curve_point, from));
    json_numbers(out, "y", c, n, offsetof(curve_point, mean));
    if (thin) { /* otherwise each point is one value */
        json_steps(out, "end", c, n, offsetof(curve_point, to));
        json_numbers(out, "low", c, n, offsetof(curve_point, min));
        json_numbers(out, "high", c, n, offsetof(curve_point, max));
    }
    if (bad)
        json_steps(out, "bad", c, n, offsetof(curve_point, bad));
    buf_putc(out, '}');
}

static void json_run(buf *out, const run_log *l) {
    const run_step *s = l->step;
    const run_timing *t = l->timing;
    static const run_timing none;
    t = t ? t : &none;
    buf_puts(out, "{\"name\":");
    buf_json_string(out, l->name, strlen(l->name));
    json_curve(out, "loss", &s->step, &s->loss, sizeof *s, l->nstep);
    json_curve(out, "val", &s->step, &s->val_loss, sizeof *s, l->nstep);
    json_curve(out, "lr", &s->step, &s->lr, sizeof *s, l->nstep);
    json_curve(out, "norm", &s->step, &s->grad_norm, sizeof *s, l->nstep);
    json_curve(out, "speed", &t->step, &t->tokens_per_s, sizeof *t, l->ntiming);
    json_curve(out, "ceiling", &t->step, &t->pct_ceiling, sizeof *t, l->ntiming);
    buf_putc(out, '}');
}

static void data(const report *r, buf *out) {
    buf json;
    buf_init(&json, out->max);
    buf_puts(&json, "{\"runs\":[");
    for (int i = 0; i < r->n; i++) {
        buf_puts(&json, i ? ",\n" : "");
        json_run(&json, &r->run[i]);
    }
    buf_puts(&json, "]}");
    buf_puts(out, "<script type=\"application/json\" id=\"data\">");
    for (size_t i = 0; i < json.len; i++) {
        if (json.data[i] == '<')
            buf_puts(out, "\\u003c");
        else
            buf_putc(out, json.data[i]);
    }
    buf_puts(out, "</script>\n");
    out->failed |= json.failed;
    buf_fini(&json);
}

/* ---- Tables ---- */

static void controls(const report *r, buf *out) {
    buf_puts(out, "<div class=\"bar\">");
    for (int i = 0; i < r->n; i++) {
        buf_printf(out,
                   "<label><input type=\"checkbox\" checked data-run=\"%d\"><span class=\"key\" "
                   "style=\"background:var(--c%d)\"></span>",
                   i, i % 8);
        escaped(out, r->run[i].name, 200);
        buf_puts(out, "</label>");
    }
    buf_puts(out, "<label><input type=\"checkbox\" id=\"log\">logarithmic</label>"
                  "<label>smoothing <input type=\"range\" id=\"smooth\" min=\"0\" max=\"0.99\" "
                  "step=\"0.01\" value=\"0\"><span id=\"smoothness\">0</span></label>"
                  "<button id=\"reset\" hidden>all steps</button>"
                  "<span class=\"dim\">drag over a chart to zoom</span></div>\n");
}

static void cell(buf *out, const char *fmt, double x) {
    buf_puts(out, "<td class=\"n\">");
    if (isfinite(x))
        buf_printf(out, fmt, x); /* NOLINT(clang-diagnostic-format-nonliteral) */
    else
        buf_puts(out, "-");
    buf_puts(out, "</td>");
}

static void summary_row(const run_log *l, buf *out) {
    report_summary s = report_summarize(l);
    buf_puts(out, "<tr><td>");
    escaped(out, l->name, 200);
    buf_printf(out, "</td><td class=\"n\">%lld</td>", (long long)l->step[l->nstep - 1].step);
    cell(out, "%.0f", s.tokens);
    cell(out, "%.4f", s.last);
    cell(out, "%.4f", s.best_val);
    if (isfinite(s.best_val))
        buf_printf(out, "<td class=\"n\">%lld</td>", (long long)s.best_step);
    else
        buf_puts(out, "<td class=\"n\">-</td>");
    cell(out, "%.3g", s.worst_norm);
    cell(out, "%.0f", s.speed);
    cell(out, "%.1f", s.ceiling);
    cell(out, "%.0f", s.seconds);
    buf_printf(out, "<td class=\"n\">%lld</td></tr>\n", (long long)s.bad);
}

static void summary(const report *r, buf *out) {
    buf_puts(out,
             "<div class=\"scroll\"><table><thead><tr><th>run</th><th>steps</th><th>tokens</th>"
             "<th>loss, last 5 %</th><th>best validation</th><th>at step</th><th>largest "
             "norm</th><th>tokens/s</th><th>% of ceiling</th><th>seconds</th><th>not "
             "finite</th></tr></thead>\n<tbody>");
    for (int i = 0; i < r->n; i++)
        summary_row(&r->run[i], out);
    buf_puts(out, "</tbody></table></div>\n");
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < r->run[i].nnote; k++) {
            buf_puts(out, "<div class=\"dim\">");
            escaped(out, r->run[i].name, 200);
            buf_puts(out, ": ");
            escaped(out, r->run[i].note[k], 400);
            buf_puts(out, "</div>\n");
        }
}

static void samples_of(const run_log *l, buf *out) {
    int64_t shown = l->nsample < MOST_SAMPLES ? l->nsample : MOST_SAMPLES;
    buf_puts(out, "<h3>");
    escaped(out, l->name, 200);
    if (shown < l->nsample)
        buf_printf(out, " <span class=\"dim\">(%lld of %lld)</span>", (long long)shown,
                   (long long)l->nsample);
    buf_puts(out, "</h3>\n");
    for (int64_t i = 0; i < shown; i++) { /* spread over the run, the last one among them */
        const run_sample *s = &l->sample[(i + 1) * l->nsample / shown - 1];
        buf_printf(out, "<details%s><summary>step %lld</summary><pre><b>",
                   i == shown - 1 ? " open" : "", (long long)s->step);
        escaped(out, s->prompt, MOST_TEXT);
        buf_puts(out, "</b>");
        escaped(out, s->text, MOST_TEXT);
        buf_puts(out, "</pre></details>\n");
    }
}

static void samples(const report *r, buf *out) {
    bool any = false;
    for (int i = 0; i < r->n; i++) {
        if (!r->run[i].nsample)
            continue;
        buf_puts(out, any ? "" : "<h2>What they wrote</h2>\n");
        any = true;
        samples_of(&r->run[i], out);
    }
}

static void options_table(const report *r, const char **keys, int n, buf *out) {
    buf_puts(out, "<h2>Options</h2>\n");
    if (r->n > 1)
        buf_puts(out, "<label><input type=\"checkbox\" id=\"only\" checked>only those that "
                      "differ</label>\n");
    buf_printf(out, "<div class=\"scroll\"><table id=\"options\"%s><thead><tr><th>option</th>",
               r->n > 1 ? " class=\"only\"" : "");
    for (int i = 0; i < r->n; i++) {
        buf_puts(out, "<th>");
        escaped(out, r->run[i].name, 200);
        buf_puts(out, "</th>");
    }
    buf_puts(out, "</tr></thead>\n<tbody>");
    for (int k = 0; k < n; k++) {
        buf_printf(out, "<tr class=\"%s\"><td>", report_differs(r, keys[k]) ? "differs" : "same");
        escaped(out, keys[k], 200);
        for (int i = 0; i < r->n; i++) {
            const char *value = report_option(&r->run[i], keys[k]);
            buf_puts(out, "</td><td>");
            escaped(out, value ? value : "-", 300);
        }
        buf_puts(out, "</td></tr>\n");
    }
    buf_puts(out, "</tbody></table></div>\n");
}

static void options(const report *r, buf *out) {
    arena a = {0};
    int n;
    const char **keys = report_keys(r, &a, &n);
    if (n)
        options_table(r, keys, n, out);
    arena_fini(&a);
}

void report_html(const report *r, buf *out) {
    buf_puts(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                  "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                  "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n<title>weft: ");
    for (int i = 0; i < r->n; i++) {
        buf_puts(out, i ? ", " : "");
        escaped(out, r->run[i].name, 60);
    }
    buf_puts(out, "</title>\n<style>\n");
    buf_puts(out, report_css);
    buf_puts(out, "</style></head>\n<body>\n<h1>Training report</h1>\n");
    summary(r, out);
    controls(r, out);
    buf_puts(out, "<noscript>The charts need JavaScript; the tables do not.</noscript>\n"
                  "<div class=\"charts\" id=\"charts\"></div>\n");
    samples(r, out);
    options(r, out);
    buf_printf(out,
               "<footer class=\"dim\">weft %s. A band is the range of the steps behind a "
               "point; a triangle, a value that was not finite.</footer>\n",
               weft_version());
    data(r, out);
    buf_puts(out, "<script>\n");
    buf_puts(out, report_js);
    buf_puts(out, "</script>\n</body></html>\n");
}
