/* SPDX-License-Identifier: Apache-2.0
 * rank_norm: what a short sum over ranks, its residual and the next norm come to in one launch,
 * with the bits of the three. A block has a row: it puts this rank's part into this rank's window,
 * says so in every peer's window, waits until all have said so in its own, then reads the row from
 * all windows in rank order.
 *
 * windows[r] is the address of rank r's: flags u32[RANK_NORM_ROWS][RANK_NORM_RANKS], of a row and
 * of who raised it; calls u32[RANK_NORM_ROWS], how often this rank had the row; u32 stop, raised by
 * the host when the job has failed; then from RANK_NORM_DATA on two slots of RANK_NORM_SLOT bytes,
 * which calls of a row use in turn. Two are enough: a peer that raises call n + 1 has read call n,
 * and this rank writes call n + 2 only behind that.
 *
 * Blocks wait for the same block of a peer alone, and start in ascending order, so the lowest that
 * is not done always goes on. Bound by latency: two crossings of a link. Measured: nowhere yet. */
#include "kernels/lib/epilogue.cuh"
#include "kernels/lib/norm.cuh"

namespace WEFT_CU_NS {

template <int WARPS> struct rank_norm_smem { float sum[WARPS]; };

/* As norm.cuh's rows, all of them in registers. */
template <int WARPS> struct rank_norm_row {
    enum { HELD = row_held(WARPS), STRIDE = WARPS * 32 * CHUNK };
};

struct rank_window {
    uint32_t flag[RANK_NORM_ROWS][RANK_NORM_RANKS];
    uint32_t calls[RANK_NORM_ROWS];
    uint32_t stop;
};
static_assert(sizeof(rank_window) <= RANK_NORM_DATA, "flags lie before the data");

__device__ __forceinline__ rank_window *window_of(const weft_rank_norm_args &a, int rank) {
    return (rank_window *)(size_t)ld_const((const uint64_t *)a.windows.data + rank);
}

__device__ __forceinline__ float *slot_of(rank_window *w, uint32_t call, int64_t row,
                                          int64_t width) {
    return (float *)((char *)w + RANK_NORM_DATA + (call & 1) * RANK_NORM_SLOT) + row * width;
}

/* Eight of a row in a window, which lies on 16 bytes; n is 4 or 8. */
__device__ __forceinline__ void load8_peer(const float *p, int n, float (&v)[CHUNK] WEFT_AT) {
#pragma unroll
    for (int i = 0; i < CHUNK; i += 4) {
        uint4 q = make_uint4(0, 0, 0, 0);
        if (i < n)
            q = ld_peer((const uint4 *)(p + i) WEFT_PASS);
        memcpy(v + i, &q, sizeof q);
    }
}
__device__ __forceinline__ void store8_peer(float *p, int n, const float (&v)[CHUNK] WEFT_AT) {
#pragma unroll
    for (int i = 0; i < CHUNK; i += 4) {
        uint4 q;
        memcpy(&q, v + i, sizeof q);
        if (i < n)
            st_peer((uint4 *)(p + i), q WEFT_PASS);
    }
}

/* A thread a peer raises the row's flag there, then waits for the peer's here, or for the host to
 * say that the job has failed. */
__device__ __forceinline__ void meet(const weft_rank_norm_args &a, rank_window *own, int row,
                                     uint32_t call) {
    int peer = (int)threadIdx.x;
    if (peer >= 32)
        return;
    if (peer < a.ranks)
        st_release_sys(&window_of(a, peer)->flag[row][a.rank], call);
    __syncwarp();
    while (peer < a.ranks && (int32_t)(ld_acquire_sys(&own->flag[row][peer]) - call) < 0 &&
           !ld_acquire_sys(&own->stop))
        spin_pause();
}

/* The tree over ranks, as leaf_sum has it: with the bias, rounded as it stores. */
template <class T>
__device__ __forceinline__ void sum_ranks(const weft_rank_norm_args &a, uint32_t call, int64_t row,
                                          int64_t width, int64_t i, int n, held<T> &h) {
    tree_sum sum[CHUNK];
    float v[CHUNK], total[CHUNK];
    for (int r = 0; r < a.ranks; r++) {
        load8_peer(slot_of(window_of(a, r), call, row, width) + i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            total[j] = sum[j].add(r, v[j]);
    }
    if (weft_has(&a.bias)) {
        load8(a.bias, i, n, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++)
            total[j] += v[j];
    }
    narrow(h, a.y.dtype, total);
}

template <class T, int WARPS>
__global__ void __launch_bounds__(WARPS * 32)
    rank_norm_k(const __grid_constant__ weft_rank_norm_args a) {
    const int HELD = rank_norm_row<WARPS>::HELD, STRIDE = rank_norm_row<WARPS>::STRIDE;
    WEFT_SMEM(rank_norm_smem<WARPS>, s);
    int64_t row = blockIdx.x, width = a.x.shape[1], first = threadIdx.x * (int64_t)CHUNK;
    rank_window *own = window_of(a, a.rank);
    if (row >= lead_rows(a.rows, a.x.shape[0])) /* alike on every rank */
        return;
    uint32_t call = ld_peer(&own->calls[row]) + 1;
    float v[CHUNK];
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int64_t i = first + k * STRIDE;
        if (i < width) {
            load8(a.x, row * a.x.stride[0] + i, chunk_size(width, i), v);
            store8_peer(slot_of(own, call, row, width) + i, chunk_size(width, i), v);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0)
        st_peer(&own->calls[row], call);
    meet(a, own, (int)row, call);
    __syncthreads();
    held<T> in[HELD];
    float sum = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int64_t i = first + k * STRIDE;
        if (i < width) {
            held<T> res;
            float w[CHUNK];
            int n = chunk_size(width, i);
            sum_ranks(a, call, row, width, i, n, in[k]);
            fetch(res, a.res, row * a.res.stride[0] + i, n);
            widen(in[k], v);
            widen(res, w);
#pragma unroll
            for (int j = 0; j < CHUNK; j++)
                v[j] = v[j] + w[j];
            narrow(in[k], a.r.dtype, v);
            widen(in[k], v);
#pragma unroll
            for (int j = 0; j < CHUNK; j++)
                sum = fmaf(v[j], v[j], sum); /* past the end: + 0 */
        }
    }
    sum = block_reduce<op_sum, WARPS>(sum, s.sum);
    float inv = 1.0f / sqrtf(sum / (float)width + a.eps);
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        int64_t i = first + k * STRIDE;
        if (i < width) {
            held<T> g;
            float w[CHUNK];
            int n = chunk_size(width, i);
            put(a.r, row * a.r.stride[0] + i, n, in[k]);
            fetch(g, a.g, i, n);
            widen(in[k], v);
            widen(g, w);
#pragma unroll
            for (int j = 0; j < CHUNK; j++)
                v[j] = v[j] * inv * (w[j] + a.offset);
            narrow(g, a.y.dtype, v);
            put(a.y, row * a.y.stride[0] + i, n, g);
        }
    }
}

