/* SPDX-License-Identifier: Apache-2.0
 * Text from formats: "%s" % x, "{}".format(x), and the clock. */
#include "host/base/num.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { PLACES_MAX = 1000 /* of a number */, WIDTH_MAX = 1 << 20 };

/* How one value is written; what "%-08.3f" and "{:<8.3f}" say alike. */
typedef struct {
    uint32_t fill;
    char align; /* '<', '>', '^', '='; 0: the type's own */
    char sign;  /* '+', ' ' or 0 */
    bool alternate;
    char group;               /* ',' or '_' between thousands, or 0 */
    int64_t width, precision; /* precision -1: none */
    char type;
} spec;

/* ---- Numbers ---- */

static void with_groups(jrun *r, jbuf *b, const char *digits, size_t n, char group) {
    for (size_t i = 0; i < n; i++) {
        if (group && i && (n - i) % 3 == 0)
            jbuf_putc(r, b, group);
        jbuf_putc(r, b, digits[i]);
    }
}

/* Sign, padding and body as the spec has them. */
static void put_number(jrun *r, jbuf *b, const spec *s, bool negative, const jbuf *body,
                       const char *prefix) {
    char sign = negative ? '-' : s->sign;
    jbuf head = {0};
    if (sign)
        jbuf_putc(r, &head, sign);
    jbuf_puts(r, &head, prefix);
    int64_t pad = s->width - (int64_t)head.n - (int64_t)body->n;
    pad = pad < 0 ? 0 : pad;
    char align = s->align ? s->align : '>';
    int64_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
    jbuf_fill(r, b, s->fill, left);
    jbuf_add(r, b, head.p, head.n);
    jbuf_fill(r, b, s->fill, align == '=' ? pad : 0);
    jbuf_add(r, b, body->p, body->n);
    jbuf_fill(r, b, s->fill, align == '<' ? pad : align == '^' ? pad - left : 0);
}

static void put_int(jrun *r, jbuf *b, const spec *s, jval v) {
    int64_t i = 0;
    char digits[72];
    size_t n = 0;
    jbuf body = {0};
    bool negative;
    if (v.kind == J_BIG) {
        negative = v.s->p[0] == '-';
        with_groups(r, &body, v.s->p + negative, v.s->n - negative, s->group);
        put_number(r, b, s, negative, &body, "");
        return;
    }
    jv_integer(v, &i);
    negative = i < 0;
    uint64_t u = negative ? 0 - (uint64_t)i : (uint64_t)i;
    unsigned base = s->type == 'x' || s->type == 'X' ? 16
                    : s->type == 'o'                 ? 8
                    : s->type == 'b'                 ? 2
                                                     : 10;
    const char *set = s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    do
        digits[sizeof digits - ++n] = set[u % base];
    while ((u /= base) > 0);
    jbuf_fill(r, &body, '0', s->precision - (int64_t)n);
    with_groups(r, &body, digits + sizeof digits - n, n, s->group);
    char prefix[3] = {'0', s->type, 0};
    put_number(r, b, s, negative, &body, s->alternate && base != 10 ? prefix : "");
}

/* printf's digits, with a point in every locale and groups before it. */
static void float_body(jrun *r, jbuf *b, const spec *s, double f) {
    char text[1500], form[8] = {'%', '.', '*', s->type, 0};
    if (s->alternate)
        memcpy(form, (char[]){'%', '#', '.', '*', s->type, 0}, 6);
    if (s->precision > PLACES_MAX)
        jrun_fail(r, "a number of %lld places (limit %d)", (long long)s->precision, PLACES_MAX);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, form, s->precision < 0 ? 6 : (int)s->precision, f);
#pragma GCC diagnostic pop
    size_t n = strspn(text, "0123456789");
    bool is_number = n > 0;
    with_groups(r, b, text, n, is_number ? s->group : 0);
    for (const char *p = text + n; *p; p++)
        jbuf_putc(r, b, strchr("0123456789+-eEinfaINFA", *p) ? *p : '.');
}

