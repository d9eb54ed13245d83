/* SPDX-License-Identifier: Apache-2.0
 * Files as input (mapped, only regular ones, never blocking on a FIFO or device) and as output
 * (written beside, fsynced, renamed). */
#pragma once
#include "host/base/buf.h"
#include "host/base/mem.h"
#include "weft/status.h"
#include <stdbool.h>

typedef struct {
    const char *data; /* never NULL for a mapped file; read-only, page aligned; size may be 0 */
    size_t size;
    bool locked;
} file_map;

bool file_exists(const char *path);
bool file_is_dir(const char *path);
bool file_is_regular(const char *path);                     /* or a link to such a file */
weft_status file_map_open(const char *path, file_map *out); /* BAD_FILE or IO with the path named */
weft_status file_map_lock(file_map *m);                     /* mlock; NO_MEMORY with a hint */
void file_map_close(file_map *m);
/* The whole file in the arena, NUL-terminated; larger than max is BAD_FILE. "-" is stdin. */
weft_status file_read(const char *path, size_t max, arena *a, const char **data, size_t *n);
/* All or nothing: path.tmp-PID.N, fsync, rename, fsync of the folder. A device is written to. */
weft_status file_write_atomic(const char *path, const void *data, size_t n);
/* fd write of everything, EINTR and short writes handled; IO on failure. */
weft_status file_write_fd(int fd, const char *name, const void *data, size_t n);
char *file_join(arena *a, const char *dir, const char *name);
