/* SPDX-License-Identifier: Apache-2.0
 * flight: what a rank is doing, written by the rank as it goes and read by whoever wants to know
 * why it is late. Words are atomic, so a reader never disturbs the writer; a record read in the
 * middle of a change may mix two places, which a report can bear. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FLIGHT_TAG_BYTES = 24,
    FLIGHT_PLACES = 32,
    FLIGHT_WORDS = 9,
    FLIGHT_SINCE = 5,
    FLIGHT_GROUPS = 4,
    FLIGHT_PEERS = 2 /* a stage sends to the one behind it and to the one before it */
};

/* Where a rank is: in a collective, or behind its last one. */
typedef struct {
    int64_t step;          /* of the engine or trainer */
    uint64_t sequence;     /* of the collective in its group */
    uint64_t bytes;        /* to and from others */
    int32_t op, group;     /* weft_op, WEFT_GROUP_* */
    bool inside, receives; /* receives: of a send, the other end */
    double since;          /* clock_seconds() of entering or leaving it */
    char tag[FLIGHT_TAG_BYTES];
} flight_place;

typedef struct {
    _Atomic uint64_t count; /* places noted so far; the last FLIGHT_PLACES are kept */
    _Atomic uint64_t beat;  /* clock_seconds() as bits: when the process last showed life */
    _Atomic uint64_t waits; /* a bit for each rank it waits for */
    _Atomic uint64_t left[FLIGHT_GROUPS]; /* collectives of each group, sends apart */
    _Atomic uint64_t sent[FLIGHT_PEERS];  /* sends to the last peers: who, and how many */
    _Atomic uint64_t place[FLIGHT_PLACES][FLIGHT_WORDS];
} flight;

/* Notes a new place, or that the present one changed (`again`). */
void flight_note(flight *f, const flight_place *p, bool again);
/* So many sends to `peer` are done. */
void flight_sent(flight *f, int peer, uint64_t count);
/* The place `back` before the last; false: there is none. */
bool flight_last(const flight *f, uint64_t back, flight_place *out);
/* Who keeps rank `me` waiting: following who waits for whom, the first that waits for nobody. Where
 * all wait in a circle, the one that has left behind what another still waits in, or,
 * if there is none, whom the one that has waited longest waits for. f[ranks], at most 64. */
int flight_culprit(const flight *f, int ranks, int me);
/* Whether every rank waits in a collective for another. *bytes: the most that one of them moves. */
bool flight_standstill(const flight *f, int ranks, uint64_t *bytes);
/* "in all_gather 12 of tp, step 7, L3.attn.o, 4096 bytes, for 2.1 s". */
void flight_text(const flight_place *p, double now, char *out, size_t n);
