/* SPDX-License-Identifier: Apache-2.0
 * EXPLAIN for an engine: memory by arena and rank, then its plans. */
#include "host/model/engine.h"
#include <inttypes.h>

int64_t engine_act_bytes(const engine_rank *r) {
    return (int64_t)(r->bytes[WEFT_SPACE_FEED] + r->bytes[WEFT_SPACE_ACT] +
                     r->bytes[WEFT_SPACE_OUT] + r->bytes[WEFT_SPACE_STATE] +
                     r->bytes[WEFT_SPACE_SCRATCH]);
}

int engine_bucket(const weft_engine *e, int tokens) {
    int i = 0;
    while (i < e->nbucket - 1 && e->bucket[i] < tokens)
        i++;
    return i;
}

plan_cost engine_plan_cost(const weft_engine *e, int tokens) {
    return plan_total(e->rank[0].generate[engine_bucket(e, tokens)]);
}

static void print_memory(const weft_engine *e, buf *out) {
    static const struct {
        int space;
        const char *name;
    } columns[] = {{WEFT_SPACE_WEIGHT, "weights"},  {WEFT_SPACE_KV, "kv"},
                   {WEFT_SPACE_ACT, "activations"}, {WEFT_SPACE_SCRATCH, "scratch"},
                   {WEFT_SPACE_OUT, "results"},     {WEFT_SPACE_STATE, "state"},
                   {WEFT_SPACE_FEED, "feed"}};
    enum { COLUMNS = sizeof columns / sizeof columns[0] };
    buf_printf(out, "memory (bytes)\n  %4s", "rank");
    for (int c = 0; c < COLUMNS; c++)
        buf_printf(out, " %14s", columns[c].name);
    buf_printf(out, " %14s\n", "total");
    for (int i = 0; i < e->shape.tp; i++) {
        uint64_t total = 0;
        buf_printf(out, "  %4d", i);
        for (int c = 0; c < COLUMNS; c++) {
            total += e->rank[i].bytes[columns[c].space];
            buf_printf(out, " %14" PRIu64, e->rank[i].bytes[columns[c].space]);
        }
        buf_printf(out, " %14" PRIu64 "\n", total);
    }
}

static const char *quant_words(const model_config *c) {
    return c->quant.activations ? ", int8 weights and activations"
           : c->quant.weights   ? ", int8 weights"
                                : "";
}

void engine_plan_text(const weft_engine *e, buf *out) {
    const model_config *c = &e->config;
    const engine_shape *s = &e->shape;
    buf_printf(
        out,
        "%s on %s, %s%s: %" PRId64 " parameters, %" PRId64 " layers, d_model %" PRId64 ", %" PRId64
        " heads (%" PRId64 " kv) of %" PRId64 ", d_ff %" PRId64 ", vocabulary %" PRId64 "\n",
        c->family, e->dev->backend, weft_dtype_name(s->dtype), quant_words(c), config_parameters(c),
        c->n_layers, c->d_model, c->n_heads, c->n_kv_heads, c->head_dim, c->d_ff, c->vocab);
    buf_printf(out, "tp %d, context %d, %d sequence%s, %d pages of %d tokens\n", s->tp, s->ctx,
               s->slots, s->slots == 1 ? "" : "s", s->pages, KV_PAGE);
    print_memory(e, out);
    if (s->tp > 1)
        buf_printf(out, "steps of rank 0; the other ranks run the same over their slices\n");
    plan_print(e->rank[0].generate[0], out);
    if (e->nbucket > 1)
        plan_print(e->rank[0].generate[e->nbucket - 1], out);
}

void engine_plan_json(const weft_engine *e, buf *out) {
    buf_printf(out, "{\"backend\":\"%s\",\"dtype\":\"%s\",\"weights\":\"%s\",\"ranks\":[",
               e->dev->backend, weft_dtype_name(e->shape.dtype),
               weft_dtype_name(e->config.quant.weights ? WEFT_I8 : e->shape.dtype));
    for (int i = 0; i < e->shape.tp; i++) {
        const engine_rank *r = &e->rank[i];
        buf_printf(out, "%s{\"rank\":%d,\"weights_bytes\":%" PRIu64 ",\"kv_bytes\":%" PRIu64,
                   i ? "," : "", i, r->bytes[WEFT_SPACE_WEIGHT], r->bytes[WEFT_SPACE_KV]);
        buf_printf(out, ",\"act_bytes\":%" PRId64 ",\"sent_bytes_per_token\":%" PRId64 "}",
                   engine_act_bytes(r), plan_total(r->generate[0]).sent);
    }
    buf_puts(out, "],\"steps\":[");
    for (int i = 0; i < e->shape.tp; i++) {
        if (i)
            buf_putc(out, ',');
        plan_print_json(e->rank[i].generate[0], out);
        if (e->nbucket > 1) {
            buf_putc(out, ',');
            plan_print_json(e->rank[i].generate[e->nbucket - 1], out);
        }
    }
    buf_puts(out, "]}");
}
