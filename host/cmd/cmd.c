/* SPDX-License-Identifier: Apache-2.0
 * What every command needs: how it fails, how it prints, where prompts and lines come from. */
#include "host/cmd/cmd.h"
#include "host/base/file.h"
#include "host/base/mem.h"
#include "host/model/engine.h"
#include "host/run/launch.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { PROMPT_MAX = 1 << 30, LINE_MAX_BYTES = 1 << 28, READ_BLOCK = 1 << 16 };

/* ---- Ending and printing ---- */

static int errors = STDERR_FILENO; /* where failures go */
static int output = STDOUT_FILENO; /* where results would, were this rank 0 */

void cmd_quiet_rank(void) {
    launch l;
    int nowhere;
    if (launch_read(&l) != WEFT_OK || l.rank == 0 || (nowhere = open("/dev/null", O_WRONLY)) < 0)
        return;
    errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    output = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    close(nowhere);
}

void cmd_speak(void) {
    if (errors == STDERR_FILENO)
        return;
    dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    close(output);
    close(errors);
    errors = STDERR_FILENO;
    output = STDOUT_FILENO;
}

int cmd_fail(weft_status s) {
    if (s == WEFT_OK)
        return 0;
    const char *why = err_message();
    if (errors == STDERR_FILENO)
        fprintf(stderr, "weft: error: %s\n", *why ? why : err_status_words(s));
    else if (!launch_told())
        dprintf(errors, "weft: error: %s\n", *why ? why : err_status_words(s));
    int code = err_exit_code(s);
    return code ? code : err_exit_code(WEFT_NO_MEMORY); /* "not now" is final for a command */
}

void cmd_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("weft: warning: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

weft_status cmd_write(const void *p, size_t n) {
    return file_write_fd(STDOUT_FILENO, "stdout", p, n);
}

weft_status cmd_flush(buf *b) {
    if (b->failed)
        return weft_fail(WEFT_NO_MEMORY, "stdout: the output is too large (limit %zu bytes)",
                         b->max);
    weft_status s = cmd_write(b->data, b->len);
    buf_clear(b);
    return s;
}

int cmd_width(void) {
    struct winsize w;
    int columns = 80;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0)
        columns = w.ws_col;
    return columns < 40 ? 40 : columns > 120 ? 120 : columns;
}

bool cmd_stderr_is_terminal(void) {
    return isatty(STDERR_FILENO) == 1;
}

char *cmd_size(char out[CMD_SIZE_TEXT], double bytes) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (bytes >= 1024 && u < CMD_COUNT(unit) - 1) {
        bytes /= 1024;
        u++;
    }
    snprintf(out, CMD_SIZE_TEXT, "%.*f %s",
             u == 0        ? 0
             : bytes < 10  ? 2
             : bytes < 100 ? 1
                           : 0,
             bytes, unit[u]);
    return out;
}

/* ---- Arguments ---- */

weft_status cmd_parse_model(const cmd_row *row, int argc, char **argv, void *into,
                            const char **model) {
    const char *given = NULL, *named = NULL;
    int n = 0;
    WEFT_TRY(args_parse(row->specs, row->nspec, argc, argv, into, &given, 1, &n));
    for (int i = 0; i < row->nspec; i++)
        if (strcmp(row->specs[i].name, "model") == 0)
            memcpy(&named, (const char *)into + row->specs[i].offset, sizeof named);
    if (n == 1 && named)
        return weft_fail(WEFT_USAGE, "MODEL: \"%.200s\" and -m %.200s; give one", given, named);
    if (n == 0 && !named)
        return weft_fail(WEFT_USAGE, "MODEL: missing; usage: weft %s %s", row->name, row->usage);
    *model = named ? named : given;
    if (!**model)
        return weft_fail(WEFT_USAGE, "MODEL: is empty; give a model folder");
    return WEFT_OK;
}

weft_engine_options cmd_engine_options(const cmd_engine_args *a) {
    return (weft_engine_options){
        .device = a->device,
        .dtype = a->dtype,
        .threads = (int)a->threads,
        .tp = (int)a->tp,
        .pp = (int)a->pp,
        .dp = (int)a->dp,
        .micro_batch = (int)a->micro,
        .comm = a->comm,
        .timeout = a->timeout,
        .ctx_size = (int)a->ctx,
        .ubatch_size = (int)a->ubatch,
        .cpu_level = a->cpu_level,
        .mlock = a->mlock,
        .no_mmap = a->no_mmap,
    };
}

/* ---- The prompt ---- */

/* The launcher gives standard input to one process. */
static weft_status own_stdin(void) {
    launch l;
    if (launch_read(&l) == WEFT_OK && l.ranks > 1)
        return weft_fail(WEFT_USAGE,
                         "standard input: only one of %d processes has it; give every "
                         "rank a file",
                         l.ranks);
    return WEFT_OK;
}

