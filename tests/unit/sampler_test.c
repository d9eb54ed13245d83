/* SPDX-License-Identifier: Apache-2.0
 * Every stage of the sampling chain against its paper's or author's definition, written down slowly
 * here: whole sorts, quadratic searches, libm. Random logits, histories, parameters and orders. */
#include "tests/unit/rig.h"

#include "host/model/sampling.h"
#include "weft/rng.h"

enum { V = 90, CONTEXT = 120, CASES = 400 };

/* ---- The chain by definition ---- */

typedef struct {
    double logit[V];
    bool out[V];
    double margin; /* how near a comparison came to going the other way */
} dist;

static void near_to(dist *d, double a, double b) {
    double far = fabs(a - b) / (fabs(a) + fabs(b) + 1e-300);
    if (a != b && far < d->margin)
        d->margin = far;
}

static void probabilities(const dist *d, double *p) {
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++)
        if (!d->out[i] && d->logit[i] > most)
            most = d->logit[i];
    for (int i = 0; i < V; i++)
        sum += p[i] = d->out[i] ? 0 : exp(d->logit[i] - most);
    for (int i = 0; i < V; i++)
        p[i] /= sum;
}

static const double *rank_by;
static int by_descent(const void *x, const void *y) {
    int a = *(const int *)x, b = *(const int *)y;
    double u = rank_by[a], v = rank_by[b];
    return u != v ? (u < v) - (u > v) : a - b;
}

/* Ids of what is left, descending; returns how many. */
static int ranking(const dist *d, const double *key, int *id) {
    int n = 0;
    for (int i = 0; i < V; i++)
        if (!d->out[i])
            id[n++] = i;
    rank_by = key;
    qsort(id, (size_t)n, sizeof *id, by_descent);
    return n;
}

static void define_top_n_sigma(dist *d, double factor) {
    double mean = 0, var = 0, most = -INFINITY;
    int n = 0;
    for (int i = 0; i < V; i++)
        if (!d->out[i]) {
            mean += d->logit[i];
            most = fmax(most, d->logit[i]);
            n++;
        }
    mean /= n;
    for (int i = 0; i < V; i++)
        var += d->out[i] ? 0 : (d->logit[i] - mean) * (d->logit[i] - mean) / n;
    double least = most - factor * sqrt(var);
    for (int i = 0; i < V; i++)
        if (!d->out[i]) {
            near_to(d, d->logit[i], least);
            d->out[i] = d->logit[i] < least;
        }
}

static void define_top_k(dist *d, int k) {
    int id[V], n = ranking(d, d->logit, id);
    if (k <= 0 || k >= n)
        return;
    double least = d->logit[id[k - 1]];
    for (int i = k; i < n; i++) {
        near_to(d, d->logit[id[i]], least);
        d->out[id[i]] = d->logit[id[i]] < least;
    }
}

static void define_top_p(dist *d, double p) {
    double prob[V], sum = 0;
    probabilities(d, prob);
    int id[V], n = ranking(d, prob, id);
    if (p >= 1)
        return;
    for (int i = 0; i < n; i++) {
        near_to(d, sum, p);
        d->out[id[i]] = i > 0 && sum >= p;
        sum += prob[id[i]];
    }
}

static void define_min_p(dist *d, double least) {
    double prob[V], most = 0;
    probabilities(d, prob);
    for (int i = 0; i < V; i++)
        most = fmax(most, prob[i]);
    for (int i = 0; i < V; i++)
        if (!d->out[i]) {
            near_to(d, prob[i], least * most);
            d->out[i] = prob[i] < least * most;
        }
}

