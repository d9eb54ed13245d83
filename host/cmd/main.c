/* SPDX-License-Identifier: Apache-2.0
 * weft: finds the command's row and hands over. */
#include "host/base/mem.h"
#include "host/cmd/cmd.h"
#include "host/run/launch.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const cmd_row *const cmd_rows[] = {
    &cmd_run,      &cmd_batch,   &cmd_chat,       &cmd_score,  &cmd_train,
    &cmd_merge,    &cmd_data,    &cmd_eval,       &cmd_report, &cmd_quantize,
    &cmd_tokenize, &cmd_inspect, &cmd_plan,       &cmd_bench,  &cmd_template,
    &cmd_sample,   &cmd_doctor,  &cmd_completion, &cmd_help,   NULL,
};

const cmd_row *cmd_find(const char *name) {
    for (int i = 0; cmd_rows[i]; i++)
        if (strcmp(cmd_rows[i]->name, name) == 0)
            return cmd_rows[i];
    return NULL;
}

/* Standard descriptors that the caller closed would be given to the first files opened. stdout is
 * filled with one that cannot be written, so that output fails instead of vanishing. */
static void hold_standard_fds(void) {
    static const int mode[3] = {O_RDONLY, O_RDONLY, O_WRONLY};
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", mode[fd]) < 0)
            return;
}

static const arg_spec *spec_of(const cmd_row *row, const char *word) {
    for (int i = 0; i < row->nspec; i++) {
        const arg_spec *s = &row->specs[i];
        bool is_long = word[0] == '-' && word[1] == '-';
        const char *name = word + 1 + is_long;
        if (is_long ? strcmp(s->name, name) == 0 || (s->alias && strcmp(s->alias, name) == 0)
                    : s->brief && *s->brief && strcmp(s->brief, name) == 0)
            return s;
    }
    return NULL;
}

/* --help or -h anywhere among the options, but not as the value of one. */
static bool wants_help(const cmd_row *row, int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
        const arg_spec *s = argv[i][0] == '-' ? spec_of(row, argv[i]) : NULL;
        if (s && s->kind != ARG_FLAG)
            i++;
    }
    return false;
}

/* Commands whose processes may be ranks of one job: what they do is a function of their arguments,
 * and they write nothing but what rank 0 prints. */
static bool runs_on_ranks(const cmd_row *row) {
    return row == &cmd_run || row == &cmd_batch || row == &cmd_score || row == &cmd_bench ||
           row == &cmd_train;
}

static int version(void) {
    char text[64];
    int n = snprintf(text, sizeof text, "weft %s\n", weft_version());
    return cmd_fail(cmd_write(text, (size_t)n));
}

int main(int argc, char **argv) {
    hold_standard_fds();
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of the write */
    const char *word = argc > 1 ? argv[1] : "help";
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        return version();
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        word = "help";
    const cmd_row *row = cmd_find(word);
    if (!row)
        return cmd_fail(help_unknown(word));
    int rest = argc > 2 ? argc - 2 : 0;
    launch_set_words(argc, argv);
    if (runs_on_ranks(row))
        cmd_quiet_rank();
    else
        launch_refuse(row->name);
    if (wants_help(row, rest, argv + 2))
        return help_print(row->name);
    return row->run(rest, rest > 0 ? argv + 2 : NULL);
}
