/* SPDX-License-Identifier: Apache-2.0
 * Memory, arenas, checked arithmetic, and the failure message beside them. */
#include "host/base/utf8.h"
#include "tests/unit/unit.h"
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

CASE(allocations_are_zeroed_and_counted) {
    uint64_t before = mem_allocations();
    char *p = mem_alloc(100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(p[i], 0);
    p[99] = 7;
    p = mem_grow(p, 1000);
    assert_int_equal(p[99], 7);
    void *none = mem_alloc(0);
    assert_non_null(none);
    assert_int_equal(mem_allocations() - before, 3);
    mem_free(p);
    mem_free(none);
    mem_free(NULL);
}

/* Runs fn in a child and returns its exit status; what it wrote to stderr goes to text. */
static int in_child(void (*fn)(void), char *text, size_t size) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], text, size - 1);
    text[n > 0 ? n : 0] = 0;
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void take_too_much(void) {
    mem_alloc(SIZE_MAX - 4096);
}

static void grow_too_much(void) {
    mem_grow(NULL, SIZE_MAX);
}

static void arena_too_much(void) {
    arena a = {0};
    arena_alloc(&a, SIZE_MAX - 8);
}

static void break_a_promise(void) {
    int one = 1;
    WEFT_ASSERT(one == 2);
}

CASE(running_out_ends_with_4) {
    char text[256];
    assert_int_equal(in_child(take_too_much, text, sizeof text), 4);
    assert_string_equal(text, "weft: error: memory: out of memory (18446744073709547519 bytes)\n");
    assert_int_equal(in_child(grow_too_much, text, sizeof text), 4);
    assert_int_equal(in_child(arena_too_much, text, sizeof text), 4);
}

CASE(a_bug_aborts_and_says_where) {
    char text[256];
    assert_int_equal(in_child(break_a_promise, text, sizeof text), -SIGABRT);
    assert_non_null(strstr(text, "mem_test.c:"));
    assert_non_null(strstr(text, "one == 2"));
}

CASE(arena_pieces_do_not_overlap) {
    enum { N = 3000 };
    static unsigned char *piece[N];
    static size_t size[N];
    arena a = {0};
    uint64_t seed = 5;
    size_t sum = 0;
    for (int i = 0; i < N; i++) {
        size[i] = next_random(&seed) % (i % 50 == 0 ? 100000 : 100);
        piece[i] = arena_alloc(&a, size[i]);
        sum += size[i];
        assert_int_equal((uintptr_t)piece[i] % 16, 0);
        for (size_t k = 0; k < size[i]; k++)
            assert_int_equal(piece[i][k], 0);
        memset(piece[i], i % 255 + 1, size[i]);
    }
    for (int i = 0; i < N; i++)
        for (size_t k = 0; k < size[i]; k++)
            assert_int_equal(piece[i][k], i % 255 + 1);
    assert_int_equal(a.used, sum);
    assert_true(a.total >= sum && a.total < 2 * sum + 4096);
    arena_fini(&a);
    assert_int_equal(a.total, 0);
    arena_fini(&a);
}

CASE(many_small_pieces_need_few_chunks) {
    arena a = {0};
    uint64_t before = mem_allocations();
    for (int i = 0; i < 100000; i++)
        ARENA_NEW(&a, uint64_t, 1);
    assert_in_range(mem_allocations() - before, 1, 30);
    arena_fini(&a);
}

CASE(arena_text) {
    arena a = {0};
    char *s = arena_copy(&a, "abcdef", 3);
    assert_string_equal(s, "abc");
    assert_string_equal(arena_copy(&a, NULL, 0), "");
    assert_string_equal(arena_printf(&a, "%d-%s", 12, s), "12-abc");
    char *wide = arena_printf(&a, "%10000d", 7);
    assert_int_equal(strlen(wide), 10000);
    arena_fini(&a);
}

CASE(checked_arithmetic) {
    uint64_t r = 99;
    assert_true(mem_mul(UINT32_MAX, UINT32_MAX, &r));
    assert_int_equal(r, 18446744065119617025u);
    assert_false(mem_mul(UINT64_MAX, 2, &r));
    assert_false(mem_mul(1ull << 32, 1ull << 32, &r));
    assert_false(mem_add(UINT64_MAX, 1, &r));
    assert_int_equal(r, 18446744065119617025u);
    assert_true(mem_add(UINT64_MAX, 0, &r));
    assert_int_equal(r, UINT64_MAX);
    assert_true(mem_mul(0, UINT64_MAX, &r));
    assert_int_equal(r, 0);
}