static void define_typical(dist *d, double mass) {
    double prob[V], far[V], entropy = 0, sum = 0;
    int id[V];
    if (mass >= 1)
        return;
    probabilities(d, prob);
    for (int i = 0; i < V; i++)
        entropy -= prob[i] > 0 ? prob[i] * log(prob[i]) : 0;
    for (int i = 0; i < V; i++)
        far[i] = d->out[i] ? 0 : -fabs(-log(prob[i]) - entropy);
    int n = ranking(d, far, id);
    for (int i = 0; i < n; i++) {
        near_to(d, sum, mass);
        if (i > 0)
            near_to(d, far[id[i]], far[id[i - 1]]);
        d->out[id[i]] = i > 0 && sum >= mass;
        sum += prob[id[i]];
    }
}

/* Weidmann: "given a threshold, remove all tokens above it except the least probable one". */
static void define_xtc(dist *d, double chance, double threshold, double coin) {
    double prob[V];
    int id[V], above = 0;
    if (coin >= chance || threshold > 0.5)
        return;
    probabilities(d, prob);
    int n = ranking(d, prob, id);
    for (int i = 0; i < n; i++) {
        near_to(d, prob[id[i]], threshold);
        above += prob[id[i]] >= threshold;
    }
    for (int i = 0; i + 1 < above; i++)
        d->out[id[i]] = true;
}

static void define_temperature(dist *d, double t) {
    for (int i = 0; i < V; i++)
        d->logit[i] /= t;
}

static void define_dynatemp(dist *d, double t, double range, double exponent) {
    double prob[V], entropy = 0;
    int n = 0;
    probabilities(d, prob);
    for (int i = 0; i < V; i++) {
        n += !d->out[i];
        entropy -= prob[i] > 0 ? prob[i] * log(prob[i]) : 0;
    }
    double low = fmax(0, t - range), high = t + range;
    define_temperature(d, n < 2 ? t : low + (high - low) * pow(entropy / log(n), exponent));
}

static void define_penalties(dist *d, const int32_t *h, int len, int prompt,
                             const weft_sample_params *p) {
    for (int id = 0; id < V; id++) {
        int seen = 0, made = 0;
        for (int i = 0; i < len; i++) {
            seen += h[i] == id;
            made += h[i] == id && i >= prompt;
        }
        double rep = p->repetition_penalty, *x = &d->logit[id];
        if (seen)
            *x = *x < 0 ? *x * rep : *x / rep;
        *x -= made * (double)p->frequency_penalty + (made > 0) * (double)p->presence_penalty;
    }
}

/* ---- DRY, quadratic ---- */

enum { BREAKERS = 4 };
typedef struct {
    int n, len[BREAKERS];
    int32_t id[BREAKERS][3];
} breaker_set;

static bool stands_at(const int32_t *h, int len, int at, const int32_t *what, int n) {
    return at + n <= len && memcmp(h + at, what, sizeof *h * (size_t)n) == 0;
}

/* Tokens behind the last breaker: the latest that begins, and of those the longest. */
static int free_tail(const int32_t *h, int len, const breaker_set *b) {
    for (int at = len - 1; at >= 0; at--) {
        int most = 0;
        for (int i = 0; i < b->n; i++)
            if (b->len[i] > most && stands_at(h, len, at, b->id[i], b->len[i]))
                most = b->len[i];
        if (most)
            return len - at - most;
    }
    return len;
}

/* The longest match of the end of h with what stands before each occurrence of `id`. */
static int repeats(const int32_t *h, int len, int32_t id, int limit) {
    int most = 0;
    for (int at = 1; at < len; at++) {
        int n = 0;
        while (h[at] == id && n < at && n < limit && h[at - 1 - n] == h[len - 1 - n])
            n++;
        most = n > most ? n : most;
    }
    return most;
}

static void define_dry(dist *d, const int32_t *h, int len, const weft_sample_params *p,
                       const breaker_set *b) {
    int last = p->dry_last_n < 0 || p->dry_last_n > len ? len : p->dry_last_n;
    h += len - last;
    int limit = free_tail(h, last, b);
    for (int32_t id = 0; id < V; id++) {
        bool breaks = false;
        for (int i = 0; i < b->n; i++)
            breaks |= b->len[i] == 1 && b->id[i][0] == id;
        int n = repeats(h, last, id, limit);
        if (n >= p->dry_allowed_length && !breaks)
            d->logit[id] -= p->dry_multiplier * pow(p->dry_base, n - p->dry_allowed_length);
    }
}

