/* SPDX-License-Identifier: Apache-2.0
 * The fast CPU backend's rows. Levels of one op give the same bits (class LANE16): the machine
 * takes the highest it has. AVX512-BF16's pair products are a class of their own, for bf16 by bf16;
 * a machine without them gives the bits of --cpu-level avx512. */
#include "rows.h"

#define SCRATCH_(stem, n) weft_cpu_##stem##_##n##_scratch
#define S8_ROW_(n, label, level) \
    {.op = WEFT_OP_matmul, \
     .backend = "cpu", \
     .name = label, \
     .arith = WEFT_ARITH_S32, \
     .rank = 1 + n, \
     .cap = level, \
     .ok = weft_cpu_matmul_s8_##n##_ok, \
     .scratch = weft_cpu_matmul_s8_##n##_scratch, \
     .run = weft_cpu_matmul_s8_##n##_run},
#define ROW_(stem, n, label, class, level, scratch_fn) \
    {.op = WEFT_OP_##stem, \
     .backend = "cpu", \
     .name = label, \
     .arith = WEFT_ARITH_##class, \
     .rank = 1 + n, \
     .cap = level, \
     .ok = weft_cpu_##stem##_##n##_ok, \
     .scratch = scratch_fn, \
     .run = weft_cpu_##stem##_##n##_run},

#define LEVEL_(n, label, level) \
    ROW_(embed, n, label, NONE, level, NULL) \
    ROW_(rope, n, label, LANE16, level, NULL) \
    ROW_(rmsnorm, n, label, LANE16, level, NULL) \
    ROW_(layernorm, n, label, LANE16, level, NULL) \
    ROW_(matmul, n, label, LANE16, level, SCRATCH_(matmul, n)) \
    ROW_(leaf_sum, n, label, LANE16, level, NULL) \
    ROW_(kv_append, n, label, NONE, level, NULL) \
    ROW_(attention, n, label, LANE16, level, NULL) \
    ROW_(glu, n, label, LANE16, level, NULL) \
    ROW_(activation, n, label, LANE16, level, NULL) \
    ROW_(add, n, label, NONE, level, NULL) \
    ROW_(softmax, n, label, LANE16, level, NULL) \
    ROW_(argmax, n, label, NONE, level, NULL) \
    ROW_(token_logprob, n, label, LANE16, level, NULL) \
    ROW_(gather, n, label, NONE, level, NULL) \
    ROW_(cast, n, label, NONE, level, NULL) \
    ROW_(quantize, n, label, LANE16, level, NULL) \
    S8_ROW_(n, label, level) \
    ROW_(matmul_dx, n, label, LANE16, level, NULL) \
    ROW_(matmul_dw, n, label, LANE16, level, SCRATCH_(matmul_dw, n)) \
    ROW_(bias_db, n, label, LANE16, level, NULL) \
    ROW_(rmsnorm_dx, n, label, LANE16, level, NULL) \
    ROW_(rmsnorm_dg, n, label, LANE16, level, NULL) \
    ROW_(layernorm_dx, n, label, LANE16, level, NULL) \
    ROW_(layernorm_dg, n, label, LANE16, level, NULL) \
    ROW_(rope_dx, n, label, LANE16, level, NULL) \
    ROW_(glu_dx, n, label, LANE16, level, NULL) \
    ROW_(activation_dx, n, label, LANE16, level, NULL) \
    ROW_(attention_dx, n, label, LANE16, level, SCRATCH_(attention_dx, n)) \
    ROW_(embed_dw, n, label, LANE16, level, NULL) \
    ROW_(cross_entropy, n, label, LANE16, level, NULL) \
    ROW_(dropout, n, label, NONE, level, NULL) \
    ROW_(scale, n, label, NONE, level, NULL) \
    ROW_(fill, n, label, NONE, level, NULL) \
    ROW_(accumulate, n, label, NONE, level, NULL) \
    ROW_(sum_squares, n, label, LANE16, level, NULL) \
    ROW_(adamw, n, label, LANE16, level, NULL) \
    ROW_(sgd, n, label, LANE16, level, NULL) \
    ROW_(ema, n, label, LANE16, level, NULL)

#if defined(__x86_64__)
#define LEVELS_ \
    LEVEL_(0, "portable", WEFT_CPU_PORTABLE) \
    LEVEL_(1, "avx2", WEFT_CPU_AVX2) \
    LEVEL_(2, "avx512", WEFT_CPU_AVX512) \
    ROW_(matmul, 3, "avx512bf16", BF16DOT, WEFT_CPU_AVX512BF16, SCRATCH_(matmul, 3)) \
    ROW_(matmul_dx, 3, "avx512bf16", BF16DOT, WEFT_CPU_AVX512BF16, NULL) \
    ROW_(matmul_dw, 3, "avx512bf16", BF16DOT, WEFT_CPU_AVX512BF16, SCRATCH_(matmul_dw, 3)) \
    S8_ROW_(3, "avx512vnni", WEFT_CPU_AVX512BF16)
#else
#define LEVELS_ LEVEL_(0, "portable", WEFT_CPU_PORTABLE)
#endif

const weft_kernel weft_kernels_cpu[] = {LEVELS_{.name = NULL}};
