/* SPDX-License-Identifier: Apache-2.0
 * rank_norm between emulated GPUs that reach each other: the bits of all_gather, leaf_sum and
 * rmsnorm, whatever order ranks, blocks and threads run in; and plans, in which the three become
 * one where that can be. */
#include "host/run/comm_proc.h"
#include "host/run/registry.h"
#include "host/run/sched.h"
#include "kernels/emu/runtime.h"
#include "tests/unit/fake.h"
#include "tests/unit/unit.h"
#include "weft/step.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_RANKS = 8, MOST = 64 * 1024, ROUNDS = 6 };

typedef struct {
    int ranks, dtype, rows, width, true_rows;
    bool bias;
} shape;

/* What a rank computes with; the first y and r are of three steps, the second of one. */
typedef struct {
    float x[MOST], all[MOST_RANKS * MOST], sum[MOST], res[MOST], g[4096], bias[4096];
    float y[2][MOST], r[2][MOST];
    int32_t true_rows;
} numbers;

typedef struct {
    shape shape;
    device *dev;
    comm_link *link[MOST_RANKS];
    comm end[MOST_RANKS];
    weft_stream *stream[MOST_RANKS];
    numbers *n[MOST_RANKS];
    int round;
    bool can;
} world;

static weft_tensor view(int dtype, void *data, int64_t rows, int64_t width) {
    weft_tensor t = weft_tensor_make(dtype, 2, (int64_t[]){rows, width});
    t.data = data;
    t.id = 1;
    return t;
}

static weft_tensor row_of(int dtype, void *data, int64_t width) {
    weft_tensor t = weft_tensor_make(dtype, 1, &width);
    t.data = data;
    t.id = 1;
    return t;
}

/* Any bits that are numbers of about one. */
static void draw(void *to, int dtype, int64_t n, uint64_t seed) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)((seed + (uint64_t)i + 1) * 0x9e3779b97f4a7c15u >> 32);
        float v = (float)(int32_t)u / 1073741824.0f;
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        if (dtype == WEFT_F32)
            ((float *)to)[i] = v;
        else
            ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
    }
}

static void run_step(world *w, int rank, weft_op op, const weft_args *a) {
    weft_step s = {.args = *a, .state = &w->end[rank], .tag = "norm"};
    assert_int_equal(registry_find(w->dev, op, a, &s.kernel), WEFT_OK);
    s.kernel->run(&s, w->stream[rank]);
}

static void three_steps(world *w, int rank) {
    const shape *s = &w->shape;
    numbers *n = w->n[rank];
    weft_tensor all = weft_tensor_make(WEFT_F32, 3, (int64_t[]){s->ranks, s->rows, s->width});
    weft_tensor sum = view(s->dtype, n->sum, s->rows, s->width), part = all;
    weft_tensor rows = row_of(WEFT_I32, &n->true_rows, 1);
    weft_args a = {0};
    part.shape[0] = 1;
    part.data = n->x;
    all.data = n->all;
    part.id = all.id = 1;
    a.all_gather = (weft_all_gather_args){.x = part, .y = all};
    run_step(w, rank, WEFT_OP_all_gather, &a);
    a = (weft_args){.leaf_sum = {.x = all, .rows = rows, .y = sum}};
    if (s->bias)
        a.leaf_sum.bias = row_of(s->dtype, n->bias, s->width);
    run_step(w, rank, WEFT_OP_leaf_sum, &a);
    a = (weft_args){.rmsnorm = {.x = sum,
                                .res = view(s->dtype, n->res, s->rows, s->width),
                                .g = row_of(s->dtype, n->g, s->width),
                                .rows = rows,
                                .y = view(s->dtype, n->y[0], s->rows, s->width),
                                .r = view(s->dtype, n->r[0], s->rows, s->width),
                                .eps = 1e-5f}};
    run_step(w, rank, WEFT_OP_rmsnorm, &a);
}

static void one_step(world *w, int rank) {
    static const weft_kernel counted = {.op = WEFT_OP_rank_norm, .backend = "comm"};
    const shape *s = &w->shape;
    numbers *n = w->n[rank];
    weft_step step = {.kernel = &counted, .tag = "norm"};
    step.args.rank_norm = (weft_rank_norm_args){.x = view(WEFT_F32, n->x, s->rows, s->width),
                                                .res = view(s->dtype, n->res, s->rows, s->width),
                                                .g = row_of(s->dtype, n->g, s->width),
                                                .rows = row_of(WEFT_I32, &n->true_rows, 1),
                                                .y = view(s->dtype, n->y[1], s->rows, s->width),
                                                .r = view(s->dtype, n->r[1], s->rows, s->width),
                                                .eps = 1e-5f,
                                                .ranks = s->ranks,
                                                .rank = rank};
    if (s->bias)
        step.args.rank_norm.bias = row_of(s->dtype, n->bias, s->width);
    w->can = w->link[rank]->transport->on_stream->can_norm(&w->end[rank], &step.args);
    if (w->can)
        comm_norm(&w->end[rank], &step, w->stream[rank]);
}

