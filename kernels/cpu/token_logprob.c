/* SPDX-License-Identifier: Apache-2.0
 * token_logprob: log softmax of one row at one token. Sixteen lanes of doubles: a sure token's
 * logarithm is what the small terms beside its 1 add up to. */
#include "cpu.h"

CPU_OK(token_logprob) {
    const weft_token_logprob_args *a = &args->token_logprob;
    return cpu_flat(&a->x) && cpu_is_float(&a->y);
}

static float logprob_top(int dtype, const void *x, int64_t width) {
    v16 most = v16_set1(-INFINITY);
    CPU_EACH16(i, n, width) {
        most = v16_max(v16_pick(0, (int)n, v16_get(dtype, x, i, (int)n), most), most);
    }
    return v16_hmax(most);
}

static double logprob_total(int dtype, const void *x, int64_t width, float top) {
    double sum[16] = {0};
    CPU_EACH16(i, n, width) {
        float e[16];
        v16 v = v16_exp(v16_sub(v16_get(dtype, x, i, (int)n), v16_set1(top)));
        v16_store(e, v16_pick(0, (int)n, v, v16_zero()));
        for (int l = 0; l < 16; l++)
            sum[l] += e[l];
    }
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++)
            sum[l] += sum[l + n];
    return sum[0];
}

static double logprob_one(const weft_token_logprob_args *a, int64_t t, int64_t target) {
    const void *x = cpu_row(&a->x, t);
    int64_t width = cpu_width(&a->x);
    float top = logprob_top(a->x.dtype, x, width), value[16];
    v16_store(value, v16_get(a->x.dtype, x, target, 1));
    return (double)value[0] - top - weft_log(logprob_total(a->x.dtype, x, width, top));
}

static void logprob_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_token_logprob_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int32_t target = ((const int32_t *)a->target.data)[t * a->target.stride[0]];
        int counts = target >= 0 && target < cpu_width(&a->x);
        v16 y = v16_set1(counts ? (float)logprob_one(a, t, target) : 0.0f);
        v16_put(a->y.dtype, cpu_at(&a->y, t * a->y.stride[0]), 0, 1, y);
    }
}

CPU_RUN(token_logprob) {
    const weft_token_logprob_args *a = &step->args.token_logprob;
    cpu_each_row(stream, cpu_rows(&a->rows, &a->x), 2 * cpu_width(&a->x), logprob_rows, a);
}
