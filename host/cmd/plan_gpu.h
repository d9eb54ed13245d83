/* SPDX-License-Identifier: Apache-2.0
 * `weft plan --gpu`: how long the steps of a plan take at least on GPUs that are not here. The
 * model and where each of its constants comes from: docs/SCALING.md. */
#pragma once
#include "host/model/engine.h"

/* A kind of link between GPUs and what NCCL takes over it. */
typedef struct {
    double gb_s;      /* each way, a GPU */
    double ll_gb_s;   /* most that the protocol LL carries */
    double hop_us[2]; /* a step of a ring: LL, Simple */
} gpu_link;

typedef struct {
    const char *name;
    double memory_gb, read_gb_s, tflop_s, attention_tflop_s;
    double op_us, matmul_us; /* of a step however small: any, one with a matrix */
    double ring_us[2];       /* of a collective however small: LL, Simple */
    int node;                /* GPUs joined by `near` */
    gpu_link near, far;
} gpu_model;

const gpu_model *plan_gpu_find(const char *name); /* NULL: unknown */

/* One generating step for every sequence there may be, at the end of their contexts; one step of a
 * single prompt of ubatch_size tokens behind a full context. */
typedef struct {
    double seconds, busy, comm; /* of a step; of a stage's work on average; of that, talking */
    double tok_s, idle;         /* of all replicas; share of a step that a stage waits */
    int micros;
} gpu_step;

typedef struct {
    gpu_step decode, prefill;
    double memory; /* of the largest rank, bytes */
} gpu_prediction;

void plan_gpu_predict(const weft_engine *e, const gpu_model *g, gpu_prediction *out);
void plan_gpu_text(const weft_engine *e, const gpu_model *g, buf *out);
void plan_gpu_json(const weft_engine *e, const gpu_model *g, buf *out); /* another member */
