/* SPDX-License-Identifier: Apache-2.0
 * Wrappers of kernels/lib that no kernel uses yet, so that nvcc has seen them and the gate finds
 * their instructions. Compiled for its self-test and never run. */
#include <ptx_sm90.cuh>

namespace WEFT_CU_NS {

struct wrappers_smem {
    __align__(16) uint32_t own[64];
    float sum;
    uint4 wide;
};

__global__ void cluster_k(uint32_t *out, float *sum, uint4 *wide) {
    WEFT_SMEM(wrappers_smem, s);
    unsigned t = threadIdx.x, next = (cluster_rank() + 1) % cluster_size();
    s.own[t] = t;
    cluster_sync();
    out[t] = ld_cluster(&s.own[t], next);
    *sum = ld_cluster(&s.sum, next);
    *wide = ld_cluster(&s.wide, next);
    st_cluster(&s.own[t], next, t);
    st_cluster(&s.sum, next, 1.0f);
    st_cluster(&s.wide, next, make_uint4(t, t, t, t));
    cluster_sync();
}

__global__ void clock_k(long long *out) {
    out[0] = clock64();
    out[1] = (long long)globaltimer();
    out[2] = clock();
}

void launch(const weft_step *step, weft_stream *to, uint32_t *out, float *sum, uint4 *wide);
void launch(const weft_step *step, weft_stream *to, uint32_t *out, float *sum, uint4 *wide) {
    WEFT_LAUNCH_CLUSTER(step, to, cluster_k, 16, 64, 8, sizeof(wrappers_smem), out, sum, wide);
}

} // namespace WEFT_CU_NS
