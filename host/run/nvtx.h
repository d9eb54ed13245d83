/* SPDX-License-Identifier: Apache-2.0
 * nvtx: ranges for profilers (Nsight Systems and Compute), named after steps. A profiler names its
 * library in NVTX_INJECTION64_PATH (or preloads it); without one a range costs a test. */
#pragma once

void nvtx_push(const char *name); /* of this thread, nested */
void nvtx_pop(void);
