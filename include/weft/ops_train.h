/* SPDX-License-Identifier: Apache-2.0
 * The catalogue's training half: gradients of the forward ops, the loss and the optimizers, in the
 * macros and letters of ops.h, which includes this file.
 *
 * dy is the gradient of the loss in y. Gradients in activations have an activation's type and are
 * rounded once, like any result; gradients in weights are fp32 and accumulate in place.
 *
 * Virtual shards. An op that sums over tokens into a weight's gradient cuts the T rows of its
 * shapes into `shards` (1, 2, 4 or 8, a divisor of T) equal runs of consecutive rows; rows past the
 * true number are no part of them. Each run is one chain of fp32 sums in ascending t. shards 1: the
 * chain goes on from what the gradient holds, so that rows given in one call or in several, in the
 * same order, give the same bits (class MMA: each call but the last in whole granules of 16 rows,
 * BF16DOT: of 2).
 * More: each chain begins at zero, the fixed tree combines them and one addition adds the result to
 * what the gradient holds; buffers of one shard each, summed by `accumulate` as the tree does, give
 * the same. Leading rows of zeros change nothing. */
#pragma once

/* dx[T,K] = dy[T,N] w[N,K]: `leaves` chains over equal slices of N, n ascending, combined by the
 * fixed tree, then + res[T,K] (a gradient that reaches x another way) as matmul adds its res.
 * w i8[N,K] has wscale f32[N]; then dy[t,n] wscale[n], rounded to dy's type, takes dy's place. */
#define WEFT_MATMUL_DX(I, Q, O, A, S) I(dy) I(w) Q(wscale) Q(res) Q(rows) O(dx) S(int32_t, leaves)

/* dw[N,K] += sum over t of dy[t,N]' x[t,K], by shards. dw f32, any row stride. */
#define WEFT_MATMUL_DW(I, Q, O, A, S) I(dy) I(x) Q(rows) A(dw) S(int32_t, shards)

/* db[N] += sum over t of dy[T,N], by shards. db f32. */
#define WEFT_BIAS_DB(I, Q, O, A, S) I(dy) Q(rows) A(db) S(int32_t, shards)

/* With r and inv as rmsnorm left them and d = dy (g + offset):
 * dx = inv (d - r inv^2 mean(d r)) + dr, dr being what else reaches r; it is the gradient in both
 * x and res. x[T,H] or [T,heads,D]. */
#define WEFT_RMSNORM_DX(I, Q, O, A, S) I(dy) I(r) I(g) I(inv) Q(dr) Q(rows) O(dx) S(float, offset)

/* dg[H] += sum over rows of dy r inv, by shards; of [T,heads,D] the heads of a token ascend. */
#define WEFT_RMSNORM_DG(I, Q, O, A, S) I(dy) I(r) I(inv) Q(rows) A(dg) S(int32_t, shards)

/* With h = (r - mean) inv and d = dy g: dx = inv (d - mean(d) - h mean(d h)) + dr. */
#define WEFT_LAYERNORM_DX(I, Q, O, A, S) I(dy) I(r) I(g) I(mean) I(inv) Q(dr) Q(rows) O(dx)

/* dg[H] += sum over rows of dy h, db[H] += that of dy, by shards. db may be absent. */
#define WEFT_LAYERNORM_DG(I, Q, O, A, S) \
    I(dy) I(r) I(mean) I(inv) Q(rows) A(dg) A(db) S(int32_t, shards)

/* The rotation backwards: by the transposed matrices of `table`, mscale included. */
#define WEFT_ROPE_DX(I, Q, O, A, S) I(dy) I(table) Q(rows) O(dx) S(int32_t, interleaved)

/* dgate = dy up act'(gate), dup = dy act(gate). All [T,N]. */
#define WEFT_GLU_DX(I, Q, O, A, S) I(dy) I(gate) I(up) Q(rows) O(dgate) O(dup) S(int32_t, act)

/* dx = dy act'(x). */
#define WEFT_ACTIVATION_DX(I, Q, O, A, S) I(dy) I(x) Q(rows) O(dx) S(int32_t, act)

