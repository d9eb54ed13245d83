/* SPDX-License-Identifier: Apache-2.0
 * What this machine can do at most, measured: speeds are reported as shares of it. */
#pragma once
#include <stdint.h>

/* Best rate in 1e9 bytes a second at which `threads` threads read a working set of `bytes` bytes (more
 * than 512 MiB is measured as 512 MiB), over about 0.3 s; 0 if memory or threads cannot be had. */
double ceiling_read_gbs(int threads, uint64_t bytes);
/* Best rate in 1e9 fp32 operations a second (a fused multiply-add is two) of `threads` threads with the
 * instructions of a weft_cpu_level, from registers, over about 0.2 s. */
double ceiling_fma_gflops(int threads, int level);
/* The same for pairs of bf16 (VDPBF16PS); 0 where the level lacks them. */
double ceiling_bf16_gflops(int threads, int level);
