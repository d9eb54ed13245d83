/* SPDX-License-Identifier: Apache-2.0
 * The catalogue of ops. One X-macro row declares an op: its operands with their roles, its
 * tolerances and its traits. The argument structs, the checker, the planner, the tracer and
 * backward all read it.
 *
 * Letters: T tokens (rows) of a step, B sequences, S sequences in a step, H width of the residual
 * stream or number of heads, D head width, V vocabulary, L leaves; y[T,N] = x[T,K] w[N,K]'.
 *
 * Roles: I input, Q optional input (id 0: absent), O output (id 0: not wanted), A accumulated in
 * place, S constant. What may change between two replays (ids, positions, lengths, seeds) is a feed
 * tensor, never an S. `rows` is an i32[1] with the true number of leading rows; shapes hold the
 * bucket's size and rows past the true number are neither read nor written. Absent: every row is
 * true.
 *
 * Floating operands may be fp32, fp16 or bf16; arithmetic is fp32 and a result is rounded once, to
 * nearest even, where it is stored. Only the innermost stride of activations must be 1. */
#pragma once
#include "weft/ops_train.h"
#include "weft/tensor.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Activations; the names are those of Hugging Face's ACT2FN. */
typedef enum {
    WEFT_ACT_NONE,
    WEFT_ACT_SILU,      /* x / (1 + e^-x) */
    WEFT_ACT_GELU,      /* x/2 (1 + erf(x / sqrt 2)) */
    WEFT_ACT_GELU_TANH, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    WEFT_ACT_RELU,
    WEFT_ACTS
} weft_act;

/* y[t] = w[ids[t] - row0]; a negative id means last[-id - 1], the token last sampled for that slot.
 * Ids outside [row0, row0 + w.shape[0]) give zeros: the vocabulary may be split over ranks.
 * -0 becomes +0, so that a sum over ranks has the bits of the lookup.
 * ids i32[T], w[V,H], last i32[slots], y[T,H]. */
#define WEFT_EMBED(I, Q, O, A, S) I(ids) I(w) Q(last) Q(rows) O(y) S(int32_t, row0)

/* y[t,i] = mscale * (cos, sin)(pos[t] * f_i), f_i = freq[i,0] + freq[i,1] (fp32 high and low
 * parts). Dynamic NTK (ntk_ctx > 0): where pos[t] >= ntk_ctx, with g = ntk_factor (pos[t] + 1) /
 * ntk_ctx - (ntk_factor - 1), f_i becomes f_i g^(-2i / (2R - 2)): a function of the position alone.
 * pos i32[T], freq f32[R,2], y f32[T,R,2]. */
#define WEFT_ROPE_TABLE(I, Q, O, A, S) \
    I(pos) I(freq) Q(rows) O(y) S(float, mscale) S(float, ntk_factor) S(int32_t, ntk_ctx)

/* Rotary embedding of the first 2R of D features of each head (Su et al., 2021); the rest is
 * copied. interleaved 0: pairs (i, i + R), as Hugging Face; 1: pairs (2i, 2i + 1), as GPT-J.
 * x[T,H,D], table f32[T,R,2], y[T,H,D]. */
#define WEFT_ROPE(I, Q, O, A, S) I(x) I(table) Q(rows) O(y) S(int32_t, interleaved)

/* r = x + res (stored, rounded); y = r * rsqrt(mean r^2 + eps) * (g + offset), over the last axis.
 * x[T,H] or [T,heads,D]; g[H] or [D]; inv f32[T] (or [T,heads]) is the reciprocal root. */
#define WEFT_RMSNORM(I, Q, O, A, S) \
    I(x) Q(res) I(g) Q(rows) O(y) O(r) O(inv) S(float, eps) S(float, offset)

/* r = x + res; y = (r - mean r) * rsqrt(var r + eps) * g + b. */
#define WEFT_LAYERNORM(I, Q, O, A, S) \
    I(x) Q(res) I(g) Q(b) Q(rows) O(y) O(r) O(mean) O(inv) S(float, eps)