/* ---- mirostat: Algorithm 1 of the paper, and its second version ---- */

static void define_mirostat(dist *d, int version, double mu) {
    double prob[V], tb = 0, tt = 0;
    int id[V];
    probabilities(d, prob);
    int n = ranking(d, prob, id);
    if (version == 2) {
        for (int i = 1; i < n; i++) {
            near_to(d, -log2(prob[id[i]]), mu);
            d->out[id[i]] = -log2(prob[id[i]]) > mu;
        }
        return;
    }
    for (int i = 0; i < n - 1 && i < V - 1; i++) {
        double t = log((i + 2.0) / (i + 1.0)), b = log(prob[id[i]] / prob[id[i + 1]]);
        tb += t * b;
        tt += t * t;
    }
    double s = tb / tt, eps = s - 1;
    double k = pow(eps * pow(2, mu) / (1 - pow(V, -eps)), 1 / s);
    near_to(d, k, round(k));
    for (int i = 1; i < n; i++)
        d->out[id[i]] = i >= floor(k);
}

/* ---- One case ---- */

typedef struct {
    float logits[V], probs[V], bias[8], mu[CONTEXT + 2];
    int32_t history[CONTEXT], bias_id[8], id;
    int32_t words[(V + 31) / 32 + SAMPLING_BREAKER_WORDS];
    weft_sample_params p;
    breaker_set breakers;
    weft_args args;
} one;

static uint64_t seed;
static double uniform(double from, double to) {
    return from + (to - from) * random_unit(&seed);
}
static int any(int n) {
    return (int)(next_random(&seed) % (uint64_t)n);
}

static void new_case(one *c) {
    memset(c, 0, sizeof *c);
    double spread = uniform(0.5, 3);
    int alphabet = 2 + any(V - 2);
    for (int i = 0; i < V; i++)
        c->logits[i] = (float)(spread * (double)random_float(&seed));
    for (int i = 0; i < CONTEXT; i++)
        c->history[i] = any(alphabet);
    for (int i = 0; i < CONTEXT + 2; i++)
        c->mu[i] = NAN;
    c->p = (weft_sample_params){.history_len = any(CONTEXT - 1),
                                .seed = {(uint32_t)any(1 << 30), (uint32_t)any(1 << 30)},
                                .stream = {(uint32_t)any(9), 1},
                                .temperature = 1,
                                .top_p = 1,
                                .typical_p = 1,
                                .repetition_penalty = 1,
                                .dry_last_n = -1};
    c->p.prompt_len = any(c->p.history_len + 1);
}

static void sample(one *c) {
    weft_sample_args *a = &c->args.sample;
    a->logits = view(WEFT_F32, c->logits, DIMS(1, V));
    a->params = view(WEFT_I32, &c->p, DIMS(1, WEFT_SAMPLE_WORDS));
    a->bias_id = view(WEFT_I32, c->bias_id, DIMS(1, 8));
    a->bias = view(WEFT_F32, c->bias, DIMS(1, 8));
    a->breaker = view(WEFT_I32, c->words, DIMS(1, COUNT(c->words)));
    a->id = view(WEFT_I32, &c->id, DIMS(1));
    a->probs = view(WEFT_F32, c->probs, DIMS(1, V));
    a->history = view(WEFT_I32, c->history, DIMS(1, CONTEXT));
    a->mu = view(WEFT_F32, c->mu, DIMS(1, CONTEXT + 2));
    run(WEFT_OP_sample, &c->args);
}

static dist begin(const one *c) {
    dist d = {.margin = 1};
    for (int i = 0; i < V; i++)
        d.logit[i] = c->logits[i];
    return d;
}

static int cases, too_near;

