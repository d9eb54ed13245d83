/* SPDX-License-Identifier: Apache-2.0
 * The metric writers. Every file is a sequence of lines (or records) that only grows; what a
 * resumed run will write again is cut off when it opens. */
#include "host/train/metrics.h"
#include "host/base/buf.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/base/num.h"
#include "host/train/tfevents.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1 << 24 };

static const char metrics_jsonl[] = "metrics.jsonl", timing_jsonl[] = "timing.jsonl",
                  samples_jsonl[] = "samples.jsonl", metrics_csv[] = "metrics.csv",
                  events_file[] = "events.out.tfevents.weft";
static const char csv_head[] = "step,loss,lr,grad_norm,tokens,val_loss\n";

typedef struct {
    int fd; /* -1: not written */
    bool seekable;
    const char *name;
    off_t size;        /* of the whole lines in it */
    int64_t last_step; /* of the last line written by this process; -1: none */
} sink;

struct metrics {
    arena names;
    sink log, csv, events, timing, sample;
    buf line;
};

/* ---- Cutting ---- */

typedef weft_status keep_fn(const char *name, const char *data, size_t n, int64_t last_step,
                            size_t *keep);

static weft_status json_step(const char *name, int64_t number, const char *line, size_t n,
                             int64_t *step) {
    arena a = {0};
    json j;
    bool found = false;
    json_init(&j, name, line, n, &a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);)
        if (json_is(key, "step")) {
            *step = json_int(&j, 0, INT64_MAX);
            found = true;
        }
    bool bad = json_done(&j) != WEFT_OK || !found;
    arena_fini(&a);
    return bad ? weft_fail(WEFT_BAD_FILE,
                           "%s:%lld: not a line of a training log; move the file away", name,
                           (long long)number)
               : WEFT_OK;
}

static weft_status keep_json(const char *name, const char *data, size_t n, int64_t last_step,
                             size_t *keep) {
    int64_t number = 1, step = 0;
    for (*keep = 0; *keep < n; number++) {
        const char *line = data + *keep, *end = memchr(line, '\n', n - *keep);
        if (!end)
            break;
        WEFT_TRY(json_step(name, number, line, (size_t)(end - line), &step));
        if (step > last_step)
            break;
        *keep = (size_t)(end + 1 - data);
    }
    return WEFT_OK;
}

static weft_status csv_step(const char *name, int64_t number, const char *line, int64_t *step) {
    *step = 0;
    const char *p = line;
    for (; *p >= '0' && *p <= '9' && *step < INT64_MAX / 10 - 1; p++)
        *step = 10 * *step + (*p - '0');
    if (p == line || *p != ',')
        return weft_fail(WEFT_BAD_FILE, "%s:%lld: not a line of a training log; move the file away",
                         name, (long long)number);
    return WEFT_OK;
}

static weft_status keep_csv(const char *name, const char *data, size_t n, int64_t last_step,
                            size_t *keep) {
    size_t head = sizeof csv_head - 1;
    int64_t number = 2, step;
    *keep = 0;
    if (n < head)
        return WEFT_OK;
    if (memcmp(data, csv_head, head) != 0)
        return weft_fail(WEFT_BAD_FILE, "%s:1: not the head of a training log; move the file away",
                         name);
    for (*keep = head; *keep < n; number++) {
        const char *line = data + *keep, *end = memchr(line, '\n', n - *keep);
        if (!end)
            break;
        WEFT_TRY(csv_step(name, number, line, &step));
        if (step > last_step)
            break;
        *keep = (size_t)(end + 1 - data);
    }
    return WEFT_OK;
}

static weft_status keep_events(const char *name, const char *data, size_t n, int64_t last_step,
                               size_t *keep) {
    return tf_keep(name, data, n, last_step, keep);
}

static weft_status cut(sink *s, int64_t resume_step, keep_fn *keep) {
    file_map map;
    size_t size = 0;
    if (resume_step >= 0) {
        WEFT_TRY(file_map_open(s->name, &map));
        weft_status st = keep(s->name, map.data, map.size, resume_step, &size);
        file_map_close(&map);
        WEFT_TRY(st);
    }
    s->size = (off_t)size;
    if (ftruncate(s->fd, s->size) != 0)
        return weft_fail(WEFT_IO, "%s: cannot shorten: %m", s->name);
    return WEFT_OK;
}

static weft_status open_sink(sink *s, const char *name, int64_t resume_step, keep_fn *keep) {
    struct stat st;
    bool special = stat(name, &st) == 0 && !S_ISREG(st.st_mode);
    s->name = name;
    s->fd = open(name, special ? O_WRONLY | O_CLOEXEC | O_NOCTTY : O_RDWR | O_CREAT | O_CLOEXEC,
                 0666);
    if (s->fd < 0)
        return weft_fail(WEFT_IO, "%s: cannot open for writing: %m", name);
    s->seekable = !special;
    return s->seekable ? cut(s, resume_step, keep) : WEFT_OK;
}

