/* SPDX-License-Identifier: Apache-2.0
 * What comm_boot.c (the first meeting, and the news from then on) and comm_regroup.c (who is left
 * meets again) share. */
#pragma once
#include "host/run/comm_boot.h"
#include "host/run/flight_record.h"
#include <pthread.h>

enum { BEAT_MS = 200, HELLO_SECONDS = 2, MEET_TIMEOUTS = 3, GRACE_SECONDS = 2, BYE_SECONDS = 5 };
extern const char boot_magic[8];

typedef enum { NEWS_BEAT, NEWS_FAILED, NEWS_LATE, NEWS_BYE } news_kind;

/* What travels on the connection to rank 0, both ways. */
typedef struct {
    char magic[8];
    int32_t kind, code, rank, about; /* about: the rank a failure speaks of, or -1 */
    int32_t blamed;                  /* that rank is lost, not only the one that noticed */
    uint64_t count, waits, left[FLIGHT_GROUPS], sent[FLIGHT_PEERS], place[FLIGHT_WORDS];
    double now; /* the sender's clock */
    char message[BOOT_MESSAGE_BYTES];
} news;

typedef struct {
    char magic[8];
    int32_t rank, ranks;
    boot_peer self;
} hello;

typedef struct {
    char magic[8];
    char job[16];
    uint8_t cookie[BOOT_COOKIE_BYTES];
    boot_peer peer[COMM_MAX_RANKS];
} welcome;

typedef enum { BOOT_STAYS, BOOT_CLOSES, BOOT_LEAVES } boot_end; /* leaves: without a goodbye */

struct boot {
    int rank, ranks;
    int64_t epoch; /* meetings again before this one */
    double timeout;
    bool outlives; /* the job goes on without ranks that are lost */
    welcome table;
    int fd[COMM_MAX_RANKS]; /* rank 0: to each other; else only [0] */
    bool bye[COMM_MAX_RANKS];
    double heard[COMM_MAX_RANKS], looked;
    double still;                    /* since when all wait for each other, on rank 0 */
    uint64_t collected;              /* places of all ranks then */
    atomic_int away[COMM_MAX_RANKS]; /* whom this rank hears of: gone or silent */
    flight_record *record;
    flight *flight; /* [ranks], the record's; others' as of their last news, on rank 0 */
    pthread_t thread;
    int wake; /* eventfd: something to send, or to stop */
    int door; /* bound, where the others find this rank should they have to meet again; or -1 */
    atomic_int closing, failed, late, meeting; /* closing: boot_end; meeting: again */
    _Atomic double patience; /* seconds that this rank's work may keep it from its next exchange */
    pthread_mutex_t lock;    /* of what follows */
    bool told;               /* the failure has gone out */
    weft_status code;
    int about;
    bool blamed; /* `about` is lost */
    char message[BOOT_MESSAGE_BYTES];
};

/* A boot of `ranks` that has met nobody yet. */
boot *boot_new(int rank, int ranks, double timeout);
/* Once all of its connections are there; on failure it is freed. */
weft_status boot_start(boot *b);
/* Ends at once: the others know, or have been told by others. Connections, but no records of
 * others, go. */
void boot_leave(boot *b);
void boot_free(boot *b);
/* What the others need to know of this process; port: of its data. Opens b's door. */
void boot_describe(boot *b, boot_peer *p, uint16_t port);
weft_status boot_draw_cookie(boot *b);
/* Whether a socket becomes ready before the deadline. */
bool boot_ready(int fd, short what, double deadline);
