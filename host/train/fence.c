/* SPDX-License-Identifier: Apache-2.0 */
#include "host/train/fence.h"
#include "host/base/err.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { LINE = 128 };

typedef struct {
    char job[FENCE_JOB];
    int64_t epoch;
} owner;

/* What is not a line of ours is nobody's. */
static owner read_owner(int fd) {
    char text[LINE];
    owner o = {.epoch = -1};
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    if (sscanf(text, "job %32[0-9a-z] epoch %" SCNd64, o.job, &o.epoch) != 2)
        o = (owner){.epoch = -1};
    return o;
}

static weft_status open_locked(const fence *f, int flags, int lock, int *fd) {
    *fd = open(f->path, flags | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (*fd < 0 && errno == ENOENT && !(flags & O_CREAT))
        return WEFT_OK;
    while (*fd >= 0 && flock(*fd, lock) != 0)
        if (errno != EINTR) {
            int why = errno;
            close(*fd);
            *fd = -1;
            errno = why;
        }
    return *fd >= 0 ? WEFT_OK : weft_fail(WEFT_IO, "%s: cannot be locked: %m", f->path);
}

static weft_status went_on(const fence *f) {
    return weft_fail(WEFT_PEER,
                     "%s: the job went on without this process, which was slow, stopped or cut "
                     "off; it writes nothing more",
                     f->path);
}

static weft_status write_owner(const fence *f, int fd, int64_t epoch) {
    char text[LINE];
    int n = snprintf(text, sizeof text, "job %s epoch %" PRId64 "\n", f->job, epoch);
    if (pwrite(fd, text, (size_t)n, 0) == n && ftruncate(fd, n) == 0 && fsync(fd) == 0)
        return WEFT_OK;
    return weft_fail(WEFT_IO, "%s: cannot be written: %m", f->path);
}

weft_status fence_claim(fence *f, int64_t epoch) {
    int fd;
    WEFT_TRY(open_locked(f, O_RDWR | (epoch == 0 ? O_CREAT : 0), LOCK_EX, &fd));
    if (fd < 0)
        return went_on(f);
    owner o = read_owner(fd);
    bool mine = strcmp(o.job, f->job) == 0 && o.epoch == epoch - 1;
    weft_status s = epoch == 0 || mine ? write_owner(f, fd, epoch) : went_on(f);
    close(fd);
    if (s == WEFT_OK)
        f->epoch = epoch;
    return s;
}

static weft_status look(const fence *f, owner *out) {
    int fd;
    owner o = {.epoch = -1};
    WEFT_TRY(open_locked(f, O_RDONLY, LOCK_SH, &fd));
    if (fd >= 0) {
        o = read_owner(fd);
        close(fd);
    }
    *out = o;
    return WEFT_OK;
}

/* Rank 0 may not have taken the folder yet when the first rank is lost; whoever claims will see. */
weft_status fence_free(const fence *f, int64_t epoch) {
    owner o;
    WEFT_TRY(look(f, &o));
    bool ours = strcmp(o.job, f->job) == 0;
    return (ours && o.epoch < epoch) || (!ours && epoch == 1) ? WEFT_OK : went_on(f);
}

weft_status fence_held(const fence *f) {
    owner o;
    WEFT_TRY(look(f, &o));
    return strcmp(o.job, f->job) == 0 && o.epoch == f->epoch ? WEFT_OK : went_on(f);
}

void fence_end(fence *f) {
    int fd;
    if (f->epoch < 0 || open_locked(f, O_RDWR, LOCK_EX, &fd) != WEFT_OK || fd < 0)
        return;
    owner o = read_owner(fd);
    if (strcmp(o.job, f->job) == 0 && o.epoch == f->epoch)
        unlink(f->path);
    close(fd);
}