/* ---- Writing ---- */

static weft_status write_at(sink *s, off_t at, const void *data, size_t n) {
    const char *p = data;
    while (n > 0) {
        ssize_t put = pwrite(s->fd, p, n, at);
        if (put < 0 && errno != EINTR)
            return weft_fail(WEFT_IO, "%s: cannot write: %m", s->name);
        if (put > 0) {
            p += put;
            at += put;
            n -= (size_t)put;
        }
    }
    return WEFT_OK;
}

/* Appends b. What a full disk took of it is cut off again, so the next line starts where this one
 * should have. */
static weft_status put(sink *s, const buf *b) {
    if (s->fd < 0)
        return WEFT_OK;
    if (b->failed)
        return weft_fail(WEFT_NO_MEMORY, "%s: a line is too long (limit %d bytes)", s->name,
                         LINE_BYTES);
    if (!s->seekable)
        return file_write_fd(s->fd, s->name, b->data, b->len);
    weft_status st = write_at(s, s->size, b->data, b->len);
    if (st == WEFT_OK)
        s->size += (off_t)b->len;
    else if (ftruncate(s->fd, s->size) != 0)
        return st; /* then the next line is written over the half one */
    return st;
}

/* Replaces the end of the last line, `tail`, by b, which ends in `tail` too. */
static weft_status put_into_last(sink *s, const buf *b, const char *tail) {
    off_t at = s->size - (off_t)strlen(tail);
    weft_status st = write_at(s, at, b->data, b->len);
    if (st == WEFT_OK) {
        s->size = at + (off_t)b->len;
        return WEFT_OK;
    }
    if (ftruncate(s->fd, at) == 0) {
        weft_status back = write_at(s, at, tail, strlen(tail));
        return back == WEFT_OK ? st : back;
    }
    return st;
}

static void number(buf *b, double x) {
    if ((double)(float)x == x)
        buf_json_float(b, (float)x);
    else
        buf_json_double(b, x);
}

static void key_number(buf *b, const char *key, double x) {
    buf_printf(b, ",\"%s\":", key);
    number(b, x);
}

static double wall_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static weft_status put_events(metrics *m, int64_t step, const tf_scalar *scalar, int n) {
    if (m->events.fd < 0)
        return WEFT_OK;
    buf_clear(&m->line);
    if (m->events.size == 0)
        tf_begin(&m->line, wall_seconds());
    tf_scalars(&m->line, wall_seconds(), step, scalar, n);
    return put(&m->events, &m->line);
}

/* ---- The interface ---- */

static weft_status renew(const char *path) {
    file_map m;
    if (!file_is_regular(path))
        return WEFT_OK;
    WEFT_TRY(file_map_open(path, &m));
    weft_status s = file_write_atomic(path, m.data, m.size);
    file_map_close(&m);
    return s;
}

weft_status metrics_renew(const char *dir, const char *log) {
    static const char *const names[] = {metrics_jsonl, timing_jsonl, samples_jsonl, metrics_csv,
                                        events_file};
    arena a = {0};
    weft_status s = log ? renew(log) : WEFT_OK;
    for (size_t i = 0; s == WEFT_OK && i < sizeof names / sizeof *names; i++)
        s = renew(file_join(&a, dir, names[i]));
    arena_fini(&a);
    return s;
}

static weft_status open_all(metrics *m, const char *dir, const char *log, bool csv,
                            bool tensorboard, int64_t resume_step) {
    const char *jsonl = log ? arena_copy(&m->names, log, strlen(log))
                            : file_join(&m->names, dir, metrics_jsonl);
    WEFT_TRY(open_sink(&m->log, jsonl, resume_step, keep_json));
    WEFT_TRY(
        open_sink(&m->timing, file_join(&m->names, dir, timing_jsonl), resume_step, keep_json));
    WEFT_TRY(
        open_sink(&m->sample, file_join(&m->names, dir, samples_jsonl), resume_step, keep_json));
    if (csv)
        WEFT_TRY(open_sink(&m->csv, file_join(&m->names, dir, metrics_csv), resume_step, keep_csv));
    if (tensorboard)
        WEFT_TRY(open_sink(&m->events, file_join(&m->names, dir, events_file), resume_step,
                           keep_events));
    return WEFT_OK;
}

weft_status metrics_open(const char *dir, const char *log, bool csv, bool tensorboard,
                         int64_t resume_step, metrics **out) {
    metrics *m = mem_alloc(sizeof *m);
    sink none = {.fd = -1, .last_step = -1};
    m->log = m->csv = m->events = m->timing = m->sample = none;
    buf_init(&m->line, LINE_BYTES);
    weft_status st = open_all(m, dir, log, csv, tensorboard, resume_step);
    if (st != WEFT_OK)
        metrics_close(m);
    else
        *out = m;
    return st;
}

