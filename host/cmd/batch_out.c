/* SPDX-License-Identifier: Apache-2.0
 * Answers, errors and the state that says whose they are. */
#include "host/cmd/batch_out.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/cmd/cmd.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STATE_MAX = 1 << 20 };

/* ---- The state ---- */

static weft_status write_state(const batch_out *o, const batch_state *s) {
    buf b;
    buf_init(&b, STATE_MAX);
    buf_printf(&b,
               "{\"weft_batch\":1,\"input\":\"%016" PRIx64 "\",\"model\":\"%016" PRIx64
               "\",\"seed\":%" PRIu64 ",\"settings\":",
               s->input, s->model, s->seed);
    buf_json_line(&b, s->settings, strlen(s->settings));
    buf_puts(&b, "}\n");
    weft_status st = b.failed ? weft_fail(WEFT_USAGE, "settings: too long")
                              : file_write_atomic(o->state, b.data, b.len);
    buf_fini(&b);
    return st;
}

static uint64_t hex(json *j) {
    const char *text = json_text(j);
    char *end;
    uint64_t v = strtoull(text, &end, 16);
    if (*end || end == text)
        json_fail(j, "not a hash");
    return v;
}

static weft_status read_state(batch_out *o, batch_state *out) {
    const char *data;
    size_t n;
    json j;
    WEFT_TRY(file_read(o->state, STATE_MAX, &o->mem, &data, &n));
    json_init(&j, o->state, data, n, &o->mem);
    *out = (batch_state){.settings = ""};
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (json_is(key, "input"))
            out->input = hex(&j);
        else if (json_is(key, "model"))
            out->model = hex(&j);
        else if (json_is(key, "seed"))
            out->seed = (uint64_t)json_int(&j, 0, INT64_MAX);
        else if (json_is(key, "settings"))
            out->settings = json_text(&j);
    }
    return json_done(&j);
}

static weft_status differs(const batch_out *o, const char *what) {
    return weft_fail(WEFT_USAGE,
                     "%s: holds answers of another %s; give another file with -o, or --restart to "
                     "start anew",
                     o->answers.name, what);
}

static weft_status check_state(const batch_out *o, const batch_state *now,
                               const batch_state *then) {
    if (then->input != now->input)
        return differs(o, "input");
    if (then->model != now->model)
        return differs(o, "model");
    if (strcmp(then->settings, now->settings) != 0)
        return weft_fail(WEFT_USAGE,
                         "%s: holds answers under other settings (%.300s; now %.300s); give "
                         "another file with -o, or --restart to start anew",
                         o->answers.name, then->settings, now->settings);
    return WEFT_OK;
}

/* ---- What is there ---- */

/* The number N of {"id": "line-N", ...}; 0: no such line. */
static int64_t line_number(const char *name, const char *text, size_t n, int64_t most) {
    arena a = {0};
    json j;
    int64_t number = 0;
    json_init(&j, name, text, n, &a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);)
        if (json_is(key, "id")) {
            const char *id = json_text(&j);
            char *end = NULL;
            number = strncmp(id, "line-", 5) == 0 ? strtoll(id + 5, &end, 10) : 0;
            if (number < 1 || number > most || *end)
                json_fail(&j, "not a line of the input");
        }
    weft_status st = json_done(&j);
    arena_fini(&a);
    return st == WEFT_OK ? number : 0;
}

static weft_status take_line(batch_out *o, const batch_file *f, const char *text, size_t n) {
    int64_t number = line_number(f->name, text, n, o->lines);
    if (number == 0)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: byte %lld: is no line that weft batch wrote for this input; give "
                         "another file with -o, or --restart to start anew",
                         f->name, (long long)f->bytes);
    if (o->done[number])
        return weft_fail(WEFT_BAD_FILE, "%s: byte %lld: line %lld of the input is answered twice",
                         f->name, (long long)f->bytes, (long long)number);
    o->done[number] = true;
    o->n_done++;
    o->n_failed += f == &o->errors;
    return WEFT_OK;
}

static weft_status read_done(batch_out *o, batch_file *f) {
    file_map m;
    weft_status st = WEFT_OK;
    if (!f->regular)
        return WEFT_OK;
    WEFT_TRY(file_map_open(f->name, &m));
    for (const char *p = m.data, *end = p + m.size, *eol; st == WEFT_OK; p = eol + 1) {
        eol = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
        if (!eol)
            break;
        st = take_line(o, f, p, (size_t)(eol - p));
        f->bytes = eol + 1 - m.data;
    }
    file_map_close(&m);
    return st;
}

static weft_status cut(const batch_file *f) {
    if (f->regular && ftruncate(f->fd, f->bytes) != 0)
        return weft_fail(WEFT_IO, "%s: cannot cut off what was half written: %m", f->name);
    return WEFT_OK;
}

/* ---- Opening ---- */

static weft_status open_file(batch_file *f, const char *name) {
    struct stat st;
    f->name = name;
    f->fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (f->fd < 0)
        return weft_fail(WEFT_IO, "%s: cannot open: %m", name);
    f->regular = fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode);
    if (f->regular && flock(f->fd, LOCK_EX | LOCK_NB) != 0)
        return weft_fail(WEFT_USAGE, "%s: another weft batch writes to it", name);
    return WEFT_OK;
}

static int64_t size_of(const batch_file *f) {
    struct stat st;
    return f->regular && fstat(f->fd, &st) == 0 ? (int64_t)st.st_size : 0;
}

