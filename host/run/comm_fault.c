/* SPDX-License-Identifier: Apache-2.0 */
#include "host/run/comm_fault.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    int rank;
    long at;
    char what[16];
    double seconds;
    bool over;
} fault = {.rank = -1};

static void read_fault(void) {
    const char *text = getenv("WEFT_FAULT");
    int rank;
    long at;
    char what[16] = "";
    if (!text || sscanf(text, "rank=%d,at=%ld,do=%15[a-z]", &rank, &at, what) != 3)
        return;
    const char *colon = strchr(text, ':');
    fault.seconds = colon ? strtod(colon + 1, NULL) : 0;
    memcpy(fault.what, what, sizeof what);
    fault.rank = rank;
    fault.at = at;
}

bool comm_fault_wanted(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_fault);
    return fault.rank >= 0;
}

static void send_too_little(comm_part *send, int nsend) {
    for (int i = 0; i < nsend; i++)
        for (int d = 0; d < WEFT_DIMS; d++)
            send[i].t.shape[d] = 1;
}

void comm_fault_strike(int rank, uint64_t at, comm_head *head, comm_part *send, int *nsend) {
    if (rank != fault.rank || at < (uint64_t)fault.at || fault.over || *nsend == 0)
        return;
    fault.over = true;
    if (strcmp(fault.what, "kill") == 0)
        raise(SIGKILL);
    else if (strcmp(fault.what, "stop") == 0)
        raise(SIGSTOP);
    else if (strcmp(fault.what, "delay") == 0)
        usleep((useconds_t)(fault.seconds * 1e6));
    else if (strcmp(fault.what, "count") == 0)
        send_too_little(send, *nsend);
    else if (strcmp(fault.what, "order") == 0)
        snprintf(head->tag, sizeof head->tag, "elsewhere");
    else if (strcmp(fault.what, "drop") == 0)
        *nsend = 0;
}
