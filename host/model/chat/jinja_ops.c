/* SPDX-License-Identifier: Apache-2.0
 * Operators, and what stands behind '.' and in brackets, with Python's rules. */
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <math.h>
#include <string.h>

/* ---- Arithmetic ---- */

static const char *op_sign(jop op) {
    static const char *const sign[] = {"+", "-", "*", "/", "//", "%", "**"};
    return sign[op - N_ADD];
}

static _Noreturn void unsupported(jrun *r, jop op, jval a, jval b) {
    if (op == N_ADD && (a.kind == J_STR || a.kind == J_LIST || a.kind == J_TUPLE))
        jrun_fail(r, "can only concatenate %s (not \"%s\") to %s", jv_type(a), jv_type(b),
                  jv_type(a));
    jrun_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op_sign(op), jv_type(a),
              jv_type(b));
}

static _Noreturn void overflow(jrun *r) {
    jrun_fail(r, "this integer is too large (64 bits)");
}

static int64_t floor_div(jrun *r, int64_t a, int64_t b) {
    if (b == -1 && a == INT64_MIN)
        overflow(r);
    int64_t q = a / b;
    return q - (a % b != 0 && (a < 0) != (b < 0));
}

static int64_t floor_mod(int64_t a, int64_t b) {
    int64_t m = b == -1 ? 0 : a % b;
    return m && (m < 0) != (b < 0) ? m + b : m;
}

static double float_mod(double a, double b) {
    double m = fmod(a, b);
    if (m == 0)
        return copysign(0, b);
    return (m < 0) != (b < 0) ? m + b : m;
}

static double float_floor_div(double a, double b) {
    double m = float_mod(a, b), q = (a - m) / b, f = floor(q);
    return q == 0 ? copysign(0, a / b) : q - f > 0.5 ? f + 1 : f;
}

static jval float_pow(jrun *r, double a, double b) {
    if (a == 0 && b < 0)
        jrun_fail(r, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(b) && b != floor(b))
        jrun_fail(r, "a fractional power of a negative number is no real number");
    double f = pow(a, b);
    if (isinf(f) && isfinite(a) && isfinite(b))
        jrun_fail(r, "this power is too large");
    return jv_float(f);
}

static jval int_pow(jrun *r, int64_t a, int64_t b) {
    if (b < 0)
        return float_pow(r, (double)a, (double)b);
    int64_t v = 1;
    for (; b > 0; b >>= 1) {
        if ((b & 1) && __builtin_mul_overflow(v, a, &v))
            overflow(r);
        if (b > 1 && __builtin_mul_overflow(a, a, &a))
            overflow(r);
    }
    return jv_int(v);
}

static jval int_binary(jrun *r, jop op, int64_t a, int64_t b) {
    int64_t v = 0;
    bool over = false;
    if (b == 0 && (op == N_DIV || op == N_FLOORDIV || op == N_MOD))
        jrun_fail(r, "division by zero");
    switch (op) {
    case N_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case N_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case N_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case N_DIV: return jv_float((double)a / (double)b);
    case N_FLOORDIV: v = floor_div(r, a, b); break;
    case N_MOD: v = floor_mod(a, b); break;
    default: return int_pow(r, a, b);
    }
    if (over)
        overflow(r);
    return jv_int(v);
}

static jval float_binary(jrun *r, jop op, double a, double b) {
    if (b == 0 && (op == N_DIV || op == N_FLOORDIV || op == N_MOD))
        jrun_fail(r, "division by zero");
    switch (op) {
    case N_ADD: return jv_float(a + b);
    case N_SUB: return jv_float(a - b);
    case N_MUL: return jv_float(a * b);
    case N_DIV: return jv_float(a / b);
    case N_FLOORDIV: return jv_float(float_floor_div(a, b));
    case N_MOD: return jv_float(float_mod(a, b));
    default: return float_pow(r, a, b);
    }
}

static jval number_binary(jrun *r, jop op, jval a, jval b) {
    int64_t i, k;
    double x, y;
    if (jv_integer(a, &i) && jv_integer(b, &k))
        return int_binary(r, op, i, k);
    if (a.kind != J_FLOAT && b.kind != J_FLOAT)
        overflow(r);
    jv_number(a, &x);
    jv_number(b, &y);
    return float_binary(r, op, x, y);
}

/* ---- Sequences ---- */