static void both(void *ctx, int rank) {
    world *w = ctx;
    numbers *n = w->n[rank];
    int64_t count = (int64_t)w->shape.rows * w->shape.width;
    uint64_t seed = (uint64_t)(w->round * 1000 + rank);
    comm_attend(w->link[rank]);
    memset(n->y, 0xff, sizeof n->y);
    memset(n->r, 0xff, sizeof n->r);
    n->true_rows = w->shape.true_rows;
    draw(n->x, WEFT_F32, count, seed);
    draw(n->res, w->shape.dtype, count, (uint64_t)w->round + 77);
    draw(n->g, w->shape.dtype, w->shape.width, 5);
    draw(n->bias, w->shape.dtype, w->shape.width, 6);
    three_steps(w, rank);
    usleep((useconds_t)(seed * 7919 % 900));
    one_step(w, rank);
    usleep((useconds_t)(seed * 104729 % 700));
    one_step(w, rank); /* at once again: the other slot */
    comm_finish(w->link[rank]);
}

static world *open_world(shape s, int threads) {
    static const int all[MOST_RANKS] = {0, 1, 2, 3, 4, 5, 6, 7};
    world *w = calloc(1, sizeof *w);
    int self;
    w->shape = s;
    assert_int_equal(device_open("emu", NULL, &w->dev), WEFT_OK);
    assert_int_equal(comm_open(w->dev, "nccl", "--tp", s.ranks, 0, w->link, &self), WEFT_OK);
    for (int r = 0; r < s.ranks; r++) {
        assert_int_equal(comm_attend(w->link[r]), WEFT_OK);
        assert_int_equal(w->dev->stream_open(w->dev, threads, &w->stream[r]), WEFT_OK);
        ((weft_emu_stream *)w->stream[r])->seed = (uint64_t)(threads + r); /* orders differ */
        w->end[r] = comm_group(w->link[r], WEFT_GROUP_TP, s.ranks, all);
        w->n[r] = calloc(1, sizeof *w->n[r]);
    }
    return w;
}

static void close_world(world *w) {
    for (int r = 0; r < w->shape.ranks; r++)
        comm_close(w->link[r]);
    for (int r = 0; r < w->shape.ranks; r++) {
        assert_false(((weft_emu_stream *)w->stream[r])->failed);
        w->dev->stream_close(w->dev, w->stream[r]);
        free(w->n[r]);
    }
    device_close(w->dev);
    free(w);
}

static void expect_same_bits(shape s, int threads) {
    world *w = open_world(s, threads);
    sched_team *team;
    size_t bytes = (size_t)weft_dtype_bytes(s.dtype, (int64_t)s.true_rows * s.width);
    assert_int_equal(sched_team_open(s.ranks, &team), WEFT_OK);
    for (w->round = 0; w->round < ROUNDS; w->round++) {
        sched_team_run(team, both, w);
        assert_int_equal(comm_status(w->link[0]), WEFT_OK);
        assert_true(w->can);
        for (int r = 0; r < s.ranks; r++) {
            assert_memory_equal(w->n[r]->y[0], w->n[r]->y[1], bytes);
            assert_memory_equal(w->n[r]->r[0], w->n[r]->r[1], bytes);
            assert_memory_equal(w->n[r]->y[1], w->n[0]->y[1], bytes);
        }
    }
    sched_team_close(team);
    close_world(w);
}

CASE(two_ranks) {
    expect_same_bits((shape){2, WEFT_BF16, 5, 64, 5, false}, 1);
    expect_same_bits((shape){2, WEFT_F32, 3, 36, 3, true}, 1);
    expect_same_bits((shape){2, WEFT_BF16, 1, 4096, 1, true}, 1);
}
CASE(four_ranks) {
    expect_same_bits((shape){4, WEFT_F32, 9, 520, 7, false}, 2);
    expect_same_bits((shape){4, WEFT_F16, 2, 100, 2, true}, 1);
}
CASE(eight_ranks) {
    expect_same_bits((shape){8, WEFT_BF16, 4, 256, 3, false}, 3);
}

/* ---- Calls that nothing but their flags keeps apart ---- */