/* y[T,N] = x[T,K] w[N,K]': `leaves` chains over equal K slices, combined by the fixed tree; then
 * + bias[N], act and + res[T,N], rounded after each of them as y holds it. partial: y is f32
 * [leaves,T,N], one plane a leaf, and there is no bias, act or res. w may have any row stride (a
 * column slice).
 * w i8[N,K] has wscale f32[N], one number an output. Under float x a product takes the integer as a
 * number of x's type, which is exact, and a leaf's fp32 sum is multiplied by wscale[n] before the
 * tree. x i8[T,K] has xscale f32[T,leaves] and goes with w i8 only: a leaf's sum is exact in s32,
 * is converted to fp32 and multiplied by xscale[t,leaf], then by wscale[n]. A slice of K is at most
 * WEFT_S32_TERMS long. */
#define WEFT_MATMUL(I, Q, O, A, S) \
    I(x) \
    I(w) \
    Q(xscale) \
    Q(wscale) Q(bias) Q(res) Q(rows) O(y) S(int32_t, act) S(int32_t, leaves) S(int32_t, partial)
enum { WEFT_S32_TERMS = 1 << 17 }; /* products of 128 x 127 that an s32 holds */

/* y = tree sum over x[L,T,N] (fp32), then + bias[N] and + res[T,N] as in matmul. L is 1, 2, 4 or
 * 8. */
#define WEFT_LEAF_SUM(I, Q, O, A, S) I(x) Q(bias) Q(res) Q(rows) O(y)

/* y = x[0] + x[1] + ... + x[n-1] in this order: a sum over ranks, whoever computes it.
 * x f32[n,T,N], y f32[T,N]. */
#define WEFT_RANK_SUM(I, Q, O, A, S) I(x) O(y)

/* all_gather, leaf_sum and rmsnorm in one, for short sums between GPUs that reach each other's
 * memory, with their bits: r = round(tree sum over the group's x + bias) + res, y = rmsnorm(r).
 * windows i64[ranks]: the address of each rank's window (kernels/cuda/rank_norm.cu). x f32[T,N] is
 * this rank's part; T is at most RANK_NORM_ROWS and 4 T N at most RANK_NORM_SLOT bytes. */
#define WEFT_RANK_NORM(I, Q, O, A, S) \
    I(x) \
    I(res) \
    I(g) \
    I(windows) \
    Q(bias) \
    Q(rows) \
    O(y) \
    O(r) S(float, eps) S(float, offset) S(int32_t, ranks) S(int32_t, rank) S(int32_t, group)
enum {
    RANK_NORM_ROWS = 64,
    RANK_NORM_RANKS = 8,
    RANK_NORM_DATA = 4096,
    RANK_NORM_SLOT = 256 << 10,
    RANK_NORM_WINDOW = RANK_NORM_DATA + 2 * RANK_NORM_SLOT /* bytes */
};

/* Writes k[T,Hkv,D], v[T,Hkv,Dv] into pages, rounding to the cache's type. slot i32[T] = page *
 * page_size + place; a negative slot is skipped. kcache [pages,Hkv,page_size,D], any strides. */
#define WEFT_KV_APPEND(I, Q, O, A, S) I(k) I(v) I(slot) Q(rows) A(kcache) A(vcache)

