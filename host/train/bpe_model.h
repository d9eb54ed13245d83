/* SPDX-License-Identifier: Apache-2.0
 * Inside of BPE training: tokens by their spelling in GPT-2's visible alphabet. */
#pragma once
#include "host/train/bpe_words.h"

struct bpe_model {
    bpe_split split;
    bool add_bos;
    arena text;
    json_str *token; /* by id */
    int n, cap;
    int n_special;
    uint32_t *slot; /* open addressing: id + 1 */
    uint64_t mask;
    int32_t byte[256]; /* ids of the alphabet */
    bpe_merge *merge;
    int n_merge, cap_merge;
};

weft_status model_open(bpe_split split, const bpe_options *o, bpe_model **out);
/* The id of two tokens' spellings behind one another: a new one, or that of a token that has it
 * already. */
int32_t model_join(bpe_model *m, int32_t left, int32_t right);
void model_add_merge(bpe_model *m, bpe_merge merge);
