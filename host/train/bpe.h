/* SPDX-License-Identifier: Apache-2.0
 * Byte-level BPE learned from text (Sennrich et al., "Neural Machine Translation of Rare Words with
 * Subword Units", ACL 2016; over bytes: Radford et al. 2019). The merges, their order and the ids
 * are those of the `tokenizers` library's BpeTrainer with the alphabet of all 256 bytes: the most
 * frequent pair is joined first, the pair with the smallest ids of equally frequent ones. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Words and how often they come ---- */

typedef struct bpe_words bpe_words;

/* How text is cut into words before anything is joined: GPT-2's expression, or that of Llama 3's
 * kind (digits by threes, line breaks apart). */
typedef enum { BPE_SPLIT_GPT2, BPE_SPLIT_LLAMA3 } bpe_split;

weft_status bpe_words_open(bpe_split split, bpe_words **out);
void bpe_words_close(bpe_words *w); /* NULL is fine */
/* Counts the words of one text, valid UTF-8; a word does not go past its end. */
weft_status bpe_words_add(bpe_words *w, const char *text, size_t n);
/* The same of a file or folder, as doc.h reads it; progress may be NULL. */
weft_status bpe_words_read(bpe_words *w, const char *path,
                           void (*progress)(void *ctx, int64_t done, int64_t total), void *ctx);
int64_t bpe_words_count(const bpe_words *w); /* different ones */

/* ---- Learning ---- */

enum { BPE_MAX_VOCAB = 1 << 20, BPE_MAX_SPECIAL = 256, BPE_MAX_SPECIAL_BYTES = 256 };

typedef struct {
    int vocab;                  /* tokens to have: specials, 256 bytes, and what is joined */
    const char *const *special; /* ids from 0, in order; distinct, UTF-8, not empty */
    int n_special;
    int64_t min_frequency; /* pairs that come less often are not joined; at least 1 */
    bool add_bos;          /* the first special goes in front of every text */
    void (*progress)(void *ctx, int64_t done, int64_t total); /* may be NULL */
    void *ctx;
} bpe_options;

typedef struct {
    int32_t left, right, into;
} bpe_merge;

typedef struct bpe_model bpe_model;

/* WEFT_USAGE if `vocab` has no room for specials and bytes, or a special is given twice. There may
 * be fewer tokens than asked for: the text gives no more pairs. */
weft_status bpe_train(const bpe_words *w, const bpe_options *o, bpe_model **out);
void bpe_model_close(bpe_model *m); /* NULL is fine */
int bpe_model_vocab(const bpe_model *m);
int bpe_model_merges(const bpe_model *m);
/* tokenizer.json and tokenizer_config.json in an existing folder. The first special is BOS, the
 * last EOS. */
weft_status bpe_model_write(const bpe_model *m, const char *dir);
