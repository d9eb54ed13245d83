/* SPDX-License-Identifier: Apache-2.0
 * embed: rows of a table by token id; ids outside it give zeros. A thread per eight elements. Bound
 * by memory: one read, one write. Measured: nowhere yet. */
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

/* The token of row t: its own id, or the one last sampled for slot -id - 1; -1 if there is none. */
__device__ static int64_t embed_id(const weft_embed_args &a, int64_t t) {
    int64_t id = load_int(a.ids, t * a.ids.stride[0]);
    if (id >= 0)
        return id;
    int64_t slot = -id - 1;
    if (!weft_has(&a.last) || slot >= a.last.shape[0])
        return -1;
    return load_int(a.last, slot * a.last.stride[0]);
}

__global__ void __launch_bounds__(CHUNK_THREADS)
    embed_k(const __grid_constant__ weft_embed_args a) {
    chunk c = chunk_at(lead_rows(a.rows, a.y.shape[0]), a.y.shape[1]);
    float v[CHUNK] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (!c.n)
        return;
    int64_t id = embed_id(a, c.row), row = id - a.row0;
    if (id >= 0 && row >= 0 && row < a.w.shape[0])
        load8(a.w, row * a.w.stride[0] + c.i, c.n, v);
#pragma unroll
    for (int i = 0; i < CHUNK; i++)
        v[i] = v[i] + 0.0f; /* -0 + 0 = +0 */
    store8(a.y, c.row * a.y.stride[0] + c.i, c.n, v);
}

static int embed_ok(const weft_args *args) {
    return is_flat(args->embed.w) && is_flat(args->embed.y);
}

static void embed_run(const weft_step *step, weft_stream *stream) {
    const weft_embed_args *a = &step->args.embed;
    int64_t blocks = chunk_blocks(a->y.shape[0], a->y.shape[1]);
    if (blocks)
        WEFT_LAUNCH(step, stream, embed_k, (unsigned)blocks, CHUNK_THREADS, 0, *a);
}

WEFT_ROWS(embed) = {WEFT_ROW(embed, "simt", NONE, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(embed) = {{"embed_k", CHUNK_THREADS, 8, 0, "LDG.128 STG.128"}, WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
