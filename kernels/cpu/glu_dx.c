/* SPDX-License-Identifier: Apache-2.0
 * glu_dx and activation_dx: elementwise in fp32, one rounding. */
#include "cpu.h"

CPU_LANES(dx_silu, weft_silu_slope)
CPU_LANES(dx_gelu, weft_gelu_slope)
CPU_LANES(dx_gelu_tanh, weft_gelu_tanh_slope)
CPU_LANES(dx_relu, weft_relu_slope)

V16 v16 dx_slope(int act, v16 v) {
    switch (act) {
    case WEFT_ACT_SILU: return dx_silu(v);
    case WEFT_ACT_GELU: return dx_gelu(v);
    case WEFT_ACT_GELU_TANH: return dx_gelu_tanh(v);
    case WEFT_ACT_RELU: return dx_relu(v);
    default: return v16_set1(1.0f);
    }
}

CPU_OK(glu_dx) {
    const weft_glu_dx_args *a = &args->glu_dx;
    return cpu_flat(&a->dy) && cpu_flat(&a->gate) && cpu_flat(&a->up) && cpu_flat(&a->dgate) &&
           cpu_flat(&a->dup);
}

static void glu_dx_row(const weft_glu_dx_args *a, int64_t r) {
    const void *dy = cpu_row(&a->dy, r), *gate = cpu_row(&a->gate, r), *up = cpu_row(&a->up, r);
    void *dgate = weft_has(&a->dgate) ? cpu_row(&a->dgate, r) : NULL;
    void *dup = weft_has(&a->dup) ? cpu_row(&a->dup, r) : NULL;
    CPU_EACH16(i, n, cpu_width(&a->dy)) {
        v16 d = v16_get(a->dy.dtype, dy, i, (int)n), g = v16_get(a->gate.dtype, gate, i, (int)n);
        v16 by = v16_mul(d, v16_get(a->up.dtype, up, i, (int)n));
        if (dgate)
            v16_put(a->dgate.dtype, dgate, i, (int)n, v16_mul(by, dx_slope(a->act, g)));
        if (dup)
            v16_put(a->dup.dtype, dup, i, (int)n, v16_mul(d, cpu_act(a->act, g)));
    }
}

static void glu_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        glu_dx_row(ctx, r);
}

CPU_RUN(glu_dx) {
    const weft_glu_dx_args *a = &step->args.glu_dx;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->dy), 8 * cpu_width(&a->dy), glu_dx_rows, a);
}

CPU_OK(activation_dx) {
    const weft_activation_dx_args *a = &args->activation_dx;
    return cpu_flat(&a->dy) && cpu_flat(&a->x) && cpu_flat(&a->dx);
}

static void activation_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_activation_dx_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const void *dy = cpu_row(&a->dy, r), *x = cpu_row(&a->x, r);
        void *dx = cpu_row(&a->dx, r);
        CPU_EACH16(i, n, cpu_width(&a->dx)) {
            v16 by = dx_slope(a->act, v16_get(a->x.dtype, x, i, (int)n));
            v16_put(a->dx.dtype, dx, i, (int)n, v16_mul(v16_get(a->dy.dtype, dy, i, (int)n), by));
        }
    }
}

CPU_RUN(activation_dx) {
    const weft_activation_dx_args *a = &step->args.activation_dx;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->dx), 4 * cpu_width(&a->dx), activation_dx_rows, a);
}
