/* SPDX-License-Identifier: Apache-2.0
 * Slices by rank: nothing is missing, nothing is owned twice except kv heads that serve several
 * ranks, and every query head finds its kv head on its own rank. */
#include "host/run/shard.h"
#include "tests/unit/unit.h"
#include <stdbool.h>

static const shard_dims shapes[] = {
    {32000, 4096, 14336, 32, 8, 128}, {128256, 8192, 28672, 64, 8, 128},
    {384, 128, 200, 8, 2, 16},        {512, 128, 352, 8, 8, 16},
    {9, 64, 256, 8, 1, 16},           {3, 64, 256, 4, 2, 32},
    {352, 96, 176, 6, 2, 16},         {151936, 3584, 18944, 28, 4, 128},
    {10, 192, 768, 12, 4, 32},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

CASE(leaves_are_the_largest_that_fit) {
    static const struct {
        int64_t k;
        int leaves;
    } rows[] = {{4096, 8}, {128, 8}, {127, 1}, {120, 4}, {64, 4}, {48, 2},  {32, 2},
                {31, 1},   {16, 1},  {1, 1},   {136, 8}, {72, 4}, {200, 8}, {344, 8}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(shard_leaves(rows[i].k), rows[i].leaves);
}

CASE(tp_divides_heads_and_leaves) {
    for (int i = 0; i < SHAPES; i++)
        for (int tp = -1; tp <= 17; tp++) {
            const shard_dims *d = &shapes[i];
            bool fits = tp >= 1 && d->n_heads % tp == 0 &&
                        shard_leaves(d->n_heads * d->head_dim) % tp == 0 &&
                        shard_leaves(d->d_ff) % tp == 0;
            assert_int_equal(shard_check(d, tp), fits ? WEFT_OK : WEFT_USAGE);
        }
    assert_int_equal(shard_check(&shapes[0], 3), WEFT_USAGE);
    expect_message("--tp: 3");
    expect_message("possible: 1, 2, 4, 8");
}

/* Slices of all ranks, in order, are [0, n) without gap or overlap. */
static void expect_tiled(const shard_dims *d, shard_kind kind, int tp, int axis, int64_t n) {
    int64_t at = 0;
    for (int r = 0; r < tp; r++) {
        shard_slice s = shard_of(d, kind, tp, r);
        assert_int_equal(s.axis, axis);
        assert_int_equal(s.begin, at);
        assert_true(s.end >= s.begin);
        at = s.end;
    }
    assert_int_equal(at, n);
}

/* Rank r's leaves are whole: its columns begin at a multiple of K / leaves. */
static void expect_whole_leaves(const shard_dims *d, shard_kind kind, int tp, int64_t k) {
    for (int r = 0; r < tp; r++)
        assert_int_equal(shard_of(d, kind, tp, r).begin % (k / shard_leaves(k)), 0);
}

static void expect_kv_at_hand(const shard_dims *d, int tp) {
    for (int64_t h = 0; h < d->n_heads; h++) {
        int rank = (int)(h / (d->n_heads / tp));
        int64_t kv = h / (d->n_heads / d->n_kv_heads);
        shard_slice s = shard_of(d, SHARD_KV, tp, rank);
        assert_true(s.begin <= kv * d->head_dim && (kv + 1) * d->head_dim <= s.end);
        assert_int_equal(s.begin % d->head_dim, 0);
        assert_true(s.end <= d->n_kv_heads * d->head_dim);
    }
}

CASE(slices_tile) {
    for (int i = 0; i < SHAPES; i++)
        for (int tp = 1; tp <= 8; tp++) {
            const shard_dims *d = &shapes[i];
            int64_t heads = d->n_heads * d->head_dim;
            if (shard_check(d, tp) != WEFT_OK)
                continue;
            expect_tiled(d, SHARD_VOCAB, tp, 0, d->vocab);
            expect_tiled(d, SHARD_Q, tp, 0, heads);
            expect_tiled(d, SHARD_FF, tp, 0, d->d_ff);
            expect_tiled(d, SHARD_O_COLS, tp, 1, heads);
            expect_tiled(d, SHARD_FF_COLS, tp, 1, d->d_ff);
            expect_whole_leaves(d, SHARD_O_COLS, tp, heads);
            expect_whole_leaves(d, SHARD_FF_COLS, tp, d->d_ff);
            expect_kv_at_hand(d, tp);
            assert_int_equal(shard_of(d, SHARD_WHOLE, tp, tp - 1).axis, -1);
        }
}

CASE(places_count_every_rank_once) {
    shard_mesh m = {2, 3, 2};
    assert_int_equal(shard_ranks(&m), 12);
    for (int r = 0; r < 12; r++)
        assert_int_equal(shard_rank(&m, shard_place(&m, r)), r);
    shard_mesh seventh = shard_place(&m, 7);
    assert_int_equal(seventh.tp, 1);
    assert_int_equal(seventh.pp, 0);
    assert_int_equal(seventh.dp, 1);
}

static int64_t dearest(const int64_t *cost, int64_t before, int64_t behind, int pp,
                       const int64_t *first) {
    int64_t most = 0;
    for (int s = 0; s < pp; s++) {
        int64_t sum = (s == 0 ? before : 0) + (s == pp - 1 ? behind : 0);
        for (int64_t i = first[s]; i < first[s + 1]; i++)
            sum += cost[i];
        most = sum > most ? sum : most;
    }
    return most;
}

/* The least that any cut of layers [at, n) into pp stages costs, by trying them all. */
static int64_t least(const int64_t *cost, int64_t n, int64_t before, int64_t behind, int pp) {
    int64_t best = INT64_MAX, sum = before;
    if (pp == 1) {
        for (int64_t i = 0; i < n; i++)
            sum += cost[i];
        return sum + behind;
    }
    for (int64_t k = 1; k <= n - pp + 1; k++) {
        sum += cost[k - 1];
        int64_t rest = least(cost + k, n - k, 0, behind, pp - 1), most = sum > rest ? sum : rest;
        best = most < best ? most : best;
    }
    return best;
}

CASE(no_cut_into_stages_is_cheaper) {
    uint64_t seed = 3;
    for (int round = 0; round < 300; round++) {
        int64_t cost[9], first[10], n = 1 + (int64_t)(next_random(&seed) % 9);
        int64_t before = (int64_t)(next_random(&seed) % 20),
                behind = (int64_t)(next_random(&seed) % 40);
        for (int i = 0; i < n; i++)
            cost[i] = (int64_t)(next_random(&seed) % 12);
        for (int pp = 1; pp <= n; pp++) {
            assert_int_equal(shard_stages(n, cost, before, behind, pp, first), WEFT_OK);
            assert_int_equal(first[0], 0);
            assert_int_equal(first[pp], n);
            for (int s = 0; s < pp; s++)
                assert_true(first[s] < first[s + 1]);
            assert_int_equal(dearest(cost, before, behind, pp, first),
                             least(cost, n, before, behind, pp));
        }
        assert_int_equal(shard_stages(n, cost, 0, 0, (int)n + 1, first), WEFT_USAGE);
        assert_int_equal(shard_stages(n, cost, 0, 0, 0, first), WEFT_USAGE);
    }
}

CASE(a_large_head_takes_layers_from_the_last_stage) {
    const int64_t cost[8] = {10, 10, 10, 10, 10, 10, 10, 10};
    int64_t first[3];
    assert_int_equal(shard_stages(8, cost, 0, 20, 2, first), WEFT_OK);
    assert_int_equal(first[1], 5);
}

CASE(kv_heads_are_only_as_many_as_needed) {
    shard_dims d = {32000, 4096, 14336, 32, 8, 128};
    shard_slice one = shard_of(&d, SHARD_KV, 8, 3);
    assert_int_equal(one.begin, 3 * 128);
    assert_int_equal(one.end, 4 * 128);
    d.n_kv_heads = 2; /* four ranks share each */
    for (int r = 0; r < 8; r++) {
        shard_slice s = shard_of(&d, SHARD_KV, 8, r);
        assert_int_equal(s.begin, r / 4 * 128);
        assert_int_equal(s.end, (r / 4 + 1) * 128);
    }
}

CASE(a_short_vocabulary_leaves_ranks_empty) {
    shard_dims d = shapes[4]; /* 9 rows over 8 ranks: 2 each, the last three have none */
    assert_int_equal(shard_vocab_rows(&d, 8), 2);
    shard_slice fifth = shard_of(&d, SHARD_VOCAB, 8, 4), last = shard_of(&d, SHARD_VOCAB, 8, 7);
    assert_int_equal(fifth.end - fifth.begin, 1);
    assert_int_equal(last.end - last.begin, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_are_the_largest_that_fit),
        cmocka_unit_test(tp_divides_heads_and_leaves),
        cmocka_unit_test(slices_tile),
        cmocka_unit_test(places_count_every_rank_once),
        cmocka_unit_test(no_cut_into_stages_is_cheaper),
        cmocka_unit_test(a_large_head_takes_layers_from_the_last_stage),
        cmocka_unit_test(kv_heads_are_only_as_many_as_needed),
        cmocka_unit_test(a_short_vocabulary_leaves_ranks_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
