/* SPDX-License-Identifier: Apache-2.0
 * Text to token shards. What is written depends on the inputs and options alone, not on the number
 * of threads, nor on how often the work was interrupted and taken up again. */
#pragma once
#include "host/train/shard.h"

typedef struct {
    const char *const *path; /* sources, as doc.h reads them */
    const char *const *name; /* of each, for file names and messages; distinct */
    const double *weight;    /* recorded in the manifest; NULL: none */
    int n_path;
    const char *out, *tokenizer; /* folders; tokenizer may be a file, and has the chat template */
    double val;                  /* share kept for validation: every so many lines of a JSONL,
                                    chosen by their number, and the tail of each text file */
    int64_t shard_tokens;        /* a shard is closed when it has so many */
    int threads;                 /* 0: every core */
    bool append_eos, sft;        /* sft: a loss mask on what the assistant says */
    void (*progress)(void *ctx, int64_t done, int64_t total); /* bytes read; may be NULL */
    void *ctx;
} prepare_options;

typedef struct {
    arena arena; /* of the manifest; arena_fini when done */
    shard_manifest manifest;
    int found; /* shards that were there already */
} prepare_result;

/* Writes the shards and the manifest, going on where an earlier call with the same inputs and
 * options was interrupted. WEFT_USAGE if the folder holds others, or another process writes it. */
weft_status prepare(const prepare_options *o, prepare_result *out);
