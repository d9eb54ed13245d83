/* SPDX-License-Identifier: Apache-2.0
 * `weft help`: the overview, one command's page, and the manual page, all from the command
 * table. */
#include "host/cmd/cmd.h"
#include <string.h>

static void overview(buf *out) {
    buf_printf(out,
               "weft %s, a transformer runtime\n\n"
               "Usage: weft COMMAND [ARGUMENT...]\n\nCommands:\n",
               weft_version());
    for (int i = 0; cmd_rows[i]; i++)
        buf_printf(out, "  %-11s %s\n", cmd_rows[i]->name, cmd_rows[i]->summary);
    buf_puts(
        out,
        "\nMODEL is a folder with config.json, *.safetensors and a tokenizer, as Hugging Face\n"
        "hubs hold them. Nothing is downloaded.\n\n"
        "  weft help COMMAND    a command's options and examples\n"
        "  weft help --man      the manual page\n"
        "  weft --version       the version\n");
}

/* Wraps at `width`; a line that starts with two spaces is an example and stays as it is. */
static void paragraph(buf *out, const char *text, int width) {
    while (*text) {
        size_t n = strcspn(text, "\n"), column = 0;
        const char *p = text, *end = text + n;
        bool example = n > 1 && text[0] == ' ' && text[1] == ' ';
        while (!example && p < end) {
            size_t word = strcspn(p, " \n");
            if (column > 0 && column + 1 + word > (size_t)width) {
                buf_putc(out, '\n');
                column = 0;
            }
            if (column > 0) {
                buf_putc(out, ' ');
                column++;
            }
            buf_add(out, p, word);
            column += word;
            p += word + (p + word < end);
        }
        if (example)
            buf_add(out, text, n);
        buf_putc(out, '\n');
        text += n + (text[n] == '\n');
    }
}

static void page(buf *out, const cmd_row *row, int width) {
    buf head;
    buf_init(&head, 4096);
    buf_printf(&head, "weft %s: %s\n\nUsage: weft %s %s\n", row->name, row->summary, row->name,
               row->usage);
    paragraph(out, head.data, width);
    buf_fini(&head);
    if (row->nspec > 0) {
        buf_puts(out, "\nOptions:\n");
        args_help(out, row->specs, row->nspec, width);
    }
    if (row->notes) {
        buf_putc(out, '\n');
        paragraph(out, row->notes, width);
    }
}

/* ---- The manual page (man(7)) ---- */

static void roff(buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool line_start = out->len == 0 || out->data[out->len - 1] == '\n';
        if (line_start && (s[i] == '.' || s[i] == '\''))
            buf_puts(out, "\\&");
        if (s[i] == '\\')
            buf_puts(out, "\\e");
        else if (s[i] == '-')
            buf_puts(out, "\\-");
        else
            buf_putc(out, s[i]);
    }
}

static void roff_string(buf *out, const char *s) {
    roff(out, s, strlen(s));
}

static void man_option(buf *out, const arg_spec *s) {
    buf_puts(out, ".TP\n");
    if (s->brief && *s->brief)
        buf_printf(out, "\\fB\\-%s\\fR, ", s->brief);
    buf_puts(out, "\\fB\\-\\-");
    roff_string(out, s->name);
    buf_puts(out, "\\fR");
    if (s->alias) {
        buf_puts(out, ", \\fB\\-\\-");
        roff_string(out, s->alias);
        buf_puts(out, "\\fR");
    }
    if (s->kind != ARG_FLAG) {
        buf_puts(out, " \\fI");
        roff_string(out, s->value ? s->value : "VALUE");
        buf_puts(out, "\\fR");
    }
    buf_putc(out, '\n');
    roff_string(out, s->help);
    if (s->preset && *s->preset) {
        buf_puts(out, " (default: ");
        roff_string(out, s->preset);
        buf_putc(out, ')');
    }
    buf_putc(out, '\n');
}

static void man_notes(buf *out, const char *text) {
    bool in_example = false;
    while (text && *text) {
        size_t n = strcspn(text, "\n");
        bool example = n > 1 && text[0] == ' ' && text[1] == ' ';
        if (example != in_example)
            buf_puts(out, example ? ".PP\n.EX\n" : ".EE\n.PP\n");
        else if (n == 0)
            buf_puts(out, ".PP");
        in_example = example;
        roff(out, text, n);
        buf_putc(out, '\n');
        text += n + (text[n] == '\n');
    }
    if (in_example)
        buf_puts(out, ".EE\n");
}

