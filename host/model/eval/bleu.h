/* SPDX-License-Identifier: Apache-2.0
 * BLEU (Papineni et al., ACL 2002) and chrF (Popovic, WMT 2015), computed as sacrebleu 2 does. */
#pragma once
#include "host/model/eval/ngram.h"

typedef enum { BLEU_13A, BLEU_INTL, BLEU_CHAR, BLEU_NONE } bleu_tokenizer;

typedef struct {
    int64_t shared[4], total[4]; /* n-grams of length 1 to 4 */
    int64_t hyp_len, ref_len;    /* words; of the reference nearest in length */
} bleu_counts;

typedef struct {
    double score, precision[4], brevity; /* score and precisions in percent */
} bleu_result;

enum { CHRF_ORDER = 6 };
typedef struct {
    int64_t hyp[CHRF_ORDER], ref[CHRF_ORDER], shared[CHRF_ORDER];
} chrf_counts;

/* A line as sacrebleu's tokenizer of that name leaves it, words between white space. */
text bleu_tokenize(arena *a, bleu_tokenizer how, text line);
bleu_counts bleu_count(arena *a, bleu_tokenizer how, bool lowercase, text hyp, const text *ref,
                       int nref);
/* effective: of a sentence, where lengths with no n-gram at all are left out of the mean. Where an
 * n-gram length has no match, smoothing is "exp": the k-th such precision is 1 / (2^k total). */
bleu_result bleu_score(const bleu_counts *c, bool effective);

/* Counts against the reference that gives the best sentence score. */
chrf_counts chrf_count(arena *a, bool lowercase, text hyp, const text *ref, int nref);
double chrf_score(const chrf_counts *c); /* chrF2, in percent */
