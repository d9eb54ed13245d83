/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include "weft/status.h"

/* Prints where the ranks of a job on this host are ("any": of the first there is), and takes away
 * the records of processes that are gone. WEFT_USAGE: there is none. */
weft_status doctor_job(const char *job);
