/* SPDX-License-Identifier: Apache-2.0
 * Rotary position embedding: what config.json says about it, its frequencies, and the scalings that
 * stretch them. In double: the caller splits them into fp32 high and low parts. What grows with the
 * position (dynamic NTK) is left to the kernel that makes the table; here it starts from the
 * default frequencies. */
#include "host/model/rope.h"
#include "host/base/err.h"
#include "weft/math.h"
#include <math.h>
#include <string.h>

static const double two_pi = 6.283185307179586476925;

/* theta^(-2i/dims), by our own functions: the same bits whatever the libm. */
static void unscaled(const rope_config *r, double *inv) {
    for (int64_t i = 0; i < r->dims / 2; i++)
        inv[i] = weft_exp(-weft_log(r->theta) * (double)(2 * i) / (double)r->dims);
}

static void scale_linear(const rope_config *r, double *inv) {
    for (int64_t i = 0; i < r->dims / 2; i++)
        inv[i] /= r->factor;
}

/* Long wavelengths are stretched, short ones kept, and a ramp joins them (Llama 3.1). */
static void scale_llama3(const rope_config *r, double *inv) {
    double ctx = (double)r->original_ctx;
    double longest = ctx / r->low_freq_factor, shortest = ctx / r->high_freq_factor;
    for (int64_t i = 0; i < r->dims / 2; i++) {
        double wave = two_pi / inv[i];
        if (wave < shortest)
            continue;
        double smooth = (ctx / wave - r->low_freq_factor) /
                        (r->high_freq_factor - r->low_freq_factor);
        if (wave > longest)
            smooth = 0;
        inv[i] = (1 - smooth) * inv[i] / r->factor + smooth * inv[i];
    }
}

/* The (fractional) pair of features that makes `turns` turns over the original context. */
static double pair_with_turns(const rope_config *r, double turns) {
    return (double)r->dims * weft_log((double)r->original_ctx / (turns * two_pi)) /
           (2 * weft_log(r->theta));
}

static void scale_yarn(const rope_config *r, double *inv) {
    double low = pair_with_turns(r, r->beta_fast), high = pair_with_turns(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)r->dims - 1);
    if (low == high)
        high += 0.001;
    for (int64_t i = 0; i < r->dims / 2; i++) {
        double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        inv[i] = inv[i] / r->factor * ramp + inv[i] * (1 - ramp);
    }
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * weft_log(factor) + 1;
}

static double attention_factor(const rope_config *r) {
    if (r->kind != ROPE_YARN)
        return 1;
    if (r->attention_factor != 0)
        return r->attention_factor;
    if (r->mscale != 0 && r->mscale_all_dim != 0)
        return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
    return yarn_mscale(r->factor, 1);
}

void rope_frequencies(const rope_config *r, int64_t max_ctx, double *inv, double *mscale) {
    static void (*const scale[])(const rope_config *, double *) = {
        [ROPE_LINEAR] = scale_linear,
        [ROPE_LLAMA3] = scale_llama3,
        [ROPE_YARN] = scale_yarn,
    };
    (void)max_ctx; /* no scaling of today depends on how far a run will go */
    unscaled(r, inv);
    if ((size_t)r->kind < sizeof scale / sizeof *scale && scale[r->kind])
        scale[r->kind](r, inv);
    *mscale = attention_factor(r);
}

/* ---- From config.json ---- */

