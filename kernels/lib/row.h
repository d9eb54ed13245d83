/* SPDX-License-Identifier: Apache-2.0
 * How a .cu file ends: its rows, and what it claims of its kernels (weft_claim in weft/gpu.h), in
 * arrays whose names the build gives. */
#pragma once

#define WEFT_ROWS_NAME_(ns, file) ns##_##file
#define WEFT_ROWS_NAME(ns, file) WEFT_ROWS_NAME_(ns, file)
#define WEFT_ROWS(file) extern "C" const weft_kernel WEFT_ROWS_NAME(WEFT_CU_NS, file)[]

/* sm_80 is the least that any row here asks for. */
#define WEFT_ROW(op, name, class, rank, scratch)                                               \
    {                                                                                          \
        WEFT_OP_##op, WEFT_CU_BACKEND, name, WEFT_ARITH_##class, rank, 80, op##_ok, scratch,   \
            NULL, op##_run, 0                                                                  \
    }
/* One of several rows that a file has for an op. */
#define WEFT_ROW_AS(op, name, class, rank, ok, run)                                            \
    {                                                                                          \
        WEFT_OP_##op, WEFT_CU_BACKEND, name, WEFT_ARITH_##class, rank, 80, ok, NULL, NULL,     \
            run, 0                                                                             \
    }
#define WEFT_ROWS_END                                                                          \
    {                                                                                          \
        WEFT_OP_embed, NULL, NULL, WEFT_ARITH_NONE, 0, 0, NULL, NULL, NULL, NULL, 0            \
    }

#define WEFT_LOOPS_NAME_(ns, file) ns##_loops_##file
#define WEFT_LOOPS_NAME(ns, file) WEFT_LOOPS_NAME_(ns, file)
#define WEFT_LOOPS(file) extern "C" const weft_gpu_loop WEFT_LOOPS_NAME(WEFT_CU_NS, file)[]
#define WEFT_LOOPS_END                                                                         \
    {                                                                                          \
        0, 0, NULL                                                                             \
    }

#define WEFT_CLAIMS_NAME_(ns, file) ns##_claims_##file
#define WEFT_CLAIMS_NAME(ns, file) WEFT_CLAIMS_NAME_(ns, file)
#define WEFT_CLAIMS(file) extern "C" const weft_claim WEFT_CLAIMS_NAME(WEFT_CU_NS, file)[]
#define WEFT_CLAIMS_END                                                                        \
    {                                                                                          \
        NULL, 0, 0, 0, NULL                                                                    \
    }