enum { CALLS = 80, NARROW = 64 };
static uint16_t outcome[MOST_RANKS][CALLS][NARROW];

static void norm_args(world *w, int rank, weft_args *a) {
    numbers *n = w->n[rank];
    *a = (weft_args){.rank_norm = {.x = view(WEFT_F32, n->x, 1, NARROW),
                                   .res = view(WEFT_BF16, n->res, 1, NARROW),
                                   .g = row_of(WEFT_BF16, n->g, NARROW),
                                   .y = view(WEFT_BF16, n->y[1], 1, NARROW),
                                   .r = view(WEFT_BF16, n->r[1], 1, NARROW),
                                   .eps = 1e-5f,
                                   .ranks = w->shape.ranks,
                                   .rank = rank}};
}

/* The kernel itself, without the exchange of heads that comm_norm begins with; rank by rank at a
 * pace of its own. */
static void calls_in_a_row(void *ctx, int rank) {
    world *w = ctx;
    numbers *n = w->n[rank];
    weft_step s = {.state = &w->end[rank]};
    comm_attend(w->link[rank]);
    norm_args(w, rank, &s.args);
    assert_true(w->link[rank]->transport->on_stream->can_norm(&w->end[rank], &s.args));
    assert_int_equal(registry_find(w->dev, WEFT_OP_rank_norm, &s.args, &s.kernel), WEFT_OK);
    draw(n->g, WEFT_BF16, NARROW, 5);
    memset(n->res, 0, sizeof n->res);
    for (int i = 0; i < CALLS; i++) {
        draw(n->x, WEFT_F32, NARROW, (uint64_t)(1000 * i + rank));
        s.kernel->run(&s, w->stream[rank]);
        memcpy(outcome[rank][i], n->r[1], sizeof outcome[rank][i]);
        if ((i * 7 + rank * 3) % 5 == 0)
            usleep((useconds_t)(i * 37 % 200));
    }
}

/* r is the sum itself, here of two numbers, rounded once. */
CASE(calls_do_not_mix) {
    world *w = open_world((shape){2, WEFT_BF16, 1, NARROW, 1, false}, 1);
    sched_team *team;
    float x[2][NARROW];
    assert_int_equal(sched_team_open(2, &team), WEFT_OK);
    sched_team_run(team, calls_in_a_row, w);
    for (int i = 0; i < CALLS; i++) {
        for (int r = 0; r < 2; r++)
            draw(x[r], WEFT_F32, NARROW, (uint64_t)(1000 * i + r));
        for (int k = 0; k < NARROW; k++) {
            float sum = x[0][k] + x[1][k];
            uint32_t bits;
            memcpy(&bits, &sum, sizeof bits);
            uint16_t want = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
            assert_int_equal(outcome[0][i][k], want);
            assert_int_equal(outcome[1][i][k], want);
        }
    }
    sched_team_close(team);
    close_world(w);
}

/* What does not fit into a window, or where there is none. */
CASE(what_stays_three_steps) {
    static const emu_machine apart = {.devices = 64, .sm = 90, .driver = 13000, .apart = 1};
    static const emu_machine near = {.devices = 64, .sm = 90, .driver = 13000};
    shape s[] = {{2, WEFT_BF16, 65, 64, 65, false},
                 {3, WEFT_BF16, 1, 64, 1, false},
                 {2, WEFT_BF16, 1, 64, 1, false},
                 {2, WEFT_BF16, 1, 64, 1, false}};
    for (int i = 0; i < 4; i++) {
        emu_machine_set(i == 2 ? apart : near);
        setenv("WEFT_PEER", i == 3 ? "0" : "1", 1);
        world *w = open_world(s[i], 1);
        weft_args a = {.rank_norm = {.x = view(WEFT_F32, w->n[0]->x, s[i].rows, s[i].width)}};
        a.rank_norm.res = a.rank_norm.y = a.rank_norm.r = view(s[i].dtype, w->n[0]->res, s[i].rows,
                                                               s[i].width);
        a.rank_norm.g = row_of(s[i].dtype, w->n[0]->g, s[i].width);
        a.rank_norm.ranks = s[i].ranks;
        assert_false(w->link[0]->transport->on_stream->can_norm(&w->end[0], &a));
        close_world(w);
    }
    emu_machine_set(near);
    unsetenv("WEFT_PEER");
}

int main(void) {
    find_fake_nccl();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_ranks),
        cmocka_unit_test(four_ranks),
        cmocka_unit_test(eight_ranks),
        cmocka_unit_test(calls_do_not_mix),
        cmocka_unit_test(what_stays_three_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
