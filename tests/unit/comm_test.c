/* SPDX-License-Identifier: Apache-2.0
 * Ranks that are threads, over memory of the host and over a fake NCCL on the emulated GPU: every
 * collective against what its definition says, from 1 to 8 ranks, many times over so that a missing
 * barrier shows; and ranks that are late, wrong or gone, each of which ends the job with its
 * name. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/comm_proc.h"
#include "host/run/sched.h"
#include "tests/unit/fake.h"
#include "tests/unit/unit.h"
#include "weft/step.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROWS = 3, COLS = 8 };

static const char *kind = "local"; /* the transport of the cases under way */
static int rounds = 200;

typedef struct {
    device *dev; /* NULL: the host */
    weft_stream *stream[8];
    comm_link *link[8];
    comm end[8];
    weft_op op;
    int ranks, axis, round;
    float x[8][ROWS * 8][COLS], y[8][ROWS * 8][COLS * 8], scratch[8][ROWS * 8][COLS];
} world;

static weft_tensor view(void *data, int64_t rows, int64_t cols, int64_t stride) {
    weft_tensor t = weft_tensor_make(WEFT_F32, 2, (int64_t[]){rows, cols});
    t.stride[0] = stride;
    t.data = data;
    t.id = 1;
    return t;
}

static float element_of(int round, int rank, int i, int j) {
    return (float)(round * 7919 + rank * 1000 + i * 10 + j);
}

static const weft_kernel *host_row(weft_op op) {
    for (const weft_kernel *k = comm_host_kernels; k->name; k++)
        if (k->op == op)
            return k;
    return NULL;
}

static void run(world *w, int rank, weft_step *s) {
    s->kernel->run(s, w->stream[rank]);
}

static void collective(void *ctx, int rank) {
    world *w = ctx;
    comm_attend(w->link[rank]);
    int x_rows = w->op == WEFT_OP_all_gather ? ROWS : ROWS * w->ranks;
    for (int i = 0; i < x_rows; i++)
        for (int j = 0; j < COLS; j++)
            w->x[rank][i][j] = element_of(w->round, rank, i, j);
    weft_tensor x = view(w->x[rank], x_rows, COLS, COLS);
    bool by_columns = w->op == WEFT_OP_all_gather && w->axis == 1;
    int64_t rows = w->op == WEFT_OP_reduce_scatter || by_columns ? ROWS : ROWS * w->ranks;
    weft_tensor y = view(w->y[rank], rows, by_columns ? COLS * w->ranks : COLS, COLS * 8);
    weft_step s = {.kernel = host_row(w->op), .state = &w->end[rank], .scratch = w->scratch[rank]};
    if (w->op == WEFT_OP_all_gather)
        s.args.all_gather = (weft_all_gather_args){.x = x, .y = y, .axis = w->axis};
    else if (w->op == WEFT_OP_reduce_scatter)
        s.args.reduce_scatter = (weft_reduce_scatter_args){.x = x, .y = y, .axis = 0};
    else if (w->op == WEFT_OP_all_to_all)
        s.args.all_to_all = (weft_all_to_all_args){.x = x, .y = y};
    else
        s.args.broadcast = (weft_broadcast_args){.x = x, .peer = w->ranks - 1};
    WEFT_ASSERT(s.kernel);
    run(w, rank, &s);
    comm_finish(w->link[rank]);
}

static void expect_gathered(const world *w, int rank) {
    for (int r = 0; r < w->ranks; r++)
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLS; j++) {
                float got = w->axis ? w->y[rank][i][r * COLS + j] : w->y[rank][r * ROWS + i][j];
                assert_true(got == element_of(w->round, r, i, j));
            }
}

static void expect_reduced(const world *w, int rank) {
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++) {
            float sum = element_of(w->round, 0, rank * ROWS + i, j);
            for (int r = 1; r < w->ranks; r++)
                sum += element_of(w->round, r, rank * ROWS + i, j);
            assert_true(w->y[rank][i][j] == sum);
        }
}

