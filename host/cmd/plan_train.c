/* SPDX-License-Identifier: Apache-2.0
 * `weft plan --train`: memory by class, operations, and what the scaling laws say. */
#include "host/cmd/plan_train.h"
#include "host/base/mem.h"
#include "host/train/estimate.h"
#include "host/train/options_json.h"
#include "host/train/trainer.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    const plan_train_args *a;
    trainer t;
    train_memory m;
    uint64_t total, kept[3]; /* activations under each --recompute */
    double step_flops, step_tokens, tokens;
    graph_traffic sent; /* bytes a rank sends for a step */
    struct {
        graph_traffic sent;
        uint64_t total;
    } stage[COMM_MAX_RANKS]; /* what a rank of each stage takes */
} sheet;

typedef struct {
    const char *name;
    uint64_t bytes;
} memory_line;

enum { MEMORY_LINES = 9 };

static void list_memory(const train_memory *m, memory_line out[MEMORY_LINES]) {
    const memory_line lines[MEMORY_LINES] = {
        {"weights", m->weights},         {"fp32 weights", m->master},
        {"adapters", m->adapters},       {"gradients", m->gradients},
        {"optimizer state", m->moments}, {"activations", m->activations},
        {"workspace", m->scratch},       {"feed", m->feed},
        {"results", m->results},
    };
    memcpy(out, lines, sizeof lines);
}

static train_options options_of(const plan_train_args *a, const cmd_engine_args *e,
                                const char *model) {
    return (train_options){
        .model = model,
        .from_scratch = a->from_scratch,
        .device = e->device,
        .cpu_level = e->cpu_level,
        .dtype = e->dtype,
        .threads = (int)e->threads,
        .steps = 1,
        .batch = (int)a->batch,
        .micro_batch = (int)a->micro,
        .shards = (int)a->shards,
        .optim = (optim_kind)options_choice(optim_names, a->optimizer),
        .recompute = (recompute_mode)options_choice(recompute_names, a->recompute),
        .ema = a->ema,
        .lora_rank = (int)a->lora_r,
        .lora_alpha = 2.0 * (double)a->lora_r,
        .tp = (int)e->tp,
        .pp = (int)e->pp,
        .interleave = (int)a->interleave,
        .dp = (int)e->dp,
        .zero = (int)a->zero};
}

static weft_status row_tokens(const train_options *o, int64_t asked, int *out) {
    model_config c;
    arena a = {0};
    weft_status s = trainer_config(o, &a, &c, NULL, NULL);
    if (s == WEFT_OK)
        *out = asked ? (int)asked : trainer_default_tokens(&c);
    arena_fini(&a);
    return s;
}

/* Activations of the other settings: a plan each. */
static weft_status fill_kept(sheet *s, const train_options *o, int tokens) {
    for (int mode = RECOMPUTE_NONE; mode <= RECOMPUTE_LAYER; mode++) {
        train_options other = *o;
        trainer t;
        other.recompute = (recompute_mode)mode;
        WEFT_TRY(trainer_open(&other, tokens, true, NULL, &t));
        s->kept[mode] = trainer_memory(&t).activations;
        trainer_close(&t);
    }
    return WEFT_OK;
}

static uint64_t total_of(const train_memory *m) {
    memory_line line[MEMORY_LINES];
    uint64_t n = 0;
    list_memory(m, line);
    for (int i = 0; i < MEMORY_LINES; i++)
        n += line[i].bytes;
    return n;
}

/* Stages have other layers, and the last one the head. */
static weft_status fill_stages(sheet *s, const train_options *o, int tokens) {
    const train_mesh *m = &s->t.mesh;
    for (int pp = 0; m->size.pp > 1 && pp < m->size.pp; pp++) {
        train_options other = *o;
        trainer t;
        other.rank = shard_rank(&m->size, (shard_mesh){.pp = pp});
        WEFT_TRY(trainer_open(&other, tokens, true, NULL, &t));
        train_memory has = trainer_memory(&t);
        s->stage[pp].total = total_of(&has);
        s->stage[pp].sent = graph_sent(&t.g);
        trainer_close(&t);
    }
    return WEFT_OK;
}

/* Of all ranks together: what one alone would do. */
static weft_status fill_flops(sheet *s, const train_options *o, int tokens) {
    train_options alone = *o;
    trainer t;
    alone.tp = alone.pp = alone.dp = alone.zero = alone.interleave = 0;
    WEFT_TRY(trainer_open(&alone, tokens, true, NULL, &t));
    s->step_flops = (double)graph_flops(&t.g);
    trainer_close(&t);
    return WEFT_OK;
}

