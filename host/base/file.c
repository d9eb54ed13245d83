/* SPDX-License-Identifier: Apache-2.0
 * Files in and out. Input is opened non-blocking and must turn out to be a regular file, so that a
 * FIFO or a device given as a model is an error and not a hang. */
#include "host/base/file.h"
#include "host/base/err.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool file_is_regular(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* The file is wrong, or the machine is. */
static weft_status open_failed(const char *path) {
    static const int bad[] = {ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, ENXIO, ENODEV, EISDIR};
    if (errno == ENOENT)
        return weft_fail(WEFT_BAD_FILE, "%s: no such file", path);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (errno == bad[i])
            return weft_fail(WEFT_BAD_FILE, "%s: cannot open: %m", path);
    return weft_fail(WEFT_IO, "%s: cannot open: %m", path);
}

static weft_status open_regular(const char *path, int *out, size_t *size) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return open_failed(path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        close(fd);
        return weft_fail(WEFT_IO, "%s: cannot read its size: %m", path);
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        const char *what = S_ISDIR(st.st_mode)    ? "a folder"
                           : S_ISFIFO(st.st_mode) ? "a pipe"
                           : S_ISSOCK(st.st_mode) ? "a socket"
                                                  : "a device";
        return weft_fail(WEFT_BAD_FILE, "%s: is %s; a regular file is needed", path, what);
    }
    *out = fd;
    *size = (size_t)st.st_size;
    return WEFT_OK;
}

weft_status file_map_open(const char *path, file_map *out) {
    int fd = -1;
    size_t size = 0;
    WEFT_TRY(open_regular(path, &fd, &size));
    const void *p = "";
    if (size)
        p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    int why = errno;
    close(fd);
    errno = why;
    if (p == MAP_FAILED)
        return weft_fail(WEFT_IO, "%s: cannot map %zu bytes: %m", path, size);
    *out = (file_map){.data = p, .size = size};
    return WEFT_OK;
}

weft_status file_map_lock(file_map *m) {
    if (m->size && mlock(m->data, m->size) != 0)
        return weft_fail(WEFT_NO_MEMORY,
                         "--mlock: cannot lock %zu bytes in memory: %m; raise the limit with "
                         "\"ulimit -l\" or leave --mlock off",
                         m->size);
    m->locked = true;
    return WEFT_OK;
}

void file_map_close(file_map *m) {
    if (m->size)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (file_map){0};
}

/* One read(2) that waits: -1 on an error, 0 at the end. */
static ssize_t read_some(int fd, void *to, size_t n) {
    for (;;) {
        ssize_t got = read(fd, to, n);
        if (got >= 0 || (errno != EINTR && errno != EAGAIN))
            return got;
        if (errno == EAGAIN)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
    }
}

static weft_status too_large(const char *path, size_t max) {
    return weft_fail(WEFT_BAD_FILE, "%s: is too large (limit %zu bytes)", path, max);
}

static weft_status read_stdin(size_t max, arena *a, const char **data, size_t *n) {
    char block[1 << 14];
    buf all;
    buf_init(&all, max);
    ssize_t got = 0;
    while (!all.failed && (got = read_some(STDIN_FILENO, block, sizeof block)) > 0)
        buf_add(&all, block, (size_t)got);
    weft_status s = WEFT_OK;
    if (all.failed)
        s = too_large("standard input", max);
    else if (got < 0)
        s = weft_fail(WEFT_IO, "standard input: cannot read: %m");
    if (s == WEFT_OK) {
        *data = arena_copy(a, all.data, all.len);
        *n = all.len;
    }
    buf_fini(&all);
    return s;
}

static weft_status read_into(int fd, const char *path, char *to, size_t size, size_t *n) {
    size_t have = 0;
    while (have < size) {
        ssize_t got = read_some(fd, to + have, size - have);
        if (got < 0)
            return weft_fail(WEFT_IO, "%s: cannot read: %m", path);
        if (got == 0)
            break;
        have += (size_t)got;
    }
    *n = have;
    return WEFT_OK;
}