static void expect_exchanged(const world *w, int rank) {
    for (int r = 0; r < w->ranks; r++)
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < COLS; j++)
                assert_true(w->y[rank][r * ROWS + i][j] ==
                            element_of(w->round, r, rank * ROWS + i, j));
}

static void expect_broadcast(const world *w, int rank) {
    for (int i = 0; i < ROWS * w->ranks; i++)
        for (int j = 0; j < COLS; j++)
            assert_true(w->x[rank][i][j] == element_of(w->round, w->ranks - 1, i, j));
}

static world *open_world(int ranks, double timeout) {
    static const int all[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    world *w = calloc(1, sizeof *w);
    int self;
    w->ranks = ranks;
    if (strcmp(kind, "nccl") == 0)
        assert_int_equal(device_open("emu", NULL, &w->dev), WEFT_OK);
    assert_int_equal(comm_open(w->dev, kind, "--tp", ranks, timeout, w->link, &self), WEFT_OK);
    for (int r = 0; r < ranks && w->dev; r++) {
        assert_int_equal(comm_attend(w->link[r]), WEFT_OK);
        assert_int_equal(w->dev->stream_open(w->dev, 1, &w->stream[r]), WEFT_OK);
        assert_int_equal(comm_memory(w->link[r], w->x[r], sizeof w->x[r]), WEFT_OK);
    }
    for (int r = 0; r < ranks; r++)
        w->end[r] = comm_group(w->link[r], WEFT_GROUP_WORLD, ranks, all);
    return w;
}

static void close_world(world *w) {
    for (int r = 0; r < w->ranks; r++)
        comm_close(w->link[r]);
    for (int r = 0; r < w->ranks && w->dev; r++)
        w->dev->stream_close(w->dev, w->stream[r]);
    device_close(w->dev);
    free(w);
}

static void run_world(weft_op op, int axis, void (*expect)(const world *, int)) {
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        world *w = open_world(ranks, 0);
        sched_team *team;
        w->op = op;
        w->axis = axis;
        assert_int_equal(sched_team_open(ranks, &team), WEFT_OK);
        for (w->round = 0; w->round < rounds; w->round++) {
            sched_team_run(team, collective, w);
            for (int r = 0; r < ranks; r++)
                expect(w, r);
        }
        assert_int_equal(w->end[0].sequence, rounds);
        sched_team_close(team);
        close_world(w);
    }
}

CASE(all_gather_rows) {
    run_world(WEFT_OP_all_gather, 0, expect_gathered);
}
CASE(all_gather_columns) {
    run_world(WEFT_OP_all_gather, 1, expect_gathered);
}
CASE(reduce_scatter_in_rank_order) {
    run_world(WEFT_OP_reduce_scatter, 0, expect_reduced);
}
CASE(all_to_all) {
    run_world(WEFT_OP_all_to_all, 0, expect_exchanged);
}
CASE(broadcast) {
    run_world(WEFT_OP_broadcast, 0, expect_broadcast);
}

/* What is sent equals the plan's formula to the byte. */
CASE(sent_bytes_are_the_formulas) {
    static const struct {
        weft_op op;
        int64_t bytes; /* of 4 ranks, by hand: ROWS x COLS floats a part */
    } want[] = {{WEFT_OP_all_gather, 3 * 96},
                {WEFT_OP_reduce_scatter, 3 * 96},
                {WEFT_OP_all_to_all, 3 * 96},
                {WEFT_OP_broadcast, 3 * 4 * 96}};
    for (int i = 0; i < 4; i++) {
        world *w = open_world(4, 0);
        sched_team *team;
        w->op = want[i].op;
        assert_int_equal(sched_team_open(4, &team), WEFT_OK);
        sched_team_run(team, collective, w);
        int sender = w->op == WEFT_OP_broadcast ? 3 : 0;
        assert_int_equal(w->end[sender].sent, want[i].bytes);
        sched_team_close(team);
        close_world(w);
    }
}

