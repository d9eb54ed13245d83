/* SPDX-License-Identifier: Apache-2.0
 * One row of the sampling chain and its stages. A stage looks at its own parameters, and does
 * nothing where they are neutral. */
#pragma once
#include "kernels/ref/ref.h"
#include "weft/sample_shard.h"
#include "weft/weight.h"

/* What x holds. A logit is x + base, always. */
typedef enum {
    SAMPLE_RAW,     /* base is 0, and there may be NaN */
    SAMPLE_LOOSE,   /* no NaN; the best may be anywhere below 0 */
    SAMPLE_CENTRED, /* the best is 0; -infinity is out */
} sample_state;

typedef struct {
    const weft_sample_args *a;
    weft_sample_params p;
    int64_t row, vocab;
    const int32_t *history; /* NULL: none */
    int32_t history_len;
    double *x; /* [V] */
    double base;
    int32_t *index; /* [V]: token counts, then a heap */
    int32_t *match; /* [C]: DRY's lengths */
    sample_state state;
    bool greedy; /* the temperature is 0: the best of what is left, and no draw */
} sample_row;

static inline int32_t *sample_ints(const weft_tensor *t, int64_t i) {
    return (int32_t *)t->data + i * t->stride[0];
}

/* sample.c */
enum { SAMPLE_SLOTS = 8 }; /* rows in flight, each with scratch of its own */
/* A row's parameters and history, and scratch for a vocabulary. */
void sample_begin(sample_row *s, const weft_sample_args *a, int64_t row, int64_t vocab,
                  char *scratch);
/* Runs a stage; mirostat stands in for those that cut. The order's i-th stage, WEFT_STAGE_END
 * behind the last. */
void sample_stage(sample_row *s, int stage);
int sample_order(const sample_row *s, int i);
/* x becomes its distance from `most`, the best, over the temperature. */
void sample_scale(sample_row *s, double most, double temperature);
double sample_distance(double x, double most, double inverse);
/* The draw, over the weights of x. */
int32_t sample_draw(const sample_row *s, uint64_t *total);
void sample_remember(const sample_row *s, int32_t id);
/* The whole chain of a row. */
void sample_one(const weft_sample_args *a, int64_t row, char *scratch);
/* log of a sum of e^(x - largest): each term in units of 2^-60, carried over into sum[1]. */
void sample_add_mass(uint64_t sum[2], double x, double most);
double sample_log_sum(const uint64_t sum[2]);
int32_t sample_best(const sample_row *s);  /* -1 if there is none; NaN becomes -infinity */
bool sample_centre(sample_row *s);         /* false if no token is left */
uint64_t sample_mass(const sample_row *s); /* sum of the weights */
double sample_surprise(const sample_row *s, uint64_t mass); /* mean of -x by weight */
uint32_t sample_random(const sample_row *s, int lane); /* this position's random numbers, 0..3 */

/* sample_history.c: stages that read the history; they work on logits. */
void sample_bias(sample_row *s);
void sample_penalties(sample_row *s);
void sample_dry(sample_row *s);

/* sample_filter.c: stages that cut, on distances from the best. */
void sample_top_n_sigma(sample_row *s);
void sample_top_k(sample_row *s);
void sample_top_p(sample_row *s);
void sample_top_p_of(sample_row *s, uint64_t total); /* where x has not all of the total */
double sample_kth(const sample_row *s, int64_t k);   /* the k-th largest x; k < V */
void sample_min_p(sample_row *s);
void sample_typical(sample_row *s);
void sample_xtc(sample_row *s);

/* sample_mirostat.c */
typedef struct {
    double mu;
    uint64_t mass; /* of all tokens, before the cut */
} sample_miro;
sample_miro sample_mirostat_cut(sample_row *s);
void sample_mirostat_learn(const sample_row *s, const sample_miro *m, uint64_t weight);
/* The k best stay, equal ones by lower id. */
void sample_keep(sample_row *s, int64_t k);
/* The n best tokens, best first, ties to the lower id; returns how many there are. */
int64_t sample_first(sample_row *s, int64_t n, int32_t *id);