/* A comparison that fp64 in another order might decide otherwise proves nothing. */
static bool compare(const char *what, const one *c, const dist *d) {
    double want[V];
    cases++;
    if (d->margin < 1e-11) {
        too_near++;
        return false;
    }
    probabilities(d, want);
    expect_near(what, c->probs, want, V, 1e-6);
    return true;
}

static void finish(int least) {
    assert_true(cases >= least && too_near * 50 <= cases);
    cases = too_near = 0;
}

CASE(top_n_sigma) {
    for (int i = 0; i < CASES; i++) {
        one c;
        new_case(&c);
        c.p.top_n_sigma = (float)uniform(0.05, 3);
        c.p.temperature = (float)uniform(0.3, 2);
        sample(&c);
        dist d = begin(&c);
        define_top_n_sigma(&d, (double)c.p.top_n_sigma);
        define_temperature(&d, (double)c.p.temperature);
        compare("top_n_sigma", &c, &d);
    }
    finish(CASES);
}

CASE(xtc) {
    int applied = 0;
    for (int i = 0; i < CASES; i++) {
        one c;
        new_case(&c);
        c.p.xtc_probability = (float)(i % 3 ? uniform(0, 1) : 1);
        c.p.xtc_threshold = (float)(i % 5 ? uniform(0, 0.2) : uniform(0, 0.6));
        c.p.top_k = i % 2 ? 1 + any(V) : 0;
        sample(&c);
        uint64_t key = c.p.seed[0] | (uint64_t)c.p.seed[1] << 32;
        uint64_t stream = c.p.stream[0] | (uint64_t)c.p.stream[1] << 32;
        weft_philox r = weft_philox4x32(key, stream, (uint64_t)c.p.history_len);
        dist d = begin(&c);
        define_top_k(&d, c.p.top_k);
        define_xtc(&d, (double)c.p.xtc_probability, (double)c.p.xtc_threshold,
                   (r.v[1] >> 8) / 16777216.0);
        for (int k = 0; k < V && c.p.top_k == 0; k++)
            if (d.out[k]) {
                applied++;
                break;
            }
        compare("xtc", &c, &d);
    }
    finish(CASES);
    assert_true(applied > 40);
}

CASE(dynamic_temperature) {
    for (int i = 0; i < CASES; i++) {
        one c;
        new_case(&c);
        c.p.temperature = (float)uniform(0.3, 2);
        c.p.dynatemp_range = (float)uniform(0.1, 2.5);
        c.p.dynatemp_exponent = (float)uniform(0.2, 3);
        sample(&c);
        dist d = begin(&c);
        define_dynatemp(&d, (double)c.p.temperature, (double)c.p.dynatemp_range,
                        (double)c.p.dynatemp_exponent);
        compare("dynatemp", &c, &d);
    }
    finish(CASES);
}

static int by_first_token(const void *a, const void *b) {
    return *(const int32_t *)a - *(const int32_t *)b;
}

static void new_breakers(one *c) {
    int32_t list[BREAKERS][4];
    c->breakers.n = any(BREAKERS + 1);
    for (int i = 0; i < c->breakers.n; i++) {
        memcpy(list[i], c->history + any(CONTEXT - 3), 3 * sizeof **list);
        if (i > 0 && any(2)) /* the same beginning, another length */
            memcpy(list[i], list[i - 1], 3 * sizeof **list);
        list[i][3] = 1 + any(3);
    }
    qsort(list, (size_t)c->breakers.n, sizeof *list, by_first_token);
    for (int i = 0; i < c->breakers.n; i++) {
        c->breakers.len[i] = list[i][3];
        memcpy(c->breakers.id[i], list[i], sizeof c->breakers.id[i]);
        assert_int_equal(sampling_breaker_add(V, list[i], list[i][3], c->words, &c->p.n_breaker),
                         WEFT_OK);
    }
}

static void new_dry(one *c) {
    c->p.dry_multiplier = (float)uniform(0.1, 3);
    c->p.dry_base = (float)uniform(1, 2.5);
    c->p.dry_allowed_length = 1 + any(4);
    c->p.dry_last_n = any(2) ? -1 : any(CONTEXT);
    int period = 2 + any(20); /* chance alone repeats little */
    for (int i = period; i < CONTEXT; i++)
        if (any(12))
            c->history[i] = c->history[i - period];
    new_breakers(c);
}

