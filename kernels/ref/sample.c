/* SPDX-License-Identifier: Apache-2.0
 * sample: logit bias, penalties, no-repeat n-grams, temperature, top-k, top-p, min-p, typical-p,
 * draw, in this order and with the semantics of Hugging Face's processors. A row is one worker's;
 * it costs O(V), with top-k O(V log k), whatever the logits: the vocabulary is never sorted. */
#include "kernels/ref/ref.h"
#include "weft/rng.h"

enum { SAMPLE_SLOTS = 8 }; /* rows in flight, each with scratch of its own */

typedef struct {
    const weft_sample_args *a;
    char *scratch;
    int64_t row0;
} sample_group;

typedef struct {
    const weft_sample_args *a;
    weft_sample_params p;
    int64_t row, vocab;
    const int32_t *history; /* NULL: none */
    int32_t history_len;
    double *x;      /* [V]: the logit, then its distance from the best, then its weight */
    int32_t *index; /* [V]: token counts, then a heap */
} sample_row;

static int64_t sample_slot_bytes(const weft_sample_args *a) {
    return (a->logits.shape[1] * 12 + 63) / 64 * 64;
}

size_t ref_sample_scratch(const weft_args *args) {
    int64_t rows = args->sample.logits.shape[0];
    return (size_t)((rows < SAMPLE_SLOTS ? rows : SAMPLE_SLOTS) * sample_slot_bytes(&args->sample));
}

int ref_sample_ok(const weft_args *args) {
    const weft_sample_args *a = &args->sample;
    return ref_is_float(&a->logits) && a->params.dtype == WEFT_I32 &&
           a->params.shape[1] == WEFT_SAMPLE_WORDS && a->params.stride[1] == 1 &&
           ref_is_float_or_absent(&a->bias) && ref_is_float_or_absent(&a->probs) &&
           ref_is_float_or_absent(&a->logprob) && ref_is_float_or_absent(&a->top_logprob);
}

static int32_t *sample_ints(const weft_tensor *t, int64_t i) {
    return (int32_t *)t->data + i * t->stride[0];
}

/* ---- heap of tokens, the first of an order on top; ties to the lower id ---- */

typedef enum { HEAP_LARGEST, HEAP_SMALLEST, HEAP_TYPICAL } heap_order;

typedef struct {
    const double *x;
    heap_order order;
    double centre; /* HEAP_TYPICAL: nearest to here first */
    int32_t *index;
    int64_t n;
} sample_heap;

static double heap_key(const sample_heap *h, int32_t id) {
    double x = h->x[id];
    return h->order == HEAP_LARGEST ? x : h->order == HEAP_SMALLEST ? -x : -fabs(h->centre - x);
}

static bool heap_before(const sample_heap *h, int32_t a, int32_t b) {
    double u = heap_key(h, a), v = heap_key(h, b);
    return u > v || (u == v && a < b);
}

static void heap_sift(sample_heap *h, int64_t i) {
    int32_t id = h->index[i];
    for (int64_t child; (child = 2 * i + 1) < h->n; i = child) {
        child += child + 1 < h->n && heap_before(h, h->index[child + 1], h->index[child]);
        if (!heap_before(h, h->index[child], id))
            break;
        h->index[i] = h->index[child];
    }
    h->index[i] = id;
}

static void heap_make(sample_heap *h) {
    for (int64_t i = h->n / 2; i-- > 0;)
        heap_sift(h, i);
}

static int32_t heap_pop(sample_heap *h) {
    int32_t first = h->index[0], last = h->index[--h->n];
    if (h->n > 0) {
        h->index[0] = last;
        heap_sift(h, 0);
    }
    return first;
}

/* ---- selection by mass ---- */

enum { SELECT_BUCKETS = 1024, SELECT_FEW = 128 };

static bool select_range(const sample_heap *h, double *best, double *worst) {
    *best = *worst = heap_key(h, h->index[0]);
    for (int64_t i = 1; i < h->n; i++) {
        double key = heap_key(h, h->index[i]);
        *best = key > *best ? key : *best;
        *worst = key < *worst ? key : *worst;
    }
    return *best > *worst;
}

static int select_bucket(const sample_heap *h, int32_t id, double best, double worst) {
    return (int)((best - heap_key(h, id)) / (best - worst) * (SELECT_BUCKETS - 1));
}

/* Leaves the tokens of the bucket in which the mass passes `need`; returns the mass before it. */
static double select_narrow(sample_heap *h, double best, double worst, double above, double need) {
    double mass[SELECT_BUCKETS] = {0};
    int64_t kept = 0;
    int at = 0;
    for (int64_t i = 0; i < h->n; i++)
        mass[select_bucket(h, h->index[i], best, worst)] += weft_exp(h->x[h->index[i]]);
    while (at < SELECT_BUCKETS - 1 && above + mass[at] < need)
        above += mass[at++];
    for (int64_t i = 0; i < h->n; i++)
        if (select_bucket(h, h->index[i], best, worst) == at)
            h->index[kept++] = h->index[i];
    h->n = kept;
    return above;
}

