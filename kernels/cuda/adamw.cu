/* SPDX-License-Identifier: Apache-2.0
 * adamw, sgd and ema: an optimizer's state, one step further; sum_squares: for the norm of what it
 * is given. Every product and sum is rounded where ops_train.h says. A thread per eight elements; a
 * warp a slice of sum_squares, fma in ascending order, then the fixed tree. Bound by memory: seven
 * streams of fp32 for adamw. Measured: nowhere yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/rows.cuh"
#include "weft/rng.h"

namespace WEFT_CU_NS {

__device__ __forceinline__ float hyper_of(const weft_tensor &hyper, int i) {
    return load1(hyper, i * hyper.stride[0]);
}

__device__ __forceinline__ float *f32_at(const weft_tensor &t, const chunk &c) {
    return (float *)t.data + c.row * t.stride[0] + c.i;
}

__device__ __forceinline__ uint32_t philox_word(const weft_philox &r, uint32_t word) {
    uint32_t low = word & 1 ? r.v[1] : r.v[0], high = word & 1 ? r.v[3] : r.v[2];
    return word & 2 ? high : low;
}

/* Up with the probability of what is cut off; what is not finite is rounded as ever. */
__device__ __forceinline__ bf16 round_up_by(float p, uint32_t random) {
    uint32_t bits = weft_f32_bits(p);
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return from_float<bf16>(p);
    return bf16{(uint16_t)((bits + (random & 0xffffu)) >> 16)};
}

__device__ static void store_stochastic(const weft_tensor &w, const chunk &c, uint64_t seed,
                                        uint32_t stream, uint64_t e, const float (&p)[CHUNK]) {
    bf16 out[CHUNK];
    weft_philox r = weft_philox4x32(seed, stream, e / 4);
#pragma unroll
    for (int i = 0; i < CHUNK; i++, e++) {
        if (i > 0 && e % 4 == 0)
            r = weft_philox4x32(seed, stream, e / 4);
        out[i] = round_up_by(p[i], philox_word(r, (uint32_t)e & 3u));
    }
    store8_as((bf16 *)w.data + c.row * w.stride[0] + c.i, c.n, out);
}

/* The weight that the model computes with. */
template <class A>
__device__ __forceinline__ void store_weight(const A &a, const chunk &c, const float (&p)[CHUNK]) {
    if (!weft_has(&a.w))
        return;
    if (!a.stochastic) {
        store8(a.w, c.row * a.w.stride[0] + c.i, c.n, p);
        return;
    }
    uint64_t seed = weft_f32_bits(hyper_of(a.hyper, WEFT_HYPER_SEED_HIGH));
    seed = seed << 32 | weft_f32_bits(hyper_of(a.hyper, WEFT_HYPER_SEED_LOW));
    store_stochastic(a.w, c, seed, (uint32_t)a.stream, (uint64_t)(c.row * a.p.shape[1] + c.i), p);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    adamw_k(const __grid_constant__ weft_adamw_args a) {
    chunk c = chunk_at(a.p.shape[0], a.p.shape[1]);
    float g[CHUNK], p[CHUNK], m[CHUNK], v[CHUNK];
    if (!c.n)
        return;
    float lr = hyper_of(a.hyper, WEFT_HYPER_LR), b1 = hyper_of(a.hyper, WEFT_HYPER_BETA1);
    float b2 = hyper_of(a.hyper, WEFT_HYPER_BETA2), eps = hyper_of(a.hyper, WEFT_HYPER_EPS);
    float down = lr * a.decay * hyper_of(a.hyper, WEFT_HYPER_DECAY);
    float step1 = lr * hyper_of(a.hyper, WEFT_HYPER_STEP1);
    float step2 = hyper_of(a.hyper, WEFT_HYPER_STEP2), n1 = 1.0f - b1, n2 = 1.0f - b2;
    float gscale = hyper_of(a.hyper, WEFT_HYPER_GSCALE);
    load8_as<true>((const float *)f32_at(a.g, c), c.n, g);
    load8_as<false>((const float *)f32_at(a.p, c), c.n, p);
    load8_as<false>((const float *)f32_at(a.m, c), c.n, m);
    load8_as<false>((const float *)f32_at(a.v, c), c.n, v);
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        float d = g[i] * gscale;
        p[i] = p[i] - down * p[i];
        m[i] = b1 * m[i] + n1 * d;
        v[i] = b2 * v[i] + n2 * (d * d);
        p[i] = p[i] - step1 * m[i] / (sqrtf(v[i]) * step2 + eps);
    }
    store8_as(f32_at(a.p, c), c.n, p);
    store8_as(f32_at(a.m, c), c.n, m);
    store8_as(f32_at(a.v, c), c.n, v);
    store_weight(a, c, p);
}

__global__ void __launch_bounds__(CHUNK_THREADS) sgd_k(const __grid_constant__ weft_sgd_args a) {
    chunk c = chunk_at(a.p.shape[0], a.p.shape[1]);
    float g[CHUNK], p[CHUNK], m[CHUNK];
    if (!c.n)
        return;
    float lr = hyper_of(a.hyper, WEFT_HYPER_LR), b1 = hyper_of(a.hyper, WEFT_HYPER_BETA1);
    float down = a.decay * hyper_of(a.hyper, WEFT_HYPER_DECAY);
    float gscale = hyper_of(a.hyper, WEFT_HYPER_GSCALE);
    load8_as<true>((const float *)f32_at(a.g, c), c.n, g);
    load8_as<false>((const float *)f32_at(a.p, c), c.n, p);
    load8_as<false>((const float *)f32_at(a.m, c), c.n, m);
#pragma unroll
    for (int i = 0; i < CHUNK; i++) {
        float d = g[i] * gscale + down * p[i];
        m[i] = b1 * m[i] + d;
        p[i] = p[i] - lr * m[i];
    }
    store8_as(f32_at(a.p, c), c.n, p);
    store8_as(f32_at(a.m, c), c.n, m);
    store_weight(a, c, p);
}