static void put_float(jrun *r, jbuf *b, const spec *s, double f) {
    jbuf body = {0};
    bool negative = signbit(f) && !isnan(f);
    f = negative ? -f : f;
    if (s->type == '%') {
        spec fixed = *s;
        fixed.type = 'f';
        float_body(r, &body, &fixed, f * 100);
        jbuf_putc(r, &body, '%');
    } else if (s->type == 0 && s->precision < 0) {
        jbuf whole = {0};
        jtext_float(r, &whole, f);
        size_t n = 0;
        while (n < whole.n && whole.p[n] >= '0' && whole.p[n] <= '9')
            n++;
        with_groups(r, &body, whole.p, n, s->group);
        jbuf_add(r, &body, whole.p + n, whole.n - n);
    } else {
        spec general = *s;
        general.type = s->type ? s->type : 'g';
        float_body(r, &body, &general, f);
    }
    put_number(r, b, s, negative, &body, "");
}

static void put_text(jrun *r, jbuf *b, const spec *s, jval v) {
    int64_t n = jv_chars(v);
    size_t bytes = v.s->n;
    if (s->precision >= 0 && s->precision < n) {
        n = s->precision;
        bytes = (size_t)(jchar_at(r, v, n) - v.s->p);
    }
    int64_t pad = s->width > n ? s->width - n : 0;
    int64_t left = s->align == '>' ? pad : s->align == '^' ? pad / 2 : 0;
    jbuf_fill(r, b, s->fill, left);
    jbuf_add(r, b, v.s->p, bytes);
    jbuf_fill(r, b, s->fill, pad - left);
}

static const char *number_of(const char *p, const char *end, int64_t *out) {
    int64_t n = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
        n = n > WIDTH_MAX ? n : n * 10 + (*p - '0');
    *out = n;
    return p;
}

static void check_width(jrun *r, const spec *s) {
    if (s->width > WIDTH_MAX || s->precision > WIDTH_MAX)
        jrun_fail(r, "a width past %d characters", WIDTH_MAX);
}

/* ---- % ---- */

typedef struct {
    jrun *r;
    jval args;
    size_t at; /* of the next element of a tuple */
} percent;

static jval next_argument(percent *c) {
    if (c->args.kind != J_TUPLE) {
        if (c->at++ > 0)
            jrun_fail(c->r, "not enough arguments for format string");
        return c->args;
    }
    if (c->at >= c->args.l->n)
        jrun_fail(c->r, "not enough arguments for format string");
    return c->args.l->v[c->at++];
}

static const char *star_or_number(percent *c, const char *p, const char *end, int64_t *out) {
    if (p == end || *p != '*')
        return number_of(p, end, out);
    *out = jarg_int(c->r, "*", next_argument(c), 0);
    return p + 1;
}

static const char *percent_spec(percent *c, const char *p, const char *end, spec *s) {
    bool zero = false;
    *s = (spec){.fill = ' ', .precision = -1};
    for (; p < end && *p && strchr("#0- +", *p); p++) {
        zero = zero || *p == '0';
        s->alternate = s->alternate || *p == '#';
        s->align = *p == '-' ? '<' : s->align;
        s->sign = *p == '+' ? '+' : *p == ' ' && !s->sign ? ' ' : s->sign;
    }
    p = star_or_number(c, p, end, &s->width);
    if (s->width < 0) {
        s->align = '<';
        s->width = s->width < -WIDTH_MAX ? WIDTH_MAX + 1 : -s->width;
    }
    if (p < end && *p == '.')
        p = star_or_number(c, p + 1, end, &s->precision);
    while (p < end && (*p == 'h' || *p == 'l' || *p == 'L'))
        p++;
    if (zero && !s->align) {
        s->align = '=';
        s->fill = '0';
    }
    check_width(c->r, s);
    return p;
}

