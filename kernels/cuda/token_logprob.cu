/* SPDX-License-Identifier: Apache-2.0
 * token_logprob: log softmax of a row at one token: x[target] - most - log sum e^(x - most). One
 * pass over the row, a block of 8 or 32 warps by its width: thread i takes chunks i, i + threads,
 * ... and scales its sum whenever its largest element grows; then the fixed tree. Bound by memory:
 * one read of the logits. Measured: nowhere yet. */
#include "kernels/lib/log_sum.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

template <int WARPS> struct logprob_smem { float most[WARPS], sum[WARPS]; };

template <class T, int WARPS>
__global__ void __launch_bounds__(WARPS * 32)
    token_logprob_k(const __grid_constant__ weft_token_logprob_args a) {
    WEFT_SMEM(logprob_smem<WARPS>, s);
    int64_t width = a.x.shape[1], t = blockIdx.x, x = t * a.x.stride[0];
    const int64_t stride = WARPS * 32 * CHUNK;
    if (t >= lead_rows(a.rows, a.x.shape[0]))
        return;
    int32_t target = load_int(a.target, t * a.target.stride[0]);
    if (target < 0 || target >= width) { /* alike for all threads */
        if (threadIdx.x == 0)
            store1(a.y, t * a.y.stride[0], 0.0f);
        return;
    }
    log_sum l = {-INFINITY, 0};
    float v[CHUNK];
    for (int64_t i = threadIdx.x * (int64_t)CHUNK; i < width; i += LOGPROB_FLIGHT * stride) {
        held<T> h[LOGPROB_FLIGHT];
#pragma unroll
        for (int k = 0; k < LOGPROB_FLIGHT; k++)
            if (i + k * stride < width)
                fetch(h[k], a.x, x + i + k * stride, chunk_size(width, i + k * stride));
#pragma unroll
        for (int k = 0; k < LOGPROB_FLIGHT; k++)
            if (i + k * stride < width) {
                widen(h[k], v);
                l.add(v, chunk_size(width, i + k * stride));
            }
    }
    float most = block_reduce<op_max, WARPS>(l.most, s.most);
    float part = l.most == -INFINITY ? 0.0f : l.sum * weft_expf(l.most - most);
    float sum = block_reduce<op_sum, WARPS>(part, s.sum);
    if (threadIdx.x == 0)
        store1(a.y, t * a.y.stride[0], (load1(a.x, x + target) - most) - weft_logf(sum));
}

static int token_logprob_ok(const weft_args *args) {
    const weft_token_logprob_args &a = args->token_logprob;
    return is_flat(a.x) && is_float(a.y) && a.target.dtype == WEFT_I32;
}

static void token_logprob_run(const weft_step *step, weft_stream *stream) {
    const weft_token_logprob_args &a = step->args.token_logprob;
    unsigned rows = (unsigned)a.x.shape[0];
    if (!rows)
        return;
    with_type(wide_type({&a.x}), [&](auto type) {
        using T = decltype(type);
        if (a.x.shape[1] <= LOGPROB_NARROW)
            WEFT_LAUNCH(step, stream, (token_logprob_k<T, 8>), rows, 256, sizeof(logprob_smem<8>),
                        a);
        else
            WEFT_LAUNCH(step, stream, (token_logprob_k<T, 32>), rows, 1024,
                        sizeof(logprob_smem<32>), a);
    });
}

WEFT_ROWS(token_logprob) = {WEFT_ROW(token_logprob, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(token_logprob) = {
    {"token_logprob_k<*,8>", 256, 4, sizeof(logprob_smem<8>), "LDG.128"},
    {"token_logprob_k<*,32>", 1024, 1, sizeof(logprob_smem<32>), "LDG.128"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
