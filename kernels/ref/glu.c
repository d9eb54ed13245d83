/* SPDX-License-Identifier: Apache-2.0
 * glu and activation: elementwise, one rounding. */
#include "kernels/ref/ref.h"

int ref_glu_ok(const weft_args *args) {
    const weft_glu_args *a = &args->glu;
    return ref_is_float(&a->gate) && ref_is_float(&a->up) && ref_is_float(&a->y);
}

static void glu_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_glu_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        int64_t gate = ref_row(&a->gate, r), up = ref_row(&a->up, r), y = ref_row(&a->y, r);
        for (int64_t i = 0; i < ref_width(&a->y); i++) {
            double g = ref_get(&a->gate, gate + i * ref_step(&a->gate));
            double v = ref_act(a->act, g) * ref_get(&a->up, up + i * ref_step(&a->up));
            ref_put(&a->y, y + i * ref_step(&a->y), v);
        }
    }
}

void ref_glu_run(const weft_step *step, weft_stream *stream) {
    const weft_glu_args *a = &step->args.glu;
    weft_parallel(stream, ref_rows(&a->y, &a->rows), ref_grain(8 * ref_width(&a->y)), glu_rows, a);
}

int ref_activation_ok(const weft_args *args) {
    return ref_is_float(&args->activation.x) && ref_is_float(&args->activation.y);
}

static void activation_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_activation_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        int64_t x = ref_row(&a->x, r), y = ref_row(&a->y, r);
        for (int64_t i = 0; i < ref_width(&a->y); i++)
            ref_put(&a->y, y + i * ref_step(&a->y),
                    ref_act(a->act, ref_get(&a->x, x + i * ref_step(&a->x))));
    }
}

void ref_activation_run(const weft_step *step, weft_stream *stream) {
    const weft_activation_args *a = &step->args.activation;
    weft_parallel(stream, ref_rows(&a->y, &a->rows), ref_grain(8 * ref_width(&a->y)),
                  activation_rows, a);
}
