/* SPDX-License-Identifier: Apache-2.0
 * Compulsory work from a model's shape. Attention counts every key once a query head; a sliding
 * window is not taken off, so that the share of the ceiling is never flattered by keys unseen. */
#include "host/cmd/roofline.h"
#include "host/run/ceiling.h"
#include "host/run/device.h"
#include "host/run/kv.h"
#include <string.h>

static double element_bytes(const weft_engine_info *m) {
    return strcmp(m->dtype, "fp32") == 0 ? 4 : 2;
}

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
    double all = (double)m->weight_bytes_token / element_bytes(m), head = head_elements(m);
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
    double n = (double)steps, b = (double)batch,
           elements = (double)m->weight_bytes_token / element_bytes(m);
    double keys = n * ((double)depth + (n + 1) / 2); /* of one sequence, over all steps */
    return (roofline_work){
        .bytes = n * (double)m->weight_bytes_token + b * keys * kv_token_bytes(m),
        .flops = b * (n * 2 * elements + attention_flops(m, keys)),
    };
}

roofline_ceiling roofline_measure(const weft_engine_info *m) {
    return (roofline_ceiling){
        .gb_s = ceiling_read_gbs(m->threads, (uint64_t)m->weight_bytes),
        .gflop_s = ceiling_fma_gflops(m->threads, device_cpu_level()),
    };
}
