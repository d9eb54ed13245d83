/* SPDX-License-Identifier: Apache-2.0
 * Counting n-grams that two sequences share: what BLEU, chrF and ROUGE are made of. */
#pragma once
#include "host/model/eval/rows.h"

typedef struct {
    int32_t *id; /* [n] equal words have equal numbers */
    int32_t n;
} words;

/* Numbers for words, given out as they come. Valid when zeroed but for the arena. */
typedef struct {
    arena *a;
    text *word; /* [n] */
    int32_t *slot, n, nslot;
} word_table;

int32_t word_number(word_table *t, text word);
/* Splits at white space, as str.split() does. */
words words_split(word_table *t, text line);
/* One word a character; white space is left out. */
words words_chars(arena *a, text line);

/* The n-grams of one length in a fixed order. */
typedef struct {
    const words *w;
    int32_t *at, n, length; /* [n] where each begins */
} ngrams;

ngrams ngrams_of(arena *a, const words *w, int length);
/* Sum over the different n-grams of `hyp` of the smaller of its count there and its largest count
 * in one of ref[0..nref). */
int64_t ngrams_shared(const ngrams *hyp, const ngrams *ref, int nref);
