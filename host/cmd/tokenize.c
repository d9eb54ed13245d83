/* SPDX-License-Identifier: Apache-2.0
 * `weft tokenize`: text to ids and back, once or line by line. */
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/cmd/cmd.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_MAX = 1 << 30 };

typedef struct {
    const char *file;
    bool jsonl, special, decode, print_ids;
} tokenize_args;

#define AT(member) offsetof(tokenize_args, member)
static const arg_spec specs[] = {
    {"file", "f", NULL, ARG_STRING, "FILE", 0, 0, NULL,
     "read the input from a file or - (the default)", AT(file)},
    {"special", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "add BOS, EOS as the model's files say; with --decode: show special tokens", AT(special)},
    {"decode", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "from ids to text", AT(decode)},
    {"jsonl", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "one JSON string a line in, one array of ids a line out; with --decode the reverse",
     AT(jsonl)},
    {"print-ids", "", NULL, ARG_FLAG, NULL, 0, 0, NULL, "only the ids, as --ids takes them",
     AT(print_ids)},
};

typedef struct {
    const tokenize_args *args;
    weft_tokenizer *tok;
    buf out;
} tokenize_state;

/* ---- One text ---- */

static void add_ids(buf *b, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        buf_printf(b, "%s%d", i ? "," : "", (int)ids[i]);
}

/* An id and what it spells, a line each, then a count. */
static weft_status table(tokenize_state *s, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char *text;
        size_t len;
        WEFT_TRY(weft_detokenize(s->tok, &ids[i], 1, false, &text, &len));
        buf_printf(&s->out, "%8d  ", (int)ids[i]);
        buf_json_line(&s->out, text, len);
        buf_putc(&s->out, '\n');
        weft_free(text);
        if (s->out.len > 1 << 16)
            WEFT_TRY(cmd_flush(&s->out));
    }
    buf_printf(&s->out, "%zu token%s\n", n, n == 1 ? "" : "s");
    return WEFT_OK;
}

static weft_status encode_text(tokenize_state *s, const char *text, size_t n) {
    int32_t *ids;
    size_t count;
    WEFT_TRY(weft_tokenize(s->tok, text, n, s->args->special, &ids, &count));
    weft_status st = WEFT_OK;
    if (s->args->print_ids) {
        add_ids(&s->out, ids, count);
        buf_putc(&s->out, '\n');
    } else {
        st = table(s, ids, count);
    }
    weft_free(ids);
    return st;
}

/* Ids as people write them: 1,2,3 or 1 2 3 or [1, 2, 3]. */
static weft_status decode_text(tokenize_state *s, const char *text, size_t n) {
    arena a = {0};
    char *list = arena_alloc(&a, n + 1);
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        bool gap = strchr(" \t\r\n,[]", text[i]) != NULL;
        if (!gap)
            list[k++] = text[i];
        else if (k > 0 && list[k - 1] != ',')
            list[k++] = ',';
    }
    k -= k > 0 && list[k - 1] == ',';
    list[k] = 0;
    int64_t *wide = NULL, count = 0;
    weft_status st = k ? args_int_list("ids", list, 0, INT32_MAX, &wide, &count) : WEFT_OK;
    int32_t *ids = ARENA_NEW(&a, int32_t, count + 1);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)wide[i];
    mem_free(wide);
    char *out;
    size_t len;
    if (st == WEFT_OK)
        st = weft_detokenize(s->tok, ids, (size_t)count, !s->args->special, &out, &len);
    if (st == WEFT_OK) {
        buf_add(&s->out, out, len);
        buf_putc(&s->out, '\n');
        weft_free(out);
    }
    arena_fini(&a);
    return st;
}

static weft_status whole(tokenize_state *s, const char *text) {
    arena a = {0};
    size_t n = text ? strlen(text) : 0;
    const char *name = "TEXT";
    weft_status st = WEFT_OK;
    if (!text) {
        name = s->args->file && strcmp(s->args->file, "-") != 0 ? s->args->file : "standard input";
        st = file_read(s->args->file ? s->args->file : "-", TEXT_MAX, &a, &text, &n);
    }
    if (st == WEFT_OK) {
        st = s->args->decode ? decode_text(s, text, n) : encode_text(s, text, n);
        if (st != WEFT_OK)
            st = err_prefix(st, "%s", name);
    }
    arena_fini(&a);
    return st == WEFT_OK ? cmd_flush(&s->out) : st;
}

/* ---- Lines ---- */

