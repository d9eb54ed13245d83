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
    w[4] = (uint64_t)p->inside | (uint64_t)p->receives << 1;
    memcpy(&w[FLIGHT_SINCE], &p->since, sizeof p->since);
    memcpy(&w[6], p->tag, sizeof p->tag);
}

static void unpack(const uint64_t w[FLIGHT_WORDS], flight_place *p) {
    *p = (flight_place){.step = (int64_t)w[0],
                        .sequence = w[1],
                        .bytes = w[2],
                        .op = (int32_t)(w[3] >> 32),
                        .group = (int32_t)(uint32_t)w[3],
                        .inside = (w[4] & 1) != 0,
                        .receives = (w[4] & 2) != 0};
    memcpy(&p->since, &w[FLIGHT_SINCE], sizeof p->since);
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
    atomic_store_explicit(&f->beat, w[FLIGHT_SINCE], memory_order_relaxed);
}

enum { PEER_SHIFT = 56 };

static bool is_to(uint64_t sent, int peer) {
    return sent >> PEER_SHIFT == (uint64_t)peer + 1;
}

void flight_sent(flight *f, int peer, uint64_t count) {
    int at = 0;
    while (at < FLIGHT_PEERS - 1 && atomic_load(&f->sent[at]) &&
           !is_to(atomic_load(&f->sent[at]), peer))
        at++;
    atomic_store_explicit(&f->sent[at], ((uint64_t)peer + 1) << PEER_SHIFT | count,
                          memory_order_relaxed);
}

/* How many sends from f's rank to `peer` are done, as far as is known. */
static uint64_t sent_to(const flight *f, int peer) {
    for (int i = 0; i < FLIGHT_PEERS; i++) {
        uint64_t sent = atomic_load_explicit(&f->sent[i], memory_order_relaxed);
        if (is_to(sent, peer))
            return sent & (((uint64_t)1 << PEER_SHIFT) - 1);
    }
    return 0;
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

static uint64_t waits_of(const flight *f) {
    return atomic_load_explicit(&f->waits, memory_order_relaxed);
}

static int lowest(uint64_t ranks) {
    return ranks ? __builtin_ctzll(ranks) : 0;
}

/* Whom r waits for though it has gone on from what r is in: it did not send. -1: nobody. */
static int gone_on(const flight *f, int ranks, int r) {
    flight_place p;
    if (!flight_last(&f[r], 0, &p) || (p.op == WEFT_OP_send && !p.receives) || p.group < 0 ||
        p.group >= FLIGHT_GROUPS)
        return -1;
    for (int k = 0; k < ranks; k++) {
        uint64_t done = p.receives ? sent_to(&f[k], r) : atomic_load(&f[k].left[p.group]);
        if (waits_of(&f[r]) >> k & 1 && done > p.sequence)
            return k;
    }
    return -1;
}

/* All of `circle` wait for each other: whoever has waited longest waits for what has not come. */
static int first_of_circle(const flight *f, int ranks, uint64_t circle) {
    int victim = -1;
    for (int r = 0; r < ranks; r++)
        if (circle >> r & 1 && gone_on(f, ranks, r) >= 0)
            return gone_on(f, ranks, r);
    double since = 0;
    for (int r = 0; r < ranks; r++) {
        flight_place p;
        if (!(circle >> r & 1) || !flight_last(&f[r], 0, &p))
            continue;
        if (victim < 0 || p.since < since) {
            victim = r;
            since = p.since;
        }
    }
    return lowest(victim < 0 ? circle : waits_of(&f[victim]));
}

int flight_culprit(const flight *f, int ranks, int me) {
    uint64_t seen = 0;
    for (int at = me;;) {
        uint64_t waits = waits_of(&f[at]), rest;
        seen |= (uint64_t)1 << at;
        for (int r = 0; r < ranks; r++)
            if (waits >> r & 1 && waits_of(&f[r]) == 0)
                return r;
        rest = waits & ~seen;
        if (!rest)
            return waits ? first_of_circle(f, ranks, seen) : at;
        at = lowest(rest);
    }
}

bool flight_standstill(const flight *f, int ranks, uint64_t *bytes) {
    *bytes = 0;
    for (int r = 0; r < ranks; r++) {
        flight_place p;
        if (!waits_of(&f[r]) || !flight_last(&f[r], 0, &p) || !p.inside)
            return false;
        *bytes = p.bytes > *bytes ? p.bytes : *bytes;
    }
    return true;
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
