/* SPDX-License-Identifier: Apache-2.0 */
#include "host/train/suspect.h"
#include "host/base/err.h"
#include "host/base/mem.h"

/* Who sent NaN without having been sent any, if it is one rank. */
static comm_nan origin_of(const comm_nan *all, int ranks) {
    comm_nan found = {.from = -1};
    for (int r = 0; r < ranks; r++) {
        const comm_nan *x = &all[r];
        if (x->from < 0 || !comm_nan_was_first(x, r, &all[x->from]))
            continue;
        if (found.from >= 0 && found.from != x->from)
            return (comm_nan){.from = -1};
        found = *x;
    }
    return found;
}

weft_status suspect_ask(comm *ends, bool finite, suspect *out) {
    char mine = (char)(finite && ends->link->nan.from < 0), all[COMM_MAX_RANKS];
    WEFT_TRY(comm_collect(ends, &mine, all, sizeof mine, "finite"));
    *out = (suspect){.finite = true, .first = {.from = -1}};
    for (int r = 0; r < ends->ranks; r++)
        out->finite &= all[r] != 0;
    if (out->finite)
        return WEFT_OK;
    comm_nan own = ends->link->nan, *nan = mem_alloc(sizeof *nan * (size_t)ends->ranks);
    weft_status s = comm_collect(ends, &own, nan, sizeof own, "suspects");
    if (s == WEFT_OK)
        out->first = origin_of(nan, ends->ranks);
    mem_free(nan);
    return s;
}

weft_status suspect_accuse(comm_link *l, const comm_nan *first, const char *why) {
    char where[160];
    comm_head_text(&first->head, where, sizeof where);
    weft_fail(WEFT_PEER, "sent NaN in %s, step %lld%s", where, (long long)l->step, why);
    comm_accuse(l, first->from);
    return comm_status(l);
}

weft_status suspect_none(comm_link *l) {
    return l && l->watched && l->nan.from >= 0 ? suspect_accuse(l, &l->nan, "") : WEFT_OK;
}
