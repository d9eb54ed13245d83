/* SPDX-License-Identifier: Apache-2.0
 * cross_entropy: loss and gradient of a row of logits, a block of 8 or 32 warps by its width. The
 * first pass finds the largest logit, the sum of exponents and, if asked for, that of the logits;
 * the second writes p (1 + 2 z m) - (1 - e) [v = target] - e / V, times scale. An element is read
 * and written by one thread, so dx may be x. Bound by memory: two reads, one write; a row of V up
 * to some 100 KiB is still in L2 for the second. Measured: nowhere yet. */
#include "kernels/lib/log_sum.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

template <int WARPS> struct entropy_smem { float most[WARPS], sum[WARPS], logits[WARPS], hit; };

/* What the two passes share. */
struct entropy_row {
    int64_t t, width, x, dx;
    int32_t target;
    float most, sum, logits, hit; /* of the row */
};

/* Through the ordinary path: dx may be x. */
__device__ __forceinline__ void load8_own(const weft_tensor &t, int64_t off, int n,
                                          float (&v)[CHUNK]) {
    if (t.dtype == WEFT_F32) {
        load8_as<false>((const float *)t.data + off, n, v);
        return;
    }
    uint16_t e[CHUNK];
    load8_as<false>((const uint16_t *)t.data + off, n, e);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = t.dtype == WEFT_BF16 ? to_float(bf16{e[i]}) : to_float(f16{e[i]});
}

template <int WARPS>
__device__ static void entropy_look(const weft_cross_entropy_args &a, entropy_smem<WARPS> &s,
                                    entropy_row &u) {
    log_sum l = {-INFINITY, 0};
    float v[CHUNK], logits = 0;
    for (int64_t i = threadIdx.x * (int64_t)CHUNK; i < u.width; i += WARPS * 32 * CHUNK) {
        int n = chunk_size(u.width, i);
        load8_own(a.x, u.x + i, n, v);
        l.add(v, n);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            logits = j < n ? logits + v[j] : logits;
            if (i + j == u.target)
                st_shared(&s.hit, v[j]);
        }
    }
    u.most = block_reduce<op_max, WARPS>(l.most, s.most);
    float part = l.most == -INFINITY ? 0.0f : l.sum * weft_expf(l.most - u.most);
    u.sum = block_reduce<op_sum, WARPS>(part, s.sum);
    u.logits = block_reduce<op_sum, WARPS>(logits, s.logits);
    u.hit = ld_shared(&s.hit);
}

__device__ static void entropy_loss(const weft_cross_entropy_args &a, const entropy_row &u,
                                    float lse) {
    float loss = lse - (1.0f - a.smoothing) * u.hit;
    if (a.smoothing != 0) /* a logit of -infinity is none of the loss's business without */
        loss = loss - a.smoothing * (u.logits / (float)u.width);
    if (a.z_loss != 0)
        loss = loss + a.z_loss * lse * lse;
    if (weft_has(&a.loss))
        store1(a.loss, u.t * a.loss.stride[0], loss);
    if (weft_has(&a.nll))
        store1(a.nll, u.t * a.nll.stride[0], lse - u.hit);
}

template <int WARPS>
__device__ static void entropy_gradient(const weft_cross_entropy_args &a, const entropy_row &u,
                                        float lse) {
    float scale = load1(a.scale, 0), even = a.smoothing / (float)u.width, v[CHUNK];
    float more = (1.0f + 2.0f * a.z_loss * lse) / u.sum, one = 1.0f - a.smoothing;
    for (int64_t i = threadIdx.x * (int64_t)CHUNK; i < u.width; i += WARPS * 32 * CHUNK) {
        int n = chunk_size(u.width, i);
        load8_own(a.x, u.x + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            float p = weft_expf(v[j] - u.most) * more;
            p = i + j == u.target ? p - one : p;
            v[j] = scale * (p - even);
        }
        store8(a.dx, u.dx + i, n, v);
    }
}

template <int WARPS>
__device__ static void entropy_ignore(const weft_cross_entropy_args &a, const entropy_row &u) {
    const float zero[CHUNK] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (threadIdx.x == 0 && weft_has(&a.loss))
        store1(a.loss, u.t * a.loss.stride[0], 0.0f);
    if (threadIdx.x == 0 && weft_has(&a.nll))
        store1(a.nll, u.t * a.nll.stride[0], 0.0f);
    for (int64_t i = threadIdx.x * (int64_t)CHUNK; weft_has(&a.dx) && i < u.width;
         i += WARPS * 32 * CHUNK)
        store8(a.dx, u.dx + i, chunk_size(u.width, i), zero);
}

template <int WARPS>
__global__ void __launch_bounds__(WARPS * 32)
    cross_entropy_k(const __grid_constant__ weft_cross_entropy_args a) {
    WEFT_SMEM(entropy_smem<WARPS>, s);
    entropy_row u;
    u.t = blockIdx.x;
    if (u.t >= lead_rows(a.rows, a.x.shape[0]))
        return;
    u.width = a.x.shape[1];
    u.x = u.t * a.x.stride[0];
    u.dx = weft_has(&a.dx) ? u.t * a.dx.stride[0] : 0;
    u.target = load_int(a.target, u.t * a.target.stride[0]);
    if (u.target < 0 || u.target >= u.width) { /* alike for all threads */
        entropy_ignore<WARPS>(a, u);
        return;
    }
    entropy_look<WARPS>(a, s, u);
    float lse = u.most + weft_logf(u.sum);
    if (threadIdx.x == 0)
        entropy_loss(a, u, lse);
    if (weft_has(&a.dx))
        entropy_gradient<WARPS>(a, u, lse);
}

static int cross_entropy_ok(const weft_args *args) {
    const weft_cross_entropy_args &a = args->cross_entropy;
    return is_flat(a.x) && is_flat(a.dx) && a.target.dtype == WEFT_I32 &&
           a.scale.dtype == WEFT_F32 && is_f32(a.loss) && is_f32(a.nll);
}

static void cross_entropy_run(const weft_step *step, weft_stream *stream) {
    const weft_cross_entropy_args &a = step->args.cross_entropy;
    unsigned rows = (unsigned)a.x.shape[0];
    if (rows && a.x.shape[1] <= LOGPROB_NARROW)
        WEFT_LAUNCH(step, stream, cross_entropy_k<8>, rows, 256, sizeof(entropy_smem<8>), a);
    else if (rows)
        WEFT_LAUNCH(step, stream, cross_entropy_k<32>, rows, 1024, sizeof(entropy_smem<32>), a);
}

WEFT_ROWS(cross_entropy) = {WEFT_ROW(cross_entropy, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(cross_entropy) = {
    {"cross_entropy_k<8>", 256, 4, sizeof(entropy_smem<8>), "LDG.128 STG.128"},
    {"cross_entropy_k<32>", 1024, 1, sizeof(entropy_smem<32>), "LDG.128 STG.128"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
