/* SPDX-License-Identifier: Apache-2.0
 * mesh: where a rank of a training run stands, and what of the model is its own. */
#pragma once
#include "host/base/mem.h"
#include "host/model/config.h"
#include "host/run/shard.h"
#include "host/train/options.h"

typedef struct {
    shard_mesh size, place; /* ranks each way; this one's coordinates */
    int rank, ranks;
    bool whole_vocab; /* every slice has all of the embedding and the head */
    int chunks;       /* runs of layers a rank has; stage c * pp + p is chunk c of rank p */
    int64_t *first;   /* [pp * chunks + 1] stage s computes layers [first[s], first[s + 1]) */
    int64_t *runs;    /* [pp][chunks][2] the same, rank by rank */
} train_mesh;

/* How many ranks the options ask for, each way and in all. */
shard_mesh mesh_size(const train_options *o);
int mesh_ranks(const train_options *o);
/* "--tp 2 --dp 4", as a person would write it. */
void mesh_flags(const train_options *o, char *out, size_t n);
/* WEFT_USAGE naming the limit of a mesh that the model does not fit. Stages are cut by what their
 * layers and the head cost. In the arena. */
weft_status mesh_open(const train_options *o, const model_config *c, arena *a, train_mesh *out);
/* What slice `tp` of rank `pp` computes with, in all its chunks. */
shard_part mesh_part(const train_mesh *m, int tp, int pp);
shard_part mesh_own_part(const train_mesh *m);
/* Of this rank's layers those of one chunk. */
shard_part mesh_chunk_part(const train_mesh *m, int chunk);
int mesh_chunk_of(const train_mesh *m, int layer); /* of this rank's layers; -1: of none */
int mesh_stage(const train_mesh *m, int chunk);
static inline int mesh_stages(const train_mesh *m) {
    return m->size.pp * m->chunks;
}
