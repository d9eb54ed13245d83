/* SPDX-License-Identifier: Apache-2.0
 * A row of sample over slices of the vocabulary. The stages are those of the whole row: they run on
 * the tokens that were offered as on a vocabulary of their own, in the order of their ids. What
 * this file adds is the proof that nothing else counts. */
#include "kernels/ref/sample.h"
#include "weft/rng.h"

/* ---- The chain behind the offers ---- */

/* Stages that a slice can run by itself, if they come first. */
static bool before_offer(int stage) {
    return stage == WEFT_STAGE_PENALTIES || stage == WEFT_STAGE_DRY;
}

static bool is_neutral(const weft_sample_params *p, int stage) {
    bool repetition = p->repetition_penalty != 1 || p->frequency_penalty != 0 ||
                      p->presence_penalty != 0 || p->no_repeat_ngram > 0;
    return stage == WEFT_STAGE_DRY ? p->dry_multiplier == 0 : !repetition;
}

static int first_behind(const sample_row *r) {
    int i = 0;
    while (before_offer(sample_order(r, i)))
        i++;
    return i;
}

/* The temperature under which a sum over all tokens may be asked for: at the first top-p, or by the
 * draw. 0: nobody asks. */
static double share_temperature(const sample_row *r) {
    double t = 1;
    for (int i = first_behind(r), stage; (stage = sample_order(r, i)) != WEFT_STAGE_END; i++) {
        if (stage == WEFT_STAGE_TEMPERATURE && !(r->p.temperature > 0))
            return 0;
        if (stage == WEFT_STAGE_TEMPERATURE)
            t = r->p.temperature;
        if (stage == WEFT_STAGE_TOP_K && r->p.top_k > 0 && r->p.top_k < r->vocab)
            return 0;
        if (stage == WEFT_STAGE_TOP_P && r->p.top_p < 1)
            return t;
    }
    return t;
}

/* ---- Slices ---- */

static float raw_at(const sample_slice *s, int64_t row, int64_t i) {
    const weft_tensor *t = &s->a.logits;
    return (float)ref_get(t, row * t->stride[0] + i * t->stride[1]);
}

/* Tokens of other slices that bias and penalties touch: whatever becomes of them, it is a
 * number. */
static void blank_others(const sample_slice *s, const sample_row *r) {
    const weft_tensor *bias = &s->a.bias_id;
    int64_t n = weft_has(bias) ? (int64_t)r->p.n_bias + r->p.n_held : 0;
    for (int32_t i = 0; i < r->history_len; i++)
        if (r->history[i] >= 0 && r->history[i] < s->vocab)
            r->x[r->history[i]] = 0;
    for (int64_t i = 0; i < n && i < bias->shape[1]; i++) {
        int32_t id = sample_ints(bias, r->p.slot)[i * bias->stride[1]];
        if (id >= 0 && id < s->vocab)
            r->x[id] = 0;
    }
}

/* x of the slice's tokens behind bias and penalties, at their ids; others hold no logit. */
static void load_slice(const sample_slice *s, int64_t row, sample_row *r) {
    sample_begin(r, &s->a, row, s->vocab, s->scratch);
    blank_others(s, r);
    for (int64_t i = 0; i < s->count; i++)
        r->x[s->first + i] = (double)raw_at(s, row, i);
    sample_bias(r);
    for (int i = 0; before_offer(sample_order(r, i)); i++)
        sample_stage(r, sample_order(r, i));
    for (int64_t i = s->first; i < s->first + s->count; i++)
        r->x[i] = r->x[i] != r->x[i] ? -INFINITY : r->x[i];
}

/* The n largest of x[first, last) above -infinity, descending, ties to the lower id. */
static int64_t best_of(const double *x, int64_t first, int64_t last, int64_t n, int32_t *id) {
    int64_t found = 0;
    for (int64_t i = first; i < last; i++) {
        if (!(x[i] > (found < n ? -INFINITY : x[id[n - 1]])))
            continue;
        int64_t at = found < n ? found++ : n - 1;
        for (; at > 0 && x[i] > x[id[at - 1]]; at--)
            id[at] = id[at - 1];
        id[at] = (int32_t)i;
    }
    return found;
}

static void sort_ids(int32_t *id, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        int32_t v = id[i];
        int64_t at = i;
        for (; at > 0 && id[at - 1] > v; at--)
            id[at] = id[at - 1];
        id[at] = v;
    }
}