static void man_command(buf *out, const cmd_row *row) {
    buf_printf(out, ".SS weft %s ", row->name);
    roff_string(out, row->usage);
    buf_putc(out, '\n');
    roff_string(out, row->summary);
    buf_puts(out, ".\n");
    for (int i = 0; i < row->nspec; i++)
        man_option(out, &row->specs[i]);
    if (row->notes) {
        buf_puts(out, ".PP\n");
        man_notes(out, row->notes);
    }
}

#define EXIT_ROW(name, code, words) {code, words},
static const struct {
    int code;
    const char *words;
} exits[] = {WEFT_STATUSES(EXIT_ROW)};

/* One line a code: statuses that share one are joined. */
static void man_exits(buf *out) {
    buf_puts(out, ".SH EXIT STATUS\n");
    for (int code = 0; code < 256; code++) {
        int found = 0;
        for (int i = 0; i < CMD_COUNT(exits); i++) {
            if (exits[i].code != code || i == WEFT_AGAIN)
                continue;
            if (found++ == 0)
                buf_printf(out, ".TP\n%d\n", code);
            else
                buf_puts(out, "; ");
            roff_string(out, exits[i].words);
        }
        if (found)
            buf_putc(out, '\n');
    }
    buf_puts(out, ".TP\n128+n\nstopped by signal n\n");
}

static void manual(buf *out) {
    buf_printf(
        out,
        ".TH WEFT 1 \"\" \"weft %s\" \"User Commands\"\n"
        ".SH NAME\nweft \\- a transformer runtime\n"
        ".SH SYNOPSIS\n.B weft\n\\fICOMMAND\\fR [\\fIARGUMENT\\fR...]\n"
        ".SH DESCRIPTION\nRuns transformers from the folders in which Hugging Face hubs hold "
        "them (config.json, *.safetensors, a tokenizer).\nErrors are one line on standard "
        "error; results go to standard output.\n.SH COMMANDS\n",
        weft_version());
    for (int i = 0; cmd_rows[i]; i++)
        man_command(out, cmd_rows[i]);
    man_exits(out);
}

/* ---- The command ---- */

typedef struct {
    bool man;
} help_args;

static const arg_spec specs[] = {
    {"man", "", NULL, ARG_FLAG, NULL, 0, 0, NULL,
     "print the manual page (view: weft help --man | man -l -)", offsetof(help_args, man)},
};

weft_status help_unknown(const char *word) {
    const char *names[32];
    int n = 0;
    for (; cmd_rows[n] && n < CMD_COUNT(names); n++)
        names[n] = cmd_rows[n]->name;
    const char *near = args_nearest(word, names, n);
    return weft_fail(WEFT_USAGE, "%.200s: no such command; %s%s%s", word,
                     near ? "did you mean " : "weft help lists them", near ? near : "",
                     near ? "?" : "");
}

static weft_status print(const char *command, bool man) {
    const cmd_row *row = command ? cmd_find(command) : NULL;
    if (command && !row)
        return help_unknown(command);
    buf out;
    buf_init(&out, 1 << 20);
    if (man)
        manual(&out);
    else if (row)
        page(&out, row, cmd_width());
    else
        overview(&out);
    weft_status s = cmd_flush(&out);
    buf_fini(&out);
    return s;
}

int help_print(const char *command) {
    return cmd_fail(print(command, false));
}

static int run(int argc, char **argv) {
    help_args a = {0};
    const char *command = NULL;
    int n;
    weft_status s = args_parse(specs, CMD_COUNT(specs), argc, argv, &a, &command, 1, &n);
    return cmd_fail(s == WEFT_OK ? print(n > 0 ? command : NULL, a.man) : s);
}

const cmd_row cmd_help = {
    .name = "help",
    .usage = "[COMMAND] [--man]",
    .summary = "explain a command",
    .specs = specs,
    .nspec = CMD_COUNT(specs),
    .run = run,
};
