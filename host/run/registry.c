/* SPDX-License-Identifier: Apache-2.0
 * The tables of rows in one list, and the search through them. */
#include "host/run/registry.h"
#include "host/base/err.h"
#include "host/run/ops.h"
#include <stdlib.h>
#include <string.h>

void registry_add(const weft_kernel *rows) {
    int n = 0;
    while (registry_tables[n])
        n++;
    registry_tables[n] = rows;
}

const char *registry_arith_name(uint32_t arith) {
    static const char *const names[WEFT_ARITHS] = {"-",    "ref", "lane16", "bf16dot",
                                                   "simt", "mma", "s32"};
    return arith < WEFT_ARITHS ? names[arith] : "?";
}

typedef struct {
    char row[32]; /* backend or row name that is asked for; "" means any */
} forced_row;

/* One `op=row` of WEFT_KERNEL; fills *f if it speaks of `op`. */
static weft_status parse_forced(const char *item, size_t n, const char *op, forced_row *f) {
    const char *eq = memchr(item, '=', n);
    char name[32];
    if (!eq || (size_t)(eq - item) >= sizeof name || n - (size_t)(eq - item) - 1 >= sizeof f->row)
        return weft_fail(WEFT_USAGE, "WEFT_KERNEL: '%.*s' is not OP=ROW; try matmul=ref", (int)n,
                         item);
    memcpy(name, item, (size_t)(eq - item));
    name[eq - item] = 0;
    if (ops_find(name) < 0)
        return weft_fail(WEFT_USAGE, "WEFT_KERNEL: no op '%s'; see `weft plan` for names", name);
    if (strcmp(name, op) == 0) {
        size_t len = n - (size_t)(eq - item) - 1;
        memcpy(f->row, eq + 1, len);
        f->row[len] = 0;
    }
    return WEFT_OK;
}

static weft_status read_forced(const char *op, forced_row *f) {
    f->row[0] = 0;
    const char *s = getenv("WEFT_KERNEL");
    while (s && *s) {
        size_t n = strcspn(s, ",");
        if (n)
            WEFT_TRY(parse_forced(s, n, op, f));
        s += n + (s[n] == ',');
    }
    return WEFT_OK;
}

static bool serves(const weft_kernel *k, const device *d, const forced_row *f) {
    bool own = strcmp(k->backend, d->backend) == 0;
    bool host = strcmp(k->backend, "ref") == 0, moves = strcmp(k->backend, "comm") == 0;
    if (!own && !moves && !(host && (d->host_memory || strcmp(d->backend, "emu") == 0)))
        return false;
    if (f->row[0] && strcmp(f->row, k->backend) != 0 && strcmp(f->row, k->name) != 0)
        return false;
    return weft_kernel_fits(k, d->level);
}

/* A backend's own rows come before ref's whatever their rank. */
static int preference(const weft_kernel *k, const device *d) {
    return k->rank + (strcmp(k->backend, d->backend) == 0 ? 1000 : 0);
}

weft_status registry_find(const device *d, weft_op op, const weft_args *a,
                          const weft_kernel **out) {
    forced_row forced;
    WEFT_TRY(registry_load());
    WEFT_TRY(read_forced(weft_op_table[op].name, &forced));
    const weft_kernel *best = NULL;
    for (int t = 0; registry_tables[t]; t++) {
        for (const weft_kernel *k = registry_tables[t]; k->name; k++) {
            if (k->op != op || !serves(k, d, &forced) || (k->ok && !k->ok(a)))
                continue;
            if (!best || preference(k, d) > preference(best, d))
                best = k;
        }
    }
    if (!best) {
        buf text;
        buf_init(&text, 4096);
        ops_print(&text, op, a);
        weft_status s = weft_fail(WEFT_UNSUPPORTED, "%s: no kernel row of backend %s does this%s%s",
                                  text.data, d->backend,
                                  forced.row[0] ? "; WEFT_KERNEL asks for " : "", forced.row);
        buf_fini(&text);
        return s;
    }
    *out = best;
    return WEFT_OK;
}