CASE(dry) {
    int hit = 0;
    for (int i = 0; i < 4 * CASES; i++) {
        one c;
        new_case(&c);
        new_dry(&c);
        sample(&c);
        dist d = begin(&c), before = d;
        define_dry(&d, c.history, c.p.history_len, &c.p, &c.breakers);
        bool changed = false;
        for (size_t k = 0; k < sizeof d.logit / sizeof *d.logit; k++)
            changed |= d.logit[k] < before.logit[k] || d.logit[k] > before.logit[k];
        hit += changed;
        compare("dry", &c, &d);
    }
    finish(CASES);
    assert_true(hit > CASES);
}

/* fp32 would overflow at 1.75^159; the penalty stays a number, and other tokens are left alone. */
CASE(dry_does_not_overflow) {
    one c;
    new_case(&c);
    for (int i = 0; i < CONTEXT; i++)
        c.history[i] = 7;
    c.p.history_len = CONTEXT - 1;
    c.p.dry_multiplier = 5;
    c.p.dry_base = 100;
    c.p.dry_allowed_length = 1;
    sample(&c);
    double rest = 0;
    for (int i = 0; i < V; i++)
        rest += i != 7 ? c.probs[i] : 0;
    assert_true(c.probs[7] == 0 && fabs(rest - 1) < 1e-5);
}

static void mirostat_cases(int version) {
    for (int i = 0; i < CASES; i++) {
        one c;
        new_case(&c);
        c.p.mirostat = version;
        c.p.mirostat_tau = (float)uniform(0.5, 6);
        c.p.mirostat_eta = (float)uniform(0.01, 0.5);
        c.p.temperature = (float)uniform(0.5, 2);
        c.p.top_k = 1; /* mirostat stands in for it */
        double mu = 2 * (double)c.p.mirostat_tau, all[V];
        if (i % 3) {
            int back = any(c.p.history_len + 1); /* not always the last one */
            c.mu[c.p.history_len - back] = (float)uniform(-1, 12);
            mu = c.mu[c.p.history_len - back];
        }
        sample(&c);
        dist d = begin(&c);
        define_temperature(&d, (double)c.p.temperature);
        probabilities(&d, all);
        define_mirostat(&d, version, mu);
        if (!compare("mirostat", &c, &d))
            continue;
        double surprise = -log2(all[c.id]);
        double want = mu - (double)c.p.mirostat_eta * (surprise - (double)c.p.mirostat_tau);
        expect_near("mu", &c.mu[c.p.history_len + 1], &want, 1, 1e-5);
    }
    finish(CASES);
}

CASE(mirostat_1) {
    mirostat_cases(1);
}

CASE(mirostat_2) {
    mirostat_cases(2);
}

/* What it is for: the mean surprise of a long text comes near tau. */
CASE(mirostat_reaches_its_target) {
    for (int version = 1; version <= 2; version++) {
        one c;
        double mean = 0;
        new_case(&c);
        for (int i = 0; i < V; i++)
            c.logits[i] = (float)(-1.1 * log(i + 1.0));
        c.p.mirostat = version;
        c.p.mirostat_tau = 3;
        c.p.mirostat_eta = 0.1f;
        float mu = 6;
        enum { STEPS = 4000 };
        for (int i = 0; i < STEPS; i++) {
            c.p.history_len = 5;
            c.p.seed[0] = (uint32_t)i;
            c.mu[5] = mu;
            sample(&c);
            double z = 0;
            for (int k = 0; k < V; k++)
                z += pow(k + 1.0, -1.1);
            mean -= log2(pow(c.id + 1.0, -1.1) / z) / STEPS;
            mu = c.mu[6];
        }
        assert_true(fabs(mean - 3) < 0.1);
    }
}

