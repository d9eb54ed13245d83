/* SPDX-License-Identifier: Apache-2.0
 * Files: only regular ones are read, nothing blocks, and a write is all or nothing. */
#include "host/base/file.h"
#include "tests/unit/unit.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/weft-file-XXXXXX";
static arena names; /* paths, for as long as the program runs */

static int enter_folder(void **state) {
    (void)state;
    alarm(60); /* a read that blocks is a failure, not a hang */
    return mkdtemp(folder) ? 0 : -1;
}

static int leave_folder(void **state) {
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    arena_fini(&names);
    return system(command);
}

static const char *in_folder(const char *name) {
    return file_join(&names, folder, name);
}

static const char *put(const char *name, const void *data, size_t n) {
    const char *path = in_folder(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, data, n), n);
    close(fd);
    return path;
}

static void expect_content(const char *path, const char *want) {
    arena a = {0};
    const char *data;
    size_t n;
    assert_int_equal(file_read(path, 1 << 24, &a, &data, &n), WEFT_OK);
    assert_int_equal(n, strlen(want));
    assert_string_equal(data, want);
    arena_fini(&a);
}

static int entries(void) {
    int n = 0;
    DIR *d = opendir(folder);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

CASE(map_and_read) {
    const char *path = put("data", "hello\0there", 11);
    file_map m;
    assert_int_equal(file_map_open(path, &m), WEFT_OK);
    assert_int_equal(m.size, 11);
    assert_memory_equal(m.data, "hello\0there", 11);
    assert_int_equal((uintptr_t)m.data % 4096, 0);
    if (file_map_lock(&m) == WEFT_OK)
        assert_true(m.locked);
    file_map_close(&m);
    arena a = {0};
    const char *data;
    size_t n;
    assert_int_equal(file_read(path, 11, &a, &data, &n), WEFT_OK);
    assert_int_equal(n, 11);
    assert_memory_equal(data, "hello\0there", 12);
    assert_int_equal(file_read(path, 10, &a, &data, &n), WEFT_BAD_FILE);
    expect_message("is too large (limit 10 bytes)");
    arena_fini(&a);
}

CASE(an_empty_file_is_a_file) {
    const char *path = put("empty", "", 0);
    file_map m;
    assert_int_equal(file_map_open(path, &m), WEFT_OK);
    assert_int_equal(m.size, 0);
    assert_non_null(m.data);
    assert_int_equal(file_map_lock(&m), WEFT_OK);
    file_map_close(&m);
    expect_content(path, "");
}

CASE(what_is_no_regular_file) {
    const char *fifo = in_folder("fifo"), *sock = in_folder("socket"), *loop = in_folder("loop");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(symlink(loop, loop), 0);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", sock);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    const struct {
        const char *path, *message;
    } rows[] = {
        {fifo, "is a pipe; a regular file is needed"},
        {sock, "socket"},
        {loop, "cannot open"},
        {folder, "is a folder; a regular file is needed"},
        {"/dev/zero", "/dev/zero: is a device; a regular file is needed"},
        {"/dev/null", "is a device"},
        {in_folder("none"), "none: no such file"},
        {in_folder("none/x"), "no such file"},
        {in_folder("data/x"), "cannot open"},
        {"", "no such file"},
    };
    put("data", "x", 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        arena a = {0};
        file_map m;
        const char *data;
        size_t n;
        assert_int_equal(file_map_open(rows[i].path, &m), WEFT_BAD_FILE);
        expect_message(rows[i].message);
        err_clear();
        assert_int_equal(file_read(rows[i].path, 100, &a, &data, &n), WEFT_BAD_FILE);
        expect_message(rows[i].message);
        arena_fini(&a);
    }
    close(fd);
    assert_true(file_exists(fifo) && !file_exists(loop) && !file_is_dir(fifo));
    assert_true(file_is_dir(folder) && !file_is_dir(in_folder("none")));
    unlink(fifo), unlink(sock), unlink(loop);
}

CASE(a_very_long_name) {
    static char name[10000];
    memset(name, 'n', sizeof name - 1);
    file_map m;
    assert_int_equal(file_map_open(name, &m), WEFT_BAD_FILE);
    assert_true(strlen(err_message()) <= 1000);
}

CASE(standard_input) {
    int ends[2], old = dup(STDIN_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "some text", 9), 9);
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    expect_content("-", "some text");
    close(ends[0]);
    int zero = open("/dev/zero", O_RDONLY);
    dup2(zero, STDIN_FILENO);
    close(zero);
    arena a = {0};
    const char *data;
    size_t n;
    assert_int_equal(file_read("-", 100000, &a, &data, &n), WEFT_BAD_FILE);
    expect_message("standard input: is too large (limit 100000 bytes)");
    close(STDIN_FILENO);
    assert_int_equal(file_read("-", 100000, &a, &data, &n), WEFT_IO);
    dup2(old, STDIN_FILENO);
    close(old);
    arena_fini(&a);
}

