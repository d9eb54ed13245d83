/* SPDX-License-Identifier: Apache-2.0
 * str() and repr() of values, as Python writes them. */
#include "host/base/num.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Numbers ---- */

/* The shortest digits that read back as f > 0, without point; returns the decimal exponent. */
static int shortest_digits(double f, char digits[24]) {
    char text[40];
    for (int prec = 0; prec < 17; prec++) {
        snprintf(text, sizeof text, "%.*e", prec, f);
        char clean[40], *to = clean;
        for (const char *p = text; *p; p++) /* a locale may have another point */
            if (strchr("0123456789e+-", *p))
                *to++ = *p;
        *to = 0;
        char *e = strchr(clean, 'e');
        int n = (int)(e - clean), exponent = (int)strtol(e + 1, NULL, 10);
        snprintf(text, sizeof text, "%.*se%d", n, clean, exponent - n + 1);
        memcpy(digits, clean, (size_t)n);
        digits[n] = 0;
        if (num_double(text) == f || prec == 16)
            return exponent;
    }
    return 0;
}

void jtext_float(jrun *r, jbuf *b, double f) {
    if (isnan(f) || isinf(f)) {
        jbuf_puts(r, b, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    if (signbit(f))
        jbuf_putc(r, b, '-');
    if (f == 0) {
        jbuf_puts(r, b, "0.0");
        return;
    }
    char digits[24], tail[16];
    int e = shortest_digits(fabs(f), digits), n = (int)strlen(digits);
    while (n > 1 && digits[n - 1] == '0')
        digits[--n] = 0;
    if (e < -4 || e >= 16) {
        jbuf_putc(r, b, digits[0]);
        jbuf_puts(r, b, n > 1 ? "." : "");
        jbuf_puts(r, b, digits + 1);
        snprintf(tail, sizeof tail, "e%c%02d", e < 0 ? '-' : '+', abs(e));
        jbuf_puts(r, b, tail);
    } else if (e < 0) {
        jbuf_puts(r, b, "0.");
        jbuf_fill(r, b, '0', -e - 1);
        jbuf_puts(r, b, digits);
    } else {
        int whole = e + 1 < n ? e + 1 : n;
        jbuf_add(r, b, digits, (size_t)whole);
        jbuf_fill(r, b, '0', e + 1 - n);
        jbuf_putc(r, b, '.');
        jbuf_puts(r, b, whole < n ? digits + whole : "0");
    }
}

static void text_int(jrun *r, jbuf *b, int64_t i) {
    char s[24];
    snprintf(s, sizeof s, "%" PRId64, i);
    jbuf_puts(r, b, s);
}

/* ---- repr of a string ---- */

static void repr_char(jrun *r, jbuf *b, uint32_t cp, char quote) {
    static const char from[] = "\n\r\t\\", to[] = "nrt\\";
    const char *f = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    char s[12];
    if (f || cp == (unsigned char)quote) {
        jbuf_putc(r, b, '\\');
        jbuf_putc(r, b, f ? to[f - from] : quote);
    } else if (jchar_printable(cp)) {
        jbuf_char(r, b, cp);
    } else {
        snprintf(s, sizeof s, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        jbuf_puts(r, b, s);
    }
}

static void repr_str(jrun *r, jbuf *b, const jstr *s) {
    bool single = s->n && memchr(s->p, '\'', s->n), twice = s->n && memchr(s->p, '"', s->n);
    char quote = single && !twice ? '"' : '\'';
    jrun_tick(r, s->n);
    jbuf_putc(r, b, quote);
    uint32_t cp;
    for (const char *p = s->p, *end = p + s->n; p < end;) {
        p += utf8_next(p, end, &cp);
        repr_char(r, b, cp, quote);
    }
    jbuf_putc(r, b, quote);
}

/* ---- repr of containers ---- */

static void repr_elements(jrun *r, jbuf *b, const jlist *l, const char *open, const char *close) {
    jbuf_puts(r, b, open);
    for (size_t i = 0; i < l->n; i++) {
        jbuf_puts(r, b, i ? ", " : "");
        jtext_repr(r, b, l->v[i]);
    }
    jbuf_puts(r, b, close);
}

static void repr_dict(jrun *r, jbuf *b, const jdict *d) {
    jbuf_putc(r, b, '{');
    for (size_t i = 0; i < d->n; i++) {
        jbuf_puts(r, b, i ? ", " : "");
        jtext_repr(r, b, d->e[i].k);
        jbuf_puts(r, b, ": ");
        jtext_repr(r, b, d->e[i].v);
    }
    jbuf_putc(r, b, '}');
}

static void repr_range(jrun *r, jbuf *b, const jrange *v) {
    char s[96];
    int n = snprintf(s, sizeof s, "range(%" PRId64 ", %" PRId64, v->start, v->stop);
    snprintf(s + n, sizeof s - (size_t)n, v->step == 1 ? ")" : ", %" PRId64 ")", v->step);
    jbuf_puts(r, b, s);
}

static void repr_view(jrun *r, jbuf *b, jval v) {
    static const char *const open[] = {"dict_keys([", "dict_values([", "dict_items(["};
    repr_elements(r, b, jv_elements(r, v), open[v.v->what], "])");
}

/* Python shows an address, which is nobody's business. */
static void repr_object(jrun *r, jbuf *b, jval v) {
    jbuf_putc(r, b, '<');
    jbuf_puts(r, b, jv_type(v));
    if (v.kind == J_MACRO || v.kind == J_FUNC) {
        jval name = v.kind == J_MACRO ? v.m->name : jv_text(r, v.fn->row->name);
        jbuf_putc(r, b, ' ');
        repr_str(r, b, name.s);
    } else if (v.kind == J_LOOP) {
        jbuf_putc(r, b, ' ');
        text_int(r, b, (int64_t)v.loop->index0 + 1);
        jbuf_putc(r, b, '/');
        text_int(r, b, (int64_t)v.loop->items->n);
    } else {
        jbuf_puts(r, b, " object");
    }
    jbuf_putc(r, b, '>');
}

static void repr_namespace(jrun *r, jbuf *b, jval v) {
    jbuf_puts(r, b, "<Namespace ");
    repr_dict(r, b, v.d);
    jbuf_putc(r, b, '>');
}

static void repr_container(jrun *r, jbuf *b, jval v) {
    switch (v.kind) {
    case J_LIST: repr_elements(r, b, v.l, "[", "]"); break;
    case J_TUPLE: repr_elements(r, b, v.l, "(", v.l->n == 1 ? ",)" : ")"); break;
    case J_DICT: repr_dict(r, b, v.d); break;
    case J_NAMESPACE: repr_namespace(r, b, v); break;
    case J_RANGE: repr_range(r, b, v.r); break;
    case J_VIEW: repr_view(r, b, v); break;
    default: repr_object(r, b, v); break;
    }
}

static void repr_marked(jrun *r, jbuf *b, jval v) {
    jbuf_puts(r, b, v.safe ? "Markup(" : "");
    repr_str(r, b, v.s);
    jbuf_puts(r, b, v.safe ? ")" : "");
}

void jtext_repr(jrun *r, jbuf *b, jval v) {
    jrun_enter(r);
    jrun_tick(r, 0);
    switch (v.kind) {
    case J_UNDEFINED: jbuf_puts(r, b, "Undefined"); break;
    case J_NONE: jbuf_puts(r, b, "None"); break;
    case J_BOOL: jbuf_puts(r, b, v.b ? "True" : "False"); break;
    case J_INT: text_int(r, b, v.i); break;
    case J_BIG: jbuf_add(r, b, v.s->p, v.s->n); break;
    case J_FLOAT: jtext_float(r, b, v.f); break;
    case J_STR: repr_marked(r, b, v); break;
    default: repr_container(r, b, v); break;
    }
    r->depth--;
}

/* ---- str ---- */

void jtext_str(jrun *r, jbuf *b, jval v) {
    if (v.kind == J_STR)
        jbuf_add(r, b, v.s->p, v.s->n);
    else if (v.kind != J_UNDEFINED)
        jtext_repr(r, b, v);
}

jval jtext_soft(jrun *r, jval v) {
    if (v.kind == J_STR)
        return v;
    jbuf b = {0};
    jtext_str(r, &b, v);
    return jbuf_take(&b, r);
}

jval jtext_of(jrun *r, jval v) {
    v = jtext_soft(r, v);
    v.safe = false;
    return v;
}

void jtext_escape(jrun *r, jbuf *b, const char *p, size_t n) {
    static const struct {
        char c;
        const char *name;
    } row[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&#34;"}, {'\'', "&#39;"}};
    size_t run = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof row / sizeof *row; k++)
            if (p[i] == row[k].c) {
                jbuf_add(r, b, p + run, i - run);
                jbuf_puts(r, b, row[k].name);
                run = i + 1;
            }
    jbuf_add(r, b, p + run, n - run);
}

jval jtext_escaped(jrun *r, jval v) {
    jval s = jtext_soft(r, v);
    if (!s.safe) {
        jbuf b = {0};
        jtext_escape(r, &b, s.s->p, s.s->n);
        s = jbuf_take(&b, r);
    }
    s.safe = true;
    return s;
}
