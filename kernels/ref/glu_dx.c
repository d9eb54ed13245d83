/* SPDX-License-Identifier: Apache-2.0
 * glu_dx and activation_dx: elementwise, one rounding. */
#include "kernels/ref/ref.h"

int ref_glu_dx_ok(const weft_args *args) {
    const weft_glu_dx_args *a = &args->glu_dx;
    return ref_is_float(&a->dy) && ref_is_float(&a->gate) && ref_is_float(&a->up) &&
           ref_is_float_or_absent(&a->dgate) && ref_is_float_or_absent(&a->dup);
}

static void glu_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_glu_dx_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < ref_width(&a->dy); i++) {
            double dy = ref_get(&a->dy, ref_row(&a->dy, r) + i * ref_step(&a->dy));
            double gate = ref_get(&a->gate, ref_row(&a->gate, r) + i * ref_step(&a->gate));
            double up = ref_get(&a->up, ref_row(&a->up, r) + i * ref_step(&a->up));
            if (weft_has(&a->dgate))
                ref_put(&a->dgate, ref_row(&a->dgate, r) + i * ref_step(&a->dgate),
                        dy * up * ref_act_slope(a->act, gate));
            if (weft_has(&a->dup))
                ref_put(&a->dup, ref_row(&a->dup, r) + i * ref_step(&a->dup),
                        dy * ref_act(a->act, gate));
        }
}

void ref_glu_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_glu_dx_args *a = &step->args.glu_dx;
    weft_parallel(stream, ref_rows(&a->dy, &a->rows), ref_grain(16 * ref_width(&a->dy)),
                  glu_dx_rows, a);
}

int ref_activation_dx_ok(const weft_args *args) {
    const weft_activation_dx_args *a = &args->activation_dx;
    return ref_is_float(&a->dy) && ref_is_float(&a->x) && ref_is_float(&a->dx);
}

static void activation_dx_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_activation_dx_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < ref_width(&a->dy); i++) {
            double dy = ref_get(&a->dy, ref_row(&a->dy, r) + i * ref_step(&a->dy));
            double x = ref_get(&a->x, ref_row(&a->x, r) + i * ref_step(&a->x));
            ref_put(&a->dx, ref_row(&a->dx, r) + i * ref_step(&a->dx),
                    dy * ref_act_slope(a->act, x));
        }
}

void ref_activation_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_activation_dx_args *a = &step->args.activation_dx;
    weft_parallel(stream, ref_rows(&a->dy, &a->rows), ref_grain(8 * ref_width(&a->dy)),
                  activation_dx_rows, a);
}
