/* SPDX-License-Identifier: Apache-2.0
 * Time and memory of this process. */
#include "host/base/clock.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

double clock_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* VmHWM of /proc/self/status, 0 if it cannot be read. */
static int64_t high_water_bytes(void) {
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *line = strstr(text, "\nVmHWM:");
    return line ? 1024 * strtoll(line + strlen("\nVmHWM:"), NULL, 10) : 0;
}

/* ru_maxrss survives exec, so under a large parent it would be the parent's: only a fallback. */
int64_t clock_rss_bytes(void) {
    struct rusage use;
    int64_t bytes = high_water_bytes();
    if (bytes == 0 && getrusage(RUSAGE_SELF, &use) == 0)
        bytes = 1024 * (int64_t)use.ru_maxrss;
    return bytes;
}
