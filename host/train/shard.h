/* SPDX-License-Identifier: Apache-2.0
 * Token shards: what `weft data` writes and training maps.
 *
 * A folder has manifest.json, which lists the sources and their shards with sizes and XXH3 hashes,
 * and is written last: a folder without it is not finished. inputs.json says what the shards are
 * made from, so that a rerun may go on. A shard NAME-train-00000.bin (or -val-) is, little-endian,
 *   0    "WEFTTOKS"
 *   8    u32 version, u32 bytes of an id (2 or 4)
 *   16   u64 vocabulary size, u64 hash of the tokenizer
 *   32   u64 tokens, u64 documents
 *   48   u64 number of its first document in the source, u64 number behind its last
 *   64   u64 flags (1: there is a loss mask); zeros up to 128
 *   128  the ids; the mask, a bit a token, lowest first: 1 has a loss; u64 offsets of the documents
 *        and the end. Each of the three starts at a multiple of 8 bytes, zeros between. */
#pragma once
#include "host/base/file.h"
#include "host/model/tokenizer/tokenizer.h"
#include "host/train/data_source.h"

enum { SHARD_VERSION = 1, SHARD_HEADER = 128, SHARD_MASK = 1 };

typedef struct {
    uint32_t version, width;
    uint64_t vocab, tokenizer, tokens, documents, first_document, next_document, flags;
} shard_head;

typedef struct {
    const char *file;
    bool validation;
    int64_t tokens, documents, bytes;
    uint64_t xxh3;
} shard_entry;

typedef struct {
    const char *name;
    double weight; /* 0: none, by size */
    shard_entry *shard;
    int n;
} shard_source;

typedef struct {
    int32_t vocab;
    uint64_t tokenizer;
    bool own_rows; /* documents are rows: conversations with a loss mask */
    shard_source *source;
    int n;
} shard_manifest;

/* What makes ids mean the same: the spelling of every id, and how a probe text is cut. */
uint64_t shard_tokenizer_hash(const tokenizer *t);

/* ---- Reading ---- */

/* Has a manifest, or the inputs.json of one that is not done, and is no model's checkpoint. */
bool shard_is_folder(const char *dir);
weft_status shard_manifest_read(const char *dir, arena *a, shard_manifest *out);
/* Maps a shard and checks it all: header, sizes, offsets, hash, and that every id is below the
 * vocabulary. `map` holds what `out` points into. */
weft_status shard_map(const char *dir, const shard_manifest *m, const shard_entry *e, file_map *map,
                      data_part *out);
/* The header of a shard whose size fits it. */
weft_status shard_head_read(const char *path, const file_map *map, shard_head *out);

/* A shard in memory that starts at a multiple of 8: header, sizes, offsets and ids are checked. */
weft_status shard_parse(const char *path, const file_map *map, shard_head *h, data_part *out);

/* ---- Writing ---- */

typedef struct {
    const char *dir, *name; /* borrowed */
    bool validation;
    uint32_t width;
    uint64_t vocab, tokenizer, limit, flags; /* limit: tokens that close a shard */
    int fd;                                  /* of the shard being written; -1: none */
    char *path, *part;                       /* its name, and while it is written */
    shard_head head;
    buf out, mask, doc;
    uint64_t mask_bits;
    uint64_t next_document; /* documents before it are in finished shards */
    int n;                  /* finished shards */
} shard_writer;

/* Finds the finished shards that are there: BAD_FILE if they are not of this tokenizer. */
weft_status shard_writer_open(shard_writer *w);
/* labels NULL: the ids. A shard is closed when it has the limit. */
weft_status shard_writer_add(shard_writer *w, int64_t number, const int32_t *ids,
                             const int32_t *labels, size_t n);
weft_status shard_writer_finish(shard_writer *w); /* the last shard */
void shard_writer_fini(shard_writer *w);          /* a shard that is not finished is removed */
char *shard_name(arena *a, const shard_writer *w, int number);
/* Entry of a finished shard, read back from the disk and hashed. */
weft_status shard_entry_of(arena *a, const shard_writer *w, int number, shard_entry *out);
weft_status shard_manifest_write(const char *dir, const shard_manifest *m);