__global__ void __launch_bounds__(CHUNK_THREADS) ema_k(const __grid_constant__ weft_ema_args a) {
    chunk c = chunk_at(a.p.shape[0], a.p.shape[1]);
    float p[CHUNK], e[CHUNK], keep = hyper_of(a.hyper, WEFT_HYPER_EMA);
    if (!c.n)
        return;
    load8_as<true>((const float *)f32_at(a.p, c), c.n, p);
    load8_as<false>((const float *)f32_at(a.e, c), c.n, e);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        e[i] = e[i] * keep + p[i] * (1.0f - keep);
    store8_as(f32_at(a.e, c), c.n, e);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    sum_squares_k(const __grid_constant__ weft_sum_squares_args a) {
    int64_t slice = blockIdx.x * (int64_t)(CHUNK_THREADS / 32) + threadIdx.x / 32;
    int64_t row = slice / a.leaves, leaf = slice % a.leaves, width = a.x.shape[1] / a.leaves;
    if (row >= a.x.shape[0])
        return;
    const float *x = (const float *)a.x.data + row * a.x.stride[0] + leaf * width;
    float v[CHUNK], sum = 0;
    for (int64_t i = threadIdx.x % 32 * (int64_t)CHUNK; i < width; i += 32 * CHUNK) {
        load8_as<true>(x + i, width - i < CHUNK ? (int)(width - i) : (int)CHUNK, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum = fmaf(v[j], v[j], sum);
    }
    sum = warp_reduce<op_sum>(sum);
    if (threadIdx.x % 32 == 0)
        store1(a.y, row * a.y.stride[0] + leaf * a.y.stride[1], sum);
}

static bool is_state(const weft_tensor &t) {
    return t.dtype == WEFT_F32 && t.ndim == 2 && is_flat(t);
}

static bool optim_takes(const weft_tensor &w, int stochastic) {
    return is_flat(w) && (!stochastic || !weft_has(&w) || w.dtype == WEFT_BF16);
}

static int adamw_ok(const weft_args *args) {
    const weft_adamw_args &a = args->adamw;
    return is_state(a.g) && is_state(a.p) && is_state(a.m) && is_state(a.v) &&
           a.hyper.dtype == WEFT_F32 && optim_takes(a.w, a.stochastic);
}

static int sgd_ok(const weft_args *args) {
    const weft_sgd_args &a = args->sgd;
    return is_state(a.g) && is_state(a.p) && is_state(a.m) && a.hyper.dtype == WEFT_F32 &&
           optim_takes(a.w, a.stochastic);
}

static int ema_ok(const weft_args *args) {
    const weft_ema_args &a = args->ema;
    return is_state(a.p) && is_state(a.e) && a.hyper.dtype == WEFT_F32;
}

static int sum_squares_ok(const weft_args *args) {
    const weft_sum_squares_args &a = args->sum_squares;
    int n = a.leaves;
    return is_state(a.x) && a.y.dtype == WEFT_F32 && (n == 1 || n == 2 || n == 4 || n == 8) &&
           a.x.shape[1] % n == 0;
}

static void adamw_run(const weft_step *step, weft_stream *stream) {
    const weft_adamw_args *a = &step->args.adamw;
    int64_t blocks = chunk_blocks(a->p.shape[0], a->p.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, adamw_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

static void sgd_run(const weft_step *step, weft_stream *stream) {
    const weft_sgd_args *a = &step->args.sgd;
    int64_t blocks = chunk_blocks(a->p.shape[0], a->p.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, sgd_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

static void ema_run(const weft_step *step, weft_stream *stream) {
    const weft_ema_args *a = &step->args.ema;
    int64_t blocks = chunk_blocks(a->p.shape[0], a->p.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, ema_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

static void sum_squares_run(const weft_step *step, weft_stream *stream) {
    const weft_sum_squares_args *a = &step->args.sum_squares;
    const int64_t each = CHUNK_THREADS / 32;
    unsigned blocks = (unsigned)((a->x.shape[0] * a->leaves + each - 1) / each);
    if (blocks)
        WEFT_LAUNCH(step, stream, sum_squares_k, blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(adamw) = {WEFT_ROW(adamw, "simt", SIMT, 1, NULL), WEFT_ROW(sgd, "simt", SIMT, 1, NULL),
                    WEFT_ROW(ema, "simt", SIMT, 1, NULL),
                    WEFT_ROW(sum_squares, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(adamw) = {{"adamw_k", CHUNK_THREADS, 3, 0, "LDG.128x8 STG.128x6"},
                      {"sgd_k", CHUNK_THREADS, 3, 0, "LDG.128x6 STG.128x4"},
                      {"ema_k", CHUNK_THREADS, 4, 0, "LDG.128x4 STG.128x2"},
                      {"sum_squares_k", CHUNK_THREADS, 6, 0, "LDG.128x2"},
                      WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
