/* SPDX-License-Identifier: Apache-2.0
 * agree: processes that are to be one job compare what they are before any of them reads a
 * weight. */
#pragma once
#include "host/run/comm.h"

enum { AGREE_OWN = 8 };

typedef struct {
    const char *name, *text; /* "model"; texts of any length */
} agree_fact;

/* Whether every rank of the group has the same version, command line, environment and these n (at
 * most AGREE_OWN) facts of the caller's; WEFT_PEER naming both sides. */
weft_status agree(comm *c, const agree_fact *fact, int n);
