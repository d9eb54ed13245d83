/* SPDX-License-Identifier: Apache-2.0 */
#include "host/run/launch.h"
#include "host/base/err.h"
#include "host/run/comm.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char words[1024];

void launch_set_words(int argc, char **argv) {
    size_t n = 0;
    for (int i = 1; i < argc && n < sizeof words; i++)
        n += (size_t)snprintf(words + n, sizeof words - n, "%s%s", i > 1 ? " " : "", argv[i]);
}

const char *launch_words(void) {
    return words;
}

static atomic_bool told;
static const char *refused;

void launch_refuse(const char *command) {
    refused = command;
}

const char *launch_refused(void) {
    return refused;
}

static bool outlives;

void launch_outlive(void) {
    outlives = true;
}

bool launch_outlives(void) {
    return outlives;
}

void launch_tell(void) {
    atomic_store(&told, true);
}

bool launch_told(void) {
    return atomic_load(&told);
}

static weft_status number(const char *name, long min, long max, int *out) {
    const char *text = getenv(name);
    char *end = NULL;
    errno = 0;
    long v = text ? strtol(text, &end, 10) : 0;
    if (!text || errno || !*text || *end || v < min || v > max)
        return weft_fail(WEFT_USAGE, "%s: \"%.40s\" is not in %ld..%ld", name, text ? text : "",
                         min, max);
    *out = (int)v;
    return WEFT_OK;
}

/* The first name of a SLURM node list: "node[03-07,9]" is node03. */
static void first_node(const char *list, char out[LAUNCH_TEXT]) {
    size_t n = strcspn(list, "[,");
    const char *digits = list[n] == '[' ? list + n + 1 : "";
    snprintf(out, LAUNCH_TEXT, "%.*s%.*s", (int)(n < 200 ? n : 200), list,
             (int)strspn(digits, "0123456789"), digits);
}

typedef struct {
    const char *by, *ranks, *rank, *local;
} launcher;

static weft_status read_master(launch *l) {
    const char *address = getenv("MASTER_ADDR"), *nodes = getenv("SLURM_STEP_NODELIST");
    l->port = LAUNCH_PORT;
    if (address && strlen(address) >= sizeof l->address)
        return weft_fail(WEFT_USAGE, "MASTER_ADDR: is too long");
    if (address)
        snprintf(l->address, sizeof l->address, "%s", address);
    else if (nodes)
        first_node(nodes, l->address);
    return getenv("MASTER_PORT") ? number("MASTER_PORT", 1, 65535, &l->port) : WEFT_OK;
}

weft_status launch_read(launch *out) {
    static const launcher known[] = {
        {"torchrun", "WORLD_SIZE", "RANK", "LOCAL_RANK"},
        {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"},
        {"srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"},
    };
    launch l = {.ranks = 1};
    for (int i = 0; i < 3 && !l.by; i++) {
        const launcher *k = &known[i];
        if (!getenv(k->ranks) || !getenv(k->rank))
            continue;
        WEFT_TRY(number(k->ranks, 1, 1 << 20, &l.ranks));
        WEFT_TRY(number(k->rank, 0, l.ranks - 1, &l.rank));
        if (getenv(k->local))
            WEFT_TRY(number(k->local, 0, 1 << 20, &l.local_rank));
        l.by = k->by;
    }
    if (l.by)
        WEFT_TRY(read_master(&l));
    *out = l;
    return WEFT_OK;
}
