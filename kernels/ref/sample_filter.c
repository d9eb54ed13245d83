/* SPDX-License-Identifier: Apache-2.0
 * Stages of sample that cut: top-n-sigma, top-k, top-p, min-p, typical-p, XTC. They work on
 * distances from the best token and cost O(V), with top-k O(V log k), whatever the logits: the
 * vocabulary is never sorted. */
#include "kernels/ref/sample.h"
#include "weft/rng.h"

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
static uint64_t select_narrow(sample_heap *h, double best, double worst, uint64_t above,
                              uint64_t need) {
    uint64_t mass[SELECT_BUCKETS] = {0};
    int64_t kept = 0;
    int at = 0;
    for (int64_t i = 0; i < h->n; i++)
        mass[select_bucket(h, h->index[i], best, worst)] += weft_weight(h->x[h->index[i]]);
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
static int32_t select_at_mass(sample_heap *h, uint64_t need) {
    double best, worst;
    uint64_t above = 0;
    int32_t id = -1;
    while (h->n > SELECT_FEW && select_range(h, &best, &worst))
        above = select_narrow(h, best, worst, above, need);
    if (h->n > SELECT_FEW) {
        for (int64_t i = 0; i < h->n && (i == 0 || above < need); i++) {
            id = h->index[i];
            above += weft_weight(h->x[id]);
        }
        return id;
    }
    heap_make(h);
    do {
        id = heap_pop(h);
        above += weft_weight(h->x[id]);
    } while (above < need && h->n > 0);
    return id;
}

/* ---- filters on x, the distance from the best token: 0 at most, -infinity is out ---- */

static void sample_cut_below(const sample_row *s, double least) {
    double *x = s->x;
    for (int64_t i = 0, n = s->vocab; i < n; i++)
        x[i] = x[i] < least ? -INFINITY : x[i];
}

/* The best k so far are in a heap with the worst of them on top. Returns the k-th; k < V. */
double sample_kth(const sample_row *s, int64_t k) {
    sample_heap h = {.x = s->x, .order = HEAP_SMALLEST, .index = s->index};
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
    return s->x[h.index[0]];
}

void sample_top_k(sample_row *s) {
    int64_t k = s->p.top_k;
    if (k > 0 && k < s->vocab && sample_centre(s))
        sample_cut_below(s, sample_kth(s, k));
}

void sample_keep(sample_row *s, int64_t k) {
    if (k >= s->vocab)
        return;
    double least = sample_kth(s, k);
    int64_t n = 0;
    sample_cut_below(s, least);
    for (int64_t i = 0; i < s->vocab; i++)
        n += s->x[i] > -INFINITY;
    for (int64_t i = s->vocab; i-- > 0 && n > k;)
        if (s->x[i] == least) {
            s->x[i] = -INFINITY;
            n--;
        }
}

int64_t sample_first(sample_row *s, int64_t n, int32_t *id) {
    sample_heap h = {.x = s->x, .order = HEAP_LARGEST, .index = s->index};
    int64_t found = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY)
            h.index[h.n++] = (int32_t)i;
    heap_make(&h);
    while (found < n && h.n > 0)
        id[found++] = heap_pop(&h);
    return found;
}

/* A token stays if the mass above it is less than top_p. What weighs nothing need not be looked
 * at. */
void sample_top_p(sample_row *s) {
    if (s->p.top_p < 1 && sample_centre(s))
        sample_top_p_of(s, sample_mass(s));
}

void sample_top_p_of(sample_row *s, uint64_t total) {
    sample_heap h = {.x = s->x, .order = HEAP_LARGEST, .index = s->index};
    for (int64_t i = 0; i < s->vocab; i++)
        if (weft_weight(s->x[i]) > 0)
            h.index[h.n++] = (int32_t)i;
    int32_t last = select_at_mass(&h, weft_weight_share(s->p.top_p, total));
    double least = s->x[last];
    sample_cut_below(s, least);
    for (int64_t i = last + 1; i < s->vocab; i++) /* equal ones: the lower ids stay */
        s->x[i] = s->x[i] == least ? -INFINITY : s->x[i];
}

/* The best token is at distance 0 and stays whatever min_p is. */
void sample_min_p(sample_row *s) {
    if (s->p.min_p > 0 && sample_centre(s))
        sample_cut_below(s, s->p.min_p < 1 ? weft_log(s->p.min_p) : 0.0);
}

/* Keeps the tokens whose surprise is nearest to the entropy until they weigh typical_p; those as
 * near as the last one stay too. */
void sample_typical(sample_row *s) {
    double p = s->p.typical_p;
    sample_heap h = {.x = s->x, .order = HEAP_TYPICAL, .index = s->index};
    if (!(p < 1) || !sample_centre(s))
        return;
    uint64_t total = sample_mass(s);
    h.centre = -sample_surprise(s, total); /* the entropy is log total + surprise */
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY)
            h.index[h.n++] = (int32_t)i;
    double least = heap_key(&h, select_at_mass(&h, weft_weight_share(p, total)));
    for (int64_t i = 0; i < s->vocab; i++)
        s->x[i] = heap_key(&h, (int32_t)i) < least ? -INFINITY : s->x[i];
    s->state = SAMPLE_LOOSE; /* the best may be gone */
}

/* Keeps what is at most n standard deviations below the best; of equal temperature or none, since
 * both scale alike. */
void sample_top_n_sigma(sample_row *s) {
    double worst = 0, d;
    uint64_t sum = 0, squares = 0;
    int64_t n = 0;
    if (!(s->p.top_n_sigma > 0) || !sample_centre(s))
        return;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY && s->x[i] < worst)
            worst = s->x[i];
    if (worst == 0)
        return;
    double scale = weft_fixed_scale(-worst);
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY) {
            sum += weft_fixed(-s->x[i] * scale);
            n++;
        }
    double mean = (double)sum / (double)n;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY) {
            d = (-s->x[i] * scale - mean) * 0x1p-22;
            squares += weft_fixed(d * d);
        }
    double sigma = sqrt((double)squares / (double)n) * 0x1p22 / scale;
    sample_cut_below(s, -s->p.top_n_sigma * sigma);
}

/* Of the tokens that weigh the threshold or more, all go but the lightest (of equals the highest
 * id); if the coin says so. */
void sample_xtc(sample_row *s) {
    if (!(s->p.xtc_probability > 0) || s->p.xtc_threshold > 0.5f ||
        weft_philox_uniform(sample_random(s, 1)) >= s->p.xtc_probability || !sample_centre(s))
        return;
    uint64_t least = weft_weight_share(s->p.xtc_threshold, sample_mass(s));
    int32_t last = -1;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY && weft_weight(s->x[i]) >= least &&
            (last < 0 || s->x[i] <= s->x[last]))
            last = (int32_t)i;
    if (last < 0)
        return;
    double keep = s->x[last];
    for (int64_t i = 0; i < s->vocab; i++)
        if (i != last && s->x[i] >= keep)
            s->x[i] = -INFINITY;
    s->state = SAMPLE_LOOSE;
    sample_centre(s);
}
