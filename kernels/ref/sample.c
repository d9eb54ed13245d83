/* SPDX-License-Identifier: Apache-2.0
 * sample: the chain of docs/SAMPLING.md, then a draw. A row is one worker's. The stages are in
 * sample_history.c, sample_filter.c and sample_mirostat.c; here are their order, temperature, the
 * draw and what is reported. */
#include "kernels/ref/sample.h"
#include "weft/rng.h"

typedef struct {
    const weft_sample_args *a;
    char *scratch;
    int64_t row0;
} sample_group;

size_t sample_shard_scratch(const weft_sample_args *a, int64_t vocab) {
    int64_t history = weft_has(&a->history) ? a->history.shape[1] : 0;
    return (size_t)((vocab * 12 + history * 4 + 63) / 64 * 64);
}

static int64_t sample_slot_bytes(const weft_sample_args *a) {
    return (int64_t)sample_shard_scratch(a, a->logits.shape[1]);
}

size_t ref_sample_scratch(const weft_args *args) {
    int64_t rows = args->sample.logits.shape[0];
    return (size_t)((rows < SAMPLE_SLOTS ? rows : SAMPLE_SLOTS) * sample_slot_bytes(&args->sample));
}

int ref_sample_ok(const weft_args *args) {
    const weft_sample_args *a = &args->sample;
    return ref_is_float(&a->logits) && a->params.dtype == WEFT_I32 &&
           a->params.shape[1] == WEFT_SAMPLE_WORDS && a->params.stride[1] == 1 &&
           (!weft_has(&a->breaker) || a->breaker.stride[1] == 1) &&
           ref_is_float_or_absent(&a->bias) && ref_is_float_or_absent(&a->mu) &&
           ref_is_float_or_absent(&a->probs) && ref_is_float_or_absent(&a->logprob) &&
           ref_is_float_or_absent(&a->top_logprob);
}

/* ---- what stages share ---- */

int32_t sample_best(const sample_row *s) {
    int32_t best = -1;
    double most = -INFINITY;
    for (int64_t i = 0; i < s->vocab; i++) {
        s->x[i] = s->x[i] != s->x[i] ? -INFINITY : s->x[i];
        if (s->x[i] > most) {
            most = s->x[i];
            best = (int32_t)i;
        }
    }
    return best;
}

/* Distances before the scaling: a tiny temperature cannot overflow what counts. The product with
 * the reciprocal, once, is the division's definition here. */
double sample_distance(double x, double most, double inverse) {
    return x == most ? 0.0 : (x - most) * inverse;
}

void sample_scale(sample_row *s, double most, double temperature) {
    double inverse = 1 / temperature;
    for (int64_t i = 0; i < s->vocab; i++)
        s->x[i] = sample_distance(s->x[i], most, inverse);
    s->base = (s->base + most) / temperature;
    s->state = SAMPLE_CENTRED;
}

bool sample_centre(sample_row *s) {
    if (s->state == SAMPLE_CENTRED)
        return true;
    int32_t best = sample_best(s);
    if (best >= 0)
        sample_scale(s, s->x[best], 1);
    return best >= 0;
}

uint64_t sample_mass(const sample_row *s) {
    uint64_t mass = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        mass += weft_weight(s->x[i]);
    return mass;
}

double sample_surprise(const sample_row *s, uint64_t mass) {
    uint64_t sum = 0, weight;
    for (int64_t i = 0; i < s->vocab; i++)
        if ((weight = weft_weight(s->x[i])) > 0)
            sum += weft_fixed((double)weight * -s->x[i]);
    return (double)sum / (double)mass;
}

uint32_t sample_random(const sample_row *s, int lane) {
    uint64_t seed = s->p.seed[0] | (uint64_t)s->p.seed[1] << 32;
    uint64_t stream = s->p.stream[0] | (uint64_t)s->p.stream[1] << 32;
    return weft_philox4x32(seed, stream, (uint64_t)s->p.history_len).v[lane];
}

/* ---- temperature ---- */

/* Between temperature - range and temperature + range, by the entropy of what is left against the
 * most it could be. */
static double sample_dynamic(sample_row *s) {
    double t = s->p.temperature, range = s->p.dynatemp_range;
    int64_t n = 0;
    if (!sample_centre(s))
        return t;
    for (int64_t i = 0; i < s->vocab; i++)
        n += s->x[i] > -INFINITY;
    if (n < 2)
        return t;
    uint64_t mass = sample_mass(s);
    double entropy = weft_log((double)mass / WEFT_WEIGHT_ONE) + sample_surprise(s, mass);
    double share = entropy / weft_log((double)n), least = t > range ? t - range : 0;
    double power = s->p.dynatemp_exponent == 0 ? 1
                   : share > 0                 ? weft_exp(weft_log(share) * s->p.dynatemp_exponent)
                                               : 0;
    return least + (t + range - least) * power;
}

