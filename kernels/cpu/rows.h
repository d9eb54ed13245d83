/* SPDX-License-Identifier: Apache-2.0
 * The rows of this backend by name: every op is built once per level, the pair-product matmul and
 * VNNI's for AVX512-BF16 alone. table.c turns this list into the registry's rows. */
#pragma once
#include "weft/step.h"

/* X(op, level): weft_cpu_<op>_<level>_{ok,run}. */
#define CPU_OPS(X, n) \
    X(embed, n) \
    X(rope, n) \
    X(rmsnorm, n) \
    X(layernorm, n) \
    X(matmul, n) \
    X(leaf_sum, n) \
    X(kv_append, n) \
    X(attention, n) \
    X(glu, n) \
    X(activation, n) \
    X(add, n) \
    X(softmax, n) \
    X(argmax, n) \
    X(token_logprob, n) \
    X(gather, n) \
    X(cast, n) \
    X(quantize, n) \
    X(matmul_s8, n) \
    X(matmul_dx, n) \
    X(matmul_dw, n) \
    X(bias_db, n) \
    X(rmsnorm_dx, n) \
    X(rmsnorm_dg, n) \
    X(layernorm_dx, n) \
    X(layernorm_dg, n) \
    X(rope_dx, n) \
    X(glu_dx, n) \
    X(activation_dx, n) \
    X(attention_dx, n) \
    X(embed_dw, n) \
    X(cross_entropy, n) \
    X(dropout, n) \
    X(scale, n) \
    X(fill, n) \
    X(accumulate, n) \
    X(sum_squares, n) \
    X(adamw, n) \
    X(sgd, n) \
    X(ema, n)

#define CPU_DECLARE(op, n) \
    int weft_cpu_##op##_##n##_ok(const weft_args *args); \
    void weft_cpu_##op##_##n##_run(const weft_step *step, weft_stream *stream);

CPU_OPS(CPU_DECLARE, 0)
CPU_OPS(CPU_DECLARE, 1)
CPU_OPS(CPU_DECLARE, 2)
CPU_DECLARE(matmul, 3)
CPU_DECLARE(matmul_s8, 3)
CPU_DECLARE(matmul_dx, 3)
CPU_DECLARE(matmul_dw, 3)

#define CPU_SIZE(op, n) size_t weft_cpu_##op##_##n##_scratch(const weft_args *args);
#define CPU_SIZES(n) \
    CPU_SIZE(matmul, n) \
    CPU_SIZE(matmul_s8, n) \
    CPU_SIZE(matmul_dw, n) \
    CPU_SIZE(attention_dx, n)

CPU_SIZES(0)
CPU_SIZES(1)
CPU_SIZES(2)
CPU_SIZE(matmul, 3)
CPU_SIZE(matmul_s8, 3)
CPU_SIZE(matmul_dw, 3)
