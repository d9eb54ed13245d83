/* SPDX-License-Identifier: Apache-2.0
 * Filters of single values: text and numbers. Those of sequences are in jinja_seq.c. */
#include "host/base/num.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PRECISION_MAX = 300 /* of round, either way */ };

static jval method(jrun *r, jval v, const char *name) {
    jval none[JPARAMS_MAX] = {JV_MISSING};
    return jstr_method(name, strlen(name))->fn(r, jtext_soft(r, v), none);
}

static jval f_upper(jrun *r, jval v, jval *a) {
    (void)a;
    return method(r, v, "upper");
}

static jval f_lower(jrun *r, jval v, jval *a) {
    (void)a;
    return method(r, v, "lower");
}

static jval f_capitalize(jrun *r, jval v, jval *a) {
    (void)a;
    return method(r, v, "capitalize");
}

/* A word begins behind white space, '-' or an opening bracket. */
static jval f_title(jrun *r, jval v, jval *a) {
    (void)a;
    jval s = jtext_soft(r, v);
    jbuf b = {0};
    bool start = true;
    uint32_t cp;
    const char *rest = s.s->p; /* of a word, behind its first character */
    for (const char *p = s.s->p, *end = p + s.s->n; p < end;) {
        int k = utf8_next(p, end, &cp);
        jrun_tick(r, 0);
        bool gap = jchar_space(p, end) > 0 || (cp && cp < 0x80 && strchr("-({[<", (int)cp));
        rest = start || gap ? p + k : rest;
        jchar_case(r, &b, start || gap ? JCASE_UPPER : JCASE_LOWER, rest, p, end);
        start = gap;
        p += k;
    }
    return jbuf_take(&b, r);
}

static jval f_trim(jrun *r, jval v, jval *a) {
    return jstr_trim(r, jtext_soft(r, v), a[0], 3);
}

static jval f_string(jrun *r, jval v, jval *a) {
    (void)a;
    return jtext_soft(r, v);
}

static jval f_replace(jrun *r, jval v, jval *a) {
    return jstr_replace(r, jtext_of(r, v), jtext_of(r, a[0]), jtext_of(r, a[1]),
                        jarg_int(r, "count", a[2], -1));
}

static jval f_safe(jrun *r, jval v, jval *a) {
    (void)a;
    v = jtext_soft(r, v);
    v.safe = true;
    return v;
}

static jval f_escape(jrun *r, jval v, jval *a) {
    (void)a;
    return jtext_escaped(r, v);
}

static jval f_forceescape(jrun *r, jval v, jval *a) {
    (void)a;
    return jtext_escaped(r, jtext_of(r, v));
}

static jval f_default(jrun *r, jval v, jval *a) {
    if (v.kind == J_UNDEFINED || (jarg_bool(r, a[1], false) && !jv_truth(r, v)))
        return a[0].kind == J_MISSING ? jv_text(r, "") : a[0];
    return v;
}

static jval f_center(jrun *r, jval v, jval *a) {
    return jstr_center(r, jtext_soft(r, v), jarg_int(r, "width", a[0], 80), ' ');
}

/* The newline makes a text's last, perhaps empty, line count. */
static jval with_newline(jrun *r, jval s) {
    return jv_concat(r, s, jv_text(r, "\n"));
}

static jval f_indent(jrun *r, jval v, jval *a) {
    jbuf b = {0}, pad = {0};
    jval s = jarg_str(r, "indent", v);
    if (a[0].kind == J_STR)
        jbuf_add(r, &pad, a[0].s->p, a[0].s->n);
    else
        jbuf_fill(r, &pad, ' ', jarg_int(r, "indent", a[0], 4));
    bool first = jarg_bool(r, a[1], false), blank = jarg_bool(r, a[2], false);
    jlist *lines = jstr_lines(r, with_newline(r, s), false);
    for (size_t i = 0; i < lines->n; i++) {
        const jstr *line = lines->v[i].s;
        jbuf_puts(r, &b, i ? "\n" : "");
        if (i ? blank || line->n : first)
            jbuf_add(r, &b, pad.p, pad.n);
        jbuf_add(r, &b, line->p, line->n);
    }
    jval out = jbuf_take(&b, r);
    out.safe = s.safe;
    return out;
}