CASE(held_tokens) {
    for (int i = 0; i < CASES; i++) {
        one c;
        new_case(&c);
        c.p.n_bias = any(4);
        c.p.n_held = any(4);
        c.p.min_tokens = any(CONTEXT);
        dist d = begin(&c);
        for (int k = 0; k < 8; k++) {
            c.bias_id[k] = k * 11;
            c.bias[k] = (float)uniform(-2, 2);
            if (k < c.p.n_bias)
                d.logit[k * 11] += (double)c.bias[k];
            else if (k < c.p.n_bias + c.p.n_held)
                d.out[k * 11] = c.p.history_len - c.p.prompt_len < c.p.min_tokens;
        }
        sample(&c);
        compare("held", &c, &d);
    }
    finish(CASES);
}

/* ---- The order ---- */

static void define_stage(dist *d, const one *c, int stage) {
    const weft_sample_params *p = &c->p;
    uint64_t key = p->seed[0] | (uint64_t)p->seed[1] << 32;
    uint64_t stream = p->stream[0] | (uint64_t)p->stream[1] << 32;
    weft_philox r = weft_philox4x32(key, stream, (uint64_t)p->history_len);
    switch (stage) {
    case WEFT_STAGE_PENALTIES:
        define_penalties(d, c->history, p->history_len, p->prompt_len, p);
        break;
    case WEFT_STAGE_DRY: define_dry(d, c->history, p->history_len, p, &c->breakers); break;
    case WEFT_STAGE_TOP_N_SIGMA: define_top_n_sigma(d, (double)p->top_n_sigma); break;
    case WEFT_STAGE_TEMPERATURE: define_temperature(d, (double)p->temperature); break;
    case WEFT_STAGE_TOP_K: define_top_k(d, p->top_k); break;
    case WEFT_STAGE_TOP_P: define_top_p(d, (double)p->top_p); break;
    case WEFT_STAGE_MIN_P: define_min_p(d, (double)p->min_p); break;
    case WEFT_STAGE_TYPICAL: define_typical(d, (double)p->typical_p); break;
    default:
        define_xtc(d, (double)p->xtc_probability, (double)p->xtc_threshold,
                   (r.v[1] >> 8) / 16777216.0);
    }
}

static void everything_on(one *c) {
    new_dry(c);
    c->p.repetition_penalty = (float)uniform(0.8, 1.5);
    c->p.frequency_penalty = (float)uniform(-0.2, 0.3);
    c->p.presence_penalty = (float)uniform(-0.2, 0.3);
    c->p.top_n_sigma = (float)uniform(0.8, 3);
    c->p.temperature = (float)uniform(0.4, 2);
    c->p.top_k = 5 + any(V);
    c->p.top_p = (float)uniform(0.5, 1);
    c->p.min_p = (float)uniform(0, 0.05);
    c->p.typical_p = (float)uniform(0.4, 1);
    c->p.xtc_probability = 0.7f;
    c->p.xtc_threshold = (float)uniform(0.01, 0.2);
}

/* Every stage may come at any place, or not at all. An empty order is the default one. */
CASE(any_order) {
    for (int i = 0; i < 8 * CASES; i++) {
        one c;
        uint8_t order[WEFT_STAGES] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
        int n = i % 4 ? 1 + any(WEFT_STAGES - 1) : 0;
        new_case(&c);
        everything_on(&c);
        for (int k = 0; k < WEFT_STAGES - 1 && n > 0; k++) {
            int with = k + any(WEFT_STAGES - 1 - k);
            uint8_t t = order[k];
            order[k] = order[with];
            order[with] = t;
        }
        memcpy(c.p.order, order, (size_t)n);
        sample(&c);
        dist d = begin(&c);
        for (int k = 0; k < (n ? n : WEFT_STAGES - 1); k++)
            define_stage(&d, &c, order[k]);
        compare("order", &c, &d);
    }
    finish(CASES);
}