static weft_status go_on(batch_out *o, batch_state *s) {
    batch_state then;
    if (!file_exists(o->state))
        return weft_fail(WEFT_USAGE,
                         "%s: is there, and %s, which would say whose answers it holds, is not; "
                         "give another file with -o, or --restart to start anew",
                         o->answers.name, o->state);
    if (s->input == 0)
        return weft_fail(WEFT_USAGE,
                         "%s: is there, and input from a pipe cannot be taken up again; give "
                         "another file with -o, or --restart to start anew",
                         o->answers.name);
    WEFT_TRY(read_state(o, &then));
    WEFT_TRY(check_state(o, s, &then));
    s->seed = then.seed;
    o->done = mem_alloc(sizeof *o->done * ((size_t)o->lines + 1));
    WEFT_TRY(read_done(o, &o->answers));
    WEFT_TRY(read_done(o, &o->errors));
    WEFT_TRY(cut(&o->answers));
    return cut(&o->errors);
}

static weft_status open_new(batch_out *o, const batch_state *s) {
    WEFT_TRY(cut(&o->answers));
    WEFT_TRY(cut(&o->errors));
    return write_state(o, s);
}

/* "out.jsonl" and "errors.jsonl" make "out.errors.jsonl". */
static char *beside(batch_out *o, const char *path, const char *what) {
    size_t n = strlen(path);
    bool ends = n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
    return arena_printf(&o->mem, "%.*s.%s", (int)(ends ? n - 6 : n), path, what);
}

static weft_status check_apart(const char *a, const char *b) {
    struct stat x, y;
    bool same = stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev &&
                x.st_ino == y.st_ino && S_ISREG(x.st_mode);
    return same ? weft_fail(WEFT_USAGE, "%s and %s: are the same file; give another with -o", a, b)
                : WEFT_OK;
}

static weft_status check_all_apart(const char *input, const char *path, const char *errors) {
    WEFT_TRY(check_apart(input, path));
    WEFT_TRY(check_apart(input, errors));
    return strcmp(path, errors) == 0
               ? weft_fail(WEFT_USAGE,
                           "%s: cannot hold both answers and errors; give another "
                           "file with --errors",
                           path)
               : check_apart(path, errors);
}

/* Errors of answers that cannot be taken up again: a file of its own, or among them. */
static weft_status open_errors(batch_out *o, const char *input, const char *errors) {
    if (errors) {
        WEFT_TRY(check_apart(input, errors));
        WEFT_TRY(open_file(&o->errors, errors));
        return cut(&o->errors);
    }
    o->errors = o->answers;
    o->errors.fd = dup(o->answers.fd);
    return o->errors.fd >= 0 ? WEFT_OK : weft_fail(WEFT_IO, "%s: cannot open: %m", o->answers.name);
}

/* Standard output, a device, a named pipe. */
static weft_status open_stream(batch_out *o, const char *input, const char *path,
                               const char *errors) {
    o->answers = (batch_file){.fd = STDOUT_FILENO, .name = "stdout"};
    if (strcmp(path, "-") != 0)
        WEFT_TRY(open_file(&o->answers, path));
    return open_errors(o, input, errors);
}

weft_status batch_out_open(batch_out *o, const char *input, const char *path, const char *errors,
                           batch_state *s, int64_t lines, bool restart) {
    *o = (batch_out){.lines = lines, .answers = {.fd = -1}, .errors = {.fd = -1}};
    if (strcmp(path, "-") == 0 || (file_exists(path) && !file_is_regular(path)))
        return open_stream(o, input, path, errors);
    o->state = beside(o, path, "state.json");
    errors = errors ? errors : beside(o, path, "errors.jsonl");
    WEFT_TRY(check_all_apart(input, path, errors));
    WEFT_TRY(open_file(&o->answers, path));
    WEFT_TRY(open_file(&o->errors, errors));
    bool there = size_of(&o->answers) > 0 || size_of(&o->errors) > 0;
    return there && !restart ? go_on(o, s) : open_new(o, s);
}

/* ---- Writing ---- */

weft_status batch_out_write(batch_out *o, bool error, const buf *line) {
    batch_file *f = error ? &o->errors : &o->answers;
    if (f->fd < 0)
        return WEFT_OK; /* rank 0 writes it */
    if (line->failed)
        return weft_fail(WEFT_NO_MEMORY, "%s: a line is too large", f->name);
    weft_status st = file_write_fd(f->fd, f->name, line->data, line->len);
    if (st == WEFT_OK) {
        f->bytes += (int64_t)line->len;
    } else if (f->regular && ftruncate(f->fd, f->bytes) != 0) {
        /* the next run cuts it off */
    }
    return st;
}

static weft_status close_file(batch_file *f) {
    weft_status st = WEFT_OK;
    if (f->regular && fsync(f->fd) != 0)
        st = weft_fail(WEFT_IO, "%s: cannot bring it to the disk: %m", f->name);
    if (f->fd > STDOUT_FILENO && close(f->fd) != 0 && st == WEFT_OK)
        st = weft_fail(WEFT_IO, "%s: cannot close: %m", f->name);
    f->fd = -1;
    return st;
}

weft_status batch_out_close(batch_out *o) {
    weft_status a = close_file(&o->answers), b = close_file(&o->errors);
    if (a == WEFT_OK && b == WEFT_OK && o->state && o->errors.regular && o->errors.bytes == 0)
        unlink(o->errors.name);
    mem_free(o->done);
    arena_fini(&o->mem);
    return a != WEFT_OK ? a : b;
}
