/* SPDX-License-Identifier: Apache-2.0
 * The JSON reader against RFC 8259: hand-written tables, hexadecimal floats as the values of
 * decimals, and a quadratic key check as the oracle of the hashed one. */
#include "host/base/buf.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "tests/unit/unit.h"
#include <dirent.h>
#include <locale.h>
#include <stdio.h>

static weft_status skip_all(const char *text, size_t n) {
    arena a = {0};
    char *copy = exact_copy(text, n);
    json j;
    json_init(&j, "t", copy, n, &a);
    json_skip(&j);
    weft_status s = json_done(&j);
    arena_fini(&a);
    free(copy);
    return s;
}

/* Reads a text whatever it is, through the typed calls instead of json_skip. */
static void walk(json *j) {
    json_str key;
    switch (json_peek(j)) {
    case JSON_OBJECT:
        for (json_object(j); json_key(j, &key);)
            walk(j);
        break;
    case JSON_ARRAY:
        for (json_array(j); json_item(j);)
            walk(j);
        break;
    case JSON_STRING: json_string(j); break;
    case JSON_NUMBER: json_double(j); break;
    case JSON_BOOL: json_bool(j); break;
    default: json_null(j); break;
    }
}

static weft_status walk_all(const char *text, size_t n) {
    arena a = {0};
    char *copy = exact_copy(text, n);
    json j;
    json_init(&j, "t", copy, n, &a);
    walk(&j);
    weft_status s = json_done(&j);
    arena_fini(&a);
    free(copy);
    return s;
}

CASE(accepts_valid_texts) {
    static const char *const texts[] = {"{}",
                                        "[]",
                                        "0",
                                        "-0",
                                        "-0.0e-0",
                                        "1E+2",
                                        "123456789012345678901234567890",
                                        "\"\"",
                                        "true",
                                        " \t\r\n[ ] ",
                                        "[1,2 , 3]",
                                        "{\"a\":{\"b\":[{}]}}",
                                        "{\"\":0}",
                                        "\"\\u0000\"",
                                        "null",
                                        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
                                        "\"\\uD83D\\ude00\"",
                                        "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
                                        "\"\x7f\"",
                                        "[[[[[[[[]]]]]]]]",
                                        "{\"a\":1,\"b\":{\"a\":1},\"c\":[{\"a\":1},{\"a\":1}]}",
                                        "\"\xef\xbf\xbf\"",
                                        "\"\xf4\x8f\xbf\xbf\"",
                                        "\"\xed\x9f\xbf\"",
                                        "\"\xee\x80\x80\""};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (skip_all(texts[i], strlen(texts[i])) || walk_all(texts[i], strlen(texts[i])))
            fail_msg("%s: %s", texts[i], err_message());
    }
}

#define TEXT(s) \
    { s, sizeof(s) - 1 }
