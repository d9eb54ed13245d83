/* SPDX-License-Identifier: Apache-2.0
 * rmsnorm: the sum of squares is sixteen lanes of fma over the row, then the fixed tree. */
#include "norm.h"

CPU_OK(rmsnorm) {
    const weft_rmsnorm_args *a = &args->rmsnorm;
    return cpu_flat(&a->x) && cpu_flat(&a->res) && cpu_flat(&a->g) && cpu_flat(&a->y) &&
           cpu_flat(&a->r) && norm_scalar_ok(&a->inv);
}

static void rmsnorm_write(const weft_rmsnorm_args *a, const norm_row *in, int64_t row, float inv) {
    void *y = weft_has(&a->y) ? cpu_row(&a->y, row) : NULL;
    void *r = weft_has(&a->r) ? cpu_row(&a->r, row) : NULL;
    CPU_EACH16(i, n, in->width) {
        v16 v = norm_get(in, i, (int)n);
        if (r)
            v16_put(a->r.dtype, r, i, (int)n, v);
        v16 g = v16_add(v16_get(a->g.dtype, a->g.data, i, (int)n), v16_set1(a->offset));
        if (y)
            v16_put(a->y.dtype, y, i, (int)n, v16_mul(v16_mul(v, v16_set1(inv)), g));
    }
}

static float rmsnorm_squares(const norm_row *in) {
    v16 sum = v16_zero();
    CPU_EACH_BLOCK(at, block, in->width) {
        v16 part = v16_zero();
        CPU_EACH16(i, n, block) {
            v16 v = norm_get(in, at + i, (int)n);
            part = v16_fma(v, v, part);
        }
        sum = v16_add(sum, part);
    }
    return v16_sum(sum);
}

static void rmsnorm_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_rmsnorm_args *a = ctx;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        norm_row in = norm_at(&a->x, &a->res, &a->r, row);
        float inv = 1.0f / sqrtf(rmsnorm_squares(&in) / (float)in.width + a->eps);
        rmsnorm_write(a, &in, row, inv);
        norm_put(&a->inv, row, inv);
    }
}

CPU_RUN(rmsnorm) {
    const weft_rmsnorm_args *a = &step->args.rmsnorm;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->x), cpu_width(&a->x), rmsnorm_rows, a);
}
