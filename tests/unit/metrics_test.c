/* SPDX-License-Identifier: Apache-2.0
 * The metric writers: lines, cutting on resume, event files read back by a parser of their own. */
#include "host/base/file.h"
#include "host/train/metrics.h"
#include "host/train/tfevents.h"
#include "tests/unit/unit.h"
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static char folder[] = "/tmp/weft-metrics-XXXXXX";
static arena names;

static int enter_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int leave_folder(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_fini(&names);
    return system(command);
}

static const char *new_folder(void) {
    static int serial;
    const char *path = arena_printf(&names, "%s/%d", folder, serial++);
    char command[100];
    snprintf(command, sizeof command, "mkdir %s", path);
    assert_int_equal(system(command), 0);
    return path;
}

static const char *content(const char *dir, const char *name, size_t *n) {
    const char *data;
    size_t size;
    assert_int_equal(file_read(file_join(&names, dir, name), 1 << 24, &names, &data, &size),
                     WEFT_OK);
    if (n)
        *n = size;
    return data;
}

static void append(const char *dir, const char *name, const char *text) {
    int fd = open(file_join(&names, dir, name), O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void steps(metrics *m, int64_t from, int64_t to) {
    for (int64_t s = from; s <= to; s++) {
        assert_int_equal(metrics_step(m, s, (double)(1.0f / (float)s), 1e-3 / (double)s,
                                      (double)sqrtf((float)s), 512 * s),
                         WEFT_OK);
        if (s % 3 == 0) {
            assert_int_equal(metrics_val(m, s, 2.0 / (double)s), WEFT_OK);
            assert_int_equal(metrics_sample(m, s, "a \"b\"", "c\n\xff"), WEFT_OK);
        }
        assert_int_equal(metrics_timing(m, s, 0.25, 2048, NAN), WEFT_OK);
    }
}

CASE(lines_are_what_the_report_reads) {
    const char *dir = new_folder();
    metrics *m;
    assert_int_equal(metrics_open(dir, NULL, true, false, -1, &m), WEFT_OK);
    assert_int_equal(metrics_step(m, 1, (double)0.1f, 3e-4, NAN, 64), WEFT_OK);
    assert_int_equal(metrics_val(m, 1, 2.5), WEFT_OK);
    assert_int_equal(metrics_step(m, 2, INFINITY, 1, 2, 128), WEFT_OK);
    assert_int_equal(metrics_timing(m, 2, 0.5, 256, NAN), WEFT_OK);
    assert_int_equal(metrics_sample(m, 2, "Say \"a\"", "</script>\n\xff"), WEFT_OK);
    assert_int_equal(metrics_val(m, 7, 2.25), WEFT_OK);
    assert_int_equal(metrics_flush(m), WEFT_OK);
    metrics_close(m);
    assert_string_equal(content(dir, "metrics.jsonl", NULL),
                        "{\"step\":1,\"loss\":0.1,\"lr\":0.0003,\"grad_norm\":null,\"tokens\":64,"
                        "\"val_loss\":2.5}\n"
                        "{\"step\":2,\"loss\":null,\"lr\":1,\"grad_norm\":2,\"tokens\":128}\n"
                        "{\"step\":7,\"val_loss\":2.25}\n");
    assert_string_equal(content(dir, "metrics.csv", NULL),
                        "step,loss,lr,grad_norm,tokens,val_loss\n"
                        "1,0.1,0.0003,nan,64,2.5\n2,inf,1,2,128,\n");
    assert_string_equal(content(dir, "timing.jsonl", NULL),
                        "{\"step\":2,\"seconds\":0.5,\"tokens_per_s\":256,\"pct_ceiling\":null}\n");
    assert_string_equal(content(dir, "samples.jsonl", NULL),
                        "{\"step\":2,\"prompt\":\"Say \\\"a\\\"\",\"text\":\"</script>\\n"
                        "\xef\xbf\xbd\"}\n");
}

CASE(numbers_survive) {
    const char *dir = new_folder();
    metrics *m;
    uint64_t seed = 7;
    float want[200];
    assert_int_equal(metrics_open(dir, NULL, false, false, -1, &m), WEFT_OK);
    for (int i = 0; i < 200; i++) {
        want[i] = (float)(next_random(&seed) >> 40) / 1234567.0f;
        assert_int_equal(metrics_step(m, i, (double)want[i], 0.1 * i, 1, 1), WEFT_OK);
    }
    metrics_close(m);
    const char *p = content(dir, "metrics.jsonl", NULL);
    for (int i = 0; i < 200; i++) {
        p = strstr(p, "\"loss\":") + 7;
        assert_true(strtof(p, NULL) == want[i]);
        p = strstr(p, "\"lr\":") + 5;
        assert_true(strtod(p, NULL) == 0.1 * i);
    }
}

/* A run of 12 steps, and one that was killed in the middle of a line after step 9 and resumed from
 * its checkpoint of step 6. */
CASE(a_resumed_run_leaves_the_same_files) {
    const char *whole = new_folder(), *broken = new_folder();
    metrics *m;
    assert_int_equal(metrics_open(whole, NULL, true, true, -1, &m), WEFT_OK);
    steps(m, 1, 12);
    metrics_close(m);
    assert_int_equal(metrics_open(broken, NULL, true, true, -1, &m), WEFT_OK);
    steps(m, 1, 9);
    metrics_close(m);
    append(broken, "metrics.jsonl", "{\"step\":10,\"lo");
    append(broken, "metrics.csv", "10");
    append(broken, "timing.jsonl", "{");
    append(broken, "events.out.tfevents.weft", "\x18");
    assert_int_equal(metrics_open(broken, NULL, true, true, 6, &m), WEFT_OK);
    steps(m, 7, 12);
    metrics_close(m);
    static const char *const same[] = {"metrics.jsonl", "metrics.csv", "samples.jsonl",
                                       "timing.jsonl"};
    for (int i = 0; i < 4; i++)
        assert_string_equal(content(broken, same[i], NULL), content(whole, same[i], NULL));
    size_t a, b;
    content(broken, "events.out.tfevents.weft", &a);
    content(whole, "events.out.tfevents.weft", &b);
    assert_int_equal(a, b);
    assert_int_equal(metrics_open(broken, NULL, true, true, -1, &m), WEFT_OK);
    metrics_close(m);
    assert_string_equal(content(broken, "metrics.jsonl", NULL), "");
}

CASE(files_that_are_none_of_ours) {
    static const struct {
        const char *name, *text, *message;
    } rows[] = {
        {"metrics.jsonl", "{\"step\":1,\"loss\":1}\nhello\n", "metrics.jsonl:2: not a line"},
        {"metrics.jsonl", "{\"loss\":1}\n", "metrics.jsonl:1: not a line"},
        {"timing.jsonl", "{\"step\":-1}\n", "timing.jsonl:1: not a line"},
        {"metrics.csv", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t\n", "metrics.csv:1: not the head"},
        {"metrics.csv", "step,loss,lr,grad_norm,tokens,val_loss\nx,1\n", "metrics.csv:2: not a"},
        {"events.out.tfevents.weft", "0123456789abcdef", "no event record at byte 0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *dir = new_folder();
        metrics *m;
        close(open(file_join(&names, dir, rows[i].name), O_CREAT | O_WRONLY, 0600));
        append(dir, rows[i].name, rows[i].text);
        assert_int_equal(metrics_open(dir, NULL, true, true, 5, &m), WEFT_BAD_FILE);
        expect_message(rows[i].message);
        assert_int_equal(metrics_open(dir, NULL, true, true, -1, &m), WEFT_OK);
        metrics_close(m);
    }
    metrics *m;
    assert_int_equal(metrics_open("/nonexistent", NULL, false, false, -1, &m), WEFT_IO);
    expect_message("/nonexistent/metrics.jsonl: cannot open for writing");
}

/* The disk is full in the middle of a line: the files end with whole lines, and go on later. */
CASE(a_full_disk_leaves_whole_lines) {
    const char *dir = new_folder();
    metrics *m;
    struct rlimit whole, tiny;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(metrics_open(dir, NULL, false, false, -1, &m), WEFT_OK);
    assert_int_equal(metrics_step(m, 1, 1, 1, 1, 1), WEFT_OK);
    getrlimit(RLIMIT_FSIZE, &whole);
    tiny = whole;
    tiny.rlim_cur = 70; /* a line has 53 bytes */
    setrlimit(RLIMIT_FSIZE, &tiny);
    weft_status step = metrics_step(m, 2, 1, 1, 1, 1), val = metrics_val(m, 1, 0.123456789);
    setrlimit(RLIMIT_FSIZE, &whole);
    assert_int_equal(step, WEFT_IO);
    assert_int_equal(val, WEFT_IO);
    const char *one = "{\"step\":1,\"loss\":1,\"lr\":1,\"grad_norm\":1,\"tokens\":1}\n";
    assert_string_equal(content(dir, "metrics.jsonl", NULL), one);
    assert_int_equal(metrics_step(m, 3, 1, 1, 1, 1), WEFT_OK);
    metrics_close(m);
    assert_string_equal(content(dir, "metrics.jsonl", NULL) + strlen(one),
                        "{\"step\":3,\"loss\":1,\"lr\":1,\"grad_norm\":1,\"tokens\":1}\n");
}

/* A process that others believe lost may still have the files open. */
CASE(renewed_files_are_out_of_reach) {
    const char *dir = new_folder();
    metrics *stale;
    size_t before, after;
    assert_int_equal(metrics_open(dir, NULL, true, true, -1, &stale), WEFT_OK);
    steps(stale, 1, 4);
    const char *was = content(dir, "metrics.jsonl", &before);
    assert_int_equal(metrics_renew(dir, NULL), WEFT_OK);
    steps(stale, 5, 9);
    metrics_close(stale);
    const char *is = content(dir, "metrics.jsonl", &after);
    assert_int_equal(after, before);
    assert_memory_equal(is, was, before);
    assert_null(strstr(content(dir, "metrics.csv", NULL), "\n9,"));
    assert_null(strstr(content(dir, "timing.jsonl", NULL), "\"step\":9"));
}

CASE(a_pipe_is_only_appended_to) {
    const char *dir = new_folder();
    int ends[2];
    char path[40], got[200] = {0};
    metrics *m;
    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
    assert_int_equal(metrics_open(dir, path, false, false, 4, &m), WEFT_OK);
    assert_int_equal(metrics_step(m, 5, 1, 1, 1, 1), WEFT_OK);
    assert_int_equal(metrics_val(m, 5, 3), WEFT_OK);
    assert_int_equal(metrics_flush(m), WEFT_OK);
    metrics_close(m);
    assert_true(read(ends[0], got, sizeof got - 1) > 0);
    assert_string_equal(got, "{\"step\":5,\"loss\":1,\"lr\":1,\"grad_norm\":1,\"tokens\":1}\n"
                             "{\"step\":5,\"val_loss\":3}\n");
    close(ends[0]);
    close(ends[1]);
}

/* ---- Event files ---- */

/* Check values of the CRC-32C catalogue and of RFC 3720, B.4. */
CASE(crc32c_has_the_published_values) {
    unsigned char ascending[32];
    for (int i = 0; i < 32; i++)
        ascending[i] = (unsigned char)i;
    assert_int_equal(tf_crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(tf_crc32c((char[32]){0}, 32), 0x8a9136aau);
    assert_int_equal(tf_crc32c(ascending, 32), 0x46dd794eu);
}

/* Every TensorFlow event file begins with these twelve bytes: a record of 24 bytes, the masked
 * checksum of that length, and then the payload. */
CASE(the_head_is_tensorflows) {
    static const unsigned char want[] = {0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22, 9};
    buf b;
    buf_init(&b, 1 << 10);
    tf_begin(&b, 1.5);
    assert_int_equal(b.len, 40);
    assert_memory_equal(b.data, want, sizeof want);
    assert_memory_equal(b.data + 21,
                        "\x1a\x0d"
                        "brain.Event:2",
                        15);
    buf_fini(&b);
}

CASE(scalars_are_where_the_schema_has_them) {
    /* Event{wall_time 1: 1.5, step 2: 300, summary 5: {value 1: {tag 1: "lr", simple 2: 0.5}}} */
    static const unsigned char want[] = {9,    0,    0,    0,    0,  0,  0,   0xf8, 0x3f,
                                         0x10, 0xac, 2,    0x2a, 11, 10, 9,   10,   2,
                                         'l',  'r',  0x15, 0,    0,  0,  0x3f};
    buf b;
    buf_init(&b, 1 << 10);
    tf_scalars(&b, 1.5, 300, &(tf_scalar){"lr", 0.5}, 1);
    assert_int_equal(b.len, sizeof want + 16);
    assert_memory_equal(b.data + 12, want, sizeof want);
    size_t keep;
    assert_int_equal(tf_keep("f", b.data, b.len, 299, &keep), WEFT_OK);
    assert_int_equal(keep, 0);
    assert_int_equal(tf_keep("f", b.data, b.len, 300, &keep), WEFT_OK);
    assert_int_equal(keep, b.len);
    assert_int_equal(tf_keep("f", b.data, b.len - 1, 300, &keep), WEFT_OK);
    assert_int_equal(keep, 0);
    b.data[20] ^= 1;
    assert_int_equal(tf_keep("f", b.data, b.len, 300, &keep), WEFT_BAD_FILE);
    expect_message("f: wrong checksum at byte 0");
    buf_fini(&b);
}

int main(void) {
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(lines_are_what_the_report_reads),
        cmocka_unit_test(numbers_survive),
        cmocka_unit_test(a_resumed_run_leaves_the_same_files),
        cmocka_unit_test(files_that_are_none_of_ours),
        cmocka_unit_test(a_full_disk_leaves_whole_lines),
        cmocka_unit_test(renewed_files_are_out_of_reach),
        cmocka_unit_test(a_pipe_is_only_appended_to),
        cmocka_unit_test(crc32c_has_the_published_values),
        cmocka_unit_test(the_head_is_tensorflows),
        cmocka_unit_test(scalars_are_where_the_schema_has_them),
    };
    return cmocka_run_group_tests(cases, enter_folder, leave_folder);
}
