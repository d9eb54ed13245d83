/* SPDX-License-Identifier: Apache-2.0
 * The pool: every item once, pieces as promised, nothing allocated, no hang when idle,
 * oversubscribed or short of memory. Meant to be run under ThreadSanitizer as well. */
#include "host/base/clock.h"
#include "host/base/thread.h"
#include "tests/unit/unit.h"
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ITEMS = 5000 };

static int limit_time(void **state) {
    (void)state;
    alarm(120); /* a lost wake-up is a failure, not a hang */
    return 0;
}

typedef struct {
    weft_stream *s;
    int64_t n, grain;
    int *seen; /* plain: the pool must order what workers and caller do */
    atomic_int wrong;
} region;

static void visit(const void *ctx, int64_t begin, int64_t end, int worker) {
    region *r = (region *)(uintptr_t)ctx;
    if (begin % r->grain != 0 || end != (begin + r->grain < r->n ? begin + r->grain : r->n) ||
        worker < 0 || worker >= r->s->threads)
        atomic_fetch_add(&r->wrong, 1);
    char *mine = weft_worker_memory(r->s, worker);
    mine[0]++; /* a race here if two workers shared it */
    for (int64_t i = begin; i < end; i++)
        r->seen[i]++;
}

static void check_region(weft_stream *s, int64_t n, int64_t grain) {
    static int seen[ITEMS];
    memset(seen, 0, sizeof seen);
    region r = {.s = s, .n = n, .grain = grain < 1 ? 1 : grain, .seen = seen};
    weft_parallel(s, n, grain, visit, &r);
    for (int64_t i = 0; i < ITEMS; i++)
        if (seen[i] != (i < n))
            fail_msg("item %d of %d (grain %d): %d times", (int)i, (int)n, (int)grain, seen[i]);
    assert_int_equal(r.wrong, 0);
}

CASE(every_item_once) {
    static const int64_t ns[] = {0, 1, 2, 3, 7, 64, 65, 1000, ITEMS},
                         grains[] = {0, 1, 2, 7, 64, 9999};
    for (int threads = 1; threads <= 5; threads++) {
        weft_stream *s;
        assert_int_equal(thread_pool_open(threads, &s), WEFT_OK);
        assert_int_equal(s->threads, threads);
        for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
            for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
                check_region(s, ns[i], grains[g]);
        thread_pool_close(s);
    }
}

CASE(many_regions_in_a_row) {
    for (int threads = 2; threads <= 4; threads += 2) {
        weft_stream *s;
        assert_int_equal(thread_pool_open(threads, &s), WEFT_OK);
        uint64_t before = mem_allocations();
        int seen[8] = {0};
        region r = {.s = s, .n = 8, .grain = 1, .seen = seen};
        for (int i = 0; i < 5000; i++)
            weft_parallel(s, 8, 1, visit, &r);
        for (int i = 0; i < 8; i++)
            assert_int_equal(seen[i], 5000);
        assert_int_equal(mem_allocations(), before);
        thread_pool_close(s);
    }
}

CASE(workers_wake_after_sleeping) {
    weft_stream *s;
    assert_int_equal(thread_pool_open(3, &s), WEFT_OK);
    for (int i = 0; i < 30; i++) {
        usleep(i % 3 * 400);
        check_region(s, 100, 3);
    }
    thread_pool_close(s);
}

static void record_last(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)worker;
    if (begin >= end)
        abort();
    if (end == INT64_MAX)
        atomic_fetch_add((atomic_int *)(uintptr_t)ctx, 1);
}

CASE(sizes_near_the_limit_do_not_overflow) {
    static const int64_t grains[] = {INT64_MAX, INT64_MAX - 1, INT64_MAX / 2, (int64_t)1 << 56};
    for (int threads = 1; threads <= 2; threads++) {
        weft_stream *s;
        assert_int_equal(thread_pool_open(threads, &s), WEFT_OK);
        for (size_t i = 0; i < sizeof grains / sizeof *grains; i++) {
            atomic_int last = 0;
            weft_parallel(s, INT64_MAX, grains[i], record_last, &last);
            assert_int_equal(last, 1);
        }
        thread_pool_close(s);
    }
}

static void slow_piece(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)ctx, (void)begin, (void)end;
    usleep(worker ? 20000 : 300);
}

CASE(the_caller_sleeps_through_a_long_piece) {
    weft_stream *s;
    assert_int_equal(thread_pool_open(2, &s), WEFT_OK);
    for (int i = 0; i < 5; i++)
        weft_parallel(s, 4, 1, slow_piece, NULL);
    thread_pool_close(s);
}

