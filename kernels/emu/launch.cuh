/* SPDX-License-Identifier: Apache-2.0
 * The frame of a .cu file under the emulator: the twin of kernels/lib/launch.cuh. */
#pragma once
#include "kernels/emu/emu.h"
#include "weft/math.h"

#define WEFT_CU_BACKEND "emu"

/* The last parameter of functions of kernels/lib, and how they hand it on. */
#define WEFT_AT , EMU_AT
#define WEFT_PASS , at
#define WEFT_PASS_ALONE at

#define WEFT_SMEM(type, name) \
    type &name = *(type *)::emu::shared_bytes(sizeof(type), alignof(type), \
                                              ::emu::site{__FILE__, __LINE__})

namespace WEFT_CU_NS {

/* Those of an H200. */
inline int launch_processors() {
    return 132;
}
/* SMs that a loop of ceiling.cu fills: an emulated one is as fast as 132. */
inline int launch_crowd() {
    return 1;
}
inline size_t launch_most_shared() {
    return 227 << 10;
}

inline void grid_sync(EMU_AT) {
    ::emu::barrier(::emu::BARRIER_GRID, 0, at);
}

} // namespace WEFT_CU_NS

#define WEFT_LAUNCH(step, to, kernel, grid, block, shared, ...) \
    ::emu::launch_of(::emu::launch_spec{step, to, #kernel, grid, block, dim3(), shared, false, \
                                        NULL, NULL, ::emu::kernel_name<(kernel)>(), 0}, \
                     (kernel))(__VA_ARGS__)
#define WEFT_LAUNCH_COOPERATIVE(step, to, kernel, grid, block, shared, ...) \
    ::emu::launch_of(::emu::launch_spec{step, to, #kernel, grid, block, dim3(), shared, true, \
                                        NULL, NULL, ::emu::kernel_name<(kernel)>(), 0}, \
                     (kernel))(__VA_ARGS__)

/* cluster: blocks of one, which reach each other's shared memory (ptx_sm90.cuh). */
#define WEFT_LAUNCH_CLUSTER(step, to, kernel, grid, block, cluster, shared, ...) \
    ::emu::launch_of(::emu::launch_spec{step, to, #kernel, grid, block, cluster, shared, false, \
                                        NULL, NULL, ::emu::kernel_name<(kernel)>(), 0}, \
                     (kernel))(__VA_ARGS__)

#include "kernels/lib/row.h"
