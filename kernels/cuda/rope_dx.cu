/* SPDX-License-Identifier: Apache-2.0
 * rope_dx: the rotation of rope.cu backwards, by the transposed matrices. A thread takes eight
 * pairs (i, i + R), or eight features that are copied; where alignment forbids it, or pairs are
 * neighbours, one. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

struct rope_at {
    int64_t dy, dx, table; /* offsets of the head and of the token's angles */
};

__device__ static void rope_dx_pair(const weft_rope_dx_args &a, const rope_at &o, int64_t i) {
    int64_t pairs = a.table.shape[1], table = o.table + i * a.table.stride[1];
    int64_t p = a.interleaved ? 2 * i : i, q = a.interleaved ? 2 * i + 1 : i + pairs;
    float c = load1(a.table, table), s = load1(a.table, table + a.table.stride[2]);
    float u = load1(a.dy, o.dy + p * a.dy.stride[2]), v = load1(a.dy, o.dy + q * a.dy.stride[2]);
    store1(a.dx, o.dx + p * a.dx.stride[2], fmaf(u, c, v * s));
    store1(a.dx, o.dx + q * a.dx.stride[2], fmaf(v, c, -(u * s)));
}

__device__ static void rope_dx_pairs(const weft_rope_dx_args &a, const rope_at &o, int64_t i) {
    int64_t pairs = a.table.shape[1];
    float u[CHUNK], v[CHUNK], t[CHUNK], p[CHUNK], q[CHUNK];
    load8(a.dy, o.dy + i, CHUNK, u);
    load8(a.dy, o.dy + i + pairs, CHUNK, v);
#pragma unroll
    for (int half = 0; half < 2; half++) { /* four (cos, sin) at a time */
        load8(a.table, o.table + 2 * i + half * CHUNK, CHUNK, t);
#pragma unroll
        for (int k = 0; k < CHUNK / 2; k++) {
            int j = half * (CHUNK / 2) + k;
            p[j] = fmaf(u[j], t[2 * k], v[j] * t[2 * k + 1]);
            q[j] = fmaf(v[j], t[2 * k], -(u[j] * t[2 * k + 1]));
        }
    }
    store8(a.dx, o.dx + i, CHUNK, p);
    store8(a.dx, o.dx + i + pairs, CHUNK, q);
}

/* Items of a head: its pairs, then its features beyond them, `each` to an item. */
template <int EACH>
__global__ void __launch_bounds__(CHUNK_THREADS)
    rope_dx_k(const __grid_constant__ weft_rope_dx_args a) {
    int64_t pairs = a.table.shape[1], heads = a.dy.shape[1], rest = a.dy.shape[2] - pairs;
    int64_t items = rest / EACH, index = blockIdx.x * (int64_t)CHUNK_THREADS + threadIdx.x;
    int64_t row = index / items, i = index % items * EACH, t = row / heads, head = row % heads;
    float v[CHUNK];
    if (t >= lead_rows(a.rows, a.dy.shape[0]))
        return;
    rope_at o = {t * a.dy.stride[0] + head * a.dy.stride[1],
                 t * a.dx.stride[0] + head * a.dx.stride[1], t * a.table.stride[0]};
    if (EACH == 1) {
        if (i < pairs)
            rope_dx_pair(a, o, i);
        else
            store1(a.dx, o.dx + (i + pairs) * a.dx.stride[2],
                   load1(a.dy, o.dy + (i + pairs) * a.dy.stride[2]));
        return;
    }
    if (i < pairs) {
        rope_dx_pairs(a, o, i);
        return;
    }
    load8(a.dy, o.dy + i + pairs, CHUNK, v);
    store8(a.dx, o.dx + i + pairs, CHUNK, v);
}

static int rope_dx_ok(const weft_args *args) {
    const weft_rope_dx_args &a = args->rope_dx;
    return is_float(a.dy) && is_float(a.dx) && a.table.dtype == WEFT_F32 &&
           2 * a.table.shape[1] <= a.dy.shape[2];
}

static void rope_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_rope_dx_args *a = &step->args.rope_dx;
    int64_t pairs = a->table.shape[1], rest = a->dy.shape[2] - pairs;
    bool eights = !a->interleaved && pairs % CHUNK == 0 && rest % CHUNK == 0 && is_flat(a->dy) &&
                  is_flat(a->dx) && a->table.stride[1] == 2 && a->table.stride[2] == 1;
    int64_t items = a->dy.shape[0] * a->dy.shape[1] * (eights ? rest / CHUNK : rest);
    unsigned blocks = (unsigned)((items + CHUNK_THREADS - 1) / CHUNK_THREADS);
    if (blocks && eights)
        WEFT_LAUNCH(step, stream, rope_dx_k<CHUNK>, blocks, CHUNK_THREADS, 0, *a);
    else if (blocks)
        WEFT_LAUNCH(step, stream, rope_dx_k<1>, blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(rope_dx) = {WEFT_ROW(rope_dx, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(rope_dx) = {{"rope_dx_k<1>", CHUNK_THREADS, 6, 0, ""},
                        {"rope_dx_k<*>", CHUNK_THREADS, 4, 0, "LDG.128x4 STG.128x2"},
                        WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
