/* SPDX-License-Identifier: Apache-2.0
 * The planner: values that live together never overlap, memory is no more than it has to be where
 * that is known, and what WEFT_KERNEL asks for is what is found. */
#include "host/run/plan.h"
#include "host/run/registry.h"
#include "tests/unit/unit.h"

static device *dry(const char *name) {
    device *d = NULL;
    assert_int_equal(device_open_dry(name, "portable", &d), WEFT_OK);
    return d;
}

static weft_tensor row(plan_builder *b, int64_t n) {
    return plan_new(b, WEFT_F32, 2, (int64_t[]){1, n});
}

static weft_tensor add(plan_builder *b, weft_tensor x, weft_tensor y) {
    weft_tensor z = row(b, x.shape[1]);
    plan_push(b, WEFT_OP_add, &(weft_args){.add = {.a = x, .b = y, .y = z}}, 0, "add");
    return z;
}

static weft_tensor input(plan_builder *b, int64_t n) {
    return plan_fixed(b, WEFT_SPACE_FEED, "x", 0, weft_tensor_make(WEFT_F32, 2, (int64_t[]){1, n}));
}

/* A chain x1 = x0 + x0, x2 = x1 + x1, ...: two buffers suffice however long it is. */
CASE(chain_needs_two_buffers) {
    device *d = dry("ref");
    arena mem = {0};
    plan_builder b;
    plan_begin(&b, &mem, d, WEFT_PHASE_GENERATE, 0, NULL, 1, 1);
    weft_tensor x = input(&b, 64);
    for (int i = 0; i < 50; i++)
        x = add(&b, x, x);
    assert_int_equal(plan_end(&b), WEFT_OK);
    assert_int_equal(b.plan->space_bytes[WEFT_SPACE_ACT], 2 * 64 * 4);
    assert_int_equal(plan_total(b.plan).flops, 50 * 64);
    arena_fini(&mem);
    device_close(d);
}

static bool overlap(uint64_t a0, uint64_t a1, uint64_t b0, uint64_t b1) {
    return a0 < b1 && b0 < a1;
}

static void check_disjoint(const weft_plan *p) {
    for (int i = 1; i < p->nvalue; i++) {
        const weft_value *a = &p->value[i];
        if (a->space != WEFT_SPACE_ACT)
            continue;
        assert_true(a->off >= 0 && a->off % 64 == 0);
        assert_true((uint64_t)a->off + a->bytes <= p->space_bytes[WEFT_SPACE_ACT]);
        for (int j = i + 1; j < p->nvalue; j++) {
            const weft_value *o = &p->value[j];
            if (o->space != WEFT_SPACE_ACT ||
                !overlap(a->first, a->last + 1, o->first, o->last + 1))
                continue;
            assert_false(overlap((uint64_t)a->off, (uint64_t)a->off + a->bytes, (uint64_t)o->off,
                                 (uint64_t)o->off + o->bytes));
        }
    }
}

/* Random graphs: every step adds two of the last few values. */
CASE(live_values_never_overlap) {
    device *d = dry("ref");
    uint64_t seed = 7;
    for (int round = 0; round < 200; round++) {
        arena mem = {0};
        plan_builder b;
        plan_begin(&b, &mem, d, WEFT_PHASE_GENERATE, 0, NULL, 1, 1);
        int64_t n = 1 + (int64_t)(next_random(&seed) % 300);
        weft_tensor v[40] = {input(&b, n)};
        for (int i = 1; i < 40; i++) {
            int back = i < 8 ? i : 8;
            weft_tensor x = v[i - 1 - (int)(next_random(&seed) % (uint64_t)back)];
            weft_tensor y = v[i - 1 - (int)(next_random(&seed) % (uint64_t)back)];
            v[i] = add(&b, x, y);
        }
        assert_int_equal(plan_end(&b), WEFT_OK);
        check_disjoint(b.plan);
        arena_fini(&mem);
    }
    device_close(d);
}

static weft_args small_add(void) {
    weft_tensor t = weft_tensor_make(WEFT_F32, 2, (int64_t[]){3, 5});
    t.id = 1;
    return (weft_args){.add = {.a = t, .b = t, .y = t}};
}

CASE(weft_kernel_forces_rows) {
    device *d = dry("cpu");
    const weft_kernel *k;
    weft_args a = small_add();
    assert_int_equal(registry_find(d, WEFT_OP_add, &a, &k), WEFT_OK);
    assert_string_equal(k->backend, "cpu");
    setenv("WEFT_KERNEL", "matmul=avx2,add=ref", 1);
    assert_int_equal(registry_find(d, WEFT_OP_add, &a, &k), WEFT_OK);
    assert_string_equal(k->backend, "ref");
    setenv("WEFT_KERNEL", "add=nothing", 1);
    assert_int_equal(registry_find(d, WEFT_OP_add, &a, &k), WEFT_UNSUPPORTED);
    expect_message("nothing");
    setenv("WEFT_KERNEL", "adds=ref", 1);
    assert_int_equal(registry_find(d, WEFT_OP_add, &a, &k), WEFT_USAGE);
    setenv("WEFT_KERNEL", "add", 1);
    assert_int_equal(registry_find(d, WEFT_OP_add, &a, &k), WEFT_USAGE);
    unsetenv("WEFT_KERNEL");
    device_close(d);
}

/* Rows of a higher level than the device's are never chosen. */
CASE(levels_are_respected) {
    weft_args a = small_add();
    const weft_kernel *k;
    for (int level = 0; level < WEFT_CPU_LEVELS; level++) {
        device *d = NULL;
        assert_int_equal(device_open_dry("cpu", device_cpu_level_name(level), &d), WEFT_OK);
        assert_int_equal(registry_find(d, WEFT_OP_add, &a, &k), WEFT_OK);
        assert_true(k->cap <= level);
        device_close(d);
    }
}

CASE(a_step_no_row_can_do_names_its_tag) {
    device *d = dry("ref");
    arena mem = {0};
    plan_builder b;
    plan_begin(&b, &mem, d, WEFT_PHASE_GENERATE, 0, NULL, 1, 1);
    weft_tensor x = input(&b, 8), y = plan_new(&b, WEFT_I32, 2, (int64_t[]){1, 8});
    plan_push(&b, WEFT_OP_add, &(weft_args){.add = {.a = x, .b = x, .y = y}}, 3, "L3.add");
    assert_int_equal(plan_end(&b), WEFT_UNSUPPORTED);
    expect_message("L3.add");
    arena_fini(&mem);
    device_close(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chain_needs_two_buffers),
        cmocka_unit_test(live_values_never_overlap),
        cmocka_unit_test(weft_kernel_forces_rows),
        cmocka_unit_test(levels_are_respected),
        cmocka_unit_test(a_step_no_row_can_do_names_its_tag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
