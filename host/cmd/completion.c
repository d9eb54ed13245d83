/* SPDX-License-Identifier: Apache-2.0
 * `weft completion SHELL`: scripts for bash, zsh and fish, written from the command table. */
#include "host/cmd/cmd.h"
#include <string.h>

static void choices(buf *out, const char *value) {
    for (; *value; value++)
        buf_putc(out, *value == '|' ? ' ' : *value);
}

/* ---- bash ---- */

static void bash_words(buf *out, const cmd_row *row) {
    for (int i = 0; i < row->nspec; i++) {
        const arg_spec *s = &row->specs[i];
        buf_printf(out, "--%s ", s->name);
        if (s->alias)
            buf_printf(out, "--%s ", s->alias);
    }
    buf_puts(out, "--help");
}

/* Values of a choice; numbers and text complete to nothing; everything else is a file. */
static void bash_values(buf *out, const cmd_row *row) {
    for (int i = 0; i < row->nspec; i++) {
        const arg_spec *s = &row->specs[i];
        bool file = s->kind == ARG_STRING &&
                    (!strcmp(s->value, "FILE") || !strcmp(s->value, "MODEL"));
        if (s->kind == ARG_FLAG || file)
            continue;
        buf_printf(out, "    %s:--%s", row->name, s->name);
        if (s->alias)
            buf_printf(out, " | %s:--%s", row->name, s->alias);
        if (s->brief && *s->brief)
            buf_printf(out, " | %s:-%s", row->name, s->brief);
        buf_puts(out, ") ");
        if (s->kind == ARG_CHOICE) {
            buf_puts(out, "COMPREPLY=($(compgen -W \"");
            choices(out, s->value);
            buf_puts(out, "\" -- \"$cur\")); ");
        }
        buf_puts(out, "return ;;\n");
    }
}

