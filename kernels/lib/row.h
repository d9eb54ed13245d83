/* SPDX-License-Identifier: Apache-2.0
 * How a .cu file ends: its rows, in an array whose name the build gives. */
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
#define WEFT_ROWS_END                                                                          \
    {                                                                                          \
        WEFT_OP_embed, NULL, NULL, WEFT_ARITH_NONE, 0, 0, NULL, NULL, NULL, NULL, 0            \
    }
