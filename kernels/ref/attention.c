/* SPDX-License-Identifier: Apache-2.0
 * attention: one (query, head) is two ascending passes in double over its visible keys, the
 * largest score and then the weighted sum. Nothing else enters: no chunk, batch or page. */
#include "kernels/ref/ref.h"

enum { MAX_WIDTH = 1024 }; /* of a head: the query, a key and the sum are on the stack */

int ref_attention_ok(const weft_args *args) {
    const weft_attention_args *a = &args->attention;
    return ref_is_float(&a->q) && ref_is_float(&a->k) && ref_is_float(&a->v) &&
           ref_is_float(&a->y) && ref_is_float_or_absent(&a->lse) &&
           ref_is_float_or_absent(&a->slopes) && ref_is_float_or_absent(&a->bias) &&
           ref_is_float_or_absent(&a->sinks) && a->group > 0 && a->q.shape[2] <= MAX_WIDTH &&
           a->v.shape[a->v.ndim - 1] <= MAX_WIDTH;
}

/* One query of one head. */
typedef struct {
    const weft_attention_args *a;
    int64_t seq, row, head, kv_head;
    int64_t pos;         /* absolute position of the query */
    int64_t first, last; /* keys [first, last) are visible */
    double q[MAX_WIDTH];
} attention_query;

/* Offset of key or value j of the query's sequence. */
static int64_t attention_key(const attention_query *u, const weft_tensor *t, int64_t j) {
    const weft_attention_args *a = u->a;
    if (!weft_has(&a->pages)) {
        int64_t row = ref_int(&a->qstart, u->seq * a->qstart.stride[0]) + j;
        return row * t->stride[0] + u->kv_head * t->stride[1];
    }
    int64_t size = t->shape[2], at = u->seq * a->pages.stride[0] + j / size * a->pages.stride[1];
    return ref_int(&a->pages, at) * t->stride[0] + u->kv_head * t->stride[1] +
           j % size * t->stride[2];
}

static double attention_score(const attention_query *u, int64_t j) {
    const weft_attention_args *a = u->a;
    int64_t width = a->q.shape[2], d = j - u->pos;
    double k[MAX_WIDTH], dot = 0;
    ref_load(&a->k, attention_key(u, &a->k, j), a->k.stride[a->k.ndim - 1], width, k);
    for (int64_t i = 0; i < width; i++)
        dot += u->q[i] * k[i];
    dot *= a->scale;
    if (a->softcap > 0)
        dot = a->softcap * weft_tanh(dot / a->softcap);
    if (weft_has(&a->slopes))
        dot += ref_get(&a->slopes, u->head * a->slopes.stride[0]) * (double)d;
    if (weft_has(&a->bias)) {
        int64_t most = (a->bias.shape[1] - 1) / 2, near = d < -most ? -most : d > most ? most : d;
        dot += ref_get(&a->bias, u->head * a->bias.stride[0] + (near + most) * a->bias.stride[1]);
    }
    return dot;
}

/* The masks are intervals: what is left is one run of keys. */
static void attention_see(attention_query *u) {
    const weft_attention_args *a = u->a;
    u->first = 0;
    u->last = ref_int(&a->kvlen, u->seq * a->kvlen.stride[0]);
    if (a->causal && u->last > u->pos + 1)
        u->last = u->pos + 1;
    if (a->window > 0 && u->pos - a->window + 1 > 0)
        u->first = u->pos - a->window + 1;
}

static void attention_one(const attention_query *u) {
    const weft_attention_args *a = u->a;
    int64_t width = a->y.shape[2], vs = a->v.stride[a->v.ndim - 1];
    double sum[MAX_WIDTH] = {0}, v[MAX_WIDTH], most = -INFINITY, total = 0;
    double sink = weft_has(&a->sinks) ? ref_get(&a->sinks, u->head * a->sinks.stride[0]) : most;
    for (int64_t j = u->first; j < u->last; j++) {
        double s = attention_score(u, j);
        most = s > most || s != s ? s : most;
    }
    most = sink > most ? sink : most;
    double zero = most == -INFINITY ? 0.0 : most; /* no key, or keys of -infinity: weights 0 */
    for (int64_t j = u->first; j < u->last; j++) {
        double p = weft_exp(attention_score(u, j) - zero);
        total += p;
        ref_load(&a->v, attention_key(u, &a->v, j), vs, width, v);
        for (int64_t i = 0; i < width; i++)
            sum[i] += p * v[i];
    }
    total += weft_exp(sink - zero);
    int64_t y = u->row * a->y.stride[0] + u->head * a->y.stride[1];
    for (int64_t i = 0; i < width; i++)
        ref_put(&a->y, y + i * a->y.stride[2], total == 0 ? 0.0 : sum[i] / total);
    if (weft_has(&a->lse))
        ref_put(&a->lse, u->row * a->lse.stride[0] + u->head * a->lse.stride[1],
                zero + weft_log(total));
}

/* All heads that read the item's kv head, for one query of it. */
static void attention_heads(attention_query *u) {
    const weft_attention_args *a = u->a;
    attention_see(u);
    for (u->head = 0; u->head < a->q.shape[1]; u->head++) {
        if ((u->head + a->head0) / a->group != u->kv_head)
            continue;
        ref_load(&a->q, u->row * a->q.stride[0] + u->head * a->q.stride[1], a->q.stride[2],
                 a->q.shape[2], u->q);
        attention_one(u);
    }
}

static void attention_items(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_attention_args *a = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t item = i * a->work.stride[0], step = a->work.stride[1];
        attention_query u = {.a = a};
        u.seq = ref_int(&a->work, item);
        u.kv_head = ref_int(&a->work, item + 3 * step);
        int64_t first = ref_int(&a->work, item + step), n = ref_int(&a->work, item + 2 * step);
        for (int64_t q = first; q < first + n; q++) {
            u.row = ref_int(&a->qstart, u.seq * a->qstart.stride[0]) + q;
            u.pos = ref_int(&a->qpos, u.seq * a->qpos.stride[0]) + q;
            attention_heads(&u);
        }
    }
}

void ref_attention_run(const weft_step *step, weft_stream *stream) {
    const weft_attention_args *a = &step->args.attention;
    weft_parallel(stream, ref_lead(&a->nwork, a->work.shape[0]), 1, attention_items, a);
}
