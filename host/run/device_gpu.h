/* SPDX-License-Identifier: Apache-2.0
 * What device_cuda.c is compiled with: DEVICE_GPU is cuda or emu, and its functions are
 * device_cuda_open or device_emu_open. */
#pragma once
#include "host/run/device.h"
#include "weft/gpu.h"

#define DEVICE_GPU_NAME__(gpu, name) device_##gpu##_##name
#define DEVICE_GPU_NAME_(gpu, name) DEVICE_GPU_NAME__(gpu, name)
#define DEVICE_GPU_NAME(name) DEVICE_GPU_NAME_(DEVICE_GPU, name)

#define DEVICE_GPU_LOOPS__(gpu, file) weft_##gpu##_loops_##file
#define DEVICE_GPU_LOOPS_(gpu, file) DEVICE_GPU_LOOPS__(gpu, file)
#define DEVICE_GPU_LOOPS(file) DEVICE_GPU_LOOPS_(DEVICE_GPU, file)

extern const weft_gpu_loop DEVICE_GPU_LOOPS(ceiling)[], DEVICE_GPU_LOOPS(ceiling_wgmma)[];

struct comm_link;
/* comm_nccl.c: puts NCCL before `base`, links over memory of the host that its ranks already have;
 * base[0..ranks), those of other processes NULL. link[r] of each; the bases are theirs then, and
 * closed with them, and on failure too. gpu[r]: which GPU rank r works on. */
weft_status device_cuda_nccl(device *d, struct comm_link **base, int ranks, const int *gpu,
                             struct comm_link **link);
weft_status device_emu_nccl(device *d, struct comm_link **base, int ranks, const int *gpu,
                            struct comm_link **link);

/* The stream a kernel's launch is given, without its queue: registry_cuda.c and device_emu.c. */
weft_status device_cuda_stream_new(int threads, weft_cuda_stream **out);
void device_cuda_stream_free(weft_cuda_stream *s);
weft_status device_emu_stream_new(int threads, weft_cuda_stream **out);
void device_emu_stream_free(weft_cuda_stream *s);