static const struct {
    const char *s;
    size_t n;
} invalid[] = {
    TEXT(""),
    TEXT(" "),
    TEXT("{"),
    TEXT("}"),
    TEXT("["),
    TEXT("]"),
    TEXT("[1"),
    TEXT("[1,"),
    TEXT("[,]"),
    TEXT("[1,]"),
    TEXT("[1,,2]"),
    TEXT("[1 2]"),
    TEXT("{\"a\"}"),
    TEXT("{\"a\":}"),
    TEXT("{\"a\":1,}"),
    TEXT("{,}"),
    TEXT("{1:2}"),
    TEXT("{a:1}"),
    TEXT("{\"a\" 1}"),
    TEXT("[}"),
    TEXT("{]"),
    TEXT("{\"a\":1]"),
    TEXT("1 2"),
    TEXT("{} {}"),
    TEXT("\"a"),
    TEXT("\""),
    TEXT("\"\\"),
    TEXT("\"\\\""),
    TEXT("\"\\x41\""),
    TEXT("\"\\u12\""),
    TEXT("\"\\u12G4\""),
    TEXT("\"\\U0041\""),
    TEXT("\"\n\""),
    TEXT("\"\t\""),
    TEXT("\"\0\""),
    TEXT("\0"),
    TEXT("1\0"),
    TEXT("\"\\ud800\""),
    TEXT("\"\\udc00\""),
    TEXT("\"\\ud800\\u0041\""),
    TEXT("\"\\ud800x\""),
    TEXT("\"\\udc00\\udc00\""),
    TEXT("\"\\ud800\\ud800\""),
    TEXT("\"\\ud800\\"),
    TEXT("\"\xff\""),
    TEXT("\"\xc3\""),
    TEXT("\"\xc0\xaf\""),
    TEXT("\"\xc1\xbf\""),
    TEXT("\"\xe0\x80\xaf\""),
    TEXT("\"\xed\xa0\x80\""),
    TEXT("\"\xf4\x90\x80\x80\""),
    TEXT("\"\xf8\x88\x80\x80\x80\""),
    TEXT("\"\xe2\x82\""),
    TEXT("\"\x80\""),
    TEXT("\xef\xbb\xbf{}"),
    TEXT("\xc2\xa0{}"),
    TEXT("01"),
    TEXT("-"),
    TEXT("-01"),
    TEXT("+1"),
    TEXT("1."),
    TEXT(".5"),
    TEXT("1e"),
    TEXT("1e+"),
    TEXT("1.e5"),
    TEXT("0x10"),
    TEXT("NaN"),
    TEXT("Infinity"),
    TEXT("-Infinity"),
    TEXT("tru"),
    TEXT("truex"),
    TEXT("True"),
    TEXT("nul"),
    TEXT("fals"),
    TEXT("'a'"),
    TEXT("[1]//"),
    TEXT("/**/1"),
    TEXT("{\"a\":1,\"a\":2}"),
    TEXT("{\"a\":1,\"b\":{},\"\\u0061\":2}"),
    TEXT("{\"a\":{\"b\":1,\"b\":1}}"),
    TEXT("1-"),
};

CASE(refuses_invalid_texts) {
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        err_clear();
        if (skip_all(invalid[i].s, invalid[i].n) != WEFT_BAD_FILE)
            fail_msg("json_skip took %s", invalid[i].s);
        expect_message("t:1:");
        if (walk_all(invalid[i].s, invalid[i].n) != WEFT_BAD_FILE)
            fail_msg("the typed calls took %s", invalid[i].s);
    }
}

/* Names in the corpus say what is expected: ok-* is valid. */
CASE(corpus_of_the_fuzzer) {
    static const char folder[] = "tests/fuzz/corpus/json";
    DIR *d = opendir(folder);
    if (!d) {
        skip();
        return;
    }
    arena a = {0};
    for (struct dirent *e; (e = readdir(d));) {
        const char *text, *path = file_join(&a, folder, e->d_name);
        size_t n;
        if (e->d_name[0] == '.')
            continue;
        assert_int_equal(file_read(path, 1 << 20, &a, &text, &n), WEFT_OK);
        weft_status skipped = skip_all(text, n), walked = walk_all(text, n);
        if (strncmp(e->d_name, "ok-", 3) == 0 && (skipped || walked))
            fail_msg("%s: %s", path, err_message());
        if (skipped && !walked)
            fail_msg("%s: only json_skip refuses it", path);
    }
    closedir(d);
    arena_fini(&a);
}

CASE(every_proper_prefix_is_refused) {
    static const char text[] = "{\"a\\u00e9\\ud83d\\ude00\":[1.5e3,-2,\"x\xc3\xa9\",true,null],"
                               "\"b\":{\"c\":false,\"d\":\"\\n\"}}";
    assert_int_equal(walk_all(text, sizeof text - 1), WEFT_OK);
    for (size_t n = 0; n < sizeof text - 1; n++) {
        assert_int_equal(skip_all(text, n), WEFT_BAD_FILE);
        assert_int_equal(walk_all(text, n), WEFT_BAD_FILE);
    }
}

static json_str read_string(const char *text, arena *a, json *j) {
    json_init(j, "t", text, strlen(text), a);
    return json_string(j);
}

