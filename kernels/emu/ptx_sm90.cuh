/* SPDX-License-Identifier: Apache-2.0
 * Twins of kernels/lib/ptx_sm90.cuh. */
#pragma once
#include <ptx.cuh>

namespace WEFT_CU_NS {

inline void stmatrix_x2(void *row, const uint32_t (&r)[2], EMU_AT) {
    ::emu::stmatrix(row, r, 2, false, at);
}
inline void stmatrix_x4(void *row, const uint32_t (&r)[4], EMU_AT) {
    ::emu::stmatrix(row, r, 4, false, at);
}
inline void stmatrix_x4_trans(void *row, const uint32_t (&r)[4], EMU_AT) {
    ::emu::stmatrix(row, r, 4, true, at);
}

} // namespace WEFT_CU_NS
