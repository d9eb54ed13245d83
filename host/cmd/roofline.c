/* SPDX-License-Identifier: Apache-2.0
 * Compulsory work from a model's shape. Attention counts every key once a query head; a sliding
 * window is not taken off, so that the share of the ceiling is never flattered by keys unseen. */
#include "host/cmd/roofline.h"
#include "host/base/err.h"
#include "host/base/thread.h"
#include "host/model/engine.h"
#include "host/run/ceiling.h"
#include <string.h>

#define MEASURE_SECONDS 0.3
#define READ_MAX ((int64_t)1 << 30) /* no cache is larger: more would only take memory */

/* K and V of one token in every layer. */
static double kv_token_bytes(const weft_engine_info *m) {
    int64_t pages = (m->ctx_size + KV_PAGE - 1) / KV_PAGE;
    return (double)m->kv_bytes / (double)(pages * KV_PAGE * m->max_seqs);
}

static double head_elements(const weft_engine_info *m) {
    return (double)m->vocab * (double)m->d_model;
}

/* q.k and p.v for one query over `keys` keys in every layer. */
static double attention_flops(const weft_engine_info *m, double keys) {
    return 4.0 * keys * (double)m->n_heads * (double)m->head_dim * (double)m->n_layers;
}

roofline_work roofline_prefill(const weft_engine_info *m, int64_t prompt, int64_t depth) {
    double all = (double)m->weights_token, head = head_elements(m);
    roofline_work w = {.flops = 2 * ((all - head) * (double)prompt + head)};
    for (int64_t at = 0; at < prompt; at += m->ubatch_size) {
        int64_t end = at + m->ubatch_size < prompt ? at + m->ubatch_size : prompt;
        double queries = (double)(end - at), keys = (double)(depth + end);
        w.bytes += (double)m->weight_bytes_token + keys * kv_token_bytes(m);
        w.flops += attention_flops(m, queries * (keys - (queries - 1) / 2));
    }
    return w;
}

roofline_work roofline_decode(const weft_engine_info *m, int64_t steps, int64_t batch,
                              int64_t depth) {
    double n = (double)steps, b = (double)batch, elements = (double)m->weights_token;
    double keys = n * ((double)depth + (n + 1) / 2); /* of one sequence, over all steps */
    return (roofline_work){
        .bytes = n * (double)m->weight_bytes_token + b * keys * kv_token_bytes(m),
        .flops = b * (n * 2 * elements + attention_flops(m, keys)),
    };
}

/* Whether the model's products run on instructions that are faster than fp32 ones. */
static bool pairs_of_bf16(const weft_engine *e) {
    const weft_plan *p = e->rank[0].generate[e->nbucket - 1];
    for (int i = 0; i < p->nstep; i++)
        if (p->step[i].kernel->arith == WEFT_ARITH_BF16DOT)
            return true;
    return false;
}

static bool on_matrix_units(const weft_engine *e) {
    const weft_plan *p = e->rank[0].generate[e->nbucket - 1];
    for (int i = 0; i < p->nstep; i++)
        if (p->step[i].kernel->arith == WEFT_ARITH_MMA)
            return true;
    return false;
}

static weft_status measure_gpu(const weft_engine *e, int64_t bytes, roofline_ceiling *out) {
    ceiling_rates r;
    WEFT_TRY(ceiling_gpu(e->dev, bytes, MEASURE_SECONDS, &r));
    out->gb_s = r.read * 1e-9;
    out->gflop_s = (on_matrix_units(e) ? r.matrix : r.fp32) * 1e-9;
    return WEFT_OK;
}

weft_status roofline_measure(const weft_engine *e, roofline_ceiling *out) {
    weft_engine_info m;
    weft_stream *s = NULL;
    weft_engine_describe(e, &m);
    int here = device_cpu_level(), level = e->dev->level < here ? e->dev->level : here;
    int64_t bytes = m.weight_bytes < READ_MAX ? m.weight_bytes : READ_MAX;
    if (e->dev->loops)
        return measure_gpu(e, bytes, out);
    WEFT_TRY(thread_pool_open(m.threads, &s));
    out->gb_s = ceiling_read(s, level, bytes, MEASURE_SECONDS) * 1e-9;
    double fp32 = ceiling_fma(s, level, MEASURE_SECONDS) * 1e-9, bf16 = 0;
    if (pairs_of_bf16(e))
        bf16 = ceiling_bf16(s, here, MEASURE_SECONDS) * 1e-9;
    out->gflop_s = bf16 > fp32 ? bf16 : fp32;
    thread_pool_close(s);
    if (out->gb_s > 0 && out->gflop_s > 0)
        return WEFT_OK;
    return weft_fail(WEFT_NO_MEMORY, "ceiling: no memory to measure it (%lld bytes)",
                     (long long)bytes);
}
