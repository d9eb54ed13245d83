/* SPDX-License-Identifier: Apache-2.0
 * attention_dx in fp32 arithmetic, for any mix of float types: no atomics, each result one chain.
 * delta[t,h] = sum of dy y goes to scratch, a warp each. dq: a block a (query, head) takes 128 keys
 * at a time: a thread scores one of them, probabilities anew from lse, then holds elements i and
 * i + 128 of the sum over them in ascending order. dk and dv: a block a (key, kv head) does the
 * same with 128 queries, head after head. Scores, masks and their order are attention_simt's.
 * Bound by L1: a fast path for tensor cores is another kernel's business. Measured: nowhere
 * yet. */
#include "kernels/lib/reduce.cuh"
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

enum { DX_THREADS = 128, DX_WIDTH = 256 };

struct dx_smem {
    float one[DX_WIDTH], two[DX_WIDTH]; /* q and dy of the block's query, or k and v of its key */
    float p[DX_THREADS], ds[DX_THREADS];
};

/* A sequence: its first row, rows, first position and visible keys. */
struct dx_seq {
    int32_t row, count, pos, keys;
};

__device__ __forceinline__ bool dx_find(const weft_attention_dx_args &a, int64_t row, dx_seq &u) {
    for (int64_t s = 0; s < a.kvlen.shape[0]; s++) {
        u.row = load_int(a.qstart, s * a.qstart.stride[0]);
        u.count = load_int(a.qstart, (s + 1) * a.qstart.stride[0]) - u.row;
        if (row < u.row || row >= (int64_t)u.row + u.count)
            continue;
        u.pos = load_int(a.qpos, s * a.qpos.stride[0]);
        u.keys = load_int(a.kvlen, s * a.kvlen.stride[0]);
        return true;
    }
    return false;
}

__device__ __forceinline__ int64_t dx_head(const weft_tensor &t, int64_t row, int64_t head) {
    return row * t.stride[0] + head * t.stride[1];
}

__device__ static void dx_stage(float (&to)[DX_WIDTH], const weft_tensor &t, int64_t off) {
    for (int i = threadIdx.x; i < t.shape[2]; i += DX_THREADS)
        st_shared(&to[i], load1(t, off + i * t.stride[2]));
}

/* A staged row by a row in memory, fma in ascending order. */
__device__ static float dx_dot(const float (&staged)[DX_WIDTH], const weft_tensor &t, int64_t off) {
    int width = (int)t.shape[2];
    float sum = 0, v[CHUNK];
    for (int i = 0; i < width; i += CHUNK) {
        int n = width - i < CHUNK ? width - i : (int)CHUNK;
        load8(t, off + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum = j < n ? fmaf(ld_shared(&staged[i + j]), v[j], sum) : sum;
    }
    return sum;
}

/* A score from q.k, far = key - query, and its derivative in q.k. */
struct dx_score {
    float score, slope;
};

__device__ __forceinline__ dx_score dx_score_of(const weft_attention_dx_args &a, float dot,
                                                int64_t head, int32_t far) {
    dx_score s = {dot * a.scale, a.scale};
    if (a.softcap > 0) {
        float t = weft_tanhf(s.score / a.softcap);
        s.score = a.softcap * t;
        s.slope = a.scale * fmaf(-t, t, 1.0f);
    }
    if (weft_has(&a.slopes))
        s.score = fmaf(load1(a.slopes, head * a.slopes.stride[0]), (float)far, s.score);
    if (weft_has(&a.bias)) {
        int32_t most = (int32_t)(a.bias.shape[1] - 1) / 2;
        int32_t near = far < -most ? -most : far > most ? most : far;
        s.score += load1(a.bias, head * a.bias.stride[0] + (near + most) * a.bias.stride[1]);
    }
    return s;
}

/* The probability and the derivative in q.k of one pair, for the other threads. */
__device__ __forceinline__ void dx_pair(dx_smem &s, const dx_score &score, float dp, float lse,
                                        float delta) {
    float p = lse == -INFINITY ? 0.0f : weft_expf(score.score - lse);
    st_shared(&s.p[threadIdx.x], p);
    st_shared(&s.ds[threadIdx.x], p * (dp - delta) * score.slope);
}

/* Elements i and i + 128 of the chain over `n` rows of t from `off` on, `step` apart. */
__device__ __forceinline__ void dx_sum(const float (&weight)[DX_THREADS], const weft_tensor &t,
                                       int64_t off, int64_t step, int first, int n,
                                       float (&sum)[2]) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int i = threadIdx.x + e * DX_THREADS;
        if (i < t.shape[2])
            for (int x = first; x < n; x++)
                sum[e] = fmaf(ld_shared(&weight[x]), load1(t, off + x * step + i * t.stride[2]),
                              sum[e]);
    }
}