/* The token at which the mass of those before it in h's order, and its own, reaches `need`. Only
 * the bucket that holds it is sorted; many equal keys are already in the order of their ids. */
static int32_t select_at_mass(sample_heap *h, double need) {
    double best, worst, above = 0;
    int32_t id = -1;
    while (h->n > SELECT_FEW && select_range(h, &best, &worst))
        above = select_narrow(h, best, worst, above, need);
    if (h->n > SELECT_FEW) {
        for (int64_t i = 0; i < h->n && (i == 0 || above < need); i++) {
            id = h->index[i];
            above += weft_exp(h->x[id]);
        }
        return id;
    }
    heap_make(h);
    do {
        id = heap_pop(h);
        above += weft_exp(h->x[id]);
    } while (above < need && h->n > 0);
    return id;
}

/* ---- processors: they touch few tokens ---- */

static void sample_bias(const sample_row *s) {
    const weft_sample_args *a = s->a;
    if (!weft_has(&a->bias_id) || !weft_has(&a->bias))
        return;
    int64_t n = s->p.n_bias < a->bias_id.shape[1] ? s->p.n_bias : a->bias_id.shape[1];
    for (int64_t i = 0; i < n; i++) {
        int32_t id = sample_ints(&a->bias_id, s->p.slot)[i * a->bias_id.stride[1]];
        if (id >= 0 && id < s->vocab)
            s->x[id] += ref_get(&a->bias, s->p.slot * a->bias.stride[0] + i * a->bias.stride[1]);
    }
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
static void sample_penalties(const sample_row *s) {
    if (s->p.repetition_penalty == 1 && s->p.frequency_penalty == 0 && s->p.presence_penalty == 0)
        return;
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
    if (n <= 0)
        return;
    for (int64_t i = 0; i + n <= len; i++) {
        size_t prefix = (size_t)(n - 1) * sizeof *s->history;
        int32_t next = s->history[i + n - 1];
        if (memcmp(s->history + i, s->history + len - (n - 1), prefix) == 0 && next >= 0 &&
            next < s->vocab)
            s->x[next] = -INFINITY;
    }
}

/* ---- filters on x, the distance from the best token: 0 at most, -infinity is out ---- */

static void sample_cut_below(const sample_row *s, double least) {
    for (int64_t i = 0; i < s->vocab; i++)
        s->x[i] = s->x[i] < least ? -INFINITY : s->x[i];
}

static double sample_mass(const sample_row *s) {
    double mass = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY)
            mass += weft_exp(s->x[i]);
    return mass;
}

/* The best k so far are in a heap with the worst of them on top. */
static void sample_top_k(const sample_row *s) {
    sample_heap h = {.x = s->x, .order = HEAP_SMALLEST, .index = s->index};
    int64_t k = s->p.top_k;
    if (k <= 0 || k >= s->vocab)
        return;
    for (int64_t i = 0; i < s->vocab; i++) {
        if (h.n < k) {
            h.index[h.n++] = (int32_t)i;
            if (h.n == k)
                heap_make(&h);
        } else if (s->x[i] > s->x[h.index[0]]) {
            h.index[0] = (int32_t)i;
            heap_sift(&h, 0);
        }
    }
    sample_cut_below(s, s->x[h.index[0]]);
}

/* A token stays if the mass above it is less than top_p. All tokens below `floor` together weigh
 * less than the 1 - top_p that goes, so they need not be looked at. */
static void sample_top_p(const sample_row *s) {
    double p = s->p.top_p;
    sample_heap h = {.x = s->x, .order = HEAP_LARGEST, .index = s->index};
    if (!(p < 1))
        return;
    double total = sample_mass(s), floor = weft_log((1 - p) / (double)s->vocab) - 1;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] >= floor)
            h.index[h.n++] = (int32_t)i;
    int32_t last = select_at_mass(&h, p * total);
    double least = s->x[last];
    sample_cut_below(s, least);
    for (int64_t i = last + 1; i < s->vocab; i++) /* equal ones: the lower ids stay */
        s->x[i] = s->x[i] == least ? -INFINITY : s->x[i];
}

/* The best token is at distance 0 and stays whatever min_p is. */
static void sample_min_p(const sample_row *s) {
    if (s->p.min_p > 0)
        sample_cut_below(s, s->p.min_p < 1 ? weft_log(s->p.min_p) : 0.0);
}

/* Keeps the tokens whose surprise is nearest to the entropy until they weigh typical_p; those as
 * near as the last one stay too. */
