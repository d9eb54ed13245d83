/* SPDX-License-Identifier: Apache-2.0 */
#include "host/train/elastic.h"
#include "host/base/err.h"
#include "host/run/comm_proc.h"
#include "host/run/flight_record.h"
#include "host/train/checkpoint_files.h"
#include "host/train/mesh.h"
#include "host/train/metrics.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { WHY_BYTES = 1024 };

/* ---- The mesh ---- */

/* Of the meshes that divide the one that was asked for, and so fit the model and the batch, the
 * largest; of those that are equally large the one that cuts the weights most. */
static shard_mesh largest(const train_options *o, int ranks) {
    shard_mesh m = mesh_size(o), best = {.tp = 1, .pp = 1, .dp = 1};
    for (int tp = m.tp; tp >= 1; tp--)
        for (int pp = m.pp; pp >= 1; pp--)
            for (int dp = m.dp; dp >= 1; dp--) {
                shard_mesh x = {.tp = tp, .pp = pp, .dp = dp};
                bool divides = m.tp % tp == 0 && m.pp % pp == 0 && m.dp % dp == 0;
                if (divides && shard_ranks(&x) <= ranks && shard_ranks(&x) > shard_ranks(&best))
                    best = x;
            }
    return best;
}

static int fit(void *ctx, int ranks) {
    const elastic *e = ctx;
    shard_mesh m = largest(&e->asked->train, ranks);
    return shard_ranks(&m);
}

/* ---- The folder ---- */

static weft_status may_write(void *ctx) {
    return fence_held(ctx);
}

static weft_status claim(void *ctx, int64_t epoch) {
    elastic *e = ctx;
    return fence_claim(&e->fence, epoch);
}

static weft_status look(void *ctx, int64_t epoch) {
    const elastic *e = ctx;
    return fence_free(&e->fence, epoch);
}

static bool leads(const elastic *e) {
    return e->self <= 0;
}

static weft_status take_folder(elastic *e) {
    const loop_options *o = e->asked;
    WEFT_TRY(checkpoint_make_dir(o->out));
    if (!o->resume && *checkpoint_newest(o->out, &e->mem) != '\0')
        return weft_fail(WEFT_USAGE,
                         "%s: has checkpoints of another run, which a restart would go on from; "
                         "give --resume auto, or another -o",
                         o->out);
    return fence_claim(&e->fence, 0);
}

/* A name that only this job's processes know: all of them, or this one's threads. */
static weft_status name_job(elastic *e) {
    uint8_t drawn[BOOT_COOKIE_BYTES];
    const comm_link *link = e->link[e->self < 0 ? 0 : e->self];
    const uint8_t *secret = comm_proc_cookie(link);
    if (e->self >= 0 && !secret)
        return weft_fail(WEFT_USAGE, "--elastic: ranks cannot meet again over %s; give --comm tcp",
                         link->transport->name);
    if (!secret && getrandom(drawn, sizeof drawn, 0) != sizeof drawn)
        return weft_fail(WEFT_IO, "the system's random numbers cannot be read: %m");
    for (int i = 0; i < BOOT_COOKIE_BYTES; i++)
        snprintf(e->fence.job + 2 * i, 3, "%02x", secret ? secret[i] : drawn[i]);
    return WEFT_OK;
}

/* ---- Who is lost ---- */

static void on_lost(void *ctx, int rank, const char *host) {
    elastic *e = ctx;
    buf_printf(&e->lost, "; rank %d (%s) did not come back", rank, host);
}

static void note_loss(elastic *e, comm_link *link) {
    buf_clear(&e->lost);
    comm_status(link);
    buf_printf(&e->lost, "%s", err_message());
}

/* ---- The next epoch ---- */

static weft_status meet_threads(elastic *e, int blamed) {
    int left = e->ranks - (blamed >= 0);
    WEFT_TRY(fence_claim(&e->fence, e->fence.epoch + 1));
    e->ranks = fit(e, left);
    return comm_local_again(e->ranks, e->link);
}

static weft_status meet_processes(elastic *e, double patience) {
    boot_rules rules = {
        .ctx = e, .fit = fit, .claim = claim, .look = look, .lost = on_lost, .patience = patience};
    comm_link *link = e->link[e->self];
    int rank = -1;
    e->link[e->self] = NULL;
    weft_status s = comm_proc_regroup(&link, &rules, &rank, &e->ranks);
    e->over = s != WEFT_OK || rank < 0;
    e->self = rank;
    if (!e->over)
        e->link[rank] = link;
    return s;
}

