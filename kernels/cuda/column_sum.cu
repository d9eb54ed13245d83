/* SPDX-License-Identifier: Apache-2.0
 * bias_db, rmsnorm_dg and layernorm_dg: sums over tokens into a vector. A thread has a column, a
 * warp 32 of them for one virtual shard: a chain over its rows in ascending order, SUM_FLIGHT of
 * them loaded at a time. Warps of a block are the shards of the same columns; the tree over them is
 * the first's. Bound by memory where columns fill the GPU, by latency else. Measured: nowhere
 * yet. */
#include "kernels/lib/epilogue.cuh"
#include "kernels/lib/rows.cuh"

namespace WEFT_CU_NS {

enum { SUM_FLIGHT = 8, SUM_SHARDS = 8 };

struct sum_smem {
    float one[SUM_SHARDS][32], two[SUM_SHARDS][32];
};

/* r, mean and inv are absent in bias_db; one: dg, or db of bias_db; two: db of layernorm_dg. */
struct sum_args {
    weft_tensor dy, r, mean, inv, rows, one, two;
    int32_t shards;
};

/* What a row adds to a column. */
struct sum_term {
    float dy, h;
};

__device__ __forceinline__ sum_term sum_load(const sum_args &a, int64_t t, int64_t head,
                                             int64_t i) {
    bool heads = a.dy.ndim > 2;
    sum_term v;
    v.dy = load1(a.dy, t * a.dy.stride[0] + (heads ? head * a.dy.stride[1] : 0) + i);
    v.h = 0;
    if (!weft_has(&a.r))
        return v;
    int64_t stat = t * a.inv.stride[0] + (a.inv.ndim > 1 ? head * a.inv.stride[1] : 0);
    v.h = load1(a.r, t * a.r.stride[0] + (heads ? head * a.r.stride[1] : 0) + i);
    if (weft_has(&a.mean)) {
        int64_t at = t * a.mean.stride[0] + (a.mean.ndim > 1 ? head * a.mean.stride[1] : 0);
        v.h = v.h - load1(a.mean, at);
    }
    v.h = v.h * load1(a.inv, stat);
    return v;
}

/* Rows [from, to) of a column, added to `one` and `two`. */
__device__ static void sum_chain(const sum_args &a, int64_t from, int64_t to, int64_t i, float &one,
                                 float &two) {
    int64_t heads = a.dy.ndim > 2 ? a.dy.shape[1] : 1, t = from, head = 0;
    int64_t left = (to - from) * heads;
    bool plain = !weft_has(&a.r);
    while (left > 0) {
        sum_term v[SUM_FLIGHT];
#pragma unroll
        for (int k = 0; k < SUM_FLIGHT; k++) {
            if (k >= left)
                break;
            v[k] = sum_load(a, t, head, i);
            if (++head == heads)
                head = 0, t++;
        }
#pragma unroll
        for (int k = 0; k < SUM_FLIGHT; k++) {
            if (k >= left)
                break;
            one = plain ? one + v[k].dy : fmaf(v[k].dy, v[k].h, one);
            two = two + v[k].dy;
        }
        left -= SUM_FLIGHT;
    }
}

__device__ static void sum_finish(const weft_tensor &to, int64_t i, int shards,
                                  const float (&leaf)[SUM_SHARDS][32]) {
    float *p = (float *)to.data + i * to.stride[0], v = 0;
    tree_sum tree = {0, 0, 0};
    for (int l = 0; l < shards; l++)
        v = tree.add(l, ld_shared(&leaf[l][threadIdx.x % 32]));
    st_global(p, ld_global(p) + v);
}

__global__ void __launch_bounds__(SUM_SHARDS * 32)
    column_sum_k(const __grid_constant__ sum_args a) {
    WEFT_SMEM(sum_smem, s);
    int shard = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t i = blockIdx.x * (int64_t)32 + lane, run = a.dy.shape[0] / a.shards;
    int64_t lead = lead_rows(a.rows, a.dy.shape[0]), from = shard * run, to = from + run;
    bool exists = i < width_of(a.dy), chained = a.shards == 1;
    float *first = (float *)a.one.data + i * a.one.stride[0];
    float *second = (float *)a.two.data + i * a.two.stride[0];
    float one = chained && exists ? ld_global(first) : 0.0f;
    float two = chained && exists && weft_has(&a.two) ? ld_global(second) : 0.0f;
    if (exists)
        sum_chain(a, from, to < lead ? to : lead, i, one, two);
    if (chained) {
        if (exists)
            st_global(first, one);
        if (exists && weft_has(&a.two))
            st_global(second, two);
        return;
    }
    st_shared(&s.one[shard][lane], one);
    st_shared(&s.two[shard][lane], two);
    __syncthreads();
    if (shard == 0 && exists) {
        sum_finish(a.one, i, a.shards, s.one);
        if (weft_has(&a.two))
            sum_finish(a.two, i, a.shards, s.two);
    }
}

static bool sum_takes(const weft_tensor &dy, const weft_tensor &to, int shards) {
    return is_flat(dy) && to.dtype == WEFT_F32 &&
           (shards == 1 || shards == 2 || shards == 4 || shards == 8) && dy.shape[0] % shards == 0;
}

static int bias_db_ok(const weft_args *args) {
    const weft_bias_db_args &a = args->bias_db;
    return sum_takes(a.dy, a.db, a.shards);
}

static int rmsnorm_dg_ok(const weft_args *args) {
    const weft_rmsnorm_dg_args &a = args->rmsnorm_dg;
    return sum_takes(a.dy, a.dg, a.shards) && is_flat(a.r) && a.inv.dtype == WEFT_F32;
}

static int layernorm_dg_ok(const weft_args *args) {
    const weft_layernorm_dg_args &a = args->layernorm_dg;
    return sum_takes(a.dy, a.dg, a.shards) && is_flat(a.r) && a.inv.dtype == WEFT_F32 &&
           a.mean.dtype == WEFT_F32 && is_f32(a.db);
}

static void sum_launch(const weft_step *step, weft_stream *stream, const sum_args &a) {
    unsigned blocks = (unsigned)((width_of(a.dy) + 31) / 32);
    if (blocks && a.dy.shape[0])
        WEFT_LAUNCH(step, stream, column_sum_k, blocks, (unsigned)a.shards * 32, sizeof(sum_smem),
                    a);
}

static void bias_db_run(const weft_step *step, weft_stream *stream) {
    const weft_bias_db_args &b = step->args.bias_db;
    sum_args a = {};
    a.dy = b.dy, a.rows = b.rows, a.one = b.db, a.shards = b.shards;
    sum_launch(step, stream, a);
}

static void rmsnorm_dg_run(const weft_step *step, weft_stream *stream) {
    const weft_rmsnorm_dg_args &b = step->args.rmsnorm_dg;
    sum_args a = {};
    a.dy = b.dy, a.r = b.r, a.inv = b.inv, a.rows = b.rows, a.one = b.dg, a.shards = b.shards;
    sum_launch(step, stream, a);
}

static void layernorm_dg_run(const weft_step *step, weft_stream *stream) {
    const weft_layernorm_dg_args &b = step->args.layernorm_dg;
    sum_args a = {};
    a.dy = b.dy, a.r = b.r, a.mean = b.mean, a.inv = b.inv, a.rows = b.rows;
    a.one = b.dg, a.two = b.db, a.shards = b.shards;
    sum_launch(step, stream, a);
}

WEFT_ROWS(column_sum) = {WEFT_ROW(bias_db, "simt", SIMT, 1, NULL),
                         WEFT_ROW(rmsnorm_dg, "simt", SIMT, 1, NULL),
                         WEFT_ROW(layernorm_dg, "simt", SIMT, 1, NULL), WEFT_ROWS_END};

WEFT_CLAIMS(column_sum) = {{"column_sum_k", SUM_SHARDS * 32, 3, sizeof(sum_smem), ""},
                           WEFT_CLAIMS_END};

} // namespace WEFT_CU_NS
