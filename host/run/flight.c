/* SPDX-License-Identifier: Apache-2.0 */
#include "host/run/flight.h"
#include "host/run/comm.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void pack(const flight_place *p, uint64_t w[FLIGHT_WORDS]) {
    w[0] = (uint64_t)p->step;
    w[1] = p->sequence;
    w[2] = p->bytes;
    w[3] = (uint64_t)(uint32_t)p->op << 32 | (uint32_t)p->group;
    w[4] = p->inside;
    memcpy(&w[5], &p->since, sizeof p->since);
    memcpy(&w[6], p->tag, sizeof p->tag);
}

static void unpack(const uint64_t w[FLIGHT_WORDS], flight_place *p) {
    *p = (flight_place){.step = (int64_t)w[0],
                        .sequence = w[1],
                        .bytes = w[2],
                        .op = (int32_t)(w[3] >> 32),
                        .group = (int32_t)(uint32_t)w[3],
                        .inside = w[4] != 0};
    memcpy(&p->since, &w[5], sizeof p->since);
    memcpy(p->tag, &w[6], sizeof p->tag);
    p->tag[sizeof p->tag - 1] = 0;
}

void flight_note(flight *f, const flight_place *p, bool again) {
    uint64_t w[FLIGHT_WORDS], n = atomic_load_explicit(&f->count, memory_order_relaxed);
    uint64_t at = again && n ? n - 1 : n;
    pack(p, w);
    for (int i = 0; i < FLIGHT_WORDS; i++)
        atomic_store_explicit(&f->place[at % FLIGHT_PLACES][i], w[i], memory_order_relaxed);
    atomic_store_explicit(&f->count, at + 1, memory_order_release);
    atomic_store_explicit(&f->beat, w[5], memory_order_relaxed);
}

bool flight_last(const flight *f, uint64_t back, flight_place *out) {
    uint64_t w[FLIGHT_WORDS], n = atomic_load_explicit(&f->count, memory_order_acquire);
    if (back >= n || back >= FLIGHT_PLACES)
        return false;
    for (int i = 0; i < FLIGHT_WORDS; i++)
        w[i] = atomic_load_explicit(&f->place[(n - 1 - back) % FLIGHT_PLACES][i],
                                    memory_order_relaxed);
    unpack(w, out);
    return true;
}

int flight_culprit(const flight *f, int ranks, int me) {
    uint64_t seen = 0;
    for (int at = me;;) {
        uint64_t waits = atomic_load_explicit(&f[at].waits, memory_order_relaxed), next = 0;
        seen |= (uint64_t)1 << at;
        waits &= ~seen;
        for (int r = ranks - 1; r >= 0; r--) {
            if (!(waits >> r & 1))
                continue;
            if (atomic_load_explicit(&f[r].waits, memory_order_relaxed) == 0)
                return r;
            next = (uint64_t)r;
        }
        if (!waits)
            return at;
        at = (int)next;
    }
}

void flight_text(const flight_place *p, double now, char *out, size_t n) {
    bool known = p->op >= 0 && p->op < WEFT_OP_COUNT;
    double for_s = now > p->since ? now - p->since : 0;
    if (!p->tag[0]) {
        snprintf(out, n, "before its first collective");
        return;
    }
    snprintf(out, n, "%s %s %" PRIu64 " of %s, step %" PRId64 ", %s, %" PRIu64 " bytes, for %.1f s",
             p->inside ? "in" : "behind", known ? weft_op_table[p->op].name : "?", p->sequence,
             comm_group_name(p->group), p->step, p->tag, p->bytes, for_s);
}
