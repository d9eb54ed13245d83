/* SPDX-License-Identifier: Apache-2.0
 * What only a build with CUDA has: its rows, its streams. */
#include "host/base/mem.h"
#include "host/run/device_gpu.h"
#include "host/run/registry.h"

#define CUDA_(file) weft_cuda_##file,
const weft_kernel *registry_tables[] = REGISTRY_TABLES(WEFT_CU_FILES(CUDA_));

weft_status device_cuda_stream_new(int threads, weft_cuda_stream **out) {
    (void)threads;
    *out = mem_alloc(sizeof **out);
    return WEFT_OK;
}

void device_cuda_stream_free(weft_cuda_stream *s) {
    mem_free(s);
}