static void bash(buf *out) {
    buf_puts(out, "# bash completion for weft: eval \"$(weft completion bash)\"\n"
                  "_weft() {\n"
                  "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                  "    local cmd=${COMP_WORDS[1]} words=\n"
                  "    COMPREPLY=()\n"
                  "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                  "        COMPREPLY=($(compgen -W \"");
    for (int i = 0; cmd_rows[i]; i++)
        buf_printf(out, "%s ", cmd_rows[i]->name);
    buf_puts(out, "--help --version\" -- \"$cur\"))\n        return\n    fi\n"
                  "    case $cmd:$prev in\n");
    for (int i = 0; cmd_rows[i]; i++)
        bash_values(out, cmd_rows[i]);
    buf_puts(out, "    esac\n    case $cmd in\n");
    for (int i = 0; cmd_rows[i]; i++) {
        buf_printf(out, "    %s) words=\"", cmd_rows[i]->name);
        bash_words(out, cmd_rows[i]);
        buf_puts(out, "\" ;;\n");
    }
    buf_puts(out, "    esac\n"
                  "    if [[ $cur == -* ]]; then\n"
                  "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                  "    elif [ \"$cmd\" = help ]; then\n"
                  "        COMPREPLY=($(compgen -W \"");
    for (int i = 0; cmd_rows[i]; i++)
        buf_printf(out, "%s%s", i ? " " : "", cmd_rows[i]->name);
    buf_puts(out, "\" -- \"$cur\"))\n"
                  "    elif [ \"$cmd\" = completion ]; then\n"
                  "        COMPREPLY=($(compgen -W \"bash zsh fish\" -- \"$cur\"))\n"
                  "    fi\n}\n"
                  "complete -o default -F _weft weft\n");
}

/* ---- zsh ---- */

/* Inside single quotes, and for _arguments also inside [...] and before ':'. */
static void zsh_text(buf *out, const char *s) {
    for (; *s; s++) {
        if (*s == '\'')
            buf_puts(out, "'\\''");
        else if (strchr("[]:\\", *s))
            buf_printf(out, "\\%c", *s);
        else
            buf_putc(out, *s);
    }
}

static void zsh_spec(buf *out, const char *dash, const char *name, const arg_spec *s) {
    buf_printf(out, "            '%s%s%s[", s->kind == ARG_LIST ? "*" : "", dash, name);
    zsh_text(out, s->help);
    buf_putc(out, ']');
    if (s->kind != ARG_FLAG) {
        buf_puts(out, ":");
        zsh_text(out, s->kind == ARG_CHOICE ? s->name : s->value);
        buf_putc(out, ':');
        if (s->kind == ARG_CHOICE) {
            buf_putc(out, '(');
            choices(out, s->value);
            buf_putc(out, ')');
        } else if (s->kind == ARG_STRING &&
                   (!strcmp(s->value, "FILE") || !strcmp(s->value, "MODEL"))) {
            buf_puts(out, "_files");
        }
    }
    buf_puts(out, "' \\\n");
}

static void zsh(buf *out) {
    buf_puts(out,
             "#compdef weft\n# zsh completion for weft: weft completion zsh > DIR_IN_FPATH/_weft\n"
             "_weft() {\n    local -a commands\n    commands=(\n");
    for (int i = 0; cmd_rows[i]; i++) {
        buf_printf(out, "        '%s:", cmd_rows[i]->name);
        zsh_text(out, cmd_rows[i]->summary);
        buf_puts(out, "'\n");
    }
    buf_puts(out, "    )\n    if (( CURRENT == 2 )); then\n"
                  "        _describe 'command' commands\n        return\n    fi\n"
                  "    local command=$words[2]\n"
                  "    shift words\n    (( CURRENT-- ))\n    case $command in\n");
    for (int i = 0; cmd_rows[i]; i++) {
        const cmd_row *row = cmd_rows[i];
        buf_printf(out, "    %s)\n        _arguments \\\n", row->name);
        for (int k = 0; k < row->nspec; k++) {
            zsh_spec(out, "--", row->specs[k].name, &row->specs[k]);
            if (row->specs[k].brief && *row->specs[k].brief)
                zsh_spec(out, "-", row->specs[k].brief, &row->specs[k]);
        }
        if (row == &cmd_help)
            buf_puts(out, "            '1:command:($commands[@]%%:*)'\n        ;;\n");
        else if (row == &cmd_completion)
            buf_puts(out, "            '1:shell:(bash zsh fish)'\n        ;;\n");
        else
            buf_puts(out, "            '*:file:_files'\n        ;;\n");
    }
    buf_puts(out, "    esac\n}\nif [ \"$funcstack[1]\" = _weft ]; then\n    _weft \"$@\"\n"
                  "else\n    compdef _weft weft\nfi\n");
}

/* ---- fish ---- */

static void fish_text(buf *out, const char *s) {
    for (; *s; s++) {
        if (*s == '\'' || *s == '\\')
            buf_putc(out, '\\');
        buf_putc(out, *s);
    }
}

static void fish_spec(buf *out, const cmd_row *row, const arg_spec *s) {
    buf_printf(out, "complete -c weft -n '__fish_seen_subcommand_from %s' -l %s", row->name,
               s->name);
    if (s->brief && *s->brief)
        buf_printf(out, " -%c %s", s->brief[1] ? 'o' : 's', s->brief);
    if (s->kind == ARG_CHOICE) {
        buf_puts(out, " -x -a '");
        choices(out, s->value);
        buf_putc(out, '\'');
    } else if (s->kind != ARG_FLAG) {
        buf_puts(out, " -r");
    }
    buf_puts(out, " -d '");
    fish_text(out, s->help);
    buf_puts(out, "'\n");
}

static void fish(buf *out) {
    buf_puts(out, "# fish completion for weft: weft completion fish | source\n");
    for (int i = 0; cmd_rows[i]; i++) {
        buf_printf(out, "complete -c weft -f -n __fish_use_subcommand -a %s -d '",
                   cmd_rows[i]->name);
        fish_text(out, cmd_rows[i]->summary);
        buf_puts(out, "'\n");
    }
    for (int i = 0; cmd_rows[i]; i++)
        for (int k = 0; k < cmd_rows[i]->nspec; k++)
            fish_spec(out, cmd_rows[i], &cmd_rows[i]->specs[k]);
    buf_puts(
        out,
        "complete -c weft -f -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n");
}

/* ---- The command ---- */

static const struct {
    const char *name;
    void (*write)(buf *out);
} shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};

static weft_status print(const char *shell) {
    for (int i = 0; i < CMD_COUNT(shells); i++) {
        if (strcmp(shells[i].name, shell) != 0)
            continue;
        buf out;
        buf_init(&out, 1 << 20);
        shells[i].write(&out);
        weft_status s = cmd_flush(&out);
        buf_fini(&out);
        return s;
    }
    return weft_fail(WEFT_USAGE, "SHELL: \"%.100s\" is not a choice; one of bash|zsh|fish", shell);
}

static int run(int argc, char **argv) {
    const char *shell = NULL;
    int n;
    weft_status s = args_parse(NULL, 0, argc, argv, NULL, &shell, 1, &n);
    if (s == WEFT_OK && n == 0)
        s = weft_fail(WEFT_USAGE, "SHELL: missing; usage: weft completion bash|zsh|fish");
    return cmd_fail(s == WEFT_OK ? print(shell) : s);
}

const cmd_row cmd_completion = {
    .name = "completion",
    .usage = "bash|zsh|fish",
    .summary = "print a completion script for a shell",
    .notes = "  eval \"$(weft completion bash)\"            # in ~/.bashrc\n"
             "  weft completion zsh > DIR_IN_FPATH/_weft\n"
             "  weft completion fish | source              # in config.fish",
    .run = run,
};
