/* SPDX-License-Identifier: Apache-2.0
 * argmax: the lowest index of the largest element; a NaN is never the largest. The first block that
 * holds the largest value is found by vectors, the place in it one by one. */
#include "cpu.h"

enum { ARGMAX_BLOCK = 1024 };

CPU_OK(argmax) {
    const weft_argmax_args *a = &args->argmax;
    return cpu_flat(&a->x) && (!weft_has(&a->id) || a->id.dtype == WEFT_I32) &&
           (!weft_has(&a->max) || cpu_is_float(&a->max));
}

static float argmax_block(int dtype, const void *x, int64_t at, int64_t width) {
    v16 most = v16_set1(-INFINITY);
    CPU_EACH16(i, n, width) {
        most = v16_max(v16_pick(0, (int)n, v16_get(dtype, x, at + i, (int)n), most), most);
    }
    return v16_hmax(most);
}

/* The first of x[at, width) equal to `most`, or -1. */
static int64_t argmax_find(int dtype, const void *x, int64_t at, int64_t width, float most) {
    float f[16];
    CPU_EACH16(i, n, width - at) {
        v16_store(f, v16_get(dtype, x, at + i, (int)n));
        for (int64_t l = 0; l < n; l++)
            if (f[l] == most)
                return at + i + l;
    }
    return -1;
}

static int64_t argmax_row(int dtype, const void *x, int64_t width) {
    float most = -INFINITY;
    int64_t block = 0;
    for (int64_t at = 0; at < width; at += ARGMAX_BLOCK) {
        float m = argmax_block(dtype, x, at, cpu_min(ARGMAX_BLOCK, width - at));
        block = m > most ? at : block;
        most = m > most ? m : most;
    }
    return argmax_find(dtype, x, block, width, most);
}

static void argmax_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_argmax_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const void *x = cpu_row(&a->x, t);
        int64_t at = argmax_row(a->x.dtype, x, cpu_width(&a->x));
        v16 most = at < 0 ? v16_set1(NAN) : v16_get(a->x.dtype, x, at, 1);
        if (weft_has(&a->id))
            ((int32_t *)a->id.data)[t * a->id.stride[0]] = (int32_t)at;
        if (weft_has(&a->max))
            v16_put(a->max.dtype, cpu_at(&a->max, t * a->max.stride[0]), 0, 1, most);
    }
}

CPU_RUN(argmax) {
    const weft_argmax_args *a = &step->args.argmax;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->x), cpu_width(&a->x), argmax_rows, a);
}
