/* SPDX-License-Identifier: Apache-2.0
 * matmul, class S32: int8 by int8 in exact s32 sums, each leaf scaled in fp32 by its token's number
 * and its row's before the tree. A panel of 16 rows of w passes all tokens while it is in cache:
 * decode is bound by reading w, prefill by the integer dot products. */
#include "cpu.h"
#include "dot8.h"

enum {
    S8_ROWS = 16,   /* rows of w in a panel: one v16 of y */
    S8_TOKENS = 64, /* tokens of a piece: x of so many and a panel share L2 */
    S8_N = 4,
    S8_T = WEFT_CPU_LEVEL >= 2 ? 4 : 1, /* 16 accumulators in 32 registers, or 4 in 16 */
    S8_LEAVES = 8,
};

typedef struct {
    const weft_matmul_args *a;
    int64_t tokens, rows, slice;
    int32_t *xsum; /* [token][leaf] the bias of a level's products times the sum of x; NULL: none */
} s8_job;

typedef struct {
    int64_t n0, t0;
    int rows, tokens;
    float sum[S8_LEAVES][S8_TOKENS][S8_ROWS];
} s8_piece;

static const int8_t *s8_at(const weft_tensor *t, int64_t row, int64_t k) {
    return (const int8_t *)t->data + row * t->stride[0] + k;
}

/* Dot products of nt rows of x and nn of w over n elements. */
V16 void s8_tile(int nt, int nn, const int8_t *x, int64_t xstride, const int8_t *w, int64_t wstride,
                 int64_t n, int32_t out[S8_T][S8_N]) {
    dot8 acc[S8_T][S8_N];
    WEFT_UNROLL
    for (int t = 0; t < nt; t++) {
        WEFT_UNROLL
        for (int r = 0; r < nn; r++)
            acc[t][r] = dot8_zero();
    }
    for (int64_t k = 0; k < n; k += DOT8_STEP) {
        int step = n - k < DOT8_STEP ? (int)(n - k) : DOT8_STEP;
        dot8_row xv[S8_T];
        WEFT_UNROLL
        for (int t = 0; t < nt; t++)
            xv[t] = dot8_get(x + t * xstride + k, step);
        WEFT_UNROLL
        for (int r = 0; r < nn; r++) {
            dot8_row wv = dot8_get_w(w + r * wstride + k, step);
            if (nt == 1 && k % 64 == 0) /* one token: w streams from memory */
                __builtin_prefetch(w + (r + nn) * wstride + k, 0, 2);
            WEFT_UNROLL
            for (int t = 0; t < nt; t++)
                acc[t][r] = dot8_add(acc[t][r], xv[t], wv);
        }
    }
    for (int t = 0; t < nt; t++)
        for (int r = 0; r < nn; r++)
            out[t][r] = dot8_sum(acc[t][r]);
}

/* Whole tiles in registers; what is left over one by one. */
static void s8_dots(int nt, int nn, const int8_t *x, int64_t xstride, const int8_t *w,
                    int64_t wstride, int64_t n, int32_t out[S8_T][S8_N]) {
    if (nt == S8_T && nn == S8_N) {
        s8_tile(S8_T, S8_N, x, xstride, w, wstride, n, out);
        return;
    }
    for (int t = 0; t < nt; t++) {
        if (nn == S8_N) {
            s8_tile(1, S8_N, x + t * xstride, xstride, w, wstride, n, out + t);
            continue;
        }
        for (int r = 0; r < nn; r++) {
            int32_t one[S8_T][S8_N];
            s8_tile(1, 1, x + t * xstride, xstride, w + r * wstride, wstride, n, one);
            out[t][r] = one[0][0];
        }
    }
}

static float s8_scaled(const s8_job *j, int32_t dot, int64_t t, int64_t n, int leaf) {
    const weft_matmul_args *a = j->a;
    if (DOT8_BIAS)
        dot = (int32_t)((uint32_t)dot - (uint32_t)j->xsum[t * a->leaves + leaf]);
    float v = (float)dot * ((const float *)a->xscale.data)[t * a->xscale.stride[0] + leaf];
    return v * ((const float *)a->wscale.data)[n];
}

static void s8_leaf(const s8_job *j, s8_piece *p, int leaf) {
    const weft_matmul_args *a = j->a;
    int32_t dot[S8_T][S8_N];
    for (int n = 0; n < p->rows; n += S8_N)
        for (int t = 0; t < p->tokens; t += S8_T) {
            int nn = p->rows - n < S8_N ? p->rows - n : S8_N;
            int nt = p->tokens - t < S8_T ? p->tokens - t : S8_T;
            s8_dots(nt, nn, s8_at(&a->x, p->t0 + t, leaf * j->slice), a->x.stride[0],
                    s8_at(&a->w, p->n0 + n, leaf * j->slice), a->w.stride[0], j->slice, dot);
            for (int i = 0; i < nt * nn; i++) {
                int dt = i / nn, dn = i % nn;
                p->sum[leaf][t + dt][n + dn] = s8_scaled(j, dot[dt][dn], p->t0 + t + dt,
                                                         p->n0 + n + dn, leaf);
            }
        }
}