static void sample_temperature(sample_row *s) {
    double t = s->p.temperature;
    if (t > 0 && s->p.dynatemp_range > 0)
        t = sample_dynamic(s);
    s->greedy = !(t > 0);
    if (s->greedy || (t == 1 && s->state == SAMPLE_CENTRED))
        return;
    int32_t best = sample_best(s);
    if (best >= 0)
        sample_scale(s, s->x[best], t);
}

/* ---- the chain ---- */

static const struct {
    void (*run)(sample_row *);
    bool cuts; /* mirostat stands in for it */
} sample_stages[WEFT_STAGES] = {
    [WEFT_STAGE_PENALTIES] = {sample_penalties, false},
    [WEFT_STAGE_DRY] = {sample_dry, false},
    [WEFT_STAGE_TOP_N_SIGMA] = {sample_top_n_sigma, true},
    [WEFT_STAGE_TEMPERATURE] = {sample_temperature, false},
    [WEFT_STAGE_TOP_K] = {sample_top_k, true},
    [WEFT_STAGE_TOP_P] = {sample_top_p, true},
    [WEFT_STAGE_MIN_P] = {sample_min_p, true},
    [WEFT_STAGE_TYPICAL] = {sample_typical, true},
    [WEFT_STAGE_XTC] = {sample_xtc, true},
};

int sample_order(const sample_row *s, int i) {
    int stage = i >= WEFT_STAGES - 1 ? WEFT_STAGE_END : s->p.order[0] ? s->p.order[i] : i + 1;
    return stage < WEFT_STAGES ? stage : WEFT_STAGE_END;
}

void sample_stage(sample_row *s, int stage) {
    if (!s->p.mirostat || !sample_stages[stage].cuts)
        sample_stages[stage].run(s);
}

static void sample_chain(sample_row *s) {
    for (int i = 0, stage; !s->greedy && (stage = sample_order(s, i)) != WEFT_STAGE_END; i++)
        sample_stage(s, stage);
}

/* Inverse of the weights' running sum, ids ascending. */
int32_t sample_draw(const sample_row *s, uint64_t *total) {
    uint64_t sum = 0, at;
    int32_t id = -1;
    *total = sample_mass(s);
    at = weft_weight_draw(sample_random(s, 0), *total);
    while (sum <= at)
        sum += weft_weight(s->x[++id]);
    return id;
}

static int32_t sample_mirostat(sample_row *s, uint64_t *total) {
    sample_miro m = sample_mirostat_cut(s);
    int32_t id = sample_draw(s, total);
    sample_mirostat_learn(s, &m, weft_weight(s->x[id]));
    return id;
}

/* Chooses the token. What is left of x weighs `total`; if that is 0, only the token does. */
static int32_t sample_choose(sample_row *s, uint64_t *total) {
    const weft_tensor *t = &s->a->logits;
    ref_load(t, s->row * t->stride[0], t->stride[1], s->vocab, s->x);
    sample_bias(s);
    sample_chain(s);
    *total = 0;
    if (s->greedy || !sample_centre(s))
        return sample_best(s);
    return s->p.mirostat ? sample_mirostat(s, total) : sample_draw(s, total);
}

static void sample_probs(const sample_row *s, int32_t id, uint64_t total) {
    const weft_tensor *t = &s->a->probs;
    for (int64_t i = 0; i < s->vocab; i++) {
        double p = i == id;
        if (total)
            p = (double)weft_weight(s->x[i]) / (double)total;
        ref_put(t, s->row * t->stride[0] + i * t->stride[1], p);
    }
}

/* ---- what is reported of the raw logits ---- */

void sample_add_mass(uint64_t sum[2], double x, double most) {
    if (!(x > -INFINITY))
        return;
    uint64_t v = x == most ? (uint64_t)1 << 60 : (uint64_t)(weft_exp(x - most) * 0x1p60);
    sum[0] += v;
    sum[1] += sum[0] < v;
}

double sample_log_sum(const uint64_t sum[2]) {
    return weft_log((double)sum[1] * 0x1p4 + (double)sum[0] * 0x1p-60);
}

/* Largest logit and the logarithm of the mass relative to it; NaN does not count. */
static double sample_log_mass(const weft_sample_args *a, int64_t row, double *most) {
    int64_t x = row * a->logits.stride[0], step = a->logits.stride[1];
    uint64_t mass[2] = {0, 0};
    *most = -INFINITY;
    for (int64_t i = 0; i < a->logits.shape[1]; i++) {
        double v = ref_get(&a->logits, x + i * step);
        *most = v > *most ? v : *most;
    }
    for (int64_t i = 0; i < a->logits.shape[1]; i++)
        sample_add_mass(mass, ref_get(&a->logits, x + i * step), *most);
    return sample_log_sum(mass);
}