static double largest_raw(const sample_slice *s, int64_t row) {
    double most = -INFINITY;
    for (int64_t i = 0; i < s->count; i++) {
        double v = (double)raw_at(s, row, i);
        most = v > most ? v : most;
    }
    return most;
}

void sample_make_offer(const sample_slice *s, int64_t row, sample_offer *out) {
    sample_row r;
    int32_t id[SAMPLE_OFFERED + 1];
    load_slice(s, row, &r);
    int64_t n = best_of(r.x, s->first, s->first + s->count, SAMPLE_OFFERED + 1, id);
    *out = (sample_offer){.bound = -INFINITY, .most = largest_raw(s, row), .n = n};
    if (n > SAMPLE_OFFERED) {
        out->bound = r.x[id[SAMPLE_OFFERED]];
        out->n = SAMPLE_OFFERED;
    }
    sort_ids(id, out->n);
    for (int64_t i = 0; i < out->n; i++)
        out->token[i] = (sample_token){r.x[id[i]], raw_at(s, row, id[i] - s->first), id[i]};
}

/* ---- What the offers say together ---- */

typedef struct {
    double x, raw, bound; /* largest behind penalties, largest raw; what is not offered */
    int64_t n;
} overall;

static overall look(const sample_slice *s, const sample_offer *offer, int64_t stride) {
    overall o = {-INFINITY, -INFINITY, -INFINITY, 0};
    for (int r = 0; r < s->ranks; r++) {
        const sample_offer *f = offer + r * stride;
        o.raw = f->most > o.raw ? f->most : o.raw;
        o.bound = f->bound > o.bound ? f->bound : o.bound;
        o.n += f->n;
        for (int64_t i = 0; i < f->n; i++)
            o.x = f->token[i].x > o.x ? f->token[i].x : o.x;
    }
    return o;
}

static const sample_token *token_at(const sample_offer *offer, int64_t stride, int64_t i) {
    for (; i >= offer->n; offer += stride)
        i -= offer->n;
    return &offer->token[i];
}

void sample_make_share(const sample_slice *s, int64_t row, const sample_offer *offer,
                       int64_t stride, sample_share *out) {
    overall o = look(s, offer, stride);
    sample_row r;
    sample_begin(&r, &s->a, row, s->vocab, s->scratch);
    double t = share_temperature(&r);
    *out = (sample_share){.weight = 0};
    for (int64_t i = 0; i < s->count; i++)
        sample_add_mass(out->raw, (double)raw_at(s, row, i), o.raw);
    if (t == 0 || o.n == 0)
        return;
    load_slice(s, row, &r);
    for (int64_t i = s->first; i < s->first + s->count; i++)
        out->weight += weft_weight(sample_distance(r.x[i], o.x, 1 / t));
}

/* ---- The verdict ---- */

/* The row's chain over what was offered. */
typedef struct {
    sample_row r;
    double bound; /* no other token has a larger x; -infinity: none is left */
    const sample_share *share;
    int64_t stride;
    int ranks;
} offered;

static void open_offered(const sample_slice *s, int64_t row, const sample_offer *offer,
                         const sample_share *share, int64_t stride, offered *o) {
    overall all = look(s, offer, stride);
    *o = (offered){.bound = all.bound, .share = share, .stride = stride, .ranks = s->ranks};
    sample_begin(&o->r, &s->a, row, all.n, s->scratch);
    for (int64_t i = 0; i < all.n; i++)
        o->r.x[i] = token_at(offer, stride, i)->x;
}

static bool complete(const offered *o) {
    return o->bound == -INFINITY;
}

static uint64_t total_weight(const offered *o) {
    uint64_t sum = 0;
    for (int r = 0; r < o->ranks; r++)
        sum += o->share[r * o->stride].weight;
    return sum;
}

static void scale(offered *o, double temperature) {
    double most = o->r.x[sample_best(&o->r)];
    o->bound = sample_distance(o->bound, most, 1 / temperature);
    sample_scale(&o->r, most, temperature);
}

static void centre(offered *o) {
    if (o->r.state != SAMPLE_CENTRED)
        scale(o, 1);
}

static bool run_temperature(offered *o) {
    double t = o->r.p.temperature;
    if (t > 0 && o->r.p.dynatemp_range > 0)
        return false; /* by the entropy of all */
    o->r.greedy = !(t > 0);
    if (!o->r.greedy && !(t == 1 && o->r.state == SAMPLE_CENTRED))
        scale(o, t);
    return true;
}