__device__ static void dx_store(const weft_tensor &t, int64_t row, int64_t head,
                                const float (&sum)[2]) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int i = threadIdx.x + e * DX_THREADS;
        if (weft_has(&t) && i < t.shape[2])
            store1(t, dx_head(t, row, head) + i * t.stride[2], sum[e]);
    }
}

/* ---- delta ---- */

__global__ void __launch_bounds__(DX_THREADS)
    dx_delta_k(const __grid_constant__ weft_attention_dx_args a, float *delta) {
    int64_t i = blockIdx.x * (int64_t)(DX_THREADS / 32) + threadIdx.x / 32, heads = a.q.shape[1];
    int64_t row = i / heads, head = i % heads;
    dx_seq u;
    float sum = 0, v[CHUNK], w[CHUNK];
    if (row >= a.q.shape[0] || !dx_find(a, row, u))
        return;
    for (int64_t c = threadIdx.x % 32 * CHUNK; c < a.y.shape[2]; c += 32 * CHUNK) {
        int n = a.y.shape[2] - c < CHUNK ? (int)(a.y.shape[2] - c) : (int)CHUNK;
        load8(a.dy, dx_head(a.dy, row, head) + c, n, v);
        load8(a.y, dx_head(a.y, row, head) + c, n, w);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            sum = fmaf(v[j], w[j], sum);
    }
    sum = warp_reduce<op_sum>(sum);
    if (threadIdx.x % 32 == 0)
        st_global(delta + i, sum);
}

/* ---- dq ---- */

__global__ void __launch_bounds__(DX_THREADS, 6)
    dx_query_k(const __grid_constant__ weft_attention_dx_args a, const float *delta) {
    WEFT_SMEM(dx_smem, s);
    int64_t row = blockIdx.x, head = blockIdx.y, kv = (head + a.head0) / a.group;
    float dq[2] = {0, 0};
    dx_seq u;
    if (!dx_find(a, row, u)) {
        dx_store(a.dq, row, head, dq);
        return;
    }
    int32_t pos = u.pos + (int32_t)(row - u.row), first = 0, last = u.keys;
    last = a.causal && last > pos + 1 ? pos + 1 : last;
    first = a.window > 0 && pos - a.window + 1 > 0 ? pos - a.window + 1 : 0;
    float lse = load1(a.lse, row * a.lse.stride[0] + head * a.lse.stride[1]);
    float mine = ld_global(delta + row * a.q.shape[1] + head);
    dx_stage(s.one, a.q, dx_head(a.q, row, head));
    dx_stage(s.two, a.dy, dx_head(a.dy, row, head));
    for (int32_t j0 = first; j0 < last; j0 += DX_THREADS) {
        int32_t j = j0 + threadIdx.x, n = last - j0 < DX_THREADS ? last - j0 : (int)DX_THREADS;
        __syncthreads();
        if (j < last) {
            float dot = dx_dot(s.one, a.k, dx_head(a.k, u.row + j, kv));
            float dp = dx_dot(s.two, a.v, dx_head(a.v, u.row + j, kv));
            dx_pair(s, dx_score_of(a, dot, head, j - pos), dp, lse, mine);
        }
        __syncthreads();
        dx_sum(s.ds, a.k, dx_head(a.k, u.row + j0, kv), a.k.stride[0], 0, n, dq);
    }
    dx_store(a.dq, row, head, dq);
}

/* ---- dk and dv ---- */

/* One head's queries [i0, last) of the block's key, 128 at most. */
__device__ __forceinline__ void dx_queries(const weft_attention_dx_args &a, dx_smem &s,
                                           const dx_seq &u, const float *delta, int32_t key,
                                           int64_t head, int32_t i0, int n, float (&dk)[2],
                                           float (&dv)[2]) {
    int64_t row = (int64_t)u.row + i0 + threadIdx.x;
    __syncthreads();
    if ((int)threadIdx.x < n) {
        int32_t far = key - (u.pos + i0 + (int32_t)threadIdx.x);
        float dot = dx_dot(s.one, a.q, dx_head(a.q, row, head));
        float dp = dx_dot(s.two, a.dy, dx_head(a.dy, row, head));
        float lse = load1(a.lse, row * a.lse.stride[0] + head * a.lse.stride[1]);
        dx_pair(s, dx_score_of(a, dot, head, far), dp, lse,
                ld_global(delta + row * a.q.shape[1] + head));
    }
    __syncthreads();
    dx_sum(s.ds, a.q, dx_head(a.q, u.row + i0, head), a.q.stride[0], 0, n, dk);
    dx_sum(s.p, a.dy, dx_head(a.dy, u.row + i0, head), a.dy.stride[0], 0, n, dv);
}

