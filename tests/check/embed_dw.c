/* SPDX-License-Identifier: Apache-2.0
 * Cases of embed_dw: ids that repeat, lie outside the table or mean no token. Rows of the table
 * that no token looked up keep their bits. */
#include "tests/check/check.h"
#include <stddef.h>
#include <string.h>

static bool valid(const check_case *c) {
    int64_t n = check_get(c, "shards");
    return (n == 0 || n == 1 || n == 2 || n == 4 || n == 8) && check_get(c, "T") % (n ? n : 1) == 0;
}

static float old_value(const check_set *s, const int64_t i[WEFT_DIMS]) {
    float x = check_normal(check_hash(s->seed + 55, (uint64_t)(i[0] * 100003 + i[1])));
    return x == 0 ? 1.0f : x;
}

static int32_t id_of(const check_set *s, int64_t t) {
    const check_operand *ids = check_find(s, &s->args.embed_dw.ids);
    return (int32_t)check_load(ids, ids->image, (int64_t[WEFT_DIMS]){t});
}

static int64_t true_rows(const check_set *s) {
    int64_t T = s->args.embed_dw.ids.shape[0];
    return s->rows >= 0 && s->rows < T ? s->rows : T;
}

/* The true rows by ascending id; insertion, so that equal ids keep their order. */
static int32_t *sorted(check_set *s) {
    int64_t T = s->args.embed_dw.ids.shape[0], n = true_rows(s);
    int32_t *order = arena_alloc(&s->mem, (size_t)T * 4);
    for (int64_t t = 0; t < T; t++)
        order[t] = 0x7fe57fe5;
    for (int64_t t = 0; t < n; t++) {
        int64_t at = t;
        while (at > 0 && id_of(s, order[at - 1]) > id_of(s, t)) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = (int32_t)t;
    }
    return order;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_embed_dw_args *a = &s->args.embed_dw;
    int64_t T = check_get(c, "T"), V = check_get(c, "V"), H = check_get(c, "H");
    int64_t pad = check_get(c, "pad"), few = check_get(c, "few");
    int32_t *ids = arena_alloc(&s->mem, (size_t)T * 4);
    a->row0 = (int32_t)check_get(c, "row0");
    a->shards = check_get(c, "shards") ? (int32_t)check_get(c, "shards") : 1;
    for (int64_t t = 0; t < T; t++) {
        uint64_t h = check_hash(s->seed, (uint64_t)t), span = (uint64_t)(few ? few : V + 4);
        ids[t] = (int32_t)(a->row0 + (int64_t)(h % span) - (few ? 0 : 2));
        if (h >> 60 == 0)
            ids[t] = -1 - (int32_t)(h >> 40 & 3);
    }
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->ids, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = ids});
    check_add(s, &a->order, (check_spec){WEFT_I32, 1, {T}, .ints = sorted(s)});
    check_add(s, &a->dy, (check_spec){c->dtype, 2, {T, H}, .row = 1, .pad = pad});
    check_add(s, &a->dw, (check_spec){WEFT_F32, 2, {V, H}, .pad = pad, .value = old_value});
}

static double magnitude(const check_set *s, const weft_tensor *out, int64_t row) {
    double sum = 0;
    (void)out;
    for (int64_t t = 0; t < true_rows(s); t++)
        if (id_of(s, t) - s->args.embed_dw.row0 == row)
            sum += check_row_max(s, &s->args.embed_dw.dy, t);
    return sum;
}

static void repair(check_set *v) {
    check_operand *order = check_find(v, &v->args.embed_dw.order);
    order->spec.dim[0] = v->args.embed_dw.ids.shape[0];
    order->spec.ints = sorted(v);
    check_remake(v, order);
}

static void rows_of_no_token(check_state *k, const check_set *s) {
    const check_operand *dw = check_find(s, &s->args.embed_dw.dw);
    int64_t i[WEFT_DIMS] = {0};
    do {
        bool used = false;
        for (int64_t t = 0; t < true_rows(s) && !used; t++)
            used = id_of(s, t) >= 0 && id_of(s, t) - s->args.embed_dw.row0 == i[0];
        for (i[1] = 0; !used && i[1] < dw->at->shape[1]; i[1]++) {
            size_t at = check_offset(dw, i);
            if (memcmp(dw->image + at, k->base->image[dw - s->operand] + at, 4) != 0)
                check_fail(k, "row %lld changed although no token has it", (long long)i[0]);
        }
        i[1] = 0;
    } while (++i[0] < dw->at->shape[0]);
}

static void invariants(check_state *k, const check_set *s) {
    rows_of_no_token(k, s);
    check_token_sum(k, s, &s->args.embed_dw.dy, repair);
}

static bool gradient(const check_set *s, check_gradient *g) {
    const weft_embed_dw_args *a = &s->args.embed_dw;
    weft_embed_args *f = &g->args.embed;
    g->op = WEFT_OP_embed;
    g->out[0].field = offsetof(weft_args, embed.y);
    g->out[0].dy = check_dense(s, &a->dy, &g->mem);
    f->ids = check_dense(s, &a->ids, &g->mem);
    f->w = check_blank(2, a->dw.shape, &g->mem);
    f->y = check_blank(2, g->out[0].dy.shape, &g->mem);
    f->row0 = a->row0;
    g->wrt[0].field = offsetof(weft_args, embed.w);
    g->wrt[0].gradient = &a->dw;
    g->wrt[0].anywhere = true;
    return true;
}

static const char *const shapes[] = {"T=1,V=1,H=1",
                                     "T=1,V=7,H=33",
                                     "T=9,V=5,H=129",
                                     "T=64,V=11,H=64",
                                     "T=200,V=37,H=20",
                                     "T=33,V=300,H=257",
                                     NULL};
static const char *const variants[] = {"",       "pad=3,fill=1", "row0=9", "few=1,fill=2",
                                       "fill=4", "row0=3,few=2", NULL};
static const char *const split[] = {"T=8,V=3,H=40", "T=48,V=20,H=33", NULL};
static const char *const shards[] = {"shards=2",        "shards=4,pad=3",  "shards=8,few=1",
                                     "shards=8,fill=1", "shards=4,rows=5", NULL};
static const char *const few[] = {"T=9,V=20,H=40", "T=33,V=4,H=128", NULL};
static const char *const bucket[] = {"rows=1", "rows=5,row0=3", "rows=9,pad=5", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", split, shards, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,V=4096,H=4096", NULL};

const check_op check_embed_dw = {.op = WEFT_OP_embed_dw,
                                 .keys = "T! V! H! few row0 shards rows pad fill",
                                 .groups = groups,
                                 .bench = bench,
                                 .valid = valid,
                                 .build = build,
                                 .magnitude = magnitude,
                                 .invariants = invariants,
                                 .gradient = gradient};
