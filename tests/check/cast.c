/* SPDX-License-Identifier: Apache-2.0
 * Cases of cast: every pair of float types, numbers halfway between two of the target, overflow,
 * denormals, infinities, transposed views. */
#include "tests/check/check.h"
#include <math.h>

/* Floats that a shorter type has to round: ties to even, the edges of fp16, infinities. */
static float edges(const check_set *s, const int64_t i[WEFT_DIMS]) {
    static const float edge[] = {65504.0f,   65519.0f,       65520.0f, 1e30f, 6.1e-5f,
                                 5.96e-8f,   2.98e-8f,       2.99e-8f, 1e-8f, INFINITY,
                                 3.3895e38f, 3.40282346e38f, 1e-40f,   0.0f};
    uint64_t h = check_hash(s->seed, (uint64_t)(i[0] * 100003 + i[1]));
    uint32_t half = (uint32_t)h & 0x7f800000u;
    float sign = h >> 63 ? -1.0f : 1.0f;
    switch (h >> 60 & 3) {
    case 0: return sign * edge[(h >> 32) % (sizeof edge / sizeof *edge)];
    case 1:
        return weft_bits_f32((half % 0x7f800000u) | ((uint32_t)(h >> 40) & 0x7f0000u) | 0x8000u);
    case 2: return sign * weft_bits_f32(0x3f801000u + ((uint32_t)(h >> 33) & 0x3ffu) * 0x2000u);
    default: return check_normal(h);
    }
}

static void build(check_set *s) {
    const check_case *c = &s->c;
    weft_cast_args *a = &s->args.cast;
    int64_t y = check_get(c, "y");
    check_spec x = {c->dtype,
                    2,
                    {check_get(c, "T"), check_get(c, "N")},
                    .row = 1,
                    .pad = check_get(c, "pad"),
                    .swap = check_get(c, "swap") & 1};
    if (check_get(c, "heads")) {
        x.ndim = 3;
        x.dim[2] = x.dim[1];
        x.dim[1] = check_get(c, "heads");
    }
    if (check_get(c, "rows"))
        check_add_rows(s, &a->rows, check_get(c, "rows"));
    x.value = check_get(c, "edges") ? edges : NULL;
    check_add(s, &a->x, x);
    x.value = NULL;
    x.swap = check_get(c, "swap") & 2;
    x.dtype = y ? (int)y - 1 : c->dtype;
    check_add(s, &a->y, x);
}

static const char *const shapes[] = {"T=1,N=1",    "T=1,N=31",   "T=3,N=33",         "T=7,N=16",
                                     "T=33,N=100", "T=2,N=5000", "T=5,N=20,heads=3", NULL};
static const char *const variants[] = {
    "y=1,edges=1", "y=2,edges=1",      "y=3,edges=1", "y=1,fill=4,pad=3",   "y=2,fill=2",
    "y=3,fill=2",  "y=2,pad=3,swap=1", "y=3,swap=2",  "y=1,swap=3,edges=1", NULL};
static const char *const few[] = {"T=9,N=40", NULL};
static const char *const bucket[] = {"rows=1,y=2", "rows=8,pad=3,y=1", "rows=5,swap=1,y=3", NULL};
static const check_group groups[] = {{"fp32 fp16 bf16", shapes, variants, false},
                                     {"fp32 bf16", few, bucket, false},
                                     {.dtypes = NULL}};
static const char *const bench[] = {"fp32:T=512,N=4096,y=3", "bf16:T=512,N=4096,y=1", NULL};

const check_op check_cast = {.op = WEFT_OP_cast,
                             .keys = "T! N! heads y^ edges swap rows pad fill",
                             .groups = groups,
                             .bench = bench,
                             .build = build};