__global__ void __launch_bounds__(DX_THREADS, 6)
    dx_key_k(const __grid_constant__ weft_attention_dx_args a, const float *delta) {
    WEFT_SMEM(dx_smem, s);
    int64_t row = blockIdx.x, kv = blockIdx.y, head = kv * a.group - a.head0;
    int64_t end = head + a.group < a.q.shape[1] ? head + a.group : a.q.shape[1];
    float dk[2] = {0, 0}, dv[2] = {0, 0};
    dx_seq u;
    bool known = dx_find(a, row, u);
    int32_t key = known ? (int32_t)(row - u.row) : 0, first = 0, last = known ? u.count : 0;
    if (known && key < u.keys) {
        first = a.causal && key > u.pos ? key - u.pos : 0;
        last = a.window > 0 && key + a.window - u.pos < last ? key + a.window - u.pos : last;
        dx_stage(s.one, a.k, dx_head(a.k, row, kv));
        dx_stage(s.two, a.v, dx_head(a.v, row, kv));
        for (head = head > 0 ? head : 0; head < end; head++)
            for (int32_t i = first; i < last; i += DX_THREADS)
                dx_queries(a, s, u, delta, key, head, i,
                           last - i < DX_THREADS ? last - i : (int)DX_THREADS, dk, dv);
    }
    dx_store(a.dk, row, kv, dk);
    dx_store(a.dv, row, kv, dv);
}

static int attention_dx_ok(const weft_args *args) {
    const weft_attention_dx_args &a = args->attention_dx;
    return is_flat(a.dy) && is_flat(a.q) && is_flat(a.k) && is_flat(a.v) && is_flat(a.y) &&
           a.lse.dtype == WEFT_F32 && is_f32(a.slopes) && is_f32(a.bias) &&
           (!weft_has(&a.dq) || is_float(a.dq)) && (!weft_has(&a.dk) || is_float(a.dk)) &&
           (!weft_has(&a.dv) || is_float(a.dv)) && a.group > 0 && a.q.shape[2] <= DX_WIDTH &&
           a.v.shape[2] <= DX_WIDTH;
}

static size_t attention_dx_scratch(const weft_args *args) {
    const weft_tensor &q = args->attention_dx.q;
    return (size_t)(q.shape[0] * q.shape[1]) * sizeof(float);
}

static void attention_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_attention_dx_args *a = &step->args.attention_dx;
    float *delta = (float *)step->scratch;
    unsigned rows = (unsigned)a->q.shape[0], heads = (unsigned)a->q.shape[1];
    const unsigned each = DX_THREADS / 32;
    if (!rows || !heads)
        return;
    WEFT_LAUNCH(step, stream, dx_delta_k, (rows * heads + each - 1) / each, DX_THREADS, 0, *a,
                delta);
    if (weft_has(&a->dq))
        WEFT_LAUNCH(step, stream, dx_query_k, dim3(rows, heads), DX_THREADS, sizeof(dx_smem), *a,
                    (const float *)delta);
    if (weft_has(&a->dk) || weft_has(&a->dv))
        WEFT_LAUNCH(step, stream, dx_key_k, dim3(rows, (unsigned)a->k.shape[1]), DX_THREADS,
                    sizeof(dx_smem), *a, (const float *)delta);
}

WEFT_ROWS(attention_dx) = {WEFT_ROW(attention_dx, "simt", SIMT, 1, attention_dx_scratch),
                           WEFT_ROWS_END};

WEFT_CLAIMS(attention_dx) = {{"dx_delta_k", DX_THREADS, 8, 0, "LDG.128x2"},
                             {"dx_query_k", DX_THREADS, 6, sizeof(dx_smem), "LDG.128"},
                             {"dx_key_k", DX_THREADS, 6, sizeof(dx_smem), "LDG.128"},
                             WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
