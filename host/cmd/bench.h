/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *comm;   /* as --comm */
    const char *device; /* as --device: whose memory is moved */
    int ranks;
    int64_t least, most; /* bytes of an operation; in steps of 4 */
    double timeout;
    bool json;
} bench_comm_args;

/* Times every collective between `ranks` ranks and prints a row each. */
weft_status bench_comm(const bench_comm_args *a);
/* The same over every transport that this machine has, each started as it has to be, with the
 * words that follow `bench`. */
weft_status bench_comm_all(const bench_comm_args *a, int argc, char **argv);