static void sample_typical(const sample_row *s) {
    double entropy = 0, p = s->p.typical_p;
    sample_heap h = {.x = s->x, .order = HEAP_TYPICAL, .index = s->index};
    if (!(p < 1))
        return;
    double total = sample_mass(s), log_total = weft_log(total);
    for (int64_t i = 0; i < s->vocab; i++) {
        if (s->x[i] == -INFINITY)
            continue;
        entropy += weft_exp(s->x[i]) / total * (log_total - s->x[i]);
        h.index[h.n++] = (int32_t)i;
    }
    h.centre = log_total - entropy;
    double least = heap_key(&h, select_at_mass(&h, p * total));
    for (int64_t i = 0; i < s->vocab; i++)
        s->x[i] = heap_key(&h, (int32_t)i) < least ? -INFINITY : s->x[i];
}

/* ---- one row ---- */

static void sample_load(const sample_row *s) {
    const weft_tensor *t = &s->a->logits;
    ref_load(t, s->row * t->stride[0], t->stride[1], s->vocab, s->x);
    sample_bias(s);
    sample_penalties(s);
    sample_ngrams(s);
}

/* The best token, -1 if there is none. NaN becomes -infinity. */
static int32_t sample_best(const sample_row *s) {
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

/* Distances before the division: a tiny temperature cannot overflow what counts. */
static void sample_distances(const sample_row *s, double most, double temperature) {
    for (int64_t i = 0; i < s->vocab; i++)
        s->x[i] = s->x[i] == most ? 0.0 : (s->x[i] - most) / temperature;
}

/* x becomes the weights; inverse of their running sum, ids ascending. */
static int32_t sample_draw(const sample_row *s, double *total) {
    uint64_t seed = s->p.seed[0] | (uint64_t)s->p.seed[1] << 32;
    uint64_t stream = s->p.stream[0] | (uint64_t)s->p.stream[1] << 32;
    weft_philox random = weft_philox4x32(seed, stream, (uint64_t)s->p.history_len);
    double sum = 0, at = weft_philox_uniform(random.v[0]);
    int32_t last = -1;
    *total = 0;
    for (int64_t i = 0; i < s->vocab; i++) {
        s->x[i] = s->x[i] > -INFINITY ? weft_exp(s->x[i]) : 0.0;
        *total += s->x[i];
    }
    at *= *total;
    for (int64_t i = 0; i < s->vocab && (last < 0 || sum <= at); i++) {
        sum += s->x[i];
        last = s->x[i] > 0 ? (int32_t)i : last;
    }
    return last;
}

/* Chooses the token and leaves the weights in x. */
static int32_t sample_choose(const sample_row *s, double *total) {
    sample_load(s);
    int32_t best = sample_best(s);
    *total = 1;
    if (best < 0 || !(s->p.temperature > 0)) {
        if (weft_has(&s->a->probs))
            for (int64_t i = 0; i < s->vocab; i++)
                s->x[i] = i == best;
        return best;
    }
    sample_distances(s, s->x[best], s->p.temperature);
    sample_top_k(s);
    sample_top_p(s);
    sample_min_p(s);
    sample_typical(s);
    return sample_draw(s, total);
}

/* ---- what is reported of the raw logits ---- */

/* Largest logit and the logarithm of the mass relative to it; NaN does not count. */
static double sample_log_mass(const weft_sample_args *a, int64_t row, double *most) {
    int64_t x = row * a->logits.stride[0], step = a->logits.stride[1];
    double mass = 0;
    *most = -INFINITY;
    for (int64_t i = 0; i < a->logits.shape[1]; i++) {
        double v = ref_get(&a->logits, x + i * step);
        *most = v > *most ? v : *most;
    }
    for (int64_t i = 0; i < a->logits.shape[1]; i++) {
        double v = ref_get(&a->logits, x + i * step);
        if (v > -INFINITY)
            mass += v == *most ? 1.0 : weft_exp(v - *most);
    }
    return weft_log(mass);
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

static void sample_remember(const sample_row *s, int32_t id) {
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

static void sample_one(const weft_sample_args *a, int64_t row, char *scratch) {
    sample_row s = {.a = a, .row = row, .vocab = a->logits.shape[1]};
    double total;
    memcpy(&s.p, sample_ints(&a->params, row), sizeof s.p);
    s.x = (double *)scratch;
    s.index = (int32_t *)(scratch + s.vocab * (int64_t)sizeof *s.x);
    if (weft_has(&a->history) && s.p.history_len > 0) {
        int64_t room = a->history.shape[1];
        s.history = sample_ints(&a->history, s.p.slot);
        s.history_len = (int32_t)(s.p.history_len < room ? s.p.history_len : room);
    }
    int32_t id = sample_choose(&s, &total);
    sample_report(&s, id);
    if (weft_has(&a->probs))
        for (int64_t i = 0; i < s.vocab; i++)
            ref_put(&a->probs, row * a->probs.stride[0] + i * a->probs.stride[1], s.x[i] / total);
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