CASE(open_and_close_without_work) {
    for (int i = 0; i < 50; i++) {
        weft_stream *s;
        assert_int_equal(thread_pool_open(1 + i % 6, &s), WEFT_OK);
        assert_int_equal((uintptr_t)s->worker_memory % 64, 0);
        thread_pool_close(s);
    }
    thread_pool_close(NULL);
}

CASE(counts_out_of_range) {
    static const int bad[] = {0, -1, WEFT_MAX_THREADS + 1, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        weft_stream *s = NULL;
        assert_int_equal(thread_pool_open(bad[i], &s), WEFT_USAGE);
        assert_null(s);
        expect_message("(1 to 256)");
    }
}

/* In a child, since the limit stays: address space for some of the stacks only. */
static int open_with_little_memory(void) {
    weft_stream *s = NULL;
    struct rlimit r = {(rlim_t)600 << 20, (rlim_t)600 << 20};
    if (setrlimit(RLIMIT_AS, &r) != 0 || thread_pool_open(200, &s) != WEFT_NO_MEMORY || s)
        return 1;
    if (!strstr(err_message(), "--threads: "))
        return 2;
    if (thread_pool_open(2, &s) != WEFT_OK)
        return 3;
    thread_pool_close(s);
    return 0;
}

CASE(no_memory_for_the_threads) {
    if (SANITIZED)
        skip();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(open_with_little_memory());
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void put(const char *root, const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

CASE(quota_of_the_group_and_its_parents) {
    char root[] = "/tmp/weft-cores-XXXXXX", path[300];
    assert_non_null(mkdtemp(root));
    static const char *const folders[] = {"a", "a/b", "free", "cpu", "cpu/old"};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    put(root, "a/cpu.max", "250000 100000\n");
    put(root, "a/b/cpu.max", "max 100000\n");
    put(root, "free/cpu.max", "max 100000\n");
    put(root, "cpu/old/cpu.cfs_quota_us", "50000\n");
    put(root, "cpu/old/cpu.cfs_period_us", "100000\n");
    put(root, "cpu/cpu.cfs_quota_us", "-1\n");
    put(root, "cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(thread_quota_cores("0::/a\n", root), 3);
    assert_int_equal(thread_quota_cores("0::/a/b\n", root), 3);
    assert_int_equal(thread_quota_cores("0::/free\n", root), 0);
    assert_int_equal(thread_quota_cores("0::/\n", root), 0);
    assert_int_equal(thread_quota_cores("0::/gone\n", root), 0);
    assert_int_equal(thread_quota_cores("4:cpu,cpuacct:/old\n0::/a\n", root), 1);
    assert_int_equal(thread_quota_cores("4:cpuset:/old\n", root), 0);
    assert_int_equal(thread_quota_cores("4:memory,cpu:/\n", root), 0);
    assert_int_equal(thread_quota_cores("", root), 0);
    assert_int_equal(thread_quota_cores("nonsense\n:\n::\n0::", root), 0);
    put(root, "a/cpu.max", "-5 0\n");
    assert_int_equal(thread_quota_cores("0::/a\n", root), 0);
    put(root, "a/cpu.max", "1 100000\n");
    assert_int_equal(thread_quota_cores("0::/a\n", root), 1);
    assert_true(thread_cores() >= 1);
    snprintf(path, sizeof path, "rm -r %s", root);
    assert_int_equal(system(path), 0);
}

CASE(clocks) {
    double t = clock_seconds();
    usleep(2000);
    assert_true(clock_seconds() - t >= 0.002);
    int64_t before = clock_rss_bytes();
    enum { MORE = 32 << 20 };
    char *p = mem_alloc(MORE);
    for (size_t i = 0; i < MORE; i += 4096)
        p[i] = 1;
    assert_true(clock_rss_bytes() - before > MORE / 2);
    mem_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once),
        cmocka_unit_test(many_regions_in_a_row),
        cmocka_unit_test(workers_wake_after_sleeping),
        cmocka_unit_test(sizes_near_the_limit_do_not_overflow),
        cmocka_unit_test(the_caller_sleeps_through_a_long_piece),
        cmocka_unit_test(open_and_close_without_work),
        cmocka_unit_test(counts_out_of_range),
        cmocka_unit_test(no_memory_for_the_threads),
        cmocka_unit_test(quota_of_the_group_and_its_parents),
        cmocka_unit_test(clocks),
    };
    return cmocka_run_group_tests_name("thread", tests, limit_time, NULL);
}
