/* SPDX-License-Identifier: Apache-2.0
 * Inside of a dataset: the tokens of a source and the rows they are laid out in. */
#pragma once
#include "host/base/file.h"
#include "host/train/data.h"
#include <stddef.h>

/* Documents behind one another, in memory or in a mapped shard. */
typedef struct {
    const void *ids;       /* of `width` bytes each, little-endian */
    const int32_t *labels; /* NULL: the ids */
    const uint8_t *mask;   /* a bit a token, 0: no loss; NULL: all ones */
    const uint64_t *doc;   /* n_doc + 1: where documents begin, and the end */
    int64_t n_doc, n;      /* documents, tokens */
    int width;             /* 2 or 4 */
} data_part;

/* A run of tokens that stand in a row behind one another and see each other. */
typedef struct {
    uint64_t at; /* of the source's tokens */
    uint32_t n;
} data_piece;

typedef struct {
    char *name;
    data_part *part;
    uint64_t *first; /* n_part + 1: tokens of the parts before it */
    int n_part;
    bool own_rows;        /* a document is a row: rows of a file, conversations */
    buf ids, labels, doc; /* what part[0] of a source in memory points to, or ... */
    file_map *map;        /* ... n_part mapped shards */
    uint64_t hash;
    /* Rows: row r has pieces [row[r], row[r + 1]); row NULL: piece r; piece NULL: the r-th run of
     * T tokens of the stream. */
    data_piece *piece;
    uint64_t *row;
    int64_t n_row, cut, left_out;
    int T;
} data_source;

int64_t source_tokens(const data_source *s);
int64_t source_longest(const data_source *s); /* tokens of its longest document */
/* Lays the tokens out in rows of T; WEFT_BAD_FILE if there is no row. */
weft_status source_layout(data_source *s, int T, bool pack, bool file_order);
/* Puts pieces, one a row so far, together in rows (data_pack.c). */
void source_pack(data_source *s, bool file_order);
void source_row(const data_source *s, int64_t r, int32_t *ids, int32_t *labels, int32_t *pos,
                int32_t *len);
void source_fini(data_source *s);
