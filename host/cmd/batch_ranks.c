/* SPDX-License-Identifier: Apache-2.0
 * `weft batch` on ranks in processes of their own. */
#include "host/base/err.h"
#include "host/cmd/batch_out.h"
#include "host/model/engine.h"
#include "host/run/launch.h"

/* Rank 0 may have many answers of an earlier run to read. */
static const double open_seconds = 600;

typedef struct {
    uint64_t seed;
    int32_t status, stop;
} found;

weft_status batch_lines_failed(void) {
    launch_tell();
    return weft_fail(WEFT_BAD_FILE, "lines failed; rank 0 says which");
}

bool batch_leads(const weft_engine *e) {
    return e->replica == 0 && e->self <= 0;
}

weft_status batch_share_opened(weft_engine *e, weft_status opened, uint64_t *seed, int *stop) {
    found f = {*seed, (int32_t)opened, *stop};
    if (e->self < 0)
        return opened;
    engine_rank *r = &e->rank[e->self];
    comm_step(r->link, 0, open_seconds);
    WEFT_TRY(comm_broadcast(&r->all, 0, &f, sizeof f, "batch"));
    if (batch_leads(e))
        return opened;
    if (f.status != WEFT_OK)
        launch_tell(); /* what is wrong with files is rank 0's to say */
    *seed = f.seed;
    *stop = f.stop;
    return (weft_status)f.status;
}
