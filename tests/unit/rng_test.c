/* SPDX-License-Identifier: Apache-2.0
 * Philox4x32-10 against the known answers that Random123 publishes (kat_vectors), through our
 * mapping: the counter is (position, stream) and the key is the seed, low words first. */
#include "tests/unit/unit.h"
#include "weft/rng.h"

CASE(known_answers) {
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const uint32_t *c = rows[i].counter, *k = rows[i].key;
        weft_philox r = weft_philox4x32((uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2],
                                        (uint64_t)c[1] << 32 | c[0]);
        assert_memory_equal(r.v, rows[i].want, sizeof r.v);
    }
}

CASE(uniform_is_in_the_half_open_interval) {
    assert_true(weft_philox_uniform(0) == 0);
    assert_true(weft_philox_uniform(255) == 0);
    assert_true(weft_philox_uniform(256) == 0x1p-24f);
    assert_true(weft_philox_uniform(0x80000000u) == 0.5f);
    assert_true(weft_philox_uniform(0xffffffffu) == 1 - 0x1p-24f);
}

/* Mean and variance of a uniform variable, 1/2 and 1/12, within five standard errors; and
 * neighbouring seeds, streams and positions are not correlated. */
CASE(uniform_looks_uniform) {
    enum { N = 1 << 18 };
    double sum = 0, squares = 0, products[3] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double x = weft_philox_uniform(weft_philox4x32(1, 2, i).v[0]);
        sum += x;
        squares += x * x;
        products[0] += (x - 0.5) * (weft_philox_uniform(weft_philox4x32(1, 2, i + 1).v[0]) - 0.5);
        products[1] += (x - 0.5) * (weft_philox_uniform(weft_philox4x32(1, 3, i).v[0]) - 0.5);
        products[2] += (x - 0.5) * (weft_philox_uniform(weft_philox4x32(2, 2, i).v[0]) - 0.5);
    }
    double mean = sum / N;
    assert_true(mean > 0.5 - 5 * 0.2887 / 512 && mean < 0.5 + 5 * 0.2887 / 512);
    double variance = squares / N - mean * mean;
    assert_true(variance > 1.0 / 12 - 5 * 0.0745 / 512 && variance < 1.0 / 12 + 5 * 0.0745 / 512);
    for (int i = 0; i < 3; i++)
        assert_true(products[i] / N < 5.0 / 12 / 512 && products[i] / N > -5.0 / 12 / 512);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(uniform_is_in_the_half_open_interval),
        cmocka_unit_test(uniform_looks_uniform),
    };
    return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
