/* SPDX-License-Identifier: Apache-2.0
 * Stages of sample that read the history: logit bias and held tokens, penalties, no-repeat n-grams,
 * DRY. A thread takes places of the history; a token that stands there often is changed by the one
 * thread that takes its number out of `index`. */
#pragma once
#include "kernels/lib/sample_row.cuh"

namespace WEFT_CU_NS {

/* Back to logits, in a place where single tokens can be changed. */
__device__ static void sample_uncentre(sample_row &r) {
    r.spread();
    if (r.base != 0) {
        r.each([&](int64_t j, double v) { r.set(j, v + r.base); });
        __syncthreads();
    }
    r.base = 0;
    r.state = SAMPLE_RAW;
}

template <class F> __device__ static void sample_change(const sample_row &r, int32_t id, F f) {
    int64_t j = r.place_of(id);
    if (j >= 0)
        r.set(j, f(r.value(j)));
}

/* Entry i of the slot's bias list; -1: not a token. */
__device__ static int32_t bias_token(const sample_row &r, int64_t i) {
    const weft_tensor &t = r.a.bias_id;
    int32_t id = ld_const(sample_ints(t, r.p(&weft_sample_params::slot)) + i * t.stride[1]);
    return id >= 0 && id < r.vocab ? id : -1;
}

/* The first entry of a token adds all of that token's, in order. */
__device__ static void bias_add(const sample_row &r, int64_t i, int64_t n) {
    const weft_tensor &t = r.a.bias;
    int64_t slot = r.p(&weft_sample_params::slot);
    int32_t id = bias_token(r, i);
    for (int64_t k = 0; k < i; k++)
        if (bias_token(r, k) == id)
            return;
    sample_change(r, id, [&](double v) {
        for (int64_t k = i; k < n; k++)
            if (bias_token(r, k) == id)
                v += (double)load1(t, slot * t.stride[0] + k * t.stride[1]);
        return v;
    });
}

__device__ static void sample_bias(sample_row &r) {
    if (!weft_has(&r.a.bias_id) || !weft_has(&r.a.bias))
        return;
    int64_t room = r.a.bias_id.shape[1], n = r.p(&weft_sample_params::n_bias), held = 0;
    n = n < room ? n : room;
    if (r.p(&weft_sample_params::history_len) - r.p(&weft_sample_params::prompt_len) <
        r.p(&weft_sample_params::min_tokens))
        held = r.p(&weft_sample_params::n_held);
    held = held < room - n ? held : room - n;
    if (n <= 0 && held <= 0)
        return;
    r.spread();
    for (int64_t i = threadIdx.x; i < n; i += SAMPLE_THREADS)
        if (bias_token(r, i) >= 0)
            bias_add(r, i, n);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < held; i += SAMPLE_THREADS)
        if (bias_token(r, n + i) >= 0)
            r.set(bias_token(r, n + i), -INFINITY);
    __syncthreads();
}

/* ---- penalties ---- */

__device__ static int32_t history_token(const sample_row &r, int32_t i) {
    int32_t id = ld_global(r.history + i);
    return id >= 0 && id < r.vocab ? id : -1;
}

__device__ static double penalised(const sample_row &r, double x, int32_t count) {
    double p = r.p(&weft_sample_params::repetition_penalty);
    x = x < 0 ? x * p : x / p;
    x -= (double)count * (double)r.p(&weft_sample_params::frequency_penalty);
    return count > 0 ? x - (double)r.p(&weft_sample_params::presence_penalty) : x;
}

