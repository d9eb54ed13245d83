/* SPDX-License-Identifier: Apache-2.0
 * attention in fp32 arithmetic, for any mix of float types: one block a (query, head), found
 * through the work list. Its four warps take splits of 512 keys in turn; a lane scores a key of a
 * block of 32 (q.k with fma in ascending order), then holds every 32nd element of the weighted sum,
 * keys in ascending order. Splits meet in shared memory and are combined left to right. A reference
 * for the tensor cores rather than a fast path. Measured: nowhere yet. */
#include "kernels/lib/attention.cuh"
#include "kernels/lib/reduce.cuh"

namespace WEFT_CU_NS {

enum { ATT_SIMT_WARPS = 4, SIMT_WIDTH = 256, SIMT_KEYS = 32, SIMT_PART = SIMT_WIDTH / 32 };

struct simt_smem {
    float q[SIMT_WIDTH], acc[ATT_SIMT_WARPS][SIMT_WIDTH], most[ATT_SIMT_WARPS], sum[ATT_SIMT_WARPS];
};

/* A row and where its keys are. */
struct simt_row {
    att_rows rows;
    att_row row;
    att_keys seen;
    int32_t row0; /* of the sequence's first key without pages */
};

struct simt_state {
    float most, sum, acc[SIMT_PART]; /* elements lane, lane + 32, ... */
};

__device__ static int64_t simt_key(const weft_attention_args &a, const simt_row &u,
                                   const weft_tensor &t, int32_t j) {
    int2 place = att_place(a, u.rows, u.row0, j);
    int64_t in = weft_has(&a.pages) ? t.stride[2] : 0;
    return place.x * t.stride[0] + u.rows.kv_head * t.stride[1] + place.y * in;
}

__device__ static float simt_dot(const weft_attention_args &a, const simt_smem &s, int64_t k) {
    int width = (int)width_of(a.q);
    int64_t inner = a.k.stride[a.k.ndim - 1];
    float dot = 0, v[CHUNK];
    if (inner != 1) {
        for (int i = 0; i < width; i++)
            dot = fmaf(ld_shared(&s.q[i]), load1(a.k, k + i * inner), dot);
        return dot;
    }
    for (int i = 0; i < width; i += CHUNK) {
        int n = width - i < CHUNK ? width - i : (int)CHUNK;
        load8(a.k, k + i, n, v);
#pragma unroll
        for (int e = 0; e < CHUNK; e++)
            dot = e < n ? fmaf(ld_shared(&s.q[i + e]), v[e], dot) : dot;
    }
    return dot;
}

/* Keys [k0, k0 + 32), of which the row sees at least one. */
__device__ static void simt_block(const weft_attention_args &a, const simt_smem &s,
                                  const simt_row &u, int32_t k0, simt_state &t) {
    int lane = threadIdx.x % 32, width = (int)width_of(a.y);
    int32_t j = k0 + lane, first = u.seen.first > k0 ? u.seen.first - k0 : 0;
    int32_t last = u.seen.last - k0 < SIMT_KEYS ? u.seen.last - k0 : (int)SIMT_KEYS;
    bool sees = lane >= first && lane < last;
    float score = -INFINITY;
    if (sees)
        score = att_score(a, simt_dot(a, s, simt_key(a, u, a.k, j)), u.row.head, j - u.row.pos);
    float most = fmaxf(t.most, warp_reduce<op_max>(score)), level = att_level(most);
    float alpha = att_base_e::exp(t.most - level);
    float p = sees ? att_base_e::exp(score - level) : 0.0f;
    t.most = most;
    t.sum = fmaf(t.sum, alpha, warp_reduce<op_sum>(p));
#pragma unroll
    for (int i = 0; i < SIMT_PART; i++)
        t.acc[i] *= alpha;
    for (int32_t x = first; x < last; x++) {
        float weight = __shfl_sync(0xffffffffu, p, x);
        int64_t v = simt_key(a, u, a.v, k0 + x), inner = a.v.stride[a.v.ndim - 1];
#pragma unroll
        for (int i = 0; i < SIMT_PART; i++)
            if (i * 32 + lane < width)
                t.acc[i] = fmaf(weight, load1(a.v, v + (i * 32 + lane) * inner), t.acc[i]);
    }
}

__device__ static void simt_clear(simt_state &t) {
    t.most = -INFINITY;
    t.sum = 0;
#pragma unroll
    for (int i = 0; i < SIMT_PART; i++)
        t.acc[i] = 0;
}

/* The warp's split, into shared memory. */
__device__ static void simt_split(const weft_attention_args &a, simt_smem &s, const simt_row &u,
                                  int32_t split) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, width = (int)width_of(a.y);
    int32_t from = split * ATT_SPLIT, to = from + ATT_SPLIT;
    simt_state t;
    simt_clear(t);
    from = u.seen.first > from ? u.seen.first / SIMT_KEYS * SIMT_KEYS : from;
    to = u.seen.last < to ? u.seen.last : to;
    for (int32_t k0 = from; k0 < to; k0 += SIMT_KEYS)
        simt_block(a, s, u, k0, t);
#pragma unroll
    for (int i = 0; i < SIMT_PART; i++)
        if (i * 32 + lane < width)
            st_shared(&s.acc[warp][i * 32 + lane], t.acc[i]);
    if (lane == 0) {
        st_shared(&s.most[warp], t.most);
        st_shared(&s.sum[warp], t.sum);
    }
}

