/* SPDX-License-Identifier: Apache-2.0
 * The tables of rows of a build with CUDA. */
#include "host/run/registry.h"

#define CUDA_(file) weft_cuda_##file,
const weft_kernel *registry_tables[] = REGISTRY_TABLES(WEFT_CU_FILES(CUDA_));
