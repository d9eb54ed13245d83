/* SPDX-License-Identifier: Apache-2.0
 * Stages of sample that cut: temperature, top-n-sigma, top-k, top-p, min-p, typical-p, XTC and
 * mirostat. A stage says what it wants kept, and one piece of code keeps it: everything is inlined,
 * so that each copy of it would be 30 KiB of the kernel. */
#pragma once
#include "kernels/lib/sample_row.cuh"

namespace WEFT_CU_NS {

#define SAMPLE_LN2 0.69314718055994530942

/* Between temperature - range and temperature + range, by the entropy of what is left against the
 * most it could be. */
__device__ static double sample_dynamic(sample_row &r) {
    double t = r.p(&weft_sample_params::temperature);
    double range = r.p(&weft_sample_params::dynatemp_range);
    double exponent = r.p(&weft_sample_params::dynatemp_exponent);
    if (!r.centre())
        return t;
    uint64_t n = r.alive();
    if (n < 2)
        return t;
    uint64_t mass = r.mass();
    double entropy = weft_log((double)mass / WEFT_WEIGHT_ONE) + r.surprise(mass);
    double share = entropy / weft_log((double)n), least = t > range ? t - range : 0;
    double power = exponent == 0 ? 1 : share > 0 ? weft_exp(weft_log(share) * exponent) : 0;
    return least + (t + range - least) * power;
}

__device__ static void sample_temperature(sample_row &r) {
    double t = r.p(&weft_sample_params::temperature), from;
    if (t > 0 && r.p(&weft_sample_params::dynatemp_range) > 0)
        t = sample_dynamic(r);
    r.greedy = !(t > 0);
    if (r.greedy || (t == 1 && r.state == SAMPLE_CENTRED))
        return;
    if (r.best(&from) >= 0)
        r.distances(from, t);
}

/* Above a distance; or of the tokens nearest to a centre so many, or so much of the mass. */
enum sample_how { KEEP_ALL, KEEP_ABOVE, KEEP_COUNT, KEEP_MASS };
struct sample_want {
    int how;
    bool ties;   /* equals of the last one stay */
    double much; /* the distance, or the share of the mass */
    int64_t k;   /* the count */
    double centre;
};

__device__ static void sample_keep(sample_row &r, const sample_want &w) {
    if (w.how == KEEP_ABOVE)
        r.cut_below(w.much);
    else if (w.how != KEEP_ALL)
        r.keep(w.centre, w.how == KEEP_MASS, w.ties, [&](uint64_t total) {
            uint64_t k = (uint64_t)w.k, share = weft_weight_share(w.much, total);
            if (w.how == KEEP_COUNT)
                return total > k ? k : (uint64_t)0;
            return share ? share : (uint64_t)1; /* the first always stays */
        });
}

__device__ static sample_want sample_top_k(const sample_row &r) {
    return {KEEP_COUNT, true, 0, r.p(&weft_sample_params::top_k), 0};
}

__device__ static sample_want sample_top_p(const sample_row &r) {
    return {KEEP_MASS, false, r.p(&weft_sample_params::top_p), 0, 0};
}

__device__ static sample_want sample_min_p(const sample_row &r) {
    double p = r.p(&weft_sample_params::min_p);
    return {KEEP_ABOVE, false, p < 1 ? weft_log(p) : 0.0, 0, 0};
}

__device__ static sample_want sample_typical(const sample_row &r) {
    return {KEEP_MASS, true, r.p(&weft_sample_params::typical_p), 0, -r.surprise(r.mass())};
}

__device__ static sample_want sample_top_n_sigma(const sample_row &r) {
    double worst = 0, n_sigma = r.p(&weft_sample_params::top_n_sigma);
    uint64_t sum = 0, squares = 0;
    r.each([&](int64_t, double v) { worst = v < -worst ? -v : worst; });
    worst = r.all_max(worst);
    if (worst == 0)
        return {KEEP_ALL, false, 0, 0, 0};
    double n = (double)r.alive(), scale = weft_fixed_scale(worst);
    r.each([&](int64_t, double v) { sum += weft_fixed(-v * scale); });
    double mean = (double)r.all_sum(sum) / n;
    r.each([&](int64_t, double v) {
        double d = (-v * scale - mean) * 0x1p-22;
        squares += weft_fixed(d * d);
    });
    double sigma = sqrt((double)r.all_sum(squares) / n) * 0x1p22 / scale;
    return {KEEP_ABOVE, false, -n_sigma * sigma, 0, 0};
}

/* The coin, thrown only where heads would mean something. */
__device__ static bool xtc_wanted(const sample_row &r) {
    float probability = r.p(&weft_sample_params::xtc_probability);
    return probability > 0 && !(r.p(&weft_sample_params::xtc_threshold) > 0.5f) &&
           weft_philox_uniform(r.random(1)) < probability;
}

/* Of the tokens that weigh the threshold or more, all go but the lightest (of equals the highest
 * id). */
__device__ static void sample_xtc(sample_row &r) {
    float threshold = r.p(&weft_sample_params::xtc_threshold);
    uint64_t least = weft_weight_share(threshold, r.mass()), id = 0;
    double lightest = -INFINITY; /* as a distance above 0, so that the largest is wanted */
    r.each([&](int64_t, double v) {
        if (weft_weight(v) >= least)
            lightest = -v > lightest ? -v : lightest;
    });
    lightest = r.all_max(lightest);
    if (lightest == -INFINITY)
        return;
    r.each([&](int64_t j, double v) {
        uint64_t i = (uint64_t)(uint32_t)r.id_of(j) + 1;
        id = -v == lightest && i > id ? i : id;
    });
    id = r.all(id, [](uint64_t b, uint64_t c) { return b > c ? b : c; }) - 1;
    r.cut([&](int64_t j, double v) { return -v > lightest || r.id_of(j) == (int32_t)id; });
    r.state = SAMPLE_LOOSE;
    r.centre();
}

/* ---- mirostat ---- */

/* The last known mu up to this position. */
__device__ static double mirostat_mu(const sample_row &r) {
    const weft_tensor &t = r.a.mu;
    double start = 2 * (double)r.p(&weft_sample_params::mirostat_tau);
    if (!weft_has(&t))
        return start;
    const float *mu = (const float *)t.data + r.p(&weft_sample_params::slot) * t.stride[0];
    int64_t most = r.p(&weft_sample_params::history_len);
    most = most < t.shape[1] ? most : t.shape[1] - 1;
    for (int64_t from = most; from >= 0; from -= SAMPLE_THREADS) {
        int64_t i = from - (int64_t)threadIdx.x;
        float v = i >= 0 ? ld_global(mu + i * t.stride[1]) : NAN;
        uint64_t back = r.all_min(v == v ? (uint64_t)(most - i) : UINT64_MAX);
        if (back != UINT64_MAX)
            return (double)ld_global(mu + (most - (int64_t)back) * t.stride[1]);
    }
    return start;
}

/* The least-squares slope of log p over log rank of n tokens; 0 if there is nothing to fit. */
__device__ static double zipf_slope(const sample_row &r, int n) {
    double tb = 0, tt = 0;
    for (int i = 0; i + 1 < n; i++) {
        double t = weft_log((double)(i + 2) / (double)(i + 1));
        double x = -weft_bits_f64(ld_shared(&r.s.weight[i]));
        double next = -weft_bits_f64(ld_shared(&r.s.weight[i + 1]));
        tb += t * (x - next);
        tt += t * t;
    }
    return tt > 0 ? tb / tt : 0;
}

/* Of the 100 best. */
__device__ static double zipf_exponent(const sample_row &r) {
    const int tokens = 100;
    uint64_t alive = r.alive();
    int n = alive < (uint64_t)tokens ? (int)alive : tokens;
    sample_place last = r.select(0, false, (uint64_t)n);
    int m = r.few(0, false, [&](uint64_t key) { return key < last.key; });
    /* Sorted into weight[]; those equal to the last, which may be many, follow. */
    uint64_t rank = (int)threadIdx.x < m ? r.before((int)threadIdx.x, m) : threadIdx.x;
    uint64_t key = (int)threadIdx.x < m ? ld_shared(&r.s.key[threadIdx.x]) : last.key;
    __syncthreads();
    if ((int)threadIdx.x < n)
        st_shared(&r.s.weight[rank], key);
    __syncthreads();
    if (threadIdx.x == 0)
        st_shared(&r.s.found[0], weft_f64_bits(zipf_slope(r, n)));
    __syncthreads();
    return weft_bits_f64(ld_shared(&r.s.found[0]));
}

/* k = (eps 2^mu / (1 - V^-eps))^(1/s), eps = s - 1; its logarithm, because k may be anything. */
__device__ static int64_t zipf_k(const sample_row &r, double exponent, double mu) {
    double eps = exponent - 1, v = weft_log((double)r.vocab);
    double ratio = fabs(eps * v) < 1e-9 ? 1 / v : eps / (1 - weft_exp(-eps * v));
    double k = (weft_log(ratio) + mu * SAMPLE_LN2) / exponent;
    if (!(k < v))
        return r.vocab;
    return k > 0 ? (int64_t)weft_exp(k) : 1;
}

struct sample_miro {
    double mu;
    uint64_t mass; /* of all tokens, before the cut */
};

__device__ static sample_want sample_mirostat(const sample_row &r, sample_miro &m) {
    m = {mirostat_mu(r), r.mass()};
    if (r.p(&weft_sample_params::mirostat) == 1) {
        int64_t k = zipf_k(r, zipf_exponent(r), m.mu);
        return {k < r.vocab ? KEEP_COUNT : KEEP_ALL, false, 0, k, 0};
    }
    double least = weft_log((double)m.mass / WEFT_WEIGHT_ONE) - m.mu * SAMPLE_LN2;
    return {KEEP_ABOVE, false, least > 0 ? 0.0 : least, 0, 0};
}

__device__ static void sample_mirostat_learn(const sample_row &r, const sample_miro &m,
                                             uint64_t weight) {
    const weft_tensor &t = r.a.mu;
    int64_t i = (int64_t)r.p(&weft_sample_params::history_len) + 1;
    double surprise = weft_log((double)m.mass / (double)weight) / SAMPLE_LN2;
    double eta = r.p(&weft_sample_params::mirostat_eta);
    if (threadIdx.x == 0 && weft_has(&t) && i < t.shape[1])
        st_global(
            (float *)t.data + r.p(&weft_sample_params::slot) * t.stride[0] + i * t.stride[1],
            (float)(m.mu - eta * (surprise - (double)r.p(&weft_sample_params::mirostat_tau))));
}

} // namespace WEFT_CU_NS
