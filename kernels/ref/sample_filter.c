/* SPDX-License-Identifier: Apache-2.0
 * Stages of sample that cut: top-n-sigma, top-k, top-p, min-p, typical-p, XTC. They work on
 * distances from the best token and cost O(V), with top-k O(V log k), whatever the logits: the
 * vocabulary is never sorted. */
#include "kernels/ref/sample.h"

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

/* ---- filters on x, the distance from the best token: 0 at most, -infinity is out ---- */

static void sample_cut_below(const sample_row *s, double least) {
    double *x = s->x;
    for (int64_t i = 0, n = s->vocab; i < n; i++)
        x[i] = x[i] < least ? -INFINITY : x[i];
}

/* The best k so far are in a heap with the worst of them on top. Returns the k-th; k < V. */
static double sample_kth(const sample_row *s, int64_t k) {
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

/* A token stays if the mass above it is less than top_p. All tokens below `floor` together weigh
 * less than the 1 - top_p that goes, so they need not be looked at. */
void sample_top_p(sample_row *s) {
    double p = s->p.top_p;
    sample_heap h = {.x = s->x, .order = HEAP_LARGEST, .index = s->index};
    if (!(p < 1) || !sample_centre(s))
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
void sample_min_p(sample_row *s) {
    if (s->p.min_p > 0 && sample_centre(s))
        sample_cut_below(s, s->p.min_p < 1 ? weft_log(s->p.min_p) : 0.0);
}

/* Keeps the tokens whose surprise is nearest to the entropy until they weigh typical_p; those as
 * near as the last one stay too. */
void sample_typical(sample_row *s) {
    double entropy = 0, p = s->p.typical_p;
    sample_heap h = {.x = s->x, .order = HEAP_TYPICAL, .index = s->index};
    if (!(p < 1) || !sample_centre(s))
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
    s->state = SAMPLE_LOOSE; /* the best may be gone */
}

/* Keeps what is at most n standard deviations below the best; of equal temperature or none, since
 * both scale alike. */
void sample_top_n_sigma(sample_row *s) {
    double sum = 0, squares = 0;
    int64_t n = 0;
    if (!(s->p.top_n_sigma > 0) || !sample_centre(s))
        return;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY) {
            sum += s->x[i];
            n++;
        }
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY) {
            double d = s->x[i] - sum / (double)n;
            squares += d * d;
        }
    sample_cut_below(s, -s->p.top_n_sigma * sqrt(squares / (double)n));
}

/* Of the tokens that weigh the threshold or more, all go but the lightest (of equals the highest
 * id); if the coin says so. */
void sample_xtc(sample_row *s) {
    if (!(s->p.xtc_probability > 0) || s->p.xtc_threshold > 0.5f ||
        sample_uniform(s, 1) >= s->p.xtc_probability || !sample_centre(s))
        return;
    double least = s->p.xtc_threshold * sample_mass(s);
    int32_t last = -1;
    for (int64_t i = 0; i < s->vocab; i++)
        if (s->x[i] > -INFINITY && weft_exp(s->x[i]) >= least &&
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