CASE(strings_are_unescaped) {
    static const struct {
        const char *text, *want;
        size_t n;
    } rows[] = {
        {"\"abc\"", "abc", 3},
        {"\"a\\nb\"", "a\nb", 3},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
        {"\"\\u0041\\u00e9\\u20ac\"", "A\xc3\xa9\xe2\x82\xac", 6},
        {"\"\\uD83D\\uDE00!\"", "\xf0\x9f\x98\x80!", 5},
        {"\"\\udbff\\udfff\"", "\xf4\x8f\xbf\xbf", 4},
        {"\"x\\u0000y\"", "x\0y", 3},
        {"\"\xe2\x82\xac\\t\xe2\x82\xac\"", "\xe2\x82\xac\t\xe2\x82\xac", 7},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        arena a = {0};
        json j;
        json_str s = read_string(rows[i].text, &a, &j);
        assert_int_equal(json_done(&j), WEFT_OK);
        assert_int_equal(s.n, rows[i].n);
        assert_memory_equal(s.s, rows[i].want, s.n);
        arena_fini(&a);
    }
}

CASE(a_plain_string_is_not_copied) {
    arena a = {0};
    json j;
    static const char text[] = "\"plain \xc3\xa9\"";
    json_str s = read_string(text, &a, &j);
    assert_ptr_equal(s.s, text + 1);
    assert_int_equal(a.total, 0);
    arena_fini(&a);
}

CASE(lone_surrogates_on_request) {
    static const char *const texts[] = {"\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\ud800\""};
    for (int i = 0; i < 3; i++) {
        arena a = {0};
        json j;
        json_init(&j, "t", texts[i], strlen(texts[i]), &a);
        j.lone_surrogates = true;
        json_str s = json_string(&j);
        assert_int_equal(json_done(&j), WEFT_OK);
        assert_int_equal(s.n, i == 2 ? 6 : 3);
        assert_memory_equal(s.s, "\xef\xbf\xbd\xef\xbf\xbd", s.n);
        arena_fini(&a);
    }
}

/* Each byte value at each offset of strings of many lengths: the eight-at-a-time scan has no
 * seam. */
CASE(scan_at_every_offset) {
    for (size_t len = 1; len < 36; len++)
        for (size_t at = 0; at < len; at++)
            for (int c = 0; c < 256; c++) {
                char text[64] = "\"";
                memset(text + 1, 'x', len);
                text[1 + at] = (char)c;
                text[1 + len] = '"';
                bool plain = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
                if ((skip_all(text, len + 2) == WEFT_OK) != plain)
                    fail_msg("byte %02x at %zu of %zu", c, at, len);
            }
}

