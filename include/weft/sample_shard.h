/* SPDX-License-Identifier: Apache-2.0
 * sample_sharded: a vocabulary that is cut over ranks: each has consecutive tokens' logits, and all
 * come to the token that `sample` finds over the whole row, without any of them seeing it. A row
 * goes through offer, share and verdict, which ranks exchange in between (host/run/comm_sample.c):
 *
 *   offer    the rank's best tokens behind bias and penalties, and what no other exceeds
 *   share    sums over its tokens, in integers: their order does not matter
 *   verdict  the token; or where in whose slice it is; or that the row has to be seen whole
 *
 * A chain that cuts to a few tokens is run on the offers alone, once it is proven that none is
 * missing; a draw from everything finds its place by the shares. Every rank comes to the same
 * verdict, since all see the same offers and shares. */
#pragma once
#include "weft/step.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { SAMPLE_OFFERED = 64 };

typedef struct {
    double x; /* behind bias and penalties */
    float raw;
    int32_t id;
} sample_token;

typedef struct {
    double bound; /* no token of the slice beside those offered has a larger x */
    double most;  /* largest raw logit of the slice */
    int64_t n;
    sample_token token[SAMPLE_OFFERED]; /* ids ascending */
} sample_offer;

typedef struct {
    uint64_t raw[2]; /* of e^(logit - largest) in units of 2^-60, low word first */
    uint64_t weight; /* of the weights at the place of the chain that asks for it */
} sample_share;

/* The likeliest raw logits, descending, ties to the lower id. */
typedef struct {
    int64_t n;
    sample_token token[WEFT_TOP_LOGPROBS]; /* x unused */
} sample_tops;

typedef enum { SAMPLE_CHOSEN, SAMPLE_ELSEWHERE, SAMPLE_UNSURE } sample_kind;
typedef struct {
    int32_t kind, id; /* CHOSEN: -1: there is no token */
    float raw;        /* its logit */
    int32_t owner;    /* ELSEWHERE: the rank in whose slice ... */
    uint64_t at;      /* ... the running sum of weights passes this */
} sample_verdict;

/* One rank's view of the op. */
typedef struct {
    weft_sample_args a; /* logits: the slice, [R, count or more] */
    int64_t vocab, first, count;
    int ranks, rank;
    char *scratch; /* of the row: sample_shard_scratch bytes */
} sample_slice;

size_t sample_shard_scratch(const weft_sample_args *a, int64_t vocab);
/* In what follows offer and share are of rank 0; the next rank's is `stride` elements behind. */
void sample_make_offer(const sample_slice *s, int64_t row, sample_offer *out);
void sample_make_share(const sample_slice *s, int64_t row, const sample_offer *offer,
                       int64_t stride, sample_share *out);
void sample_make_verdict(const sample_slice *s, int64_t row, const sample_offer *offer,
                         const sample_share *share, int64_t stride, sample_verdict *out);
/* Of an ELSEWHERE whose owner this rank is: id and raw. */
void sample_find(const sample_slice *s, int64_t row, const sample_offer *offer, int64_t stride,
                 sample_verdict *v);
void sample_make_tops(const sample_slice *s, int64_t row, sample_tops *out);
/* Writes what `sample` writes of a row; tops NULL: none are asked for. */
void sample_settle(const sample_slice *s, int64_t row, const sample_offer *offer,
                   const sample_share *share, const sample_tops *tops, int64_t stride,
                   const sample_verdict *v);
/* The whole row, as `sample` does it. */
void sample_whole(const sample_slice *s, int64_t row, const float *logits);
/* Whether the row reports alternatives. */
int sample_wants_tops(const sample_slice *s, int64_t row);

#ifdef __cplusplus
}
#endif
