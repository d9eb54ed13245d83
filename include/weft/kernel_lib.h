/* SPDX-License-Identifier: Apache-2.0
 * Rows from outside: a shared object that WEFT_KERNEL_LIB names is loaded beside the built-in rows
 * and competes with them by rank, in every command and in checkkernels. Its backend is "cpu",
 * "cuda" or "emu" and its contract that of weft_kernel. The whole of a library:
 *
 *     #include "weft/kernel_lib.h"
 *     ...
 *     WEFT_KERNEL_LIBRARY = {
 *         {.op = WEFT_OP_add, .backend = "cpu", .name = "mine", ...},
 *         WEFT_KERNEL_LIBRARY_END};
 *
 * Two symbols carry it: weft_kernel_abi, compared before anything else is looked at, and
 * weft_kernel_rows. The structs of step.h are shared as they lie in memory, so a library is built
 * against the headers of the weft that loads it; docs/examples/kernel.c is one. */
#pragma once
#include "weft/step.h"
#ifdef __cplusplus
extern "C" {
#endif

/* A number that changes with what the two sides share: the version when its meaning does, the
 * sizes and the catalogue by themselves. */
#define WEFT_KERNEL_ABI_VERSION 1
#define WEFT_KERNEL_ABI \
    ((uint64_t)WEFT_KERNEL_ABI_VERSION << 48 | (uint64_t)sizeof(weft_step) << 32 | \
     (uint64_t)sizeof(weft_kernel) << 16 | (uint64_t)WEFT_ARITHS << 8 | WEFT_OP_COUNT)

#define WEFT_KERNEL_EXPORT __attribute__((visibility("default")))
extern WEFT_KERNEL_EXPORT const uint64_t weft_kernel_abi;
extern WEFT_KERNEL_EXPORT const weft_kernel weft_kernel_rows[];

/* Ended by a row whose name is NULL. */
#define WEFT_KERNEL_LIBRARY \
    const uint64_t weft_kernel_abi = WEFT_KERNEL_ABI; \
    const weft_kernel weft_kernel_rows[]
#ifdef __cplusplus
#define WEFT_KERNEL_LIBRARY_END \
    {}
#else
#define WEFT_KERNEL_LIBRARY_END \
    { .name = NULL }
#endif

#ifdef __cplusplus
}
#endif