/* ---- A pipeline ---- */

static void pass_on(void *ctx, int rank) {
    world *w = ctx;
    weft_tensor x = view(w->x[rank], ROWS, COLS, COLS);
    comm_attend(w->link[rank]);
    for (int m = 0; m < rounds; m++) {
        weft_step s = {.state = &w->end[rank], .tag = "stage"};
        if (rank > 0) {
            s.args.recv = (weft_recv_args){.y = x, .peer = rank - 1};
            s.kernel = host_row(WEFT_OP_recv);
            run(w, rank, &s);
            comm_finish(w->link[rank]);
        } else {
            for (int i = 0; i < ROWS * COLS; i++)
                w->x[0][i / COLS][i % COLS] = (float)(m * 100 + i);
        }
        for (int i = 0; i < ROWS * COLS; i++) {
            assert_true(w->x[rank][i / COLS][i % COLS] == (float)(m * 100 + i + rank));
            w->x[rank][i / COLS][i % COLS] += 1;
        }
        s.args.send = (weft_send_args){.x = x, .peer = rank + 1};
        s.kernel = host_row(WEFT_OP_send);
        if (rank < w->ranks - 1)
            run(w, rank, &s);
    }
}

CASE(a_chain_of_sends) {
    world *w = open_world(5, 0);
    sched_team *team;
    assert_int_equal(sched_team_open(5, &team), WEFT_OK);
    sched_team_run(team, pass_on, w);
    assert_int_equal(comm_status(w->link[0]), WEFT_OK);
    assert_int_equal(w->end[0].sent, rounds * ROWS * COLS * 4);
    assert_int_equal(w->end[4].sent, 0);
    sched_team_close(team);
    close_world(w);
}

/* ---- What goes wrong ---- */

static void gather(world *w, int rank, const char *tag, int64_t rows) {
    weft_step s = {.state = &w->end[rank]};
    memcpy(s.tag, tag, strlen(tag) + 1);
    s.args.all_gather = (weft_all_gather_args){.x = view(w->x[rank], rows, COLS, COLS),
                                               .y = view(w->y[rank], rows * w->ranks, COLS, COLS)};
    s.kernel = host_row(WEFT_OP_all_gather);
    comm_attend(w->link[rank]);
    run(w, rank, &s);
    comm_finish(w->link[rank]);
}

/* Runs fn on every rank; the job has to fail, everywhere, and its message to name each word. */
static void expect_failure(int ranks, double timeout, void (*fn)(void *, int),
                           const char *const *words, double most_seconds) {
    world *w = open_world(ranks, timeout);
    sched_team *team;
    double begin = clock_seconds();
    assert_int_equal(sched_team_open(ranks, &team), WEFT_OK);
    sched_team_run(team, fn, w);
    assert_true(clock_seconds() - begin < most_seconds);
    for (int r = 0; r < ranks; r++) {
        assert_int_equal(comm_status(w->link[r]), WEFT_PEER);
        for (int i = 0; words[i]; i++)
            if (!strstr(err_message(), words[i]))
                fail_msg("\"%s\" does not say \"%s\"", err_message(), words[i]);
    }
    sched_team_close(team);
    close_world(w);
}

static void rank_two_sleeps(void *ctx, int rank) {
    comm_step(((world *)ctx)->link[rank], 17, 0);
    gather(ctx, rank, "L0.attn.o", ROWS);
    if (rank == 2)
        usleep(1500000);
    gather(ctx, rank, "L0.mlp.down", ROWS);
}

CASE(a_late_rank_is_named) {
    static const char *const words[] = {"rank 2 is late", "L0.attn.o", "step 17", "--timeout 0.2",
                                        NULL};
    expect_failure(4, 0.2, rank_two_sleeps, words, 4);
}

