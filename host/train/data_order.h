/* SPDX-License-Identifier: Apache-2.0
 * Which row comes when: permutations and mixtures that are computed, not stored. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* Where i, below n, goes in permutation (seed, stream) of [0, n), n >= 1. A Feistel network over
 * the smallest power of two that holds n, walked until it is back below n (Black and Rogaway,
 * "Ciphers with Arbitrary Finite Domains", CT-RSA 2002); under two walks on average. */
uint64_t data_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t i);

enum { DATA_MAX_SOURCES = 1024, DATA_MIX_BLOCK = 1 << 16 };

typedef struct {
    int32_t source, nth; /* row number `nth` of the source within the block */
} data_place;

/* An endless sequence over several sources. Without weights it is all their rows, once an epoch.
 * With weights every block of DATA_MIX_BLOCK rows has each source's share of it, to the nearest
 * row and at least one, spread evenly, and each source is gone through epoch by epoch. */
typedef struct {
    int n;
    int64_t *rows;     /* of each source */
    int64_t *first;    /* n + 1: rows, or places of a block, of the sources before it */
    data_place *place; /* of a block; NULL without weights */
} data_mix;

void data_mix_init(data_mix *m, const int64_t *rows, const double *weight, int n);
void data_mix_fini(data_mix *m);
/* The source and its row that are number g of the sequence. */
void data_mix_row(const data_mix *m, uint64_t seed, bool file_order, int64_t g, int *source,
                  int64_t *row);
