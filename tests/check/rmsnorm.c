/* SPDX-License-Identifier: Apache-2.0
 * Cases of rmsnorm: with and without the residual sum, [T,H] and [T,heads,D], every optional
 * result. The fused sum must have the bits of the sum stored first. */
#include "tests/check/check.h"

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_rmsnorm_args *a = &s->args.rmsnorm;
    int64_t T = check_get(c, "T"), H = check_get(c, "H"), heads = check_get(c, "heads");
    int64_t pad = check_get(c, "pad"), g = check_get(c, "g"), res = check_get(c, "res");
    check_spec x = {c->dtype, 2, {T, H}, .row = 1, .pad = pad};
    check_spec inv = {WEFT_F32, 1, {T}, .row = 1};
    if (heads) {
        x.ndim = 3, x.dim[1] = heads, x.dim[2] = H;
        inv.ndim = 2, inv.dim[1] = heads;
    }
    a->eps = 1e-5f;
    a->offset = check_get(c, "offset") ? 1.0f : 0.0f;
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    check_add(s, &a->x, x);
    if (res)
        check_add(s, &a->res, x);
    check_add(s, &a->g, (check_spec){g ? (int)g - 1 : c->dtype, 1, {H}, .row = 0});
    check_add(s, &a->y, x);
    if (res)
        check_add(s, &a->r, x);
    if (check_get(c, "inv"))
        check_add(s, &a->inv, inv);
}

/* r of the first run as x, without a residual: y must be the same. */
static void invariants(check_state *k, const check_set *s) {
    const weft_rmsnorm_args *a = &s->args.rmsnorm;
    check_set v;
    if (!weft_has(&a->res))
        return;
    check_share(s, &v);
    weft_rmsnorm_args *b = &v.args.rmsnorm;
    check_operand *r = check_find(&v, &b->r), *x = check_find(&v, &b->x);
    x->image = k->base->image[r - v.operand]; /* of the same layout, but for where it starts */
    x->first = r->first;
    x->bytes = r->bytes;
    b->res.id = 0;
    b->r.id = 0;
    r->role = 'I';
    check_variant(k, &v, "the fused sum differs from the sum stored first", &b->y, check_map_same,
                  NULL);
    check_set_fini(&v);
}

static const char *const shapes[] = {
    "T=1,H=1",          "T=1,H=33",   "T=7,H=16",   "T=3,H=15",   "T=5,H=129",
    "T=33,H=64",        "T=2,H=4096", "T=2,H=8712", "T=17,H=257", "T=4,H=64,heads=3",
    "T=6,H=17,heads=2", "T=64,H=511", NULL};
static const char *const variants[] = {
    "",          "res=1",        "res=1,pad=3,inv=1",  "offset=1,inv=1", "g=1",
    "pad=7,g=3", "res=1,fill=1", "res=1,fill=2,inv=1", "fill=3",         "res=1,fill=4",
    NULL};
static const char *const few[] = {"T=9,H=48", "T=33,H=100,heads=2", NULL};
static const char *const bucket[] = {"rows=1,res=1,inv=1", "rows=8,pad=2", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"bf16:T=1,H=4096,res=1", "bf16:T=512,H=4096,res=1", NULL};

const check_op check_rmsnorm = {.op = WEFT_OP_rmsnorm,
                                .keys = "T! H! heads res offset inv g^ rows pad fill",
                                .groups = groups,
                                .bench = bench,
                                .build = build,
                                .invariants = invariants};
