/* SPDX-License-Identifier: Apache-2.0
 * The page table: no page belongs to two sequences, none is lost, a refusal changes nothing. */
#include "host/run/kv.h"
#include "tests/unit/unit.h"

enum { SLOTS = 5, SLOT_PAGES = 8, PAGES = 20 };

/* Every page is held as often as it says, or available once; a sequence holds none twice. */
static void check_books(const kv_pool *kv) {
    int seen[PAGES] = {0}, available = 0;
    for (int s = 0; s < SLOTS; s++)
        for (int p = 0; p < kv->held[s]; p++)
            seen[kv->table[s * SLOT_PAGES + p]]++;
    for (int i = 0; i < PAGES; i++)
        assert_int_equal(seen[i], kv->page[i].refs);
    for (int i = kv->page[PAGES].after; i != PAGES; i = kv->page[i].after, available++) {
        assert_int_equal(seen[i]++, 0);
        assert_int_equal(kv->page[kv->page[i].after].before, i);
    }
    assert_int_equal(available, kv->free_count);
    for (int i = 0; i < PAGES; i++)
        assert_true(kv->share ? seen[i] >= 1 : seen[i] == 1);
}

CASE(random_life_keeps_the_books) {
    kv_pool kv;
    kv_init(&kv, PAGES, SLOTS, SLOT_PAGES, false);
    uint64_t seed = 3;
    for (int i = 0; i < 20000; i++) {
        int slot = (int)(next_random(&seed) % SLOTS);
        int32_t tokens = (int32_t)(next_random(&seed) % (SLOT_PAGES * KV_PAGE + 1));
        int before = kv.free_count, missing = kv_missing(&kv, slot, tokens);
        if (next_random(&seed) % 2) {
            assert_int_equal(kv_truncate(&kv, slot, tokens), tokens);
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
    kv_init(&kv, PAGES, SLOTS, SLOT_PAGES, false);
    assert_int_equal(kv_reserve(&kv, 1, 3 * KV_PAGE), WEFT_OK);
    for (int64_t pos = 0; pos < 3 * KV_PAGE; pos++) {
        int32_t place = kv_place(&kv, 1, pos);
        assert_int_equal(place / KV_PAGE, kv.table[SLOT_PAGES + pos / KV_PAGE]);
        assert_int_equal(place % KV_PAGE, pos % KV_PAGE);
    }
    kv_fini(&kv);
}

/* ---- Sharing ---- */

enum { TOKENS = SLOT_PAGES * KV_PAGE };

/* What the kernels would have written: at each place, its token and every token before it. */
typedef struct {
    kv_pool kv;
    int32_t token[SLOTS][TOKENS];
    int32_t n[SLOTS], computed[SLOTS];
    uint64_t cell[PAGES * KV_PAGE];
    int64_t gained, merged;
} world;

static uint64_t value_at(const world *w, int slot, int pos) {
    uint64_t h = 1;
    for (int i = 0; i <= pos; i++)
        h = h * 1000003 + (uint64_t)w->token[slot][i] + 1;
    return h;
}

/* Few tokens and long runs of them make equal prefixes the rule. */
static void begin(world *w, int slot, uint64_t *seed) {
    w->computed[slot] = kv_truncate(&w->kv, slot, 0);
    w->n[slot] = 1 + (int32_t)(next_random(seed) % TOKENS);
    int turn = (int)(next_random(seed) % 4) * KV_PAGE + (int)(next_random(seed) % 2);
    for (int i = 0; i < TOKENS; i++)
        w->token[slot][i] = i < turn ? 7 : (int32_t)(next_random(seed) % 2 ? 7 : slot);
}

static void reuse(world *w, int slot) {
    int before = w->computed[slot];
    w->computed[slot] = kv_reuse(&w->kv, slot, w->token[slot], before, w->n[slot] - 1);
    if (w->computed[slot] != before)
        assert_in_range(w->computed[slot], before + KV_PAGE, w->n[slot] - 1);
    w->gained += w->computed[slot] - before;
}

static void compute(world *w, int slot, uint64_t *seed) {
    int left = w->n[slot] - w->computed[slot];
    int take = left > 0 ? 1 + (int)(next_random(seed) % (uint64_t)left) : 0;
    if (take == 0 || kv_reserve(&w->kv, slot, w->computed[slot] + take) != WEFT_OK)
        return;
    for (int end = w->computed[slot] + take; w->computed[slot] < end; w->computed[slot]++) {
        int32_t at = kv_place(&w->kv, slot, w->computed[slot]);
        const kv_page *page = &w->kv.page[at / KV_PAGE];
        assert_int_equal(page->refs, 1); /* nobody writes where others read */
        assert_int_equal(page->serial, 0);
        w->cell[at] = value_at(w, slot, w->computed[slot]);
    }
    int before = w->kv.free_count;
    kv_publish(&w->kv, slot, w->token[slot], w->computed[slot]);
    w->merged += w->kv.free_count - before;
}

static void cut(world *w, int slot, uint64_t *seed) {
    int want = (int)(next_random(seed) % (uint64_t)(w->computed[slot] + 1));
    w->computed[slot] = kv_truncate(&w->kv, slot, want);
    assert_in_range(w->computed[slot], want / KV_PAGE * KV_PAGE, want);
    for (int i = want; i < w->n[slot]; i++)
        w->token[slot][i] = (int32_t)(next_random(seed) % 2);
}

static void check_cells(const world *w) {
    for (int s = 0; s < SLOTS; s++)
        for (int i = 0; i < w->computed[s]; i++)
            if (w->cell[kv_place(&w->kv, s, i)] != value_at(w, s, i))
                fail_msg("slot %d, token %d: another sequence's value", s, i);
}

CASE(shared_pages_hold_what_each_would_have_computed) {
    world *w = calloc(1, sizeof *w);
    kv_init(&w->kv, PAGES, SLOTS, SLOT_PAGES, true);
    uint64_t seed = 11;
    for (int i = 0; i < 20000; i++) {
        int slot = (int)(next_random(&seed) % SLOTS);
        uint64_t what = next_random(&seed) % 16;
        if (what < 3)
            begin(w, slot, &seed);
        else if (what < 4)
            w->computed[slot] = kv_truncate(&w->kv, slot, 0); /* preempted */
        else if (what < 6)
            cut(w, slot, &seed);
        else if (what < 10)
            reuse(w, slot);
        else
            compute(w, slot, &seed);
        check_books(&w->kv);
        if (i % 16 == 0)
            check_cells(w);
    }
    assert_true(w->gained > 10000);
    assert_true(w->merged > 100);
    kv_fini(&w->kv);
    free(w);
}

CASE(the_page_used_least_recently_goes_first) {
    kv_pool kv;
    int32_t a[4 * KV_PAGE] = {1}, b[4 * KV_PAGE] = {2}, c[4 * KV_PAGE] = {3};
    kv_init(&kv, 8, SLOTS, SLOT_PAGES, true);
    assert_int_equal(kv_reserve(&kv, 0, 4 * KV_PAGE), WEFT_OK);
    kv_publish(&kv, 0, a, 4 * KV_PAGE);
    assert_int_equal(kv_reserve(&kv, 1, 3 * KV_PAGE), WEFT_OK);
    kv_publish(&kv, 1, b, 3 * KV_PAGE);
    kv_truncate(&kv, 0, 0);
    kv_truncate(&kv, 1, 0);
    assert_int_equal(kv.free_count, 8);
    assert_int_equal(kv_reserve(&kv, 2, 3 * KV_PAGE), WEFT_OK); /* the unused one, then a's tail */
    assert_int_equal(kv_reuse(&kv, 0, a, 0, 4 * KV_PAGE), 2 * KV_PAGE);
    assert_int_equal(kv_reuse(&kv, 1, b, 0, 4 * KV_PAGE), 3 * KV_PAGE);
    assert_int_equal(kv_reuse(&kv, 3, c, 0, 4 * KV_PAGE), 0);
    kv_fini(&kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_life_keeps_the_books), cmocka_unit_test(places_follow_the_pages),
        cmocka_unit_test(shared_pages_hold_what_each_would_have_computed),
        cmocka_unit_test(the_page_used_least_recently_goes_first)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
