/* SPDX-License-Identifier: Apache-2.0
 * Philox sixteen blocks at a time: the words of weft/rng.h. The compiler makes vectors of the inner
 * loop. */
#pragma once
#include "cpu.h"
#include "weft/rng.h"

enum { CPU_WORDS = 128 };

/* The words of elements [first, first + CPU_WORDS), four to a block; first is a multiple of 4. */
static inline void cpu_random(uint64_t seed, uint32_t stream, uint64_t first,
                              uint32_t word[CPU_WORDS]) {
    enum { BLOCKS = CPU_WORDS / 4 };
    uint32_t c0[BLOCKS], c1[BLOCKS], c2[BLOCKS], c3[BLOCKS];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int l = 0; l < BLOCKS; l++) {
        c0[l] = (uint32_t)(first / 4 + (uint64_t)l);
        c1[l] = (uint32_t)((first / 4 + (uint64_t)l) >> 32);
        c2[l] = stream;
        c3[l] = 0;
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int l = 0; l < BLOCKS; l++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[l], p1 = (uint64_t)0xCD9E8D57u * c2[l];
            c0[l] = (uint32_t)(p1 >> 32) ^ c1[l] ^ k0;
            c2[l] = (uint32_t)(p0 >> 32) ^ c3[l] ^ k1;
            c1[l] = (uint32_t)p1;
            c3[l] = (uint32_t)p0;
        }
    for (int l = 0; l < BLOCKS; l++) {
        word[4 * l] = c0[l];
        word[4 * l + 1] = c1[l];
        word[4 * l + 2] = c2[l];
        word[4 * l + 3] = c3[l];
    }
}

/* A row's words in order, drawn in batches. */
typedef struct {
    uint64_t seed, next; /* element whose word comes next */
    uint32_t stream, word[CPU_WORDS];
    int at; /* its place in word; CPU_WORDS: draw first */
} cpu_draws;

V16 cpu_draws cpu_draws_from(uint64_t seed, uint32_t stream, uint64_t element) {
    cpu_draws d = {.seed = seed, .next = element, .stream = stream, .at = CPU_WORDS};
    return d;
}

/* The words of the next n <= 16 elements. */
V16 void cpu_draw(cpu_draws *d, int n, uint32_t to[16]) {
    for (int done = 0; done < n;) {
        if (d->at == CPU_WORDS) {
            cpu_random(d->seed, d->stream, d->next / 4 * 4, d->word);
            d->at = (int)(d->next % 4);
        }
        int some = n - done < CPU_WORDS - d->at ? n - done : CPU_WORDS - d->at;
        memcpy(to + done, d->word + d->at, (size_t)some * sizeof *to);
        done += some;
        d->at += some;
        d->next += (uint64_t)some;
    }
}
