/* SPDX-License-Identifier: Apache-2.0
 * shard: a pure function (dimensions, tp; rank) -> the slice of every weight a rank owns. */
#pragma once
#include "weft/status.h"
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

/* Leaves of a row-split matrix with K columns: the largest of 8, 4, 2, 1 that cuts K into equal
 * slices of at least 16. */
int shard_leaves(int64_t k);
/* WEFT_USAGE naming the limit unless tp divides n_heads and the leaves of both row-split
 * matrices. */
weft_status shard_check(const shard_dims *d, int tp);
shard_slice shard_of(const shard_dims *d, shard_kind kind, int tp, int rank);
/* Rows of the vocabulary each rank owns, the last one perhaps fewer: ceil(V / tp). */
int64_t shard_vocab_rows(const shard_dims *d, int tp);
