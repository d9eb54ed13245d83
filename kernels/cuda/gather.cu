/* SPDX-License-Identifier: Apache-2.0
 * gather: y[t] = x[index[t]]. Equal types move their bits, so that integers and NaN payloads
 * survive. A thread per eight elements. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

template <class T>
__device__ static void move8(const weft_tensor &x, int64_t from, const weft_tensor &y, int64_t to,
                             int n) {
    T e[CHUNK];
    load8_as<true>((const T *)x.data + from, n, e);
    store8_as((T *)y.data + to, n, e);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    gather_k(const __grid_constant__ weft_gather_args a) {
    chunk c = chunk_at(lead_rows(a.rows, a.y.shape[0]), a.y.shape[1]);
    if (!c.n)
        return;
    int64_t from = load_int(a.index, c.row * a.index.stride[0]) * a.x.stride[0] + c.i;
    int64_t to = c.row * a.y.stride[0] + c.i;
    float v[CHUNK];
    if (a.x.dtype != a.y.dtype) {
        load8(a.x, from, c.n, v);
        store8(a.y, to, c.n, v);
    } else if (weft_dtype_bits(a.x.dtype) == 32) {
        move8<uint32_t>(a.x, from, a.y, to, c.n);
    } else {
        move8<uint16_t>(a.x, from, a.y, to, c.n);
    }
}

static int gather_ok(const weft_args *args) {
    const weft_tensor &x = args->gather.x, &y = args->gather.y;
    int bits = weft_dtype_bits(x.dtype);
    bool flat = (x.stride[1] == 1 && y.stride[1] == 1) || y.shape[1] == 1;
    return flat &&
           ((x.dtype == y.dtype && (bits == 16 || bits == 32)) || (is_float(x) && is_float(y)));
}

static void gather_run(const weft_step *step, weft_stream *stream) {
    const weft_gather_args *a = &step->args.gather;
    int64_t blocks = chunk_blocks(a->y.shape[0], a->y.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, gather_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(gather) = {WEFT_ROW(gather, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(gather) = {{"gather_k", CHUNK_THREADS, 8, 0, "LDG.128 STG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
