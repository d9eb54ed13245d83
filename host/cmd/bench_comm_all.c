/* SPDX-License-Identifier: Apache-2.0
 * `weft bench --comm` without a transport: every one that this machine has, by starting this
 * program again the way each of them is started. */
#include "host/base/err.h"
#include "host/cmd/bench.h"
#include "host/cmd/cmd.h"
#include "host/run/comm_nccl.h"
#include "host/run/comm_proc.h"
#include "host/run/device.h"
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_WORDS = 64, MOST_RANKS = 64 };
extern char **environ;

typedef struct {
    const bench_comm_args *a;
    char *word[MOST_WORDS], ranks[16];
    buf rows; /* of JSON, without brackets */
} all_runs;

static weft_status start(char **word, int out, pid_t *pid) {
    posix_spawn_file_actions_t act;
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_adddup2(&act, out, STDOUT_FILENO);
    int bad = posix_spawnp(pid, word[0], &act, NULL, word, environ);
    posix_spawn_file_actions_destroy(&act);
    return bad ? weft_fail(WEFT_IO, "%s: cannot be started: %s", word[0], strerror(bad)) : WEFT_OK;
}

/* A process that failed has said why. */
static weft_status wait_for(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return WEFT_OK;
    return weft_fail(WEFT_PEER, "--comm: a rank ended with exit code %d",
                     WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

static void read_all(int fd, buf *out) {
    char block[4096];
    for (ssize_t n; (n = read(fd, block, sizeof block)) > 0;)
        buf_add(out, block, (size_t)n);
}

/* Tables pass through, arrays become one. */
static weft_status run_words(all_runs *r, char **word, int processes) {
    pid_t pid[MOST_RANKS];
    int fd[2], n = 0;
    weft_status s = WEFT_OK;
    buf text;
    if (pipe(fd))
        return weft_fail(WEFT_IO, "pipe: %s", strerror(errno));
    for (; n < processes && s == WEFT_OK; n++) {
        char rank[16];
        snprintf(rank, sizeof rank, "%d", n);
        if (processes > 1)
            setenv("RANK", rank, 1);
        s = start(word, fd[1], &pid[n]);
        n -= s != WEFT_OK;
    }
    close(fd[1]);
    buf_init(&text, SIZE_MAX);
    read_all(fd[0], &text);
    close(fd[0]);
    for (int i = 0; i < n; i++) {
        weft_status one = wait_for(pid[i]);
        s = s == WEFT_OK ? one : s;
    }
    if (s == WEFT_OK && !r->a->json)
        s = cmd_flush(&text);
    else if (s == WEFT_OK && text.len > 3)
        buf_printf(&r->rows, "%s%.*s", r->rows.len ? ",\n " : "", (int)text.len - 3, text.data + 1);
    buf_fini(&text);
    return s;
}

static weft_status run_kind(all_runs *r, const char *kind, int processes) {
    char **word = r->word + 4; /* behind room for mpirun's */
    int n = 0;
    while (word[n])
        n++;
    char *over = strdup(kind);
    word[n] = "--comm";
    word[n + 1] = over;
    word[n + 2] = NULL;
    bool mpi = strcmp(kind, "mpi") == 0;
    weft_status s = run_words(r, mpi ? r->word : word, processes);
    word[n] = NULL;
    free(over);
    return s;
}

static weft_status run_tcp(all_runs *r) {
    uint16_t port = 0;
    char text[16];
    int fd = boot_listen(0, &port);
    if (fd >= 0)
        close(fd);
    snprintf(text, sizeof text, "%d", port);
    setenv("WORLD_SIZE", r->ranks, 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    setenv("MASTER_PORT", text, 1);
    weft_status s = run_kind(r, "tcp", r->a->ranks);
    static const char *const set[] = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"};
    for (int i = 0; i < 4; i++)
        unsetenv(set[i]);
    return s;
}

static bool is_there(const char *program) {
    char path[4096];
    const char *at = getenv("PATH");
    for (size_t n; at && *at; at += n + (at[n] == ':')) {
        n = strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s/%s", (int)n, at, program);
        if (access(path, X_OK) == 0)
            return true;
    }
    return false;
}

static bool has_gpus(const bench_comm_args *a) {
    const nccl_library *nccl;
    device *d = NULL;
    bool enough = device_open(a->device, NULL, &d) == WEFT_OK && d->gpus >= a->ranks;
    device_close(d);
    return enough && comm_nccl_load(&nccl) == WEFT_OK;
}

static void skip(const all_runs *r, const char *kind, const char *why) {
    if (!r->a->json)
        fprintf(stderr, "%s: skipped: %s\n", kind, why);
}

static weft_status run_each(all_runs *r) {
    WEFT_TRY(run_kind(r, "local", 1));
    WEFT_TRY(run_tcp(r));
    if (is_there("mpirun") && comm_mpi_found())
        WEFT_TRY(run_kind(r, "mpi", 1));
    else
        skip(r, "mpi", "no Open MPI here");
    if (has_gpus(r->a))
        return run_kind(r, "nccl", 1);
    skip(r, "nccl", "not as many GPUs as ranks, or no libnccl.so.2");
    return WEFT_OK;
}

weft_status bench_comm_all(const bench_comm_args *a, int argc, char **argv) {
    all_runs r = {.a = a};
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0 || argc > MOST_WORDS - 12)
        return weft_fail(WEFT_IO, "/proc/self/exe: %s", strerror(errno));
    self[length] = 0;
    snprintf(r.ranks, sizeof r.ranks, "%d", a->ranks);
    char *words[] = {"mpirun", "--oversubscribe", "-n", r.ranks, self, "bench", "--collectives"};
    int n = sizeof words / sizeof *words;
    memcpy(r.word, words, sizeof words);
    for (int i = 0; i < argc; i++)
        r.word[n++] = argv[i];
    buf_init(&r.rows, SIZE_MAX);
    weft_status s = run_each(&r);
    buf all;
    buf_init(&all, SIZE_MAX);
    buf_printf(&all, "[%.*s]\n", (int)r.rows.len, r.rows.len ? r.rows.data : "");
    if (s == WEFT_OK && a->json)
        s = cmd_flush(&all);
    buf_fini(&all);
    buf_fini(&r.rows);
    return s;
}