static const char *const kind_names[] = {
    [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic",
    [ROPE_LLAMA3] = "llama3",   [ROPE_YARN] = "yarn",
};
enum { ROPE_KINDS = sizeof kind_names / sizeof *kind_names };

const char *rope_kind_name(rope_kind k) {
    return kind_names[k];
}

#define FIELD(key, member, min, max) \
    { key, offsetof(rope_spec, member), min, max }
static const struct {
    const char *key;
    size_t offset;
    double min, max;
} number_keys[] = {
    FIELD("rope_theta", r.theta, 1, 1e18),
    FIELD("factor", r.factor, 1e-3, 1e6),
    FIELD("low_freq_factor", r.low_freq_factor, 1e-3, 1e6),
    FIELD("high_freq_factor", r.high_freq_factor, 1e-3, 1e6),
    FIELD("beta_fast", r.beta_fast, 1e-3, 1e6),
    FIELD("beta_slow", r.beta_slow, 1e-3, 1e6),
    FIELD("attention_factor", r.attention_factor, 1e-3, 1e3),
    FIELD("mscale", r.mscale, 0, 1e3),
    FIELD("mscale_all_dim", r.mscale_all_dim, 0, 1e3),
    FIELD("partial_rotary_factor", partial, 1e-3, 1),
};
#undef FIELD

static bool read_number(json *j, json_str key, rope_spec *out) {
    for (size_t i = 0; i < sizeof number_keys / sizeof *number_keys; i++) {
        if (!json_is(key, number_keys[i].key))
            continue;
        double x = json_double(j), lo = number_keys[i].min, hi = number_keys[i].max;
        if (!json_failed(j) && !(x >= lo && x <= hi))
            json_fail(j, "\"%s\": %g is out of range (%g to %g)", number_keys[i].key, x, lo, hi);
        memcpy((char *)out + number_keys[i].offset, &x, sizeof x);
        return true;
    }
    return false;
}

static void read_entry(json *j, json_str key, rope_spec *out) {
    if (json_peek(j) == JSON_NULL)
        json_skip(j);
    else if (json_is(key, "rope_type"))
        out->type = json_text(j);
    else if (json_is(key, "type"))
        out->old_type = json_text(j);
    else if (json_is(key, "original_max_position_embeddings"))
        out->r.original_ctx = json_int(j, 1, 1 << 30);
    else if (json_is(key, "truncate"))
        out->r.truncate = json_bool(j);
    else if (!read_number(j, key, out))
        json_skip(j);
}

static bool same_text(const char *a, const char *b) {
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_spec(const rope_spec *a, const rope_spec *b) {
    bool same = same_text(a->type, b->type) && same_text(a->old_type, b->old_type) &&
                a->r.original_ctx == b->r.original_ctx && a->r.truncate == b->r.truncate;
    for (size_t i = 0; i < sizeof number_keys / sizeof *number_keys; i++)
        same = same && memcmp((const char *)a + number_keys[i].offset,
                              (const char *)b + number_keys[i].offset, sizeof(double)) == 0;
    return same;
}

static void read_flat(json *j, rope_spec *out) {
    *out = (rope_spec){.given = true, .r.truncate = true};
    json_object(j);
    for (json_str key; json_key(j, &key);)
        read_entry(j, key, out);
}

static bool is_layer_type(json_str key) {
    return key.n > 10 && memcmp(key.s + key.n - 10, "_attention", 10) == 0;
}

void rope_read(json *j, const char *key, rope_spec *out) {
    rope_spec all = {.given = true, .r.truncate = true}, one;
    bool nested = false;
    json_object(j);
    for (json_str k; json_key(j, &k);) {
        if (!is_layer_type(k) || json_peek(j) != JSON_OBJECT) {
            read_entry(j, k, &all);
            continue;
        }
        read_flat(j, &one);
        if (nested && !same_spec(&one, &all))
            json_fail(j, "\"%s\": layer types with different frequencies are not supported", key);
        all = one;
        nested = true;
    }
    *out = all;
}

static weft_status needs(const char *name, const char *kind, const char *key, double value) {
    if (value != 0)
        return WEFT_OK;
    return weft_fail(WEFT_BAD_FILE, "%s: rope type %s needs \"%s\"", name, kind, key);
}

static weft_status find_kind(const char *name, const rope_spec *spec, rope_kind *out) {
    const char *type = spec->type ? spec->type : spec->old_type ? spec->old_type : "default";
    for (int k = 0; k < ROPE_KINDS; k++)
        if (strcmp(type, kind_names[k]) == 0) {
            *out = (rope_kind)k;
            return WEFT_OK;
        }
    return weft_fail(
        WEFT_UNSUPPORTED,
        "%s: rope type \"%s\" is not supported (default, linear, dynamic, llama3, yarn)", name,
        type);
}

static weft_status check_kind(const char *name, const rope_config *r) {
    const char *kind = kind_names[r->kind];
    if (r->kind != ROPE_DEFAULT)
        WEFT_TRY(needs(name, kind, "factor", r->factor));
    if (r->kind == ROPE_LLAMA3) {
        WEFT_TRY(needs(name, kind, "low_freq_factor", r->low_freq_factor));
        WEFT_TRY(needs(name, kind, "high_freq_factor", r->high_freq_factor));
        if (!(r->high_freq_factor > r->low_freq_factor))
            return weft_fail(WEFT_BAD_FILE,
                             "%s: high_freq_factor: %g is not above "
                             "low_freq_factor %g",
                             name, r->high_freq_factor, r->low_freq_factor);
    }
    if (r->kind == ROPE_YARN && !(r->theta > 1))
        return weft_fail(WEFT_BAD_FILE, "%s: rope_theta: %g (yarn: above 1)", name, r->theta);
    if (r->dims % 2 || r->dims < (r->kind == ROPE_DYNAMIC ? 4 : 2))
        return weft_fail(WEFT_BAD_FILE,
                         "%s: %lld features of a head would be rotated; an even "
                         "number is needed",
                         name, (long long)r->dims);
    return WEFT_OK;
}

static void fill_unsaid(rope_config *r, int64_t max_ctx) {
    /* transformers measures dynamic NTK from max_position_embeddings whatever else is said */
    if (r->original_ctx == 0 || r->kind == ROPE_DYNAMIC)
        r->original_ctx = max_ctx;
    if (r->kind == ROPE_YARN && r->factor == 0)
        r->factor = (double)max_ctx / (double)r->original_ctx;
    if (r->factor == 0 && r->kind == ROPE_DEFAULT)
        r->factor = 1;
    if (r->beta_fast == 0)
        r->beta_fast = 32;
    if (r->beta_slow == 0)
        r->beta_slow = 1;
}

/* Linear, dynamic and yarn stretch a shorter training context; files differ in whether
 * max_position_embeddings is the length before or after, and the longer one is allowed. */
static int64_t reach(const rope_config *r, int64_t max_ctx) {
    if (r->kind != ROPE_LINEAR && r->kind != ROPE_DYNAMIC && r->kind != ROPE_YARN)
        return max_ctx;
    double far = fmin((double)r->original_ctx * r->factor, 1 << 30);
    return far > (double)max_ctx ? (int64_t)far : max_ctx;
}

weft_status rope_resolve(const char *name, const rope_spec *spec, int64_t head_dim,
                         int64_t *max_ctx, rope_config *out) {
    rope_config r = spec->r;
    WEFT_TRY(find_kind(name, spec, &r.kind));
    r.dims = spec->partial == 0 ? head_dim : (int64_t)((double)head_dim * spec->partial);
    fill_unsaid(&r, *max_ctx);
    WEFT_TRY(check_kind(name, &r));
    *max_ctx = reach(&r, *max_ctx);
    *out = r;
    return WEFT_OK;
}

float *rope_split_frequencies(const rope_config *r, int64_t max_ctx, arena *a, double *mscale) {
    int64_t n = r->dims / 2;
    double *inv = ARENA_NEW(a, double, n);
    float *freq = ARENA_NEW(a, float, 2 * n);
    rope_frequencies(r, max_ctx, inv, mscale);
    for (int64_t i = 0; i < n; i++) {
        freq[2 * i] = (float)inv[i];
        freq[2 * i + 1] = (float)(inv[i] - (double)freq[2 * i]);
    }
    return freq;
}