CASE(integers) {
    static const struct {
        const char *text;
        int64_t min, max, want;
        const char *why;
    } rows[] = {
        {"0", 0, 0, 0, NULL},
        {"-0", 0, 0, 0, NULL},
        {"9223372036854775807", INT64_MIN, INT64_MAX, INT64_MAX, NULL},
        {"-9223372036854775808", INT64_MIN, INT64_MAX, INT64_MIN, NULL},
        {"9223372036854775808", INT64_MIN, INT64_MAX, 0, "out of range"},
        {"-9223372036854775809", INT64_MIN, INT64_MAX, 0, "out of range"},
        {"18446744073709551616", INT64_MIN, INT64_MAX, 0, "out of range"},
        {"99999999999999999999999999999999", INT64_MIN, INT64_MAX, 0, "out of range"},
        {"7", 8, 9, 0, "t:1:1: 7 is out of range (8 to 9)"},
        {"1.0", 0, 9, 0, "1.0 where an integer should be"},
        {"1e3", 0, 9999, 0, "1e3 where an integer should be"},
        {"\"1\"", 0, 9, 0, "a string where a number should be"},
        {"true", 0, 9, 0, "a boolean where a number should be"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        arena a = {0};
        json j;
        json_init(&j, "t", rows[i].text, strlen(rows[i].text), &a);
        assert_int_equal(json_int(&j, rows[i].min, rows[i].max), rows[i].want);
        assert_int_equal(json_done(&j), rows[i].why ? WEFT_BAD_FILE : WEFT_OK);
        if (rows[i].why)
            expect_message(rows[i].why);
        arena_fini(&a);
    }
}

static double read_double(const char *text) {
    arena a = {0};
    char *copy = exact_copy(text, strlen(text));
    json j;
    json_init(&j, "t", copy, strlen(text), &a);
    double x = json_double(&j);
    if (json_done(&j) != WEFT_OK)
        fail_msg("%s: %s", text, err_message());
    arena_fini(&a);
    free(copy);
    return x;
}

CASE(decimals_are_correctly_rounded) {
    static const struct {
        const char *text;
        double want;
    } rows[] = {
        {"0", 0},
        {"1", 1},
        {"-2.5", -2.5},
        {"0.1", 0x1.999999999999ap-4},
        {"0.3", 0x1.3333333333333p-2},
        {"1e23", 0x1.52d02c7e14af6p+76},
        {"1e22", 0x1.0f0cf064dd592p+73},
        {"9007199254740992", 0x1p53},
        {"9007199254740993", 0x1p53},
        {"9007199254740995", 0x1.0000000000002p53},
        {"123456789e-22", 0x1.bcccca1f70d61p-47},
        {"1.7976931348623157e308", 0x1.fffffffffffffp1023},
        {"2.2250738585072011e-308", 0x0.fffffffffffffp-1022},
        {"2.2250738585072014e-308", 0x1p-1022},
        {"5e-324", 0x1p-1074},
        {"2e-324", 0},
        {"1e-400", 0},
        {"0e99999", 0},
        {"0.000000000000000000000000000000000000000000001e45", 1},
        {"1000000000000000000000000000000000000000000000e-45", 1},
        {"6.02214076e23", 0x1.fe185ca57c517p+78},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (read_double(rows[i].text) != rows[i].want)
            fail_msg("%s: %a, not %a", rows[i].text, read_double(rows[i].text), rows[i].want);
    assert_true(1 / read_double("-0.0") < 0);
}

/* Seventeen digits name a double, so a random one printed by the C library must come back. */
CASE(random_doubles_come_back) {
    uint64_t seed = 7;
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = next_random(&seed);
        double x;
        char text[64];
        memcpy(&x, &bits, sizeof x);
        if (x != x || x - x != 0)
            continue;
        snprintf(text, sizeof text, i % 2 ? "%.17g" : "%.16e", x);
        if (read_double(text) != x)
            fail_msg("%s became %.17g", text, read_double(text));
        snprintf(text, sizeof text, "%lld.%04d", (long long)(bits >> 30), (int)(bits % 10000));
        assert_true(read_double(text) == strtod(text, NULL));
    }
}

CASE(another_locale_changes_nothing) {
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "es_ES.UTF-8"};
    const char *set = NULL;
    for (int i = 0; i < 4 && !set; i++)
        set = setlocale(LC_ALL, names[i]);
    if (!set)
        skip();
    assert_true(read_double("2.5e-30") == 0x1.95a5efea6b347p-99);
    buf b;
    buf_init(&b, 100);
    buf_json_double(&b, 0.1);
    assert_string_equal(b.data, "0.1");
    buf_fini(&b);
    setlocale(LC_ALL, "C");
}

CASE(numbers_that_are_refused) {
    static const char *const texts[] = {"1e309", "-1e400", "1e99999999999999999999"};
    for (int i = 0; i < 3; i++) {
        arena a = {0};
        json j;
        json_init(&j, "t", texts[i], strlen(texts[i]), &a);
        assert_true(json_double(&j) == 0);
        assert_int_equal(json_done(&j), WEFT_BAD_FILE);
        expect_message("out of range");
    }
    char *digits = malloc(1000000);
    memset(digits, '7', 1000000);
    assert_int_equal(walk_all(digits, 1000000), WEFT_BAD_FILE);
    expect_message("1000000 characters");
    assert_int_equal(skip_all(digits, 1000000), WEFT_OK);
    free(digits);
}

CASE(messages_name_file_line_column_and_key) {
    static const char text[] = "{\n  \"\xc3\xa9\": 1,\n  \"\xe2\x82\xac\": \"x\"\n}";
    arena a = {0};
    json j;
    json_init(&j, "config.json", text, strlen(text), &a);
    json_str key;
    for (json_object(&j); json_key(&j, &key);)
        json_int(&j, 0, 9);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    assert_string_equal(err_message(),
                        "config.json:3:8: \"\xe2\x82\xac\": a string where a number should be");
    arena_fini(&a);
}

