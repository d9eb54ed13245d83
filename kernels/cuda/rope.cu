/* SPDX-License-Identifier: Apache-2.0
 * rope_table: (cos, sin) of position * frequency, in double, once a step. rope: the rotation of
 * each head's first 2R features: a thread takes eight pairs (i, i + R), or eight features that are
 * copied, in 16-byte accesses; where alignment forbids it, or pairs are neighbours, one. Bound by
 * memory, the table by double arithmetic. Measured: nowhere yet. */
#include "kernels/lib/hold.cuh"

namespace WEFT_CU_NS {

/* Dynamic NTK: how much slower pair i of n turns at `pos`. */
__device__ static double rope_slowdown(const weft_rope_table_args &a, int64_t pos, int64_t i,
                                       int64_t n) {
    if (a.ntk_ctx <= 0 || pos < a.ntk_ctx || i == 0)
        return 1.0;
    double f = (double)a.ntk_factor;
    double g = f * (double)(pos + 1) / a.ntk_ctx - (f - 1.0);
    return weft_exp(weft_log(g) * (-2.0 * (double)i / (double)(2 * n - 2)));
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    rope_table_k(const __grid_constant__ weft_rope_table_args a) {
    int64_t pairs = a.y.shape[1], index = blockIdx.x * (int64_t)CHUNK_THREADS + threadIdx.x;
    int64_t t = index / pairs, i = index % pairs;
    if (t >= lead_rows(a.rows, a.y.shape[0]))
        return;
    int64_t pos = load_int(a.pos, t * a.pos.stride[0]);
    int64_t f = i * a.freq.stride[0], y = t * a.y.stride[0] + i * a.y.stride[1];
    double freq = (double)load1(a.freq, f) + (double)load1(a.freq, f + a.freq.stride[1]);
    double s, c;
    weft_sincos((double)pos * (freq * rope_slowdown(a, pos, i, pairs)), &s, &c);
    store1(a.y, y, (float)((double)a.mscale * c));
    store1(a.y, y + a.y.stride[2], (float)((double)a.mscale * s));
}

__device__ static void rope_pair(const weft_rope_args &a, int64_t t, int64_t i, int64_t x,
                                 int64_t y) {
    int64_t pairs = a.table.shape[1], table = t * a.table.stride[0] + i * a.table.stride[1];
    int64_t p = a.interleaved ? 2 * i : i, q = a.interleaved ? 2 * i + 1 : i + pairs;
    float c = load1(a.table, table), s = load1(a.table, table + a.table.stride[2]);
    float u = load1(a.x, x + p * a.x.stride[2]), v = load1(a.x, x + q * a.x.stride[2]);
    store1(a.y, y + p * a.y.stride[2], fmaf(u, c, -(v * s)));
    store1(a.y, y + q * a.y.stride[2], fmaf(v, c, u * s));
}

__global__ void __launch_bounds__(CHUNK_THREADS) rope_k(const __grid_constant__ weft_rope_args a) {
    int64_t pairs = a.table.shape[1], heads = a.x.shape[1], each = a.x.shape[2] - pairs;
    int64_t index = blockIdx.x * (int64_t)CHUNK_THREADS + threadIdx.x;
    int64_t row = index / each, i = index % each, t = row / heads, head = row % heads;
    if (t >= lead_rows(a.rows, a.x.shape[0]))
        return;
    int64_t x = t * a.x.stride[0] + head * a.x.stride[1];
    int64_t y = t * a.y.stride[0] + head * a.y.stride[1];
    if (i < pairs)
        rope_pair(a, t, i, x, y);
    else
        store1(a.y, y + (i + pairs) * a.y.stride[2], load1(a.x, x + (i + pairs) * a.x.stride[2]));
}

/* Eight pairs; the table's row holds (cos, sin) in turn. */
template <class T>
__device__ static void rope_pairs(const weft_rope_args &a, int64_t table, int64_t i, int64_t x,
                                  int64_t y) {
    int64_t pairs = a.table.shape[1];
    held<float> t[2];
    held<T> first, second;
    float u[CHUNK], v[CHUNK], p[CHUNK], q[CHUNK];
    fetch(first, a.x, x + i, CHUNK);
    fetch(second, a.x, x + i + pairs, CHUNK);
    fetch(t[0], a.table, table + 2 * i, CHUNK);
    fetch(t[1], a.table, table + 2 * i + CHUNK, CHUNK);
    widen(first, u);
    widen(second, v);
#pragma unroll
    for (int j = 0; j < CHUNK; j++) {
        float c = t[j / 4].e[j % 4 * 2], s = t[j / 4].e[j % 4 * 2 + 1];
        p[j] = fmaf(u[j], c, -(v[j] * s));
        q[j] = fmaf(v[j], c, u[j] * s);
    }
    narrow(first, a.y.dtype, p);
    narrow(second, a.y.dtype, q);
    put(a.y, y + i, CHUNK, first);
    put(a.y, y + i + pairs, CHUNK, second);
}

template <class T>
__global__ void __launch_bounds__(CHUNK_THREADS)
    rope_wide_k(const __grid_constant__ weft_rope_args a) {
    int64_t pairs = a.table.shape[1], heads = a.x.shape[1], each = (a.x.shape[2] - pairs) / CHUNK;
    int64_t index = blockIdx.x * (int64_t)CHUNK_THREADS + threadIdx.x;
    int64_t row = index / each, i = index % each * CHUNK, t = row / heads, head = row % heads;
    if (t >= lead_rows(a.rows, a.x.shape[0]))
        return;
    int64_t x = t * a.x.stride[0] + head * a.x.stride[1];
    int64_t y = t * a.y.stride[0] + head * a.y.stride[1];
    held<T> h;
    if (i < pairs) {
        rope_pairs<T>(a, t * a.table.stride[0], i, x, y);
        return;
    }
    fetch(h, a.x, x + i + pairs, CHUNK);
    put(a.y, y + i + pairs, CHUNK, h);
}

static unsigned rope_blocks(int64_t items) {
    return (unsigned)((items + CHUNK_THREADS - 1) / CHUNK_THREADS);
}

static int rope_table_ok(const weft_args *args) {
    return args->rope_table.freq.dtype == WEFT_F32 && args->rope_table.y.dtype == WEFT_F32;
}

static void rope_table_run(const weft_step *step, weft_stream *stream) {
    const weft_rope_table_args *a = &step->args.rope_table;
    unsigned blocks = rope_blocks(a->y.shape[0] * a->y.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, rope_table_k, blocks, CHUNK_THREADS, 0, *a);
}

static int rope_ok(const weft_args *args) {
    const weft_rope_args &a = args->rope;
    return is_float(a.x) && is_float(a.y) && a.table.dtype == WEFT_F32 &&
           2 * a.table.shape[1] <= a.x.shape[2];
}

/* The type for 16-byte accesses, -1 if they are not possible. */
static int rope_type(const weft_rope_args &a) {
    const weft_tensor &t = a.table;
    bool wide = !a.interleaved && t.shape[1] % CHUNK == 0 && (size_t)t.data % 16 == 0 &&
                t.stride[0] % 4 == 0 && t.stride[1] == 2 && t.stride[2] == 1;
    return wide ? wide_type({&a.x, &a.y}) : -1;
}

static void rope_run(const weft_step *step, weft_stream *stream) {
    const weft_rope_args *a = &step->args.rope;
    int type = rope_type(*a);
    unsigned wide = rope_blocks(a->x.shape[0] * a->x.shape[1] *
                                ((a->x.shape[2] - a->table.shape[1]) / CHUNK));
    if (wide && type == WEFT_BF16)
        WEFT_LAUNCH(step, stream, rope_wide_k<bf16>, wide, CHUNK_THREADS, 0, *a);
    else if (wide && type == WEFT_F16)
        WEFT_LAUNCH(step, stream, rope_wide_k<f16>, wide, CHUNK_THREADS, 0, *a);
    else if (wide && type == WEFT_F32)
        WEFT_LAUNCH(step, stream, rope_wide_k<float>, wide, CHUNK_THREADS, 0, *a);
    if (type >= 0)
        return;
    unsigned blocks = rope_blocks(a->x.shape[0] * a->x.shape[1] *
                                  (a->x.shape[2] - a->table.shape[1]));
    if (blocks)
        WEFT_LAUNCH(step, stream, rope_k, blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(rope) = {WEFT_ROW(rope_table, "simt", SIMT, 1, NULL),
                   WEFT_ROW(rope, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(rope) = {{"rope_k", CHUNK_THREADS, 8, 0, ""},
                     {"rope_wide_k<*>", CHUNK_THREADS, 4, 0, "LDG.128x4 STG.128x2"},
                     {"rope_table_k", CHUNK_THREADS, 6, 0, "DFMA"},
                     WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
