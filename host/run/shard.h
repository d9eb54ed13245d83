/* SPDX-License-Identifier: Apache-2.0
 * shard: pure functions (dimensions, mesh; rank) -> the stage and the slice of every weight a rank
 * owns. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int64_t vocab, d_model, d_ff, n_heads, n_kv_heads, head_dim;
} shard_dims;

typedef enum {
    SHARD_WHOLE,   /* replicated: norms, positions, biases of row-split matrices, q and k norms */
    SHARD_VOCAB,   /* rows of the embedding and the head */
    SHARD_Q,       /* rows by query heads */
    SHARD_KV,      /* rows by kv heads; heads that serve several ranks are replicated */
    SHARD_FF,      /* rows by d_ff: gate, up and their biases */
    SHARD_O_COLS,  /* columns by query heads: attention output */
    SHARD_FF_COLS, /* columns by d_ff: MLP down */
} shard_kind;

typedef struct {
    int axis;           /* 0 rows, 1 columns, -1 whole */
    int64_t begin, end; /* along axis */
} shard_slice;

/* A mesh of dp x pp x tp ranks; tp runs fastest, so that its ranks are neighbours. */
typedef struct {
    int tp, pp, dp;
} shard_mesh;
enum { SHARD_MAX_RANKS = 64 };
int shard_ranks(const shard_mesh *m);
shard_mesh shard_place(const shard_mesh *m, int rank); /* coordinates of a rank */
int shard_rank(const shard_mesh *m, shard_mesh place);

/* What of a model a rank owns: slice `slice` of tp of the layers [first, last) of `layers`, the
 * embedding if first is 0, the final norm and the head if last is `layers`. Of a matrix's slice it
 * keeps the `keeper`-th of `keepers` runs of rows, each of ceil(rows / keepers); keepers 0 or 1:
 * all rows. It may own further layers, [more[2 i], more[2 i + 1]) for i < nmore, the last of which
 * may end at `layers`. whole_vocab: embedding and head are not sliced. */
typedef struct {
    int tp, slice;
    int64_t first, last, layers;
    int keepers, keeper;
    const int64_t *more;
    int nmore;
    bool whole_vocab;
} shard_part;
/* The first of n rows that `keeper` keeps; it ends where the next one begins. */
int64_t shard_first_row(int64_t n, int keepers, int keeper);
shard_part shard_whole(int64_t layers); /* all of it */
bool shard_owns(const shard_part *p, int64_t layer);
bool shard_ends(const shard_part *p); /* owns the last layer */
/* Stage s computes layers [first[s], first[s + 1]): consecutive, at least one each, so that the
 * dearest stage is as cheap as can be, and the others are about alike. cost[i] is
 * of layer i, `before` of what the first stage does besides (the embedding), `behind` of what the
 * last one does (the head). WEFT_USAGE naming the limit unless 1 <= pp <= layers. */
weft_status shard_stages(int64_t layers, const int64_t *cost, int64_t before, int64_t behind,
                         int pp, int64_t *first);

/* Leaves of a row-split matrix with K columns: the largest of 8, 4, 2, 1 that cuts K into equal
 * slices of at least 16. */
int shard_leaves(int64_t k);
/* WEFT_USAGE naming the limit unless tp divides n_heads and the leaves of both row-split
 * matrices. */
weft_status shard_check(const shard_dims *d, int tp);
shard_slice shard_of(const shard_dims *d, shard_kind kind, int tp, int rank);
/* Rows of the vocabulary each rank owns, the last one perhaps fewer: ceil(V / tp). */
int64_t shard_vocab_rows(const shard_dims *d, int tp);
