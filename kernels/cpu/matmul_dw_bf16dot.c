/* SPDX-License-Identifier: Apache-2.0
 * matmul_dw, class BF16DOT: bf16 by bf16 in pairs of tokens; a shard of odd length, and one that
 * the true number of rows cuts, ends with half a pair. */
#include "outer_pairs.h"

#include "matmul_dw.h"

CPU_OK(matmul_dw) {
    return dw_ok(&args->matmul_dw);
}

CPU_SCRATCH(matmul_dw) {
    return dw_scratch(&args->matmul_dw);
}

CPU_RUN(matmul_dw) {
    dw_run(step, stream);
}
