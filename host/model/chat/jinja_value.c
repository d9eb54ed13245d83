/* SPDX-License-Identifier: Apache-2.0
 * Values: making them, equality, order, truth, and dicts that keep their order. */
#include "host/model/chat/jinja_core.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { ROOM_MIN = 128, FEW_ENTRIES = 8 };

/* ---- Scalars and strings ---- */

jval jv_bool(bool b) {
    return (jval){.kind = J_BOOL, .b = b};
}

jval jv_int(int64_t i) {
    return (jval){.kind = J_INT, .i = i};
}

jval jv_float(double f) {
    return (jval){.kind = J_FLOAT, .f = f};
}

static jval str_of(jrun *r, const char *p, size_t n, int64_t chars, jroom *room) {
    jstr *s = JNEW(r, jstr, 1);
    *s = (jstr){.p = p, .n = n, .chars = chars, .room = room};
    return (jval){.kind = J_STR, .s = s};
}

static void check_length(jrun *r, size_t n) {
    if (n > JINJA_OUTPUT_MAX)
        jrun_fail(r, "a string of %zu bytes (limit %d)", n, JINJA_OUTPUT_MAX);
    jrun_tick(r, n);
}

jval jv_borrow(jrun *r, const char *p, size_t n) {
    return str_of(r, p, n, JTEXT_UNCOUNTED, NULL);
}

jval jv_str(jrun *r, const char *p, size_t n) {
    check_length(r, n);
    char *copy = jrun_alloc(r, n + 1);
    if (n)
        memcpy(copy, p, n);
    return jv_borrow(r, copy, n);
}

jval jv_text(jrun *r, const char *s) {
    return jv_str(r, s, strlen(s));
}

int64_t jv_chars(jval v) {
    if (v.s->chars == JTEXT_UNCOUNTED) {
        int64_t chars = 0;
        for (size_t i = 0; i < v.s->n; i++)
            chars += (v.s->p[i] & 0xc0) != 0x80;
        v.s->chars = chars;
    }
    return v.s->chars;
}

static int64_t chars_of_both(const jstr *a, const jstr *b) {
    bool known = a->chars != JTEXT_UNCOUNTED && b->chars != JTEXT_UNCOUNTED;
    return known ? a->chars + b->chars : JTEXT_UNCOUNTED;
}

/* What makes `s = s + piece` in a loop linear: a string that ends where its room is filled to
 * grows in place. Shorter strings that share the room do not see it. */
jval jv_concat(jrun *r, jval a, jval b) {
    const jstr *x = a.s, *y = b.s;
    size_t n = x->n + y->n;
    if (x->n == 0 || y->n == 0) {
        jval v = x->n ? a : b;
        v.safe = false;
        return v;
    }
    if (n > JINJA_OUTPUT_MAX)
        check_length(r, n);
    jroom *room = x->room;
    const char *p = x->p;
    if (!room || p + x->n != room->p + room->n || room->cap - room->n < y->n) {
        size_t cap = n < ROOM_MIN ? n : 2 * n;
        jrun_tick(r, x->n);
        room = JNEW(r, jroom, 1);
        *room = (jroom){.p = jrun_alloc(r, cap), .n = x->n, .cap = cap};
        memcpy(room->p, x->p, x->n);
        p = room->p;
    }
    jrun_tick(r, y->n);
    memcpy(room->p + room->n, y->p, y->n);
    room->n += y->n;
    return str_of(r, p, n, chars_of_both(x, y), room);
}

bool jv_is_str(jval v, const char *s) {
    return v.kind == J_STR && v.s->n == strlen(s) && memcmp(v.s->p, s, v.s->n) == 0;
}

/* ---- Undefined ---- */

static jval undefined(jrun *r, const char *hint, jval obj, jval name) {
    jundef *u = JNEW(r, jundef, 1);
    *u = (jundef){.hint = hint, .obj = obj, .name = name};
    return (jval){.kind = J_UNDEFINED, .u = u};
}

jval jv_undefined(jrun *r, const char *hint) {
    return undefined(r, hint, JV_MISSING, JV_MISSING);
}

jval jv_undefined_name(jrun *r, jval name) {
    return undefined(r, NULL, JV_MISSING, name);
}

jval jv_undefined_in(jrun *r, jval obj, jval name) {
    return undefined(r, NULL, obj, name);
}