CASE(messages_are_one_printable_line) {
    static const struct {
        const char *given, *want;
    } rows[] = {
        {"plain", "plain"},
        {"a\nb\rc\td", "a\\nb\\rc\\td"},
        {"\x1b[31m\x7f\x01", "\\x1b[31m\\x7f\\x01"},
        {"\xc2\x9b"
         "31m",
         "\\u009b31m"},
        {"\xe2\x80\xae"
         "txt",
         "\\u202etxt"},
        {"bad \xff\xc3", "bad \xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc3\xa9\xf0\x9f\x98\x80", "\xc3\xa9\xf0\x9f\x98\x80"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(weft_fail(WEFT_IO, "%s", rows[i].given), WEFT_IO);
        assert_string_equal(err_message(), rows[i].want);
    }
}

CASE(long_messages_are_cut_between_characters) {
    static char text[9000];
    for (size_t i = 0; i + 1 < sizeof text - 2; i++)
        text[i] = "\xe2\x82\xac"[i % 3];
    weft_fail(WEFT_IO, "x%s", text);
    assert_in_range(strlen(err_message()), 990, 1000);
    assert_int_equal(utf8_invalid_at(err_message(), strlen(err_message())), strlen(err_message()));
    err_prefix(WEFT_IO, "%s", text);
    assert_in_range(strlen(err_message()), 990, 1000);
}

CASE(prefix_and_copy) {
    weft_fail(WEFT_BAD_FILE, "%s: what", "key");
    assert_int_equal(err_prefix(WEFT_BAD_FILE, "%s", "a.json"), WEFT_BAD_FILE);
    assert_string_equal(err_message(), "a.json: key: what");
    weft_fail(WEFT_IO, "again: %s", err_message());
    assert_string_equal(err_message(), "again: a.json: key: what");
    err_set_message("of another\nthread");
    assert_string_equal(err_message(), "of another\\nthread");
    err_set_message(err_message());
    assert_string_equal(err_message(), "of another\\nthread");
    err_clear();
    assert_string_equal(err_message(), "");
    err_prefix(WEFT_IO, "alone");
    assert_string_equal(err_message(), "alone");
}

/* The codes are a promise to scripts, so they are written out here once more. */
CASE(exit_codes) {
    static const struct {
        weft_status s;
        const char *name;
        int code;
    } rows[] = {{WEFT_OK, "OK", 0},
                {WEFT_USAGE, "USAGE", 2},
                {WEFT_UNSUPPORTED, "UNSUPPORTED", 2},
                {WEFT_BAD_FILE, "BAD_FILE", 3},
                {WEFT_NO_MEMORY, "NO_MEMORY", 4},
                {WEFT_IO, "IO", 5},
                {WEFT_NO_CHECKPOINT, "NO_CHECKPOINT", 6},
                {WEFT_PEER, "PEER", 7},
                {WEFT_DEVICE, "DEVICE", 8},
                {WEFT_BIND, "BIND", 9},
                {WEFT_CANCELLED, "CANCELLED", 130}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(err_exit_code(rows[i].s), rows[i].code);
        assert_string_equal(err_status_name(rows[i].s), rows[i].name);
        assert_true(strlen(err_status_words(rows[i].s)) > 1);
    }
}

/* Every code point there and back, against the bit layout of RFC 3629 written out. */
CASE(utf8_of_every_code_point) {
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        char want[4], got[4];
        int n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        want[0] = (char)(n == 1   ? cp
                         : n == 2 ? 0xc0 + cp / 64
                         : n == 3 ? 0xe0 + cp / 4096
                                  : 0xf0 + cp / 262144);
        for (int i = 1; i < n; i++)
            want[i] = (char)(0x80 + (cp >> 6 * (n - 1 - i)) % 64);
        uint32_t back;
        if (utf8_put(got, cp) != n || memcmp(got, want, (size_t)n) != 0 ||
            utf8_next(want, want + n, &back) != n || back != cp)
            fail_msg("U+%04X", (unsigned)cp);
        for (int cut = 0; cut < n; cut++)
            assert_int_equal(utf8_next(want, want + cut, &back), 0);
    }
}

/* All three-byte strings: those that decode to something re-encode to the same bytes. */
CASE(utf8_of_every_three_bytes) {
    for (uint32_t x = 0; x < 1 << 24; x += 1 + x % 5) {
        char s[3] = {(char)(x >> 16), (char)(x >> 8), (char)x}, again[4];
        uint32_t cp;
        int n = utf8_next(s, s + 3, &cp);
        if (n > 0 && (utf8_put(again, cp) != n || memcmp(s, again, (size_t)n) != 0 ||
                      (cp >= 0xd800 && cp < 0xe000)))
            fail_msg("%06x", (unsigned)x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_zeroed_and_counted),
        cmocka_unit_test(running_out_ends_with_4),
        cmocka_unit_test(a_bug_aborts_and_says_where),
        cmocka_unit_test(arena_pieces_do_not_overlap),
        cmocka_unit_test(many_small_pieces_need_few_chunks),
        cmocka_unit_test(arena_text),
        cmocka_unit_test(checked_arithmetic),
        cmocka_unit_test(messages_are_one_printable_line),
        cmocka_unit_test(long_messages_are_cut_between_characters),
        cmocka_unit_test(prefix_and_copy),
        cmocka_unit_test(exit_codes),
        cmocka_unit_test(utf8_of_every_code_point),
        cmocka_unit_test(utf8_of_every_three_bytes),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