/* Ragged attention. q[T,H,D] holds the tokens of S sequences, sequence s in rows [qstart[s],
 * qstart[s+1]), its first at absolute position qpos[s]; it sees keys [0, kvlen[s]).
 * With pages i32[S,P]: k[pages,Hkv,page_size,D], v[pages,Hkv,page_size,Dv]; key j of sequence s is
 * in page pages[s, j / page_size]. Without: k[Tk,Hkv,D], v[Tk,Hkv,Dv] are this batch's own, key j
 * of sequence s is row qstart[s] + j (self-attention only). work i32[W,4]: {sequence, first query,
 * queries, local kv head}; nwork i32[1] items are true. Every (query, head) is covered once. A
 * kernel may ignore the list. Query head h reads local kv head (h + head0) / group. score =
 * softcap(scale q.k) + slopes[h] (j - i) + bias[h, clamp(j - i, -R, R) + R], bias f32[H,2R+1];
 * softcap(x) = c tanh(x / c) if c > 0. causal: j <= i only; window w > 0: also j > i - w.
 * sinks f32[H]: one more logit in the denominator. A query that sees no key gives zeros.
 * Splits of 512 keys at absolute positions, ascending inside, combined left to right in fp32.
 * y[T,H,Dv]; lse f32[T,H]. (Dao et al., FlashAttention, 2022; Kwon et al., PagedAttention, 2023) */
#define WEFT_ATTENTION(I, Q, O, A, S) \
    I(q) \
    I(k) \
    I(v) \
    Q(pages) \
    I(qstart) I(qpos) I(kvlen) I(work) I(nwork) Q(slopes) Q(bias) Q(sinks) O(y) O(lse) \
        S(float, scale) S(float, softcap) S(int32_t, causal) S(int32_t, window) S(int32_t, group) \
            S(int32_t, head0)

/* y = act(gate) * up, rounded once. All [T,N]. (Shazeer, "GLU variants improve transformer",
 * 2020) */
#define WEFT_GLU(I, Q, O, A, S) I(gate) I(up) Q(rows) O(y) S(int32_t, act)

#define WEFT_ACTIVATION(I, Q, O, A, S) I(x) Q(rows) O(y) S(int32_t, act)

#define WEFT_ADD(I, Q, O, A, S) I(a) I(b) Q(rows) O(y)

/* Over the last axis of [T,N]; a row of -inf only gives zeros. */
#define WEFT_SOFTMAX(I, Q, O, A, S) I(x) Q(rows) O(y)

/* id i32[T]: the lowest index of the largest element of x[T,N] (NaN never wins; -1 if all are
 * NaN). */
#define WEFT_ARGMAX(I, Q, O, A, S) I(x) Q(rows) O(id) O(max)

/* y[t] = log softmax(x[t])[target[t]]; x[T,V], target i32[T] (negative: 0), y f32[T]. */
#define WEFT_TOKEN_LOGPROB(I, Q, O, A, S) I(x) I(target) Q(rows) O(y)

/* y[t] = x[index[t]]; index i32[R]; rows counts y's. */
#define WEFT_GATHER(I, Q, O, A, S) I(x) I(index) Q(rows) O(y)

/* y = x converted to y's type, element by element, any strides of equal shape. */
#define WEFT_CAST(I, Q, O, A, S) I(x) Q(rows) O(y)

/* Symmetric int8 with a number for each token and slice: scale[t,l] = max |x| / 127 over the l-th
 * of L equal slices of K, y = x / scale to nearest even within +-127. A slice of zeros has scale 0;
 * one that holds a NaN or an infinity has scale NaN and y 0, so what is computed from it is NaN.
 * x[T,K], y i8[T,K], scale f32[T,L]. */
#define WEFT_QUANTIZE(I, Q, O, A, S) I(x) Q(rows) O(y) O(scale)

/* The sampling chain, one row a sequence; docs/SAMPLING.md defines every stage. Row r reads
 * params[r] (weft_sample_params as i32[R, WEFT_SAMPLE_WORDS]), its slot's history i32[slots,C] and
 * its slot's bias list (bias_id i32[slots,B], bias f32[slots,B]); it writes id[r], appends the
 * token to the history and sets last[slot]. logprob f32[R] and top_id i32[R,n], top_logprob
 * f32[R,n] (descending, ties to the lower id) are of the raw logits. probs f32[R,V]: what the token
 * was drawn from. A row whose every token is masked or NaN gives id -1 and leaves history and last
 * alone. logits f32[R,V].
 * breaker i32[slots,ceil(V/32)+n] stops DRY: a bit for each token that is a breaker by itself (low
 * bit first), then those of several tokens, each its length and its tokens, ascending by the first.
 * mu f32[slots,C+1], mirostat's state: entry i is for a token at position i, NaN where that is not
 * known; then the last one before it counts, and 2 tau where there is none. */
