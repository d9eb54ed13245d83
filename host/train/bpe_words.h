/* SPDX-License-Identifier: Apache-2.0
 * Inside of BPE training: counted words. */
#pragma once
#include "host/model/tokenizer/tok.h"
#include "host/train/bpe.h"

typedef struct {
    const char *s; /* bytes, in the arena */
    uint32_t n;
    uint64_t hash;
    int64_t count;
} bpe_word;

struct bpe_words {
    bpe_split split;
    tok_regex *re;
    arena text;
    bpe_word *word; /* in the order they were met */
    size_t n, cap;
    uint32_t *slot; /* open addressing: index + 1 */
    uint64_t mask;
};

extern const char *const bpe_pattern[]; /* by bpe_split */
