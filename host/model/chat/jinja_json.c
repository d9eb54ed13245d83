/* SPDX-License-Identifier: Apache-2.0
 * JSON in: the arguments. JSON out: tojson, as Python's json.dumps writes it. */
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/base/num.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { JSON_NESTING = 200, DIGITS_MAX = 4300 /* of an integer; Python's own limit */ };

/* ---- In ---- */

static jval read_value(jrun *r, json *j);

static jval number_of(jrun *r, json *j, json_str s) {
    bool is_int = true;
    for (size_t i = 0; i < s.n; i++)
        is_int = is_int && s.s[i] != '.' && (s.s[i] | 0x20) != 'e';
    if (s.n > DIGITS_MAX) {
        json_fail(j, "a number of %zu digits (limit %d)", s.n, DIGITS_MAX);
        return JV_NONE;
    }
    char *text = jrun_alloc(r, s.n + 1);
    memcpy(text, s.s, s.n);
    if (!is_int)
        return jv_float(num_double(text));
    int64_t v = 0;
    for (const char *p = text + (*text == '-'); *p; p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, *p - '0', &v))
            goto big;
    if (*text == '-')
        return jv_int(v);
    if (v != INT64_MIN)
        return jv_int(-v);
big:;
    jval b = jv_borrow(r, text, s.n);
    b.kind = J_BIG;
    return b;
}

static jval read_object(jrun *r, json *j) {
    jdict *d = jdict_new(r);
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        jval k = jv_borrow(r, key.s, key.n);
        jdict_set(r, d, k, read_value(r, j));
    }
    return (jval){.kind = J_DICT, .d = d};
}

static jval read_array(jrun *r, json *j) {
    jlist *l = jlist_new(r, 0);
    json_array(j);
    while (json_item(j))
        jlist_push(r, l, read_value(r, j));
    return jv_list(l);
}

static jval read_value(jrun *r, json *j) {
    json_str s;
    switch (json_peek(j)) {
    case JSON_OBJECT: return read_object(r, j);
    case JSON_ARRAY: return read_array(r, j);
    case JSON_STRING: s = json_string(j); return jv_borrow(r, s.s ? s.s : "", s.n);
    case JSON_NUMBER: s = json_raw(j); return json_failed(j) ? JV_NONE : number_of(r, j, s);
    case JSON_BOOL: return jv_bool(json_bool(j));
    default: json_null(j); return JV_NONE;
    }
}

/* The reader's strings lie in the text or in the rendering's arena: both outlive the value. The
 * steps a template may take are its own: reading what it is given costs it none. */
jval json_to_value(jrun *r, const char *name, const char *text, size_t n) {
    json *j = JNEW(r, json, 1);
    int64_t steps = r->steps;
    json_init(j, name, text, n, &r->mem);
    j->max_depth = JSON_NESTING;
    r->steps = INT64_MAX;
    jval v = read_value(r, j);
    r->steps = steps;
    if (json_done(j) != WEFT_OK)
        longjmp(r->fail, 1);
    return v;
}

/* ---- Out ---- */

typedef struct {
    jrun *r;
    jbuf *b;
    bool ascii, sort;
    jval indent; /* a string; J_MISSING: all on one line */
    jval item, key;
    int level;
} dump;

static void dump_value(dump *d, jval v);