#define WEFT_SAMPLE(I, Q, O, A, S) \
    I(logits) \
    I(params) \
    Q(bias_id) \
    Q(bias) \
    Q(breaker) Q(rows) O(id) O(logprob) O(top_id) O(top_logprob) O(probs) A(history) A(last) A(mu)

/* sample where each rank of `group` has the logits of consecutive tokens alone: logits f32[R,P], of
 * which rank r's first columns are those of tokens r P up to `vocab`. No rank gathers a row, unless
 * its chain asks for more than sums and the likeliest tokens (weft/sample_shard.h); every rank
 * writes the same, to the bit what `sample` writes of the whole row. `ranks` of the group. */
#define WEFT_SAMPLE_SHARDED(I, Q, O, A, S) \
    I(logits) \
    I(params) \
    Q(bias_id) \
    Q(bias) \
    Q(breaker) Q(rows) O(id) O(logprob) O(top_id) O(top_logprob) A(history) A(last) A(mu) \
        S(int32_t, vocab) S(int32_t, ranks) S(int32_t, group)

/* Collectives over the ranks of a `group` (WEFT_GROUP_*), which all call them in plan order; data
 * moves, sums are our own ops. all_gather: y is the ranks' x in rank order along `axis`.
 * reduce_scatter: y is this rank's part along `axis` of the fp32 sum over ranks in rank order.
 * all_to_all: part p along axis 0 of x goes to rank p. broadcast, send, recv: from or to `peer`, a
 * rank of the group. */
#define WEFT_ALL_GATHER(I, Q, O, A, S) I(x) O(y) S(int32_t, axis) S(int32_t, group)
#define WEFT_REDUCE_SCATTER(I, Q, O, A, S) I(x) O(y) S(int32_t, axis) S(int32_t, group)
#define WEFT_ALL_TO_ALL(I, Q, O, A, S) I(x) O(y) S(int32_t, group)
#define WEFT_BROADCAST(I, Q, O, A, S) A(x) S(int32_t, peer) S(int32_t, group)
#define WEFT_SEND(I, Q, O, A, S) I(x) S(int32_t, peer) S(int32_t, group)
#define WEFT_RECV(I, Q, O, A, S) O(y) S(int32_t, peer) S(int32_t, group)
/* The ranks that differ from this one in one coordinate of the mesh alone; all there are. */
enum { WEFT_GROUP_TP, WEFT_GROUP_PP, WEFT_GROUP_DP, WEFT_GROUP_WORLD, WEFT_GROUPS };

enum {
    WEFT_BWD = 1,  /* has a backward: backward.c knows its gradient steps */
    WEFT_COMM = 2, /* a collective: runs on the comm lane */
    WEFT_ROWLOCAL =
        4,         /* a row's result depends on that row only: the checker permutes and splits */
    WEFT_EXACT = 8 /* moves or selects values: candidates must equal ref bit for bit */
};

/* X(name, fields, tolerance fp32, fp16, bf16, fp8, int8, flags): this row is the whole declaration.
 * A tolerance is relative to the largest |reference| of the row compared. */
