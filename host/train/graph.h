/* SPDX-License-Identifier: Apache-2.0
 * graph: the plans of a training run and the places they share. A micro plan runs forward, loss and
 * backward over a micro-batch; folds add up the gradients of virtual shards; finish measures them;
 * update is the optimizer; validate is the forward and loss alone.
 *
 * Rows of a micro-batch lie one behind the other, `stride` tokens each (the row's length, on a GPU
 * rounded up to whole granules of 16). What a row does not fill is a sequence of its own with
 * nothing to predict, so that every place holds a number.
 *
 * Units. A micro-batch is `unit_shards` whole shards, or, where it is 1, perhaps a part of one. The
 * gradient of a unit is computed in the buffer whose number is how many sums wait, as the digits of
 * a binary counter: the fixed tree over shards needs 1 + log2(units) buffers. */
#pragma once
#include "host/model/decoder.h"
#include "host/train/params.h"
#include "host/train/pipeline.h"

enum { GRAPH_MAX_LEVELS = 5 };

typedef struct {
    int rows;        /* of a micro-batch */
    int row_tokens;  /* of a row as fed */
    int stride;      /* of a row as laid out */
    int tokens;      /* rows * stride */
    int shards;      /* of a whole batch */
    int ranks, rank; /* data-parallel; a rank computes `units` units from rank * units on */
    int unit_shards; /* of a micro-batch */
    int units;       /* shards / unit_shards / ranks */
    int unit_rows;   /* rows of a unit: a multiple of `rows` up to the last micro-batch of it */
    int unit_micros; /* micro-batches of a unit */
    int micros;      /* of this rank in a step */
    int levels;      /* gradient buffers */
    int chunk;       /* tokens whose logits are there at once */
    bool
        sequence_parallel; /* ranks of a slice have tokens / tp each between matrices (decoder.h) */
    int64_t kv_heads;      /* this rank's */
    int query_tile;
} graph_shape;

typedef struct {
    decoder_place target, scale, order, by_place, hyper; /* feed */
    decoder_place loss, nll, squares;                    /* out */
} graph_io;

/* One micro-batch of one chunk: the whole, and its steps by what they are for (pipeline.h). */
typedef struct {
    weft_plan *whole, *part[PIPE_KINDS];
    int slot; /* of activations */
} graph_micro;

/* Bytes this rank sends in a step. Of gradients, while backward goes on and behind it. */
typedef struct {
    int64_t all, beside, behind;
} graph_traffic;

typedef struct {
    const model_config *c;
    const train_options *o;
    const device *dev;
    arena *mem;
    int dtype;
    graph_shape shape;
    const train_mesh *mesh;
    params *params;
    const weights *w; /* what the model computes with */
    uint64_t bytes[WEFT_SPACES];
    decoder_io io;
    decoder_training training;
    graph_io train;
    int64_t m, v, ema; /* offsets of the blocks in space STATE; -1: none */
    int64_t nsquares;
    pipeline pipe;
    graph_micro *micro[PIPE_MAX_CHUNKS]; /* [level][slot]; then the last of a step, if it sums */
    int nmicro[PIPE_MAX_CHUNKS];
    weft_plan *fold[PIPE_MAX_CHUNKS][GRAPH_MAX_LEVELS], *validate[PIPE_MAX_CHUNKS];
    weft_plan *finish, *update, *refresh;
    int slot[PIPE_MAX_CHUNKS], nslots; /* of activations: where a chunk's begin, how many */
    uint64_t slot_bytes;               /* of one */
} graph;

/* WEFT_USAGE where batch, micro-batch and shards do not fit each other. */
weft_status graph_shape_of(const train_options *o, const train_mesh *mesh, const device *dev,
                           const model_config *c, int row_tokens, graph_shape *out);
/* Places and plans of everything; g's first members are set. g->bytes is then what each arena
 * needs, but for the feed, which every slot has one of. */
weft_status graph_build(graph *g);
/* The plans of micro-batch `micro` of a step, whose gradient gathers in buffer `level`. */
graph_micro *graph_micro_at(const graph *g, int chunk, int level, int micro);
/* Whether it is the one that joins all buffers and sums them over ranks. */
bool graph_is_last(const graph *g, int micro);
int64_t graph_flops(const graph *g); /* of this rank's part of a step, all micro-batches */
graph_traffic graph_sent(const graph *g);