/* What the rank that leads says once it knows the step. */
static void describe(elastic *e) {
    e->now = *e->asked;
    shard_mesh m = largest(&e->asked->train, e->ranks);
    e->now.train.tp = m.tp;
    e->now.train.pp = m.pp;
    e->now.train.dp = m.dp;
    e->now.train.interleave = m.pp > 1 ? e->now.train.interleave : 0;
    e->now.resume = true;
    buf_putc(&e->lost, '\0');
    e->now.restart = e->lost.data;
    e->now.restarts = e->restarts;
    e->now.guard = leads(e) ? may_write : NULL;
    e->now.guarded = &e->fence;
    e->now.epoch = e->fence.epoch;
}

static weft_status say_left_over(elastic *e, loop_result *out) {
    const loop_options *o = e->asked;
    *out = (loop_result){.spare = true};
    if (o->leads)
        o->leads(o->user);
    if (o->note)
        o->note(o->user, arena_printf(&e->mem,
                                      "a rank is lost, and %d of the rest go on: this process is "
                                      "left over and ends",
                                      e->ranks));
    return WEFT_OK;
}

static weft_status meet_again(elastic *e, int blamed, loop_result *out, bool *again) {
    bool led = leads(e);
    if (e->self < 0)
        WEFT_TRY(meet_threads(e, blamed));
    else
        WEFT_TRY(meet_processes(e, out->expected));
    if (e->over)
        return say_left_over(e, out);
    describe(e);
    *again = true;
    if (!leads(e))
        return WEFT_OK;
    if (!led && e->asked->leads)
        e->asked->leads(e->asked->user);
    return metrics_renew(e->asked->out, e->asked->log);
}

/* Whether a failure is one that others can go on after. */
static bool is_loss(const elastic *e, weft_status s, int blamed, const loop_result *out) {
    return e->asked->elastic && s == WEFT_PEER && e->link[e->self < 0 ? 0 : e->self] &&
           (blamed >= 0 || out->begun || e->restarts > 0);
}

static weft_status too_often(const elastic *e) {
    char why[WHY_BYTES];
    snprintf(why, sizeof why, "%s", err_message());
    return weft_fail(WEFT_PEER, "%s; restarted %d times already (--max-restarts)", why,
                     e->restarts);
}

static weft_status left_behind(elastic *e, comm_link *link) {
    char why[WHY_BYTES];
    e->over = true;
    comm_status(link);
    snprintf(why, sizeof why, "%s", err_message());
    return weft_fail(WEFT_PEER, "%s; the others go on without this one", why);
}

weft_status elastic_next(elastic *e, weft_status s, loop_result *out, bool *again) {
    comm_link *link = e->link[e->self < 0 ? 0 : e->self];
    *again = false;
    int blamed = s == WEFT_PEER && link ? comm_blamed(link) : -1;
    if (!is_loss(e, s, blamed, out))
        return s;
    if (blamed >= 0 && blamed == e->self)
        return left_behind(e, link);
    if (e->restarts >= e->asked->max_restarts)
        return too_often(e);
    e->restarts++;
    note_loss(e, link);
    return meet_again(e, blamed, out, again);
}

/* ---- Begin and end ---- */

weft_status elastic_check(const loop_options *o) {
    launch l;
    const char *kind = o->train.comm ? o->train.comm : "auto";
    if (!o->elastic)
        return WEFT_OK;
    WEFT_TRY(launch_read(&l));
    bool mpi = strcmp(kind, "mpi") == 0 ||
               (strcmp(kind, "auto") == 0 && l.by && strcmp(l.by, "mpirun") == 0);
    if (mpi)
        return weft_fail(WEFT_USAGE,
                         "--elastic: Open MPI ends the others when a rank is lost; give --comm tcp "
                         "(mpirun --enable-recovery, with MASTER_ADDR set)");
    launch_outlive();
    return WEFT_OK;
}

weft_status elastic_begin(elastic *e, const loop_options *o, comm_link **link, int self,
                          int ranks) {
    *e = (elastic){.asked = o, .now = *o, .link = link, .self = self, .ranks = ranks};
    buf_init(&e->lost, WHY_BYTES * 8);
    e->fence.epoch = -1;
    if (!o->elastic || ranks == 1)
        return WEFT_OK;
    e->fence.path = file_join(&e->mem, o->out, "epoch");
    if (leads(e)) {
        e->now.guard = may_write;
        e->now.guarded = &e->fence;
    }
    snprintf(e->job, sizeof e->job, "%s", comm_proc_job(link[self < 0 ? 0 : self]));
    WEFT_TRY(name_job(e));
    return leads(e) ? take_folder(e) : WEFT_OK;
}

void elastic_end(elastic *e, weft_status s) {
    if (s == WEFT_OK && !e->over)
        fence_end(&e->fence);
    if (e->restarts > 0 && !e->over && e->job[0]) /* the lost left their records */
        flight_record_sweep(e->job, true);
    if (s == WEFT_PEER && e->self > 0 && !e->over && e->asked->elastic)
        launch_tell();
    buf_fini(&e->lost);
    arena_fini(&e->mem);
}