CASE(failure_is_sticky_and_loops_end) {
    arena a = {0};
    json j;
    json_str key;
    json_init(&j, "t", "{\"a\":[1,2,x", 11, &a);
    json_object(&j);
    assert_true(json_key(&j, &key));
    json_array(&j);
    while (json_item(&j))
        json_int(&j, 0, 9);
    weft_fail(WEFT_IO, "another");
    assert_false(json_key(&j, &key));
    assert_int_equal(key.n, 0);
    assert_int_equal(json_int(&j, 3, 9), 0);
    assert_int_equal(json_string(&j).n, 0);
    assert_int_equal(json_raw(&j).n, 0);
    assert_int_equal(json_peek(&j), JSON_NONE);
    assert_string_equal(json_text(&j), "");
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    assert_string_equal(err_message(), "another"); /* set once, where it failed */
    arena_fini(&a);
}

CASE(unread_values_are_skipped) {
    static const char text[] = "{\"a\":{\"x\":[1,{\"y\":2}]},\"b\":[[],[3]],\"c\":4}";
    arena a = {0};
    json j;
    json_str key;
    int64_t c = 0, keys = 0;
    json_init(&j, "t", text, strlen(text), &a);
    for (json_object(&j); json_key(&j, &key); keys++)
        if (json_is(key, "c"))
            c = json_int(&j, 0, 9);
    assert_int_equal(json_done(&j), WEFT_OK);
    assert_int_equal(c, 4);
    assert_int_equal(keys, 3);
    arena_fini(&a);
}

CASE(raw_text_of_a_value) {
    static const char text[] = "{\"a\": {\"x\": [1, \"}\"]} , \"b\":2}";
    arena a = {0};
    json j;
    json_str key;
    json_init(&j, "t", text, strlen(text), &a);
    json_object(&j);
    assert_true(json_key(&j, &key));
    json_str raw = json_raw(&j);
    assert_int_equal(raw.n, 15);
    assert_memory_equal(raw.s, "{\"x\": [1, \"}\"]}", raw.n);
    assert_true(json_key(&j, &key));
    assert_true(json_is(key, "b"));
    arena_fini(&a);
}

CASE(text_with_nul_is_refused_by_json_text) {
    arena a = {0};
    json j;
    json_init(&j, "t", "\"a\\u0000b\"", 10, &a);
    json_text(&j);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    expect_message("NUL");
    arena_fini(&a);
}

CASE(depth_and_count_have_caps) {
    enum { N = 1000000 };
    char *text = malloc(2 * N);
    memset(text, '[', N);
    memset(text + N, ']', N);
    assert_int_equal(skip_all(text, 2 * N), WEFT_BAD_FILE);
    expect_message("t:1:65: nested too deeply (limit 64)");
    assert_int_equal(skip_all(text + N - 64, 128), WEFT_OK);
    assert_int_equal(skip_all(text + N - 65, 130), WEFT_BAD_FILE);
    arena a = {0};
    json j;
    json_init(&j, "t", text, 2 * N, &a);
    j.max_depth = 1000000; /* no more than the reader has frames for */
    json_skip(&j);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    expect_message("(limit 256)");
    json_init(&j, "t", "[1,2,3]", 7, &a);
    j.max_count = 3;
    json_skip(&j);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    expect_message("too many values (limit 3)");
    arena_fini(&a);
    free(text);
}

/* A random object of objects with few distinct keys; the oracle compares each with all before. */
static bool random_object(buf *b, uint64_t *seed, int depth) {
    bool twice = false;
    int n = (int)(next_random(seed) % 24), range = (int)(next_random(seed) % 4 ? 4000 : 60);
    int keys[24];
    buf_putc(b, '{');
    for (int i = 0; i < n; i++) {
        keys[i] = (int)(next_random(seed) % (unsigned)range);
        for (int m = 0; m < i; m++)
            twice |= keys[m] == keys[i];
        buf_printf(b, keys[i] % 2 ? "%s\"k%d\":" : "%s\"\\u006b%d\":", i ? "," : "", keys[i]);
        if (depth > 0 && next_random(seed) % 3 == 0)
            twice |= random_object(b, seed, depth - 1);
        else
            buf_putc(b, '0');
    }
    buf_putc(b, '}');
    return twice;
}

