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
    int64_t sent; /* bytes a rank sends for a step */
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
        .dp = (int)a->dp,
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

/* Of all ranks together: what one alone would do. */
static weft_status fill_flops(sheet *s, const train_options *o, int tokens) {
    train_options alone = *o;
    trainer t;
    alone.tp = alone.pp = alone.dp = alone.zero = 0;
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
    memory_line line[MEMORY_LINES];
    s->m = trainer_memory(&s->t);
    list_memory(&s->m, line);
    for (int i = 0; i < MEMORY_LINES; i++)
        s->total += line[i].bytes;
    s->sent = graph_sent_bytes(&s->t.g);
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
    if (g->ranks > 1)
        buf_printf(b,
                   "%d ranks of %d of these shards each; one of them sends %" PRId64
                   " bytes a step and takes\n",
                   g->ranks, g->shards / g->ranks, s->sent);
    memory_text(s, b);
    buf_printf(b, "operations: %.4g a step, %.4g a token (6 N: %.4g)\n", s->step_flops,
               s->step_flops / s->step_tokens, 6 * (double)t->params.count);
    law_text(s, b);
}

/* ---- JSON ---- */

static void json_of(const sheet *s, buf *b) {
    memory_line line[MEMORY_LINES];
    double n = (double)s->t.params.count, flops = estimate_flops(n, s->tokens);
    list_memory(&s->m, line);
    buf_printf(b, "{\"parameters\":%" PRId64 ",\"trained\":%" PRId64 ",\"ranks\":%d,",
               s->t.params.count, s->t.params.trained, s->t.g.shape.ranks);
    buf_printf(b, "\"sent_bytes\":%" PRId64 ",\"memory\":{", s->sent);
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