static jval join_lists(jrun *r, jval a, jval b) {
    jlist *l = jlist_new(r, a.l->n + b.l->n);
    for (size_t i = 0; i < a.l->n; i++)
        jlist_push(r, l, a.l->v[i]);
    for (size_t i = 0; i < b.l->n; i++)
        jlist_push(r, l, b.l->v[i]);
    return (jval){.kind = a.kind, .l = l};
}

static jval join_strings(jrun *r, jval a, jval b) {
    bool safe = a.safe || b.safe;
    jval v = safe ? jv_concat(r, jtext_escaped(r, a), jtext_escaped(r, b)) : jv_concat(r, a, b);
    v.safe = safe;
    return v;
}

static jval repeat_string(jrun *r, jval s, int64_t n) {
    jbuf b = {0};
    int64_t total;
    if (n <= 0)
        n = 0;
    if (__builtin_mul_overflow((int64_t)s.s->n, n, &total) || total > JINJA_OUTPUT_MAX)
        jrun_fail(r, "a string repeated %lld times (limit %d bytes)", (long long)n,
                  JINJA_OUTPUT_MAX);
    n = s.s->n ? n : 0;
    for (int64_t i = 0; i < n; i++)
        jbuf_add(r, &b, s.s->p, s.s->n);
    jval v = jbuf_take(&b, r);
    v.safe = s.safe;
    return v;
}

static jval repeat_list(jrun *r, jval v, int64_t n) {
    jlist *l = jlist_new(r, 0);
    for (int64_t i = 0; v.l->n && i < n; i++)
        for (size_t k = 0; k < v.l->n; k++)
            jlist_push(r, l, v.l->v[k]);
    return (jval){.kind = v.kind, .l = l};
}

static jval repeat(jrun *r, jval a, jval b) {
    int64_t n;
    if (!jv_integer(b, &n))
        unsupported(r, N_MUL, a, b);
    return a.kind == J_STR ? repeat_string(r, a, n) : repeat_list(r, a, n);
}

static bool is_sequence(jval v) {
    return v.kind == J_STR || v.kind == J_LIST || v.kind == J_TUPLE;
}

jval jop_binary(jrun *r, jop op, jval a, jval b) {
    double f;
    if (jv_number(a, &f) && jv_number(b, &f))
        return number_binary(r, op, a, b);
    if (op == N_MOD && a.kind == J_STR)
        return jformat_percent(r, a, b);
    if (a.kind == J_UNDEFINED)
        jv_fail_undefined(r, a);
    if (b.kind == J_UNDEFINED)
        jv_fail_undefined(r, b);
    if (op == N_ADD && a.kind == J_STR && b.kind == J_STR)
        return join_strings(r, a, b);
    if (op == N_ADD && (a.kind == J_LIST || a.kind == J_TUPLE) && b.kind == a.kind)
        return join_lists(r, a, b);
    if (op == N_MUL && is_sequence(a))
        return repeat(r, a, b);
    if (op == N_MUL && is_sequence(b))
        return repeat(r, b, a);
    unsupported(r, op, a, b);
}

static jval negate_big(jrun *r, jval v) {
    if (v.s->p[0] == '-') {
        v.s = jv_borrow(r, v.s->p + 1, v.s->n - 1).s;
    } else if (jv_is_str((jval){.kind = J_STR, .s = v.s}, "9223372036854775808")) {
        return jv_int(INT64_MIN);
    } else {
        v.s = jv_concat(r, jv_text(r, "-"), (jval){.kind = J_STR, .s = v.s}).s;
    }
    return v;
}

jval jop_negate(jrun *r, jval v, bool negative) {
    int64_t i;
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (v.kind == J_FLOAT)
        return jv_float(negative ? -v.f : v.f);
    if (v.kind == J_BIG)
        return negative ? negate_big(r, v) : v;
    if (!jv_integer(v, &i))
        jrun_fail(r, "bad operand type for unary %c: '%s'", negative ? '-' : '+', jv_type(v));
    if (negative && i == INT64_MIN)
        overflow(r);
    return jv_int(negative ? -i : i);
}

/* ---- Comparison ---- */

static bool in_string(jrun *r, jval needle, jval hay) {
    if (needle.kind == J_UNDEFINED)
        jv_fail_undefined(r, needle);
    if (needle.kind != J_STR)
        jrun_fail(r, "'in <string>' requires string as left operand, not %s", jv_type(needle));
    jrun_tick(r, hay.s->n + needle.s->n);
    return needle.s->n == 0 || memmem(hay.s->p, hay.s->n, needle.s->p, needle.s->n) != NULL;
}

