/* SPDX-License-Identifier: Apache-2.0
 * What rmsnorm and layernorm share: their input, the residual sum rounded as its own op would. */
#pragma once
#include "cpu.h"

typedef struct {
    const void *x, *res;
    int xtype, restype, rtype;
    int64_t width;
} norm_row;

V16 norm_row norm_at(const weft_tensor *x, const weft_tensor *res, const weft_tensor *r,
                     int64_t row) {
    norm_row in = {.x = cpu_row(x, row), .xtype = x->dtype, .width = cpu_width(x)};
    in.res = weft_has(res) ? cpu_row(res, row) : NULL;
    in.restype = res->dtype;
    in.rtype = weft_has(r) ? r->dtype : x->dtype;
    return in;
}

V16 v16 norm_get(const norm_row *in, int64_t i, int n) {
    v16 v = v16_get(in->xtype, in->x, i, n);
    if (in->res == NULL)
        return v;
    return v16_round(in->rtype, v16_add(v, v16_get(in->restype, in->res, i, n)));
}

/* One number a row: inv and mean are [T] or [T,heads]. */
V16 float *norm_scalar(const weft_tensor *t, int64_t row) {
    int64_t off = 0;
    for (int i = t->ndim - 1; i > 0; i--) {
        off += row % t->shape[i] * t->stride[i];
        row /= t->shape[i];
    }
    return (float *)cpu_at(t, off + row * t->stride[0]);
}
V16 void norm_put(const weft_tensor *t, int64_t row, float v) {
    if (weft_has(t))
        *norm_scalar(t, row) = v;
}
V16 int norm_scalar_ok(const weft_tensor *t) {
    return !weft_has(t) || t->dtype == WEFT_F32;
}
