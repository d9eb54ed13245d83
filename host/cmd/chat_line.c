/* SPDX-License-Identifier: Apache-2.0
 * What the user types: with editing and history in a terminal (libedit), line by line from a pipe,
 * and in both a line that ends in \ goes on and a line of """ opens and closes a block. */
#include "host/base/file.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/cmd/chat.h"
#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000, MESSAGE_MAX = 1 << 27 };

struct chat_reader {
    bool terminal, more; /* more: the next line goes on with a message, and the prompt says so */
    cmd_lines lines;     /* of a pipe */
    EditLine *edit;
    History *history;
    HistEvent event;
    bool interrupted, line_was_empty; /* what the key for an interrupt found */
    bool warned;                      /* the last key was an interrupt: the next one quits */
    buf text;
    arena mem;
    char *path; /* of the history; NULL: nowhere to keep it */
};

/* ---- The history file ---- */

static char *history_path(arena *a) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && state[0] == '/')
        return arena_printf(a, "%s/weft/history", state);
    return home && home[0] == '/' ? arena_printf(a, "%s/.local/state/weft/history", home) : NULL;
}

/* The folders in front of a path, those that are missing private to the user. */
static bool make_folders(char *path) {
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        bool ok = mkdir(path, 0700) == 0 || errno == EEXIST || file_is_dir(path);
        *p = '/';
        if (!ok)
            return false;
    }
    return true;
}

/* Beside and renamed: two conversations that end at once leave one whole history. */
static bool write_history(chat_reader *r) {
    char *beside = arena_printf(&r->mem, "%s.%ld", r->path, (long)getpid());
    if (!make_folders(r->path))
        return false;
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    bool ok = f && history(r->history, &r->event, H_SAVE_FP, f) >= 0;
    if (f)
        ok = fclose(f) == 0 && ok;
    else if (fd >= 0)
        close(fd);
    if (ok && rename(beside, r->path) == 0)
        return true;
    int why = errno;
    if (fd >= 0)
        unlink(beside);
    errno = why;
    return false;
}

static void save_history(chat_reader *r) {
    if (r->path && !write_history(r))
        cmd_warn("%s: the history cannot be saved: %s", r->path, strerror(errno));
}

static void load_history(chat_reader *r) {
    r->history = history_init();
    history(r->history, &r->event, H_SETSIZE, HISTORY_LINES);
    history(r->history, &r->event, H_SETUNIQUE, 1);
    r->path = history_path(&r->mem);
    if (r->path && file_exists(r->path))
        history(r->history, &r->event, H_LOAD, r->path);
}

/* ---- The terminal ---- */

static char *prompt(EditLine *e) {
    static char first[] = "> ", next[] = "... ";
    chat_reader *r = NULL;
    el_get(e, EL_CLIENTDATA, &r);
    return r->more ? next : first;
}

static unsigned char interrupt_key(EditLine *e, int ch) {
    chat_reader *r = NULL;
    const LineInfo *l = el_line(e);
    (void)ch;
    el_get(e, EL_CLIENTDATA, &r);
    r->interrupted = true;
    r->line_was_empty = l->lastchar == l->buffer && !r->more;
    return CC_EOF;
}

/* libedit's own handler gives the terminal back and takes it again. */
static unsigned char suspend_key(EditLine *e, int ch) {
    (void)e;
    (void)ch;
    kill(0, SIGTSTP);
    return CC_NORM;
}

