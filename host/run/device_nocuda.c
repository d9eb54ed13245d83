/* SPDX-License-Identifier: Apache-2.0
 * A build without CUDA: no device, no rows. */
#include "host/base/err.h"
#include "host/run/device_gpu.h"
#include "host/run/registry.h"

const weft_kernel *registry_tables[] = REGISTRY_TABLES();

weft_status device_cuda_find(device_gpu *out) {
    (void)out;
    return weft_fail(WEFT_DEVICE, "cuda: this build has none (`make WITH_CUDA=1`, with nvcc or "
                                  "after scripts/setup --cuda); use --device cpu");
}

weft_status device_cuda_open(bool dry, device **out) {
    device_gpu none;
    (void)dry, (void)out;
    return device_cuda_find(&none);
}

weft_status device_cuda_nccl(device *d, struct comm_link **base, int ranks, const int *gpu,
                             struct comm_link **link) {
    device_gpu none;
    (void)d, (void)base, (void)ranks, (void)gpu, (void)link;
    return device_cuda_find(&none);
}
