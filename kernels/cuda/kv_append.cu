/* SPDX-License-Identifier: Apache-2.0
 * kv_append: keys and values into their pages, rounded to the cache's type. A thread per eight
 * elements of a head; blockIdx.y chooses K or V. Where all share a type and lie on 16 bytes they
 * move 16 at a time (hold.cuh). Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/hold.cuh"

namespace WEFT_CU_NS {

template <class T>
__device__ __forceinline__ void kv_put(const weft_tensor &cache, int64_t to, int n,
                                       const held<T> &h) {
    put(cache, to, n, h);
}
/* A cache whose features are apart takes them one by one. */
template <>
__device__ __forceinline__ void kv_put(const weft_tensor &cache, int64_t to, int n,
                                       const held<any_type> &h) {
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        if (i < n)
            store1(cache, to + i * cache.stride[3], h.e[i]);
}

template <class T>
__global__ void __launch_bounds__(CHUNK_THREADS)
    kv_append_k(const __grid_constant__ weft_kv_append_args a) {
    const weft_tensor &x = blockIdx.y ? a.v : a.k, &cache = blockIdx.y ? a.vcache : a.kcache;
    int64_t heads = x.shape[1];
    chunk c = chunk_at(lead_rows(a.rows, x.shape[0]) * heads, x.shape[2]);
    held<T> h;
    if (!c.n)
        return;
    int64_t t = c.row / heads, head = c.row % heads;
    int64_t slot = load_int(a.slot, t * a.slot.stride[0]);
    if (slot < 0)
        return;
    int64_t to = slot / cache.shape[2] * cache.stride[0] + head * cache.stride[1] +
                 slot % cache.shape[2] * cache.stride[2] + c.i * cache.stride[3];
    fetch(h, x, t * x.stride[0] + head * x.stride[1] + c.i, c.n);
    kv_put(cache, to, c.n, h);
}

static int kv_append_ok(const weft_args *args) {
    const weft_kv_append_args &a = args->kv_append;
    return is_flat(a.k) && is_flat(a.v) && is_float(a.kcache) && is_float(a.vcache);
}

static void kv_append_run(const weft_step *step, weft_stream *stream) {
    const weft_kv_append_args *a = &step->args.kv_append;
    int64_t width = a->k.shape[2] > a->v.shape[2] ? a->k.shape[2] : a->v.shape[2];
    int64_t blocks = chunk_blocks(a->k.shape[0] * a->k.shape[1], width);
    if (!blocks)
        return;
    with_type(wide_type({&a->k, &a->v, &a->kcache, &a->vcache}), [&](auto type) {
        using T = decltype(type);
        WEFT_LAUNCH(step, stream, kv_append_k<T>, dim3((unsigned)blocks, 2), CHUNK_THREADS, 0, *a);
    });
}

WEFT_ROWS(kv_append) = {WEFT_ROW(kv_append, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(kv_append) = {{"kv_append_k<any_type>", CHUNK_THREADS, 6, 0, "LDG.128"},
                          {"kv_append_k<*>", CHUNK_THREADS, 6, 0, "LDG.128 STG.128"},
                          WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
