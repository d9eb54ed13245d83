/* SPDX-License-Identifier: Apache-2.0
 * Cases of embed: ids inside, outside and negative; a part of the vocabulary; zeros of both
 * signs. */
#include "tests/check/check.h"

static bool valid(const check_case *c) {
    return check_get(c, "last") <= 16;
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_embed_args *a = &s->args.embed;
    int64_t T = check_get(c, "T"), V = check_get(c, "V"), H = check_get(c, "H");
    int64_t y = check_get(c, "y"), pad = check_get(c, "pad"), slots = check_get(c, "last");
    int32_t *ids = arena_alloc(&s->mem, (size_t)T * 4), *last = arena_alloc(&s->mem, 64);
    a->row0 = (int32_t)check_get(c, "row0");
    for (int64_t t = 0; t < T; t++) {
        uint64_t h = check_hash(s->seed, (uint64_t)t);
        ids[t] = (int32_t)(a->row0 + (int64_t)(h % (uint64_t)(V + 2)) - 1);
        if (a->row0 == 0 && ids[t] < 0)
            ids[t] = 0;
        if (slots && h >> 60 < 5)
            ids[t] = -1 - (int32_t)(h >> 32 & 0xff) % (int32_t)slots;
    }
    for (int64_t i = 0; i < slots; i++)
        last[i] = (int32_t)(a->row0 +
                            (int64_t)(check_hash(s->seed, 99 + (uint64_t)i) % (uint64_t)(V + 1)));
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->ids, (check_spec){WEFT_I32, 1, {T}, .row = 1, .ints = ids});
    check_add(s, &a->w, (check_spec){c->dtype, 2, {V, H}, .pad = pad});
    if (slots)
        check_add(s, &a->last, (check_spec){WEFT_I32, 1, {slots}, .ints = last});
    check_add(s, &a->y, (check_spec){y ? (int)y - 1 : c->dtype, 2, {T, H}, .row = 1, .pad = pad});
}

static const char *const shapes[] = {"T=1,V=1,H=1",
                                     "T=1,V=7,H=33",
                                     "T=3,V=50,H=129",
                                     "T=17,V=101,H=64",
                                     "T=33,V=300,H=257",
                                     "T=128,V=32,H=512",
                                     NULL};
static const char *const variants[] = {
    "",           "fill=4",           "pad=3,fill=4", "last=4", "row0=9", "row0=5,last=3",
    "y=1,fill=2", "y=2,pad=1,fill=4", "y=3,fill=1",   NULL};
static const char *const few[] = {"T=9,V=20,H=40", "T=33,V=64,H=128", NULL};
static const char *const bucket[] = {"rows=1", "rows=5,last=2,row0=3", "rows=9,pad=5", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=1,V=4096,H=4096", "bf16:T=512,V=4096,H=4096", NULL};

const check_op check_embed = {.op = WEFT_OP_embed,
                              .keys = "T! V! H! y^ last row0 rows pad fill",
                              .groups = groups,
                              .bench = bench,
                              .valid = valid,
                              .build = build};