_Noreturn void jv_fail_undefined(jrun *r, jval v) {
    const jundef *u = v.u;
    if (u->hint)
        jrun_fail(r, "%s", u->hint);
    jbuf b = {0};
    if (u->obj.kind == J_MISSING) {
        jtext_repr(r, &b, u->name);
        jbuf_puts(r, &b, " is undefined");
    } else {
        jbuf_puts(r, &b, u->name.kind == J_STR ? "'" : "");
        jv_object_name(u->obj, &b, r);
        jbuf_puts(r, &b, u->name.kind == J_STR ? "' has no attribute " : " has no element ");
        jtext_repr(r, &b, u->name);
    }
    jbuf_putc(r, &b, 0);
    jrun_fail(r, "%s", b.p);
}

static const char *const type_names[J_KINDS] = {[J_MISSING] = "missing",
                                                [J_UNDEFINED] = "Undefined",
                                                [J_NONE] = "NoneType",
                                                [J_BOOL] = "bool",
                                                [J_INT] = "int",
                                                [J_BIG] = "int",
                                                [J_FLOAT] = "float",
                                                [J_STR] = "str",
                                                [J_LIST] = "list",
                                                [J_TUPLE] = "tuple",
                                                [J_DICT] = "dict",
                                                [J_RANGE] = "range",
                                                [J_ITER] = "generator",
                                                [J_VIEW] = "dict view",
                                                [J_NAMESPACE] = "Namespace",
                                                [J_MACRO] = "Macro",
                                                [J_FUNC] = "function",
                                                [J_LOOP] = "LoopContext",
                                                [J_CYCLER] = "Cycler",
                                                [J_JOINER] = "Joiner"};

const char *jv_type(jval v) {
    return type_names[v.kind];
}

void jv_object_name(jval v, jbuf *b, jrun *r) {
    jbuf_puts(r, b, v.kind == J_NONE ? "None" : jv_type(v));
    jbuf_puts(r, b, v.kind == J_NONE ? "" : " object");
}

/* ---- Lists ---- */

jlist *jlist_new(jrun *r, size_t cap) {
    jlist *l = JNEW(r, jlist, 1);
    l->v = cap ? JNEW(r, jval, cap) : NULL;
    l->cap = cap;
    return l;
}

void jlist_push(jrun *r, jlist *l, jval v) {
    jrun_tick(r, 0);
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 4;
        jval *grown = JNEW(r, jval, cap);
        if (l->n)
            memcpy(grown, l->v, l->n * sizeof *grown);
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

jval jv_list(jlist *l) {
    return (jval){.kind = J_LIST, .l = l};
}

jval jv_tuple(jlist *l) {
    return (jval){.kind = J_TUPLE, .l = l};
}

jval jv_pair(jrun *r, jval a, jval b) {
    jlist *l = jlist_new(r, 2);
    l->v[0] = a;
    l->v[1] = b;
    l->n = 2;
    return jv_tuple(l);
}

/* ---- Numbers ---- */

bool jv_integer(jval v, int64_t *i) {
    *i = v.kind == J_BOOL ? v.b : v.kind == J_INT ? v.i : 0;
    return v.kind == J_BOOL || v.kind == J_INT;
}

static double big_value(const jstr *s) {
    double f = 0;
    for (size_t i = s->p[0] == '-'; i < s->n; i++)
        f = f * 10 + (s->p[i] - '0');
    return s->p[0] == '-' ? -f : f;
}

bool jv_number(jval v, double *f) {
    int64_t i;
    *f = v.kind == J_FLOAT   ? v.f
         : v.kind == J_BIG   ? big_value(v.s)
         : jv_integer(v, &i) ? (double)i
                             : 0;
    return v.kind == J_FLOAT || v.kind == J_BIG || v.kind == J_INT || v.kind == J_BOOL;
}

static int order(double a, double b) {
    return a < b ? -1 : a > b ? 1 : a == b ? 0 : 2;
}

/* An integer against a double, exactly: past 2^63 the double decides, below its integer part
 * does. */
static int compare_mixed(int64_t i, double f) {
    if (isnan(f))
        return 2;
    if (f >= 0x1p63 || f < -0x1p63)
        return f > 0 ? -1 : 1;
    int64_t whole = (int64_t)f;
    return i != whole ? (i < whole ? -1 : 1) : order(0, f - (double)whole);
}

static int compare_big(const jstr *a, const jstr *b) {
    bool less = a->p[0] == '-';
    if (less != (b->p[0] == '-'))
        return less ? -1 : 1;
    int c = a->n != b->n ? (a->n < b->n ? -1 : 1) : memcmp(a->p, b->p, a->n);
    return (c > 0) == less ? -(c != 0) : c != 0;
}

static int compare_numbers(jval a, jval b) {
    int64_t i, k;
    double x, y;
    bool ai = jv_integer(a, &i), bi = jv_integer(b, &k);
    if (ai && bi)
        return i < k ? -1 : i > k;
    if (a.kind == J_BIG && b.kind == J_BIG)
        return compare_big(a.s, b.s);
    if (a.kind == J_BIG && bi)
        return a.s->p[0] == '-' ? -1 : 1;
    if (b.kind == J_BIG && ai)
        return b.s->p[0] == '-' ? 1 : -1;
    if (ai && b.kind == J_FLOAT)
        return compare_mixed(i, b.f);
    if (bi && a.kind == J_FLOAT) {
        int c = compare_mixed(k, a.f);
        return c == 2 ? 2 : -c;
    }
    jv_number(a, &x);
    jv_number(b, &y);
    return order(x, y);
}

static bool is_number(jval v) {
    return v.kind >= J_BOOL && v.kind <= J_FLOAT;
}

/* ---- Equality and order ---- */

static int compare_text(const jstr *a, const jstr *b) {
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? (c < 0 ? -1 : 1) : a->n < b->n ? -1 : a->n > b->n;
}

bool jv_same(jval a, jval b) {
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case J_NONE: return true;
    case J_BOOL: return a.b == b.b;
    case J_INT: return a.i == b.i;
    case J_FLOAT: return a.f == b.f;
    case J_STR: return a.s == b.s || compare_text(a.s, b.s) == 0;
    default: return a.l == b.l;
    }
}

