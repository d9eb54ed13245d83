/* SPDX-License-Identifier: Apache-2.0
 * How many cores this process may use: what the affinity mask allows, and no more than a cgroup
 * quota pays for, since a container's limit does not show in the mask. */
#include "host/base/mem.h"
#include "host/base/thread.h"
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int affinity_cores(void) {
    for (int cpus = 1024; cpus <= 1 << 20; cpus *= 4) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set)
            break;
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        bool ok = sched_getaffinity(0, bytes, set) == 0;
        int n = ok ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (ok)
            return n;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* A small file of the kernel's, NUL-terminated; false if it is not there. */
static bool small_file(char *text, size_t size, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

static long long file_number(arena *a, const char *folder, const char *name) {
    char text[64];
    long long v = -1;
    bool ok = small_file(text, sizeof text, arena_printf(a, "%s/%s", folder, name));
    return ok && sscanf(text, "%19lld", &v) == 1 ? v : -1;
}

/* Quota and period of one group in either version's files; false: none. */
static bool group_quota(arena *a, const char *folder, bool v2, long long *quota,
                        long long *period) {
    char text[64];
    if (v2)
        return small_file(text, sizeof text, arena_printf(a, "%s/cpu.max", folder)) &&
               sscanf(text, "%19lld %19lld", quota, period) == 2;
    *quota = file_number(a, folder, "cpu.cfs_quota_us");
    *period = file_number(a, folder, "cpu.cfs_period_us");
    return true;
}

/* The tightest quota from the group up to `root`, which is a prefix of it; 0: none. */
static int quota_upwards(arena *a, char *folder, size_t root, bool v2) {
    int least = 0;
    for (;;) {
        long long quota, period;
        if (group_quota(a, folder, v2, &quota, &period) && quota > 0 && period > 0) {
            long long cores = (quota - 1) / period + 1;
            if (cores < (1 << 20) && (least == 0 || cores < least))
                least = (int)cores;
        }
        char *slash = strrchr(folder + root, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

/* Whether the comma-separated list has the item "cpu". */
static bool names_cpu(const char *list, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t k = strcspn(list + i, ",:");
        if (k == 3 && memcmp(list + i, "cpu", 3) == 0)
            return true;
        i += k + 1;
    }
    return false;
}

/* One line "id:controllers:/path" of /proc/self/cgroup; version 2 has no controllers. */
static int line_quota(arena *a, const char *line, size_t n, const char *root) {
    const char *list = memchr(line, ':', n);
    const char *path = list ? memchr(list + 1, ':', n - (size_t)(list + 1 - line)) : NULL;
    if (!path)
        return 0;
    size_t controllers = (size_t)(path - list - 1);
    bool v2 = controllers == 0;
    if (!v2 && !names_cpu(list + 1, controllers))
        return 0;
    const char *at = v2 ? root : arena_printf(a, "%s/cpu", root);
    int len = (int)(n - (size_t)(path + 1 - line));
    return quota_upwards(a, arena_printf(a, "%s%.*s", at, len, path + 1), strlen(at), v2);
}

int thread_quota_cores(const char *membership, const char *root) {
    arena a = {0};
    int least = 0;
    for (const char *line = membership; *line;) {
        size_t n = strcspn(line, "\n");
        int cores = line_quota(&a, line, n, root);
        if (cores > 0 && (least == 0 || cores < least))
            least = cores;
        line += n + (line[n] == '\n');
    }
    arena_fini(&a);
    return least;
}

int thread_cores(void) {
    char membership[4096];
    int cores = affinity_cores(), quota = 0;
    if (small_file(membership, sizeof membership, "/proc/self/cgroup"))
        quota = thread_quota_cores(membership, "/sys/fs/cgroup");
    cores = quota > 0 && quota < cores ? quota : cores;
    return cores < 1 ? 1 : cores;
}
