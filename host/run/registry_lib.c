/* SPDX-License-Identifier: Apache-2.0
 * WEFT_KERNEL_LIB: rows of a shared object, looked at once a process and kept to its end, because
 * plans hold pointers to them. */
#include "host/base/err.h"
#include "host/run/registry.h"
#include "weft/kernel_lib.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static weft_status outcome;
static char reason[1024]; /* err_message belongs to the thread that failed */

static weft_status symbol(void *lib, const char *path, const char *name, const void **out) {
    *out = dlsym(lib, name);
    if (*out)
        return WEFT_OK;
    return weft_fail(WEFT_USAGE,
                     "WEFT_KERNEL_LIB: '%s' has no %s; its rows belong in WEFT_KERNEL_LIBRARY "
                     "(weft/kernel_lib.h)",
                     path, name);
}

/* What would crash later, or never be chosen. */
static weft_status check_row(const char *path, const weft_kernel *k) {
    const char *what = NULL;
    bool known = k->backend && (!strcmp(k->backend, "cpu") || !strcmp(k->backend, "cuda") ||
                                !strcmp(k->backend, "emu"));
    if ((unsigned)k->op >= WEFT_OP_COUNT)
        what = "no op of the catalogue";
    else if (!known)
        what = "a backend other than cpu, cuda and emu";
    else if (!k->run)
        what = "no run()";
    else if (k->arith >= WEFT_ARITHS)
        what = "no numerics class of weft_arith";
    return what ? weft_fail(WEFT_USAGE, "WEFT_KERNEL_LIB: '%s': row '%s' has %s", path, k->name,
                            what)
                : WEFT_OK;
}

static weft_status load(const char *path) {
    const void *abi, *rows;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return weft_fail(WEFT_USAGE, "WEFT_KERNEL_LIB: cannot load it: %s", dlerror());
    WEFT_TRY(symbol(lib, path, "weft_kernel_abi", &abi));
    uint64_t theirs = *(const uint64_t *)abi, ours = WEFT_KERNEL_ABI;
    if (theirs != ours)
        return weft_fail(WEFT_USAGE,
                         "WEFT_KERNEL_LIB: '%s' has kernel ABI %llx, this weft has %llx; build it "
                         "against these headers",
                         path, (unsigned long long)theirs, (unsigned long long)ours);
    WEFT_TRY(symbol(lib, path, "weft_kernel_rows", &rows));
    for (const weft_kernel *k = rows; k->name; k++)
        WEFT_TRY(check_row(path, k));
    registry_add(rows);
    return WEFT_OK;
}

static void load_once(void) {
    const char *path = getenv("WEFT_KERNEL_LIB");
    if (path && *path)
        outcome = load(path);
    if (outcome != WEFT_OK)
        snprintf(reason, sizeof reason, "%s", err_message());
}

weft_status registry_load(void) {
    pthread_once(&once, load_once);
    return outcome == WEFT_OK ? WEFT_OK : weft_fail(outcome, "%s", reason);
}