bool jop_contains(jrun *r, jval needle, jval hay) {
    if (hay.kind == J_STR)
        return in_string(r, needle, hay);
    if (hay.kind == J_DICT || (hay.kind == J_VIEW && hay.v->what == JVIEW_KEYS))
        return jdict_get(r, hay.kind == J_DICT ? hay.d : hay.v->d, needle) != NULL;
    if (!jv_iterable(hay))
        jrun_fail(r, "argument of type '%s' is not iterable", jv_type(hay));
    jiter *it = jiter_open(r, hay);
    for (jval v; jiter_next(r, it, &v);)
        if (jv_equal(r, v, needle))
            return true;
    return false;
}

bool jop_compare(jrun *r, jcompare op, jval a, jval b) {
    static const char *const sign[] = {"==", "!=", "<", "<=", ">", ">="};
    if (op == JCMP_IN || op == JCMP_NOTIN)
        return jop_contains(r, a, b) == (op == JCMP_IN);
    if (op == JCMP_EQ || op == JCMP_NE)
        return jv_equal(r, a, b) == (op == JCMP_EQ);
    int c = jv_compare(r, a, b, sign[op]);
    if (c == 2)
        return false;
    return op == JCMP_LT ? c < 0 : op == JCMP_LE ? c <= 0 : op == JCMP_GT ? c > 0 : c >= 0;
}

/* ---- Attributes and elements ---- */

static jval unsafe(jrun *r, jval obj, jval name) {
    jbuf b = {0};
    jbuf_puts(r, &b, "access to attribute ");
    jtext_repr(r, &b, name);
    jbuf_puts(r, &b, " of '");
    jbuf_puts(r, &b, jv_type(obj));
    jbuf_puts(r, &b, "' object is unsafe");
    jbuf_putc(r, &b, 0);
    return jv_undefined(r, b.p);
}

/* A real attribute: a method, a part of loop, a name of a namespace. */
static bool attribute(jrun *r, jval obj, jval name, jval *out) {
    const char *s = name.s->p;
    size_t n = name.s->n;
    if (obj.kind == J_NAMESPACE) {
        jval *v = jdict_get(r, obj.d, name);
        if (v)
            *out = *v;
        return v != NULL;
    }
    bool dunder = n > 4 && memcmp(s, "__", 2) == 0 && memcmp(s + n - 2, "__", 2) == 0;
    if (dunder || jobject_unsafe(obj.kind, s, n)) {
        *out = unsafe(r, obj, name);
        return true;
    }
    return jobject_attr(r, obj, name, out);
}

static bool index_element(jrun *r, jval obj, int64_t i, jval *out) {
    int64_t n;
    if (!is_sequence(obj) && obj.kind != J_RANGE)
        return false;
    jv_length(r, obj, &n);
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return false;
    if (obj.kind == J_RANGE) {
        *out = jv_int(jrange_at(obj.r, i));
    } else if (obj.kind == J_STR) {
        const char *p = jchar_at(r, obj, i);
        uint32_t cp;
        *out = jv_borrow(r, p, (size_t)utf8_next(p, obj.s->p + obj.s->n, &cp));
        out->safe = obj.safe;
    } else {
        *out = obj.l->v[i];
    }
    return true;
}

static bool element(jrun *r, jval obj, jval key, jval *out) {
    int64_t i;
    if (obj.kind == J_DICT && key.kind != J_LIST && key.kind != J_DICT) {
        jval *v = jdict_get(r, obj.d, key);
        if (v)
            *out = *v;
        return v != NULL;
    }
    return jv_integer(key, &i) && index_element(r, obj, i, out);
}

jval jop_attr(jrun *r, jval obj, jval name) {
    jval v;
    if (obj.kind == J_UNDEFINED)
        jv_fail_undefined(r, obj);
    if (attribute(r, obj, name, &v) || element(r, obj, name, &v))
        return v;
    return jv_undefined_in(r, obj, name);
}

jval jop_item(jrun *r, jval obj, jval key) {
    jval v;
    if (obj.kind == J_UNDEFINED)
        jv_fail_undefined(r, obj);
    if (element(r, obj, key, &v) || (key.kind == J_STR && attribute(r, obj, key, &v)))
        return v;
    return jv_undefined_in(r, obj, key);
}

/* ---- Slices ---- */

typedef struct {
    int64_t from, to, step, n;
} slice;

static int64_t slice_bound(jrun *r, jval v, int64_t preset, int64_t n, bool back) {
    int64_t i;
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return preset;
    if (!jv_integer(v, &i))
        jrun_fail(r, "slice indices must be integers or None");
    i = i < -n ? -n - 1 : i > n ? n : i;
    i += i < 0 ? n : 0;
    int64_t low = back ? -1 : 0, high = back ? n - 1 : n;
    return i < low ? low : i > high ? high : i;
}