static weft_status fill_sheet(sheet *s, const train_options *o) {
    int tokens;
    WEFT_TRY(row_tokens(o, s->a->seq_len, &tokens));
    WEFT_TRY(fill_kept(s, o, tokens));
    WEFT_TRY(fill_flops(s, o, tokens));
    WEFT_TRY(trainer_open(o, tokens, true, NULL, &s->t));
    s->m = trainer_memory(&s->t);
    s->total = total_of(&s->m);
    WEFT_TRY(fill_stages(s, o, tokens));
    s->sent = graph_sent(&s->t.g);
    s->step_tokens = (double)o->batch * s->t.g.shape.row_tokens;
    s->tokens = s->a->tokens > 0 ? s->a->tokens : 20 * (double)s->t.params.count;
    return WEFT_OK;
}

/* ---- Text ---- */

static void memory_text(const sheet *s, buf *b) {
    memory_line line[MEMORY_LINES];
    char size[CMD_SIZE_TEXT];
    list_memory(&s->m, line);
    buf_puts(b, "memory (bytes)\n");
    for (int i = 0; i < MEMORY_LINES; i++)
        if (line[i].bytes)
            buf_printf(b, "  %-16s %16" PRIu64 "  %s\n", line[i].name, line[i].bytes,
                       cmd_size(size, (double)line[i].bytes));
    buf_printf(b, "  %-16s %16" PRIu64 "  %s, %.1f bytes a parameter", "total", s->total,
               cmd_size(size, (double)s->total), (double)s->total / (double)s->t.params.count);
    buf_printf(b, " (the rule of 24 GB a billion: %.1f)\n", 24.0);
    buf_puts(b, "  a save while it trains copies weights and state to host memory once more\n");
    buf_puts(b, "activations by --recompute\n");
    for (int i = 0; i < 3; i++)
        buf_printf(b, "  %-16s %16" PRIu64 "  %s\n", recompute_names[i], s->kept[i],
                   cmd_size(size, (double)s->kept[i]));
}

/* "0-4,10-12": the runs of layers that a rank of the pipeline has. */
static void layers_text(const train_mesh *m, int pp, buf *b) {
    const int64_t *run = m->runs + (int64_t)2 * pp * m->chunks;
    for (int c = 0; c < m->chunks; c++)
        buf_printf(b, "%s%" PRId64 "-%" PRId64, c ? "," : "", run[2 * c], run[2 * c + 1] - 1);
}

static void mesh_text(const sheet *s, buf *b) {
    const train_mesh *m = &s->t.mesh;
    const graph *g = &s->t.g;
    char size[CMD_SIZE_TEXT];
    if (m->ranks == 1)
        return;
    buf_printf(
        b, "%d ranks: --tp %d --pp %d --dp %d; a batch is %d of %d of its shards to each --dp\n",
        m->ranks, m->size.tp, m->size.pp, m->size.dp, g->shape.shards / m->size.dp,
        g->shape.shards);
    if (m->size.pp > 1)
        buf_printf(
            b, "%d micro-batches go through %d stages; a rank waits %.1f %% of a step for others\n",
            g->shape.micros, mesh_stages(m), 100 * g->pipe.idle);
    for (int i = 0; m->size.pp > 1 && i < m->size.pp; i++) {
        buf_printf(b, "  rank %d of --pp: layers ", i);
        layers_text(m, i, b);
        buf_printf(b, ", takes %s, sends %" PRId64 " bytes a step\n",
                   cmd_size(size, (double)s->stage[i].total), s->stage[i].sent.all);
    }
    if (s->t.dev->mark && m->size.dp > 1)
        buf_printf(b,
                   "of gradients %" PRId64 " bytes are sent while backward goes on, %" PRId64
                   " after it\n",
                   s->sent.beside, s->sent.behind);
    buf_printf(b, "one of them%s sends %" PRId64 " bytes a step and takes\n",
               m->size.pp > 1 ? " (rank 0)" : "", s->sent.all);
}

static void law_text(const sheet *s, buf *b) {
    double n = (double)s->t.params.count, d = s->tokens, flops = estimate_flops(n, d);
    buf_printf(b, "%.4g tokens (%.1f a parameter): %.4g operations by 6 N D, %.4g PF-days\n", d,
               d / n, flops, estimate_pf_days(flops));
    buf_printf(b, "  %.3g days on %" PRId64 " of %g TFLOP/s at %.0f %%\n",
               estimate_days(flops, (double)s->a->gpus, s->a->tflops, s->a->mfu), s->a->gpus,
               s->a->tflops, 100 * s->a->mfu);
    buf_puts(b, "loss the laws expect (nats a token, on their data)\n");
    for (const scaling_law *l = scaling_laws; l->name; l++)
        buf_printf(b, "  %-12s %.3f  (%s)\n", l->name, l->loss(n, d), l->source);
}

