/* SPDX-License-Identifier: Apache-2.0
 * int8 weights: what config.json says of them, and floats to int8 by rows. Symmetric: a row's scale
 * is max |w| / 127, its numbers w / scale to nearest even. The format is that of
 * compressed-tensors, "int-quantized" by channel: X.weight I8 and X.weight_scale [rows, 1]. */
#pragma once
#include "host/base/buf.h"
#include "host/base/json.h"
#include "host/model/config.h"
#include <math.h>

/* quantization_config while config.json is being read. */
typedef struct {
    bool given;
    int64_t bits;
    const char *type, *strategy;
    bool symmetric, dynamic, grouped;
} quant_scheme;

typedef struct {
    bool given, kv, output;
    const char *method, *format; /* NULL: unsaid */
    int groups;
    quant_scheme weights, activations;
    const char *target;  /* of its last group; "Linear" */
    bool head_kept;      /* lm_head is in `ignore` */
    const char *ignored; /* something else that is; NULL: nothing */
} quant_draft;

void quant_read(json *j, quant_draft *d);
/* WEFT_UNSUPPORTED, naming what, unless it is the format above. */
weft_status quant_check(const char *name, const quant_draft *d, model_config *c);

/* The value of "quantization_config" for a folder that holds it. */
void quant_write(buf *out, bool activations);

WEFT_INLINE float quant_scale(float most) {
    return most / 127.0f;
}

static inline int8_t quant_value(float x, float scale) {
    float q = scale > 0 ? x / scale : 0;
    return (int8_t)rintf(fminf(127.0f, fmaxf(-127.0f, q)));
}