static weft_status encode_line(tokenize_state *s, json *j) {
    json_str text = json_string(j);
    int32_t *ids;
    size_t n;
    WEFT_TRY(json_done(j));
    WEFT_TRY(weft_tokenize(s->tok, text.s, text.n, s->args->special, &ids, &n));
    buf_putc(&s->out, '[');
    add_ids(&s->out, ids, n);
    buf_puts(&s->out, "]\n");
    weft_free(ids);
    return WEFT_OK;
}

static weft_status decode_line(tokenize_state *s, json *j) {
    buf ids; /* int32_t */
    buf_init(&ids, SIZE_MAX);
    json_array(j);
    while (json_item(j)) {
        int32_t id = (int32_t)json_int(j, 0, INT32_MAX);
        buf_add(&ids, &id, sizeof id);
    }
    weft_status st = json_done(j);
    char *text;
    size_t n;
    if (st == WEFT_OK)
        st = weft_detokenize(s->tok, (const int32_t *)(const void *)ids.data, ids.len / 4,
                             !s->args->special, &text, &n);
    if (st == WEFT_OK) {
        buf_json_line(&s->out, text, n);
        buf_putc(&s->out, '\n');
        weft_free(text);
    }
    buf_fini(&ids);
    return st;
}

static weft_status one_line(tokenize_state *s, const cmd_lines *l, const char *line, size_t n) {
    arena a = {0};
    json j;
    char *name = arena_printf(&a, "%s:%" PRId64, l->name, l->number);
    json_init(&j, name, line, n, &a);
    weft_status st = s->args->decode ? decode_line(s, &j) : encode_line(s, &j);
    if (st != WEFT_OK && !json_failed(&j))
        st = err_prefix(WEFT_BAD_FILE, "%s", name);
    arena_fini(&a);
    return st == WEFT_OK ? cmd_flush(&s->out) : st;
}

static weft_status lines(tokenize_state *s) {
    cmd_lines l;
    WEFT_TRY(cmd_lines_open(&l, s->args->file));
    const char *line;
    size_t n;
    weft_status st = cmd_lines_next(&l, &line, &n);
    while (st == WEFT_OK && line) {
        st = one_line(s, &l, line, n);
        if (st == WEFT_OK)
            st = cmd_lines_next(&l, &line, &n);
    }
    cmd_lines_close(&l);
    return st;
}

/* ---- The command ---- */

static weft_status work(const tokenize_args *a, const char *const *given, int n) {
    if (n == 0)
        return weft_fail(WEFT_USAGE, "PATH: missing; usage: weft tokenize %s", cmd_tokenize.usage);
    if (n > 1 && (a->jsonl || a->file))
        return weft_fail(WEFT_USAGE, "%.100s: TEXT and %s; give one", given[1],
                         a->jsonl ? "--jsonl" : "-f");
    if (a->print_ids && (a->jsonl || a->decode))
        return weft_fail(WEFT_USAGE, "--print-ids and %s: give one",
                         a->jsonl ? "--jsonl" : "--decode");
    tokenize_state s = {.args = a};
    WEFT_TRY(weft_tokenizer_open(given[0], &s.tok));
    buf_init(&s.out, SIZE_MAX);
    weft_status st = a->jsonl ? lines(&s) : whole(&s, n > 1 ? given[1] : NULL);
    buf_fini(&s.out);
    weft_tokenizer_close(s.tok);
    return st;
}

static int run(int argc, char **argv) {
    tokenize_args a = {.file = NULL};
    const char *given[2] = {NULL, NULL};
    int n = 0;
    weft_status s = args_parse(specs, CMD_COUNT(specs), argc, argv, &a, given, 2, &n);
    return cmd_fail(s == WEFT_OK ? work(&a, given, n) : s);
}

const cmd_row cmd_tokenize = {
    .name = "tokenize",
    .usage = "PATH [TEXT | -f FILE] [--special] [--decode] [--jsonl]",
    .summary = "text to token ids and back",
    .notes =
        "PATH is a model folder, tokenizer.json, tokenizer.model, NAME.tiktoken, or a folder with "
        "vocab.json and merges.txt. Without TEXT and -f the input is standard input, byte for "
        "byte.\n\n"
        "  weft tokenize MODEL \"Hello world\"\n"
        "  weft tokenize MODEL --decode 15339,1917\n"
        "  printf '\"Hello\"\\n\"world\"\\n' | weft tokenize MODEL --jsonl",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
