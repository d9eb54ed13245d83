/* SPDX-License-Identifier: Apache-2.0
 * Roofline step by step, NCCL's own model of a ring, and a pipeline that fills and drains. */
#include "host/cmd/plan_gpu.h"
#include "host/run/comm.h"
#include <string.h>

/* Sources in docs/SCALING.md, which tests/e2e/test_distributed_doc.py holds to these. */
static const gpu_model gpus[] = {
    {.name = "h200",
     .memory_gb = 141,
     .read_gb_s = 4500,
     .tflop_s = 622,
     .attention_tflop_s = 119,
     .op_us = 1.8,
     .matmul_us = 6.1,
     .ring_us = {6.6, 8.4},
     .node = 8,
     .near = {450, 141, {0.6, 3.4}},
     .far = {50, 35, {2.7, 14.0}}},
};

const gpu_model *plan_gpu_find(const char *name) {
    for (size_t i = 0; i < sizeof gpus / sizeof gpus[0]; i++)
        if (strcmp(gpus[i].name, name) == 0)
            return &gpus[i];
    return NULL;
}

/* ---- One step of a plan ---- */

/* What of a plan's bucket is true: tokens, and sequences of those whose keys it counts. */
typedef struct {
    const weft_engine *e;
    const gpu_model *g;
    double tokens, seqs;
} load;

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* A plan counts the keys of every sequence there may be for each token. */
static double attention_seconds(const load *l, const weft_step *s, double bucket) {
    double slots = l->e->shape.slots;
    double read = (double)s->bytes * l->seqs / slots / (l->g->read_gb_s * 1e9);
    double compute = (double)s->flops * l->tokens / bucket / slots;
    return l->g->op_us * 1e-6 + larger(read, compute / (l->g->attention_tflop_s * 1e12));
}

static double op_seconds(const load *l, const weft_step *s, double bucket) {
    bool matrix = s->kernel->op == WEFT_OP_matmul;
    if (s->kernel->op == WEFT_OP_attention)
        return attention_seconds(l, s, bucket);
    double read = (double)s->bytes / (l->g->read_gb_s * 1e9);
    double compute = matrix ? (double)s->flops / (l->g->tflop_s * 1e12) : 0;
    return (matrix ? l->g->matmul_us : l->g->op_us) * 1e-6 + larger(read, compute);
}

/* NCCL's estimate of a ring over n ranks, the better of LL and Simple, sending so many bytes. */
static double ring_seconds(const gpu_model *g, const gpu_link *k, int n, double bytes) {
    double ll = g->ring_us[0] + (n - 1) * k->hop_us[0], simple = g->ring_us[1];
    simple += (n - 1) * k->hop_us[1];
    double low = ll * 1e-6 + bytes / (larger(1, k->ll_gb_s) * 1e9);
    double high = simple * 1e-6 + bytes / (k->gb_s * 1e9);
    return low < high ? low : high;
}

static int host_of(const gpu_model *g, int rank) {
    return rank / g->node;
}

/* Slices of a stage are neighbours; the next stage's come behind them. */
static double comm_seconds(const load *l, const engine_rank *r, const weft_step *s) {
    const shard_mesh *m = &l->e->shape.mesh;
    const gpu_model *g = l->g;
    int group = comm_group_of(s->kernel->op, &s->args), ranks = group == WEFT_GROUP_PP ? 2 : m->tp;
    int base = r->rank - r->place.tp, last = base + m->tp - 1;
    if (group == WEFT_GROUP_PP)
        last = s->kernel->op == WEFT_OP_send ? base + m->tp : base - m->tp;
    double bytes = (double)comm_sent_bytes(s->kernel->op, &s->args, ranks, r->place.tp);
    const gpu_link *k = host_of(g, base) == host_of(g, last) ? &g->near : &g->far;
    return s->kernel->op == WEFT_OP_recv ? 0 : ring_seconds(g, k, ranks, bytes);
}