/* Rank 3 waits for 2, 2 for 1, 1 for 0, and rank 0 is the one that sleeps. */
static void first_stage_sleeps(void *ctx, int rank) {
    world *w = ctx;
    weft_step s = {.state = &w->end[rank], .tag = "stage"};
    weft_tensor x = view(w->x[rank], ROWS, COLS, COLS);
    if (rank == 0)
        usleep(1500000);
    comm_attend(w->link[rank]);
    s.args.recv = (weft_recv_args){.y = x, .peer = rank - 1};
    s.kernel = host_row(WEFT_OP_recv);
    if (rank > 0)
        run(w, rank, &s);
    s.args.send = (weft_send_args){.x = x, .peer = rank + 1};
    s.kernel = host_row(WEFT_OP_send);
    if (rank < w->ranks - 1)
        run(w, rank, &s);
    comm_finish(w->link[rank]);
}

CASE(who_keeps_a_chain_waiting_is_named) {
    static const char *const words[] = {"rank 0 is late", NULL};
    expect_failure(4, 0.2, first_stage_sleeps, words, 4);
}

static void rank_one_counts_otherwise(void *ctx, int rank) {
    gather(ctx, rank, "L3.attn.o", rank == 1 ? 1 : ROWS);
}

CASE(a_wrong_count_names_both) {
    static const char *const words[] = {"disagree", "rank 1",   "L3.attn.o",
                                        "96 bytes", "32 bytes", NULL};
    expect_failure(4, 5, rank_one_counts_otherwise, words, 2);
}

static void rank_one_is_elsewhere(void *ctx, int rank) {
    gather(ctx, rank, rank == 1 ? "L1.mlp.down" : "L1.attn.o", ROWS);
}

CASE(a_wrong_order_names_both) {
    static const char *const words[] = {"disagree", "rank 1", "L1.attn.o", "L1.mlp.down", NULL};
    expect_failure(2, 5, rank_one_is_elsewhere, words, 2);
}

CASE(in_a_circle_who_sent_nothing_is_named) {
    flight f[2] = {0};
    flight_place p = {.op = WEFT_OP_all_gather, .inside = true, .tag = "head", .since = 10};
    flight_note(&f[0], &p, false);
    p.since = 11;
    flight_note(&f[1], &p, false);
    atomic_store(&f[0].waits, 2);
    atomic_store(&f[1].waits, 1);
    assert_int_equal(flight_culprit(f, 2, 0), 1);
    assert_int_equal(flight_culprit(f, 2, 1), 1);
    p.since = 9; /* had rank 1 waited longer, it would be rank 0 */
    flight_note(&f[1], &p, false);
    assert_int_equal(flight_culprit(f, 2, 0), 0);
}

/* 0 waits in a gather that 1 has left behind; 1 waits for 2, and 2, for longest, for 0. */
CASE(who_went_on_without_sending_is_named) {
    flight f[3] = {0};
    flight_place p = {.op = WEFT_OP_all_gather, .inside = true, .tag = "o", .since = 12};
    p.sequence = 74;
    flight_note(&f[0], &p, false);
    flight_note(&f[1],
                &(flight_place){.op = WEFT_OP_broadcast,
                                .group = WEFT_GROUP_WORLD,
                                .sequence = 15,
                                .inside = true,
                                .since = 13},
                false);
    flight_note(
        &f[2],
        &(flight_place){.op = WEFT_OP_send, .group = WEFT_GROUP_PP, .inside = true, .since = 3},
        false);
    atomic_store(&f[0].left[WEFT_GROUP_TP], 74);
    atomic_store(&f[1].left[WEFT_GROUP_TP], 74);
    atomic_store(&f[0].waits, 2);
    atomic_store(&f[1].waits, 4);
    atomic_store(&f[2].waits, 1);
    assert_int_equal(flight_culprit(f, 3, 1), 0); /* the longest wait, by time alone */
    atomic_store(&f[1].left[WEFT_GROUP_TP], 75);
    for (int me = 0; me < 3; me++)
        assert_int_equal(flight_culprit(f, 3, me), 1);
}

