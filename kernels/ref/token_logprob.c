/* SPDX-License-Identifier: Apache-2.0
 * token_logprob: log softmax of one row at one token. */
#include "kernels/ref/ref.h"

int ref_token_logprob_ok(const weft_args *args) {
    return ref_is_float(&args->token_logprob.x) && ref_is_float(&args->token_logprob.y);
}

static double token_logprob_row(const weft_token_logprob_args *a, int64_t t, int64_t target) {
    int64_t x = t * a->x.stride[0], step = a->x.stride[1];
    double most = -INFINITY, total = 0;
    for (int64_t i = 0; i < a->x.shape[1]; i++) {
        double v = ref_get(&a->x, x + i * step);
        most = v > most || v != v ? v : most;
    }
    for (int64_t i = 0; i < a->x.shape[1]; i++)
        total += weft_exp(ref_get(&a->x, x + i * step) - most);
    return ref_get(&a->x, x + target * step) - most - weft_log(total);
}

static void token_logprob_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const weft_token_logprob_args *a = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t target = ref_int(&a->target, t * a->target.stride[0]);
        bool counts = target >= 0 && target < a->x.shape[1];
        ref_put(&a->y, t * a->y.stride[0], counts ? token_logprob_row(a, t, target) : 0.0);
    }
}

void ref_token_logprob_run(const weft_step *step, weft_stream *stream) {
    const weft_token_logprob_args *a = &step->args.token_logprob;
    int64_t rows = ref_lead(&a->rows, a->x.shape[0]);
    weft_parallel(stream, rows, ref_grain(8 * a->x.shape[1]), token_logprob_rows, a);
}
