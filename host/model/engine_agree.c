/* SPDX-License-Identifier: Apache-2.0
 * Processes that are to be one job compare what they are before any of them reads a weight. */
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/base/mem.h"
#include "host/model/engine.h"
#include "host/run/launch.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FACTS = 6, FACT_BYTES = 200 };

typedef struct {
    char host[64];
    char fact[FACTS][FACT_BYTES];
} identity;

static const char *const fact_name[FACTS] = {"version", "command line", "environment",
                                             "model",   "machine",      "plan"};

/* Long texts by what they begin and end with, and their fingerprint. */
static void say(identity *id, int fact, const char *text) {
    size_t n = strlen(text);
    if (n < FACT_BYTES)
        memcpy(id->fact[fact], text, n + 1);
    else
        snprintf(id->fact[fact], FACT_BYTES, "%.70s ... %s (%016" PRIx64 ")", text, text + n - 70,
                 hash_xxh3(text, n));
}

static void say_environment(identity *id) {
    static const char *const names[] = {"WEFT_KERNEL", "WEFT_KERNEL_LIB", "WEFT_EMU_SEED"};
    char text[1024] = "";
    size_t n = 0;
    for (int i = 0; i < 3 && n < sizeof text; i++)
        if (getenv(names[i]))
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s=%.300s", n ? " " : "", names[i],
                                  getenv(names[i]));
    say(id, 2, text);
}

/* Names, types and shapes of what the files hold, and how large they are: no weight is read. */
static void say_model(identity *id, const weft_engine *e) {
    hash_stream *h = hash_open();
    char text[96];
    for (int i = 0; i < e->st.ntensor; i++) {
        const st_tensor *t = &e->st.tensor[i];
        hash_add(h, t->name, strlen(t->name) + 1);
        hash_add(h, &t->dtype, sizeof t->dtype);
        hash_add(h, t->shape, sizeof *t->shape * (size_t)t->ndim);
    }
    for (int i = 0; i < e->st.nfile; i++)
        hash_add(h, &e->st.map[i].size, sizeof e->st.map[i].size);
    snprintf(text, sizeof text, "%s of %d tensors (%016" PRIx64 ")", e->config.family,
             e->st.ntensor, hash_value(h));
    hash_close(h);
    say(id, 3, text);
}

static void say_plan(identity *id, const weft_engine *e) {
    buf text;
    buf_init(&text, SIZE_MAX);
    engine_plan_text(e, &text);
    char hash[32];
    snprintf(hash, sizeof hash, "%016" PRIx64, hash_xxh3(text.data, text.len));
    buf_fini(&text);
    say(id, 5, hash);
}

static void describe(identity *id, const weft_engine *e) {
    char text[64];
    gethostname(id->host, sizeof id->host - 1);
    say(id, 0, weft_version());
    say(id, 1, launch_words());
    say_environment(id);
    say_model(id, e);
    snprintf(text, sizeof text, "%s, level %d", e->dev->backend, e->dev->level);
    say(id, 4, text);
    say_plan(id, e);
}

/* Every rank compares with rank 0, in the same order, so all say the same. */
static weft_status compare(const identity *all, int ranks) {
    for (int f = 0; f < FACTS; f++)
        for (int r = 1; r < ranks; r++)
            if (strncmp(all[0].fact[f], all[r].fact[f], FACT_BYTES) != 0)
                return weft_fail(
                    WEFT_PEER,
                    "rank %d (%.63s) and rank 0 (%.63s) differ in their %s: \"%.199s\" "
                    "and \"%.199s\"; start every rank alike",
                    r, all[r].host, all[0].host, fact_name[f], all[r].fact[f], all[0].fact[f]);
    return WEFT_OK;
}

weft_status engine_agree(const weft_engine *e, comm *world) {
    identity *all = mem_alloc(sizeof *all * (size_t)world->ranks), mine = {0};
    describe(&mine, e);
    weft_status s = comm_collect(world, &mine, all, sizeof mine, "agree");
    if (s == WEFT_OK)
        s = compare(all, world->ranks);
    mem_free(all);
    return s;
}
