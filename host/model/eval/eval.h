/* SPDX-License-Identifier: Apache-2.0
 * Evaluation of a model on a file: texts become requests of the scorer, and its log-probabilities
 * metrics. Definitions are those of EleutherAI's lm-evaluation-harness (0.4), task by task, each
 * stated in docs/EVAL.md.
 *
 *     eval_set s;
 *     eval_open(&s, task, file, limit);      reads the rows; eval_close in any case
 *     eval_encode(&s, &coder);               texts to tokens; s.longest: a context that holds all
 *     score_requests(engine of that context, s.request, s.nrequest, ...), after eval_truncate
 *     eval_finish(&s, &result); */
#pragma once
#include "host/base/mem.h"
#include "host/model/eval/rows.h"
#include "host/model/eval/scoring.h"
#include "host/model/tokenizer/tokenizer.h"
#include "weft/status.h"

enum { EVAL_MAX_CHOICES = 64, EVAL_MAX_METRICS = 16 };

/* Is `continuation` likely after `context`? choice: what acc_norm counts the characters of. */
typedef struct {
    text context, continuation, choice;
} eval_pair;

typedef struct {
    int64_t line; /* in the file, from 1 */
    int n, gold;  /* pairs; which of them is right */
    eval_pair *pair;
    int64_t request; /* of its first pair, in eval_set.request */
} eval_item;

typedef enum { EVAL_CHOICE, EVAL_LAMBADA, EVAL_PERPLEXITY, EVAL_TRANSLATION } eval_kind;

typedef struct {
    const char *name, *summary;
    eval_kind kind;
    bool norm;                                         /* report acc_norm and acc_bytes */
    weft_status (*item)(const row *r, eval_item *out); /* NULL: no rows of choices */
} eval_task;

extern const eval_task eval_tasks[]; /* ended by a NULL name */
const eval_task *eval_task_find(const char *name);
/* hellaswag's preprocess(): WikiHow's "[title]" and bracketed remarks go. */
text eval_hellaswag_text(arena *a, text t);

typedef struct {
    const tokenizer *tok;
    int32_t bos;    /* put before every context; -1: nothing */
    int32_t prefix; /* what an empty context is replaced by: BOS or EOS; -1: there is none */
    int32_t window, stride; /* perplexity: tokens of a window with its BOS; 1..window-1 */
} eval_coder;

typedef struct {
    const eval_task *task;
    const char *file;
    arena a;
    eval_item *item; /* perplexity: the documents, a pair each with the text as context */
    int64_t nitem;
    score_request *request;
    int64_t nrequest;
    int32_t longest;                     /* tokens of the longest request */
    int64_t tokens;                      /* perplexity: of the texts, without BOS */
    int64_t truncated;                   /* requests that were cut from the left */
    eval_pair scratch[EVAL_MAX_CHOICES]; /* of the item being read */
} eval_set;

typedef struct {
    const char *name;
    double value, se; /* standard error; NAN: none */
} eval_metric;

typedef struct {
    eval_metric m[EVAL_MAX_METRICS];
    int n;
    int64_t scored; /* tokens */
} eval_result;

weft_status eval_open(eval_set *s, const eval_task *task, const char *file, int64_t limit);
void eval_close(eval_set *s);
weft_status eval_encode(eval_set *s, const eval_coder *c);
/* As the harness: only the last ctx + 1 tokens of a request are kept, ctx of which are input.
 * WEFT_USAGE, naming the line, if not even the continuation fits. */
weft_status eval_truncate(eval_set *s, int32_t ctx);
void eval_finish(const eval_set *s, eval_result *out);
/* Sum of a request's log-probabilities, in fp64. */
double eval_sum(const score_request *r);
/* The item's choice of the largest sum, over its count of characters (per = 1) or bytes (2). */
int eval_pick(const eval_set *s, const eval_item *it, int per);
void eval_add(eval_result *r, const char *name, double value, double se);

/* Mean, and its standard error: s / sqrt(n) with s^2 = sum (x - mean)^2 / (n - 1); NAN if n < 2. */
typedef struct {
    int64_t n;
    double sum, mean, m2; /* mean and m2 by Welford's recurrence */
} eval_mean;
void eval_mean_add(eval_mean *m, double x);
double eval_mean_of(const eval_mean *m); /* sum / n */
double eval_mean_se(const eval_mean *m);