static void s8_store(const weft_matmul_args *a, const s8_piece *p, int t) {
    v16 leaf[S8_LEAVES];
    int64_t row = p->t0 + t;
    for (int l = 0; l < a->leaves; l++) {
        leaf[l] = v16_load_n(p->sum[l][t], p->rows);
        if (a->partial)
            v16_store_n((float *)a->y.data + l * a->y.stride[0] + row * a->y.stride[1] + p->n0,
                        p->rows, leaf[l]);
    }
    if (!a->partial)
        cpu_finish(&a->y, &a->bias, a->act, &a->res, row, p->n0, p->rows,
                   cpu_tree(leaf, a->leaves));
}

/* Pieces of one block of tokens are neighbours: x stays near while w passes. */
static void s8_pieces(const void *ctx, int64_t begin, int64_t end, int worker) {
    const s8_job *j = ctx;
    int64_t across = cpu_ceil(j->rows, S8_ROWS);
    s8_piece p;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        p.n0 = i % across * S8_ROWS;
        p.t0 = i / across * S8_TOKENS;
        p.rows = (int)cpu_min(S8_ROWS, j->rows - p.n0);
        p.tokens = (int)cpu_min(S8_TOKENS, j->tokens - p.t0);
        for (int leaf = 0; leaf < j->a->leaves; leaf++)
            s8_leaf(j, &p, leaf);
        for (int t = 0; t < p.tokens; t++)
            s8_store(j->a, &p, t);
    }
}

static void s8_sum_x(const void *ctx, int64_t begin, int64_t end, int worker) {
    const s8_job *j = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        for (int leaf = 0; leaf < j->a->leaves; leaf++) {
            const int8_t *x = s8_at(&j->a->x, t, leaf * j->slice);
            int32_t sum = 0;
            for (int64_t k = 0; k < j->slice; k++)
                sum += x[k];
            j->xsum[t * j->a->leaves + leaf] = sum * DOT8_BIAS;
        }
}

static int s8_scales_ok(const weft_matmul_args *a) {
    return weft_has(&a->xscale) && weft_has(&a->wscale) && a->xscale.dtype == WEFT_F32 &&
           a->wscale.dtype == WEFT_F32 && a->xscale.shape[1] == a->leaves && cpu_flat(&a->xscale) &&
           cpu_flat(&a->wscale);
}

CPU_OK(matmul_s8) {
    const weft_matmul_args *a = &args->matmul;
    int leaves = a->leaves, extra = a->act || weft_has(&a->bias) || weft_has(&a->res);
    if (leaves != 1 && leaves != 2 && leaves != 4 && leaves != 8)
        return 0;
    if (a->partial && (extra || a->y.dtype != WEFT_F32))
        return 0;
    return a->x.dtype == WEFT_I8 && a->w.dtype == WEFT_I8 && a->x.ndim == 2 && a->w.ndim == 2 &&
           a->x.shape[1] == a->w.shape[1] && a->x.shape[1] % leaves == 0 &&
           a->x.shape[1] / leaves <= WEFT_S32_TERMS && a->x.stride[1] == 1 && a->w.stride[1] == 1 &&
           s8_scales_ok(a) && cpu_flat(&a->y) && cpu_flat(&a->bias) && cpu_flat(&a->res);
}

CPU_SCRATCH(matmul_s8) {
    return DOT8_BIAS ? (size_t)(args->matmul.x.shape[0] * args->matmul.leaves) * sizeof(int32_t)
                     : 0;
}

CPU_RUN(matmul_s8) {
    const weft_matmul_args *a = &step->args.matmul;
    s8_job j = {.a = a, .rows = a->w.shape[0], .slice = a->x.shape[1] / a->leaves};
    j.tokens = cpu_true_rows(&a->rows, &a->x);
    if (j.tokens == 0 || j.rows == 0)
        return;
    j.xsum = step->scratch;
    if (DOT8_BIAS)
        cpu_each_row(stream, j.tokens, a->x.shape[1], s8_sum_x, &j);
    int64_t pieces = cpu_ceil(j.rows, S8_ROWS) * cpu_ceil(j.tokens, S8_TOKENS);
    int64_t work = S8_ROWS * a->x.shape[1] * cpu_min(j.tokens, S8_TOKENS);
    weft_parallel(stream, pieces, cpu_max(1, (64 << 10) / cpu_max(1, work)), s8_pieces, &j);
}
