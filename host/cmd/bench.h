/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *comm; /* as --comm */
    int ranks;
    int64_t least, most; /* bytes of an operation; in steps of 4 */
    double timeout;
    bool json;
} bench_comm_args;

/* Times every collective between `ranks` ranks and prints a row each. */
weft_status bench_comm(const bench_comm_args *a);
