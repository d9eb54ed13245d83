/* SPDX-License-Identifier: Apache-2.0
 * Preloaded into a program: the k-th write, fsync, rename, link, unlink or mkdir below a folder
 * kills it or fails. A killed write has written half of what was asked for.
 *
 *   FAULT_DIR    calls on paths that begin with this count
 *   FAULT_AT     k, from 1; 0: none, only count
 *   FAULT_KIND   kill; enospc (writes fail from k on), enospc_once
 *   FAULT_COUNT  file that gets the number of calls when the program ends */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static int is_ours(const char *path) {
    const char *dir = getenv("FAULT_DIR");
    return dir && path && strncmp(path, dir, strlen(dir)) == 0;
}

static int is_ours_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = 0;
    return is_ours(path);
}

static const char *kind(void) {
    const char *k = getenv("FAULT_KIND");
    return k ? k : "kill";
}

/* Whether this call is the one. */
static int is_due(void) {
    const char *at = getenv("FAULT_AT");
    long k = at ? strtol(at, NULL, 10) : 0, n = atomic_fetch_add(&calls, 1) + 1;
    if (k <= 0)
        return 0;
    return strcmp(kind(), "enospc") == 0 ? n >= k : n == k;
}

static void die(void) {
    kill(getpid(), SIGKILL);
}

static int is_kill(void) {
    return strcmp(kind(), "kill") == 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *p, size_t n) {
    if (is_ours_fd(fd) && is_due()) {
        if (!is_kill()) {
            errno = ENOSPC;
            return -1;
        }
        (void)!REAL(write)(fd, p, n / 2);
        die();
    }
    return REAL(write)(fd, p, n);
}

/* Nothing but a write needs room, so under ENOSPC the other calls go through. */
#define BEFORE(mine) \
    do { \
        if ((mine) && is_due() && is_kill()) \
            die(); \
    } while (0)

int fsync(int fd) {
    BEFORE(is_ours_fd(fd));
    return REAL(fsync)(fd);
}

int rename(const char *from, const char *to) {
    BEFORE(is_ours(from));
    return REAL(rename)(from, to);
}

int link(const char *from, const char *to) {
    BEFORE(is_ours(from));
    return REAL(link)(from, to);
}

int unlink(const char *path) {
    BEFORE(is_ours(path));
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    BEFORE(is_ours(path));
    return REAL(mkdir)(path, mode);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("FAULT_COUNT");
    FILE *f = path ? fopen(path, "w") : NULL;
    if (f) {
        fprintf(f, "%ld\n", atomic_load(&calls));
        fclose(f);
    }
}