static void percent_number(jrun *r, jbuf *b, spec *s, jval v) {
    double f;
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (!jv_number(v, &f))
        jrun_fail(r, "%%%c format: a number is required, not %s", s->type, jv_type(v));
    if (strchr("eEfFgG", s->type)) {
        put_float(r, b, s, f);
        return;
    }
    if (v.kind == J_FLOAT && strchr("xXo", s->type))
        jrun_fail(r, "%%%c format: an integer is required, not float", s->type);
    if (v.kind == J_FLOAT && !(fabs(f) < 0x1p63))
        jrun_fail(r, "this number is too large for an integer");
    put_int(r, b, s, v.kind == J_FLOAT ? jv_int((int64_t)f) : v);
}

static void percent_char(jrun *r, jbuf *b, spec *s, jval v) {
    int64_t cp;
    jbuf c = {0};
    if (v.kind == J_STR && jv_chars(v) == 1) {
        put_text(r, b, s, v);
        return;
    }
    if (!jv_integer(v, &cp) || cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
        jrun_fail(r, "%%c requires int or char");
    jbuf_char(r, &c, (uint32_t)cp);
    put_text(r, b, s, jbuf_take(&c, r));
}

static void percent_value(jrun *r, jbuf *b, spec *s, jval v, bool safe) {
    if (!strchr("diuoxXeEfFgGcrsa", s->type))
        jrun_fail(r, "unsupported format character '%c'", s->type);
    if (s->type == 'c') {
        percent_char(r, b, s, v);
    } else if (s->type == 's' || s->type == 'r' || s->type == 'a') {
        jbuf text = {0};
        if (s->type == 's')
            jtext_str(r, &text, safe ? jtext_escaped(r, v) : v);
        else
            jtext_repr(r, &text, v);
        s->align = s->align == '<' ? '<' : '>';
        s->fill = ' ';
        put_text(r, b, s, jbuf_take(&text, r));
    } else {
        percent_number(r, b, s, v);
    }
}

/* "%(name)s": the value, and p moves behind ')'. */
static jval named_argument(percent *c, const char **p, const char *end) {
    const char *close = memchr(*p, ')', (size_t)(end - *p));
    if (!close)
        jrun_fail(c->r, "incomplete format key");
    if (c->args.kind != J_DICT)
        jrun_fail(c->r, "format requires a mapping");
    jval *v = jdict_find(c->args.d, *p + 1, (size_t)(close - *p) - 1);
    if (!v)
        jrun_fail(c->r, "the mapping lacks a key of the format");
    *p = close + 1;
    c->at = 1;
    return *v;
}

jval jformat_percent(jrun *r, jval format, jval args) {
    jbuf b = {0};
    percent c = {.r = r, .args = args};
    const char *p = format.s->p, *end = p + format.s->n;
    for (const char *q; (q = memchr(p, '%', (size_t)(end - p))) != NULL;) {
        spec s;
        jval v = JV_MISSING;
        jbuf_add(r, &b, p, (size_t)(q - p));
        p = q + 1;
        if (p < end && *p == '(')
            v = named_argument(&c, &p, end);
        p = percent_spec(&c, p, end, &s);
        if (p == end)
            jrun_fail(r, "incomplete format");
        s.type = *p++;
        if (s.type == '%') {
            jbuf_putc(r, &b, '%');
            continue;
        }
        percent_value(r, &b, &s, v.kind == J_MISSING ? next_argument(&c) : v, format.safe);
    }
    jbuf_add(r, &b, p, (size_t)(end - p));
    bool spare = args.kind == J_TUPLE ? c.at < args.l->n : c.at == 0;
    if (spare && args.kind != J_DICT && args.kind != J_LIST)
        jrun_fail(r, "not all arguments converted during string formatting");
    jval out = jbuf_take(&b, r);
    out.safe = format.safe;
    return out;
}

/* ---- {} ---- */

typedef struct {
    jrun *r;
    const jargs *a;
    int next; /* automatic number; -1: numbers were given */
    int depth;
    bool safe; /* the format is HTML: values are escaped */
} braces;

static jval format_text(braces *c, const char *p, const char *end);

static const char *brace_spec(jrun *r, const char *p, const char *end, spec *s) {
    uint32_t cp = ' ';
    *s = (spec){.fill = ' ', .precision = -1};
    int k = utf8_next(p, end, &cp);
    if (k > 0 && p + k < end && p[k] && strchr("<>^=", p[k])) {
        s->fill = cp;
        s->align = p[k];
        p += k + 1;
    } else if (p < end && *p && strchr("<>^=", *p)) {
        s->align = *p++;
    }
    if (p < end && *p && strchr("+- ", *p)) {
        s->sign = *p == '-' ? 0 : *p;
        p++;
    }
    if (p < end && *p == '#') {
        s->alternate = true;
        p++;
    }
    if (p < end && *p == '0' && !s->align) {
        s->align = '=';
        s->fill = '0';
    }
    p = number_of(p, end, &s->width);
    if (p < end && (*p == ',' || *p == '_'))
        s->group = *p++;
    if (p < end && *p == '.')
        p = number_of(p + 1, end, &s->precision);
    if (p < end)
        s->type = *p++;
    check_width(r, s);
    return p;
}

static void brace_number(jrun *r, jbuf *b, spec *s, jval v) {
    double f;
    jv_number(v, &f);
    bool as_float = s->type && strchr("eEfFgG%", s->type);
    if (v.kind == J_FLOAT || as_float) {
        if (s->type && !as_float)
            jrun_fail(r, "unknown format code '%c' for object of type 'float'", s->type);
        put_float(r, b, s, f);
    } else if (s->type == 0 || strchr("dxXobn", s->type)) {
        if (s->precision >= 0)
            jrun_fail(r, "precision not allowed in integer format specifier");
        put_int(r, b, s, v);
    } else {
        jrun_fail(r, "unknown format code '%c' for object of type 'int'", s->type);
    }
}

static void brace_value(jrun *r, jbuf *b, jval v, jval how) {
    spec s;
    const char *p = how.s->p, *end = p + how.s->n;
    double f;
    if (p == end) {
        jtext_str(r, b, v);
        return;
    }
    if (brace_spec(r, p, end, &s) != end)
        jrun_fail(r, "invalid format specifier");
    if (jv_number(v, &f)) {
        brace_number(r, b, &s, v);
        return;
    }
    if (v.kind != J_STR)
        jrun_fail(r, "unsupported format string passed to %s", jv_type(v));
    if (s.type && s.type != 's')
        jrun_fail(r, "unknown format code '%c' for object of type 'str'", s.type);
    if (s.align == '=')
        s.align = '<';
    put_text(r, b, &s, v);
}

static jval root_value(braces *c, const char *p, size_t n) {
    int64_t i = 0;
    bool digits = n > 0 && n < 9 && number_of(p, p + n, &i) == p + n;
    if (n == 0 || digits) {
        if ((n == 0) != (c->next >= 0) && c->next != 0)
            jrun_fail(c->r, "cannot switch between automatic and manual field numbering");
        i = digits ? i : c->next++;
        c->next = digits ? -1 : c->next;
        if (i >= c->a->n)
            jrun_fail(c->r, "replacement index %d out of range for positional args tuple", (int)i);
        return c->a->v[i];
    }
    for (int k = 0; k < c->a->nk; k++)
        if (c->a->key[k].s->n == n && memcmp(c->a->key[k].s->p, p, n) == 0)
            return c->a->kv[k];
    jrun_fail(c->r, "the format's name '%.*s' was not given", n > 64 ? 64 : (int)n, p);
}

/* "name.attr[key]" */
static jval field_value(braces *c, const char *p, const char *end) {
    const char *q = p;
    while (q < end && *q != '.' && *q != '[')
        q++;
    jval v = root_value(c, p, (size_t)(q - p));
    while (q < end) {
        const char *from = q + 1, *to = from;
        bool item = *q == '[';
        while (to < end && (item ? *to != ']' : *to != '.' && *to != '['))
            to++;
        if (to == from || (item && to == end))
            jrun_fail(c->r, "empty attribute or missing ']' in format string");
        int64_t i;
        bool digits = number_of(from, to, &i) == to;
        jval key = item && digits ? jv_int(i) : jv_str(c->r, from, (size_t)(to - from));
        v = item ? jop_item(c->r, v, key) : jop_attr(c->r, v, key);
        if (v.kind == J_UNDEFINED)
            jv_fail_undefined(c->r, v);
        q = to + item;
    }
    return v;
}

/* Where the field that begins behind '{' at p ends, its own braces counted. */
static const char *field_end(braces *c, const char *p, const char *end) {
    int open = 1;
    for (; p < end; p++) {
        open += (*p == '{') - (*p == '}');
        if (open == 0)
            return p;
    }
    jrun_fail(c->r, "expected '}' before end of string");
}

static void put_field(braces *c, jbuf *b, const char *p, const char *end) {
    const char *q = p;
    bool bracket = false;
    for (; q < end && (bracket || (*q != '!' && *q != ':')); q++)
        bracket = *q == '[' || (bracket && *q != ']');
    jval v = field_value(c, p, q), how = jv_text(c->r, "");
    if (q < end && *q == '!') {
        jbuf text = {0};
        if (q + 1 == end || !strchr("rsa", q[1]) || (q + 2 < end && q[2] != ':'))
            jrun_fail(c->r, "a conversion is !r, !s or !a");
        if (q[1] == 's')
            jtext_str(c->r, &text, v);
        else
            jtext_repr(c->r, &text, v);
        v = jbuf_take(&text, c->r);
        q += 2;
    }
    if (q < end)
        how = format_text(c, q + 1, end);
    jbuf text = {0};
    brace_value(c->r, &text, v, how);
    if (c->safe && !v.safe)
        jtext_escape(c->r, b, text.p, text.n);
    else
        jbuf_add(c->r, b, text.p, text.n);
}

static jval format_text(braces *c, const char *p, const char *end) {
    jbuf b = {0};
    if (++c->depth > 2)
        jrun_fail(c->r, "max string recursion exceeded");
    while (p < end) {
        const char *q = p;
        while (q < end && *q != '{' && *q != '}')
            q++;
        jrun_tick(c->r, 0);
        jbuf_add(c->r, &b, p, (size_t)(q - p));
        if (q == end)
            break;
        if (q + 1 < end && q[1] == *q) {
            jbuf_putc(c->r, &b, *q);
            p = q + 2;
            continue;
        }
        if (*q == '}')
            jrun_fail(c->r, "single '}' encountered in format string");
        const char *close = field_end(c, q + 1, end);
        put_field(c, &b, q + 1, close);
        p = close + 1;
    }
    c->depth--;
    return jbuf_take(&b, c->r);
}

jval jformat_braces(jrun *r, jval format, const jargs *a) {
    braces c = {.r = r, .a = a, .safe = format.safe};
    return format_text(&c, format.s->p, format.s->p + format.s->n);
}

/* ---- The clock ---- */

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void c_locale_open(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static void civil_time(int64_t now, struct tm *tm) {
    time_t t = (time_t)now;
    memset(tm, 0, sizeof *tm);
    gmtime_r(&t, tm);
}

jval jformat_time(jrun *r, jval format, int64_t now) {
    static const char known[] = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYz%Z";
    jbuf b = {0};
    struct tm tm;
    civil_time(now, &tm);
    pthread_once(&c_locale_once, c_locale_open);
    const char *p = format.s->p, *end = p + format.s->n;
    while (p < end) {
        char one[8] = "%", text[128];
        size_t n = 1;
        const char *q = p + 1;
        while (q < end && n < 4 && *q && strchr("-_0^#", *q))
            one[n++] = *q++;
        bool directive = *p == '%' && q < end && *q && strchr(known, *q);
        if (*p == '%' && q < end && *q == 'f') {
            jbuf_puts(r, &b, "000000");
        } else if (directive && *q != 'z' && *q != 'Z') { /* a clock without zone shows none */
            one[n] = *q;
            jbuf_add(r, &b, text, strftime_l(text, sizeof text, one, &tm, c_locale));
        } else if (!directive) {
            jbuf_putc(r, &b, *p);
            q = p;
        }
        p = q + 1;
    }
    return jbuf_take(&b, r);
}
