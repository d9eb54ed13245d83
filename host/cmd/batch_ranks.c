/* SPDX-License-Identifier: Apache-2.0
 * `weft batch` on ranks in processes of their own. */
#include "host/cmd/batch_out.h"
#include "host/cmd/cmd.h"
#include "host/model/engine.h"
#include "host/run/launch.h"

/* Rank 0 may have many answers of an earlier run to read. */
static const double open_seconds = 600;

bool batch_leads(const weft_engine *e) {
    return e->self <= 0;
}

weft_status batch_share(weft_engine *e, void *data, uint64_t n) {
    if (e->self < 0)
        return WEFT_OK;
    return comm_broadcast(&e->rank[e->self].end[WEFT_GROUP_WORLD], 0, data, n, "batch");
}

typedef struct {
    uint64_t input, seed;
    int64_t n_done, n_failed;
    int32_t status, has_done;
} found;

weft_status batch_out_share(batch_out *o, weft_engine *e, weft_status opened, batch_state *s,
                            const char *input, int64_t lines) {
    found f = {s->input, s->seed, o->n_done, o->n_failed, (int32_t)opened, o->done != NULL};
    if (e->self < 0)
        return opened;
    comm_step(e->rank[e->self].link, 0, open_seconds);
    WEFT_TRY(batch_share(e, &f, sizeof f));
    if (e->self == 0 && opened != WEFT_OK)
        return opened;
    if (f.status != WEFT_OK) {
        launch_tell();
        return (weft_status)f.status;
    }
    if (f.input != s->input)
        return weft_fail(WEFT_PEER, "%s: is another file here than on rank 0", input);
    if (e->self > 0) {
        launch_tell(); /* what is wrong with lines, too, is rank 0's to say */
        *o = (batch_out){.lines = lines,
                         .answers = {.fd = -1, .name = "rank 0"},
                         .errors = {.fd = -1, .name = "rank 0"},
                         .n_done = f.n_done,
                         .n_failed = f.n_failed};
    }
    s->seed = f.seed;
    if (!f.has_done)
        return WEFT_OK;
    if (!o->done)
        o->done = mem_alloc(sizeof *o->done * ((size_t)lines + 1));
    return batch_share(e, o->done, sizeof *o->done * ((uint64_t)lines + 1));
}