static weft_status ids_of_list(const char *list, int32_t **ids, size_t *n) {
    int64_t *wide, count;
    WEFT_TRY(args_int_list("--ids", list, 0, INT32_MAX, &wide, &count));
    *ids = mem_alloc(sizeof **ids * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        (*ids)[i] = (int32_t)wide[i];
    *n = (size_t)count;
    mem_free(wide);
    return WEFT_OK;
}

static weft_status ids_of_text(const cmd_prompt_args *p, const weft_tokenizer *t, int32_t **ids,
                               size_t *n) {
    const char *path = p->file ? p->file : p->text, *data = p->text;
    bool from_stdin = strcmp(path, "-") == 0;
    size_t size = p->text ? strlen(p->text) : 0;
    arena a = {0};
    weft_status s = WEFT_OK;
    if (from_stdin)
        s = own_stdin();
    if (s == WEFT_OK && (p->file || from_stdin))
        s = file_read(path, PROMPT_MAX, &a, &data, &size);
    if (s == WEFT_OK) {
        s = weft_tokenize(t, data, size, !p->no_bos, ids, n);
        if (s != WEFT_OK)
            s = err_prefix(s, "%s", from_stdin ? "standard input" : p->file ? p->file : "-p");
    }
    arena_fini(&a);
    return s;
}

weft_status cmd_prompt_check(const cmd_prompt_args *p) {
    static const char *const name[3] = {"-p", "-f", "--ids"};
    const char *given[3] = {p->text, p->file, p->ids}, *first = NULL;
    for (int i = 0; i < 3; i++) {
        if (given[i] && first)
            return weft_fail(WEFT_USAGE, "%s and %s: both are prompts; give one", first, name[i]);
        first = given[i] ? name[i] : first;
    }
    return WEFT_OK;
}

weft_status cmd_prompt_ids(const cmd_prompt_args *p, const weft_engine *e, int32_t **ids,
                           size_t *n) {
    *ids = NULL;
    *n = 0;
    if (p->ids)
        return ids_of_list(p->ids, ids, n);
    if (!p->text && !p->file)
        return WEFT_OK;
    const weft_tokenizer *t = weft_engine_tokenizer(e);
    if (!t)
        return weft_fail(WEFT_USAGE, "%s: the model's folder has no tokenizer; give --ids",
                         p->text ? "-p" : "-f");
    return ids_of_text(p, t, ids, n);
}

/* ---- Lines ---- */

weft_status cmd_lines_open(cmd_lines *l, const char *path) {
    *l = (cmd_lines){.fd = STDIN_FILENO, .name = "standard input"};
    buf_init(&l->held, LINE_MAX_BYTES);
    if (!path || strcmp(path, "-") == 0)
        WEFT_TRY(own_stdin());
    if (path && strcmp(path, "-") != 0) {
        l->name = path;
        l->fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (l->fd < 0)
        return weft_fail(WEFT_BAD_FILE, "%s: cannot open: %m", path);
    return WEFT_OK;
}

void cmd_lines_close(cmd_lines *l) {
    if (l->fd > STDIN_FILENO)
        close(l->fd);
    buf_fini(&l->held);
}

/* One more block behind what is held; lines given out make room first. */
static weft_status more(cmd_lines *l) {
    char block[READ_BLOCK];
    if (l->at > 0) {
        memmove(l->held.data, l->held.data + l->at, l->held.len - l->at);
        l->held.len -= l->at;
        l->at = 0;
    }
    ssize_t got;
    do
        got = read(l->fd, block, sizeof block);
    while (got < 0 && errno == EINTR && !(l->stop && *l->stop));
    if (got < 0 && errno == EINTR)
        got = 0;
    if (got < 0)
        return weft_fail(errno == EISDIR ? WEFT_BAD_FILE : WEFT_IO, "%s: cannot read: %m", l->name);
    l->end = got == 0;
    buf_add(&l->held, block, (size_t)got);
    if (l->held.failed)
        return weft_fail(WEFT_BAD_FILE, "%s:%" PRId64 ": the line is too long (limit %d bytes)",
                         l->name, l->number + 1, LINE_MAX_BYTES);
    return WEFT_OK;
}

bool cmd_lines_ready(const cmd_lines *l) {
    struct pollfd fd = {.fd = l->fd, .events = POLLIN};
    bool held = memchr(l->held.data + l->at, '\n', l->held.len - l->at) != NULL;
    return held || l->end || poll(&fd, 1, 0) != 0;
}

weft_status cmd_lines_next(cmd_lines *l, const char **line, size_t *n) {
    size_t looked = 0; /* a long line is searched once, not once a block */
    for (;;) {
        const char *from = l->held.data + l->at;
        size_t have = l->held.len - l->at;
        const char *end = have > looked ? memchr(from + looked, '\n', have - looked) : NULL;
        if (end || (l->end && have > 0)) {
            *line = from;
            *n = end ? (size_t)(end - from) : have;
            l->at += *n + (end != NULL);
            l->number++;
            return WEFT_OK;
        }
        *line = NULL;
        if (l->end)
            return WEFT_OK;
        looked = have;
        WEFT_TRY(more(l));
    }
}

/* Tensors nobody asked for are worth a word: the folder may be of a family that only looks
 * alike. */
static void warn_unused(const weft_engine *e) {
    const weights *w = &e->rank[0].w;
    if (w->n_unused)
        fprintf(stderr, "weft: warning: %s%s: not used by this family\n", w->unused,
                w->n_unused > 1 ? " and others" : "");
}

weft_status cmd_open(const char *model, const weft_engine_options *opt, weft_engine **out) {
    WEFT_TRY(weft_engine_open(model, opt, out));
    warn_unused(*out);
    return WEFT_OK;
}

weft_status cmd_open_replicas(const char *model, const weft_engine_options *opt,
                              weft_engine **out) {
    WEFT_TRY(engine_open_replicas(model, opt, out));
    if (out[0])
        warn_unused(out[0]);
    return WEFT_OK;
}
