/* SPDX-License-Identifier: Apache-2.0
 * Where the tensors live that every plan of a rank shares. */
#include "host/model/engine.h"
#include "host/model/sampling.h"

#define TAKE(r, space, member, dtype, ...) \
    (r)->io.member = decoder_take((r)->bytes, WEFT_SPACE_##space, #member, WEFT_##dtype, \
                                  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), \
                                  (int64_t[]){__VA_ARGS__})

static int64_t work_items(const engine_shape *s, const engine_rank *r) {
    return ((s->T + s->query_tile - 1) / s->query_tile + s->S) * r->heads.kv_heads;
}

static void layout_feed(const engine_shape *s, engine_rank *r) {
    TAKE(r, FEED, rows, I32, 1);
    TAKE(r, FEED, nout, I32, 1);
    TAKE(r, FEED, nwork, I32, 1);
    TAKE(r, FEED, ids, I32, s->T);
    TAKE(r, FEED, pos, I32, s->T);
    TAKE(r, FEED, slot, I32, s->T);
    TAKE(r, FEED, qstart, I32, s->S + 1);
    TAKE(r, FEED, qpos, I32, s->S);
    TAKE(r, FEED, kvlen, I32, s->S);
    TAKE(r, FEED, index, I32, s->R);
    TAKE(r, FEED, params, I32, s->R, WEFT_SAMPLE_WORDS);
    TAKE(r, FEED, target, I32, s->score_rows > 0 ? s->score_rows : 1);
    TAKE(r, FEED, work, I32, work_items(s, r), 4);
    TAKE(r, FEED, pages, I32, s->S, s->P);
}

/* Stages before the last sample nothing. Slices of logits are sampled by the host's row alone. */
static void layout_results(const weft_engine *e, engine_rank *r) {
    const engine_shape *s = &e->shape;
    bool slices = s->mesh.tp > 1 && e->dev->host_memory;
    int64_t rows = slices || s->score_rows > s->R ? s->score_rows : s->R;
    if (e->config.position == POSITION_ROPE)
        TAKE(r, STATE, freq, F32, e->config.rope.dims / 2, 2);
    TAKE(r, STATE, last, I32, s->slots);
    if (!engine_samples(e, r))
        return;
    TAKE(r, STATE, history, I32, s->slots, s->ctx + 1);
    TAKE(r, STATE, bias_id, I32, s->slots, WEFT_MAX_BIAS + SAMPLING_HELD);
    TAKE(r, STATE, bias, F32, s->slots, WEFT_MAX_BIAS + SAMPLING_HELD);
    TAKE(r, STATE, breaker, I32, s->slots, sampling_breaker_words(e->config.vocab));
    TAKE(r, STATE, mu, F32, s->slots, s->ctx + 2);
    if (rows > 0)
        TAKE(r, OUT, logits, F32, rows, s->vocab_padded);
    if (slices)
        TAKE(r, OUT, slice, F32, s->R, s->vocab_padded / s->mesh.tp);
    TAKE(r, OUT, id, I32, s->R);
    TAKE(r, OUT, logprob, F32, s->R);
    TAKE(r, OUT, top_id, I32, s->R, WEFT_TOP_LOGPROBS);
    TAKE(r, OUT, top_logprob, F32, s->R, WEFT_TOP_LOGPROBS);
    TAKE(r, OUT, score, F32, s->score_rows > 0 ? s->score_rows : 1);
    if (s->mesh.pp > 1) {
        r->kept = (int64_t)r->bytes[WEFT_SPACE_OUT];
        r->bytes[WEFT_SPACE_OUT] *= 2;
    }
}

/* From the ids to the last of the log-probabilities, which lie one behind the other. */
uint64_t engine_result_bytes(const engine_rank *r) {
    return (uint64_t)(r->io.score.off - r->io.id.off);
}

static void layout_cache(weft_engine *e, engine_rank *r) {
    int64_t layers = e->config.n_layers, d = e->config.head_dim;
    int64_t shape[] = {e->shape.pages, r->heads.kv_heads, KV_PAGE, d};
    r->kcache = ARENA_NEW(&e->mem, decoder_place, layers);
    r->vcache = ARENA_NEW(&e->mem, decoder_place, layers);
    for (int64_t l = r->part.first; l < r->part.last; l++) {
        r->kcache[l] = decoder_take(r->bytes, WEFT_SPACE_KV, "kcache", e->shape.dtype, 4, shape);
        r->vcache[l] = decoder_take(r->bytes, WEFT_SPACE_KV, "vcache", e->shape.dtype, 4, shape);
        if (e->dev->kv_transposed) {
            r->kcache[l].layout.stride[2] = 1;
            r->kcache[l].layout.stride[3] = KV_PAGE;
        }
    }
    r->io.kcache = r->kcache;
    r->io.vcache = r->vcache;
}

void engine_layout(weft_engine *e, engine_rank *r) {
    layout_feed(&e->shape, r);
    layout_results(e, r);
    layout_cache(e, r);
}
