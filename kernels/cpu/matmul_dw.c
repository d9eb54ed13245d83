/* SPDX-License-Identifier: Apache-2.0
 * matmul_dw, class LANE16: chains of fma over fp32, whatever the types of dy and x. */
#include "outer_fma.h"

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
