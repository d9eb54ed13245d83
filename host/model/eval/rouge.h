/* SPDX-License-Identifier: Apache-2.0
 * ROUGE (Lin, ACL 2004 workshop), computed as Google's rouge-score does. */
#pragma once
#include "host/model/eval/ngram.h"

enum { ROUGE_1, ROUGE_2, ROUGE_L, ROUGE_LSUM, ROUGE_KINDS };

typedef struct {
    double precision, recall, f; /* 0 to 1 */
} rouge_score;

/* For each kind, against the reference that gives the best f. stem: Porter's stemmer, for words of
 * more than three letters. Lsum takes each line as a sentence. false: the texts are too long for
 * the table of common subsequences. */
bool rouge_count(arena *a, bool stem, text hyp, const text *ref, int nref,
                 rouge_score out[ROUGE_KINDS]);