CASE(temperature_0_takes_the_best_of_what_is_left) {
    for (int i = 0; i < CASES; i++) {
        one c;
        new_case(&c);
        everything_on(&c);
        static const uint8_t order[] = {WEFT_STAGE_TYPICAL, WEFT_STAGE_PENALTIES, WEFT_STAGE_XTC,
                                        WEFT_STAGE_TEMPERATURE, WEFT_STAGE_DRY};
        memcpy(c.p.order, order, sizeof order);
        c.p.temperature = 0;
        sample(&c);
        dist d = begin(&c);
        for (int k = 0; k < 3; k++)
            define_stage(&d, &c, order[k]);
        int id[V];
        ranking(&d, d.logit, id);
        for (int k = 0; k < V; k++)
            d.out[k] = k != id[0];
        compare("greedy", &c, &d);
    }
    finish(CASES);
}

/* ---- Names of stages, breakers of texts ---- */

CASE(names_of_stages) {
    uint8_t o[WEFT_ORDER_BYTES];
    assert_int_equal(sampling_order("k",
                                    "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;"
                                    "temperature",
                                    o),
                     WEFT_OK);
    static const uint8_t want[WEFT_ORDER_BYTES] = {1, 2, 3, 5, 8, 6, 7, 9, 4};
    assert_memory_equal(o, want, sizeof o);
    assert_int_equal(sampling_order("k", "top-k;temp;typical", o), WEFT_OK);
    static const uint8_t other[WEFT_ORDER_BYTES] = {5, 4, 8};
    assert_memory_equal(o, other, sizeof o);
    static const char *const bad[] = {
        "",      ";", "top_k;", ";top_k", "top_k;top-k", "top_k top_p", "temperature;temp",
        "TOP_K", "x"};
    for (int i = 0; i < COUNT(bad); i++)
        assert_int_equal(sampling_order("k", bad[i], o), WEFT_USAGE);
}

static const char vocab_json[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
    "\"trim_offsets\":true,\"use_regex\":false},\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
    "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
    "\"byte_fallback\":false,\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\":\":3,\"ab\":4,\"a:\":5,"
    "\"ca\":6},\"merges\":[\"a b\",\"a :\",\"c a\"]}}";

/* ":" lies in tokens 3 and 5; "abc" may begin in a, ab, and at the end of ca. */
CASE(breakers_of_texts) {
    tokenizer *t;
    int32_t words[1 + SAMPLING_BREAKER_WORDS] = {0}, n = 0;
    static const char *const text[] = {":", "abc"};
    static const int32_t want[] = {3, 0, 1, 2, 2, 4, 2, 3, 6, 1, 2};
    assert_int_equal(tokenizer_open_memory("tokenizer.json", TOK_FILE_JSON, vocab_json,
                                           sizeof vocab_json - 1, &t),
                     WEFT_OK);
    assert_int_equal(sampling_breakers(t, 7, text, 2, words, &n), WEFT_OK);
    assert_int_equal(words[0], 1 << 3 | 1 << 5);
    assert_int_equal(n, COUNT(want));
    assert_memory_equal(words + 1, want, sizeof want);
    static const char *const bad[] = {"", "a\xff", "12345678901234567890123456789012345678901"};
    for (int i = 0; i < COUNT(bad); i++)
        assert_int_equal(sampling_breakers(t, 7, &bad[i], 1, words, &n), WEFT_USAGE);
    tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_n_sigma),
        cmocka_unit_test(xtc),
        cmocka_unit_test(dynamic_temperature),
        cmocka_unit_test(dry),
        cmocka_unit_test(dry_does_not_overflow),
        cmocka_unit_test(mirostat_1),
        cmocka_unit_test(mirostat_2),
        cmocka_unit_test(mirostat_reaches_its_target),
        cmocka_unit_test(held_tokens),
        cmocka_unit_test(any_order),
        cmocka_unit_test(temperature_0_takes_the_best_of_what_is_left),
        cmocka_unit_test(names_of_stages),
        cmocka_unit_test(breakers_of_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
