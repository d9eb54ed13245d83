/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx, class BF16DOT: bf16 by bf16 in pairs of n; a leaf of odd length ends with half a
 * pair. */
#include "outer_pairs.h"

#include "matmul_dx.h"

CPU_OK(matmul_dx) {
    return dx_ok(&args->matmul_dx) && !weft_has(&args->matmul_dx.wscale);
}

CPU_RUN(matmul_dx) {
    dx_run(&step->args.matmul_dx, stream);
}
