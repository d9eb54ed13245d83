/* SPDX-License-Identifier: Apache-2.0
 * Conversions against their definition: a table of every non-negative value of the narrow type,
 * built with ldexp in double, and rounding as "the nearest entry, ties to the even index". */
#include "tests/unit/unit.h"
#include "weft/dtype.h"
#include <math.h>

/* A narrow type of `mantissa` explicit bits. values[i] is what bits i mean; the last entry stands
 * for infinity, at the value that the next exponent would give, as IEEE 754 rounds to it. */
typedef struct {
    int mantissa, exponent_bits, count; /* count: finite values, and the index of infinity */
    double values[0x7f81];
} narrow;

static narrow f16 = {.mantissa = 10, .exponent_bits = 5};
static narrow bf16 = {.mantissa = 7, .exponent_bits = 8};

static void fill(narrow *t) {
    int bias = (1 << (t->exponent_bits - 1)) - 1, unit = 1 << t->mantissa;
    t->count = ((1 << t->exponent_bits) - 1) * unit;
    for (int i = 0; i <= t->count; i++) {
        int e = i / unit, m = i % unit;
        t->values[i] = e == 0 ? ldexp(m, 1 - bias - t->mantissa)
                              : ldexp(unit + m, e - bias - t->mantissa);
    }
}

static int make_tables(void **state) {
    (void)state;
    fill(&f16);
    fill(&bf16);
    return 0;
}

static uint16_t nearest(const narrow *t, float x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double a = fabs((double)x);
    int low = 0, high = t->count; /* values[low] <= a < values[high], if finite */
    if (a >= t->values[high])
        return (uint16_t)(sign | high);
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (t->values[mid] <= a)
            low = mid;
        else
            high = mid;
    }
    double down = a - t->values[low], up = t->values[high] - a;
    int best = down < up ? low : up < down ? high : low % 2 ? high : low;
    return (uint16_t)(sign | best);
}

static void check(float x) {
    uint16_t h = weft_f32_to_f16(x), b = weft_f32_to_bf16(x);
    if (isnan(x)) {
        assert_true((h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0);
        assert_true((b & 0x7f80) == 0x7f80 && (b & 0x7f) != 0);
        return;
    }
    if (h != nearest(&f16, x))
        fail_msg("%a to fp16: %04x, not %04x", (double)x, h, nearest(&f16, x));
    if (b != nearest(&bf16, x))
        fail_msg("%a to bf16: %04x, not %04x", (double)x, b, nearest(&bf16, x));
}

CASE(every_narrow_value_widens_to_its_definition) {
    for (int bits = 0; bits < 65536; bits++) {
        int i = bits & 0x7fff;
        double sign = bits & 0x8000 ? -1 : 1;
        float h = weft_f16_to_f32((uint16_t)bits), b = weft_bf16_to_f32((uint16_t)bits);
        if (i < f16.count)
            assert_true((double)h == sign * f16.values[i] && !signbit(h) == (sign > 0));
        else
            assert_true(i == f16.count ? h == (float)sign * INFINITY : isnan(h));
        if (i < bf16.count)
            assert_true((double)b == sign * bf16.values[i] && !signbit(b) == (sign > 0));
        else
            assert_true(i == bf16.count ? b == (float)sign * INFINITY : isnan(b));
    }
}

CASE(every_narrow_value_comes_back) {
    for (int bits = 0; bits < 65536; bits++) {
        uint16_t u = (uint16_t)bits;
        float h = weft_f16_to_f32(u), b = weft_bf16_to_f32(u);
        if (isnan(h))
            check(h);
        else
            assert_int_equal(weft_f32_to_f16(h), u);
        if (isnan(b))
            check(b);
        else
            assert_int_equal(weft_f32_to_bf16(b), u);
    }
}

/* Every midpoint between neighbours and the floats on both sides of it, up to infinity. */
static void check_boundaries(const narrow *t) {
    for (int i = 0; i < t->count; i++) {
        float mid = (float)(0.5 * t->values[i] + 0.5 * t->values[i + 1]);
        check(mid);
        check(-mid);
        check(nextafterf(mid, 0));
        check(nextafterf(mid, INFINITY));
        check(-nextafterf(mid, INFINITY));
    }
}

CASE(every_boundary_rounds_to_nearest_even) {
    check_boundaries(&f16);
    check_boundaries(&bf16);
}

CASE(random_floats_and_every_exponent) {
    uint64_t seed = 1;
    for (int i = 0; i < 300000; i++)
        check(weft_bits_f32((uint32_t)next_random(&seed)));
    for (uint32_t e = 0; e < 512; e++)
        for (uint32_t m = 0; m < 24; m++) {
            check(weft_bits_f32(e << 23 | 1u << m));
            check(weft_bits_f32(e << 23 | ((1u << m) - 1)));
        }
    check(65504);
    check(65519.996f);
    check(65520);
    check(0x1p-25f);
    check(0x1.000002p-25f);
    check(INFINITY);
    check(-0.0f);
}

CASE(sizes_and_names) {
    static const struct {
        int dtype, bits;
        const char *name;
    } rows[] = {{WEFT_F32, 32, "fp32"}, {WEFT_F16, 16, "fp16"}, {WEFT_BF16, 16, "bf16"},
                {WEFT_E4M3, 8, "fp8"},  {WEFT_I8, 8, "int8"},   {WEFT_I4, 4, "int4"},
                {WEFT_NF4, 4, "nf4"},   {WEFT_I32, 32, "i32"},  {WEFT_I64, 64, "i64"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(rows[i].dtype, i);
        assert_int_equal(weft_dtype_bits(rows[i].dtype), rows[i].bits);
        assert_string_equal(weft_dtype_name(rows[i].dtype), rows[i].name);
        assert_int_equal(weft_dtype_bytes(rows[i].dtype, 7), (7 * rows[i].bits + 7) / 8);
    }
    assert_string_equal(weft_dtype_name(WEFT_DTYPES), "?");
    assert_string_equal(weft_dtype_name(-1), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_narrow_value_widens_to_its_definition),
        cmocka_unit_test(every_narrow_value_comes_back),
        cmocka_unit_test(every_boundary_rounds_to_nearest_even),
        cmocka_unit_test(random_floats_and_every_exponent),
        cmocka_unit_test(sizes_and_names),
    };
    return cmocka_run_group_tests_name("dtype", tests, make_tables, NULL);
}