CASE(writing_replaces_whole_files) {
    const char *path = in_folder("out"), *link = in_folder("link");
    int before = entries();
    assert_int_equal(file_write_atomic(path, "one", 3), WEFT_OK);
    expect_content(path, "one");
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(file_write_atomic(path, "second", 6), WEFT_OK);
    expect_content(path, "second");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(file_write_atomic(link, "", 0), WEFT_OK);
    expect_content(path, "");
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(entries(), before + 2); /* nothing temporary stays */
}

CASE(writing_that_cannot_work) {
    static const char text[5000];
    const char *paths[] = {in_folder("none/x"), folder, "", "/proc/version/x"};
    int before = entries();
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        err_clear();
        assert_int_equal(file_write_atomic(paths[i], text, sizeof text), WEFT_IO);
        expect_message(paths[i]);
    }
    assert_int_equal(entries(), before);
}

/* Devices of our own where one may make them: broken code run as root would replace the
 * system's. */
static const char *device(const char *name, unsigned minor_number) {
    const char *path = in_folder(name);
    int fd = mknod(path, S_IFCHR | 0600, makedev(1, minor_number)) == 0 ? open(path, O_WRONLY) : -1;
    if (fd >= 0) {
        close(fd);
        return path;
    }
    unlink(path);
    return geteuid() != 0 ? file_join(&names, "/dev", name) : NULL;
}

CASE(devices_are_written_to_and_not_replaced) {
    static const char text[5000];
    const char *null = device("null", 3), *full = device("full", 7);
    if (!null || !full)
        skip();
    int before = entries();
    assert_int_equal(file_write_atomic(full, text, sizeof text), WEFT_IO);
    expect_message("full: cannot write: No space left on device");
    assert_int_equal(file_write_atomic(null, text, sizeof text), WEFT_OK);
    struct stat st;
    assert_int_equal(stat(null, &st), 0);
    assert_true(S_ISCHR(st.st_mode));
    assert_int_equal(entries(), before);
}

/* A file-size limit stands in for a full disk: in a child, since the limit stays. */
CASE(a_full_disk_leaves_the_old_file) {
    const char *path = put("keep", "precious", 8);
    int before = entries();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        static char big[1 << 20];
        struct rlimit r = {4096, 4096};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &r);
        _exit(file_write_atomic(path, big, sizeof big) == WEFT_IO ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    expect_content(path, "precious");
    assert_int_equal(entries(), before);
}

/* A pipe that is full and non-blocking: everything arrives all the same. */
CASE(short_writes_are_finished) {
    enum { N = 300000 };
    int ends[2];
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char *data = malloc(N);
        memset(data, 'd', N);
        close(ends[0]);
        _exit(file_write_fd(ends[1], "pipe", data, N) == WEFT_OK ? 0 : 1);
    }
    close(ends[1]);
    size_t sum = 0;
    char block[4096];
    for (;;) {
        ssize_t n = read(ends[0], block, sizeof block);
        if (n == 0)
            break;
        sum += n > 0 ? (size_t)n : 0;
    }
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(sum, N);
}

CASE(a_closed_pipe_is_an_error) {
    int ends[2];
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    assert_int_equal(file_write_fd(ends[1], "stdout", "x", 1), WEFT_IO);
    expect_message("stdout: cannot write");
    close(ends[1]);
    assert_int_equal(file_write_fd(-1, "stdout", "x", 1), WEFT_IO);
}

CASE(joining_names) {
    arena a = {0};
    assert_string_equal(file_join(&a, "a", "b"), "a/b");
    assert_string_equal(file_join(&a, "a/", "b"), "a/b");
    assert_string_equal(file_join(&a, "/", "b"), "/b");
    assert_string_equal(file_join(&a, "", "b"), "b");
    arena_fini(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_and_read),
        cmocka_unit_test(an_empty_file_is_a_file),
        cmocka_unit_test(what_is_no_regular_file),
        cmocka_unit_test(a_very_long_name),
        cmocka_unit_test(standard_input),
        cmocka_unit_test(writing_replaces_whole_files),
        cmocka_unit_test(writing_that_cannot_work),
        cmocka_unit_test(devices_are_written_to_and_not_replaced),
        cmocka_unit_test(a_full_disk_leaves_the_old_file),
        cmocka_unit_test(short_writes_are_finished),
        cmocka_unit_test(a_closed_pipe_is_an_error),
        cmocka_unit_test(joining_names),
    };
    return cmocka_run_group_tests_name("file", tests, enter_folder, leave_folder);
}
