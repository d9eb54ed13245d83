/* SPDX-License-Identifier: Apache-2.0
 * What a model is trained on: rows of token ids as a pure function of (seed, step, row), whatever
 * the number of threads or ranks and wherever a run is resumed. Nothing is read ahead and there is
 * no state to save: the step is the position.
 *
 * A source is one of
 *   - a JSONL of rows {"input_ids": [...], "labels": [...], "attention_mask": [...]} (the last two
 *     optional: labels are then the ids, and the mask, ones and then zeros, gives the true length);
 *   - a folder of token shards that `weft data` wrote (shard.h);
 *   - text: a file, a folder of .txt and .jsonl files, a JSONL of {"text": "..."} or of
 *     {"messages": [...]}, tokenised at open.
 * Text of one source is one stream, cut into rows of seq_len, or, with `pack`, documents placed
 * whole in rows. Rows of a JSONL, and conversations under `sft`, are a row each, or, with `pack`,
 * documents. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct dataset dataset;

enum { DATA_IGNORED = -100 }; /* the label of a place that has no loss */

typedef struct {
    const char *const *path;
    const double *weight; /* a source's share of the rows; NULL: by size, each row once an epoch */
    int n_path;
    int seq_len;           /* 0: the longest row, where every source has rows of its own */
    int text_len;          /* seq_len 0 and a source without rows: this; 0: refused */
    uint64_t seed;         /* of the shuffle */
    bool file_order;       /* rows in file order instead of shuffled */
    bool pack;             /* documents packed into rows with masks */
    double val_fraction;   /* of the rows, kept for validation; the same rows for every seed.
                              A shard folder with validation shards of its own keeps to those */
    const char *model_dir; /* tokenizer and chat template for text, and the tokenizer that shards
                              must have been made with; NULL: none needed */
    int32_t vocab;         /* every id is below it; 0: not checked */
    bool sft;              /* the loss is on what the assistant says alone */
    bool append_eos;       /* EOS behind each text that is tokenised at open */
    int threads;           /* that tokenise at open; 0: every core */
} data_options;

/* WEFT_BAD_FILE names file and line or place; WEFT_USAGE what the options contradict. */
weft_status data_open(const data_options *o, dataset **out);
void data_close(dataset *d); /* NULL is fine */

int data_seq_len(const dataset *d);
int64_t data_tokens(const dataset *d); /* of all sources, labels or none, validation included */
int64_t data_rows_per_epoch(const dataset *d); /* training rows of all sources */
int64_t data_val_rows(const dataset *d);
uint64_t data_hash(const dataset *d); /* of the content of the sources in their order */
/* Rows and documents cut at seq_len, and rows left out because no label was left within it. */
int64_t data_cut(const dataset *d);
int64_t data_left_out(const dataset *d);

/* Rows [row0, row0 + n) of step `step` of a batch of `batch` rows: row r of step s is row
 * s * batch + r of an endless sequence that depends on the seed alone. No allocation; any number
 * of threads at once. Each row: ids[T]; labels[T], unshifted (the label of a place is its own id:
 * the place before it predicts it) and DATA_IGNORED where there is no loss, which every place
 * with pos 0 is; pos[T], the position inside the document (a 0 begins a document, and tokens of
 * different documents do not see each other); len, the true tokens. Places from len on have id 0,
 * label DATA_IGNORED, pos 0.
 * Validation rows come in a fixed order and once: rows past the last have len 0. */
void data_rows(const dataset *d, bool validation, int64_t step, int batch, int row0, int n,
               int32_t *ids, int32_t *labels, int32_t *pos, int32_t *len);