static bool equal_lists(jrun *r, const jlist *a, const jlist *b) {
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!jv_equal(r, a->v[i], b->v[i]))
            return false;
    return true;
}

static bool equal_dicts(jrun *r, const jdict *a, const jdict *b) {
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const jval *v = jdict_get(r, b, a->e[i].k);
        if (!v || !jv_equal(r, a->e[i].v, *v))
            return false;
    }
    return true;
}

static bool equal_ranges(const jrange *a, const jrange *b) {
    return a->n == b->n &&
           (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

static bool equal_same_kind(jrun *r, jval a, jval b) {
    switch (a.kind) {
    case J_UNDEFINED: return true;
    case J_STR: jrun_tick(r, a.s->n); return compare_text(a.s, b.s) == 0;
    case J_LIST:
    case J_TUPLE: return a.l == b.l || equal_lists(r, a.l, b.l);
    case J_DICT: return a.d == b.d || equal_dicts(r, a.d, b.d);
    case J_RANGE: return equal_ranges(a.r, b.r);
    case J_FUNC: return a.fn == b.fn || (a.fn->row == b.fn->row && jv_same(a.fn->self, b.fn->self));
    default: return jv_same(a, b);
    }
}

bool jv_equal(jrun *r, jval a, jval b) {
    jrun_tick(r, 0);
    if (is_number(a) && is_number(b))
        return compare_numbers(a, b) == 0;
    if (a.kind != b.kind)
        return false;
    jrun_enter(r);
    bool equal = equal_same_kind(r, a, b);
    r->depth--;
    return equal;
}

static int compare_lists(jrun *r, const jlist *a, const jlist *b, const char *op) {
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (!jv_equal(r, a->v[i], b->v[i]))
            return jv_compare(r, a->v[i], b->v[i], op);
    return a->n < b->n ? -1 : a->n > b->n;
}

int jv_compare(jrun *r, jval a, jval b, const char *op) {
    jrun_tick(r, 0);
    if (is_number(a) && is_number(b))
        return compare_numbers(a, b);
    if (a.kind == J_UNDEFINED)
        jv_fail_undefined(r, a);
    if (b.kind == J_UNDEFINED)
        jv_fail_undefined(r, b);
    if (a.kind == J_STR && b.kind == J_STR) {
        jrun_tick(r, a.s->n);
        return compare_text(a.s, b.s);
    }
    if (a.kind != b.kind || (a.kind != J_LIST && a.kind != J_TUPLE))
        jrun_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, jv_type(a),
                  jv_type(b));
    jrun_enter(r);
    int c = compare_lists(r, a.l, b.l, op);
    r->depth--;
    return c;
}

bool jv_truth(jrun *r, jval v) {
    int64_t n;
    switch (v.kind) {
    case J_MISSING:
    case J_UNDEFINED:
    case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.f != 0;
    case J_STR: return v.s->n > 0;
    default: return !jv_length(r, v, &n) || n > 0;
    }
}

/* ---- Dicts ---- */

jdict *jdict_new(jrun *r) {
    return JNEW(r, jdict, 1);
}

static uint32_t hash_bytes(const char *p, size_t n) {
    uint64_t h = 0x9e3779b97f4a7c15u ^ n;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    for (; n > 0; p++, n--)
        h = (h ^ (unsigned char)*p) * 0x100000001b3u;
    return (uint32_t)(h ^ h >> 29);
}

/* Numbers that are equal have one hash, whatever their kind. */
static uint32_t hash_number(jval v) {
    double f;
    int64_t i;
    if (jv_integer(v, &i))
        return hash_bytes((const char *)&i, sizeof i);
    jv_number(v, &f);
    if (f == trunc(f) && fabs(f) < 0x1p63) {
        i = (int64_t)f;
        return hash_bytes((const char *)&i, sizeof i);
    }
    return hash_bytes((const char *)&f, sizeof f);
}

static uint32_t hash_value(jrun *r, jval v) {
    if (v.kind == J_STR) {
        jrun_tick(r, v.s->n);
        return hash_bytes(v.s->p, v.s->n);
    }
    if (is_number(v))
        return hash_number(v);
    if (v.kind == J_TUPLE) {
        uint32_t h = 17;
        jrun_enter(r);
        for (size_t i = 0; i < v.l->n; i++)
            h = h * 31 + hash_value(r, v.l->v[i]);
        r->depth--;
        return h;
    }
    if (v.kind == J_LIST || v.kind == J_DICT)
        jrun_fail(r, "unhashable type: '%s'", jv_type(v));
    return v.kind * 2654435761u;
}

static void index_entry(jdict *d, size_t i) {
    size_t at = d->e[i].hash & (d->nslots - 1);
    while (d->slot[at])
        at = (at + 1) & (d->nslots - 1);
    d->slot[at] = (uint32_t)i + 1;
}

static void grow_dict(jrun *r, jdict *d) {
    size_t cap = d->cap ? 2 * d->cap : 4;
    jentry *e = JNEW(r, jentry, cap);
    if (d->n)
        memcpy(e, d->e, d->n * sizeof *e);
    d->e = e;
    d->cap = cap;
    if (cap <= FEW_ENTRIES)
        return;
    d->nslots = 2 * cap;
    d->slot = JNEW(r, uint32_t, d->nslots);
    for (size_t i = 0; i < d->n; i++)
        index_entry(d, i);
}

static bool same_key(jrun *r, const jentry *e, jval k, uint32_t hash) {
    return e->hash == hash && jv_equal(r, e->k, k);
}

static jentry *find_entry(jrun *r, const jdict *d, jval k, uint32_t hash) {
    if (!d->slot) {
        for (size_t i = 0; i < d->n; i++)
            if (same_key(r, &d->e[i], k, hash))
                return &d->e[i];
        return NULL;
    }
    for (size_t at = hash & (d->nslots - 1); d->slot[at]; at = (at + 1) & (d->nslots - 1)) {
        jrun_tick(r, 0);
        if (same_key(r, &d->e[d->slot[at] - 1], k, hash))
            return &d->e[d->slot[at] - 1];
    }
    return NULL;
}

void jdict_set(jrun *r, jdict *d, jval k, jval v) {
    uint32_t hash = hash_value(r, k);
    jentry *e = find_entry(r, d, k, hash);
    if (e) {
        e->v = v;
        return;
    }
    if (d->n == d->cap)
        grow_dict(r, d);
    d->e[d->n++] = (jentry){k, v, hash};
    if (d->slot)
        index_entry(d, d->n - 1);
}

jval *jdict_get(jrun *r, const jdict *d, jval k) {
    jentry *e = find_entry(r, d, k, hash_value(r, k));
    return e ? &e->v : NULL;
}

jval *jdict_find(const jdict *d, const char *key, size_t n) {
    for (size_t i = 0; i < d->n; i++) {
        jval k = d->e[i].k;
        if (k.kind == J_STR && k.s->n == n && memcmp(k.s->p, key, n) == 0)
            return &d->e[i].v;
    }
    return NULL;
}
