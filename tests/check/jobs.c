/* SPDX-License-Identifier: Apache-2.0
 * The checker in several processes. A GPU's fault kills the process's context and a kernel may
 * never end; each share of the cases therefore has its own process and its own time. */
#include "host/base/clock.h"
#include "host/run/registry.h"
#include "tests/check/check.h"
#include <fnmatch.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SHARE = 100, MOST_SHARES = 8 }; /* cases worth a process */

static void add(check_jobs *j, weft_op op, int shard, int shards, const char *row) {
    if (j->n < CHECK_JOBS)
        j->job[j->n++] = (check_job){.op = op, .shard = shard, .shards = shards, .row = row};
}

void check_jobs_add(check_jobs *j, weft_op op, int64_t cases) {
    int64_t shares = (cases + SHARE - 1) / SHARE;
    int n = (int)(shares < MOST_SHARES ? shares : MOST_SHARES);
    for (int i = 0; i < n; i++)
        add(j, op, i, n, NULL);
}

void check_jobs_add_type(check_jobs *j, weft_op op, int dtype) {
    add(j, op, 0, 1, NULL);
    j->job[j->n - 1].dtype = weft_dtype_name(dtype);
}

static int waiting(const check_jobs *j) {
    int n = 0;
    for (int i = 0; i < j->n; i++)
        n += !j->job[i].running && !j->job[i].done;
    return n;
}

/* What is left of the time, shared among those that still wait. */
static double seconds_for(const check_jobs *j) {
    double left = j->until - clock_seconds(), share = left * j->jobs / (waiting(j) + 1);
    if (j->until == 0)
        return 0;
    if (share > left)
        share = left;
    return share < 2 ? 2 : share;
}

static void child(const check_jobs *j, const check_job *job, int seconds) {
    const char *argv[28];
    char text[5][32];
    int n = 0;
    argv[n++] = "checkkernels";
    argv[n++] = "--json";
    argv[n++] = "--op";
    argv[n++] = weft_op_table[job->op].name;
    argv[n++] = "--backend";
    argv[n++] = j->backend;
    argv[n++] = "--row";
    argv[n++] = job->row ? job->row : j->row;
    snprintf(text[0], sizeof text[0], "--seed=%lld", (long long)j->seed);
    snprintf(text[1], sizeof text[1], "--threads=%lld", (long long)j->threads);
    snprintf(text[2], sizeof text[2], "--shard=%d/%d", job->shard, job->shards);
    snprintf(text[3], sizeof text[3], "--seconds=%d", seconds);
    snprintf(text[4], sizeof text[4], "--each=%lld", (long long)j->each);
    for (int i = 0; i < 5; i++)
        argv[n++] = text[i];
    argv[n++] = "--dtype";
    argv[n++] = job->dtype ? job->dtype : "*";
    if (j->all_long)
        argv[n++] = "--long";
    if (j->quick)
        argv[n++] = "--quick";
    argv[n] = NULL;
    dup2(fileno(job->tally), STDOUT_FILENO);
    dup2(fileno(job->words), STDERR_FILENO);
    execv("/proc/self/exe", (char **)argv);
    _exit(127);
}

static bool start(check_jobs *j, check_job *job) {
    int seconds = (int)seconds_for(j);
    job->words = tmpfile();
    job->tally = tmpfile();
    fflush(NULL);
    pid_t pid = job->words && job->tally ? fork() : -1;
    if (pid == 0)
        child(j, job, seconds);
    job->pid = pid;
    job->running = pid > 0;
    job->done = pid < 0;
    job->until = clock_seconds() + (seconds ? seconds + 30.0 : 0) + (seconds ? 0 : j->timeout);
    return pid > 0;
}

static void copy_words(check_jobs *j, FILE *from) {
    char line[2048];
    rewind(from);
    while (fgets(line, sizeof line, from))
        fputs(line, j->words);
    fflush(j->words);
}

static void read_tally(check_jobs *j, FILE *from) {
    long long cases, failed, skipped;
    rewind(from);
    if (fscanf(from, "{\"cases\":%lld,\"failed\":%lld,\"skipped\":%lld}", &cases, &failed,
               &skipped) != 3)
        return;
    j->cases += cases;
    j->failed += failed;
    j->skipped += skipped;
    check_counts_read(&j->counts, from);
}

static bool wanted(const check_jobs *j, const weft_kernel *r, weft_op op) {
    return r->op == op && fnmatch(j->backend, r->backend, 0) == 0 &&
           fnmatch(j->row, r->name, 0) == 0;
}

static void row_by_row(check_jobs *j, const check_job *job) {
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++)
            if (wanted(j, r, job->op))
                add(j, job->op, job->shard, job->shards, r->name);
}

static void finish(check_jobs *j, check_job *job, int status, bool late) {
    int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    const char *op = weft_op_table[job->op].name, *row = job->row ? job->row : j->row;
    copy_words(j, job->words);
    read_tally(j, job->tally);
    fclose(job->words);
    fclose(job->tally);
    job->running = false;
    job->done = true;
    if (!signal && code <= 1)
        return;
    j->failed++;
    fprintf(j->words, "FAIL %s %s/%s, share %d/%d: ", op, j->backend, row, job->shard, job->shards);
    if (late)
        fprintf(j->words, "no answer in time, killed\n");
    else if (signal)
        fprintf(j->words, "killed by signal %d (%s)\n", signal, strsignal(signal));
    else
        fprintf(j->words, "%s (exit code %d)\n",
                code == CHECK_DEAD ? "the device was lost" : "it could not run", code);
    if (!job->row && (signal || code == CHECK_DEAD))
        row_by_row(j, job);
}

static void look_after(check_jobs *j, check_job *job) {
    int status = 0;
    bool late = clock_seconds() > job->until;
    if (late)
        kill(job->pid, SIGKILL);
    if (waitpid(job->pid, &status, late ? 0 : WNOHANG) == job->pid)
        finish(j, job, status, late);
}

void check_jobs_run(check_jobs *j) {
    for (;;) {
        int running = 0;
        for (int i = 0; i < j->n; i++) {
            if (j->job[i].running)
                look_after(j, &j->job[i]);
            running += j->job[i].running;
        }
        for (int i = 0; i < j->n && running < j->jobs; i++)
            if (!j->job[i].running && !j->job[i].done)
                running += start(j, &j->job[i]);
        if (!running && !waiting(j))
            return;
        usleep(20000);
    }
}