/* The n largest logits, descending, ties to the lower id; returns how many there are. */
static int sample_top(const weft_sample_args *a, int64_t row, int n, int32_t *id) {
    int64_t x = row * a->logits.stride[0], step = a->logits.stride[1];
    double v[WEFT_TOP_LOGPROBS];
    int found = 0;
    for (int64_t i = 0; i < a->logits.shape[1] && n > 0; i++) {
        double u = ref_get(&a->logits, x + i * step);
        if (!(u > (found < n ? -INFINITY : v[n - 1])))
            continue;
        int at = found < n ? found++ : n - 1;
        for (; at > 0 && u > v[at - 1]; at--) {
            v[at] = v[at - 1];
            id[at] = id[at - 1];
        }
        v[at] = u;
        id[at] = (int32_t)i;
    }
    return found;
}

static double sample_logprob(const weft_sample_args *a, int64_t row, int32_t id, double most,
                             double log_mass) {
    if (id < 0)
        return -INFINITY;
    double v = ref_get(&a->logits, row * a->logits.stride[0] + id * a->logits.stride[1]);
    return (v == most ? 0.0 : v - most) - log_mass;
}

static void sample_report(const sample_row *s, int32_t id) {
    const weft_sample_args *a = s->a;
    int32_t top[WEFT_TOP_LOGPROBS];
    int64_t slots = weft_has(&a->top_id)        ? a->top_id.shape[1]
                    : weft_has(&a->top_logprob) ? a->top_logprob.shape[1]
                                                : 0;
    int n = s->p.n_top < WEFT_TOP_LOGPROBS ? s->p.n_top : WEFT_TOP_LOGPROBS;
    if (!weft_has(&a->logprob) && (slots == 0 || n <= 0))
        return;
    double most, log_mass = sample_log_mass(a, s->row, &most);
    if (weft_has(&a->logprob))
        ref_put(&a->logprob, s->row * a->logprob.stride[0],
                sample_logprob(a, s->row, id, most, log_mass));
    n = sample_top(a, s->row, n < slots ? n : (int)slots, top);
    for (int64_t i = 0; i < slots && s->p.n_top > 0; i++) {
        int32_t t = i < n ? top[i] : -1;
        if (weft_has(&a->top_id))
            sample_ints(&a->top_id, s->row)[i * a->top_id.stride[1]] = t;
        if (weft_has(&a->top_logprob))
            ref_put(&a->top_logprob,
                    s->row * a->top_logprob.stride[0] + i * a->top_logprob.stride[1],
                    sample_logprob(a, s->row, t, most, log_mass));
    }
}

void sample_remember(const sample_row *s, int32_t id) {
    const weft_sample_args *a = s->a;
    if (weft_has(&a->id))
        *sample_ints(&a->id, s->row) = id;
    if (id < 0)
        return;
    if (weft_has(&a->history) && s->p.history_len >= 0 && s->p.history_len < a->history.shape[1])
        sample_ints(&a->history, s->p.slot)[s->p.history_len] = id;
    if (weft_has(&a->last))
        *sample_ints(&a->last, s->p.slot) = id;
}

void sample_begin(sample_row *s, const weft_sample_args *a, int64_t row, int64_t vocab,
                  char *scratch) {
    *s = (sample_row){.a = a, .row = row, .vocab = vocab};
    memcpy(&s->p, sample_ints(&a->params, row), sizeof s->p);
    s->x = (double *)scratch;
    s->index = (int32_t *)(scratch + vocab * (int64_t)sizeof *s->x);
    s->match = s->index + vocab;
    if (weft_has(&a->history) && s->p.history_len > 0) {
        int64_t room = a->history.shape[1];
        s->history = sample_ints(&a->history, s->p.slot);
        s->history_len = (int32_t)(s->p.history_len < room ? s->p.history_len : room);
    }
}

void sample_one(const weft_sample_args *a, int64_t row, char *scratch) {
    sample_row s;
    uint64_t total;
    sample_begin(&s, a, row, a->logits.shape[1], scratch);
    int32_t id = sample_choose(&s, &total);
    sample_report(&s, id);
    if (weft_has(&a->probs))
        sample_probs(&s, id, total);
    sample_remember(&s, id);
}

static void sample_rows(const void *ctx, int64_t begin, int64_t end, int worker) {
    const sample_group *g = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        sample_one(g->a, g->row0 + i, g->scratch + i * sample_slot_bytes(g->a));
}

void ref_sample_run(const weft_step *step, weft_stream *stream) {
    const weft_sample_args *a = &step->args.sample;
    int64_t rows = ref_lead(&a->rows, a->logits.shape[0]);
    for (int64_t row = 0; row < rows; row += SAMPLE_SLOTS) {
        sample_group g = {.a = a, .scratch = step->scratch, .row0 = row};
        weft_parallel(stream, rows - row < SAMPLE_SLOTS ? rows - row : SAMPLE_SLOTS, 1, sample_rows,
                      &g);
    }
}