weft_status file_read(const char *path, size_t max, arena *a, const char **data, size_t *n) {
    if (strcmp(path, "-") == 0)
        return read_stdin(max, a, data, n);
    int fd = -1;
    size_t size = 0;
    WEFT_TRY(open_regular(path, &fd, &size));
    weft_status s;
    if (size > max) {
        s = too_large(path, max);
    } else {
        char *to = arena_alloc(a, size + 1);
        s = read_into(fd, path, to, size, n);
        *data = to;
    }
    close(fd);
    return s;
}

weft_status file_write_fd(int fd, const char *name, const void *data, size_t n) {
    const char *p = data;
    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EAGAIN)
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        else if (put < 0 && errno != EINTR)
            return weft_fail(WEFT_IO, "%s: cannot write: %m", name);
        if (put > 0) {
            p += put;
            n -= (size_t)put;
        }
    }
    return WEFT_OK;
}

static weft_status write_and_close(int fd, const char *path, const void *data, size_t n,
                                   bool sync) {
    weft_status s = file_write_fd(fd, path, data, n);
    if (s == WEFT_OK && sync && fsync(fd) != 0)
        s = weft_fail(WEFT_IO, "%s: cannot write to disk: %m", path);
    if (close(fd) != 0 && s == WEFT_OK)
        s = weft_fail(WEFT_IO, "%s: cannot write: %m", path);
    return s;
}

/* A rename is on disk only once its folder is. */
static weft_status sync_folder_of(arena *a, const char *path) {
    const char *slash = strrchr(path, '/');
    size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    const char *dir = n ? arena_copy(a, path, n) : ".";
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return WEFT_OK; /* a folder one may write to but not list: the data itself is synced */
    int bad = fsync(fd) != 0 && errno != EINVAL;
    close(fd);
    return bad ? weft_fail(WEFT_IO, "%s: cannot write its folder to disk: %m", path) : WEFT_OK;
}

static weft_status write_beside(arena *a, const char *path, const void *data, size_t n,
                                mode_t mode) {
    static atomic_uint serial;
    const char *tmp = arena_printf(a, "%s.tmp-%ld.%u", path, (long)getpid(),
                                   atomic_fetch_add(&serial, 1));
    int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return weft_fail(WEFT_IO, "%s: cannot create: %m", path);
    weft_status s = write_and_close(fd, path, data, n, true);
    if (s == WEFT_OK && rename(tmp, path) != 0)
        s = weft_fail(WEFT_IO, "%s: cannot rename into place: %m", path);
    if (s != WEFT_OK) {
        unlink(tmp);
        return s;
    }
    return sync_folder_of(a, path);
}

/* Renaming onto /dev/null would replace the device, so what is no regular file is written to. */
static weft_status write_device(const char *path, const void *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return weft_fail(WEFT_IO, "%s: cannot open for writing: %m", path);
    return write_and_close(fd, path, data, n, false);
}

weft_status file_write_atomic(const char *path, const void *data, size_t n) {
    struct stat st;
    bool there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode))
        return weft_fail(WEFT_IO, "%s: is a folder; give a file name", path);
    if (there && !S_ISREG(st.st_mode))
        return write_device(path, data, n);
    char *real = there ? realpath(path, NULL) : NULL; /* a link stays a link */
    arena a = {0};
    weft_status s = write_beside(&a, real ? real : path, data, n, there ? st.st_mode & 0777 : 0666);
    arena_fini(&a);
    free(real);
    return s;
}

char *file_join(arena *a, const char *dir, const char *name) {
    size_t n = strlen(dir);
    const char *slash = n == 0 || dir[n - 1] == '/' ? "" : "/";
    return arena_printf(a, "%s%s%s", dir, slash, name);
}
