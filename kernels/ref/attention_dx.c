/* SPDX-License-Identifier: Apache-2.0
 * attention_dx: one (query, head) is one ascending pass over the keys it sees, for dq; one (key, kv
 * head) one ascending pass over its heads and their queries, for dk and dv. Probabilities are made
 * anew from the scores and the log-sum-exp (Dao et al., 2022). */
#include "kernels/ref/ref.h"

enum { MAX_WIDTH = 1024 }; /* of a head */

int ref_attention_dx_ok(const weft_args *args) {
    const weft_attention_dx_args *a = &args->attention_dx;
    return ref_is_float(&a->dy) && ref_is_float(&a->q) && ref_is_float(&a->k) &&
           ref_is_float(&a->v) && ref_is_float(&a->y) && a->lse.dtype == WEFT_F32 &&
           ref_is_float_or_absent(&a->slopes) && ref_is_float_or_absent(&a->bias) &&
           ref_is_float_or_absent(&a->dq) && ref_is_float_or_absent(&a->dk) &&
           ref_is_float_or_absent(&a->dv) && a->group > 0 && a->q.shape[2] <= MAX_WIDTH &&
           a->v.shape[2] <= MAX_WIDTH;
}

/* A sequence, and the query head and query that are looked at. */
typedef struct {
    const weft_attention_dx_args *a;
    int64_t start, queries, pos, keys; /* first row, rows, position of the first, visible keys */
    int64_t head, query;
    double q[MAX_WIDTH], dy[MAX_WIDTH], lse, delta;
} attention_at;

static void load_head(const weft_tensor *t, int64_t row, int64_t head, double *to) {
    ref_load(t, row * t->stride[0] + head * t->stride[1], t->stride[2], t->shape[2], to);
}

static void store_head(const weft_tensor *t, int64_t row, int64_t head, const double *from) {
    if (weft_has(t))
        ref_store(t, row * t->stride[0] + head * t->stride[1], t->stride[2], t->shape[2], from);
}

/* Four sums side by side: one would wait for itself at every term. The analyzer does not see that
 * load_head fills n numbers. */