/* Gradients of attention over this batch's own keys (no pages; operands as attention's): the
 * probabilities are computed anew from lse f32[T,H], and the sum over Dv of dy y stands for that of
 * p dp. dq[T,H,D] sums over keys in ascending order; dk[T,Hkv,D] and dv[T,Hkv,Dv] over the query
 * heads that share a kv head, ascending, and for each its queries, ascending. lse has the sinks in
 * it. S is kvlen's length; a sequence may have no rows. Rows of no sequence get zeros. (Dao et al.,
 * FlashAttention, 2022) */
#define WEFT_ATTENTION_DX(I, Q, O, A, S) \
    I(dy) \
    I(q) \
    I(k) I(v) I(y) I(lse) I(qstart) I(qpos) I(kvlen) Q(slopes) Q(bias) Q(sinks) O(dq) O(dk) O(dv) \
        S(float, scale) S(float, softcap) S(int32_t, causal) S(int32_t, window) S(int32_t, group) \
            S(int32_t, head0)

/* dw[ids[t] - row0] += dy[t], by shards; ids outside the rows of dw, negative ones too, add
 * nothing. order i32[T]: the true rows by ascending id, equal ids by ascending row. dw f32[V,H].
 */
#define WEFT_EMBED_DW(I, Q, O, A, S) \
    I(ids) I(order) I(dy) Q(rows) A(dw) S(int32_t, row0) S(int32_t, shards)

/* Cross-entropy and its gradient, row by row. With p = softmax(x[t]), m = lse(x[t]), target
 * g = target[t] and smoothing e: loss[t] = m - (1 - e) x[g] - e mean(x) + z_loss m^2;
 * dx = scale (p (1 + 2 z_loss m) - (1 - e) [v = g] - e / V). nll[t] = m - x[g] is the
 * cross-entropy alone. target[t] outside [0, V) is ignored: zeros everywhere. dx may be x itself.
 * scale f32[1]: one over the batch's number of targets, so that a sum over tokens is the mean.
 * x[T,V], target i32[T]; loss, nll f32[T]; dx[T,V]. */
#define WEFT_CROSS_ENTROPY(I, Q, O, A, S) \
    I(x) I(target) I(scale) Q(rows) O(loss) O(nll) O(dx) S(float, z_loss) S(float, smoothing)

/* y[t,i] = x[t,i] / (1 - p) where kept, else 0; both operations round to fp32. Kept where
 * the uniform number of Philox(seed, stream, place[t] N + i) is >= p; key i32[2] is the seed, low
 * word first, stream the step's own number; place i32[T] says which token of the batch a row is.
 * Its own gradient. Four elements share one Philox block: element e takes word e % 4 of block
 * e / 4. */
#define WEFT_DROPOUT(I, Q, O, A, S) I(x) I(key) I(place) Q(rows) O(y) S(float, p) S(int32_t, stream)

/* y = s x. */
#define WEFT_SCALE(I, Q, O, A, S) I(x) Q(rows) O(y) S(float, s)

/* y = value everywhere. f32. */
#define WEFT_FILL(I, Q, O, A, S) O(y) S(float, value)

/* y += x, both f32 of equal shape: how gradients of shards meet. */
#define WEFT_ACCUMULATE(I, Q, O, A, S) I(x) A(y)

/* y[n,l] = sum of x^2 over the l-th of `leaves` equal slices of row n. x f32[N,K], y f32[N,L]. */
#define WEFT_SUM_SQUARES(I, Q, O, A, S) I(x) O(y) S(int32_t, leaves)

/* AdamW (Loshchilov and Hutter, 2019) as torch.optim.AdamW: with g' = g hyper.gscale,
 * p -= lr decay wd p; m = b1 m + (1 - b1) g'; v = b2 v + (1 - b2) g'^2;
 * p -= lr step1 m / (sqrt(v) step2 + eps), each product and sum rounded to fp32 in this order.
 * From the left: ((lr decay) wd) p; 1 - b1 is a float; g'^2 comes before its factor.
 * step1 = 1 / (1 - b1^n), step2 = 1 / sqrt(1 - b2^n), of b1 and b2 as floats.
 * p, m, v, g f32[N,K]; w, if there, is p in the
 * type that the model computes in: rounded to nearest even, or, `stochastic`, up with the
 * probability of what is cut off: Philox(seed, stream, element), word element % 4 of block
 * element / 4, its low 16 bits added before the cut (bf16 only).
 * hyper f32[WEFT_HYPERS]. decay 1: a matrix; 0: no weight decay. */
