/* SPDX-License-Identifier: Apache-2.0 */
#include "host/run/comm_peer.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "weft/ops.h"

enum { STOP_AT = RANK_NORM_ROWS * (RANK_NORM_RANKS + 1) * 4 };

weft_status comm_peers_open(device *dev, int n, const int *gpu, comm_peers **out) {
    comm_peers *p = mem_alloc(sizeof *p);
    weft_status s = WEFT_OK;
    p->dev = dev;
    for (; p->n < n && s == WEFT_OK; p->n++) {
        void **at = &p->window[p->n];
        p->gpu[p->n] = gpu[p->n];
        s = dev->use(dev, gpu[p->n], false);
        if (s == WEFT_OK)
            s = dev->alloc(dev, RANK_NORM_WINDOW, "window", at);
        if (s == WEFT_OK)
            s = dev->zero(dev, NULL, *at, RANK_NORM_DATA);
    }
    if (s != WEFT_OK) {
        comm_peers_close(p);
        return s;
    }
    *out = p;
    return WEFT_OK;
}

weft_status comm_peers_table(comm_peers *p, int i, int group, int n, const int *member,
                             void **out) {
    device *d = p->dev;
    uint64_t address[COMM_MAX_RANKS], bytes = sizeof *address * COMM_MAX_RANKS;
    if (!p->table[i][group]) {
        for (int k = 0; k < n; k++)
            address[k] = (uint64_t)(uintptr_t)p->window[member[k]];
        WEFT_TRY(d->use(d, p->gpu[i], false));
        WEFT_TRY(d->alloc(d, bytes, "windows", &p->table[i][group]));
        WEFT_TRY(d->copy(d, NULL, p->table[i][group], address, sizeof *address * (uint64_t)n,
                         DEVICE_TO));
    }
    *out = p->table[i][group];
    return WEFT_OK;
}

void comm_peers_stop(comm_peers *p) {
    static const uint32_t one = 1;
    for (int i = 0; p && i < p->n; i++)
        if (p->dev->use(p->dev, p->gpu[i], false) == WEFT_OK)
            p->dev->copy(p->dev, NULL, (char *)p->window[i] + STOP_AT, &one, sizeof one, DEVICE_TO);
}

void comm_peers_close(comm_peers *p) {
    if (!p)
        return;
    for (int i = 0; i < p->n; i++) {
        p->dev->use(p->dev, p->gpu[i], false);
        p->dev->release(p->dev, p->window[i], RANK_NORM_WINDOW);
        for (int g = 0; g < WEFT_GROUPS; g++)
            p->dev->release(p->dev, p->table[i][g], sizeof(uint64_t) * COMM_MAX_RANKS);
    }
    mem_free(p);
}