/* Those equal to the k-th stay: it has to be above whatever was not offered. */
static bool run_top_k(offered *o, int64_t vocab) {
    int64_t k = o->r.p.top_k;
    if (k <= 0 || k >= vocab)
        return true;
    if (k >= o->r.vocab)
        return false;
    centre(o);
    if (!(sample_kth(&o->r, k) > o->bound))
        return false;
    sample_top_k(&o->r);
    o->bound = -INFINITY;
    return true;
}

/* The tokens above whatever was not offered come first, and have to reach the mass. */
static bool run_top_p(offered *o) {
    uint64_t total = total_weight(o), sure = 0;
    if (!(o->r.p.top_p < 1))
        return true;
    centre(o);
    for (int64_t i = 0; i < o->r.vocab; i++)
        sure += o->r.x[i] > o->bound ? weft_weight(o->r.x[i]) : 0;
    if (sure < weft_weight_share(o->r.p.top_p, total) || sure == 0)
        return false;
    sample_top_p_of(&o->r, total);
    o->bound = -INFINITY;
    return true;
}

static bool run_min_p(offered *o) {
    double p = o->r.p.min_p;
    if (!(p > 0))
        return true;
    centre(o);
    if (!(o->bound < (p < 1 ? weft_log(p) : 0.0)))
        return false;
    sample_min_p(&o->r);
    o->bound = -INFINITY;
    return true;
}

static bool coin_says_xtc(const sample_row *r) {
    return r->p.xtc_probability > 0 && !(r->p.xtc_threshold > 0.5f) &&
           weft_philox_uniform(sample_random(r, 1)) < r->p.xtc_probability;
}

/* One stage while tokens are left that were not offered; false: they may count. */
static bool run_open(offered *o, int stage, int64_t vocab) {
    const weft_sample_params *p = &o->r.p;
    switch (stage) {
    case WEFT_STAGE_TEMPERATURE: return run_temperature(o);
    case WEFT_STAGE_TOP_K: return run_top_k(o, vocab);
    case WEFT_STAGE_TOP_P: return run_top_p(o);
    case WEFT_STAGE_MIN_P: return run_min_p(o);
    case WEFT_STAGE_TOP_N_SIGMA: return !(p->top_n_sigma > 0);
    case WEFT_STAGE_TYPICAL: return !(p->typical_p < 1);
    case WEFT_STAGE_XTC: return !coin_says_xtc(&o->r);
    default: return true; /* neutral */
    }
}

static bool run_chain(offered *o, int64_t vocab) {
    int i = first_behind(&o->r);
    for (int stage; !o->r.greedy && (stage = sample_order(&o->r, i)) != WEFT_STAGE_END; i++) {
        if (before_offer(stage) && !is_neutral(&o->r.p, stage))
            return false; /* the tokens it touches may not be among those offered */
        if (complete(o))
            sample_stage(&o->r, stage);
        else if (!run_open(o, stage, vocab))
            return false;
    }
    return true;
}

static void choose(const sample_offer *offer, int64_t stride, int32_t i, sample_verdict *v) {
    *v = (sample_verdict){.kind = SAMPLE_CHOSEN, .id = -1};
    if (i < 0)
        return;
    const sample_token *t = token_at(offer, stride, i);
    v->id = t->id;
    v->raw = t->raw;
}

/* A draw from all tokens: the rank in whose slice the running sum passes. */
static void draw_from_all(const offered *o, sample_verdict *v) {
    uint64_t at = weft_weight_draw(sample_random(&o->r, 0), total_weight(o));
    int r = 0;
    while (at >= o->share[r * o->stride].weight)
        at -= o->share[r++ * o->stride].weight;
    *v = (sample_verdict){.kind = SAMPLE_ELSEWHERE, .owner = r, .at = at};
}

void sample_make_verdict(const sample_slice *s, int64_t row, const sample_offer *offer,
                         const sample_share *share, int64_t stride, sample_verdict *v) {
    offered o;
    uint64_t total;
    open_offered(s, row, offer, share, stride, &o);
    *v = (sample_verdict){.kind = SAMPLE_UNSURE};
    if (o.r.vocab == 0)
        choose(offer, stride, -1, v);
    else if (o.r.p.mirostat || !run_chain(&o, s->vocab))
        return;
    else if (o.r.greedy)
        choose(offer, stride, sample_best(&o.r), v);
    else if (!complete(&o))
        draw_from_all(&o, v);
    else
        choose(offer, stride, sample_centre(&o.r) ? sample_draw(&o.r, &total) : -1, v);
}

