/* SPDX-License-Identifier: Apache-2.0 */
#include "host/run/flight_record.h"
#include "host/base/mem.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char magic[8] = "weftfl3";

static bool is_name(const char *s) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]))
            return false;
    return n > 0 && n < FLIGHT_JOB_BYTES;
}

void flight_new_job(char job[FLIGHT_JOB_BYTES]) {
    const char *given = getenv("WEFT_JOB");
    uint32_t noise = (uint32_t)getpid();
    if (given && is_name(given)) {
        snprintf(job, FLIGHT_JOB_BYTES, "%s", given);
        return;
    }
    if (getrandom(&noise, sizeof noise, 0) != sizeof noise)
        noise = (uint32_t)getpid();
    snprintf(job, FLIGHT_JOB_BYTES, "%08x", noise);
}

static void path_of(char *out, size_t n, const char *job, int rank, int pid) {
    snprintf(out, n, "%s/%s%s-%d-%d", FLIGHT_FOLDER, FLIGHT_PREFIX, job, rank, pid);
}

flight_record *flight_record_open(const char *job, int64_t epoch, int rank, int ranks) {
    char path[128];
    if (*job)
        flight_record_sweep(NULL, false);
    path_of(path, sizeof path, job, rank, (int)getpid());
    int fd = *job ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    flight_record *r = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof *r) == 0)
        r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (r == MAP_FAILED) {
        if (fd >= 0)
            unlink(path);
        r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    bool heap = r == MAP_FAILED;
    if (heap)
        r = mem_alloc(sizeof *r);
    r->heap = heap;
    memcpy(r->magic, magic, sizeof magic);
    snprintf(r->job, sizeof r->job, "%s", job);
    gethostname(r->host, sizeof r->host - 1);
    r->pid = (int32_t)getpid();
    r->epoch = epoch;
    r->rank = rank;
    r->ranks = ranks;
    return r;
}

void flight_record_close(flight_record *r) {
    char path[128];
    if (!r)
        return;
    path_of(path, sizeof path, r->job, r->rank, r->pid);
    if (r->job[0])
        unlink(path);
    if (r->heap)
        mem_free(r);
    else
        munmap(r, sizeof *r);
}

flight_record *flight_record_read(const char *file) {
    char path[400];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", FLIGHT_FOLDER, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    flight_record *r = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size == (off_t)sizeof *r)
        r = mmap(NULL, sizeof *r, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (r == MAP_FAILED)
        return NULL;
    bool sound = memcmp(r->magic, magic, sizeof magic) == 0 && r->rank >= -1 && r->ranks >= 1 &&
                 r->ranks <= FLIGHT_MAX_RANKS && r->rank < r->ranks && r->pid > 0 &&
                 memchr(r->job, 0, sizeof r->job) && memchr(r->host, 0, sizeof r->host);
    if (sound)
        return r;
    munmap(r, sizeof *r);
    return NULL;
}

void flight_record_forget(flight_record *r) {
    munmap(r, sizeof *r);
}

char flight_process(pid_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 'X';
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *state = strrchr(text, ')'); /* behind the name, which may hold anything */
    if (!state || !state[1] || state[2] == 'Z' || state[2] == 'X')
        return 'X';
    return state[2] == 'T' || state[2] == 't' ? 'T' : 'R';
}

static bool is_old(const char *path) {
    struct stat st;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return stat(path, &st) == 0 && now.tv_sec - st.st_ctim.tv_sec > 3600;
}

/* The process a record is named after; 0: no record's name. What is in it may be of another
 * version. */
static pid_t owner_of(const char *file) {
    const char *dash = strrchr(file, '-');
    long pid = dash ? strtol(dash + 1, NULL, 10) : 0;
    return pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

void flight_record_sweep(const char *job, bool all) {
    DIR *d = opendir(FLIGHT_FOLDER);
    char path[400], start[64];
    snprintf(start, sizeof start, "%s%s%s", FLIGHT_PREFIX, job ? job : "", job ? "-" : "");
    for (struct dirent *e; d && (e = readdir(d));) {
        pid_t pid = owner_of(e->d_name);
        if (strncmp(e->d_name, start, strlen(start)) != 0 || pid == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", FLIGHT_FOLDER, e->d_name);
        if ((job || is_old(path)) && (all || flight_process(pid) == 'X'))
            unlink(path);
    }
    if (d)
        closedir(d);
}