static slice slice_of(jrun *r, int64_t n, jval from, jval to, jval step) {
    int64_t s = 1;
    if (step.kind != J_MISSING && step.kind != J_NONE && !jv_integer(step, &s))
        jrun_fail(r, "slice indices must be integers or None");
    if (s == 0)
        jrun_fail(r, "slice step cannot be zero");
    s = s < -n - 1 ? -n - 1 : s > n + 1 ? n + 1 : s;
    bool back = s < 0;
    int64_t a = slice_bound(r, from, back ? n - 1 : 0, n, back);
    int64_t b = slice_bound(r, to, back ? -1 : n, n, back);
    int64_t span = back ? a - b : b - a, abs = back ? -s : s;
    return (slice){a, b, s, span <= 0 ? 0 : (span + abs - 1) / abs};
}

static jlist *slice_list(jrun *r, const jlist *l, slice s) {
    if (s.step != 1) {
        jlist *out = jlist_new(r, (size_t)s.n);
        for (int64_t i = 0; i < s.n; i++)
            jlist_push(r, out, l->v[s.from + i * s.step]);
        return out;
    }
    jlist *view = JNEW(r, jlist, 1);
    *view = (jlist){.v = s.n ? l->v + s.from : NULL, .n = (size_t)s.n, .cap = (size_t)s.n};
    return view;
}

static jval slice_str(jrun *r, jval v, slice s) {
    jval out;
    if (s.step == 1) {
        const char *p = s.n ? jchar_at(r, v, s.from) : v.s->p,
                   *q = s.n ? jchar_at(r, v, s.from + s.n) : p;
        out = jv_borrow(r, p, (size_t)(q - p));
        if (jv_chars(v) == (int64_t)v.s->n)
            out.s->chars = s.n;
    } else {
        out = jstr_join(r, jv_text(r, ""), jv_list(slice_list(r, jv_elements(r, v), s)));
    }
    out.safe = v.safe;
    return out;
}

static jval slice_range(jrun *r, const jrange *v, slice s) {
    jrange *out = JNEW(r, jrange, 1);
    *out = (jrange){.start = jrange_at(v, s.from),
                    .stop = jrange_at(v, s.to),
                    .step = (int64_t)((uint64_t)v->step * (uint64_t)s.step),
                    .n = s.n};
    return (jval){.kind = J_RANGE, .r = out};
}

jval jop_slice(jrun *r, jval obj, jval from, jval to, jval step) {
    int64_t n;
    if (obj.kind == J_UNDEFINED)
        jv_fail_undefined(r, obj);
    if (!is_sequence(obj) && obj.kind != J_RANGE)
        jrun_fail(r, "'%s' object cannot be sliced", jv_type(obj));
    jv_length(r, obj, &n);
    slice s = slice_of(r, n, from, to, step);
    if (obj.kind == J_STR)
        return slice_str(r, obj, s);
    if (obj.kind == J_RANGE)
        return slice_range(r, obj.r, s);
    jlist *l = slice_list(r, jv_elements(r, obj), s);
    return obj.kind == J_TUPLE ? jv_tuple(l) : jv_list(l);
}

/* ---- Paths ---- */

static jval part_value(jrun *r, const char *p, size_t n) {
    int64_t i = 0;
    bool digits = n > 0 && n < 18;
    for (size_t k = 0; k < n && digits; k++) {
        digits = p[k] >= '0' && p[k] <= '9';
        i = i * 10 + (p[k] - '0');
    }
    return digits ? jv_int(i) : jv_str(r, p, n);
}

jval jop_path(jrun *r, jval obj, jval path, jval preset) {
    if (path.kind == J_MISSING || path.kind == J_NONE)
        return obj;
    bool has_preset = preset.kind != J_MISSING && preset.kind != J_NONE;
    const char *p = path.kind == J_STR ? path.s->p : "";
    const char *end = path.kind == J_STR ? p + path.s->n : p;
    for (bool more = true; more;) {
        const char *dot = memchr(p, '.', (size_t)(end - p));
        const char *q = dot ? dot : end;
        obj = jop_item(r, obj, path.kind == J_STR ? part_value(r, p, (size_t)(q - p)) : path);
        if (has_preset && obj.kind == J_UNDEFINED)
            obj = preset;
        more = dot != NULL;
        p = dot ? dot + 1 : end;
    }
    return obj;
}
