/* SPDX-License-Identifier: Apache-2.0
 * comm_fault: faults on demand, so that what is said about them can be tested.
 * WEFT_FAULT=rank=R,at=N,do=WHAT: rank R, at its Nth exchange or the next in which it sends, is
 * killed (kill), stopped (stop) or late (delay:SECONDS), sends too little (count), believes to be
 * elsewhere (order), sends nothing (drop), or, in the next in which it sends numbers, a NaN to
 * each (nan; memory of the host only). Several are joined by ";". epoch=E: after the job's ranks
 * have met again E times; without it, before they ever do. */
#pragma once
#include "host/run/comm.h"

/* Before an exchange of the link: may change what is sent. send[nsend] is the caller's own copy. */
void comm_fault_strike(const comm_link *l, bool in_host_memory, comm_head *head, comm_part *send,
                       int *nsend);
/* Whether a fault is asked for at all. */
bool comm_fault_wanted(void);
