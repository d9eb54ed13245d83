/* SPDX-License-Identifier: Apache-2.0
 * Stages of sample that read the history: logit bias and held tokens, penalties, no-repeat n-grams
 * (with the semantics of Hugging Face's processors), and DRY. They touch few tokens. */
#include "kernels/ref/sample.h"

/* Back to logits, for stages that were put behind others. */
static void uncentre(sample_row *s) {
    for (int64_t i = 0; i < s->vocab && s->base != 0; i++)
        s->x[i] += s->base;
    s->base = 0;
    s->state = SAMPLE_RAW;
}

static void sample_hold(const sample_row *s, int64_t from) {
    const weft_sample_args *a = s->a;
    int64_t n = s->p.n_held < a->bias_id.shape[1] - from ? s->p.n_held : a->bias_id.shape[1] - from;
    for (int64_t i = 0; i < n; i++) {
        int32_t id = sample_ints(&a->bias_id, s->p.slot)[(from + i) * a->bias_id.stride[1]];
        if (id >= 0 && id < s->vocab)
            s->x[id] = -INFINITY;
    }
}

void sample_bias(sample_row *s) {
    const weft_sample_args *a = s->a;
    if (!weft_has(&a->bias_id) || !weft_has(&a->bias))
        return;
    int64_t n = s->p.n_bias < a->bias_id.shape[1] ? s->p.n_bias : a->bias_id.shape[1];
    for (int64_t i = 0; i < n; i++) {
        int32_t id = sample_ints(&a->bias_id, s->p.slot)[i * a->bias_id.stride[1]];
        if (id >= 0 && id < s->vocab)
            s->x[id] += ref_get(&a->bias, s->p.slot * a->bias.stride[0] + i * a->bias.stride[1]);
    }
    if (s->p.history_len - s->p.prompt_len < s->p.min_tokens)
        sample_hold(s, n);
}

static bool sample_known(const sample_row *s, int32_t i) {
    return s->history[i] >= 0 && s->history[i] < s->vocab;
}

static void sample_penalise(const sample_row *s, int32_t id, int32_t count) {
    double x = s->x[id], p = s->p.repetition_penalty;
    x = x < 0 ? x * p : x / p;
    x -= (double)count * s->p.frequency_penalty;
    s->x[id] = count > 0 ? x - s->p.presence_penalty : x;
}

/* Each token of the history once: its count of generated ones + 1 says that it was not met yet. */
static void sample_repetition(const sample_row *s) {
    for (int32_t i = 0; i < s->history_len; i++)
        if (sample_known(s, i))
            s->index[s->history[i]] = 1;
    for (int32_t i = s->p.prompt_len < 0 ? 0 : s->p.prompt_len; i < s->history_len; i++)
        if (sample_known(s, i))
            s->index[s->history[i]]++;
    for (int32_t i = 0; i < s->history_len; i++) {
        if (!sample_known(s, i) || s->index[s->history[i]] == 0)
            continue;
        sample_penalise(s, s->history[i], s->index[s->history[i]] - 1);
        s->index[s->history[i]] = 0;
    }
}

/* Masks what would complete an n-gram that the history already holds. */
static void sample_ngrams(const sample_row *s) {
    int64_t n = s->p.no_repeat_ngram, len = s->history_len;
    for (int64_t i = 0; i + n <= len; i++) {
        size_t prefix = (size_t)(n - 1) * sizeof *s->history;
        int32_t next = s->history[i + n - 1];
        if (memcmp(s->history + i, s->history + len - (n - 1), prefix) == 0 && next >= 0 &&
            next < s->vocab)
            s->x[next] = -INFINITY;
    }
}

void sample_penalties(sample_row *s) {
    bool repetition = s->p.repetition_penalty != 1 || s->p.frequency_penalty != 0 ||
                      s->p.presence_penalty != 0;
    if (!repetition && s->p.no_repeat_ngram <= 0)
        return;
    uncentre(s);
    if (repetition)
        sample_repetition(s);
    if (s->p.no_repeat_ngram > 0)
        sample_ngrams(s);
}

/* ---- DRY ---- */

/* The last n tokens of the history, the most recent first, and the breakers. */
typedef struct {
    const int32_t *last; /* token i is last[-i] */
    int32_t n;
    const uint32_t *alone; /* a bit a token, NULL: there are no breakers */
    const int32_t *several;
    int32_t n_several; /* words */
} dry_window;

static dry_window dry_look(const sample_row *s) {
    const weft_tensor *t = &s->a->breaker;
    int32_t n = s->p.dry_last_n;
    dry_window w = {.n = n < 0 || n > s->history_len ? s->history_len : n};
    int64_t bits = (s->vocab + 31) / 32;
    if (w.n > 0)
        w.last = s->history + s->history_len - 1;
    if (!weft_has(t) || t->shape[1] < bits)
        return w;
    w.alone = (const uint32_t *)(const void *)sample_ints(t, s->p.slot);
    w.several = sample_ints(t, s->p.slot) + bits;
    w.n_several = (int32_t)(s->p.n_breaker < t->shape[1] - bits ? s->p.n_breaker
                                                                : t->shape[1] - bits);
    return w;
}

