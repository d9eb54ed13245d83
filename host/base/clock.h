/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <stdint.h>

double clock_seconds(void);    /* monotonic */
int64_t clock_rss_bytes(void); /* peak resident set of this process */
