/* SPDX-License-Identifier: Apache-2.0
 * The data-parallel ranks of a run as threads of this process. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/thread.h"
#include "host/run/sched.h"
#include "host/train/loop.h"
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
    comm_link *link[COMM_MAX_RANKS];
    rank_run *rank;
} ranks_run;

static void run_rank(void *ctx, int rank) {
    const ranks_run *all = ctx;
    rank_run *r = &all->rank[rank];
    r->status = loop_rank(&r->o, all->link[rank], &r->result);
    if (r->status != WEFT_OK)
        snprintf(r->why, sizeof r->why, "%s", err_message());
}

/* Cores are dealt out; rank 0 alone speaks and writes. */
static loop_options options_of(const loop_options *o, int rank) {
    loop_options r = *o;
    int threads = o->train.threads ? o->train.threads : thread_cores();
    r.train.rank = rank;
    r.train.threads = threads / o->train.dp > 1 ? threads / o->train.dp : 1;
    if (rank > 0) {
        r.opened = NULL;
        r.line = NULL;
        r.note = NULL;
        r.stop = NULL;
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

static weft_status run_team(ranks_run *all, const loop_options *o, loop_result *out) {
    sched_team *team;
    int n = o->train.dp;
    WEFT_TRY(sched_team_open(n, &team));
    for (int i = 0; i < n; i++)
        all->rank[i].o = options_of(o, i);
    sched_team_run(team, run_rank, all);
    sched_team_close(team);
    *out = all->rank[0].result;
    const rank_run *failed = first_failure(all, n);
    if (failed)
        err_set_message(failed->why);
    return failed ? failed->status : WEFT_OK;
}

weft_status loop_run(const loop_options *o, loop_result *out) {
    int n = o->train.dp;
    ranks_run all = {.rank = NULL};
    if (n <= 1)
        return loop_rank(o, NULL, out);
    if (n > COMM_MAX_RANKS)
        return weft_fail(WEFT_USAGE, "--dp: %d ranks (at most %d)", n, COMM_MAX_RANKS);
    WEFT_TRY(comm_local_open(n, o->train.timeout, all.link));
    all.rank = mem_alloc(sizeof *all.rank * (size_t)n);
    weft_status s = run_team(&all, o, out);
    mem_free(all.rank);
    for (int i = 0; i < n; i++)
        comm_close(all.link[i]);
    return s;
}
