/* SPDX-License-Identifier: Apache-2.0
 * Kernels that scripts/sass-gate must object to, each in one way; sound_k is the one it must
 * not. Compiled for the gate's self-test and never run. */
#include <stdint.h>

__global__ void __launch_bounds__(256) sound_k(const uint4 *x, uint4 *y) {
    uint4 v = x[threadIdx.x];
    v.x ^= v.y;
    y[threadIdx.x] = v;
}

/* 96 sums that are all alive, in the 64 registers that 1024 threads leave. */
__global__ void __launch_bounds__(1024) spill_k(const float *x, float *y, int n) {
    float sum[96];
#pragma unroll
    for (int i = 0; i < 96; i++)
        sum[i] = x[i * 1024 + threadIdx.x];
    for (int k = 0; k < n; k++)
#pragma unroll
        for (int i = 0; i < 96; i++)
            sum[i] = sum[i] * sum[(i + 7) % 96] + x[k];
#pragma unroll
    for (int i = 0; i < 96; i++)
        y[i * 1024 + threadIdx.x] = sum[i];
}

/* An array whose index is not known while compiling lives in local memory. */
__global__ void __launch_bounds__(256) stack_k(const int *x, int *y, int n) {
    int table[64];
    for (int i = 0; i < 64; i++)
        table[i] = x[i + threadIdx.x];
    for (int i = 0; i < n; i++)
        table[(x[i] + i) & 63] += i;
    y[threadIdx.x] = table[n & 63];
}

__global__ void __launch_bounds__(256) narrow_k(const uint16_t *x, uint16_t *y) {
    for (int i = 0; i < 8; i++)
        y[threadIdx.x * 8 + i] = (uint16_t)(x[threadIdx.x * 8 + i] + 1);
}

__global__ void __launch_bounds__(256) few_k(const uint4 *x, uint4 *y) {
    y[threadIdx.x] = x[threadIdx.x];
}

__global__ void __launch_bounds__(256) no_mma_k(const float *a, const float *b, float *c) {
    float sum = 0;
    for (int k = 0; k < 16; k++)
        sum += a[threadIdx.x / 16 * 16 + k] * b[threadIdx.x % 16 * 16 + k];
    c[threadIdx.x] = sum;
}

/* Many registers, none spilled: fewer blocks of an SM than are claimed. */
__global__ void __launch_bounds__(256) fat_k(const float *x, float *y, int n) {
    float sum[64];
#pragma unroll
    for (int i = 0; i < 64; i++)
        sum[i] = x[i * 256 + threadIdx.x];
    for (int k = 0; k < n; k++)
#pragma unroll
        for (int i = 0; i < 64; i++)
            sum[i] = sum[i] * sum[(i + 7) % 64] + x[k];
#pragma unroll
    for (int i = 0; i < 64; i++)
        y[i * 256 + threadIdx.x] = sum[i];
}

__global__ void __launch_bounds__(256) wide_k(float *y) {
    extern __shared__ float s[];
    s[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[255 - threadIdx.x];
}

__global__ void __launch_bounds__(256) unclaimed_k(float *y) {
    y[threadIdx.x] = 1;
}

/* A pointer into one of two memories: the load has to find out which. */
__global__ void __launch_bounds__(256) generic_k(const float *x, float *y, int from_shared) {
    __shared__ float s[256];
    s[threadIdx.x] = y[threadIdx.x];
    __syncthreads();
    const float *p = from_shared ? s : x;
    y[threadIdx.x] = p[255 - threadIdx.x];
}

/* ptxas 13.0 for sm_90: a cache policy and the uniform base of shared memory want one register. */
__global__ void __launch_bounds__(256) illegal_k(const char *x, float *y) {
    extern __shared__ char bytes[];
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile(
        "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;\n"
        "cp.async.wait_all;" ::"r"((uint32_t)__cvta_generic_to_shared(bytes + threadIdx.x * 16)),
        "l"(x + threadIdx.x * 16), "l"(policy)
        : "memory");
    __syncthreads();
    y[threadIdx.x] = bytes[threadIdx.x];
}