/* Stage 0 has gone on from a send that stage 1 waits for, and waits for 1's results: for longer. */
CASE(a_stage_that_went_on_without_sending_is_named) {
    flight f[2] = {0};
    flight_place p = {.op = WEFT_OP_send, .group = WEFT_GROUP_PP, .sequence = 32, .inside = true};
    p.receives = true;
    p.since = 11;
    flight_note(&f[1], &p, false);
    p = (flight_place){.op = WEFT_OP_broadcast, .group = WEFT_GROUP_WORLD, .inside = true};
    p.since = 10;
    flight_note(&f[0], &p, false);
    atomic_store(&f[0].waits, 2);
    atomic_store(&f[1].waits, 1);
    flight_sent(&f[0], 1, 32);
    assert_int_equal(flight_culprit(f, 2, 1), 1); /* not sent yet: by time alone */
    flight_sent(&f[0], 7, 99);
    flight_sent(&f[0], 1, 33);
    for (int me = 0; me < 2; me++)
        assert_int_equal(flight_culprit(f, 2, me), 0);
}

/* However long the work may take: nobody is at work. */
static void all_wait_for_each_other(void *ctx, int rank) {
    world *w = ctx;
    char byte = 0;
    comm c = comm_group(w->link[rank], WEFT_GROUP_WORLD, 2, (const int[]){0, 1});
    comm_step(w->link[rank], 17, 3600);
    comm_broadcast(&c, 1 - rank, &byte, 1, "vain");
}

CASE(a_wait_in_vain_is_short) {
    static const char *const words[] = {"is late", "vain", "step 17", NULL};
    expect_failure(2, 0.3, all_wait_for_each_other, words, 4);
}

static void rank_one_gives_up(void *ctx, int rank) {
    world *w = ctx;
    gather(w, rank, "L0.attn.o", ROWS);
    if (rank == 1) {
        weft_fail(WEFT_PEER, "rank 1: out of luck");
        comm_abort(w->link[1], WEFT_PEER);
    }
    gather(w, rank, "L0.mlp.down", ROWS);
}

CASE(nobody_waits_for_a_rank_that_gave_up) {
    static const char *const words[] = {"rank 1: out of luck", NULL};
    expect_failure(8, 30, rank_one_gives_up, words, 2);
}

/* A thread that is through with its work, while another waits for it with an hour to go. */
static void rank_one_is_done(void *ctx, int rank) {
    world *w = ctx;
    comm_step(w->link[rank], 17, 3600);
    gather(w, rank, "L0.attn.o", ROWS);
    if (rank == 1)
        comm_done(w->link[1]);
    else
        gather(w, rank, "L0.mlp.down", ROWS);
}

CASE(nobody_waits_for_a_rank_that_is_done) {
    static const char *const words[] = {"rank 1 (a thread) is gone: last seen", "L0.attn.o",
                                        "L0.mlp.down", NULL};
    expect_failure(4, 30, rank_one_is_done, words, 2);
}

/* Rank 2 fails while rank 1 copies out of the memory of rank 0, who gives it back at once. */
static void sender_leaves(void *ctx, int rank) {
    world *w = ctx;
    const int64_t rows = 1 << 10, cols = 1 << 14;
    size_t bytes = sizeof(float) * (size_t)(rows * cols);
    if (rank == 2) {
        usleep(1000U << w->round);
        weft_fail(WEFT_PEER, "rank 2: out of luck");
        comm_abort(w->link[2], WEFT_PEER);
        return;
    }
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    weft_step s = {.kernel = host_row(WEFT_OP_broadcast), .state = &w->end[rank]};
    s.args.broadcast = (weft_broadcast_args){.x = view(p, rows, cols, cols)};
    run(w, rank, &s);
    munmap(p, bytes);
}

