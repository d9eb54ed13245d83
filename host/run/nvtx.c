/* SPDX-License-Identifier: Apache-2.0
 * The application's half of NVTX 3's injection (nvtx3/nvtxDetail/nvtxTypes.h and nvtxInit.h): the
 * profiler's library is given a table of the places of our function pointers, and fills those it
 * wants to hear of. */
#include "host/run/nvtx.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { ETID_CALLBACKS = 1, ETID_VERSION = 3, MODULE_CORE = 1, API_VERSION = 3 };
enum { CORE_RANGE_PUSH_A = 9, CORE_RANGE_POP = 11, CORE_SIZE = 16 };

typedef void function(void);
typedef int push_fn(const char *name);
typedef int pop_fn(void);
typedef int init_fn(const void *(*export_table)(uint32_t id));

static function *core[CORE_SIZE], **places[CORE_SIZE + 1];

static int module_table(int module, function ****table, unsigned *size) {
    if (module != MODULE_CORE)
        return 0;
    for (int i = 1; i < CORE_SIZE; i++) /* 0 is no call */
        places[i] = &core[i];
    *table = places;
    if (size)
        *size = CORE_SIZE;
    return 1;
}

static void version_of_library(uint32_t version) {
    (void)version;
}

static const void *export_table(uint32_t id) {
    static const struct {
        size_t size;
        int (*module_table)(int, function ****, unsigned *);
    } callbacks = {sizeof callbacks, module_table};
    static const struct {
        size_t size;
        uint32_t version, reserved;
        void (*set)(uint32_t);
    } version = {sizeof version, API_VERSION, 0, version_of_library};
    return id == ETID_CALLBACKS ? (const void *)&callbacks
           : id == ETID_VERSION ? (const void *)&version
                                : NULL;
}

/* A library that cannot be used is a profiler's affair: it will miss its ranges. */
static void find(void) {
    const char *path = getenv("NVTX_INJECTION64_PATH");
    void *lib = path && *path ? dlopen(path, RTLD_LAZY | RTLD_LOCAL) : NULL;
    void *symbol = lib    ? dlsym(lib, "InitializeInjectionNvtx2")
                   : path ? NULL
                          : dlsym(RTLD_DEFAULT, "InitializeInjectionNvtx2Preinject");
    init_fn *init;
    *(void **)&init = symbol;
    if (init && init(export_table))
        return;
    for (int i = 0; i < CORE_SIZE; i++)
        core[i] = NULL;
}

static void ready(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
}

void nvtx_push(const char *name) {
    ready();
    if (core[CORE_RANGE_PUSH_A])
        ((push_fn *)core[CORE_RANGE_PUSH_A])(name);
}

void nvtx_pop(void) {
    ready();
    if (core[CORE_RANGE_POP])
        ((pop_fn *)core[CORE_RANGE_POP])();
}
