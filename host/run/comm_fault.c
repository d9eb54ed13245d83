/* SPDX-License-Identifier: Apache-2.0 */
#include "host/run/comm_fault.h"
#include "host/base/mem.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_FAULTS = 4 };

typedef struct {
    long rank, at, epoch;
    char what[16];
    double seconds;
    atomic_bool over;
} fault;

static fault faults[MOST_FAULTS];
static int nfaults;

static bool read_one(const char *text, fault *f) {
    const char *rank = strstr(text, "rank="), *at = strstr(text, "at="),
               *what = strstr(text, "do="), *epoch = strstr(text, "epoch="),
               *colon = strchr(text, ':');
    if (!rank || !at || !what || sscanf(what, "do=%15[a-z]", f->what) != 1)
        return false;
    f->rank = strtol(rank + 5, NULL, 10);
    f->at = strtol(at + 3, NULL, 10);
    f->epoch = epoch ? strtol(epoch + 6, NULL, 10) : 0;
    f->seconds = colon ? strtod(colon + 1, NULL) : 0;
    return true;
}

static void read_faults(void) {
    const char *text = getenv("WEFT_FAULT");
    char one[128];
    while (text && *text && nfaults < MOST_FAULTS) {
        size_t n = strcspn(text, ";");
        snprintf(one, sizeof one, "%.*s", (int)n, text);
        nfaults += read_one(one, &faults[nfaults]);
        text += n + (text[n] == ';');
    }
}

bool comm_fault_wanted(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_faults);
    return nfaults > 0;
}

static void send_too_little(comm_part *send, int nsend) {
    for (int i = 0; i < nsend; i++)
        for (int d = 0; d < WEFT_DIMS; d++)
            send[i].t.shape[d] = 1;
}

/* Copies, so that the rank's own numbers stay; they are never freed, since receivers read them. */
static void *spoilt[COMM_MAX_RANKS];

static bool has_numbers(const comm_part *send, int nsend) {
    return nsend > 0 && (send->t.dtype == WEFT_F32 || send->t.dtype == WEFT_BF16) &&
           weft_tensor_count(&send->t) > 0;
}

static void spoil(comm_part *send, int nsend) {
    for (int i = 0; i < nsend; i++) {
        weft_tensor t = weft_tensor_make(send[i].t.dtype, send[i].t.ndim, send[i].t.shape);
        size_t bytes = (size_t)comm_part_bytes(&send[i]), one = t.dtype == WEFT_F32 ? 4 : 2;
        t.data = spoilt[i] = mem_alloc(bytes);
        comm_copy(&t, &send[i].t);
        memset(t.data, 0xff, one);
        memset((char *)t.data + bytes - one, 0xff, one); /* rows at the end may be padding */
        send[i].t = t;
    }
}

static void strike(const fault *f, comm_head *head, comm_part *send, int *nsend) {
    if (strcmp(f->what, "kill") == 0)
        raise(SIGKILL);
    else if (strcmp(f->what, "stop") == 0)
        raise(SIGSTOP);
    else if (strcmp(f->what, "delay") == 0)
        usleep((useconds_t)(f->seconds * 1e6));
    else if (strcmp(f->what, "count") == 0)
        send_too_little(send, *nsend);
    else if (strcmp(f->what, "order") == 0)
        snprintf(head->tag, sizeof head->tag, "elsewhere");
    else if (strcmp(f->what, "drop") == 0)
        *nsend = 0;
    else if (strcmp(f->what, "nan") == 0)
        spoil(send, *nsend);
}

void comm_fault_strike(const comm_link *l, bool in_host_memory, comm_head *head, comm_part *send,
                       int *nsend) {
    for (int i = 0; i < nfaults; i++) {
        fault *f = &faults[i];
        if (*nsend == 0)
            return;
        if (strcmp(f->what, "nan") == 0 && !(in_host_memory && has_numbers(send, *nsend)))
            continue;
        if (l->rank == f->rank && l->epoch == f->epoch && l->calls >= (uint64_t)f->at &&
            !atomic_exchange(&f->over, true))
            strike(f, head, send, nsend);
    }
}