CASE(duplicate_keys_against_a_quadratic_check) {
    uint64_t seed = 3;
    int refused = 0;
    buf b;
    buf_init(&b, 1 << 24);
    for (int i = 0; i < 4000; i++) {
        buf_clear(&b);
        bool twice = random_object(&b, &seed, 3);
        if ((skip_all(b.data, b.len) == WEFT_BAD_FILE) != twice)
            fail_msg("%s: %s", twice ? "taken" : err_message(), b.data);
        if (twice)
            expect_message("duplicate key");
        refused += twice;
    }
    assert_in_range(refused, 400, 3600);
    buf_fini(&b);
}

/* A million keys, then the first, a middle or the last of them again. */
CASE(many_keys) {
    enum { N = 1000000 };
    static const int again[] = {-1, 0, N / 2, N - 1};
    buf b;
    buf_init(&b, 1 << 26);
    buf_putc(&b, '{');
    for (int i = 0; i < N; i++)
        buf_printf(&b, "\"%d\":{},", i);
    size_t len = b.len;
    for (size_t i = 0; i < sizeof again / sizeof *again; i++) {
        b.len = len;
        buf_printf(&b, "\"%d\":0}", again[i]);
        assert_int_equal(skip_all(b.data, b.len), again[i] < 0 ? WEFT_OK : WEFT_BAD_FILE);
    }
    buf_fini(&b);
}

CASE(many_small_objects_take_no_memory) {
    buf b;
    buf_init(&b, 1 << 26);
    for (int i = 0; i < 200000; i++) {
        buf_puts(&b, i ? "," : "[");
        buf_puts(&b,
                 "{\"a\":1,\"b\":{\"a\":2},\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,"
                 "\"j\":10}");
    }
    buf_putc(&b, ']');
    arena a = {0};
    json j;
    json_init(&j, "t", b.data, b.len, &a);
    json_skip(&j);
    assert_int_equal(json_done(&j), WEFT_OK);
    assert_in_range(a.total, 1, 65536);
    arena_fini(&a);
    buf_fini(&b);
}

CASE(done_wants_the_whole_text) {
    arena a = {0};
    json j;
    json_init(&j, "t", "{\"a\":1}", 7, &a);
    json_object(&j);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    json_init(&j, "t", "[1]  \n", 6, &a);
    assert_int_equal(json_done(&j), WEFT_OK); /* unread, but checked */
    json_init(&j, "t", "[1}", 3, &a);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    json_init(&j, "t", "1", 1, &a);
    assert_int_equal(json_int(&j, 0, 9), 1);
    json_int(&j, 0, 9);
    assert_int_equal(json_done(&j), WEFT_BAD_FILE);
    arena_fini(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_valid_texts),
        cmocka_unit_test(refuses_invalid_texts),
        cmocka_unit_test(corpus_of_the_fuzzer),
        cmocka_unit_test(every_proper_prefix_is_refused),
        cmocka_unit_test(strings_are_unescaped),
        cmocka_unit_test(a_plain_string_is_not_copied),
        cmocka_unit_test(lone_surrogates_on_request),
        cmocka_unit_test(scan_at_every_offset),
        cmocka_unit_test(integers),
        cmocka_unit_test(decimals_are_correctly_rounded),
        cmocka_unit_test(random_doubles_come_back),
        cmocka_unit_test(another_locale_changes_nothing),
        cmocka_unit_test(numbers_that_are_refused),
        cmocka_unit_test(messages_name_file_line_column_and_key),
        cmocka_unit_test(failure_is_sticky_and_loops_end),
        cmocka_unit_test(unread_values_are_skipped),
        cmocka_unit_test(raw_text_of_a_value),
        cmocka_unit_test(text_with_nul_is_refused_by_json_text),
        cmocka_unit_test(depth_and_count_have_caps),
        cmocka_unit_test(duplicate_keys_against_a_quadratic_check),
        cmocka_unit_test(many_keys),
        cmocka_unit_test(many_small_objects_take_no_memory),
        cmocka_unit_test(done_wants_the_whole_text),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
