/* SPDX-License-Identifier: Apache-2.0
 * add: y = a + b, rounded once. A thread per eight elements. Bound by memory: three streams.
 * Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

__global__ void __launch_bounds__(CHUNK_THREADS) add_k(const __grid_constant__ weft_add_args s) {
    chunk c = chunk_at(true_rows(s.y, s.rows), width_of(s.y));
    float a[CHUNK], b[CHUNK];
    if (!c.n)
        return;
    load8(s.a, row_of(s.a, c.row) + c.i, c.n, a);
    load8(s.b, row_of(s.b, c.row) + c.i, c.n, b);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        a[i] = a[i] + b[i];
    store8(s.y, row_of(s.y, c.row) + c.i, c.n, a);
}

static int add_ok(const weft_args *args) {
    return is_flat(args->add.a) && is_flat(args->add.b) && is_flat(args->add.y);
}

static void add_run(const weft_step *step, weft_stream *stream) {
    const weft_add_args *a = &step->args.add;
    int64_t blocks = chunk_blocks(bucket_rows(a->y), width_of(a->y));
    if (blocks)
        WEFT_LAUNCH(step, stream, add_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(add) = {WEFT_ROW(add, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(add) = {{"add_k", CHUNK_THREADS, 6, 0, "LDG.128x2 STG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
