/* SPDX-License-Identifier: Apache-2.0
 * flight_record: flights in shared memory under the job's name, so that another process can read
 * them while the ranks hang, and after they were killed. A process that ends by itself takes its
 * record away. */
#pragma once
#include "host/run/flight.h"
#include <sys/types.h>

enum { FLIGHT_JOB_BYTES = 16, FLIGHT_HOST_BYTES = 64, FLIGHT_MAX_RANKS = 64 };

typedef struct {
    char magic[8];
    char job[FLIGHT_JOB_BYTES], host[FLIGHT_HOST_BYTES];
    int64_t epoch;                   /* how often the job's ranks have met again */
    int32_t pid, rank, ranks;        /* rank -1: every rank is a thread of this process */
    int32_t heap;                    /* of the process's own memory */
    flight flight[FLIGHT_MAX_RANKS]; /* its own; of others what it has heard */
} flight_record;

/* The record of this process, job "" for one that nobody need read; memory of its own where shared
 * memory cannot be had. */
flight_record *flight_record_open(const char *job, int64_t epoch, int rank, int ranks);
void flight_record_close(flight_record *r); /* NULL: nothing */
/* Another process's record, to read; NULL: there is none, or it is not one. */
flight_record *flight_record_read(const char *file);
void flight_record_forget(flight_record *r);
/* Takes the records of a job (NULL: of any that began an hour ago) away whose processes are gone,
 * and with `all` the others too. */
void flight_record_sweep(const char *job, bool all);
/* 'R' runs or sleeps, 'T' stopped, 'X' gone. */
char flight_process(pid_t pid);
void flight_new_job(char job[FLIGHT_JOB_BYTES]); /* a name: WEFT_JOB, or eight random digits */
#define FLIGHT_FOLDER "/dev/shm"
#define FLIGHT_PREFIX "weft-"
