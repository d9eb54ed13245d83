/* SPDX-License-Identifier: Apache-2.0
 * `weft doctor --job`: where each rank of a job on this host is, from the flight records, and whom
 * the others wait for. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/cmd/cmd.h"
#include "host/cmd/doctor.h"
#include "host/run/flight_record.h"
#include <dirent.h>
#include <stdio.h>
#include <string.h>

enum { PLACES_SHOWN = 3 };

typedef struct {
    flight_record *record[FLIGHT_MAX_RANKS]; /* by file */
    int n, ranks;
    int64_t epoch;                      /* the last in which its ranks met */
    const flight *of[FLIGHT_MAX_RANKS]; /* by rank: its own, or what others have heard */
    const flight_record *owner[FLIGHT_MAX_RANKS];
    char job[FLIGHT_JOB_BYTES];
} job_view;

/* A rank that the others have left behind is not one of the job's any more. */
static void place_records(job_view *v) {
    for (int n = 0; n < v->n; n++)
        v->epoch = v->record[n]->epoch > v->epoch ? v->record[n]->epoch : v->epoch;
    for (int n = 0; n < v->n; n++) {
        flight_record *r = v->record[n];
        if (r->epoch != v->epoch)
            continue;
        v->ranks = r->ranks > v->ranks ? r->ranks : v->ranks;
        for (int i = 0; i < r->ranks; i++)
            if (r->rank < 0 || r->rank == i) {
                v->of[i] = &r->flight[i];
                v->owner[i] = r;
            }
    }
}

/* The records of `job`, or of whichever job is found first ("any"). */
static void gather(job_view *v, const char *job) {
    DIR *d = opendir(FLIGHT_FOLDER);
    snprintf(v->job, sizeof v->job, "%s", strcmp(job, "any") == 0 ? "" : job);
    for (struct dirent *e; d && (e = readdir(d)) && v->n < FLIGHT_MAX_RANKS;) {
        flight_record *r;
        if (strncmp(e->d_name, FLIGHT_PREFIX, strlen(FLIGHT_PREFIX)) != 0 ||
            !(r = flight_record_read(e->d_name)))
            continue;
        if (!v->job[0])
            snprintf(v->job, sizeof v->job, "%s", r->job);
        if (strcmp(r->job, v->job) == 0)
            v->record[v->n++] = r;
        else
            flight_record_forget(r);
    }
    if (d)
        closedir(d);
    place_records(v);
}

static const char *state_words(const flight_record *r) {
    char s = r ? flight_process(r->pid) : '?';
    return s == 'R' ? "running" : s == 'T' ? "stopped" : s == 'X' ? "gone" : "elsewhere";
}

static void print_rank(const job_view *v, int rank, buf *out) {
    const flight_record *r = v->owner[rank];
    buf_printf(out, "rank %d of %d  host %s  pid %d  %s\n", rank, v->ranks, r ? r->host : "?",
               r ? r->pid : 0, state_words(r));
    for (int back = 0; v->of[rank] && back < PLACES_SHOWN; back++) {
        char text[200];
        flight_place p;
        if (!flight_last(v->of[rank], (uint64_t)back, &p))
            break;
        flight_text(&p, clock_seconds(), text, sizeof text);
        buf_printf(out, "  %s\n", text);
    }
}

static void print_left_behind(const job_view *v, buf *out) {
    for (int i = 0; i < v->n; i++) {
        const flight_record *r = v->record[i];
        if (r->epoch < v->epoch)
            buf_printf(out, "left behind: rank %d of %d  host %s  pid %d  %s\n", r->rank, r->ranks,
                       r->host, r->pid, state_words(r));
    }
}

/* Nobody waits for who has ended; a process that cannot run keeps everybody waiting. */
static void print_verdict(const job_view *v, buf *out) {
    static flight all[FLIGHT_MAX_RANKS];
    int waiting = -1;
    for (int r = 0; r < v->ranks; r++) {
        const char *state = state_words(v->owner[r]);
        if (strcmp(state, "gone") == 0 || strcmp(state, "stopped") == 0) {
            buf_printf(out, "rank %d is behind: its process is %s\n", r, state);
            return;
        }
        if (v->of[r])
            memcpy(&all[r], v->of[r], sizeof all[r]);
        waiting = atomic_load(&all[r].waits) ? r : waiting;
    }
    if (waiting >= 0)
        buf_printf(out, "rank %d is behind\n", flight_culprit(all, v->ranks, waiting));
    else
        buf_puts(out, "no rank waits for another\n");
}

weft_status doctor_job(const char *job) {
    job_view v = {.n = 0};
    buf out;
    gather(&v, job);
    if (v.n == 0)
        return weft_fail(WEFT_USAGE,
                         "--job: no job \"%.40s\" on this host; a job that ended leaves "
                         "no record",
                         job);
    buf_init(&out, SIZE_MAX);
    buf_printf(&out, "job %s", v.job);
    if (v.epoch > 0)
        buf_printf(&out, ", restarted %lld times", (long long)v.epoch);
    buf_puts(&out, "\n");
    for (int r = 0; r < v.ranks; r++)
        print_rank(&v, r, &out);
    print_left_behind(&v, &out);
    print_verdict(&v, &out);
    weft_status s = cmd_flush(&out);
    buf_fini(&out);
    for (int i = 0; i < v.n; i++)
        flight_record_forget(v.record[i]);
    flight_record_sweep(v.job, false);
    return s;
}