static double dot(const double *a, const double *b, int64_t n) {
    double sum[4] = {0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int l = 0; l < 4; l++)
            sum[l] += a[i + l] * b[i + l]; /* NOLINT(clang-analyzer-core*) */
    for (; i < n; i++)
        sum[0] += a[i] * b[i]; /* NOLINT(clang-analyzer-core*) */
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* The sequence of a row; false: none. */
static bool find_sequence(attention_at *u, int64_t row) {
    const weft_attention_dx_args *a = u->a;
    for (int64_t s = 0; s < a->kvlen.shape[0]; s++) {
        int64_t at = s * a->qstart.stride[0], start = ref_int(&a->qstart, at);
        int64_t end = ref_int(&a->qstart, at + a->qstart.stride[0]);
        if (row < start || row >= end)
            continue;
        u->start = start;
        u->queries = end - start;
        u->pos = ref_int(&a->qpos, s * a->qpos.stride[0]);
        u->keys = ref_int(&a->kvlen, s * a->kvlen.stride[0]);
        return true;
    }
    return false;
}

static bool visible(const attention_at *u, int64_t j) {
    const weft_attention_dx_args *a = u->a;
    int64_t pos = u->pos + u->query;
    return j < u->keys && (!a->causal || j <= pos) && (a->window <= 0 || j > pos - a->window);
}

static void look_at(attention_at *u, int64_t query, int64_t head) {
    const weft_attention_dx_args *a = u->a;
    int64_t row = u->start + query;
    double y[MAX_WIDTH];
    u->query = query;
    u->head = head;
    load_head(&a->q, row, head, u->q);
    load_head(&a->dy, row, head, u->dy);
    load_head(&a->y, row, head, y);
    u->delta = dot(u->dy, y, a->v.shape[2]);
    u->lse = ref_get(&a->lse, row * a->lse.stride[0] + head * a->lse.stride[1]);
}

/* The probability of key j, and the score's derivative in q.k. */
static double probability(const attention_at *u, int64_t j, const double *k, double *slope) {
    const weft_attention_dx_args *a = u->a;
    int64_t d = j - u->pos - u->query;
    double s = a->scale * dot(u->q, k, a->q.shape[2]), t = 0;
    if (a->softcap > 0) {
        t = weft_tanh(s / a->softcap);
        s = a->softcap * t;
    }
    *slope = a->scale * (1.0 - t * t);
    if (weft_has(&a->slopes))
        s += ref_get(&a->slopes, u->head * a->slopes.stride[0]) * (double)d;
    if (weft_has(&a->bias)) {
        int64_t most = (a->bias.shape[1] - 1) / 2, near = d < -most ? -most : d > most ? most : d;
        s += ref_get(&a->bias, u->head * a->bias.stride[0] + (near + most) * a->bias.stride[1]);
    }
    return u->lse == -INFINITY ? 0.0 : weft_exp(s - u->lse);
}

static void query_gradient(attention_at *u, int64_t row, int64_t head) {
    const weft_attention_dx_args *a = u->a;
    int64_t D = a->q.shape[2], kv = (head + a->head0) / a->group;
    double dq[MAX_WIDTH] = {0}, k[MAX_WIDTH], v[MAX_WIDTH], slope;
    bool known = find_sequence(u, row);
    if (known)
        look_at(u, row - u->start, head);
    for (int64_t j = 0; known && j < u->keys; j++) {
        if (!visible(u, j))
            continue;
        load_head(&a->k, u->start + j, kv, k);
        load_head(&a->v, u->start + j, kv, v);
        double p = probability(u, j, k, &slope);
        double ds = p * (dot(u->dy, v, a->v.shape[2]) - u->delta) * slope;
        for (int64_t i = 0; i < D; i++)
            dq[i] += ds * k[i];
    }
    store_head(&a->dq, row, head, dq);
}

/* What one query adds to its key's gradients. */
static void key_term(const attention_at *u, int64_t j, const double *k, const double *v, double *dk,
                     double *dv) {
    const weft_attention_dx_args *a = u->a;
    double slope, p = probability(u, j, k, &slope);
    double ds = p * (dot(u->dy, v, a->v.shape[2]) - u->delta) * slope;
    for (int64_t i = 0; i < a->q.shape[2]; i++)
        dk[i] += ds * u->q[i];
    for (int64_t i = 0; i < a->v.shape[2]; i++)
        dv[i] += p * u->dy[i];
}

static void key_gradient(attention_at *u, int64_t row, int64_t kv) {
    const weft_attention_dx_args *a = u->a;
    double dk[MAX_WIDTH] = {0}, dv[MAX_WIDTH] = {0}, k[MAX_WIDTH], v[MAX_WIDTH];
    bool known = find_sequence(u, row);
    if (known) {
        load_head(&a->k, row, kv, k);
        load_head(&a->v, row, kv, v);
    }
    for (int64_t h = 0; known && h < a->q.shape[1]; h++) {
        if ((h + a->head0) / a->group != kv)
            continue;
        for (int64_t i = 0; i < u->queries; i++) {
            u->query = i;
            if (!visible(u, row - u->start))
                continue;
            look_at(u, i, h);
            key_term(u, row - u->start, k, v, dk, dv);
        }
    }
    store_head(&a->dk, row, kv, dk);
    store_head(&a->dv, row, kv, dv);
}

static void query_items(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_attention_dx_args *a = ctx;
    attention_at u = {.a = a};
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        query_gradient(&u, i / a->q.shape[1], i % a->q.shape[1]);
}

static void key_items(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_attention_dx_args *a = ctx;
    attention_at u = {.a = a};
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        key_gradient(&u, i / a->k.shape[1], i % a->k.shape[1]);
}

void ref_attention_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_attention_dx_args *a = &step->args.attention_dx;
    if (weft_has(&a->dq))
        weft_parallel(stream, a->q.shape[0] * a->q.shape[1], 1, query_items, a);
    if (weft_has(&a->dk) || weft_has(&a->dv))
        weft_parallel(stream, a->k.shape[0] * a->k.shape[1], 1, key_items, a);
}
