/* SPDX-License-Identifier: Apache-2.0
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random
 * number is a function of (seed, stream, position), never of a thread or a batch. */
#pragma once
#include "weft/dtype.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t v[4];
} weft_philox;

WEFT_INLINE weft_philox weft_philox4x32(uint64_t seed, uint64_t stream, uint64_t position) {
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    weft_philox r = {{c0, c1, c2, c3}};
    return r;
}

/* Uniform in [0, 1) with 24 bits, exact in float. */
WEFT_INLINE float weft_philox_uniform(uint32_t u) {
    return (float)(u >> 8) * 5.9604644775390625e-8f;
}

#ifdef __cplusplus
}
#endif
