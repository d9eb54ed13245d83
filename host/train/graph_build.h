/* SPDX-License-Identifier: Apache-2.0
 * What the files that build a training run's plans share: one plan's builder, and where gradients
 * lie. */
#pragma once
#include "host/train/graph.h"

enum { GRAPH_HANDED = 4 };

typedef struct {
    graph *g;
    plan_builder b;
    int level;   /* gradient buffer */
    int chunk;   /* of layers */
    int *of;     /* parameter by value id, -1: none */
    bool *input; /* by value id: the embedding as rows that ids pick */
    int cap;
    struct {
        const param *p;
        bool input;
        weft_tensor whole;  /* [ranks * rows of a part, cols] */
    } handed[GRAPH_HANDED]; /* gradients given out that no exchange has summed yet */
    int nhanded;
    int *left; /* [buckets] gradients that are not complete, -1: it is summed; NULL: nothing is */
    weft_tensor *again; /* [params] matrices of a layer, gathered for its backward */
    int again_layer;
} graph_builder;

/* Appends a step: PUSH(u, add, "tag", .a = x, ...). */
#define PUSH(u, op_, tag, ...) \
    plan_push(&(u)->b, WEFT_OP_##op_, &(weft_args){.op_ = {__VA_ARGS__}}, 0, "%s", tag)

/* Rows of a parameter whose state `rank` keeps. */
typedef struct {
    int64_t begin, end;
} graph_rows;

graph_rows graph_rows_of(const graph *g, const param *p, int rank);

/* A plan with gradients in buffer `level`, of the layers of `chunk`: what is pushed until the end.
 * One at a time: the callbacks' user is the builder. */
void graph_begin(graph_builder *u, graph *g, int chunk, int level);
/* Arenas become large enough for it. */
weft_status graph_end(graph_builder *u, weft_plan **out);
weft_tensor graph_fixed(graph_builder *u, const decoder_place *p);
/* Where a trained parameter's gradient gathers: its window. `input`: that of a tied embedding's
 * rows as inputs. */
weft_tensor graph_grad(graph_builder *u, const param *p, bool input);
/* The same where ranks keep it in parts: this one's rows. */
weft_tensor graph_own_grad(graph_builder *u, const param *p, bool input);
/* Squares of a parameter's rows: leaves of each, and how many there are in all. */
int graph_square_leaves(const param *p);
int64_t graph_squares_of(const param *p);

/* graph_micro.c. last: of a step's micro-batches, where ranks have to sum. */
weft_status graph_build_micro(graph *g, int chunk, int level, bool last, graph_micro *out);
weft_status graph_build_validate(graph *g, int chunk, weft_plan **out);
/* graph_sum.c: gradients that every rank has whole become the sum of all levels and ranks, bucket
 * by bucket, as soon as each is complete. A gradient is given out; steps for those given out are
 * pushed; all are. */
void graph_sum_begin(graph_builder *u);
void graph_sum_given(graph_builder *u, const param *p, bool input);
void graph_sum_ready(graph_builder *u);
void graph_sum_end(graph_builder *u);
/* graph_update.c */
weft_status graph_build_fold(graph *g, int chunk, int level, weft_plan **out);
weft_status graph_build_finish(graph *g, weft_plan **out);
weft_status graph_build_update(graph *g, weft_plan **out);
weft_status graph_build_refresh(graph *g, weft_plan **out);
