/* SPDX-License-Identifier: Apache-2.0
 * weft_kernel: one row of the registry. A backend is a table of rows
 * (kernels/<backend>/table.c). */
#pragma once
#include "weft/ops.h"
#include "weft/stream.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct weft_step weft_step;

/* Numerics classes (docs/NUMERICS.md). Rows of one class give the same bits for the same
 * operands. */
typedef enum {
    WEFT_ARITH_NONE,    /* moves data: no arithmetic to disagree on */
    WEFT_ARITH_REF,     /* double accumulators, in order */
    WEFT_ARITH_LANE16,  /* one virtual vector of 16 fp32 lanes, fma, fixed tree */
    WEFT_ARITH_BF16DOT, /* AVX512-BF16 pair products (VDPBF16PS) */
    WEFT_ARITH_SIMT,    /* a GPU's fp32 with explicit fma; tree by the row's width alone */
    WEFT_ARITH_MMA,     /* mma.sync in granules of the instruction's k, fp32 accumulators */
    WEFT_ARITH_S32,     /* int8 products in exact s32 sums: the same bits whatever adds them */
    WEFT_ARITHS
} weft_arith;

/* `cap` of rows on a CPU: what the machine must have. */
typedef enum {
    WEFT_CPU_PORTABLE,
    WEFT_CPU_AVX2,       /* AVX2, FMA, F16C */
    WEFT_CPU_AVX512,     /* F, BW, DQ, VL */
    WEFT_CPU_AVX512BF16, /* and VNNI, which came before it */
    WEFT_CPU_LEVELS
} weft_cpu_level;

/* `cap` of rows whose instructions exist on compute capability 9.0 and nowhere else. */
enum { WEFT_SM90A = 90 };

typedef struct weft_kernel {
    weft_op op;
    const char *backend, *name; /* "cpu", "avx512" */
    uint32_t arith;             /* weft_arith: one per (op, weight) in all plans of an engine */
    int16_t rank;               /* preference among rows that agree; the highest wins */
    int16_t cap;                /* least cpu level or sm; WEFT_SM90A: that one alone */
    /* Whether this row can do it. May look at K, N, D, dtypes and strides; T must not change
     * arith. */
    int (*ok)(const weft_args *);
    size_t (*scratch)(const weft_args *); /* plan memory during this step; NULL = 0 */
    int (*bind)(const weft_step *,
                void *state); /* once, after addresses are known; NULL = nothing */
    void (*run)(const weft_step *, weft_stream *); /* enqueue only: no allocation, no error path */
    uint16_t state_bytes;
} weft_kernel;

/* Whether a device of this level has what the row asks for. */
static inline int weft_kernel_fits(const weft_kernel *k, int level) {
    return k->cap == WEFT_SM90A ? level == WEFT_SM90A : k->cap <= level;
}

/* A backend's rows, ended by a row whose name is NULL. */
extern const weft_kernel weft_kernels_ref[];
extern const weft_kernel weft_kernels_cpu[];

#ifdef __cplusplus
}
#endif