/* Seconds of a micro-batch in a stage; *talk of them in collectives. */
static double stage_seconds(const load *l, int stage, double *talk) {
    const weft_engine *e = l->e;
    const engine_rank *r = &e->rank[shard_rank(&e->shape.mesh, (shard_mesh){0, stage, 0})];
    const weft_plan *p = r->generate[engine_bucket(e, (int)l->tokens)];
    double work = 0;
    *talk = 0;
    for (int i = 0; i < p->nstep; i++) {
        if (weft_op_table[p->step[i].kernel->op].flags & WEFT_COMM)
            *talk += comm_seconds(l, r, &p->step[i]);
        else
            work += op_seconds(l, &p->step[i], p->bucket_tokens);
    }
    return work + *talk;
}

/* ---- A step through the pipeline ---- */

static gpu_step predict_step(const weft_engine *e, const gpu_model *g, int tokens, bool decode) {
    int pp = e->shape.mesh.pp, micro = tokens < e->shape.micro ? tokens : e->shape.micro;
    load l = {e, g, micro, decode ? micro : 1};
    gpu_step s = {.micros = (tokens + micro - 1) / micro};
    double sum = 0, most = 0, talk = 0;
    for (int i = 0; i < pp; i++) {
        double talking, one = stage_seconds(&l, i, &talking);
        sum += one;
        talk += talking;
        most = larger(most, one);
    }
    s.seconds = sum + (s.micros - 1) * most;
    s.busy = sum / pp * s.micros;
    s.comm = talk / sum;
    s.idle = 1 - s.busy / s.seconds;
    s.tok_s = e->shape.mesh.dp * tokens / s.seconds;
    return s;
}

void plan_gpu_predict(const weft_engine *e, const gpu_model *g, gpu_prediction *out) {
    *out = (gpu_prediction){.decode = predict_step(e, g, e->shape.S, true),
                            .prefill = predict_step(e, g, e->shape.T, false)};
    for (int i = 0; i < e->shape.ranks; i++) {
        double bytes = 0;
        for (int k = 0; k < WEFT_SPACES; k++)
            bytes += (double)e->rank[i].bytes[k];
        out->memory = larger(out->memory, bytes);
    }
}

/* ---- Output ---- */

static void step_text(const char *what, const gpu_step *s, buf *out) {
    buf_printf(out, "  %-8s %10.2f ms a step %12.0f tok/s  talking %4.1f %%  waiting %4.1f %%",
               what, s->seconds * 1e3, s->tok_s, 100 * s->comm, 100 * s->idle);
    buf_printf(out, s->micros > 1 ? "  (%d micro-batches)\n" : "\n", s->micros);
}

void plan_gpu_text(const weft_engine *e, const gpu_model *g, buf *out) {
    const engine_shape *s = &e->shape;
    gpu_prediction p;
    plan_gpu_predict(e, g, &p);
    int ranks = shard_ranks(&s->mesh);
    buf_printf(out, "on %d %s, %d to a node, at best (docs/SCALING.md)\n", ranks, g->name, g->node);
    buf_printf(out, "  memory   %10.1f GB of the largest rank, of %.0f GB: %s\n", p.memory * 1e-9,
               g->memory_gb, p.memory * 1e-9 <= g->memory_gb ? "fits" : "does not fit");
    step_text("decode", &p.decode, out);
    step_text("prefill", &p.prefill, out);
    buf_printf(out, "  decode is %d sequence%s at %d tokens, each %.1f tok/s; prefill %d tokens\n",
               s->mesh.dp * s->S, s->mesh.dp * s->S == 1 ? "" : "s", s->ctx, 1 / p.decode.seconds,
               s->T);
}

static void step_json(const char *what, const gpu_step *s, buf *out) {
    buf_printf(out, ",\"%s\":{\"seconds\":%.6e,\"tok_s\":%.3f,\"comm\":%.4f,\"idle\":%.4f", what,
               s->seconds, s->tok_s, s->comm, s->idle);
    buf_printf(out, ",\"micro_batches\":%d}", s->micros);
}

void plan_gpu_json(const weft_engine *e, const gpu_model *g, buf *out) {
    gpu_prediction p;
    plan_gpu_predict(e, g, &p);
    buf_printf(out, ",\"gpu\":{\"name\":\"%s\",\"gpus\":%d,\"memory_bytes\":%.0f,\"fits\":%s",
               g->name, shard_ranks(&e->shape.mesh), p.memory,
               p.memory * 1e-9 <= g->memory_gb ? "true" : "false");
    step_json("decode", &p.decode, out);
    step_json("prefill", &p.prefill, out);
    buf_putc(out, '}');
}
