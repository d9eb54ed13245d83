/* SPDX-License-Identifier: Apache-2.0
 * cast: element by element between float types; equal types move their bits. Flat views take a
 * thread per eight elements, others one per element. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

__global__ void __launch_bounds__(CHUNK_THREADS)
    cast_flat_k(const __grid_constant__ weft_cast_args a) {
    chunk c = chunk_at(true_rows(a.y, a.rows), width_of(a.y));
    float v[CHUNK];
    if (!c.n)
        return;
    load8(a.x, row_of(a.x, c.row) + c.i, c.n, v);
    store8(a.y, row_of(a.y, c.row) + c.i, c.n, v);
}

__device__ static void move1(const weft_tensor &x, int64_t from, const weft_tensor &y, int64_t to) {
    int bits = weft_dtype_bits(x.dtype);
    if (bits == 64)
        st_global((uint64_t *)y.data + to, ld_const((const uint64_t *)x.data + from));
    else if (bits == 32)
        st_global((uint32_t *)y.data + to, ld_const((const uint32_t *)x.data + from));
    else if (bits == 16)
        st_global((uint16_t *)y.data + to, ld_const((const uint16_t *)x.data + from));
    else
        st_global((uint8_t *)y.data + to, ld_const((const uint8_t *)x.data + from));
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    cast_any_k(const __grid_constant__ weft_cast_args a) {
    int64_t width = width_of(a.y), rows = true_rows(a.y, a.rows);
    int64_t i = blockIdx.x * (int64_t)CHUNK_THREADS + threadIdx.x, row = i / width, at = i % width;
    if (row >= rows)
        return;
    int64_t from = row_of(a.x, row) + at * a.x.stride[a.x.ndim - 1];
    int64_t to = row_of(a.y, row) + at * a.y.stride[a.y.ndim - 1];
    if (a.x.dtype == a.y.dtype)
        move1(a.x, from, a.y, to);
    else
        store1(a.y, to, load1(a.x, from));
}

static int cast_ok(const weft_args *args) {
    const weft_tensor &x = args->cast.x, &y = args->cast.y;
    return x.ndim == y.ndim &&
           ((x.dtype == y.dtype && weft_dtype_bits(x.dtype) >= 8) || (is_float(x) && is_float(y)));
}

static void cast_run(const weft_step *step, weft_stream *stream) {
    const weft_cast_args *a = &step->args.cast;
    int64_t rows = bucket_rows(a->y), width = width_of(a->y);
    bool flat = is_flat(a->x) && is_flat(a->y) && a->x.dtype != a->y.dtype;
    int64_t blocks = flat ? chunk_blocks(rows, width)
                          : (rows * width + CHUNK_THREADS - 1) / CHUNK_THREADS;
    if (blocks && flat)
        WEFT_LAUNCH(step, stream, cast_flat_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
    else if (blocks)
        WEFT_LAUNCH(step, stream, cast_any_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(cast) = {WEFT_ROW(cast, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(cast) = {{"cast_flat_k", CHUNK_THREADS, 6, 0, "LDG.128 STG.128"},
                     {"cast_any_k", CHUNK_THREADS, 8, 0, ""},
                     WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
