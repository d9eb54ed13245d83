/* SPDX-License-Identifier: Apache-2.0
 * add: y = a + b. The double sum of two floats rounds to the float sum. */
#include "kernels/ref/ref.h"

int ref_add_ok(const weft_args *args) {
    return ref_is_float(&args->add.a) && ref_is_float(&args->add.b) && ref_is_float(&args->add.y);
}

static void add_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_add_args *s = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        int64_t a = ref_row(&s->a, r), b = ref_row(&s->b, r), y = ref_row(&s->y, r);
        for (int64_t i = 0; i < ref_width(&s->y); i++)
            ref_put(&s->y, y + i * ref_step(&s->y),
                    ref_get(&s->a, a + i * ref_step(&s->a)) +
                        ref_get(&s->b, b + i * ref_step(&s->b)));
    }
}

void ref_add_run(const weft_step *step, weft_stream *stream) {
    const weft_add_args *a = &step->args.add;
    weft_parallel(stream, ref_rows(&a->y, &a->rows), ref_grain(ref_width(&a->y)), add_rows, a);
}