static const char *last_space(const char *p, const char *end) {
    while (end > p && end[-1] != ' ')
        end--;
    return end > p ? end - 1 : NULL;
}

static jval f_truncate(jrun *r, jval v, jval *a) {
    jval s = jarg_str(r, "truncate", v), end = a[2].kind == J_MISSING ? jv_text(r, "...") : a[2];
    int64_t length = jarg_int(r, "length", a[0], 255), leeway = jarg_int(r, "leeway", a[3], 5);
    jarg_str(r, "end", end);
    if (length < jv_chars(end))
        jrun_fail(r, "expected length >= %lld, got %lld", (long long)jv_chars(end),
                  (long long)length);
    if (leeway < 0)
        jrun_fail(r, "expected leeway >= 0, got %lld", (long long)leeway);
    if (jv_chars(s) <= leeway || jv_chars(s) - leeway <= length)
        return s;
    const char *stop = jchar_at(r, s, length - jv_chars(end));
    const char *space = jarg_bool(r, a[1], false) ? NULL : last_space(s.s->p, stop);
    jbuf b = {0};
    jbuf_add(r, &b, s.s->p, (size_t)((space ? space : stop) - s.s->p));
    jbuf_add(r, &b, end.s->p, end.s->n);
    return jbuf_take(&b, r);
}

static jval f_wordcount(jrun *r, jval v, jval *a) {
    (void)a;
    jval s = jtext_soft(r, v);
    int64_t n = 0;
    bool inside = false;
    uint32_t cp;
    jrun_tick(r, s.s->n * 4);
    for (const char *p = s.s->p, *end = p + s.s->n; p < end;) {
        p += utf8_next(p, end, &cp);
        bool word = cp == '_' || jchar_is(cp, "L N");
        n += word && !inside;
        inside = word;
    }
    return jv_int(n);
}

/* Greedy lines of at most `width` characters: white space at a break goes, words too long are
 * cut. */
static void wrap_line(jrun *r, jbuf *b, jval line, int64_t width, bool cut, jval newline) {
    const char *p = line.s->p, *end = p + line.s->n;
    bool any = false;
    while (p < end) {
        const char *q, *fit = NULL;
        uint32_t cp;
        int64_t n = 0;
        if (any)
            while (p < end && *p == ' ')
                p++;
        if (p == end)
            return;
        for (q = p; q < end && (n < width || (!fit && !cut)); n++) {
            bool gap = *q == ' ';
            q += utf8_next(q, end, &cp);
            if (!gap && (q == end || *q == ' ' || cp == '-'))
                fit = q;
        }
        if (!fit || q == end)
            fit = q;
        if (any)
            jbuf_add(r, b, newline.s->p, newline.s->n);
        jrun_tick(r, (size_t)(q - p));
        jbuf_add(r, b, p, (size_t)(fit - p));
        any = true;
        p = fit;
    }
}

static jval f_wordwrap(jrun *r, jval v, jval *a) {
    jbuf b = {0};
    int64_t width = jarg_int(r, "width", a[0], 79);
    jval newline = a[2].kind == J_MISSING || a[2].kind == J_NONE ? jv_text(r, "\n")
                                                                 : jarg_str(r, "wrapstring", a[2]);
    if (width <= 0)
        jrun_fail(r, "invalid width %lld (must be > 0)", (long long)width);
    jlist *lines = jstr_lines(r, jarg_str(r, "wordwrap", v), false);
    for (size_t i = 0; i < lines->n; i++) {
        if (i)
            jbuf_add(r, &b, newline.s->p, newline.s->n);
        wrap_line(r, &b, lines->v[i], width, jarg_bool(r, a[1], true), newline);
    }
    return jbuf_take(&b, r);
}

/* ---- HTML and URLs ---- */

