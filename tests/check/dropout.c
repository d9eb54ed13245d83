/* SPDX-License-Identifier: Apache-2.0
 * Cases of dropout: what is kept is an element's own affair, by the place its row has in the batch;
 * as much is kept as was asked for. */
#include "tests/check/check.h"
#include "weft/rng.h"
#include <math.h>

static bool valid(const check_case *c) {
    return check_get(c, "p") < 100;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_dropout_args *a = &s->args.dropout;
    int64_t T = check_get(c, "T"), N = check_get(c, "N"), y = check_get(c, "y");
    int64_t far = check_get(c, "far");
    int32_t *place = arena_alloc(&s->mem, (size_t)T * 4), *key = arena_alloc(&s->mem, 8);
    for (int64_t t = 0; t < T; t++)
        place[t] = (int32_t)(far ? 0x7fffffff - T + t : (t ^ 1) * 2 + 3);
    key[0] = (int32_t)check_hash(s->seed, 1);
    key[1] = (int32_t)check_hash(s->seed, 2);
    a->p = (float)check_get(c, "p") / 100.0f;
    a->stream = (int32_t)check_hash(s->seed, 3);
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, (check_spec){c->dtype, 2, {T, N}, .row = 1, .pad = check_get(c, "pad")});
    check_add(s, &a->key, (check_spec){WEFT_I32, 1, {2}, .ints = key});
    check_add(s, &a->place, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = place});
    check_add(s, &a->y, (check_spec){y ? (int)y - 1 : c->dtype, 2, {T, N}, .row = 1});
}

/* The definition once more, and five deviations around what should be kept. */
static void invariants(check_state *k, const check_set *s) {
    const weft_dropout_args *a = &s->args.dropout;
    const check_operand *x = check_find(s, &a->x), *y = check_find(s, &a->y);
    const check_operand *key = check_find(s, &a->key), *place = check_find(s, &a->place);
    const char *got = k->base->image[y - s->operand];
    uint32_t low = (uint32_t)(int32_t)check_load(key, key->image, (int64_t[WEFT_DIMS]){0});
    uint32_t high = (uint32_t)(int32_t)check_load(key, key->image, (int64_t[WEFT_DIMS]){1});
    int64_t n = a->x.shape[1], rows = s->rows >= 0 ? s->rows : a->x.shape[0];
    double kept = 0, all = (double)(rows * n), p = (double)a->p;
    for (int64_t t = 0; t < rows && !k->bad; t++)
        for (int64_t i = 0; i < n && !k->bad; i++) {
            int64_t at[WEFT_DIMS] = {t, i};
            uint64_t e = (uint64_t)check_load(place, place->image, at) * (uint64_t)n + (uint64_t)i;
            weft_philox r = weft_philox4x32((uint64_t)high << 32 | low, (uint32_t)a->stream, e / 4);
            bool keep = (float)(r.v[e & 3] >> 8) * 0x1p-24f >= a->p;
            float want = keep ? (float)check_load(x, x->image, at) / (1.0f - a->p) : 0.0f;
            kept += keep;
            if (check_load(y, got, at) != (double)check_round(y->spec.dtype, want))
                check_fail(k, "y[%lld,%lld] is not what its number makes it", (long long)t,
                           (long long)i);
        }
    double spread = all * p * (1 - p); /* of few elements it says nothing */
    if (spread > 10 && fabs(kept - all * (1 - p)) > 5 * sqrt(spread))
        check_fail(k, "%.0f of %.0f elements kept, with p = %g", kept, all, p);
}

static const char *const shapes[] = {"T=1,N=1",   "T=1,N=33",   "T=9,N=17",    "T=40,N=64",
                                     "T=5,N=515", "T=33,N=130", "T=64,N=1024", NULL};
static const char *const variants[] = {"p=10",        "p=0",         "p=50,pad=3",
                                       "p=99,fill=1", "p=33,fill=2", "p=20,y=1,far=1",
                                       "p=10,fill=4", NULL};
static const char *const few[] = {"T=9,N=40", "T=33,N=51", NULL};
static const char *const bucket[] = {"p=25,rows=1", "p=25,rows=8,pad=2", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,N=4096,p=10", NULL};

const check_op check_dropout = {.op = WEFT_OP_dropout,
                                .keys = "T! N! p far y^ rows pad fill",
                                .groups = groups,
                                .bench = bench,
                                .valid = valid,
                                .build = build,
                                .invariants = invariants};
