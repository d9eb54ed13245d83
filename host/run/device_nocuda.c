/* SPDX-License-Identifier: Apache-2.0
 * A build without CUDA: no device, no rows. */
#include "host/base/err.h"
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