static void text(const sheet *s, buf *b) {
    const trainer *t = &s->t;
    const graph_shape *g = &t->g.shape;
    buf_printf(b, "%s on %s, %s: %" PRId64 " parameters, %" PRId64 " trained\n", t->config.family,
               t->dev->backend, weft_dtype_name(t->g.dtype), t->params.count, t->params.trained);
    buf_printf(b,
               "a step: %d rows of %d tokens, %d rows at once, %d virtual shards, %d gradient "
               "buffer%s, logits of %d tokens at once\n",
               t->o.batch, g->row_tokens, g->rows, g->shards, g->levels, g->levels == 1 ? "" : "s",
               g->chunk);
    mesh_text(s, b);
    memory_text(s, b);
    buf_printf(b, "operations: %.4g a step, %.4g a token (6 N: %.4g)\n", s->step_flops,
               s->step_flops / s->step_tokens, 6 * (double)t->params.count);
    law_text(s, b);
}

/* ---- JSON ---- */

static void stages_json(const sheet *s, buf *b) {
    const train_mesh *m = &s->t.mesh;
    buf_printf(b, ",\"tp\":%d,\"pp\":%d,\"dp\":%d,\"micro_batches\":%d,\"idle\":", m->size.tp,
               m->size.pp, m->size.dp, s->t.g.shape.micros);
    buf_json_double(b, s->t.g.pipe.idle);
    buf_puts(b, ",\"stages\":[");
    for (int i = 0; m->size.pp > 1 && i < m->size.pp; i++) {
        buf_printf(b, "%s{\"layers\":\"", i ? "," : "");
        layers_text(m, i, b);
        buf_printf(b, "\",\"total\":%" PRIu64 ",\"sent_bytes\":%" PRId64 "}", s->stage[i].total,
                   s->stage[i].sent.all);
    }
    buf_puts(b, "]");
}

static void json_of(const sheet *s, buf *b) {
    memory_line line[MEMORY_LINES];
    double n = (double)s->t.params.count, flops = estimate_flops(n, s->tokens);
    list_memory(&s->m, line);
    buf_printf(b, "{\"parameters\":%" PRId64 ",\"trained\":%" PRId64 ",\"ranks\":%d,",
               s->t.params.count, s->t.params.trained, s->t.mesh.ranks);
    buf_printf(b, "\"sent_bytes\":%" PRId64, s->sent.all);
    if (s->t.dev->mark)
        buf_printf(b, ",\"sent_beside_backward\":%" PRId64 ",\"sent_behind_backward\":%" PRId64,
                   s->sent.beside, s->sent.behind);
    stages_json(s, b);
    buf_puts(b, ",\"memory\":{");
    for (int i = 0; i < MEMORY_LINES; i++)
        buf_printf(b, "%s\"%s\":%" PRIu64, i ? "," : "", line[i].name, line[i].bytes);
    buf_printf(b, ",\"total\":%" PRIu64 "},\"activations\":{", s->total);
    for (int i = 0; i < 3; i++)
        buf_printf(b, "%s\"%s\":%" PRIu64, i ? "," : "", recompute_names[i], s->kept[i]);
    buf_printf(b, "},\"flops_per_step\":%.0f,\"tokens_per_step\":%.0f,\"tokens\":%.0f,\"flops\":",
               s->step_flops, s->step_tokens, s->tokens);
    buf_json_double(b, flops);
    buf_puts(b, ",\"pf_days\":");
    buf_json_double(b, estimate_pf_days(flops));
    buf_puts(b, ",\"days\":");
    buf_json_double(b, estimate_days(flops, (double)s->a->gpus, s->a->tflops, s->a->mfu));
    buf_puts(b, ",\"loss\":{");
    for (const scaling_law *l = scaling_laws; l->name; l++) {
        buf_printf(b, "%s\"%s\":", l == scaling_laws ? "" : ",", l->name);
        buf_json_double(b, l->loss(n, s->tokens));
    }
    buf_puts(b, "}}\n");
}

weft_status plan_train(const plan_train_args *a, const cmd_engine_args *e, const char *model,
                       bool json) {
    sheet s = {.a = a};
    train_options o = options_of(a, e, model);
    weft_status st = fill_sheet(&s, &o);
    if (st == WEFT_OK) {
        buf b;
        buf_init(&b, 1 << 20);
        (json ? json_of : text)(&s, &b);
        st = cmd_flush(&b);
        buf_fini(&b);
    }
    trainer_close(&s.t);
    return st;
}