static void dump_char(dump *d, uint32_t cp) {
    char s[16];
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *f = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (f) {
        jbuf_putc(d->r, d->b, '\\');
        jbuf_putc(d->r, d->b, to[f - from]);
    } else if (cp >= 0x20 && cp < (d->ascii ? 0x7fu : 0x110000u)) {
        jbuf_char(d->r, d->b, cp);
    } else if (cp < 0x10000) {
        snprintf(s, sizeof s, "\\u%04x", cp);
        jbuf_puts(d->r, d->b, s);
    } else {
        cp -= 0x10000;
        snprintf(s, sizeof s, "\\u%04x\\u%04x", 0xd800 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
        jbuf_puts(d->r, d->b, s);
    }
}

static void dump_string(dump *d, const jstr *s) {
    uint32_t cp;
    jrun_tick(d->r, s->n);
    jbuf_putc(d->r, d->b, '"');
    for (const char *p = s->p, *end = p + s->n; p < end;) {
        p += utf8_next(p, end, &cp);
        dump_char(d, cp);
    }
    jbuf_putc(d->r, d->b, '"');
}

static void new_line(dump *d) {
    if (d->indent.kind == J_MISSING)
        return;
    jbuf_putc(d->r, d->b, '\n');
    for (int i = 0; i < d->level; i++)
        jtext_str(d->r, d->b, d->indent);
}

/* Before element i of a container. */
static void between(dump *d, size_t i) {
    if (i)
        jtext_str(d->r, d->b, d->item);
    new_line(d);
}

static void dump_list(dump *d, const jlist *l) {
    jbuf_putc(d->r, d->b, '[');
    d->level++;
    for (size_t i = 0; i < l->n; i++) {
        between(d, i);
        dump_value(d, l->v[i]);
    }
    d->level--;
    if (l->n)
        new_line(d);
    jbuf_putc(d->r, d->b, ']');
}

static void dump_number(dump *d, jval v) {
    if (v.kind == J_FLOAT && isnan(v.f))
        jbuf_puts(d->r, d->b, "NaN");
    else if (v.kind == J_FLOAT && isinf(v.f))
        jbuf_puts(d->r, d->b, v.f < 0 ? "-Infinity" : "Infinity");
    else
        jtext_repr(d->r, d->b, v);
}

/* True for the scalars, written. */
static bool dump_scalar(dump *d, jval v) {
    switch (v.kind) {
    case J_NONE: jbuf_puts(d->r, d->b, "null"); return true;
    case J_BOOL: jbuf_puts(d->r, d->b, v.b ? "true" : "false"); return true;
    case J_INT:
    case J_BIG:
    case J_FLOAT: dump_number(d, v); return true;
    default: return false;
    }
}

static void dump_key(dump *d, jval k) {
    if (k.kind == J_STR) {
        dump_string(d, k.s);
        return;
    }
    jbuf_putc(d->r, d->b, '"');
    if (!dump_scalar(d, k))
        jrun_fail(d->r, "keys must be str, int, float, bool or None, not %s", jv_type(k));
    jbuf_putc(d->r, d->b, '"');
}

static jval sorted_keys(dump *d, const jdict *dict) {
    jlist *keys = jlist_new(d->r, dict->n);
    for (size_t i = 0; i < dict->n; i++)
        jlist_push(d->r, keys, dict->e[i].k);
    const jrow *sort = jfilter_find("sort", 4);
    jval a[JPARAMS_MAX] = {JV_MISSING, jv_bool(true)};
    return sort->fn(d->r, jv_list(keys), a);
}

static void dump_dict(dump *d, const jdict *dict) {
    jval keys = d->sort ? sorted_keys(d, dict) : JV_MISSING;
    jbuf_putc(d->r, d->b, '{');
    d->level++;
    for (size_t i = 0; i < dict->n; i++) {
        jval k = d->sort ? keys.l->v[i] : dict->e[i].k;
        between(d, i);
        dump_key(d, k);
        jtext_str(d->r, d->b, d->key);
        dump_value(d, d->sort ? *jdict_get(d->r, dict, k) : dict->e[i].v);
    }
    d->level--;
    if (dict->n)
        new_line(d);
    jbuf_putc(d->r, d->b, '}');
}

static void dump_value(dump *d, jval v) {
    jrun_enter(d->r);
    jrun_tick(d->r, 0);
    if (v.kind == J_STR)
        dump_string(d, v.s);
    else if (v.kind == J_LIST || v.kind == J_TUPLE)
        dump_list(d, v.l);
    else if (v.kind == J_DICT)
        dump_dict(d, v.d);
    else if (!dump_scalar(d, v))
        jrun_fail(d->r, "Object of type %s is not JSON serializable", jv_type(v));
    d->r->depth--;
}

static jval indent_of(jrun *r, jval v) {
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return JV_MISSING;
    if (v.kind == J_STR)
        return v;
    jbuf b = {0};
    jbuf_fill(r, &b, ' ', jarg_int(r, "indent", v, 0));
    return jbuf_take(&b, r);
}

jval json_of_value(jrun *r, jval v, jval *a) {
    jbuf b = {0};
    dump d = {
        .r = r, .b = &b, .ascii = jarg_bool(r, a[0], false), .sort = jarg_bool(r, a[3], false)};
    d.indent = indent_of(r, a[1]);
    d.item = jv_text(r, d.indent.kind == J_MISSING ? ", " : ",");
    d.key = jv_text(r, ": ");
    if (a[2].kind != J_MISSING && a[2].kind != J_NONE) {
        jlist *sep = jv_elements(r, a[2]);
        if (sep->n != 2)
            jrun_fail(r, "separators are two strings");
        d.item = jarg_str(r, "separators", sep->v[0]);
        d.key = jarg_str(r, "separators", sep->v[1]);
    }
    dump_value(&d, v);
    return jbuf_take(&b, r);
}
