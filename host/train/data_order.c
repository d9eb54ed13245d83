/* SPDX-License-Identifier: Apache-2.0
 * Permutations and mixtures of rows. */
#include "host/train/data_order.h"
#include "host/base/mem.h"

enum { ROUNDS = 12 }; /* even; fewer show in sets of a few dozen rows */

static uint64_t scramble(uint64_t z) { /* splitmix64's finaliser */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* One pass over numbers of low + high bits; the halves trade places every round. */
static uint64_t feistel(uint64_t key, int low, int high, uint64_t x) {
    int right = low, left = high;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t r = x & (((uint64_t)1 << right) - 1), l = x >> right;
        l ^= scramble(key + r * 0x9e3779b97f4a7c15u + (uint64_t)round * 0xd1342543de82ef95u) >>
             (64 - left);
        x = r << left | l;
        int was = left;
        left = right;
        right = was;
    }
    return x;
}

uint64_t data_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t i) {
    int bits = 2;
    while (bits < 62 && (uint64_t)1 << bits < n)
        bits++;
    uint64_t key = scramble(scramble(seed + 0x9e3779b97f4a7c15u) + stream);
    do
        i = feistel(key, bits / 2, bits - bits / 2, i);
    while (i >= n);
    return i;
}

/* ---- Mixtures ---- */

/* Whole shares of a block by largest remainders, ties to the earlier source; none gets nothing. */
static void shares(data_mix *m, const double *weight) {
    double sum = 0;
    int64_t given = 0;
    for (int s = 0; s < m->n; s++)
        sum += weight[s];
    int64_t *share = m->first + 1;
    for (int s = 0; s < m->n; s++) {
        share[s] = (int64_t)(weight[s] / sum * DATA_MIX_BLOCK);
        share[s] = share[s] < 1 ? 1 : share[s];
        given += share[s];
    }
    while (given != DATA_MIX_BLOCK) {
        int best = -1, way = given < DATA_MIX_BLOCK ? 1 : -1;
        double most = 0;
        for (int s = 0; s < m->n; s++) {
            double off = way * (weight[s] / sum * DATA_MIX_BLOCK - (double)share[s]);
            if ((way > 0 || share[s] > 1) && (best < 0 || off > most)) {
                best = s;
                most = off;
            }
        }
        share[best] += way;
        given += way;
    }
}

/* Smooth weighted round robin: who is furthest behind its share is next. */
static void spread(data_mix *m) {
    int64_t *behind = mem_alloc((size_t)m->n * sizeof *behind);
    int32_t *nth = mem_alloc((size_t)m->n * sizeof *nth);
    m->place = mem_alloc(DATA_MIX_BLOCK * sizeof *m->place);
    for (int i = 0; i < DATA_MIX_BLOCK; i++) {
        int best = 0;
        for (int s = 0; s < m->n; s++) {
            behind[s] += m->first[s + 1];
            if (behind[s] > behind[best])
                best = s;
        }
        behind[best] -= DATA_MIX_BLOCK;
        m->place[i] = (data_place){.source = best, .nth = nth[best]++};
    }
    mem_free(behind);
    mem_free(nth);
}

void data_mix_init(data_mix *m, const int64_t *rows, const double *weight, int n) {
    *m = (data_mix){.n = n};
    m->rows = mem_alloc((size_t)(2 * n + 1) * sizeof *m->rows);
    m->first = m->rows + n;
    for (int s = 0; s < n; s++)
        m->rows[s] = m->first[s + 1] = rows[s];
    if (weight && n > 1) {
        shares(m, weight);
        spread(m);
    }
    for (int s = 0; s < n; s++)
        m->first[s + 1] += m->first[s];
}

void data_mix_fini(data_mix *m) {
    mem_free(m->rows);
    mem_free(m->place);
    *m = (data_mix){0};
}

/* The last source that begins at or before `at`; sources without rows are passed over. */
static int source_at(const data_mix *m, int64_t at) {
    int lo = 0, hi = m->n;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (m->first[mid] <= at)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static int64_t shuffled(uint64_t seed, uint64_t stream, int64_t n, int64_t i, bool file_order) {
    return file_order ? i : (int64_t)data_permute(seed, stream, (uint64_t)n, (uint64_t)i);
}

/* Permutations of different purposes have different streams. */
static uint64_t stream_of(int64_t epoch, int source_plus_1) {
    return (uint64_t)epoch * (DATA_MAX_SOURCES + 1) + (uint64_t)source_plus_1;
}

static void weighted_row(const data_mix *m, uint64_t seed, bool file_order, int64_t g, int *source,
                         int64_t *row) {
    data_place p = m->place[g % DATA_MIX_BLOCK];
    int64_t share = m->first[p.source + 1] - m->first[p.source], n = m->rows[p.source];
    int64_t i = g / DATA_MIX_BLOCK * share + p.nth;
    *source = p.source;
    *row = shuffled(seed, stream_of(i / n, p.source + 1), n, i % n, file_order);
}

void data_mix_row(const data_mix *m, uint64_t seed, bool file_order, int64_t g, int *source,
                  int64_t *row) {
    if (m->place) {
        weighted_row(m, seed, file_order, g, source, row);
        return;
    }
    int64_t n = m->first[m->n];
    int64_t at = shuffled(seed, stream_of(g / n, 0), n, g % n, file_order);
    *source = source_at(m, at);
    *row = at - m->first[*source];
}
