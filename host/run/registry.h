/* SPDX-License-Identifier: Apache-2.0
 * registry: which kernel row does a step. Asked while plans are built, never later. */
#pragma once
#include "host/run/comm.h"
#include "host/run/device.h"
#include "weft/gpu.h"

/* The highest-ranked row of the device's backend (for collectives, of comm; where the memory is the
 * host's as on CPU backends and the emulator, then of ref) whose level the device has and whose
 * ok() agrees. The environment's WEFT_KERNEL='matmul=ref,attention=avx2' restricts an op to rows of
 * that backend or row name. WEFT_UNSUPPORTED names op and operands if no row is left, WEFT_USAGE a
 * bad WEFT_KERNEL. */
weft_status registry_find(const device *d, weft_op op, const weft_args *a, const weft_kernel **out);

/* All tables of rows, NULL-terminated: for checkkernels and `weft doctor`. With and without a GPU's
 * rows: registry_cuda.c and device_nocuda.c; with room for one table from outside. */
#define REGISTRY_EMU_(file) weft_emu_##file,
#define REGISTRY_TABLES(...) \
    { \
        weft_kernels_cpu, weft_kernels_ref, \
            WEFT_CU_FILES(REGISTRY_EMU_) __VA_ARGS__ comm_host_kernels, NULL, NULL \
    }
extern const weft_kernel *registry_tables[];
/* Takes in the rows of the shared object that WEFT_KERNEL_LIB names (weft/kernel_lib.h), once a
 * process. registry_find does it; who walks the tables calls it first. WEFT_USAGE: no such object,
 * none with rows, or rows for another ABI. */
weft_status registry_load(void);
void registry_add(const weft_kernel *rows);      /* the one table from outside; once */
const char *registry_arith_name(uint32_t arith); /* "lane16" */
