/* SPDX-License-Identifier: Apache-2.0
 * PTX by name, what sm_90 adds. Twins in kernels/emu/ptx_sm90.cuh. */
#pragma once
#include <ptx.cuh>

namespace WEFT_CU_NS {

/* ---- Warp-level Matrix Store Instruction: stmatrix ---- */

__device__ __forceinline__ void stmatrix_x2(void *row, const uint32_t (&r)[2]) {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
        "r"(r[0]), "r"(r[1])
        : "memory");
}
__device__ __forceinline__ void stmatrix_x4(void *row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
__device__ __forceinline__ void stmatrix_x4_trans(void *row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

} // namespace WEFT_CU_NS
