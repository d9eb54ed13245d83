/* SPDX-License-Identifier: Apache-2.0
 * dropout: y = x / (1 - p) where the element's number of Philox says so, else 0; scale: y = s x;
 * fill: y = value; accumulate: y += x. A thread per eight elements. Bound by memory, dropout by
 * integer products. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"
#include "weft/rng.h"

namespace WEFT_CU_NS {

/* Number `word` of a block of four, without an array that is indexed at run time. */
__device__ __forceinline__ uint32_t philox_word(const weft_philox &r, uint32_t word) {
    uint32_t low = word & 1 ? r.v[1] : r.v[0], high = word & 1 ? r.v[3] : r.v[2];
    return word & 2 ? high : low;
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    dropout_k(const __grid_constant__ weft_dropout_args a) {
    chunk c = chunk_at(lead_rows(a.rows, a.x.shape[0]), a.x.shape[1]);
    float x[CHUNK], kept = 1.0f - a.p;
    if (!c.n)
        return;
    uint64_t seed = (uint32_t)load_int(a.key, a.key.stride[0]);
    seed = seed << 32 | (uint32_t)load_int(a.key, 0);
    uint64_t e = (uint64_t)load_int(a.place, c.row * a.place.stride[0]) * (uint64_t)a.x.shape[1] +
                 (uint64_t)c.i;
    load8(a.x, c.row * a.x.stride[0] + c.i, c.n, x);
    weft_philox r = weft_philox4x32(seed, (uint32_t)a.stream, e / 4);
#pragma unroll
    for (int i = 0; i < CHUNK; i++, e++) {
        if (i > 0 && e % 4 == 0)
            r = weft_philox4x32(seed, (uint32_t)a.stream, e / 4);
        float u = weft_philox_uniform(philox_word(r, (uint32_t)e & 3u));
        x[i] = u >= a.p ? x[i] / kept : 0.0f;
    }
    store8(a.y, c.row * a.y.stride[0] + c.i, c.n, x);
}

static int dropout_ok(const weft_args *args) {
    const weft_dropout_args &a = args->dropout;
    return is_flat(a.x) && is_flat(a.y) && a.x.ndim == 2 && a.p >= 0 && a.p < 1;
}

static void dropout_run(const weft_step *step, weft_stream *stream) {
    const weft_dropout_args *a = &step->args.dropout;
    int64_t blocks = chunk_blocks(a->x.shape[0], a->x.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, dropout_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    scale_k(const __grid_constant__ weft_scale_args a) {
    chunk c = chunk_at(true_rows(a.x, a.rows), width_of(a.x));
    float x[CHUNK];
    if (!c.n)
        return;
    load8(a.x, row_of(a.x, c.row) + c.i, c.n, x);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        x[i] = a.s * x[i];
    store8(a.y, row_of(a.y, c.row) + c.i, c.n, x);
}

static int scale_ok(const weft_args *args) {
    return is_flat(args->scale.x) && is_flat(args->scale.y);
}

static void scale_run(const weft_step *step, weft_stream *stream) {
    const weft_scale_args *a = &step->args.scale;
    int64_t blocks = chunk_blocks(bucket_rows(a->x), width_of(a->x));
    if (blocks)
        WEFT_LAUNCH(step, stream, scale_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

__global__ void __launch_bounds__(CHUNK_THREADS) fill_k(const __grid_constant__ weft_fill_args a) {
    chunk c = chunk_at(bucket_rows(a.y), width_of(a.y));
    float y[CHUNK];
    if (!c.n)
        return;
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        y[i] = a.value;
    store8_as((float *)a.y.data + row_of(a.y, c.row) + c.i, c.n, y);
}

static int fill_ok(const weft_args *args) {
    return is_flat(args->fill.y) && args->fill.y.dtype == WEFT_F32;
}

static void fill_run(const weft_step *step, weft_stream *stream) {
    const weft_fill_args *a = &step->args.fill;
    int64_t blocks = chunk_blocks(bucket_rows(a->y), width_of(a->y));
    if (blocks)
        WEFT_LAUNCH(step, stream, fill_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    accumulate_k(const __grid_constant__ weft_accumulate_args a) {
    chunk c = chunk_at(bucket_rows(a.x), width_of(a.x));
    float x[CHUNK], y[CHUNK];
    if (!c.n)
        return;
    float *to = (float *)a.y.data + row_of(a.y, c.row) + c.i;
    load8_as<true>((const float *)a.x.data + row_of(a.x, c.row) + c.i, c.n, x);
    load8_as<false>(to, c.n, y);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        y[i] = y[i] + x[i];
    store8_as(to, c.n, y);
}

static int accumulate_ok(const weft_args *args) {
    const weft_accumulate_args &a = args->accumulate;
    return is_flat(a.x) && is_flat(a.y) && a.x.dtype == WEFT_F32 && a.y.dtype == WEFT_F32;
}

static void accumulate_run(const weft_step *step, weft_stream *stream) {
    const weft_accumulate_args *a = &step->args.accumulate;
    int64_t blocks = chunk_blocks(bucket_rows(a->x), width_of(a->x));
    if (blocks)
        WEFT_LAUNCH(step, stream, accumulate_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(dropout) = {WEFT_ROW(dropout, "simt", NONE, 1, NULL),
                      WEFT_ROW(scale, "simt", NONE, 1, NULL), WEFT_ROW(fill, "simt", NONE, 1, NULL),
                      WEFT_ROW(accumulate, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(dropout) = {{"dropout_k", CHUNK_THREADS, 4, 0, "LDG.128 STG.128"},
                        {"scale_k", CHUNK_THREADS, 6, 0, "LDG.128 STG.128"},
                        {"fill_k", CHUNK_THREADS, 6, 0, "STG.128"},
                        {"accumulate_k", CHUNK_THREADS, 6, 0, "LDG.128x4 STG.128x2"},
                        WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