static weft_status step_csv(metrics *m, int64_t step, double loss, double lr, double grad_norm,
                            int64_t tokens) {
    const double column[] = {loss, lr, grad_norm};
    buf *b = &m->line;
    buf_clear(b);
    if (m->csv.size == 0)
        buf_puts(b, csv_head);
    buf_printf(b, "%lld", (long long)step);
    for (int i = 0; i < 3; i++) {
        buf_putc(b, ',');
        if (isfinite(column[i]))
            number(b, column[i]);
        else
            buf_puts(b, isnan(column[i]) ? "nan" : column[i] > 0 ? "inf" : "-inf");
    }
    buf_printf(b, ",%lld,\n", (long long)tokens);
    return put(&m->csv, b);
}

weft_status metrics_step(metrics *m, int64_t step, double loss, double lr, double grad_norm,
                         int64_t tokens) {
    if (!m)
        return WEFT_OK;
    buf *b = &m->line;
    buf_clear(b);
    buf_printf(b, "{\"step\":%lld", (long long)step);
    key_number(b, "loss", loss);
    key_number(b, "lr", lr);
    key_number(b, "grad_norm", grad_norm);
    buf_printf(b, ",\"tokens\":%lld}\n", (long long)tokens);
    m->log.last_step = m->csv.last_step = -1; /* of the line before: no longer the last */
    WEFT_TRY(put(&m->log, b));
    m->log.last_step = step;
    WEFT_TRY(step_csv(m, step, loss, lr, grad_norm, tokens));
    m->csv.last_step = step;
    return put_events(
        m, step,
        (const tf_scalar[]){
            {"loss/train", loss}, {"lr", lr}, {"grad_norm", grad_norm}, {"tokens", (double)tokens}},
        4);
}

weft_status metrics_val(metrics *m, int64_t step, double val_loss) {
    if (!m)
        return WEFT_OK;
    buf *b = &m->line;
    buf_clear(b);
    if (m->log.seekable && m->log.last_step == step) {
        key_number(b, "val_loss", val_loss);
        buf_puts(b, "}\n");
        WEFT_TRY(put_into_last(&m->log, b, "}\n"));
    } else {
        buf_printf(b, "{\"step\":%lld", (long long)step);
        key_number(b, "val_loss", val_loss);
        buf_puts(b, "}\n");
        WEFT_TRY(put(&m->log, b));
    }
    m->log.last_step = -1; /* a second value of the same step gets a line of its own */
    if (m->csv.fd >= 0 && m->csv.last_step == step) {
        buf_clear(b);
        number(b, val_loss);
        buf_putc(b, '\n');
        WEFT_TRY(put_into_last(&m->csv, b, "\n"));
        m->csv.last_step = -1;
    }
    return put_events(m, step, &(tf_scalar){"loss/validation", val_loss}, 1);
}

weft_status metrics_timing(metrics *m, int64_t step, double seconds, double tokens_per_s,
                           double pct_ceiling) {
    if (!m)
        return WEFT_OK;
    buf *b = &m->line;
    buf_clear(b);
    buf_printf(b, "{\"step\":%lld", (long long)step);
    key_number(b, "seconds", seconds);
    key_number(b, "tokens_per_s", tokens_per_s);
    key_number(b, "pct_ceiling", pct_ceiling);
    buf_puts(b, "}\n");
    WEFT_TRY(put(&m->timing, b));
    return put_events(m, step,
                      (const tf_scalar[]){{"speed/tokens_per_s", tokens_per_s},
                                          {"speed/seconds", seconds},
                                          {"speed/pct_ceiling", pct_ceiling}},
                      isnan(pct_ceiling) ? 2 : 3);
}

weft_status metrics_sample(metrics *m, int64_t step, const char *prompt, const char *text) {
    if (!m)
        return WEFT_OK;
    buf *b = &m->line;
    buf_clear(b);
    buf_printf(b, "{\"step\":%lld,\"prompt\":", (long long)step);
    buf_json_string(b, prompt, strlen(prompt));
    buf_puts(b, ",\"text\":");
    buf_json_string(b, text, strlen(text));
    buf_puts(b, "}\n");
    return put(&m->sample, b);
}

weft_status metrics_flush(metrics *m) {
    if (!m)
        return WEFT_OK;
    const sink *const all[] = {&m->log, &m->csv, &m->events, &m->timing, &m->sample};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->fd >= 0 && all[i]->seekable && fdatasync(all[i]->fd) != 0)
            return weft_fail(WEFT_IO, "%s: cannot write to disk: %m", all[i]->name);
    return WEFT_OK;
}

void metrics_close(metrics *m) {
    if (!m)
        return;
    const sink *const all[] = {&m->log, &m->csv, &m->events, &m->timing, &m->sample};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->fd >= 0)
            close(all[i]->fd);
    buf_fini(&m->line);
    arena_fini(&m->names);
    mem_free(m);
}
