/* SPDX-License-Identifier: Apache-2.0
 * The ranks of a run: threads of this process, or processes with one each. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/run/comm_proc.h"
#include "host/run/sched.h"
#include "host/train/elastic.h"
#include <stdio.h>
#include <string.h>

enum { WHY_BYTES = 1024 };

typedef struct {
    loop_options o;
    loop_result result;
    weft_status status;
    char why[WHY_BYTES];
} rank_run;

typedef struct {
    comm_link *const *link;
    rank_run *rank;
} ranks_run;

static void run_rank(void *ctx, int rank) {
    const ranks_run *all = ctx;
    rank_run *r = &all->rank[rank];
    r->status = comm_attend(all->link[rank]);
    if (r->status == WEFT_OK)
        r->status = loop_rank(&r->o, all->link[rank], &r->result);
    if (r->status != WEFT_OK)
        snprintf(r->why, sizeof r->why, "%s", err_message());
    comm_done(all->link[rank]);
}

/* Rank 0 alone speaks and writes. */
static loop_options options_of(const loop_options *o, int rank, int threads) {
    loop_options r = *o;
    r.train.rank = rank;
    r.train.threads = threads > 1 ? threads : 1;
    if (rank > 0) {
        r.opened = NULL;
        r.line = NULL;
        r.note = NULL;
        r.stop = NULL;
        r.guard = NULL;
    }
    return r;
}

/* The rank that failed by itself, not because another one did. */
static const rank_run *first_failure(const ranks_run *all, int n) {
    const rank_run *peer = NULL;
    for (int i = 0; i < n; i++) {
        if (all->rank[i].status == WEFT_PEER && !peer)
            peer = &all->rank[i];
        else if (all->rank[i].status != WEFT_OK && all->rank[i].status != WEFT_PEER)
            return &all->rank[i];
    }
    return peer;
}

/* Threads are dealt out. */
static weft_status run_team(ranks_run *all, const loop_options *o, loop_result *out) {
    sched_team *team;
    int n = mesh_ranks(&o->train), threads = o->train.threads ? o->train.threads : thread_cores();
    WEFT_TRY(sched_team_open(n, &team));
    for (int i = 0; i < n; i++)
        all->rank[i].o = options_of(o, i, threads / n);
    sched_team_run(team, run_rank, all);
    sched_team_close(team);
    *out = all->rank[0].result;
    const rank_run *failed = first_failure(all, n);
    if (failed)
        err_set_message(failed->why);
    return failed ? failed->status : WEFT_OK;
}

static weft_status run_here(ranks_run *all, const loop_options *o, loop_result *out) {
    all->rank = mem_alloc(sizeof *all->rank * (size_t)mesh_ranks(&o->train));
    weft_status s = run_team(all, o, out);
    mem_free(all->rank);
    return s;
}

/* Every rank of the machine leaves the others their share of its cores. */
static weft_status run_self(comm_link *link, int self, const loop_options *o, loop_result *out) {
    int threads = o->train.threads;
    if (!threads)
        threads = thread_cores() / mesh_ranks(&o->train);
    loop_options mine = options_of(o, self, threads);
    return loop_rank(&mine, link, out);
}

/* One epoch: until the end, or until a rank is lost. */
static weft_status run_ranks(const elastic *e, loop_result *out) {
    ranks_run all = {.link = e->link};
    if (e->ranks == 1)
        return loop_rank(&e->now, NULL, out);
    return e->self < 0 ? run_here(&all, &e->now, out)
                       : run_self(e->link[e->self], e->self, &e->now, out);
}

/* Ranks with a GPU each have its memory moved by NCCL; all others move the host's. */
static weft_status open_shared(const loop_options *o, int ranks, device **out) {
    device_gpu found;
    const char *name = o->train.device ? o->train.device : "auto";
    bool nccl = o->train.comm && strcmp(o->train.comm, "nccl") == 0, cuda;
    cuda = strcmp(name, "cuda") == 0 ||
           (strcmp(name, "auto") == 0 && device_cuda_find(&found) == WEFT_OK);
    *out = NULL;
    if (ranks == 1 || !(nccl || cuda))
        return WEFT_OK;
    if (o->elastic)
        return weft_fail(WEFT_USAGE, "--elastic: ranks on GPUs do not meet again after a failure; "
                                     "leave it out and go on by --resume auto");
    return device_open(name, o->train.cpu_level, out);
}

weft_status loop_run(const loop_options *o, loop_result *out) {
    int n = mesh_ranks(&o->train), self;
    comm_link *link[COMM_MAX_RANKS] = {NULL};
    char flags[64], why[WHY_BYTES];
    elastic e;
    bool again = true;
    mesh_flags(&o->train, flags, sizeof flags);
    if (n > COMM_MAX_RANKS)
        return weft_fail(WEFT_USAGE, "%s: %d ranks (at most %d)", flags, n, COMM_MAX_RANKS);
    WEFT_TRY(elastic_check(o));
    loop_options mine = *o;
    WEFT_TRY(open_shared(o, n, &mine.train.shared));
    weft_status s = comm_open(mine.train.shared, o->train.comm, flags, n, o->train.timeout, link,
                              &self);
    if (s != WEFT_OK) {
        device_close(mine.train.shared);
        return s;
    }
    s = elastic_begin(&e, &mine, link, self, n);
    if (s != WEFT_OK) /* the others wait for this one */
        comm_abort(link[self < 0 ? 0 : self], s);
    while (s == WEFT_OK && again)
        s = elastic_next(&e, run_ranks(&e, out), out, &again);
    snprintf(why, sizeof why, "%s", err_message()); /* closing fails too where a rank is gone */
    for (int i = 0; i < COMM_MAX_RANKS; i++)
        comm_close(link[i]);
    elastic_end(&e, s);
    device_close(mine.train.shared);
    err_set_message(why);
    return s;
}
