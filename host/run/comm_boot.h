/* SPDX-License-Identifier: Apache-2.0
 * comm_boot: how ranks in processes of their own find each other, and the news they have of each
 * other from then on. Everyone keeps one connection to rank 0. It carries signs of life and where
 * each rank is, and, once, how the job failed; so a rank that is killed, stopped or late is named
 * to all within the timeout, whatever transport the data takes. */
#pragma once
#include "host/run/comm.h"
#include "host/run/launch.h"
#include <sys/socket.h>

enum { BOOT_HOST_BYTES = 64, BOOT_COOKIE_BYTES = 16, BOOT_MESSAGE_BYTES = 1024 };

typedef struct {
    char host[BOOT_HOST_BYTES];
    int32_t pid;
    uint16_t port; /* where its data arrives; 0: nowhere */
    uint16_t door; /* where it can be found should the job have to meet again; 0: it ends then */
    struct sockaddr_storage address;
    uint32_t address_bytes;
} boot_peer;

typedef struct boot boot;

/* Returns when every rank is there. listener: this rank's data socket, or -1. Garbage on the port
 * is turned away. WEFT_PEER names the ranks that are missing, or that disagree on how many there
 * are; WEFT_USAGE an address that cannot be. */
weft_status boot_open(const launch *l, double timeout, int listener, boot **out);
void boot_close(boot *b); /* says goodbye first; NULL: nothing */

const boot_peer *boot_peers(const boot *b); /* [ranks] */
const uint8_t *boot_cookie(const boot *b);  /* a secret of the job, BOOT_COOKIE_BYTES */
const char *boot_job(const boot *b);        /* its name: 8 characters */
int64_t boot_epoch(const boot *b);          /* how often its ranks have met again */
flight *boot_flight(boot *b);               /* this rank's */

/* WEFT_OK, or how the job failed. */
weft_status boot_status(boot *b);
/* Rank `rank` did wrong (err_message); everybody hears of it. */
void boot_accuse(boot *b, int rank);
/* The rank that the failure blames; -1: none did wrong alone, or there is no failure. */
int boot_blamed(boot *b);
/* This rank's work may keep it from its next exchange for so many seconds. */
void boot_expect(boot *b, double seconds);
/* This rank failed with err_message(); everybody hears of it. The first failure counts. */
void boot_fail(boot *b, weft_status code);
/* This rank has waited long enough: rank 0 says for whom. Returns the verdict. */
weft_status boot_late(boot *b);
/* The data connection to a rank broke: it is most likely gone. Returns the verdict. */
weft_status boot_lost(boot *b, int rank);

/* ---- Meeting again ---- */

/* Who decides what is done with those that are left. */
typedef struct {
    void *ctx;
    /* How many of so many ranks can go on. */
    int (*fit)(void *ctx, int ranks);
    /* Takes epoch `epoch` for this process and those with it; WEFT_PEER: others have it, and this
     * one is to end. */
    weft_status (*claim)(void *ctx, int64_t epoch);
    /* WEFT_PEER where somebody has taken it. */
    weft_status (*look)(void *ctx, int64_t epoch);
    /* Told to the rank that leads of each that did not come, but for the one that is blamed. */
    void (*lost)(void *ctx, int rank, const char *host);
    double patience; /* seconds that a rank of which nothing is heard may be at work */
} boot_rules;

/* After a failure: whoever is left meets at the door of the lowest rank that is. In the new epoch
 * ranks are numbered anew in their old order; as many as fit stay. *b is the new boot, or NULL:
 * this rank is left over. *ranks: of the new epoch, *rank: this one's, or -1. WEFT_PEER:
 * the others have gone on without it. port: of this rank's data. */
weft_status boot_regroup(boot **b, uint16_t port, const boot_rules *rules, int *rank, int *ranks);

/* A TCP socket that listens on every address at `port` (0: any), or -1. */
int boot_listen(uint16_t port, uint16_t *got);
/* Reads or writes all of n bytes before the deadline. */
bool boot_read(int fd, void *p, size_t n, double deadline);
bool boot_write(int fd, const void *p, size_t n, double deadline);
/* Connects, again and again until the deadline; -1: nobody there. */
int boot_connect(const struct sockaddr *a, socklen_t n, double deadline);
