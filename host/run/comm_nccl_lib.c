/* SPDX-License-Identifier: Apache-2.0
 * Finding NCCL. */
#include "host/base/err.h"
#include "host/run/comm_nccl.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static nccl_library library;
static weft_status outcome;
static char reason[512]; /* err_message belongs to the thread that failed */

static weft_status find_symbols(void *lib) {
    static const struct {
        const char *name;
        size_t at;
        int needed;
    } symbol[] = {
#define SYMBOL_(member, symbol, needed, result, parameters) \
    {symbol, offsetof(nccl_library, member), needed},
        NCCL_SYMBOLS(SYMBOL_)};
    for (size_t i = 0; i < sizeof symbol / sizeof *symbol; i++) {
        void *p = dlsym(lib, symbol[i].name);
        if (!p && symbol[i].needed)
            return weft_fail(WEFT_USAGE,
                             "--comm nccl: %s has no %s; NCCL 2.18 or newer is needed (WEFT_NCCL "
                             "names another)",
                             library.path, symbol[i].name);
        memcpy((char *)&library + symbol[i].at, &p, sizeof p);
    }
    return WEFT_OK;
}

/* Before 2.9 a version had two digits less: 2804 is 2.8.4. */
static weft_status check_version(void *lib) {
    nccl_result (*get)(int *) = NULL;
    void *p = dlsym(lib, "ncclGetVersion");
    memcpy(&get, &p, sizeof p);
    if (!get || get(&library.version) != NCCL_SUCCESS)
        return weft_fail(WEFT_USAGE, "--comm nccl: %s does not say its version; is it NCCL?",
                         library.path);
    int v = library.version, unit = v < 10000 ? 1000 : 10000;
    snprintf(library.text, sizeof library.text, "%d.%d.%d", v / unit, v % unit / 100, v % 100);
    if (v < NCCL_LEAST)
        return weft_fail(WEFT_USAGE,
                         "--comm nccl: %s is NCCL %s; 2.18 or newer is needed (WEFT_NCCL names "
                         "another)",
                         library.path, library.text);
    return WEFT_OK;
}

static weft_status load(void) {
    const char *name = getenv("WEFT_NCCL");
    snprintf(library.path, sizeof library.path, "%s", name && *name ? name : "libnccl.so.2");
    void *lib = dlopen(library.path, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return weft_fail(WEFT_USAGE,
                         "--comm nccl: cannot be loaded: %.200s; install NCCL 2.18 or newer, or "
                         "name it by WEFT_NCCL",
                         dlerror());
    WEFT_TRY(check_version(lib));
    return find_symbols(lib);
}

static void load_once(void) {
    outcome = load();
    if (outcome != WEFT_OK)
        snprintf(reason, sizeof reason, "%s", err_message());
}

weft_status comm_nccl_load(const nccl_library **out) {
    pthread_once(&once, load_once);
    *out = &library;
    return outcome == WEFT_OK ? WEFT_OK : weft_fail(outcome, "%s", reason);
}