void sample_find(const sample_slice *s, int64_t row, const sample_offer *offer, int64_t stride,
                 sample_verdict *v) {
    overall o = look(s, offer, stride);
    sample_row r;
    uint64_t sum = 0;
    load_slice(s, row, &r);
    double inverse = 1 / share_temperature(&r);
    int64_t i = s->first - 1;
    while (sum <= v->at)
        sum += weft_weight(sample_distance(r.x[++i], o.x, inverse));
    v->kind = SAMPLE_CHOSEN;
    v->id = (int32_t)i;
    v->raw = raw_at(s, row, i - s->first);
}

/* ---- What is reported ---- */

int sample_wants_tops(const sample_slice *s, int64_t row) {
    sample_row r;
    sample_begin(&r, &s->a, row, s->vocab, s->scratch);
    return r.p.n_top > 0;
}

void sample_make_tops(const sample_slice *s, int64_t row, sample_tops *out) {
    double *x = (double *)(void *)s->scratch;
    int32_t id[WEFT_TOP_LOGPROBS];
    for (int64_t i = 0; i < s->count; i++)
        x[i] = (double)raw_at(s, row, i);
    out->n = best_of(x, 0, s->count, WEFT_TOP_LOGPROBS, id);
    for (int64_t i = 0; i < out->n; i++)
        out->token[i] = (sample_token){0, raw_at(s, row, id[i]), (int32_t)(s->first + id[i])};
}

/* Of the ranks' lists, each in order, the n first; lower ids are of lower ranks. */
static int merge_tops(const sample_slice *s, const sample_tops *tops, int64_t stride, int n,
                      sample_token *out) {
    int at[64] = {0}, found = 0;
    for (; found < n; found++) {
        const sample_token *best = NULL;
        int from = 0;
        for (int r = 0; r < s->ranks; r++) {
            const sample_tops *t = tops + r * stride;
            if (at[r] < t->n && (!best || t->token[at[r]].raw > best->raw)) {
                best = &t->token[at[r]];
                from = r;
            }
        }
        if (!best)
            break;
        out[found] = *best;
        at[from]++;
    }
    return found;
}

static double settle_logprob(float raw, double most, double log_mass) {
    double v = (double)raw;
    return (v == most ? 0.0 : v - most) - log_mass;
}

static void report_tops(const sample_slice *s, const sample_row *r, const sample_tops *tops,
                        int64_t stride, double most, double log_mass) {
    const weft_sample_args *a = &s->a;
    sample_token top[WEFT_TOP_LOGPROBS];
    int64_t slots = a->top_id.shape[1];
    int n = r->p.n_top < WEFT_TOP_LOGPROBS ? r->p.n_top : WEFT_TOP_LOGPROBS;
    n = merge_tops(s, tops, stride, n < slots ? n : (int)slots, top);
    for (int64_t i = 0; i < slots; i++) {
        sample_ints(&a->top_id, r->row)[i * a->top_id.stride[1]] = i < n ? top[i].id : -1;
        ref_put(&a->top_logprob, r->row * a->top_logprob.stride[0] + i * a->top_logprob.stride[1],
                i < n ? settle_logprob(top[i].raw, most, log_mass) : -INFINITY);
    }
}

void sample_settle(const sample_slice *s, int64_t row, const sample_offer *offer,
                   const sample_share *share, const sample_tops *tops, int64_t stride,
                   const sample_verdict *v) {
    overall o = look(s, offer, stride);
    uint64_t mass[2] = {0, 0};
    sample_row r;
    sample_begin(&r, &s->a, row, s->vocab, s->scratch);
    for (int k = 0; k < s->ranks; k++) {
        const uint64_t *m = share[k * stride].raw;
        mass[0] += m[0];
        mass[1] += m[1] + (mass[0] < m[0]);
    }
    double log_mass = sample_log_sum(mass);
    ref_put(&s->a.logprob, row * s->a.logprob.stride[0],
            v->id < 0 ? -INFINITY : settle_logprob(v->raw, o.raw, log_mass));
    if (r.p.n_top > 0)
        report_tops(s, &r, tops, stride, o.raw, log_mass);
    sample_remember(&r, v->id);
}

/* A tensor whose only row is `row`. */
void sample_whole(const sample_slice *s, int64_t row, const float *logits) {
    weft_sample_args a = s->a;
    a.logits = weft_tensor_make(WEFT_F32, 2, (int64_t[]){row + 1, s->vocab});
    a.logits.stride[0] = 0;
    a.logits.data = (void *)(uintptr_t)logits;
    sample_one(&a, row, s->scratch);
}