#define WEFT_ADAMW(I, Q, O, A, S) \
    I(g) I(hyper) A(p) A(m) A(v) A(w) S(float, decay) S(int32_t, stochastic) S(int32_t, stream)

/* SGD with momentum as torch.optim.SGD: d = g' + decay wd p; m = b1 m + d; p -= lr m. */
#define WEFT_SGD(I, Q, O, A, S) \
    I(g) I(hyper) A(p) A(m) A(w) S(float, decay) S(int32_t, stochastic) S(int32_t, stream)

/* e = e hyper.ema + p (1 - hyper.ema), f32: a running mean of weights. */
#define WEFT_EMA(I, Q, O, A, S) I(p) I(hyper) A(e)

/* What the optimizers are told at each step; seed words are bit patterns. */
enum {
    WEFT_HYPER_LR,
    WEFT_HYPER_BETA1,
    WEFT_HYPER_BETA2,
    WEFT_HYPER_EPS,
    WEFT_HYPER_DECAY,
    WEFT_HYPER_STEP1,
    WEFT_HYPER_STEP2,
    WEFT_HYPER_GSCALE,
    WEFT_HYPER_EMA,
    WEFT_HYPER_SEED_LOW,
    WEFT_HYPER_SEED_HIGH,
    WEFT_HYPERS = 16
};

/* X(name, fields, tolerance fp32, fp16, bf16, fp8, int8, flags), as WEFT_OPS. */
#define WEFT_TRAIN_OPS(X) \
    X(matmul_dx, WEFT_MATMUL_DX, 1e-5f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(matmul_dw, WEFT_MATMUL_DW, 1e-5f, 1e-5f, 1e-5f, 0, 0, 0) \
    X(bias_db, WEFT_BIAS_DB, 1e-5f, 1e-5f, 1e-5f, 0, 0, 0) \
    X(rmsnorm_dx, WEFT_RMSNORM_DX, 4e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(rmsnorm_dg, WEFT_RMSNORM_DG, 1e-5f, 1e-5f, 1e-5f, 0, 0, 0) \
    X(layernorm_dx, WEFT_LAYERNORM_DX, 4e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(layernorm_dg, WEFT_LAYERNORM_DG, 1e-5f, 1e-5f, 1e-5f, 0, 0, 0) \
    X(rope_dx, WEFT_ROPE_DX, 1e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(glu_dx, WEFT_GLU_DX, 4e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(activation_dx, WEFT_ACTIVATION_DX, 4e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(attention_dx, WEFT_ATTENTION_DX, 2e-5f, 4e-3f, 2e-2f, 0, 0, 0) \
    X(embed_dw, WEFT_EMBED_DW, 1e-5f, 1e-5f, 1e-5f, 0, 0, 0) \
    X(cross_entropy, WEFT_CROSS_ENTROPY, 4e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(dropout, WEFT_DROPOUT, 0, 0, 0, 0, 0, WEFT_ROWLOCAL | WEFT_EXACT) \
    X(scale, WEFT_SCALE, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_ROWLOCAL | WEFT_EXACT) \
    X(fill, WEFT_FILL, 0, 0, 0, 0, 0, WEFT_EXACT) \
    X(accumulate, WEFT_ACCUMULATE, 0, 0, 0, 0, 0, WEFT_EXACT) \
    X(sum_squares, WEFT_SUM_SQUARES, 4e-6f, 0, 0, 0, 0, 0) \
    X(adamw, WEFT_ADAMW, 2e-6f, 2e-3f, 1e-2f, 0, 0, 0) \
    X(sgd, WEFT_SGD, 2e-6f, 2e-3f, 1e-2f, 0, 0, 0) \
    X(ema, WEFT_EMA, 2e-6f, 0, 0, 0, 0, 0)
