/* SPDX-License-Identifier: Apache-2.0
 * EXPLAIN for an engine: memory by arena and rank, then its plans. */
#include "host/model/engine.h"
#include <inttypes.h>
#include <stdio.h>

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

/* What a rank of the job does: every replica does the same. */
static const engine_rank *planned(const weft_engine *e, int rank) {
    return &e->rank[rank % e->shape.ranks];
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
    for (int i = 0; i < shard_ranks(&e->shape.mesh); i++) {
        const engine_rank *r = planned(e, i);
        uint64_t total = 0;
        buf_printf(out, "  %4d", i);
        for (int c = 0; c < COLUMNS; c++) {
            total += r->bytes[columns[c].space];
            buf_printf(out, " %14" PRIu64, r->bytes[columns[c].space]);
        }
        buf_printf(out, " %14" PRIu64 "\n", total);
    }
}

/* ---- Many ranks ---- */

/* Micro-batches of the longest step. */
static int micros(const engine_shape *s) {
    return (s->T + s->micro - 1) / s->micro;
}

/* What a stage does for one token, or for a micro-batch of the longest step: bytes there, since a
 * token waits for memory, operations here. */
static double stage_cost(const weft_engine *e, int stage, bool whole) {
    const engine_rank *r = &e->rank[shard_rank(&e->shape.mesh, (shard_mesh){0, stage, 0})];
    plan_cost c = plan_total(r->generate[whole ? e->nbucket - 1 : 0]);
    return (double)(whole ? c.flops : c.bytes);
}

double engine_bubble(const weft_engine *e, int stage, bool whole) {
    int n = whole ? micros(&e->shape) : 1;
    double sum = 0, most = 0;
    for (int s = 0; s < e->shape.mesh.pp; s++) {
        double cost = stage_cost(e, s, whole);
        sum += cost;
        most = cost > most ? cost : most;
    }
    return 1 - n * stage_cost(e, stage, whole) / (sum + (n - 1) * most);
}

int64_t engine_step_sent(const weft_engine *e, const engine_rank *r) {
    const engine_shape *s = &e->shape;
    int rest = s->T % s->micro;
    int64_t full = plan_total(r->generate[e->nbucket - 1]).sent * (s->T / s->micro);
    return full + (rest ? plan_total(r->generate[engine_bucket(e, rest)]).sent : 0);
}

static void print_traffic(const weft_engine *e, buf *out) {
    const engine_shape *s = &e->shape;
    if (s->ranks == 1)
        return;
    buf_printf(out, "ranks (bytes sent; a step is of %d tokens in %d micro-batch%s)\n", s->T,
               micros(s), micros(s) == 1 ? "" : "es");
    buf_printf(out, "  %4s %6s %6s %9s %14s %14s", "rank", "stage", "slice", "layers", "sent/token",
               "sent/step");
    buf_printf(out, s->mesh.pp > 1 ? " %12s %12s\n" : "\n", "idle/token", "idle/step");
    for (int i = 0; i < shard_ranks(&s->mesh); i++) {
        const engine_rank *r = planned(e, i);
        char layers[32];
        snprintf(layers, sizeof layers, "%lld-%lld", (long long)r->part.first,
                 (long long)r->part.last - 1);
        buf_printf(out, "  %4d %6d %6d %9s %14" PRId64 " %14" PRId64, i, r->place.pp, r->place.tp,
                   layers, plan_total(r->generate[0]).sent, engine_step_sent(e, r));
        if (s->mesh.pp > 1)
            buf_printf(out, " %10.1f %% %10.1f %%", 100 * engine_bubble(e, r->place.pp, false),
                       100 * engine_bubble(e, r->place.pp, true));
        buf_putc(out, '\n');
    }
}

/* A plan a stage: ranks of one stage run the same steps over their slices. */
static void print_plans(const weft_engine *e, int bucket, buf *out) {
    for (int p = 0; p < e->shape.mesh.pp; p++)
        plan_print(e->rank[shard_rank(&e->shape.mesh, (shard_mesh){0, p, 0})].generate[bucket],
                   out);
}

static const char *quant_words(const model_config *c) {
    return c->quant.activations ? ", int8 weights and activations"
           : c->quant.weights   ? ", int8 weights"
                                : "";
}

void engine_plan_text(const weft_engine *e, bool steps, buf *out) {
    const model_config *c = &e->config;
    const engine_shape *s = &e->shape;
    buf_printf(
        out,
        "%s on %s, %s%s: %" PRId64 " parameters, %" PRId64 " layers, d_model %" PRId64 ", %" PRId64
        " heads (%" PRId64 " kv) of %" PRId64 ", d_ff %" PRId64 ", vocabulary %" PRId64 "\n",
        c->family, e->dev->backend, weft_dtype_name(s->dtype), quant_words(c), config_parameters(c),
        c->n_layers, c->d_model, c->n_heads, c->n_kv_heads, c->head_dim, c->d_ff, c->vocab);
    buf_printf(out, "tp %d, ", s->mesh.tp);
    if (s->mesh.pp > 1)
        buf_printf(out, "pp %d, ", s->mesh.pp);
    if (s->mesh.dp > 1)
        buf_printf(out, "dp %d, each of them ", s->mesh.dp);
    buf_printf(out, "context %d, %d sequence%s, %d pages of %d tokens\n", s->ctx, s->slots,
               s->slots == 1 ? "" : "s", s->pages, KV_PAGE);
    print_memory(e, out);
    print_traffic(e, out);
    if (!steps)
        return;
    if (s->mesh.tp > 1)
        buf_printf(out, "steps of slice 0; the other ranks run the same over their slices\n");
    print_plans(e, 0, out);
    if (e->nbucket > 1)
        print_plans(e, e->nbucket - 1, out);
}

void engine_plan_json(const weft_engine *e, bool steps, buf *out) {
    buf_printf(out, "{\"backend\":\"%s\",\"dtype\":\"%s\",\"weights\":\"%s\",\"ranks\":[",
               e->dev->backend, weft_dtype_name(e->shape.dtype),
               weft_dtype_name(e->config.quant.weights ? WEFT_I8 : e->shape.dtype));
    for (int i = 0; i < shard_ranks(&e->shape.mesh); i++) {
        const engine_rank *r = planned(e, i);
        buf_printf(out, "%s{\"rank\":%d,\"replica\":%d", i ? "," : "", i, i / e->shape.ranks);
        buf_printf(out, ",\"weights_bytes\":%" PRIu64 ",\"kv_bytes\":%" PRIu64,
                   r->bytes[WEFT_SPACE_WEIGHT], r->bytes[WEFT_SPACE_KV]);
        buf_printf(out, ",\"act_bytes\":%" PRId64 ",\"sent_bytes_per_token\":%" PRId64,
                   engine_act_bytes(r), plan_total(r->generate[0]).sent);
        buf_printf(out, ",\"sent_bytes_per_step\":%" PRId64 ",\"stage\":%d,\"slice\":%d",
                   engine_step_sent(e, r), r->place.pp, r->place.tp);
        buf_printf(out, ",\"layers\":[%lld,%lld],\"idle_token\":%.4f,\"idle_step\":%.4f}",
                   (long long)r->part.first, (long long)r->part.last,
                   engine_bubble(e, r->place.pp, false), engine_bubble(e, r->place.pp, true));
    }
    buf_puts(out, "],\"steps\":[");
    for (int i = 0; steps && i < e->shape.ranks; i++) {
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
