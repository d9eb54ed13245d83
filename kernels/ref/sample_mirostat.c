/* SPDX-License-Identifier: Apache-2.0
 * mirostat (Basu et al., "Mirostat: a neural text decoding algorithm that directly controls
 * perplexity", 2020): tokens are cut so that the surprise of what is drawn stays near tau. Version
 * 1 estimates Zipf's exponent and keeps the k best, version 2 cuts at a surprise of mu. */
#include "kernels/ref/sample.h"

#define LN2 0.69314718055994530942

enum { ZIPF_TOKENS = 100 };

static double mirostat_mu(const sample_row *s) {
    const weft_tensor *t = &s->a->mu;
    double start = 2 * (double)s->p.mirostat_tau;
    if (!weft_has(t))
        return start;
    int64_t i = s->p.history_len < t->shape[1] ? s->p.history_len : t->shape[1] - 1;
    for (; i >= 0; i--) {
        double mu = ref_get(t, s->p.slot * t->stride[0] + i * t->stride[1]);
        if (mu == mu)
            return mu;
    }
    return start;
}

/* The least-squares slope of log p over log rank; 0 if there is nothing to fit. */
static double zipf_exponent(sample_row *s) {
    int32_t id[ZIPF_TOKENS];
    int64_t n = sample_first(s, ZIPF_TOKENS, id);
    double tb = 0, tt = 0;
    for (int64_t i = 0; i + 1 < n; i++) {
        double t = weft_log((double)(i + 2) / (double)(i + 1));
        tb += t * (s->x[id[i]] - s->x[id[i + 1]]);
        tt += t * t;
    }
    return tt > 0 ? tb / tt : 0;
}

/* k = (eps 2^mu / (1 - V^-eps))^(1/s), eps = s - 1; its logarithm, because k may be anything. */
static int64_t zipf_k(const sample_row *s, double exponent, double mu) {
    double eps = exponent - 1, v = weft_log((double)s->vocab);
    double ratio = fabs(eps * v) < 1e-9 ? 1 / v : eps / (1 - weft_exp(-eps * v));
    double k = (weft_log(ratio) + mu * LN2) / exponent;
    if (!(k < v))
        return s->vocab;
    return k > 0 ? (int64_t)weft_exp(k) : 1;
}

sample_miro sample_mirostat_cut(sample_row *s) {
    sample_miro m = {mirostat_mu(s), sample_mass(s)};
    if (s->p.mirostat == 1) {
        sample_keep(s, zipf_k(s, zipf_exponent(s), m.mu));
        return m;
    }
    double least = weft_log((double)m.mass / WEFT_WEIGHT_ONE) - m.mu * LN2;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] < least && s->x[i] < 0)
            s->x[i] = -INFINITY;
    return m;
}

/* The surprise is what the model said, before the cut. */
void sample_mirostat_learn(const sample_row *s, const sample_miro *m, uint64_t weight) {
    const weft_tensor *t = &s->a->mu;
    int64_t i = (int64_t)s->p.history_len + 1;
    double surprise = weft_log((double)m->mass / (double)weight) / LN2;
    if (weft_has(t) && i < t->shape[1])
        ref_put(t, s->p.slot * t->stride[0] + i * t->stride[1],
                m->mu - s->p.mirostat_eta * (surprise - s->p.mirostat_tau));
}
