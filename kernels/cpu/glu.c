/* SPDX-License-Identifier: Apache-2.0
 * glu and activation: elementwise in fp32, one rounding. */
#include "cpu.h"

CPU_OK(glu) {
    const weft_glu_args *a = &args->glu;
    return cpu_flat(&a->gate) && cpu_flat(&a->up) && cpu_flat(&a->y);
}

static void glu_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_glu_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const void *gate = cpu_row(&a->gate, r), *up = cpu_row(&a->up, r);
        void *y = cpu_row(&a->y, r);
        CPU_EACH16(i, n, cpu_width(&a->y)) {
            v16 g = cpu_act(a->act, v16_get(a->gate.dtype, gate, i, (int)n));
            v16_put(a->y.dtype, y, i, (int)n, v16_mul(g, v16_get(a->up.dtype, up, i, (int)n)));
        }
    }
}

CPU_RUN(glu) {
    const weft_glu_args *a = &step->args.glu;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), 4 * cpu_width(&a->y), glu_rows, a);
}

CPU_OK(activation) {
    return cpu_flat(&args->activation.x) && cpu_flat(&args->activation.y);
}

static void activation_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_activation_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const void *x = cpu_row(&a->x, r);
        void *y = cpu_row(&a->y, r);
        CPU_EACH16(i, n, cpu_width(&a->y)) {
            v16_put(a->y.dtype, y, i, (int)n, cpu_act(a->act, v16_get(a->x.dtype, x, i, (int)n)));
        }
    }
}

CPU_RUN(activation) {
    const weft_activation_args *a = &step->args.activation;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), 4 * cpu_width(&a->y), activation_rows, a);
}
