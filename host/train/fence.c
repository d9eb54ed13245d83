/* SPDX-License-Identifier: Apache-2.0 */
#include "host/train/fence.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 128, PATH = 4096 };

static weft_status went_on(const fence *f) {
    return weft_fail(WEFT_PEER,
                     "%s: the job went on without this process, which was slow, stopped or cut "
                     "off; it writes nothing more",
                     f->path);
}

/* The job that the folder is of; "": none, or what is there is no line of ours. */
static void read_job(const fence *f, char job[FENCE_JOB]) {
    char text[LINE];
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    if (sscanf(text, "job %32[0-9a-z]", job) != 1)
        *job = 0;
}

static bool is_mine(const fence *f) {
    char job[FENCE_JOB];
    read_job(f, job);
    return strcmp(job, f->job) == 0;
}

static void name_of(const fence *f, int64_t epoch, char out[PATH]) {
    snprintf(out, PATH, "%s-%.8s-%" PRId64, f->path, f->job, epoch);
}

static bool is_taken(const fence *f, int64_t epoch) {
    char name[PATH];
    name_of(f, epoch, name);
    return access(name, F_OK) == 0;
}

static weft_status take_folder(const fence *f) {
    char text[LINE];
    int n = snprintf(text, sizeof text, "job %s\n", f->job);
    return file_write_atomic(f->path, text, (size_t)n);
}

/* Whose the folder is can change, or the run end, while the name is being made. */
static weft_status take_epoch(const fence *f, int64_t epoch) {
    char name[PATH];
    name_of(f, epoch, name);
    if (!is_mine(f))
        return went_on(f);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return errno == EEXIST ? went_on(f) : weft_fail(WEFT_IO, "%s: cannot be created: %m", name);
    close(fd);
    if (is_mine(f))
        return WEFT_OK;
    unlink(name);
    return went_on(f);
}

weft_status fence_claim(fence *f, int64_t epoch) {
    WEFT_TRY(epoch == 0 ? take_folder(f) : take_epoch(f, epoch));
    f->epoch = epoch;
    return WEFT_OK;
}

/* Rank 0 may not have taken the folder yet when the first rank is lost; whoever claims will see. */
weft_status fence_free(const fence *f, int64_t epoch) {
    bool open = epoch == 1 || is_mine(f);
    return open && !is_taken(f, epoch) ? WEFT_OK : went_on(f);
}

weft_status fence_held(const fence *f) {
    return is_mine(f) && !is_taken(f, f->epoch + 1) ? WEFT_OK : went_on(f);
}

void fence_end(fence *f) {
    char name[PATH];
    if (f->epoch < 0 || fence_held(f) != WEFT_OK)
        return;
    unlink(f->path);
    for (int64_t e = 1; e <= f->epoch; e++) {
        name_of(f, e, name);
        unlink(name);
    }
}
