/* SPDX-License-Identifier: Apache-2.0
 * What this machine can do at most, measured in the run that reports a share of it: the best of
 * several passes of loops that do nothing else. Each takes about `seconds`. */
#pragma once
#include "host/run/device.h"
#include "weft/kernel.h"

/* Bytes per second read by the stream's threads from a working set of that many bytes, over and
 * over. 0 if there is no memory for it. */
double ceiling_read(weft_stream *s, int cpu_level, int64_t bytes, double seconds);

/* fp32 operations per second of fused multiply-adds (each counts two) at a weft_cpu_level. */
double ceiling_fma(weft_stream *s, int cpu_level, double seconds);

/* The same for pair products of bf16; 0 below WEFT_CPU_AVX512BF16. */
double ceiling_bf16(weft_stream *s, int cpu_level, double seconds);

/* Of a device that has loops: bytes read a second; operations of matrix instructions (bf16
 * products, fp32 sums) and of fp32 multiply-adds. */
typedef struct {
    double read, matrix, fp32;
} ceiling_rates;
/* Over a working set of that many bytes of the device's, about `seconds` each. WEFT_NO_MEMORY: it
 * has not got them; WEFT_DEVICE: a fault. */
weft_status ceiling_gpu(device *d, int64_t bytes, double seconds, ceiling_rates *out);
