/* SPDX-License-Identifier: Apache-2.0
 * quantize: every number is rounded twice in all, its slice's scale and itself, so all levels and
 * ref have the same bits. */
#include "cpu.h"

/* max |x| / 127, or NaN if an element is not finite: 0 x is then NaN, and stays in the sum. */
static float slice_scale(int dtype, const void *x, int64_t width) {
    v16 most = v16_zero(), finite = v16_zero();
    CPU_EACH16(i, n, width) {
        v16 v = v16_get(dtype, x, i, (int)n);
        most = v16_max(v16_max(v, v16_sub(v16_zero(), v)), most);
        finite = v16_fma(v, v16_zero(), finite);
    }
    return v16_sum(finite) == 0.0f ? v16_hmax(most) / 127.0f : NAN;
}

/* 1.5 2^23 + q holds the integer nearest to q in its low bits, ties to even. */
static void quantize_slice(int dtype, const void *x, int8_t *y, int64_t width, float scale) {
    v16 by = v16_set1(scale), most = v16_set1(127.0f), least = v16_set1(-127.0f);
    CPU_EACH16(i, n, width) {
        float lane[16];
        uint32_t bits[16];
        v16 q = v16_div(v16_get(dtype, x, i, (int)n), by);
        q = v16_min(most, v16_max(least, q));
        v16_store(lane, v16_add(q, v16_set1(12582912.0f)));
        memcpy(bits, lane, sizeof bits);
        for (int l = 0; l < n; l++)
            y[i + l] = (int8_t)(uint8_t)bits[l];
    }
}

static void quantize_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_quantize_args *a = ctx;
    int64_t leaves = a->scale.shape[1], width = a->x.shape[1] / leaves;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int64_t l = 0; l < leaves; l++) {
            const void *x = cpu_at(&a->x, t * a->x.stride[0] + l * width);
            int8_t *y = (int8_t *)a->y.data + t * a->y.stride[0] + l * width;
            float *scale = (float *)a->scale.data + t * a->scale.stride[0] + l;
            *scale = slice_scale(a->x.dtype, x, width);
            if (*scale > 0)
                quantize_slice(a->x.dtype, x, y, width, *scale);
            else
                memset(y, 0, (size_t)width);
        }
}

CPU_OK(quantize) {
    const weft_quantize_args *a = &args->quantize;
    return a->x.ndim == 2 && cpu_flat(&a->x) && a->y.dtype == WEFT_I8 && a->y.stride[1] == 1 &&
           a->scale.dtype == WEFT_F32 && cpu_flat(&a->scale) && a->scale.shape[1] > 0 &&
           a->x.shape[1] % a->scale.shape[1] == 0;
}

CPU_RUN(quantize) {
    const weft_quantize_args *a = &step->args.quantize;
    cpu_each_row(stream, cpu_true_rows(&a->rows, &a->x), a->x.shape[1], quantize_rows, a);
}
