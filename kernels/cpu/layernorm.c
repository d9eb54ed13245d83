/* SPDX-License-Identifier: Apache-2.0
 * layernorm: mean, then the variance of the differences from it, each sixteen lanes and the fixed
 * tree. */
#include "norm.h"

CPU_OK(layernorm) {
    const weft_layernorm_args *a = &args->layernorm;
    return cpu_flat(&a->x) && cpu_flat(&a->res) && cpu_flat(&a->g) && cpu_flat(&a->b) &&
           cpu_flat(&a->y) && cpu_flat(&a->r) && norm_scalar_ok(&a->mean) &&
           norm_scalar_ok(&a->inv);
}

static float layernorm_mean(const norm_row *in) {
    v16 sum = v16_zero();
    CPU_EACH_BLOCK(at, block, in->width) {
        v16 part = v16_zero();
        CPU_EACH16(i, n, block) {
            part = v16_add(part, norm_get(in, at + i, (int)n));
        }
        sum = v16_add(sum, part);
    }
    return v16_sum(sum) / (float)in->width;
}

static float layernorm_var(const norm_row *in, float mean) {
    v16 sum = v16_zero();
    CPU_EACH_BLOCK(at, block, in->width) {
        v16 part = v16_zero();
        CPU_EACH16(i, n, block) {
            v16 d = v16_sub(norm_get(in, at + i, (int)n), v16_set1(mean));
            d = v16_pick(0, (int)n, d, v16_zero());
            part = v16_fma(d, d, part);
        }
        sum = v16_add(sum, part);
    }
    return v16_sum(sum) / (float)in->width;
}

static void layernorm_write(const weft_layernorm_args *a, const norm_row *in, int64_t row,
                            float mean, float inv) {
    void *y = weft_has(&a->y) ? cpu_row(&a->y, row) : NULL;
    void *r = weft_has(&a->r) ? cpu_row(&a->r, row) : NULL;
    CPU_EACH16(i, n, in->width) {
        v16 v = norm_get(in, i, (int)n);
        if (r)
            v16_put(a->r.dtype, r, i, (int)n, v);
        v = v16_mul(v16_sub(v, v16_set1(mean)), v16_set1(inv));
        v16 g = v16_get(a->g.dtype, a->g.data, i, (int)n);
        v16 b = weft_has(&a->b) ? v16_get(a->b.dtype, a->b.data, i, (int)n) : v16_zero();
        if (y)
            v16_put(a->y.dtype, y, i, (int)n, v16_fma(v, g, b));
    }
}

static void layernorm_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_layernorm_args *a = ctx;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        norm_row in = norm_at(&a->x, &a->res, &a->r, row);
        float mean = layernorm_mean(&in);
        float inv = 1.0f / sqrtf(layernorm_var(&in, mean) + a->eps);
        layernorm_write(a, &in, row, mean, inv);
        norm_put(&a->mean, row, mean);
        norm_put(&a->inv, row, inv);
    }
}

CPU_RUN(layernorm) {
    const weft_layernorm_args *a = &step->args.layernorm;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->x), cpu_width(&a->x), layernorm_rows, a);
}
