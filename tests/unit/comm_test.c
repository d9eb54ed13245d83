/* SPDX-License-Identifier: Apache-2.0
 * The local transport: every collective against what its definition says, from 1 to 8 ranks, many
 * times over so that a missing barrier shows. */
#include "host/run/comm.h"
#include "host/run/sched.h"
#include "tests/unit/unit.h"
#include "weft/step.h"

enum { ROWS = 3, COLS = 8, ROUNDS = 200 };

typedef struct {
    comm end[8];
    weft_op op;
    int ranks, axis, round;
    float x[8][ROWS * 8][COLS], y[8][ROWS * 8][COLS * 8];
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

static const weft_kernel *local_row(weft_op op) {
    for (const weft_kernel *k = comm_local_kernels; k->name; k++)
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
    weft_step s = {.kernel = local_row(w->op), .state = &w->end[rank]};
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

static void run_world(weft_op op, int axis, void (*expect)(const world *, int)) {
    for (int ranks = 1; ranks <= 8; ranks *= 2) {
        world *w = calloc(1, sizeof *w);
        comm_group *g;
        sched_team *team;
        w->op = op;
        w->axis = axis;
        w->ranks = ranks;
        assert_int_equal(comm_local_open(ranks, w->end, &g), WEFT_OK);
        assert_int_equal(sched_team_open(ranks, &team), WEFT_OK);
        for (w->round = 0; w->round < ROUNDS; w->round++) {
            sched_team_run(team, collective, w);
            for (int r = 0; r < ranks; r++)
                expect(w, r);
        }
        assert_int_equal(w->end[0].sequence, ROUNDS);
        sched_team_close(team);
        comm_local_close(g);
        free(w);
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_gather_rows),
                                       cmocka_unit_test(all_gather_columns),
                                       cmocka_unit_test(reduce_scatter_in_rank_order),
                                       cmocka_unit_test(all_to_all), cmocka_unit_test(broadcast)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
