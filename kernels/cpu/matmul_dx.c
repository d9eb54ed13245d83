/* SPDX-License-Identifier: Apache-2.0
 * matmul_dx, class LANE16: chains of fma over fp32, whatever the types of dy and w. */
#include "outer_fma.h"

#include "matmul_dx.h"

CPU_OK(matmul_dx) {
    return dx_ok(&args->matmul_dx);
}

CPU_RUN(matmul_dx) {
    dx_run(&step->args.matmul_dx, stream);
}
