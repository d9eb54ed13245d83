/* SPDX-License-Identifier: Apache-2.0
 * The order of a pipeline's work: everything once, nothing before what it needs, exchanges that
 * meet though both ends wait, and the idle share that the paper has. */
#include "host/train/pipeline.h"
#include "tests/unit/unit.h"

enum { MOST = 16 };

typedef struct {
    int ranks, chunks, micros;
    arena mem;
    pipeline p[MOST];
    int at[MOST];
    bool *done[2]; /* [stages * micros] forwards, backwards */
} shop;

static const pipe_action *next_of(const shop *s, int rank) {
    return s->at[rank] < s->p[rank].n ? &s->p[rank].action[s->at[rank]] : NULL;
}

static bool *mark(shop *s, bool back, int stage, int micro) {
    return &s->done[back][stage * s->micros + micro];
}

/* A computation needs its neighbour's, and one of its own. */
static void compute(shop *s, const pipe_action *a, int stage) {
    bool back = a->kind == PIPE_BACKWARD;
    int last = s->ranks * s->chunks - 1;
    assert_false(*mark(s, back, stage, a->micro));
    if (!back && stage > 0)
        assert_true(*mark(s, false, stage - 1, a->micro));
    if (back)
        assert_true(*mark(s, false, stage, a->micro));
    if (back && stage < last)
        assert_true(*mark(s, true, stage + 1, a->micro));
    *mark(s, back, stage, a->micro) = true;
}

/* Both ends of an exchange, if the other one has come to it. */
static bool meet(shop *s, const pipe_action *a, int rank) {
    static const pipe_kind other[PIPE_KINDS] = {[PIPE_TAKE] = PIPE_GIVE,
                                                [PIPE_GIVE] = PIPE_TAKE,
                                                [PIPE_TAKE_GRAD] = PIPE_GIVE_GRAD,
                                                [PIPE_GIVE_GRAD] = PIPE_TAKE_GRAD};
    bool on = a->kind == PIPE_GIVE || a->kind == PIPE_TAKE_GRAD;
    int to = a->chunk * s->ranks + rank + (on ? 1 : -1), peer = to % s->ranks;
    const pipe_action *b = next_of(s, peer);
    if (!b || b->kind != other[a->kind] || b->micro != a->micro || b->chunk != to / s->ranks)
        return false;
    s->at[peer]++;
    return true;
}

static bool advance(shop *s, int rank) {
    const pipe_action *a = next_of(s, rank);
    if (!a)
        return false;
    if (a->kind == PIPE_FORWARD || a->kind == PIPE_BACKWARD)
        compute(s, a, a->chunk * s->ranks + rank);
    else if (!meet(s, a, rank))
        return false;
    s->at[rank]++;
    return true;
}

static void run(int ranks, int chunks, int micros) {
    shop s = {.ranks = ranks, .chunks = chunks, .micros = micros};
    int64_t all = (int64_t)ranks * chunks * micros;
    for (int k = 0; k < 2; k++)
        s.done[k] = ARENA_NEW(&s.mem, bool, all);
    for (int r = 0; r < ranks; r++)
        pipeline_build(ranks, chunks, micros, r, &s.mem, &s.p[r]);
    for (bool moved = true; moved;) {
        moved = false;
        for (int r = 0; r < ranks; r++)
            while (advance(&s, r))
                moved = true;
    }
    for (int64_t i = 0; i < all; i++)
        assert_true(s.done[0][i] && s.done[1][i]);
    for (int r = 0; r < ranks; r++)
        assert_int_equal(s.at[r], s.p[r].n);
    arena_fini(&s.mem);
}

static void every_exchange_meets(void **state) {
    (void)state;
    for (int ranks = 1; ranks <= 8; ranks++)
        for (int micros = 1; micros <= 20; micros += 1 + micros / 4)
            run(ranks, 1, micros);
    for (int ranks = 2; ranks <= 8; ranks++)
        for (int chunks = 2; chunks <= 4; chunks++)
            for (int rounds = 1; rounds <= 4; rounds++)
                run(ranks, chunks, rounds * ranks);
}

static double idle(int ranks, int chunks, int micros) {
    arena mem = {0};
    pipeline p;
    pipeline_build(ranks, chunks, micros, 0, &mem, &p);
    arena_fini(&mem);
    return p.idle;
}

/* (p - 1) / m of the computing time, over v where chunks are v (section 2.2). */
static void idle_share_is_the_papers(void **state) {
    (void)state;
    for (int p = 1; p <= 8; p++)
        for (int v = 1; v <= (p > 1 ? 4 : 1); v++)
            for (int m = p; m <= 4 * p; m += p) {
                double bubble = (double)(p - 1) / (v * m), want = bubble / (1 + bubble);
                assert_float_equal(idle(p, v, m), want, 1e-9);
            }
}

/* At most what is in flight behind a stage: not all micro-batches. */
static void memory_is_bounded(void **state) {
    (void)state;
    for (int r = 0; r < 4; r++) {
        arena mem = {0};
        pipeline p;
        pipeline_build(4, 1, 64, r, &mem, &p);
        assert_in_range(p.slots[0], 4 - r, 5 - r);
        arena_fini(&mem);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_exchange_meets),
        cmocka_unit_test(idle_share_is_the_papers),
        cmocka_unit_test(memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
