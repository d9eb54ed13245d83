/* SPDX-License-Identifier: Apache-2.0
 * The progress bar. It owns the terminal's last line and leaves it empty. */
#include "host/base/progress.h"
#include "host/base/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const double redraw_seconds = 0.1;

static void show(const char *text, int n) {
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0) {
        /* a bar nobody can see is no error */
    }
}

/* "1:02:03", "2:03". */
static int clock_text(char *out, size_t n, double seconds) {
    long s = seconds < 3.6e8 ? (long)seconds : 360000000;
    return s < 3600 ? snprintf(out, n, "%ld:%02ld", s / 60, s % 60)
                    : snprintf(out, n, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

static void draw(const progress *p, double now) {
    enum { WIDTH = 24 };
    static const char full[] = "========================", empty[] = "                        ";
    char text[256], left[32] = "";
    double rate = now > p->started ? (double)p->done / (now - p->started) : 0;
    if (p->total <= 0) {
        show(text, snprintf(text, sizeof text, "\r\033[K%.60s %lld %.20s, %.1f/s%s", p->label,
                            (long long)p->done, p->unit, rate, p->note));
        return;
    }
    double share = (double)p->done / (double)p->total;
    share = share > 1 ? 1 : share < 0 ? 0 : share;
    int bars = (int)(share * WIDTH);
    if (rate > 0 && share < 1)
        clock_text(left, sizeof left, (double)(p->total - p->done) / rate);
    show(text,
         snprintf(text, sizeof text, "\r\033[K%.60s %3d%% [%.*s%.*s] %lld/%lld %.20s, %.1f/s%s%s%s",
                  p->label, (int)(100 * share), bars, full, WIDTH - bars, empty, (long long)p->done,
                  (long long)p->total, p->unit, rate, p->note, *left ? ", left " : "", left));
}

void progress_start(progress *p, const char *label, const char *unit, int64_t total) {
    const char *term = getenv("TERM");
    *p = (progress){.label = label, .unit = unit, .total = total, .started = clock_seconds()};
    p->on = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

void progress_add(progress *p, int64_t n) {
    p->done += n;
    if (!p->on)
        return;
    double now = clock_seconds();
    if (now - p->drawn < redraw_seconds)
        return;
    p->drawn = now;
    draw(p, now);
}

void progress_end(progress *p) {
    if (p->on && p->drawn > 0)
        show("\r\033[K", 4);
    p->on = false;
}
