/* SPDX-License-Identifier: Apache-2.0
 * add: y = a + b. The fp32 sum is the exact one rounded once. */
#include "cpu.h"

CPU_OK(add) {
    const weft_add_args *a = &args->add;
    return cpu_flat(&a->a) && cpu_flat(&a->b) && cpu_flat(&a->y);
}

static void add_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_add_args *s = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const void *a = cpu_row(&s->a, r), *b = cpu_row(&s->b, r);
        void *y = cpu_row(&s->y, r);
        CPU_EACH16(i, n, cpu_width(&s->y)) {
            v16_put(s->y.dtype, y, i, (int)n,
                    v16_add(v16_get(s->a.dtype, a, i, (int)n), v16_get(s->b.dtype, b, i, (int)n)));
        }
    }
}

CPU_RUN(add) {
    const weft_add_args *a = &step->args.add;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), cpu_width(&a->y), add_rows, a);
}