#define WEFT_OPS(X) WEFT_FORWARD_OPS(X) WEFT_TRAIN_OPS(X)
#define WEFT_FORWARD_OPS(X) \
    X(embed, WEFT_EMBED, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_ROWLOCAL | WEFT_EXACT) \
    X(rope_table, WEFT_ROPE_TABLE, 2e-7f, 0, 0, 0, 0, WEFT_ROWLOCAL) \
    X(rope, WEFT_ROPE, 1e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(rmsnorm, WEFT_RMSNORM, 2e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(layernorm, WEFT_LAYERNORM, 4e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(matmul, WEFT_MATMUL, 1e-5f, 2e-3f, 1e-2f, 8e-2f, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(leaf_sum, WEFT_LEAF_SUM, 1e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_ROWLOCAL) \
    X(rank_sum, WEFT_RANK_SUM, 0, 0, 0, 0, 0, WEFT_EXACT) \
    X(kv_append, WEFT_KV_APPEND, 0, 0, 0, 0, 0, WEFT_EXACT) \
    X(attention, WEFT_ATTENTION, 1e-5f, 2e-3f, 1e-2f, 8e-2f, 0, WEFT_BWD) \
    X(glu, WEFT_GLU, 2e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(activation, WEFT_ACTIVATION, 2e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(add, WEFT_ADD, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_ROWLOCAL | WEFT_EXACT) \
    X(softmax, WEFT_SOFTMAX, 2e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(argmax, WEFT_ARGMAX, 0, 0, 0, 0, 0, WEFT_ROWLOCAL | WEFT_EXACT) \
    X(token_logprob, WEFT_TOKEN_LOGPROB, 2e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_BWD | WEFT_ROWLOCAL) \
    X(gather, WEFT_GATHER, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_EXACT) \
    X(cast, WEFT_CAST, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_ROWLOCAL | WEFT_EXACT) \
    X(quantize, WEFT_QUANTIZE, 0, 0, 0, 0, 0, WEFT_ROWLOCAL | WEFT_EXACT) \
    X(sample, WEFT_SAMPLE, 1e-6f, 0, 0, 0, 0, WEFT_EXACT) \
    X(all_gather, WEFT_ALL_GATHER, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_COMM | WEFT_EXACT) \
    X(reduce_scatter, WEFT_REDUCE_SCATTER, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_COMM | WEFT_EXACT) \
    X(all_to_all, WEFT_ALL_TO_ALL, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_COMM | WEFT_EXACT) \
    X(broadcast, WEFT_BROADCAST, 0, 0, 0, 0, 0, WEFT_COMM | WEFT_EXACT) \
    X(send, WEFT_SEND, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_COMM | WEFT_EXACT) \
    X(recv, WEFT_RECV, 0, 0, 0, 0, 0, WEFT_BWD | WEFT_COMM | WEFT_EXACT) \
    X(rank_norm, WEFT_RANK_NORM, 2e-6f, 2e-3f, 1e-2f, 0, 0, WEFT_COMM) \
    X(sample_sharded, WEFT_SAMPLE_SHARDED, 1e-6f, 0, 0, 0, 0, WEFT_COMM | WEFT_EXACT)

#define WEFT_T_(n) weft_tensor n;
#define WEFT_S_(t, n) t n;
#define WEFT_ARGS_(name, F, a, b, c, d, e, fl) \
    typedef struct weft_##name##_args { \
        F(WEFT_T_, WEFT_T_, WEFT_T_, WEFT_T_, WEFT_S_) \
    } weft_##name##_args;
#define WEFT_ENUM_(name, F, a, b, c, d, e, fl) WEFT_OP_##name,
#define WEFT_UNION_(name, F, a, b, c, d, e, fl) weft_##name##_args name;
WEFT_OPS(WEFT_ARGS_)
typedef enum { WEFT_OPS(WEFT_ENUM_) WEFT_OP_COUNT } weft_op;
typedef union weft_args {
    WEFT_OPS(WEFT_UNION_)
} weft_args;

typedef struct {
    const char *name;
    uint16_t off; /* in weft_args */
    char role;    /* I Q O A S */
    char type;    /* S: 'i' int32, 'f' float; otherwise 't' */
} weft_field;

typedef struct {
    const char *name;
    const weft_field *field;
    int nfield;
    float tol[5]; /* fp32 fp16 bf16 fp8 int8 */
    int flags;
    /* Compulsory memory traffic and arithmetic of one run at the shapes' sizes (the bucket's). */
    void (*cost)(const weft_args *, int64_t *bytes, int64_t *flops);
} weft_op_info;

extern const weft_op_info weft_op_table[WEFT_OP_COUNT]; /* host/run/ops.c: same macro, offsetof */

/* The stages of the chain that may be put in another order; their numbers are the default one.
 * Logit bias and held tokens come first, the draw last. */
enum {
    WEFT_STAGE_END,
    WEFT_STAGE_PENALTIES,
    WEFT_STAGE_DRY,
    WEFT_STAGE_TOP_N_SIGMA,
    WEFT_STAGE_TEMPERATURE,
    WEFT_STAGE_TOP_K,
    WEFT_STAGE_TOP_P,
    WEFT_STAGE_MIN_P,
    WEFT_STAGE_TYPICAL,
    WEFT_STAGE_XTC,
    WEFT_STAGES
};

/* What one row of `sample` is told. Words, so that it travels in the i32 feed unchanged.
 * A parameter's neutral value switches its stage off. */
enum { WEFT_SAMPLE_WORDS = 64, WEFT_TOP_LOGPROBS = 20, WEFT_ORDER_BYTES = 12 };
typedef struct weft_sample_params {
    int32_t slot;        /* row of history, bias, breaker, mu and last */
    int32_t history_len; /* tokens in the slot's history, prompt included */
    int32_t prompt_len;  /* of which prompt */
    int32_t n_bias;      /* entries of the slot's bias list */
    uint32_t seed[2],
        stream[2];            /* Philox key and stream, low word first; position is history_len */
    float temperature;        /* 0: arg-max; neutral 1 */
    int32_t top_k;            /* neutral 0; tokens equal to the k-th stay */
    float top_p;              /* neutral 1 */
    float min_p;              /* neutral 0 */
    float typical_p;          /* neutral 1 (Meister et al., 2022) */
    float repetition_penalty; /* neutral 1; over the whole history (Keskar et al., 2019) */
    float frequency_penalty;  /* neutral 0; over what was generated, as OpenAI defines it */
    float presence_penalty;   /* neutral 0 */
    int32_t no_repeat_ngram;  /* neutral 0 */
    int32_t n_top;            /* alternatives to report, <= WEFT_TOP_LOGPROBS */
    float top_n_sigma;        /* neutral 0 (Tang et al., 2024) */
    float dynatemp_range;     /* neutral 0; half the width of the range of temperatures */
    float dynatemp_exponent;
    float xtc_probability; /* neutral 0 (Weidmann, "Exclude top choices", 2024) */
    float xtc_threshold;   /* neutral above 0.5 */
    float dry_multiplier;  /* neutral 0 (Weidmann, "Don't repeat yourself", 2024) */
    float dry_base;
    int32_t dry_allowed_length;       /* >= 1 */
    int32_t dry_last_n;               /* tokens of the history it looks at; neutral 0; -1: all */
    int32_t n_breaker;                /* words of the slot's breakers of several tokens */
    int32_t mirostat;                 /* 1 or 2: in place of every stage that cuts; neutral 0 */
    float mirostat_tau, mirostat_eta; /* (Basu et al., 2020) */
    int32_t min_tokens;               /* neutral 0; until so many are generated ... */
    int32_t n_held; /* ... the n_held tokens behind the n_bias of the bias list are masked */
    uint8_t order[WEFT_ORDER_BYTES]; /* WEFT_STAGE_*, ended by 0; begins with 0: the default */
    int32_t reserved[28];
} weft_sample_params;

#ifdef __cplusplus
static_assert(sizeof(weft_sample_params) == WEFT_SAMPLE_WORDS * 4, "feed layout");
}
#else
_Static_assert(sizeof(weft_sample_params) == WEFT_SAMPLE_WORDS * 4, "feed layout");
#endif