CASE(nobody_reads_what_a_rank_that_left_gave_back) {
    for (int round = 0; round < 6; round++) {
        world *w = open_world(3, 30);
        sched_team *team;
        w->round = round;
        assert_int_equal(sched_team_open(3, &team), WEFT_OK);
        sched_team_run(team, sender_leaves, w);
        assert_int_equal(comm_status(w->link[0]), WEFT_PEER);
        sched_team_close(team);
        close_world(w);
    }
}

/* ---- NCCL alone ---- */

/* Strided parts both ways: they are packed on the stream. */
static void strided(void *ctx, int rank) {
    world *w = ctx;
    weft_tensor x = view(w->x[rank], ROWS * w->ranks, COLS / 2, COLS),
                y = view(w->y[rank], ROWS * w->ranks, COLS / 2, COLS * 8);
    weft_step s = {.kernel = host_row(WEFT_OP_all_to_all), .state = &w->end[rank]};
    for (int i = 0; i < ROWS * w->ranks; i++)
        for (int j = 0; j < COLS; j++)
            w->x[rank][i][j] = element_of(w->round, rank, i, j);
    comm_attend(w->link[rank]);
    s.args.all_to_all = (weft_all_to_all_args){.x = x, .y = y};
    run(w, rank, &s);
    comm_finish(w->link[rank]);
}

CASE(strided_parts) {
    world *w = open_world(4, 0);
    sched_team *team;
    assert_int_equal(sched_team_open(4, &team), WEFT_OK);
    for (w->round = 0; w->round < 5; w->round++) {
        sched_team_run(team, strided, w);
        for (int rank = 0; rank < 4; rank++)
            for (int i = 0; i < ROWS * 4; i++)
                for (int j = 0; j < COLS / 2; j++)
                    assert_true(w->y[rank][i][j] ==
                                element_of(w->round, i / ROWS, rank * ROWS + i % ROWS, j));
    }
    sched_team_close(team);
    close_world(w);
}

/* More than the window holds are on their way at once. */
static void many_at_once(void *ctx, int rank) {
    world *w = ctx;
    comm_attend(w->link[rank]);
    for (int m = 0; m < 150; m++) {
        weft_tensor t = view(w->y[rank][m % (ROWS * 8)], 1, COLS, COLS);
        weft_step s = {.state = &w->end[rank], .tag = "row"};
        if (rank == 0)
            for (int j = 0; j < COLS && m < ROWS * 8; j++)
                w->y[0][m][j] = (float)(10 * m + j);
        s.args.broadcast = (weft_broadcast_args){.x = t};
        s.kernel = host_row(WEFT_OP_broadcast);
        run(w, rank, &s);
    }
    comm_finish(w->link[rank]);
    for (int m = 0; m < ROWS * 8; m++)
        for (int j = 0; j < COLS; j++)
            assert_true(w->y[rank][m][j] == (float)(10 * m + j));
}

CASE(exchanges_that_are_not_waited_for) {
    setenv("WEFT_NCCL_SYNC", "0", 1);
    setenv("WEFT_COMM_CHECK", "0", 1);
    world *w = open_world(3, 0);
    sched_team *team;
    assert_int_equal(sched_team_open(3, &team), WEFT_OK);
    sched_team_run(team, many_at_once, w);
    for (int r = 0; r < 3; r++) {
        flight_place p;
        assert_int_equal(comm_status(w->link[r]), WEFT_OK);
        assert_true(flight_last(w->link[r]->flight, 0, &p));
        assert_int_equal(p.sequence, 149);
        assert_false(p.inside);
    }
    sched_team_close(team);
    close_world(w);
    unsetenv("WEFT_COMM_CHECK");
    unsetenv("WEFT_NCCL_SYNC");
}

/* What NCCL itself is stuck in, and what it finds, when heads are not compared. */
CASE(a_late_rank_is_named_without_heads) {
    static const char *const words[] = {"rank 2 is late", "L0.attn.o", "step 17", NULL};
    setenv("WEFT_COMM_CHECK", "0", 1);
    expect_failure(4, 0.2, rank_two_sleeps, words, 4);
    unsetenv("WEFT_COMM_CHECK");
}