static jval unescaped(jrun *r, jval s) {
    static const char *const row[][2] = {{"&lt;", "<"},   {"&gt;", ">"},  {"&quot;", "\""},
                                         {"&#34;", "\""}, {"&#39;", "'"}, {"&nbsp;", "\xc2\xa0"},
                                         {"&amp;", "&"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        s = jstr_replace(r, s, jv_text(r, row[i][0]), jv_text(r, row[i][1]), -1);
    return s;
}

static jval f_striptags(jrun *r, jval v, jval *a) {
    (void)a;
    jval s = jtext_of(r, v);
    jbuf b = {0};
    const char *p = s.s->p, *end = p + s.s->n;
    while (p < end) {
        const char *open = memchr(p, '<', (size_t)(end - p)), *close = NULL;
        if (open && end - open >= 4 && memcmp(open, "<!--", 4) == 0)
            close = memmem(open, (size_t)(end - open), "-->", 3);
        else if (open)
            close = memchr(open, '>', (size_t)(end - open));
        if (!close)
            break;
        jrun_tick(r, (size_t)(close - p));
        jbuf_add(r, &b, p, (size_t)(open - p));
        p = close + (*close == '-' ? 3 : 1);
    }
    jbuf_add(r, &b, p, (size_t)(end - p));
    jval space = jv_text(r, " "), none[JPARAMS_MAX] = {JV_MISSING};
    jval text = jbuf_take(&b, r);
    return jstr_join(r, space, jstr_method("split", 5)->fn(r, unescaped(r, text), none));
}

static void quote_url(jrun *r, jbuf *b, jval v, bool form) {
    static const char kept[] = "_.-~/", hex[] = "0123456789ABCDEF";
    jval s = jtext_of(r, v);
    for (size_t i = 0; i < s.s->n; i++) {
        unsigned char c = (unsigned char)s.s->p[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        plain = plain || (c && strchr(kept, c) && !(form && c == '/'));
        if (plain) {
            jbuf_putc(r, b, (char)c);
        } else if (form && c == ' ') {
            jbuf_putc(r, b, '+');
        } else {
            jbuf_putc(r, b, '%');
            jbuf_putc(r, b, hex[c >> 4]);
            jbuf_putc(r, b, hex[c & 15]);
        }
    }
}

static jval f_urlencode(jrun *r, jval v, jval *a) {
    (void)a;
    jbuf b = {0};
    if (v.kind == J_STR || !jv_iterable(v)) {
        quote_url(r, &b, v, false);
        return jbuf_take(&b, r);
    }
    jval items = v;
    if (v.kind == J_DICT) {
        jval none[JPARAMS_MAX] = {JV_MISSING};
        items = jobject_method(J_DICT, "items", 5)->fn(r, v, none);
    }
    jiter *it = jiter_open(r, items);
    bool first = true;
    for (jval x; jiter_next(r, it, &x); first = false) {
        const jlist *pair = jv_elements(r, x);
        if (pair->n != 2)
            jrun_fail(r, "urlencode needs pairs");
        jbuf_puts(r, &b, first ? "" : "&");
        quote_url(r, &b, pair->v[0], true);
        jbuf_putc(r, &b, '=');
        quote_url(r, &b, pair->v[1], true);
    }
    return jbuf_take(&b, r);
}

static jval f_xmlattr(jrun *r, jval v, jval *a) {
    jbuf b = {0};
    if (v.kind != J_DICT)
        jrun_fail(r, "xmlattr needs a mapping, not %s", jv_type(v));
    bool space = jarg_bool(r, a[0], true);
    for (size_t i = 0; i < v.d->n; i++) {
        jval k = v.d->e[i].k, x = v.d->e[i].v;
        if (x.kind == J_NONE || x.kind == J_UNDEFINED)
            continue;
        jarg_str(r, "xmlattr", k);
        for (size_t c = 0; c < k.s->n; c++)
            if (strchr(" \t\n\f\r/>=", k.s->p[c]))
                jrun_fail(r, "invalid character in attribute name");
        jbuf_puts(r, &b, b.n || space ? " " : "");
        jtext_str(r, &b, jtext_escaped(r, k));
        jbuf_puts(r, &b, "=\"");
        jtext_str(r, &b, jtext_escaped(r, x));
        jbuf_putc(r, &b, '"');
    }
    return jbuf_take(&b, r);
}

/* ---- Numbers ---- */

static jval float_to_int(jrun *r, double f) {
    if (fabs(f) < 0x1p63)
        return jv_int((int64_t)f);
    char digits[400];
    snprintf(digits, sizeof digits, "%.0f", f);
    jval v = jv_text(r, digits);
    v.kind = J_BIG;
    return v;
}

static jval f_int(jrun *r, jval v, jval *a) {
    jval preset = a[0].kind == J_MISSING ? jv_int(0) : a[0];
    int64_t base = jarg_int(r, "base", a[1], 10);
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (base != 0 && (base < 2 || base > 36))
        return preset;
    if (v.kind == J_BOOL)
        return jv_int(v.b);
    if (v.kind == J_INT || v.kind == J_BIG)
        return v;
    jval f = v;
    if (v.kind == J_STR) {
        jval i = jstr_int(r, v, base);
        if (i.kind != J_MISSING)
            return i;
        f = jstr_float(r, v);
    }
    if (f.kind == J_FLOAT && isinf(f.f) && v.kind == J_FLOAT)
        jrun_fail(r, "cannot convert float infinity to integer");
    return f.kind == J_FLOAT && isfinite(f.f) ? float_to_int(r, f.f) : preset;
}

static jval f_float(jrun *r, jval v, jval *a) {
    double f;
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (jv_number(v, &f))
        return jv_float(f);
    jval x = v.kind == J_STR ? jstr_float(r, v) : JV_MISSING;
    return x.kind != J_MISSING ? x : a[0].kind == J_MISSING ? jv_float(0) : a[0];
}

static jval f_abs(jrun *r, jval v, jval *a) {
    (void)a;
    int64_t i;
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (v.kind == J_FLOAT)
        return jv_float(fabs(v.f));
    if (v.kind == J_BIG)
        return v.s->p[0] == '-' ? jop_negate(r, v, true) : v;
    if (!jv_integer(v, &i))
        jrun_fail(r, "bad operand type for abs(): '%s'", jv_type(v));
    return i < 0 ? jop_negate(r, v, true) : jv_int(i);
}

/* Python rounds what the decimal digits of the double say, ties to even. */
static double round_digits(double f, int64_t digits) {
    char text[800];
    if (!isfinite(f))
        return f;
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        for (char *c = text; *c; c++) /* a locale may have another point */
            *c = strchr("0123456789-", *c) ? *c : '.';
        return num_double(text);
    }
    double p = pow(10, (double)-digits);
    return nearbyint(f / p) * p;
}

static jval round_int(jrun *r, int64_t i, int64_t digits) {
    if (digits >= 0)
        return jv_int(i);
    if (digits < -18)
        return jv_int(0);
    int64_t p = 1;
    for (; digits < 0; digits++)
        p *= 10;
    int64_t q = i / p, rest = i % p, half = rest < 0 ? -rest : rest;
    if (half > p - half || (half == p - half && (q & 1)))
        q += i < 0 ? -1 : 1;
    return jop_binary(r, N_MUL, jv_int(q), jv_int(p));
}

static jval f_round(jrun *r, jval v, jval *a) {
    int64_t digits = jarg_int(r, "precision", a[0], 0), i;
    double f;
    jval how = a[1].kind == J_MISSING ? jv_text(r, "common") : a[1];
    bool up = jv_is_str(how, "ceil"), down = jv_is_str(how, "floor");
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (digits > PRECISION_MAX || digits < -PRECISION_MAX)
        jrun_fail(r, "a precision of %lld places (limit %d)", (long long)digits, PRECISION_MAX);
    if (!up && !down && !jv_is_str(how, "common"))
        jrun_fail(r, "method must be common, ceil or floor");
    if (!jv_number(v, &f))
        jrun_fail(r, "type %s doesn't define __round__ method", jv_type(v));
    if (up || down) {
        double p = pow(10, (double)digits);
        return jv_float((up ? ceil(f * p) : floor(f * p)) / p + 0.0); /* + 0.0: never -0.0 */
    }
    if (jv_integer(v, &i))
        return round_int(r, i, digits);
    return v.kind == J_BIG ? v : jv_float(round_digits(f, digits));
}

static jval f_filesizeformat(jrun *r, jval v, jval *a) {
    static const char *const unit[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    bool binary = jarg_bool(r, a[0], false);
    double bytes, base = binary ? 1024 : 1000, size = base * base;
    jval none[JPARAMS_MAX] = {JV_NONE};
    jval f = f_float(r, v, none);
    char text[400];
    if (!jv_number(f, &bytes))
        jrun_fail(r, "could not convert to float");
    int i = 0;
    for (; i < 7 && bytes >= size; i++)
        size *= base;
    if (bytes == 1)
        snprintf(text, sizeof text, "1 Byte");
    else if (bytes < base)
        snprintf(text, sizeof text, "%lld Bytes", (long long)(fabs(bytes) < 0x1p62 ? bytes : 0));
    else
        snprintf(text, sizeof text, "%.1f %c%s%c", base * bytes / size,
                 binary && i == 0 ? 'K' : unit[i][0], binary ? "i" : "", 'B');
    return jv_text(r, text);
}

/* ---- The rest ---- */

static jval f_tojson(jrun *r, jval v, jval *a) {
    return json_of_value(r, v, a);
}

static jval f_format(jrun *r, jval v, jval *a) {
    (void)a;
    const jargs *c = r->call;
    if (c->n && c->nk)
        jrun_fail(r, "format takes positional or keyword arguments, not both");
    jdict *d = jdict_new(r);
    for (int i = 0; i < c->nk; i++)
        jdict_set(r, d, c->key[i], c->kv[i]);
    jlist *l = jlist_new(r, 0);
    for (int i = 0; i < c->n; i++)
        jlist_push(r, l, c->v[i]);
    return jformat_percent(r, jtext_soft(r, v),
                           c->nk ? (jval){.kind = J_DICT, .d = d} : jv_tuple(l));
}

static jval f_attr(jrun *r, jval v, jval *a) {
    jval name = jarg_str(r, "attr", a[0]), out = jop_attr(r, v, name);
    if (v.kind == J_DICT && !jobject_method(J_DICT, name.s->p, name.s->n) &&
        out.kind != J_UNDEFINED)
        return jv_undefined_in(r, v, name);
    return out;
}

static jval f_pprint(jrun *r, jval v, jval *a) {
    (void)a;
    jbuf b = {0};
    jtext_repr(r, &b, v);
    return jbuf_take(&b, r);
}

static jval f_random(jrun *r, jval v, jval *a) {
    (void)v;
    (void)a;
    jrun_fail(r, "random: a template's text is not random here");
}

static const jrow rows[] = {
    {"abs", "", 0, f_abs},
    {"attr", "name", 1, f_attr},
    {"capitalize", "", 0, f_capitalize},
    {"center", "width", 0, f_center},
    {"d", "default_value boolean", 0, f_default},
    {"default", "default_value boolean", 0, f_default},
    {"e", "", 0, f_escape},
    {"escape", "", 0, f_escape},
    {"filesizeformat", "binary", 0, f_filesizeformat},
    {"float", "default", 0, f_float},
    {"forceescape", "", 0, f_forceescape},
    {"format", "*", 0, f_format},
    {"indent", "width first blank", 0, f_indent},
    {"int", "default base", 0, f_int},
    {"lower", "", 0, f_lower},
    {"pprint", "", 0, f_pprint},
    {"random", "", 0, f_random},
    {"replace", "old new count", 2, f_replace},
    {"round", "precision method", 0, f_round},
    {"safe", "", 0, f_safe},
    {"string", "", 0, f_string},
    {"striptags", "", 0, f_striptags},
    {"title", "", 0, f_title},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, f_tojson},
    {"trim", "chars", 0, f_trim},
    {"truncate", "length killwords end leeway", 0, f_truncate},
    {"upper", "", 0, f_upper},
    {"urlencode", "", 0, f_urlencode},
    {"wordcount", "", 0, f_wordcount},
    {"wordwrap", "width break_long_words wrapstring break_on_hyphens", 0, f_wordwrap},
    {"xmlattr", "autospace", 0, f_xmlattr},
};

const jrow *jfilter_find(const char *name, size_t n) {
    const jrow *row = jrow_find(rows, (int)(sizeof rows / sizeof *rows), name, n);
    return row ? row : jseq_find(name, n);
}
