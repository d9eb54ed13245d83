/* SPDX-License-Identifier: Apache-2.0
 * Meshes of training ranks and their limits. */
#include "host/train/mesh.h"
#include "host/base/err.h"
#include "host/model/weights.h"
#include "host/run/comm.h"
#include "host/train/pipeline.h"
#include <stdio.h>

shard_mesh mesh_size(const train_options *o) {
    return (shard_mesh){
        .tp = o->tp > 0 ? o->tp : 1, .pp = o->pp > 0 ? o->pp : 1, .dp = o->dp > 0 ? o->dp : 1};
}

int mesh_ranks(const train_options *o) {
    shard_mesh m = mesh_size(o);
    return shard_ranks(&m);
}

void mesh_flags(const train_options *o, char *out, size_t n) {
    const struct {
        const char *name;
        int ranks;
    } ways[] = {{"--tp", o->tp}, {"--pp", o->pp}, {"--dp", o->dp}};
    size_t at = 0;
    *out = 0;
    for (int i = 0; i < 3 && at < n; i++)
        if (ways[i].ranks > 1)
            at += (size_t)snprintf(out + at, n - at, "%s%s %d", at ? " " : "", ways[i].name,
                                   ways[i].ranks);
    if (!*out)
        snprintf(out, n, "--dp 1");
}

/* ---- Limits ---- */

/* What a slice computes of an axis in backward begins and ends with leaves of its sum. */
static bool leaves_fit(int64_t n, int tp) {
    return shard_leaves(n) % tp == 0;
}

static weft_status check_slices(const train_options *o, const model_config *c, int tp) {
    shard_dims d = config_shard_dims(c);
    WEFT_TRY(shard_check(&d, tp));
    if (tp == 1)
        return WEFT_OK;
    if (o->lora_rank > 0)
        return weft_fail(WEFT_USAGE, "--tp: adapters are trained whole; use --dp, --pp or --zero");
    if (o->stochastic_rounding)
        return weft_fail(WEFT_USAGE, "--tp: draws nothing for --stochastic-rounding; leave one of "
                                     "them out");
    int64_t kv = c->n_kv_heads, slices = kv < tp ? kv : tp;
    if (tp % kv && kv % tp)
        return weft_fail(WEFT_USAGE, "--tp: %d neither divides %lld kv heads nor is a multiple", tp,
                         (long long)kv);
    if (!leaves_fit(kv * c->head_dim, (int)slices))
        return weft_fail(WEFT_USAGE, "--tp: %d does not divide the kv heads' %d leaves", tp,
                         shard_leaves(kv * c->head_dim));
    return WEFT_OK;
}

static weft_status cut_stages(const model_config *c, arena *a, train_mesh *m) {
    int pp = m->size.pp, stages = mesh_stages(m);
    if (pp <= c->n_layers && stages > c->n_layers)
        return weft_fail(WEFT_USAGE, "--interleave: %d stages, the model has %lld layers", stages,
                         (long long)c->n_layers);
    WEFT_TRY(weights_stages(c, stages, a, &m->first));
    m->runs = ARENA_NEW(a, int64_t, 2 * stages);
    for (int s = 0; s < stages; s++)
        for (int k = 0; k < 2; k++)
            m->runs[2 * (s % pp * m->chunks + s / pp) + k] = m->first[s + k];
    return WEFT_OK;
}

static weft_status check_chunks(const train_options *o, const train_mesh *m) {
    if (m->chunks == 1)
        return WEFT_OK;
    if (m->size.pp == 1)
        return weft_fail(WEFT_USAGE, "--interleave: needs the stages of --pp");
    return m->chunks <= PIPE_MAX_CHUNKS ? WEFT_OK
                                        : weft_fail(WEFT_USAGE, "--interleave: %d (at most %d)",
                                                    o->interleave, PIPE_MAX_CHUNKS);
}

weft_status mesh_open(const train_options *o, const model_config *c, arena *a, train_mesh *out) {
    train_mesh m = {.size = mesh_size(o), .rank = o->rank, .ranks = mesh_ranks(o)};
    m.chunks = o->interleave > 0 ? o->interleave : 1;
    if (m.ranks > COMM_MAX_RANKS) {
        char flags[64];
        mesh_flags(o, flags, sizeof flags);
        return weft_fail(WEFT_USAGE, "%s: %d ranks (at most %d)", flags, m.ranks, COMM_MAX_RANKS);
    }
    m.place = shard_place(&m.size, o->rank);
    WEFT_TRY(check_slices(o, c, m.size.tp));
    m.whole_vocab = !leaves_fit(c->vocab, m.size.tp);
    WEFT_TRY(check_chunks(o, &m));
    WEFT_TRY(cut_stages(c, a, &m));
    *out = m;
    return WEFT_OK;
}

shard_part mesh_part(const train_mesh *m, int tp, int pp) {
    const int64_t *runs = m->runs + (int64_t)2 * pp * m->chunks;
    return (shard_part){.tp = m->size.tp,
                        .slice = tp,
                        .first = runs[0],
                        .last = runs[1],
                        .layers = m->first[mesh_stages(m)],
                        .whole_vocab = m->whole_vocab,
                        .more = runs + 2,
                        .nmore = m->chunks - 1};
}

shard_part mesh_own_part(const train_mesh *m) {
    return mesh_part(m, m->place.tp, m->place.pp);
}

shard_part mesh_chunk_part(const train_mesh *m, int chunk) {
    shard_part p = mesh_own_part(m);
    int stage = mesh_stage(m, chunk);
    p.first = m->first[stage];
    p.last = m->first[stage + 1];
    p.nmore = 0;
    return p;
}

int mesh_stage(const train_mesh *m, int chunk) {
    return chunk * m->size.pp + m->place.pp;
}

int mesh_chunk_of(const train_mesh *m, int layer) {
    for (int c = 0; c < m->chunks; c++) {
        int stage = mesh_stage(m, c);
        if (layer >= m->first[stage] && layer < m->first[stage + 1])
            return c;
    }
    return -1;
}