CASE(nccl_finds_a_wrong_count) {
    static const char *const words[] = {"invalid argument", "waits for", "96", "32", NULL};
    setenv("WEFT_COMM_CHECK", "0", 1);
    expect_failure(4, 5, rank_one_counts_otherwise, words, 2);
    unsetenv("WEFT_COMM_CHECK");
}

static void unordered(void *ctx, int rank) {
    world *w = ctx;
    const comm_stream_ops *o = w->link[rank]->transport->on_stream;
    comm_attend(w->link[rank]);
    for (int i = 0; i < ROWS * COLS; i++)
        w->x[rank][i / COLS][i % COLS] = (float)(i + 100 * rank);
    assert_int_equal(o->all_reduce(w->link[rank], w->stream[rank], &w->x[rank][0][0], ROWS * COLS),
                     WEFT_OK);
    comm_finish(w->link[rank]);
    for (int i = 0; i < ROWS * COLS; i++)
        assert_true((&w->x[rank][0][0])[i] ==
                    (float)(w->ranks * i + 50 * w->ranks * (w->ranks - 1)));
}

CASE(the_all_reduce_of_nccl) {
    for (int ranks = 2; ranks <= 8; ranks += 3) {
        world *w = open_world(ranks, 0);
        sched_team *team;
        assert_int_equal(sched_team_open(ranks, &team), WEFT_OK);
        sched_team_run(team, unordered, w);
        sched_team_close(team);
        close_world(w);
    }
}

CASE(what_nccl_is_not_for) {
    comm_link *link[8];
    device *d;
    int self;
    assert_int_equal(comm_open(NULL, "nccl", "--tp 2", 2, 0, link, &self), WEFT_USAGE);
    assert_non_null(strstr(err_message(), "moves memory of GPUs"));
    assert_int_equal(device_open("cpu", NULL, &d), WEFT_OK);
    assert_int_equal(comm_open(d, "nccl", "--tp 2", 2, 0, link, &self), WEFT_USAGE);
    device_close(d);
}

int main(void) {
#define BOTH(X) \
    X(all_gather_rows) \
    X(all_gather_columns) \
    X(reduce_scatter_in_rank_order) \
    X(all_to_all) \
    X(broadcast) \
    X(sent_bytes_are_the_formulas) \
    X(a_chain_of_sends) X(a_late_rank_is_named) X(who_keeps_a_chain_waiting_is_named) \
        X(a_wrong_count_names_both) X(a_wrong_order_names_both) \
            X(nobody_waits_for_a_rank_that_gave_up)
#define TEST_(name) cmocka_unit_test(name),
    const struct CMUnitTest tests[] = {
        BOTH(TEST_) cmocka_unit_test(in_a_circle_who_sent_nothing_is_named),
        cmocka_unit_test(who_went_on_without_sending_is_named),
        cmocka_unit_test(a_stage_that_went_on_without_sending_is_named),
        cmocka_unit_test(a_wait_in_vain_is_short),
        cmocka_unit_test(nobody_waits_for_a_rank_that_is_done),
        cmocka_unit_test(nobody_reads_what_a_rank_that_left_gave_back),
    };
    const struct CMUnitTest on_gpus[] = {
        BOTH(TEST_) cmocka_unit_test(strided_parts),
        cmocka_unit_test(exchanges_that_are_not_waited_for),
        cmocka_unit_test(a_late_rank_is_named_without_heads),
        cmocka_unit_test(nccl_finds_a_wrong_count),
        cmocka_unit_test(the_all_reduce_of_nccl),
        cmocka_unit_test(what_nccl_is_not_for),
    };
    int failed = cmocka_run_group_tests_name("local", tests, NULL, NULL);
    find_fake_nccl();
    kind = "nccl";
    rounds = 20;
    return failed + cmocka_run_group_tests_name("nccl", on_gpus, NULL, NULL);
}
