/* SPDX-License-Identifier: Apache-2.0
 * Stop expressions on a stream against one search of the whole text: the same beginning is found,
 * nothing that belongs to a match is given away before, and no text makes it slow. */
#include "tests/unit/unit.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include "host/base/clock.h"
#include "host/model/stop_regex.h"
#include <pcre2.h>

enum { TEXT = 160 };

static const char *const patterns[] = {
    "ab",         "a+b",    "(?:ab|ba){2}", "\\n\\n+",    "^User:",  "(?m)^a+:",
    "a(?=b)",     "a(?!b)", "\\bab\\b",     "(?<=b)a{2}", "(?<!a)b", "[^a\\n]{3}",
    "b.*b",       "b.*?b",  "a$",           "(?m)b$",     "\\.\\s",  "a|ab|aba",
    "(a)(b)?\\1", "x*",     "(?:a|b)*:",    "\xc3\xa9+",  "(?i)A:",  "\\Aab",
    "a\\z",       "b\\Z",   "(?>a+)b",      "a++",        "a\\Kb",   "\\p{Lu}",
};

/* Where the first match of the whole text begins; its length if there is none. */
static size_t whole(const char *pattern, const char *text, size_t n) {
    int error;
    PCRE2_SIZE at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
    assert_non_null(code);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    int found = pcre2_match(code, (PCRE2_SPTR)text, n, 0, PCRE2_NOTEMPTY, data, NULL);
    size_t start = found > 0 ? pcre2_get_ovector_pointer(data)[0] : n;
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return start;
}

/* What a reader has got when the stream is over. */
static size_t streamed(const char *pattern, const char *text, size_t n) {
    stop_regex *r;
    size_t found = 0, given = 0;
    assert_int_equal(stop_regex_open(&pattern, 1, &r), WEFT_OK);
    for (size_t i = 0; i < n && found == 0; i++) {
        assert_int_equal(stop_regex_feed(r, text[i], &found), WEFT_OK);
        size_t certain = found ? i + 1 - found : i + 1 - stop_regex_partial(r);
        assert_true(certain >= given); /* what was given cannot be taken back */
        given = certain;
    }
    if (found == 0) {
        assert_int_equal(stop_regex_finish(r, &found), WEFT_OK);
        assert_true(n - found >= given);
        given = n - found;
    }
    stop_regex_close(r);
    return given;
}

CASE(a_stream_is_cut_where_the_whole_text_would_be) {
    static const char *const letters[] = {"a", "b", "a", "b",    ":",       "\n",
                                          ".", " ", "x", "User", "\xc3\xa9"};
    uint64_t seed = 3;
    int cut = 0;
    for (int i = 0; i < 300; i++) {
        char text[TEXT + 8];
        size_t n = 0, most = 1 + next_random(&seed) % TEXT;
        unsigned kinds = 2 + (unsigned)(next_random(&seed) % 10);
        while (n < most) {
            const char *s = letters[next_random(&seed) % kinds];
            while (*s)
                text[n++] = *s++;
        }
        for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
            size_t want = whole(patterns[p], text, n), got = streamed(patterns[p], text, n);
            if (got != want)
                fail_msg("%s on \"%.*s\": cut at %zu, not %zu", patterns[p], (int)n, text, got,
                         want);
            cut += want < n;
        }
    }
    assert_true(cut > 1000);
}

CASE(the_earliest_of_several) {
    static const char *const two[] = {"b+c", "a.b"};
    stop_regex *r;
    size_t found = 0, n = 0;
    assert_int_equal(stop_regex_open(two, 2, &r), WEFT_OK);
    for (const char *p = "xxaybbbc"; *p && !found; p++, n++)
        assert_int_equal(stop_regex_feed(r, *p, &found), WEFT_OK);
    assert_int_equal(n - found, 2);
    stop_regex_close(r);
}

/* A match that does not come is not waited for: at most the window is held back. */
CASE(the_window_bounds_what_is_held) {
    const char *pattern = "a[^z]*z", *later = "bz";
    stop_regex *r;
    size_t found;
    assert_int_equal(stop_regex_open(&pattern, 1, &r), WEFT_OK);
    for (int i = 0; i < 100000; i++) {
        assert_int_equal(stop_regex_feed(r, "ab"[i & 1], &found), WEFT_OK);
        assert_int_equal(found, 0);
        assert_true(stop_regex_partial(r) <= STOP_REGEX_WINDOW);
    }
    for (const char *p = later; *p; p++)
        assert_int_equal(stop_regex_feed(r, *p, &found), WEFT_OK);
    assert_in_range(found, 400, STOP_REGEX_WINDOW + 2); /* it begins within the window */
    stop_regex_close(r);
}

/* Looking back works where the text before was long forgotten, and "^" is the stream's
 * beginning. */
CASE(old_text_is_forgotten) {
    const char *pattern = "(?<=q)ab|^cd";
    stop_regex *r;
    size_t found;
    assert_int_equal(stop_regex_open(&pattern, 1, &r), WEFT_OK);
    for (int i = 0; i < 30000; i++) {
        assert_int_equal(stop_regex_feed(r, "cdxab"[i % 5], &found), WEFT_OK);
        assert_int_equal(found > 0, i == 1);
        if (found) {
            stop_regex_close(r);
            const char *other = "(?<=q)ab|^q";
            assert_int_equal(stop_regex_open(&other, 1, &r), WEFT_OK);
        }
    }
    for (const char *p = "xqab"; *p; p++)
        assert_int_equal(stop_regex_feed(r, *p, &found), WEFT_OK);
    assert_int_equal(found, 2);
    stop_regex_close(r);
}

CASE(wrong_expressions_are_named) {
    static char long_one[STOP_REGEX_BYTES + 2];
    const char *many[STOP_REGEX_MAX + 1];
    static const char *const bad[] = {"",        "(",   "a\xff",  "[z-a]",
                                      "(?<name", "\\C", "a{2,1}", long_one};
    stop_regex *r;
    memset(long_one, 'a', STOP_REGEX_BYTES + 1);
    for (int i = 0; i <= STOP_REGEX_MAX; i++)
        many[i] = "a";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *two[] = {"a", bad[i]};
        assert_int_equal(stop_regex_open(two, 2, &r), WEFT_USAGE);
        expect_message("stop regex 2: ");
    }
    assert_int_equal(stop_regex_open(many, STOP_REGEX_MAX + 1, &r), WEFT_USAGE);
    assert_int_equal(stop_regex_open(many, STOP_REGEX_MAX, &r), WEFT_OK);
    stop_regex_close(r);
    assert_int_equal(stop_regex_open(NULL, 0, &r), WEFT_OK);
    assert_null(r);
}

CASE(catastrophes_end) {
    const char *pattern = "(?:a+)+b";
    stop_regex *r;
    weft_status s = WEFT_OK;
    double start = clock_seconds();
    size_t found;
    assert_int_equal(stop_regex_open(&pattern, 1, &r), WEFT_OK);
    for (int i = 0; i < 2000 && s == WEFT_OK; i++)
        s = stop_regex_feed(r, i % 40 ? 'a' : 'c', &found);
    if (s != WEFT_OK)
        expect_message("stop regex 1: ");
    stop_regex_close(r);
    assert_true(clock_seconds() - start < 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_is_cut_where_the_whole_text_would_be),
        cmocka_unit_test(the_earliest_of_several),
        cmocka_unit_test(the_window_bounds_what_is_held),
        cmocka_unit_test(old_text_is_forgotten),
        cmocka_unit_test(wrong_expressions_are_named),
        cmocka_unit_test(catastrophes_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
