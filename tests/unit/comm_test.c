/* SPDX-License-Identifier: Apache-2.0
 * The local transport: every collective against what its definition says, from 1 to 8 ranks, many
 * times over so that a missing barrier shows; and ranks that are late, wrong or gone, each of which
 * ends the job with its name. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/comm.h"
#include "host/run/sched.h"
#include "tests/unit/unit.h"
#include "weft/step.h"
#include <string.h>
#include <unistd.h>

enum { ROWS = 3, COLS = 8, ROUNDS = 200 };

typedef struct {
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

static void collective(void *ctx, int rank) {
    world *w = ctx;
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
    s.kernel->run(&s, NULL);
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
    w->ranks = ranks;
    assert_int_equal(comm_local_open(ranks, timeout, w->link), WEFT_OK);
    for (int r = 0; r < ranks; r++)
        w->end[r] = comm_group(w->link[r], WEFT_GROUP_WORLD, ranks, all);
    return w;
}

static void close_world(world *w) {
    for (int r = 0; r < w->ranks; r++)
        comm_close(w->link[r]);
    free(w);
}

static void run_world(weft_op op, int axis, void (*expect)(const world *, int)) {
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        world *w = open_world(ranks, 0);
        sched_team *team;
        w->op = op;
        w->axis = axis;
        assert_int_equal(sched_team_open(ranks, &team), WEFT_OK);
        for (w->round = 0; w->round < ROUNDS; w->round++) {
            sched_team_run(team, collective, w);
            for (int r = 0; r < ranks; r++)
                expect(w, r);
        }
        assert_int_equal(w->end[0].sequence, ROUNDS);
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
    for (int m = 0; m < ROUNDS; m++) {
        weft_step s = {.state = &w->end[rank], .tag = "stage"};
        if (rank > 0) {
            s.args.recv = (weft_recv_args){.y = x, .peer = rank - 1};
            host_row(WEFT_OP_recv)->run(&s, NULL);
        } else {
            for (int i = 0; i < ROWS * COLS; i++)
                w->x[0][i / COLS][i % COLS] = (float)(m * 100 + i);
        }
        for (int i = 0; i < ROWS * COLS; i++) {
            assert_true(w->x[rank][i / COLS][i % COLS] == (float)(m * 100 + i + rank));
            w->x[rank][i / COLS][i % COLS] += 1;
        }
        s.args.send = (weft_send_args){.x = x, .peer = rank + 1};
        if (rank < w->ranks - 1)
            host_row(WEFT_OP_send)->run(&s, NULL);
    }
}

CASE(a_chain_of_sends) {
    world *w = open_world(5, 0);
    sched_team *team;
    assert_int_equal(sched_team_open(5, &team), WEFT_OK);
    sched_team_run(team, pass_on, w);
    assert_int_equal(comm_status(w->link[0]), WEFT_OK);
    assert_int_equal(w->end[0].sent, ROUNDS * ROWS * COLS * 4);
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
    host_row(WEFT_OP_all_gather)->run(&s, NULL);
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
    s.args.recv = (weft_recv_args){.y = x, .peer = rank - 1};
    if (rank > 0)
        host_row(WEFT_OP_recv)->run(&s, NULL);
    s.args.send = (weft_send_args){.x = x, .peer = rank + 1};
    if (rank < w->ranks - 1)
        host_row(WEFT_OP_send)->run(&s, NULL);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_gather_rows),
        cmocka_unit_test(all_gather_columns),
        cmocka_unit_test(reduce_scatter_in_rank_order),
        cmocka_unit_test(all_to_all),
        cmocka_unit_test(broadcast),
        cmocka_unit_test(sent_bytes_are_the_formulas),
        cmocka_unit_test(a_chain_of_sends),
        cmocka_unit_test(a_late_rank_is_named),
        cmocka_unit_test(who_keeps_a_chain_waiting_is_named),
        cmocka_unit_test(a_wrong_count_names_both),
        cmocka_unit_test(a_wrong_order_names_both),
        cmocka_unit_test(in_a_circle_who_sent_nothing_is_named),
        cmocka_unit_test(who_went_on_without_sending_is_named),
        cmocka_unit_test(nobody_waits_for_a_rank_that_gave_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