/* libedit needs to know that the terminal speaks UTF-8, whatever the locale says of dates. */
static void use_utf8(void) {
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static void bind(EditLine *e, const char *key, const char *command) {
    el_set(e, EL_BIND, key, command, NULL);
}

static weft_status open_terminal(chat_reader *r) {
    use_utf8();
    load_history(r);
    r->edit = el_init("weft", stdin, stdout, stderr);
    if (!r->edit)
        return weft_fail(WEFT_IO, "terminal: cannot be used for editing; TERM=%s",
                         getenv("TERM") ? getenv("TERM") : "");
    EditLine *e = r->edit;
    el_set(e, EL_CLIENTDATA, r);
    el_set(e, EL_PROMPT, prompt);
    el_set(e, EL_EDITOR, "emacs");
    el_set(e, EL_HIST, history, r->history);
    el_set(e, EL_SIGNAL, 1);
    bind(e, "^R", "em-inc-search-prev");
    bind(e, "\033[3~", "ed-delete-next-char");
    bind(e, "\033[1;5C", "em-next-word");
    bind(e, "\033[1;5D", "ed-prev-word");
    el_source(e, NULL); /* the user's own ~/.editrc */
    /* The narrow call never frees the copies it makes of these. */
    el_wset(e, EL_ADDFN, L"weft-interrupt", L"clear the line; again: quit", interrupt_key);
    el_wset(e, EL_ADDFN, L"weft-suspend", L"as the shell expects", suspend_key);
    bind(e, "^C", "weft-interrupt");
    bind(e, "^Z", "weft-suspend");
    el_set(e, EL_SETTY, "-d", "-isig", NULL); /* while editing these are keys, else signals */
    return WEFT_OK;
}

/* One line of the terminal without its end; NULL at Ctrl-D. */
static const char *terminal_line(chat_reader *r, size_t *n) {
    int count = 0;
    r->interrupted = false;
    el_set(r->edit, EL_PREP_TERM, 1); /* before the prompt: a key pressed early is a key too */
    const char *line = el_gets(r->edit, &count);
    if (r->interrupted) {
        fputs("^C\n", stdout);
        fflush(stdout);
        *n = 0;
        return "";
    }
    if (!line || count <= 0) {
        fputc('\n', stdout);
        fflush(stdout);
        return NULL;
    }
    *n = (size_t)count;
    while (*n > 0 && (line[*n - 1] == '\n' || line[*n - 1] == '\r'))
        --*n;
    if (*n > 0) {
        char *entry = arena_copy(&r->mem, line, *n);
        history(r->history, &r->event, H_ENTER, entry);
    }
    return line;
}

/* ---- Messages ---- */

static weft_status next_line(chat_reader *r, const char **line, size_t *n) {
    if (r->terminal) {
        *line = terminal_line(r, n);
        return WEFT_OK;
    }
    WEFT_TRY(cmd_lines_next(&r->lines, line, n));
    if (*line && *n > 0 && (*line)[*n - 1] == '\r')
        --*n;
    return WEFT_OK;
}

static bool is_fence(const char *line, size_t n) {
    while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t'))
        n--;
    return n == 3 && memcmp(line, "\"\"\"", 3) == 0;
}

/* Adds a line; true if the message is whole. */
static bool add_line(chat_reader *r, const char *line, size_t n, bool *block) {
    bool fence = is_fence(line, n);
    if (*block && fence) {
        r->text.len -= r->text.len > 0; /* the end of the last line */
        r->text.data[r->text.len] = 0;
        return true;
    }
    if (!r->more && fence) {
        *block = r->more = true;
        return false;
    }
    bool goes_on = !*block && n > 0 && line[n - 1] == '\\';
    buf_add(&r->text, line, n - goes_on);
    if (goes_on || *block)
        buf_putc(&r->text, '\n');
    r->more = goes_on || *block;
    return !r->more;
}

/* An interrupt at the prompt forgets what was typed; one right behind another quits. */
static bool quits(chat_reader *r) {
    bool again = r->line_was_empty && r->warned;
    if (r->line_was_empty && !again)
        fputs("(Ctrl-C again or Ctrl-D quits)\n", stderr);
    r->warned = true;
    return again;
}

static void begin(chat_reader *r, bool *block) {
    buf_clear(&r->text);
    r->more = *block = false;
}

static weft_status check(const chat_reader *r) {
    size_t bad = utf8_invalid_at(r->text.data, r->text.len);
    if (r->text.failed)
        return weft_fail(WEFT_BAD_FILE, "message: is too long (limit %d bytes)", MESSAGE_MAX);
    if (bad != r->text.len)
        return weft_fail(WEFT_BAD_FILE, "message: byte %zu: invalid UTF-8", bad);
    if (memchr(r->text.data, 0, r->text.len))
        return weft_fail(WEFT_BAD_FILE, "message: has a NUL byte");
    return WEFT_OK;
}

weft_status chat_reader_next(chat_reader *r, const char **text, size_t *n, bool *block) {
    begin(r, block);
    for (;;) {
        const char *line = NULL;
        size_t k = 0;
        WEFT_TRY(next_line(r, &line, &k));
        if (r->interrupted) {
            if (quits(r))
                line = NULL;
            else {
                begin(r, block);
                continue;
            }
        } else {
            r->warned = false;
        }
        bool whole = line && add_line(r, line, k, block);
        if (line && !whole)
            continue;
        WEFT_TRY(check(r));
        if (line && r->text.len == 0 && !*block)
            continue; /* an empty line says nothing */
        *text = line || (r->text.len > 0 && !r->terminal) ? r->text.data : NULL;
        *n = r->text.len;
        return WEFT_OK;
    }
}

weft_status chat_reader_open(bool terminal, chat_reader **out) {
    chat_reader *r = mem_alloc(sizeof *r);
    r->terminal = terminal;
    buf_init(&r->text, MESSAGE_MAX);
    weft_status s = terminal ? open_terminal(r) : cmd_lines_open(&r->lines, NULL);
    if (s != WEFT_OK)
        chat_reader_close(r);
    else
        *out = r;
    return s;
}

void chat_reader_close(chat_reader *r) {
    if (!r)
        return;
    if (r->edit) {
        save_history(r);
        el_end(r->edit);
    }
    if (r->history)
        history_end(r->history);
    if (!r->terminal)
        cmd_lines_close(&r->lines);
    buf_fini(&r->text);
    arena_fini(&r->mem);
    mem_free(r);
}