/* Thread i holds elements i and i + 128 of the combination. */
__device__ static void simt_combine(const simt_smem &s, int width, simt_state &run) {
    for (int w = 0; w < ATT_SIMT_WARPS; w++) {
        att_merge m = att_merge_of<att_base_e>(run.most, ld_shared(&s.most[w]));
        run.most = m.most;
        run.sum = att_merged(m, run.sum, ld_shared(&s.sum[w]));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int at = threadIdx.x + i * ATT_SIMT_WARPS * 32;
            if (at < width)
                run.acc[i] = att_merged(m, run.acc[i], ld_shared(&s.acc[w][at]));
        }
    }
}

__device__ static void simt_one(const weft_attention_args &a, simt_smem &s, const simt_row &u) {
    int width = (int)width_of(a.y), step = ATT_SIMT_WARPS * 32;
    int64_t q = u.row.token * a.q.stride[0] + u.row.head * a.q.stride[1];
    simt_state run;
    simt_clear(run);
    __syncthreads();
    for (int i = threadIdx.x; i < width_of(a.q); i += step)
        st_shared(&s.q[i], load1(a.q, q + i * a.q.stride[2]));
    for (int32_t w = u.seen.first / ATT_SPLIT; w * ATT_SPLIT < u.seen.last; w += ATT_SIMT_WARPS) {
        __syncthreads();
        simt_split(a, s, u, w + threadIdx.x / 32);
        __syncthreads();
        simt_combine(s, width, run);
    }
    att_end end = att_end_of<att_base_e>(a, u.row.head, run.most, run.sum);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int at = threadIdx.x + i * step;
        if (at < width)
            store1(a.y, att_y(a, u.row) + at * a.y.stride[2], fmaf(run.acc[i], end.factor, 0.0f));
    }
    if (threadIdx.x == 0)
        att_store_lse(a, u.row, end.lse);
}

/* blockIdx.x is the item, its rows are shared by gridDim.y blocks. */
__global__ void __launch_bounds__(ATT_SIMT_WARPS * 32, 8)
    attention_simt_k(const __grid_constant__ weft_attention_args a) {
    WEFT_SMEM(simt_smem, s);
    if (blockIdx.x >= lead_rows(a.nwork, a.work.shape[0]))
        return;
    simt_row u;
    u.rows = att_item(a, blockIdx.x);
    u.row0 = load_int(a.qstart, u.rows.seq * a.qstart.stride[0]);
    for (int i = blockIdx.y; i < att_count(u.rows); i += gridDim.y) {
        u.row = att_row_of(u.rows, i);
        u.seen = att_seen(a, u.row.pos, u.rows.kvlen);
        simt_one(a, s, u);
    }
}

static int attention_ok(const weft_args *args) {
    const weft_attention_args &a = args->attention;
    return is_float(a.q) && is_float(a.k) && is_float(a.v) && is_float(a.y) && is_f32(a.slopes) &&
           is_f32(a.bias) && is_f32(a.sinks) && is_f32(a.lse) && a.group > 0 &&
           a.q.shape[2] <= SIMT_WIDTH && a.y.shape[2] <= SIMT_WIDTH;
}

static void attention_run(const weft_step *step, weft_stream *stream) {
    const weft_attention_args *a = &step->args.attention;
    dim3 grid((unsigned)a->work.shape[0], 16);
    if (grid.x)
        WEFT_LAUNCH(step, stream, attention_simt_k, grid, ATT_SIMT_WARPS * 32, sizeof(simt_smem),
                    *a);
}

WEFT_ROWS(attention_simt) = {WEFT_ROW(attention, "simt", SIMT, 1, NULL), WEFT_ROWS_END};
WEFT_CLAIMS(attention_simt) = {
    {"attention_simt_k", ATT_SIMT_WARPS * 32, 8, sizeof(simt_smem), "LDG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