static int rank_norm_ok(const weft_args *args) {
    const weft_rank_norm_args &a = args->rank_norm;
    int64_t width = a.x.shape[1];
    int warps = row_warps(width);
    return a.x.dtype == WEFT_F32 && is_flat(a.x) && is_flat(a.bias) && is_flat(a.res) &&
           is_flat(a.g) && is_flat(a.y) && is_flat(a.r) && a.y.dtype == a.r.dtype &&
           a.x.shape[0] <= RANK_NORM_ROWS && a.x.shape[0] * width * 4 <= RANK_NORM_SLOT &&
           width <= row_held(warps) * warps * 32 * CHUNK && width % 4 == 0 &&
           a.ranks <= RANK_NORM_RANKS && (a.ranks & (a.ranks - 1)) == 0;
}

template <class T, int WARPS>
static void rank_norm_launch(const weft_step *step, weft_stream *stream) {
    WEFT_LAUNCH(step, stream, (rank_norm_k<T, WARPS>), (unsigned)step->args.rank_norm.x.shape[0],
                WARPS * 32, sizeof(rank_norm_smem<WARPS>), step->args.rank_norm);
}

static void rank_norm_run(const weft_step *step, weft_stream *stream) {
    const weft_rank_norm_args &a = step->args.rank_norm;
    int warps = row_warps(a.x.shape[1]);
    with_type(wide_type({&a.res, &a.g, &a.y, &a.r}), [&](auto type) {
        using T = decltype(type);
        if (warps == 1)
            rank_norm_launch<T, 1>(step, stream);
        else if (warps == 4)
            rank_norm_launch<T, 4>(step, stream);
        else
            rank_norm_launch<T, 8>(step, stream);
    });
}

WEFT_ROWS(rank_norm) = {WEFT_ROW(rank_norm, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(rank_norm) = {
    {"rank_norm_k<any_type,8>", 256, 1, sizeof(rank_norm_smem<8>), "LDG.128 STG.128"},
    {"rank_norm_k<*,8>", 256, 1, sizeof(rank_norm_smem<8>), "LDG.128x4 STG.128x4"},
    {"rank_norm_k<*,4>", 128, 2, sizeof(rank_norm_smem<4>), "LDG.128x2 STG.128x2"},
    {"rank_norm_k<*,1>", 32, 4, sizeof(rank_norm_smem<1>), "LDG.128x2 STG.128x2"},
    WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
