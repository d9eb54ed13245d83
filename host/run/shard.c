/* SPDX-License-Identifier: Apache-2.0
 * Slices of weights by rank. Boundaries always fall on whole heads and whole leaves, so that a rank
 * computes complete leaf partials and the tree over them has the bits of a single rank. */
#include "host/run/shard.h"
#include "host/base/err.h"
#include <stdbool.h>
#include <stdio.h>

int shard_leaves(int64_t k) {
    for (int leaves = 8; leaves > 1; leaves /= 2)
        if (k % leaves == 0 && k / leaves >= 16)
            return leaves;
    return 1;
}

static bool tp_fits(const shard_dims *d, int tp) {
    return tp >= 1 && d->n_heads % tp == 0 && shard_leaves(d->n_heads * d->head_dim) % tp == 0 &&
           shard_leaves(d->d_ff) % tp == 0;
}

weft_status shard_check(const shard_dims *d, int tp) {
    if (tp_fits(d, tp))
        return WEFT_OK;
    char fits[16] = "1";
    for (int t = 2, n = 1; t <= 8; t++)
        if (tp_fits(d, t))
            n += snprintf(fits + n, sizeof fits - (size_t)n, ", %d", t);
    return weft_fail(WEFT_USAGE,
                     "--tp: %d does not divide this model (%lld heads, %d leaves of the attention "
                     "output, %d of the MLP); possible: %s",
                     tp, (long long)d->n_heads, shard_leaves(d->n_heads * d->head_dim),
                     shard_leaves(d->d_ff), fits);
}

int shard_ranks(const shard_mesh *m) {
    return m->tp * m->pp * m->dp;
}

shard_mesh shard_place(const shard_mesh *m, int rank) {
    return (shard_mesh){rank % m->tp, rank / m->tp % m->pp, rank / m->tp / m->pp};
}

int shard_rank(const shard_mesh *m, shard_mesh p) {
    return (p.dp * m->pp + p.pp) * m->tp + p.tp;
}

shard_part shard_whole(int64_t layers) {
    return (shard_part){.tp = 1, .last = layers, .layers = layers};
}

int64_t shard_first_row(int64_t n, int keepers, int keeper) {
    int64_t each = (n + keepers - 1) / keepers;
    return each * keeper < n ? each * keeper : n;
}

bool shard_owns(const shard_part *p, int64_t layer) {
    bool owns = layer >= p->first && layer < p->last;
    for (int i = 0; i < p->nmore; i++)
        owns |= layer >= p->more[2 * i] && layer < p->more[2 * i + 1];
    return owns;
}

bool shard_ends(const shard_part *p) {
    return shard_owns(p, p->layers - 1);
}

/* Stages of as many layers as `limit` lets in, each later one keeping one at least; whether all
 * fit. */
static bool fill_stages(int64_t layers, const int64_t *cost, int64_t before, int64_t behind, int pp,
                        int64_t limit, int64_t *first) {
    int64_t at = 0;
    first[0] = 0;
    for (int s = 0; s < pp; s++) {
        int64_t sum = (s == 0 ? before : 0) + (s == pp - 1 ? behind : 0) + cost[at++];
        while (at < layers - (pp - 1 - s) && (s == pp - 1 || sum + cost[at] <= limit))
            sum += cost[at++];
        if (sum > limit)
            return false;
        first[s + 1] = at;
    }
    return true;
}

static int64_t sum_of(const int64_t *cost, int64_t n) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += cost[i];
    return sum;
}

/* How many of n layers the first of pp stages takes: about its share of all that is left, under the
 * limit, and so that the others can take the rest. `room` is overwritten. */
static int64_t share_of(int64_t n, const int64_t *cost, int64_t before, int64_t behind, int pp,
                        int64_t limit, int64_t *room) {
    int64_t share = (before + sum_of(cost, n) + behind + pp - 1) / pp, sum = before + cost[0];
    int64_t at = 1;
    for (; at < n - (pp - 1) && sum + cost[at] <= limit; sum += cost[at++])
        if (sum + cost[at] / 2 >= share &&
            fill_stages(n - at, cost + at, 0, behind, pp - 1, limit, room))
            break;
    return at;
}

weft_status shard_stages(int64_t layers, const int64_t *cost, int64_t before, int64_t behind,
                         int pp, int64_t *first) {
    int64_t low = 0, high = before + sum_of(cost, layers > 0 ? layers : 0) + behind;
    if (pp < 1 || pp > layers)
        return weft_fail(WEFT_USAGE,
                         "--pp: %d stages, the model has %lld layers; possible: 1 to %lld", pp,
                         (long long)layers, (long long)layers);
    while (low < high) { /* the least limit that all fit under */
        int64_t mid = low + (high - low) / 2;
        if (fill_stages(layers, cost, before, behind, pp, mid, first))
            high = mid;
        else
            low = mid + 1;
    }
    first[0] = 0;
    for (int s = 0; s < pp - 1; s++) {
        int64_t at = first[s];
        first[s + 1] = at + share_of(layers - at, cost + at, s == 0 ? before : 0, behind, pp - s,
                                     high, first + s + 1);
    }
    first[pp] = layers;
    return WEFT_OK;
}

int64_t shard_vocab_rows(const shard_dims *d, int tp) {
    return (d->vocab + tp - 1) / tp;
}

static shard_slice vocab_slice(const shard_dims *d, int tp, int rank) {
    int64_t rows = shard_vocab_rows(d, tp), begin = rows * rank, end = begin + rows;
    return (shard_slice){0, begin < d->vocab ? begin : d->vocab, end < d->vocab ? end : d->vocab};
}

static shard_slice kv_slice(const shard_dims *d, int tp, int rank) {
    int64_t heads = d->n_heads / tp, first = heads * rank, last = first + heads - 1;
    int64_t begin = first * d->n_kv_heads / d->n_heads, end = last * d->n_kv_heads / d->n_heads + 1;
    return (shard_slice){0, begin * d->head_dim, end * d->head_dim};
}

/* Equal parts of n along an axis. */
static shard_slice part(int axis, int64_t n, int tp, int rank) {
    return (shard_slice){axis, n / tp * rank, n / tp * (rank + 1)};
}

shard_slice shard_of(const shard_dims *d, shard_kind kind, int tp, int rank) {
    switch (kind) {
    case SHARD_VOCAB: return vocab_slice(d, tp, rank);
    case SHARD_Q: return part(0, d->n_heads * d->head_dim, tp, rank);
    case SHARD_KV: return kv_slice(d, tp, rank);
    case SHARD_FF: return part(0, d->d_ff, tp, rank);
    case SHARD_O_COLS: return part(1, d->n_heads * d->head_dim, tp, rank);
    case SHARD_FF_COLS: return part(1, d->d_ff, tp, rank);
    case SHARD_WHOLE: break;
    }
    return (shard_slice){-1, 0, 0};
}
