/* SPDX-License-Identifier: Apache-2.0
 * glu: y = act(gate) * up; activation: y = act(x). One rounding. A thread per eight elements. Bound
 * by memory. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

__global__ void __launch_bounds__(CHUNK_THREADS) glu_k(const __grid_constant__ weft_glu_args a) {
    chunk c = chunk_at(true_rows(a.y, a.rows), width_of(a.y));
    float g[CHUNK], u[CHUNK];
    if (!c.n)
        return;
    load8(a.gate, row_of(a.gate, c.row) + c.i, c.n, g);
    load8(a.up, row_of(a.up, c.row) + c.i, c.n, u);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        g[i] = weft_act_apply(a.act, g[i]) * u[i];
    store8(a.y, row_of(a.y, c.row) + c.i, c.n, g);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    activation_k(const __grid_constant__ weft_activation_args a) {
    chunk c = chunk_at(true_rows(a.y, a.rows), width_of(a.y));
    float x[CHUNK];
    if (!c.n)
        return;
    load8(a.x, row_of(a.x, c.row) + c.i, c.n, x);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        x[i] = weft_act_apply(a.act, x[i]);
    store8(a.y, row_of(a.y, c.row) + c.i, c.n, x);
}

static int glu_ok(const weft_args *args) {
    return is_flat(args->glu.gate) && is_flat(args->glu.up) && is_flat(args->glu.y);
}

static void glu_run(const weft_step *step, weft_stream *stream) {
    const weft_glu_args *a = &step->args.glu;
    int64_t blocks = chunk_blocks(bucket_rows(a->y), width_of(a->y));
    if (blocks)
        WEFT_LAUNCH(step, stream, glu_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

static int activation_ok(const weft_args *args) {
    return is_flat(args->activation.x) && is_flat(args->activation.y);
}

static void activation_run(const weft_step *step, weft_stream *stream) {
    const weft_activation_args *a = &step->args.activation;
    int64_t blocks = chunk_blocks(bucket_rows(a->y), width_of(a->y));
    if (blocks)
        WEFT_LAUNCH(step, stream, activation_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(glu) = {WEFT_ROW(glu, "simt", SIMT, 1, NULL), WEFT_ROW(activation, "simt", SIMT, 1, NULL),
                  WEFT_ROWS_END};

WEFT_CLAIMS(glu) = {{"glu_k", CHUNK_THREADS, 6, 0, "LDG.128x2 STG.128"},
                    {"activation_k", CHUNK_THREADS, 6, 0, "LDG.128 STG.128"},
                    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