static int32_t dry_token(const sample_row *s, const dry_window *w, int32_t i) {
    int32_t id = w->last[-i];
    return id >= 0 && id < s->vocab ? id : -1;
}

static bool dry_alone(const dry_window *w, int32_t id) {
    return w->alone && (w->alone[id / 32] >> (id & 31) & 1);
}

/* index[first token] = 1 + the place of the first breaker that begins with it. Of the tokens of the
 * window only: nobody asks for others. */
static void dry_index(const sample_row *s, const dry_window *w) {
    int32_t id, before = -1;
    for (int32_t i = 0; i < w->n; i++)
        if ((id = dry_token(s, w, i)) >= 0)
            s->index[id] = 0;
    for (int32_t at = 0; at + 1 < w->n_several; at += 1 + w->several[at]) {
        if (w->several[at] < 1 || w->several[at] > w->n_several - at - 1)
            return;
        id = w->several[at + 1];
        if (id != before && id >= 0 && id < s->vocab)
            s->index[id] = at + 1;
        before = id;
    }
}

/* The breaker at words[0..n) begins i tokens from the end. */
static bool dry_breaks(const dry_window *w, const int32_t *words, int32_t n, int32_t i) {
    for (int32_t k = 0; k < n; k++)
        if (i - k < 0 || w->last[k - i] != words[k])
            return false;
    return true;
}

/* Tokens of the longest breaker that begins i tokens from the end; 0: none does. */
static int32_t dry_breaker(const sample_row *s, const dry_window *w, int32_t i) {
    int32_t id = dry_token(s, w, i), most = 0;
    if (id < 0)
        return 0;
    most = dry_alone(w, id);
    for (int32_t at = s->index[id] - 1; at >= 0 && at + 1 < w->n_several;
         at += 1 + w->several[at]) {
        int32_t n = w->several[at];
        if (n < 1 || n > w->n_several - at - 1 || w->several[at + 1] != id)
            break;
        if (n > most && dry_breaks(w, w->several + at + 1, n, i))
            most = n;
    }
    return most;
}

/* A repetition reaches back to the last breaker and no further. */
static int32_t dry_limit(const sample_row *s, const dry_window *w) {
    if (!w->alone)
        return w->n;
    dry_index(s, w);
    for (int32_t i = 0; i < w->n; i++) {
        int32_t n = dry_breaker(s, w, i);
        if (n > 0)
            return i - (n - 1);
    }
    return w->n;
}

/* match[k]: how many of the last tokens also stand k places earlier (Gusfield's Z-algorithm on the
 * reversed window: the work is linear). */
static void dry_matches(const sample_row *s, const dry_window *w) {
    int32_t *z = s->match, left = 0, right = 0;
    for (int32_t k = 1; k < w->n; k++) {
        int32_t n = 0;
        if (k < right)
            n = z[k - left] < right - k ? z[k - left] : right - k;
        while (k + n < w->n && w->last[-n] == w->last[-(k + n)])
            n++;
        if (k + n > right) {
            left = k;
            right = k + n;
        }
        z[k] = n;
    }
}

/* The exponent stops where fp32 would overflow. */
static double dry_penalty(const sample_row *s, int32_t length) {
    double base = s->p.dry_base, growth = base > 1.000001 ? weft_log(base) : 0;
    double exponent = length - s->p.dry_allowed_length;
    if (growth == 0)
        return s->p.dry_multiplier;
    double most = floor(88.7228391 / growth);
    return s->p.dry_multiplier * weft_exp((exponent < most ? exponent : most) * growth);
}

/* index[t]: the longest repetition that t would continue. */
static void dry_punish(const sample_row *s, const dry_window *w, int32_t limit) {
    int32_t id, least = s->p.dry_allowed_length;
    for (int32_t k = 1; k < w->n; k++)
        if ((id = dry_token(s, w, k - 1)) >= 0)
            s->index[id] = 0;
    for (int32_t k = 1; k < w->n; k++) {
        int32_t n = s->match[k] < limit ? s->match[k] : limit;
        id = dry_token(s, w, k - 1);
        if (id >= 0 && n >= least && n > s->index[id])
            s->index[id] = n;
    }
    for (int32_t k = 1; k < w->n; k++) {
        id = dry_token(s, w, k - 1);
        if (id < 0 || s->index[id] == 0)
            continue;
        if (!dry_alone(w, id))
            s->x[id] -= dry_penalty(s, s->index[id]);
        s->index[id] = 0;
    }
}

void sample_dry(sample_row *s) {
    if (s->p.dry_multiplier == 0 || !(s->p.dry_base >= 1) || s->p.dry_allowed_length < 1)
        return;
    dry_window w = dry_look(s);
    int32_t limit = dry_limit(s, &w);
    if (limit < s->p.dry_allowed_length || w.n <= s->p.dry_allowed_length)
        return;
    uncentre(s);
    dry_matches(s, &w);
    dry_punish(s, &w, limit);
}
