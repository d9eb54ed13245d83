/* SPDX-License-Identifier: Apache-2.0
 * softmax over the last axis. A row of -infinity only is all zeros; a NaN spoils its whole row. */
#include "cpu.h"

CPU_OK(softmax) {
    return cpu_flat(&args->softmax.x) && cpu_flat(&args->softmax.y);
}

V16 v16 softmax_weight(int dtype, const void *x, int64_t i, int n, float top) {
    v16 e = v16_exp(v16_sub(v16_get(dtype, x, i, n), v16_set1(top)));
    return v16_pick(0, n, e, v16_zero());
}

static void softmax_row(int xtype, const void *x, int ytype, void *y, int64_t width) {
    v16 most = v16_set1(-INFINITY), sum = v16_zero();
    CPU_EACH16(i, n, width) {
        most = v16_max(v16_pick(0, (int)n, v16_get(xtype, x, i, (int)n), most), most);
    }
    float top = v16_hmax(most);
    top = top == -INFINITY ? 0.0f : top;
    CPU_EACH_BLOCK(at, block, width) {
        v16 part = v16_zero();
        CPU_EACH16(i, n, block) {
            part = v16_add(part, softmax_weight(xtype, x, at + i, (int)n, top));
        }
        sum = v16_add(sum, part);
    }
    float total = v16_sum(sum);
    v16 by = v16_set1(total == 0 ? 1.0f : total);
    CPU_EACH16(i, n, width) {
        v16_put(ytype, y, i, (int)n, v16_div(softmax_weight(xtype, x, i, (int)n, top), by));
    }
}

static void softmax_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_softmax_args *a = ctx;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        softmax_row(a->x.dtype, cpu_row(&a->x, r), a->y.dtype, cpu_row(&a->y, r), cpu_width(&a->x));
}

CPU_RUN(softmax) {
    const weft_softmax_args *a = &step->args.softmax;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->y), 4 * cpu_width(&a->y), softmax_rows, a);
}
