/* SPDX-License-Identifier: Apache-2.0
 * The page table: no page belongs to two sequences, none is lost, a refusal changes nothing. */
#include "host/run/kv.h"
#include "tests/unit/unit.h"

enum { SLOTS = 5, SLOT_PAGES = 8, PAGES = 20 };

static void check_books(const kv_pool *kv) {
    int seen[PAGES] = {0}, held = 0;
    for (int s = 0; s < SLOTS; s++) {
        held += kv->held[s];
        for (int p = 0; p < kv->held[s]; p++)
            seen[kv->table[s * SLOT_PAGES + p]]++;
    }
    for (int i = 0; i < kv->free_count; i++)
        seen[kv->free_list[i]]++;
    assert_int_equal(held + kv->free_count, PAGES);
    for (int i = 0; i < PAGES; i++)
        assert_int_equal(seen[i], 1);
}

CASE(random_life_keeps_the_books) {
    kv_pool kv;
    kv_init(&kv, PAGES, SLOTS, SLOT_PAGES);
    uint64_t seed = 3;
    for (int i = 0; i < 20000; i++) {
        int slot = (int)(next_random(&seed) % SLOTS);
        int64_t tokens = (int64_t)(next_random(&seed) % (SLOT_PAGES * KV_PAGE + 1));
        int before = kv.free_count, missing = kv_missing(&kv, slot, tokens);
        if (next_random(&seed) % 2) {
            kv_truncate(&kv, slot, tokens);
            assert_true(kv.held[slot] * KV_PAGE < tokens + KV_PAGE);
        } else {
            weft_status s = kv_reserve(&kv, slot, tokens);
            assert_int_equal(s, missing > before ? WEFT_AGAIN : WEFT_OK);
            assert_int_equal(kv.free_count, s == WEFT_OK ? before - missing : before);
        }
        check_books(&kv);
    }
    kv_fini(&kv);
}

CASE(places_follow_the_pages) {
    kv_pool kv;
    kv_init(&kv, PAGES, SLOTS, SLOT_PAGES);
    assert_int_equal(kv_reserve(&kv, 1, 3 * KV_PAGE), WEFT_OK);
    for (int64_t pos = 0; pos < 3 * KV_PAGE; pos++) {
        int32_t place = kv_place(&kv, 1, pos);
        assert_int_equal(place / KV_PAGE, kv.table[SLOT_PAGES + pos / KV_PAGE]);
        assert_int_equal(place % KV_PAGE, pos % KV_PAGE);
    }
    kv_fini(&kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_life_keeps_the_books),
                                       cmocka_unit_test(places_follow_the_pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
