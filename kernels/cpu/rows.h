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
    X(matmul_s8, n)

#define CPU_DECLARE(op, n) \
    int weft_cpu_##op##_##n##_ok(const weft_args *args); \
    void weft_cpu_##op##_##n##_run(const weft_step *step, weft_stream *stream);

CPU_OPS(CPU_DECLARE, 0)
CPU_OPS(CPU_DECLARE, 1)
CPU_OPS(CPU_DECLARE, 2)
CPU_DECLARE(matmul, 3)
CPU_DECLARE(matmul_s8, 3)

size_t weft_cpu_matmul_0_scratch(const weft_args *args);
size_t weft_cpu_matmul_1_scratch(const weft_args *args);
size_t weft_cpu_matmul_2_scratch(const weft_args *args);
size_t weft_cpu_matmul_3_scratch(const weft_args *args);
size_t weft_cpu_matmul_s8_0_scratch(const weft_args *args);
size_t weft_cpu_matmul_s8_1_scratch(const weft_args *args);
size_t weft_cpu_matmul_s8_2_scratch(const weft_args *args);
size_t weft_cpu_matmul_s8_3_scratch(const weft_args *args);
