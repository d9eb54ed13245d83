/* SPDX-License-Identifier: Apache-2.0
 * What each rank says of itself, side by side. */
#include "host/run/agree.h"
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/base/mem.h"
#include "host/run/launch.h"
#include "weft.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COMMON = 3, FACT_BYTES = 200 };

typedef struct {
    char host[64];
    char fact[COMMON + AGREE_OWN][FACT_BYTES];
} identity;

/* Long texts by what they begin and end with, and their fingerprint. */
static void say(char out[FACT_BYTES], const char *text) {
    size_t n = strlen(text);
    if (n < FACT_BYTES)
        memcpy(out, text, n + 1);
    else
        snprintf(out, FACT_BYTES, "%.70s ... %s (%016" PRIx64 ")", text, text + n - 70,
                 hash_xxh3(text, n));
}

static void say_environment(char out[FACT_BYTES]) {
    static const char *const names[] = {"WEFT_KERNEL", "WEFT_KERNEL_LIB", "WEFT_EMU_SEED"};
    char text[1024] = "";
    size_t n = 0;
    for (int i = 0; i < 3 && n < sizeof text; i++)
        if (getenv(names[i]))
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s=%.300s", n ? " " : "", names[i],
                                  getenv(names[i]));
    say(out, text);
}

static void describe(identity *id, const agree_fact *fact, int n) {
    gethostname(id->host, sizeof id->host - 1);
    say(id->fact[0], weft_version());
    say(id->fact[1], launch_words());
    say_environment(id->fact[2]);
    for (int i = 0; i < n; i++)
        say(id->fact[COMMON + i], fact[i].text);
}

static const char *name_of(const agree_fact *fact, int i) {
    static const char *const common[COMMON] = {"version", "command line", "environment"};
    return i < COMMON ? common[i] : fact[i - COMMON].name;
}

/* Every rank compares with rank 0, in the same order, so all say the same. */
static weft_status compare(const identity *all, int ranks, const agree_fact *fact, int n) {
    for (int f = 0; f < COMMON + n; f++)
        for (int r = 1; r < ranks; r++)
            if (strncmp(all[0].fact[f], all[r].fact[f], FACT_BYTES) != 0)
                return weft_fail(
                    WEFT_PEER,
                    "rank %d (%.63s) and rank 0 (%.63s) differ in their %s: \"%.199s\" "
                    "and \"%.199s\"; start every rank alike",
                    r, all[r].host, all[0].host, name_of(fact, f), all[r].fact[f], all[0].fact[f]);
    return WEFT_OK;
}

weft_status agree(comm *c, const agree_fact *fact, int n) {
    WEFT_ASSERT(n <= AGREE_OWN);
    identity *all = mem_alloc(sizeof *all * (size_t)c->ranks), mine = {0};
    describe(&mine, fact, n);
    weft_status s = comm_collect(c, &mine, all, sizeof mine, "agree");
    if (s == WEFT_OK)
        s = compare(all, c->ranks, fact, n);
    mem_free(all);
    return s;
}
