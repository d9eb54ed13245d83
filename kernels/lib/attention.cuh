/* SPDX-License-Identifier: Apache-2.0
 * What the attention kernels share: packing of queries and heads as rows, which keys a row sees,
 * where keys lie, scores, and the state (largest score, sum of weights, weighted sum of values)
 * that splits are combined by. Every function here is a row's own arithmetic, so that kernels that
 * pack rows in other ways give the same bits. */
#pragma once
#include "kernels/lib/rows.cuh"
#include "kernels/lib/tile.h"

namespace WEFT_CU_NS {

/* ---- rows ---- */

/* Queries of one sequence with the heads that read one kv head: row i is query i / heads, head
 * head + i % heads. */
struct att_rows {
    int32_t seq, token, pos; /* of the first query: its row of q, its absolute position */
    int32_t queries, kvlen, kv_head, head, heads;
};

struct att_row {
    int32_t token, head, pos;
    bool exists;
};

/* Keys [first, last). */
struct att_keys {
    int32_t first, last;
};

__device__ __forceinline__ int att_count(const att_rows &r) {
    return r.queries * r.heads;
}

/* All queries of a sequence. */
__device__ inline att_rows att_sequence(const weft_attention_args &a, int32_t seq,
                                        int32_t kv_head) {
    att_rows r;
    int32_t lo = kv_head * a.group - a.head0, hi = lo + a.group, all = (int32_t)a.q.shape[1];
    r.seq = seq;
    r.token = load_int(a.qstart, seq * a.qstart.stride[0]);
    r.queries = load_int(a.qstart, (seq + 1) * a.qstart.stride[0]) - r.token;
    r.pos = load_int(a.qpos, seq * a.qpos.stride[0]);
    r.kvlen = load_int(a.kvlen, seq * a.kvlen.stride[0]);
    r.kv_head = kv_head;
    r.head = lo > 0 ? lo : 0;
    r.heads = (hi < all ? hi : all) - r.head;
    r.heads = r.heads > 0 ? r.heads : 0;
    return r;
}

/* The queries of an item of the work list. */
__device__ inline att_rows att_item(const weft_attention_args &a, int64_t item) {
    int64_t at = item * a.work.stride[0], step = a.work.stride[1];
    att_rows r = att_sequence(a, load_int(a.work, at), load_int(a.work, at + 3 * step));
    int32_t first = load_int(a.work, at + step);
    r.token += first;
    r.pos += first;
    r.queries = load_int(a.work, at + 2 * step);
    return r;
}

__device__ __forceinline__ att_row att_row_of(const att_rows &r, int i) {
    att_row row;
    row.exists = i < att_count(r);
    int32_t query = row.exists ? i / r.heads : 0;
    row.token = r.token + query;
    row.pos = r.pos + query;
    row.head = row.exists ? r.head + i - query * r.heads : r.head;
    return row;
}

/* The masks are intervals: what a query sees is one run of keys. */
__device__ __forceinline__ att_keys att_seen(const weft_attention_args &a, int32_t pos,
                                             int32_t kvlen) {
    att_keys k = {0, kvlen};
    if (a.causal && k.last > pos + 1)
        k.last = pos + 1;
    if (a.window > 0 && pos - a.window + 1 > 0)
        k.first = pos - a.window + 1;
    k.last = k.last > k.first ? k.last : k.first;
    return k;
}

/* Of rows [from, to): keys that any of them sees, and keys that all see. Both ends ascend with the
 * position. */
struct att_span {
    att_keys any, all;
};

__device__ inline att_span att_span_of(const weft_attention_args &a, const att_rows &r, int from,
                                       int to) {
    att_span s = {{0, 0}, {0, 0}};
    int most = att_count(r);
    to = to < most ? to : most;
    if (from >= to)
        return s;
    att_keys first = att_seen(a, r.pos + from / r.heads, r.kvlen);
    att_keys last = att_seen(a, r.pos + (to - 1) / r.heads, r.kvlen);
    s.any = att_keys{first.first, last.last};
    s.all = att_keys{last.first, first.last};
    return s;
}

/* ---- keys in memory ---- */

/* K or V of one kv head. Key j is at base + page * its page + in * its place there. */
struct att_source {
    const void *base;
    int64_t page, in, inner;
    int32_t width;
};

template <class T>
__device__ __forceinline__ att_source att_source_of(const weft_attention_args &a,
                                                    const weft_tensor &t, int32_t kv_head) {
    bool paged = weft_has(&a.pages);
    att_source s;
    s.base = (const T *)t.data + kv_head * t.stride[1];
    s.page = t.stride[0];
    s.in = paged ? t.stride[2] : 0;
    s.inner = t.stride[t.ndim - 1];
    s.width = (int32_t)t.shape[t.ndim - 1];
    return s;
}

/* {page, place in it} of key j; without pages {row, 0}. */
__device__ __forceinline__ int2 att_place(const weft_attention_args &a, const att_rows &r,
                                          int32_t row0, int32_t j) {
    if (!weft_has(&a.pages))
        return make_int2(row0 + j, 0);
    uint32_t size = (uint32_t)a.k.shape[2], page = (uint32_t)j / size;
    int64_t at = r.seq * a.pages.stride[0] + page * a.pages.stride[1];
    return make_int2(load_int(a.pages, at), (int)((uint32_t)j - page * size));
}

__device__ __forceinline__ int64_t att_offset(const att_source &s, int2 place) {
    return place.x * s.page + place.y * s.in;
}

/* ---- scores ---- */

/* Whether a score is more than scale q.k. */
__host__ __device__ inline bool att_is_general(const weft_attention_args &a) {
    return a.softcap > 0 || weft_has(&a.slopes) || weft_has(&a.bias) || !(a.scale > 0);
}

/* The score from q.k, far = key - query. */
__device__ inline float att_score(const weft_attention_args &a, float dot, int32_t head,
                                  int32_t far) {
    float s = dot * a.scale;
    if (a.softcap > 0)
        s = a.softcap * weft_tanhf(s / a.softcap);
    if (weft_has(&a.slopes))
        s = fmaf(load1(a.slopes, head * a.slopes.stride[0]), (float)far, s);
    if (weft_has(&a.bias)) {
        int32_t most = (int32_t)(a.bias.shape[1] - 1) / 2;
        int32_t near = far < -most ? -most : far > most ? most : far;
        s += load1(a.bias, head * a.bias.stride[0] + (near + most) * a.bias.stride[1]);
    }
    return s;
}

/* ---- states ---- */

/* Exponents to the base that a kernel keeps its largest scores in: UNIT times a score is that
 * exponent, LOG takes it back. */
struct att_base2 {
    static constexpr float UNIT = 1.44269504f, LOG = 0.693147181f;
    __device__ static __forceinline__ float exp(float x) {
        return ex2_approx_ftz_f32(x);
    }
};
struct att_base_e {
    static constexpr float UNIT = 1, LOG = 1;
    __device__ static __forceinline__ float exp(float x) {
        return weft_expf(x);
    }
};

/* What scores are taken relative to: -infinity, "no key yet", cannot be subtracted. */
__device__ __forceinline__ float att_level(float most) {
    return most == -INFINITY ? 0.0f : most;
}

/* Two states become one: what is left of the sums of the earlier and of the later. A state without
 * keys changes nothing: the other's factor is exactly 1. */
struct att_merge {
    float most, earlier, later;
};

template <class B> __device__ __forceinline__ att_merge att_merge_of(float earlier, float later) {
    att_merge m;
    m.most = fmaxf(earlier, later);
    float level = att_level(m.most);
    m.earlier = B::exp(earlier - level);
    m.later = B::exp(later - level);
    return m;
}

__device__ __forceinline__ float att_merged(const att_merge &m, float earlier, float later) {
    return fmaf(earlier, m.earlier, later * m.later);
}

/* The end of a row: y = acc * factor + 0 (a zero is +0 whatever path led to it). */
struct att_end {
    float factor, lse;
};

template <class B>
__device__ inline att_end att_end_of(const weft_attention_args &a, int32_t head, float most,
                                     float sum) {
    float scale = 1, level = att_level(most);
    if (weft_has(&a.sinks)) {
        float sink = load1(a.sinks, head * a.sinks.stride[0]) * B::UNIT;
        level = att_level(fmaxf(most, sink));
        scale = B::exp(most - level);
        sum = fmaf(sum, scale, B::exp(sink - level));
    }
    att_end e;
    e.factor = sum == 0 ? 0.0f : scale / sum;
    e.lse = fmaf(level, B::LOG, weft_logf(sum));
    return e;
}

__device__ __forceinline__ void att_store_lse(const weft_attention_args &a, const att_row &row,
                                              float lse) {
    if (weft_has(&a.lse))
        store1(a.lse, row.token * a.lse.stride[0] + row.head * a.lse.stride[1], lse);
}

__device__ __forceinline__ int64_t att_y(const weft_attention_args &a, const att_row &row) {
    return row.token * a.y.stride[0] + row.head * a.y.stride[1];
}

} // namespace WEFT_CU_NS
