/* SPDX-License-Identifier: Apache-2.0
 * Cases of kv_append: tokens into shuffled places, skipped tokens, both layouts of a K page, caches
 * of another type. Every byte of the cache is compared: only the slots named may change. */
#include "tests/check/check.h"

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_kv_append_args *a = &s->args.kv_append;
    int64_t T = check_get(c, "T"), H = check_get(c, "H"), D = check_get(c, "D");
    int64_t Dv = check_get(c, "Dv") ? check_get(c, "Dv") : D, pad = check_get(c, "pad");
    int64_t page = check_get(c, "page"), pages = T / page + 2, kv = check_get(c, "kv");
    int32_t *slot = arena_alloc(&s->mem, (size_t)T * 4);
    int cache = kv ? (int)kv - 1 : c->dtype;
    for (int64_t t = 0; t < T; t++) { /* 7 steps over a prime-free ring visit each slot once */
        int64_t ring = pages * page, step = ring % 7 ? 7 : 11;
        slot[t] = (int32_t)((t * step + (int64_t)(s->seed % 5)) % ring);
        if (check_hash(s->seed, (uint64_t)t) % 6 == 0)
            slot[t] = -1;
    }
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->k, (check_spec){c->dtype, 3, {T, H, D}, .row = 1, .pad = pad});
    check_add(s, &a->v, (check_spec){c->dtype, 3, {T, H, Dv}, .row = 1, .pad = pad});
    check_add(s, &a->slot, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = slot});
    check_add(
        s, &a->kcache,
        (check_spec){cache, 4, {pages, H, page, D}, .swap = check_get(c, "swap"), .pad = pad});
    check_add(s, &a->vcache, (check_spec){cache, 4, {pages, H, page, Dv}, .pad = pad});
}

static const char *const shapes[] = {"T=1,H=1,D=1,page=1",
                                     "T=1,H=2,D=64,page=16",
                                     "T=7,H=3,D=33,page=4",
                                     "T=33,H=2,D=80,page=16",
                                     "T=50,H=1,D=128,page=64",
                                     "T=5,H=4,D=24,Dv=40,page=16",
                                     NULL};
static const char *const variants[] = {
    "", "swap=1", "pad=3", "kv=1", "kv=2,swap=1,fill=1", "kv=3,fill=2", "swap=1,fill=4", NULL};
static const char *const few[] = {"T=9,H=2,D=40,page=4", NULL};
static const char *const bucket[] = {"rows=1", "rows=8,swap=1", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=512,H=8,D=128,page=16,swap=1", NULL};

const check_op check_kv_append = {.op = WEFT_OP_kv_append,
                                  .keys = "T! H! D! Dv page! kv^ swap rows pad fill",
                                  .groups = groups,
                                  .bench = bench,
                                  .build = build};