/* A token's number: 1 for being there and 1 for each time it was generated. */
__device__ static void sample_repetition(const sample_row &r) {
    int32_t id, prompt = r.p(&weft_sample_params::prompt_len);
    for (int32_t i = threadIdx.x; i < r.history_len; i += SAMPLE_THREADS)
        if ((id = history_token(r, i)) >= 0)
            st_global(r.index + id, 1u);
    __syncthreads();
    for (int32_t i = threadIdx.x; i < r.history_len; i += SAMPLE_THREADS)
        if (i >= prompt && (id = history_token(r, i)) >= 0)
            atomicAdd(r.index + id, 1u);
    __syncthreads();
    for (int32_t i = threadIdx.x; i < r.history_len; i += SAMPLE_THREADS) {
        uint32_t number = (id = history_token(r, i)) >= 0 ? atomicExch(r.index + id, 0u) : 0;
        if (number)
            sample_change(r, id, [&](double v) { return penalised(r, v, (int32_t)number - 1); });
    }
    __syncthreads();
}

/* Masks what would complete an n-gram that the history already holds. */
__device__ static void sample_ngrams(const sample_row &r) {
    int64_t n = r.p(&weft_sample_params::no_repeat_ngram), len = r.history_len;
    for (int64_t i = threadIdx.x; i + n <= len; i += SAMPLE_THREADS) {
        int64_t k = 0;
        while (k < n - 1 &&
               ld_global(r.history + i + k) == ld_global(r.history + len - (n - 1) + k))
            k++;
        int32_t next = history_token(r, (int32_t)(i + n - 1));
        if (k == n - 1 && next >= 0)
            sample_change(r, next, [](double) { return -INFINITY; });
    }
    __syncthreads();
}

__device__ static void sample_penalties(sample_row &r) {
    bool repetition = r.p(&weft_sample_params::repetition_penalty) != 1 ||
                      r.p(&weft_sample_params::frequency_penalty) != 0 ||
                      r.p(&weft_sample_params::presence_penalty) != 0;
    bool ngrams = r.p(&weft_sample_params::no_repeat_ngram) > 0;
    if (!repetition && !ngrams)
        return;
    sample_uncentre(r);
    if (repetition)
        sample_repetition(r);
    if (ngrams)
        sample_ngrams(r);
}

/* ---- DRY ---- */

/* The last n tokens of the history, the most recent first, and the breakers: a bit a token for
 * those of one, then n_several words. Where they lie is asked anew: of a pointer that may be NULL
 * the compiler does not know that it is global. */
struct dry_window {
    int32_t n, n_several;
    bool stops; /* false: there are no breakers */
};

__device__ static dry_window dry_look(const sample_row &r) {
    const weft_tensor &t = r.a.breaker;
    int32_t n = r.p(&weft_sample_params::dry_last_n);
    dry_window w = {n < 0 || n > r.history_len ? r.history_len : n, 0, false};
    int64_t bits = (r.vocab + 31) / 32, words = r.p(&weft_sample_params::n_breaker);
    if (!weft_has(&t) || t.shape[1] < bits)
        return w;
    w.stops = true;
    w.n_several = (int32_t)(words < t.shape[1] - bits ? words : t.shape[1] - bits);
    return w;
}

__device__ static int32_t dry_raw(const sample_row &r, int32_t i) {
    return ld_global(r.history + (r.history_len - 1 - i));
}

__device__ static int32_t dry_token(const sample_row &r, int32_t i) {
    int32_t id = dry_raw(r, i);
    return id >= 0 && id < r.vocab ? id : -1;
}

/* Word i of the breakers. */
__device__ static int32_t dry_word(const sample_row &r, int64_t i) {
    return ld_const(sample_ints(r.a.breaker, r.p(&weft_sample_params::slot)) + i);
}

__device__ static bool dry_alone(const sample_row &r, const dry_window &w, int32_t id) {
    return w.stops && ((uint32_t)dry_word(r, id / 32) >> (id & 31) & 1);
}

/* The breaker of n words from word `at` on begins i tokens from the end. */
__device__ static bool dry_breaks(const sample_row &r, int64_t at, int32_t n, int32_t i) {
    for (int32_t k = 0; k < n; k++)
        if (i - k < 0 || dry_raw(r, i - k) != dry_word(r, at + k))
            return false;
    return true;
}

