/* SPDX-License-Identifier: Apache-2.0
 * The frame of a .cu file under nvcc: launching, shared memory, rows. kernels/emu/launch.cuh is its
 * twin; the include path chooses. A file's body sits in namespace WEFT_CU_NS, so that one binary
 * can hold both. */
#pragma once
#include "weft/gpu.h"
#include "weft/math.h"
#include "weft/step.h"
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#define WEFT_CU_BACKEND "cuda"

/* The line of the caller, which the emulator's messages name: empty on a GPU. */
#define WEFT_AT
#define WEFT_PASS
#define WEFT_PASS_ALONE

/* All shared memory of a kernel is one struct. */
#define WEFT_SMEM(type, name) \
    extern __shared__ __align__(1024) unsigned char weft_smem_[]; \
    type &name = *reinterpret_cast<type *>(weft_smem_)

namespace WEFT_CU_NS {

static inline cudaStream_t launch_stream(weft_stream *s) {
    return (cudaStream_t)((weft_cuda_stream *)s)->stream;
}

static inline void launch_note(const weft_step *step, weft_stream *s, cudaError_t e) {
    weft_cuda_stream *c = (weft_cuda_stream *)s;
    if (e == cudaSuccess || c->error)
        return;
    c->error = (int)e;
    c->failed = step;
}

inline int launch_attribute(cudaDeviceAttr what) {
    int device = 0, n = 0;
    return cudaGetDevice(&device) || cudaDeviceGetAttribute(&n, what, device) ? 0 : n;
}

/* SMs of the device that is launched on, and the most shared memory of a block; never 0. */
inline int launch_processors() {
    int n = launch_attribute(cudaDevAttrMultiProcessorCount);
    return n > 0 ? n : 1;
}
/* SMs that a loop of ceiling.cu fills. */
inline int launch_crowd() {
    return launch_processors();
}
inline size_t launch_most_shared() {
    int n = launch_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    return n > 0 ? (size_t)n : 48 << 10;
}

/* More than 48 KiB of shared memory must be asked for. */
template <class K>
static void launch_prepare(const weft_step *step, weft_stream *s, K *kernel, size_t shared) {
    if (shared > 48 << 10)
        launch_note(
            step, s,
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
}

template <class... P>
static void launch_cooperative(const weft_step *step, weft_stream *s, void (*kernel)(P...),
                               dim3 grid, dim3 block, size_t shared, P... args) {
    void *list[] = {(void *)&args...};
    launch_prepare(step, s, kernel, shared);
    launch_note(step, s,
                cudaLaunchCooperativeKernel((const void *)kernel, grid, block, list, shared,
                                            launch_stream(s)));
}

template <class... P, class... A>
static void launch_cluster(const weft_step *step, weft_stream *s, void (*kernel)(P...), dim3 grid,
                           dim3 block, dim3 cluster, size_t shared, const A &...args) {
    cudaLaunchAttribute shape = {};
    shape.id = cudaLaunchAttributeClusterDimension;
    shape.val.clusterDim.x = cluster.x;
    shape.val.clusterDim.y = cluster.y;
    shape.val.clusterDim.z = cluster.z;
    cudaLaunchConfig_t how = {grid, block, shared, launch_stream(s), &shape, 1};
    launch_prepare(step, s, kernel, shared);
    launch_note(step, s, cudaLaunchKernelEx(&how, kernel, P(args)...));
}

__device__ static inline void grid_sync() {
    cooperative_groups::this_grid().sync();
}

} // namespace WEFT_CU_NS

/* step: whose operands the kernel touches. kernel: in parentheses if it has commas. */
#define WEFT_LAUNCH(step, to, kernel, grid, block, shared, ...) \
    do { \
        WEFT_CU_NS::launch_prepare(step, to, kernel, shared); \
        kernel<<<grid, block, shared, WEFT_CU_NS::launch_stream(to)>>>(__VA_ARGS__); \
        WEFT_CU_NS::launch_note(step, to, cudaGetLastError()); \
    } while (0)

/* All blocks are resident at once, so that grid_sync works. */
#define WEFT_LAUNCH_COOPERATIVE(step, to, kernel, grid, block, shared, ...) \
    do { \
        WEFT_CU_NS::launch_cooperative(step, to, kernel, grid, block, shared, __VA_ARGS__); \
    } while (0)

/* cluster: blocks of one, which reach each other's shared memory (ptx_sm90.cuh). */
#define WEFT_LAUNCH_CLUSTER(step, to, kernel, grid, block, cluster, shared, ...) \
    do { \
        WEFT_CU_NS::launch_cluster(step, to, kernel, grid, block, cluster, shared, __VA_ARGS__); \
    } while (0)

#include "kernels/lib/row.h"
