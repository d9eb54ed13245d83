/* SPDX-License-Identifier: Apache-2.0
 * Offsets for activations: largest first, each into the lowest gap that is free for its whole
 * lifetime (greedy by size; Pisarchyk and Lee, "Efficient memory management for deep neural net
 * inference", 2020). */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/plan.h"
#include <stdlib.h>

enum { ALIGN = 64, RUNS = 2 /* of lane COMM, beside which what it uses stays */ };

static uint64_t padded(uint64_t n) {
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Steps of lane COMM come behind its own of before, and wait for those of COMPUTE anyway. */
static bool overlap_in_time(const weft_value *a, const weft_value *b) {
    if (a->first > b->first)
        return overlap_in_time(b, a);
    return b->first <= (b->lane == WEFT_LANE_COMM ? a->last : a->until);
}

/* Where lane COMM has begun `times` more behind step i: the end, if it never does. */
static uint32_t begins_again(const weft_plan *p, uint32_t i, int times) {
    for (i++; i < (uint32_t)p->nstep; i++)
        if (p->step[i].lane == WEFT_LANE_COMM && p->step[i - 1].lane != WEFT_LANE_COMM &&
            --times == 0)
            break;
    return i;
}

static void set_until(const weft_plan *p, weft_value *v) {
    uint32_t end = v->comm ? begins_again(p, v->comm - 1, RUNS) : 0;
    v->until = end > v->last ? end : v->last;
}

/* Larger first; equal sizes by id, so that the layout is a function of the plan alone. */
static bool before(const weft_plan *p, int a, int b) {
    uint64_t na = p->value[a].bytes, nb = p->value[b].bytes;
    return na != nb ? na > nb : a < b;
}

static int collect(const weft_plan *p, int *order) {
    int n = 0;
    for (int i = 1; i < p->nvalue; i++)
        if (p->value[i].space == WEFT_SPACE_ACT && p->value[i].first != UINT32_MAX)
            order[n++] = i;
    return n;
}

/* Placed values that are alive with v, kept in ascending offset order in `busy`. */
static int alive_with(const weft_plan *p, const weft_value *v, const int *placed, int n,
                      const weft_value **busy) {
    int m = 0;
    for (int i = 0; i < n; i++) {
        const weft_value *o = &p->value[placed[i]];
        if (!overlap_in_time(o, v))
            continue;
        int at = m++;
        for (; at > 0 && busy[at - 1]->off > o->off; at--)
            busy[at] = busy[at - 1];
        busy[at] = o;
    }
    return m;
}

static int64_t lowest_gap(const weft_value *v, const weft_value *const *busy, int n) {
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (at + (int64_t)padded(v->bytes) <= busy[i]->off)
            return at;
        int64_t end = busy[i]->off + (int64_t)padded(busy[i]->bytes);
        at = end > at ? end : at;
    }
    return at;
}

void plan_mem_layout(weft_plan *p) {
    int *order = mem_alloc(sizeof(int) * (size_t)p->nvalue);
    const weft_value **busy = mem_alloc(sizeof *busy * (size_t)p->nvalue);
    int n = collect(p, order);
    for (int i = 0; i < n; i++)
        set_until(p, &p->value[order[i]]);
    for (int i = 1; i < n; i++) { /* insertion sort: stable and short */
        int v = order[i], at = i;
        for (; at > 0 && before(p, v, order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = v;
    }
    uint64_t total = 0;
    for (int i = 0; i < n; i++) {
        weft_value *v = &p->value[order[i]];
        v->off = lowest_gap(v, busy, alive_with(p, v, order, i, busy));
        uint64_t end = (uint64_t)v->off + padded(v->bytes);
        total = end > total ? end : total;
    }
    p->space_bytes[WEFT_SPACE_ACT] = total;
    mem_free(busy);
    mem_free(order);
}
