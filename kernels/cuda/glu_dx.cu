/* SPDX-License-Identifier: Apache-2.0
 * glu_dx: dgate = dy up act'(gate), dup = dy act(gate); activation_dx: dx = dy act'(x). One
 * rounding. A thread per eight elements. Bound by memory. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

__device__ __forceinline__ float act_slope(int act, float x) {
    switch (act) {
    case WEFT_ACT_SILU: return weft_silu_slope(x);
    case WEFT_ACT_GELU: return weft_gelu_slope(x);
    case WEFT_ACT_GELU_TANH: return weft_gelu_tanh_slope(x);
    case WEFT_ACT_RELU: return weft_relu_slope(x);
    default: return 1.0f;
    }
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    glu_dx_k(const __grid_constant__ weft_glu_dx_args a) {
    chunk c = chunk_at(true_rows(a.dy, a.rows), width_of(a.dy));
    float dy[CHUNK], g[CHUNK], v[CHUNK];
    if (!c.n)
        return;
    load8(a.dy, row_of(a.dy, c.row) + c.i, c.n, dy);
    load8(a.gate, row_of(a.gate, c.row) + c.i, c.n, g);
    if (weft_has(&a.dgate)) {
        load8(a.up, row_of(a.up, c.row) + c.i, c.n, v);
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            v[i] = dy[i] * v[i] * act_slope(a.act, g[i]);
        store8(a.dgate, row_of(a.dgate, c.row) + c.i, c.n, v);
    }
    if (weft_has(&a.dup)) {
#pragma unroll
        for (int i = 0; i < CHUNK; i++)
            v[i] = dy[i] * weft_act_apply(a.act, g[i]);
        store8(a.dup, row_of(a.dup, c.row) + c.i, c.n, v);
    }
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    activation_dx_k(const __grid_constant__ weft_activation_dx_args a) {
    chunk c = chunk_at(true_rows(a.dy, a.rows), width_of(a.dy));
    float dy[CHUNK], x[CHUNK];
    if (!c.n)
        return;
    load8(a.dy, row_of(a.dy, c.row) + c.i, c.n, dy);
    load8(a.x, row_of(a.x, c.row) + c.i, c.n, x);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        x[i] = dy[i] * act_slope(a.act, x[i]);
    store8(a.dx, row_of(a.dx, c.row) + c.i, c.n, x);
}

static int glu_dx_ok(const weft_args *args) {
    const weft_glu_dx_args &a = args->glu_dx;
    return is_flat(a.dy) && is_flat(a.gate) && is_flat(a.up) && is_flat(a.dgate) && is_flat(a.dup);
}

static void glu_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_glu_dx_args *a = &step->args.glu_dx;
    int64_t blocks = chunk_blocks(bucket_rows(a->dy), width_of(a->dy));
    if (blocks)
        WEFT_LAUNCH(step, stream, glu_dx_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

static int activation_dx_ok(const weft_args *args) {
    const weft_activation_dx_args &a = args->activation_dx;
    return is_flat(a.dy) && is_flat(a.x) && is_flat(a.dx);
}

static void activation_dx_run(const weft_step *step, weft_stream *stream) {
    const weft_activation_dx_args *a = &step->args.activation_dx;
    int64_t blocks = chunk_blocks(bucket_rows(a->dy), width_of(a->dy));
    if (blocks)
        WEFT_LAUNCH(step, stream, activation_dx_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(glu_dx) = {WEFT_ROW(glu_dx, "simt", SIMT, 1, NULL),
                     WEFT_ROW(activation_dx, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(glu_dx) = {{"glu_dx_k", CHUNK_THREADS, 4, 0, "LDG.128x3 STG.128x2"},
                       {"activation_dx_k", CHUNK_THREADS, 4, 0, "LDG.128x2 STG.128"},
                       WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
