/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Lets --comm nccl load the stand-in beside this program's folder (tests/fake). */
static inline void find_fake_nccl(void) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    for (int up = 0; up < 2 && n > 0; up++)
        while (n > 0 && path[--n] != '/')
            ;
    snprintf(path + n, 64, "/fake/libnccl.so.2");
    setenv("WEFT_NCCL", path, 1);
}
