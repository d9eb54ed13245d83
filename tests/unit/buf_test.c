/* SPDX-License-Identifier: Apache-2.0
 * buf: growth, the hard maximum, JSON strings and shortest decimals (read back by the C library;
 * that nothing shorter would do is checked by trying every shorter precision). */
#include "host/base/buf.h"
#include "tests/unit/unit.h"
#include <math.h>
#include <stdio.h>

CASE(grows_and_stays_terminated) {
    buf b;
    buf_init(&b, 100000);
    assert_string_equal(b.data, "");
    for (int i = 0; i < 100000; i++) {
        buf_putc(&b, (char)('a' + i % 26));
        if (i % 777 == 0)
            assert_int_equal(strlen(b.data), i + 1);
    }
    assert_false(b.failed);
    assert_int_equal(b.len, 100000);
    assert_int_equal(b.data[99999], 'a' + 99999 % 26);
    buf_fini(&b);
    assert_string_equal(b.data, "");
}

CASE(the_maximum_is_hard_and_sticky) {
    buf b;
    buf_init(&b, 5);
    buf_puts(&b, "abc");
    buf_puts(&b, "def");
    assert_true(b.failed);
    assert_string_equal(b.data, "abc");
    buf_puts(&b, "d"); /* would fit, but would hide that "def" is missing */
    assert_string_equal(b.data, "abc");
    buf_clear(&b);
    assert_false(b.failed);
    buf_printf(&b, "%d", 12345);
    assert_string_equal(b.data, "12345");
    assert_false(b.failed);
    buf_add(&b, "", 0);
    assert_false(b.failed);
    buf_putc(&b, '6');
    assert_true(b.failed);
    buf_fini(&b);
    buf_init(&b, 0);
    buf_putc(&b, 'x');
    assert_true(b.failed);
    assert_string_equal(b.data, "");
    buf_fini(&b);
    buf_init(&b, SIZE_MAX);
    buf_puts(&b, "x");
    assert_false(b.failed);
    buf_add(&b, "y", SIZE_MAX); /* refused by its size alone */
    assert_true(b.failed);
    buf_fini(&b);
}

CASE(clear_keeps_the_memory) {
    buf b;
    buf_init(&b, 1000);
    buf_puts(&b, "some text");
    uint64_t before = mem_allocations();
    for (int i = 0; i < 100; i++) {
        buf_clear(&b);
        buf_printf(&b, "%d and %s", i, "text");
    }
    assert_int_equal(mem_allocations(), before);
    buf_fini(&b);
}

CASE(printf_of_any_length) {
    static char want[3000];
    buf b;
    buf_init(&b, 1 << 20);
    memset(want, 'z', sizeof want - 1);
    for (size_t n = 200; n < 300; n++) {
        buf_clear(&b);
        buf_printf(&b, "%s", want + sizeof want - 1 - n);
        assert_int_equal(b.len, n);
        assert_int_equal(strlen(b.data), n);
    }
    buf_printf(&b, "%s", want);
    assert_int_equal(b.len, 299 + sizeof want - 1);
    buf_fini(&b);
    buf_init(&b, 299);
    buf_printf(&b, "%300d", 1);
    assert_true(b.failed);
    assert_int_equal(b.len, 0);
    buf_fini(&b);
}

CASE(json_strings) {
    static const struct {
        const char *s;
        size_t n;
        const char *want;
    } rows[] = {
        {"", 0, "\"\""},
        {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\""},
        {"\0\x1f\x7f", 3, "\"\\u0000\\u001f\\u007f\""},
        {"\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\""},
        {"a\xff"
         "b\xc3",
         4,
         "\"a\xef\xbf\xbd"
         "b\xef\xbf\xbd\""},
        {"\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xc0\x80", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
    };
    buf b;
    buf_init(&b, 1000);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *s = exact_copy(rows[i].s, rows[i].n);
        buf_clear(&b);
        buf_json_string(&b, s, rows[i].n);
        assert_string_equal(b.data, rows[i].want);
        free(s);
    }
    buf_fini(&b);
}

CASE(known_decimals) {
    static const struct {
        double x;
        const char *want;
    } rows[] = {
        {0, "0"},
        {-0.0, "-0.0"},
        {1, "1"},
        {-3, "-3"},
        {0.1, "0.1"},
        {1e20, "1e+20"},
        {123456789012345, "123456789012345"},
        {0.5, "0.5"},
        {1.0 / 3, "0.3333333333333333"},
        {0.1 + 0.2, "0.30000000000000004"},
        {5e-324, "5e-324"},
        {NAN, "null"},
        {INFINITY, "null"},
        {-INFINITY, "null"},
        {1e-7, "1e-07"},
        {1.5e300, "1.5e+300"},
    };
    static const struct {
        float x;
        const char *want;
    } floats[] = {{0.1f, "0.1"}, {16777216, "16777216"},           {1.0f / 3, "0.33333334"},
                  {NAN, "null"}, {3.4028235e38f, "3.4028235e+38"}, {-2.5f, "-2.5"},
                  {7, "7"}};
    buf b;
    buf_init(&b, 1000);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        buf_clear(&b);
        buf_json_double(&b, rows[i].x);
        assert_string_equal(b.data, rows[i].want);
    }
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        buf_clear(&b);
        buf_json_float(&b, floats[i].x);
        assert_string_equal(b.data, floats[i].want);
    }
    buf_fini(&b);
}

static int significant_digits(const char *s) {
    int n = 0, zeros = 0;
    for (; *s && *s != 'e'; s++) {
        if (*s < '0' || *s > '9' || (n == 0 && *s == '0'))
            continue;
        n++;
        zeros = *s == '0' ? zeros + 1 : 0;
    }
    return n - zeros;
}

CASE(random_doubles_are_shortest_and_come_back) {
    uint64_t seed = 11;
    buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = next_random(&seed);
        double x;
        memcpy(&x, &bits, sizeof x);
        x = i % 2 ? x : (double)(int64_t)(bits % 2000000) / 1000.0;
        if (!isfinite(x))
            continue;
        buf_clear(&b);
        buf_json_double(&b, x);
        assert_true(strtod(b.data, NULL) == x);
        for (int digits = 1; digits < significant_digits(b.data); digits++) {
            char shorter[400];
            snprintf(shorter, sizeof shorter, "%.*g", digits, x);
            if (strtod(shorter, NULL) == x)
                fail_msg("%s, but %s will do", b.data, shorter);
        }
    }
    buf_fini(&b);
}

CASE(random_floats_are_shortest_and_come_back) {
    uint64_t seed = 12;
    buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 20000; i++) {
        uint32_t bits = (uint32_t)next_random(&seed);
        float x;
        memcpy(&x, &bits, sizeof x);
        if (!isfinite(x))
            continue;
        buf_clear(&b);
        buf_json_float(&b, x);
        assert_true(strtof(b.data, NULL) == x);
        for (int digits = 1; digits < significant_digits(b.data); digits++) {
            char shorter[400];
            snprintf(shorter, sizeof shorter, "%.*g", digits, (double)x);
            if (strtof(shorter, NULL) == x)
                fail_msg("%s, but %s will do", b.data, shorter);
        }
    }
    buf_fini(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_and_stays_terminated),
        cmocka_unit_test(the_maximum_is_hard_and_sticky),
        cmocka_unit_test(clear_keeps_the_memory),
        cmocka_unit_test(printf_of_any_length),
        cmocka_unit_test(json_strings),
        cmocka_unit_test(known_decimals),
        cmocka_unit_test(random_doubles_are_shortest_and_come_back),
        cmocka_unit_test(random_floats_are_shortest_and_come_back),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