/* Tokens of the longest breaker that begins i tokens from the end; 0: none does. */
__device__ static int32_t dry_breaker(const sample_row &r, const dry_window &w, int32_t i) {
    int32_t id = dry_token(r, i), most = 0;
    int64_t bits = (r.vocab + 31) / 32;
    if (id < 0)
        return 0;
    most = dry_alone(r, w, id);
    for (int32_t at = 0, n; at + 1 < w.n_several; at += 1 + n) {
        n = dry_word(r, bits + at);
        if (n < 1 || n > w.n_several - at - 1)
            break;
        if (n > most && dry_word(r, bits + at + 1) == id && dry_breaks(r, bits + at + 1, n, i))
            most = n;
    }
    return most;
}

/* A repetition reaches back to the last breaker and no further. */
__device__ static int32_t dry_limit(const sample_row &r, const dry_window &w) {
    if (!w.stops)
        return w.n;
    for (int32_t from = 0; from < w.n; from += SAMPLE_THREADS) {
        int32_t i = from + (int32_t)threadIdx.x, n = i < w.n ? dry_breaker(r, w, i) : 0;
        uint64_t first = r.all_min(n > 0 ? (uint64_t)i << 32 | (uint32_t)n : UINT64_MAX);
        if (first != UINT64_MAX)
            return (int32_t)(first >> 32) - ((int32_t)(first & 0xffffffff) - 1);
    }
    return w.n;
}

/* The exponent stops where fp32 would overflow. */
__device__ static double dry_penalty(const sample_row &r, int32_t length) {
    double base = r.p(&weft_sample_params::dry_base);
    double multiplier = r.p(&weft_sample_params::dry_multiplier);
    double growth = base > 1.000001 ? weft_log(base) : 0;
    double exponent = length - r.p(&weft_sample_params::dry_allowed_length);
    if (growth == 0)
        return multiplier;
    double most = floor(88.7228391 / growth);
    return multiplier * weft_exp((exponent < most ? exponent : most) * growth);
}

/* How many of the last tokens also stand k places earlier, `limit` at most. */
__device__ static int32_t dry_match(const sample_row &r, const dry_window &w, int32_t k,
                                    int32_t limit) {
    int32_t n = 0;
    while (n < limit && k + n < w.n && dry_raw(r, n) == dry_raw(r, k + n))
        n++;
    return n;
}

/* index[t]: the longest repetition that t would continue. */
__device__ static void dry_punish(const sample_row &r, const dry_window &w, int32_t limit) {
    int32_t id, least = r.p(&weft_sample_params::dry_allowed_length);
    for (int32_t k = 1 + (int32_t)threadIdx.x; k < w.n; k += SAMPLE_THREADS)
        if ((id = dry_token(r, k - 1)) >= 0)
            st_global(r.index + id, 0u);
    __syncthreads();
    for (int32_t k = 1 + (int32_t)threadIdx.x; k < w.n; k += SAMPLE_THREADS) {
        int32_t n = (id = dry_token(r, k - 1)) >= 0 ? dry_match(r, w, k, limit) : 0;
        if (n >= least && id >= 0)
            atomicMax(r.index + id, (uint32_t)n);
    }
    __syncthreads();
    for (int32_t k = 1 + (int32_t)threadIdx.x; k < w.n; k += SAMPLE_THREADS) {
        uint32_t n = (id = dry_token(r, k - 1)) >= 0 ? atomicExch(r.index + id, 0u) : 0;
        if (n && !dry_alone(r, w, id))
            sample_change(r, id, [&](double v) { return v - dry_penalty(r, (int32_t)n); });
    }
    __syncthreads();
}

__device__ static void sample_dry(sample_row &r) {
    int32_t allowed = r.p(&weft_sample_params::dry_allowed_length);
    if (r.p(&weft_sample_params::dry_multiplier) == 0 ||
        !(r.p(&weft_sample_params::dry_base) >= 1) || allowed < 1)
        return;
    dry_window w = dry_look(r);
    int32_t limit = dry_limit(r, w);
    if (limit < allowed || w.n <= allowed)
        return;
    sample_uncentre(r);
    dry_punish(r, w, limit);
}

} // namespace WEFT_CU_NS
