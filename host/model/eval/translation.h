/* SPDX-License-Identifier: Apache-2.0
 * Texts beside their references: the rows of BLEU and ROUGE, and the corpus scores. */
#pragma once
#include "host/model/eval/bleu.h"
#include "host/model/eval/eval.h"
#include "host/model/eval/rouge.h"

enum { TRANSLATION_MAX_REFS = 16 };

typedef struct {
    int64_t line;
    text prompt, hyp, *ref; /* prompt.s: NULL if the row has a hypothesis */
    int nref;
    /* filled by translation_finish */
    bleu_counts bleu;
    chrf_counts chrf;
    rouge_score rouge[ROUGE_KINDS];
} translation;

typedef struct {
    const char *file;
    arena a;
    translation *row;
    int64_t n, without;    /* rows; of those, without a hypothesis */
    int64_t first_without; /* line */
} translation_set;

typedef struct {
    bool rouge, stem, lowercase;
    bleu_tokenizer tokenizer;
    /* filled by translation_finish, for BLEU */
    bleu_counts counts;
    bleu_result bleu;
    int nref; /* of the first row; 0: rows differ */
} translation_options;

/* JSONL rows: "hypothesis" (or "prediction"), or else "prompt"; and "reference" (or
 * "references": a string or an array of up to 16). */
weft_status translation_rows(translation_set *s, const char *file, int64_t limit);
/* Line i of every reference file belongs to line i of hyp; they have equally many. */
weft_status translation_lines(translation_set *s, const char *hyp, const char *const *ref, int nref,
                              int64_t limit);
void translation_close(translation_set *s);
/* BLEU and chrF of the corpus in percent, or the mean of ROUGE, 0 to 1. Standard errors: BLEU and
 * chrF are no means, so theirs are the jackknife's, sqrt((n-1)/n sum (x_i - mean)^2) over the
 * scores x_i without row i; those of ROUGE are of a mean. */
weft_status translation_finish(translation_set *s, translation_options *o, eval_result *out);
