/* SPDX-License-Identifier: Apache-2.0
 * What attention and its gradient share: numbers of small operands, and what follows the dot
 * product of a query and sixteen keys, operation by operation the same. */
#pragma once
#include "cpu.h"

V16 int32_t att_int(const weft_tensor *t, int64_t i) {
    return ((const int32_t *)t->data)[i * t->stride[0]];
}

V16 float att_float(const weft_tensor *t, int64_t element) {
    float f[16];
    v16_store(f, v16_get(t->dtype, t->data, element, 1));
    return f[0];
}

typedef struct {
    const weft_tensor *slopes, *bias; /* as attention's, present or not */
    float scale, softcap;
} att_score;

static v16 att_bias(const weft_tensor *bias, int64_t head, int64_t distance) {
    float f[16];
    int64_t most = (bias->shape[1] - 1) / 2;
    for (int64_t l = 0; l < 16; l++) {
        int64_t near = cpu_max(-most, cpu_min(most, distance + l));
        f[l] = att_float(bias, head * bias->stride[0] + (near + most) * bias->stride[1]);
    }
    return v16_load(f);
}

/* s = q.k; distance: from the query to the first of the keys. *tanh is left where softcap is on. */
V16 v16 att_score_of(const att_score *a, int64_t head, int64_t distance, v16 s, v16 *tanh) {
    static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    s = v16_mul(s, v16_set1(a->scale));
    if (a->softcap > 0) {
        v16 cap = v16_set1(a->softcap);
        *tanh = cpu_tanh(v16_div(s, cap));
        s = v16_mul(cap, *tanh);
    }
    if (weft_has(a->slopes)) {
        v16 far = v16_add(v16_load(lane), v16_set1((float)distance));
        s = v16_fma(v16_set1(att_float(a->slopes, head * a->slopes->stride[0])), far, s);
    }
    if (weft_has(a->bias))
        s = v16_add(s, att_bias(a->bias, head, distance));
    return s;
}
