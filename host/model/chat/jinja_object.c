/* SPDX-License-Identifier: Apache-2.0
 * What the objects of the language offer behind a '.', and its global functions. */
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <string.h>

#define ROWS(table) table, (int)(sizeof(table) / sizeof *(table))

/* ---- dict ---- */

static jval view(jrun *r, jval d, int what) {
    jview *v = JNEW(r, jview, 1);
    *v = (jview){d.d, what};
    return (jval){.kind = J_VIEW, .v = v};
}

static jval d_keys(jrun *r, jval d, jval *a) {
    (void)a;
    return view(r, d, JVIEW_KEYS);
}

static jval d_values(jrun *r, jval d, jval *a) {
    (void)a;
    return view(r, d, JVIEW_VALUES);
}

static jval d_items(jrun *r, jval d, jval *a) {
    (void)a;
    return view(r, d, JVIEW_ITEMS);
}

static jval d_get(jrun *r, jval d, jval *a) {
    jval *v = jdict_get(r, d.d, a[0]);
    return v ? *v : a[1].kind == J_MISSING ? JV_NONE : a[1];
}

static void add_all(jrun *r, jdict *to, const jdict *from) {
    for (size_t i = 0; i < from->n; i++)
        jdict_set(r, to, from->e[i].k, from->e[i].v);
}

static jval d_copy(jrun *r, jval d, jval *a) {
    (void)a;
    jdict *c = jdict_new(r);
    add_all(r, c, d.d);
    return (jval){.kind = J_DICT, .d = c};
}

static jval d_fromkeys(jrun *r, jval self, jval *a) {
    (void)self;
    jdict *d = jdict_new(r);
    jiter *it = jiter_open(r, a[0]);
    for (jval k; jiter_next(r, it, &k);)
        jdict_set(r, d, k, a[1].kind == J_MISSING ? JV_NONE : a[1]);
    return (jval){.kind = J_DICT, .d = d};
}

static const jrow dict_rows[] = {
    {"keys", "", 0, d_keys},   {"values", "", 0, d_values},
    {"items", "", 0, d_items}, {"get", "key default", 1, d_get},
    {"copy", "", 0, d_copy},   {"fromkeys", "iterable value", 1, d_fromkeys},
};

/* ---- list, tuple, range ---- */

static jval l_index(jrun *r, jval self, jval *a) {
    const jlist *l = jv_elements(r, self);
    int64_t n = (int64_t)l->n, lo = jarg_int(r, "start", a[1], 0),
            hi = jarg_int(r, "stop", a[2], n);
    lo = lo < 0 ? (lo + n < 0 ? 0 : lo + n) : lo;
    hi = hi < 0 ? hi + n : hi > n ? n : hi;
    for (int64_t i = lo; i < hi; i++)
        if (jv_equal(r, l->v[i], a[0]))
            return jv_int(i);
    jrun_fail(r, "the value is not in the %s", jv_type(self));
}

static jval l_count(jrun *r, jval self, jval *a) {
    const jlist *l = jv_elements(r, self);
    int64_t n = 0;
    for (size_t i = 0; i < l->n; i++) {
        jrun_tick(r, 0);
        n += jv_equal(r, l->v[i], a[0]);
    }
    return jv_int(n);
}

static jval l_copy(jrun *r, jval self, jval *a) {
    (void)r;
    (void)a;
    return self;
}

static const jrow list_rows[] = {
    {"index", "value start stop", 1, l_index},
    {"count", "value", 1, l_count},
    {"copy", "", 0, l_copy},
};

static const jrow tuple_rows[] = {
    {"index", "value start stop", 1, l_index},
    {"count", "value", 1, l_count},
};

/* ---- Numbers ---- */

static jval n_is_integer(jrun *r, jval self, jval *a) {
    (void)r;
    (void)a;
    return jv_bool(self.f - self.f == 0 && self.f == __builtin_trunc(self.f));
}

static jval n_bit_length(jrun *r, jval self, jval *a) {
    (void)r;
    (void)a;
    int64_t i = 0;
    jv_integer(self, &i);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    return jv_int(u ? 64 - __builtin_clzll(u) : 0);
}

static const jrow float_rows[] = {{"is_integer", "", 0, n_is_integer}};
static const jrow int_rows[] = {{"bit_length", "", 0, n_bit_length}};

/* ---- loop, cycler ---- */

static jval o_cycle(jrun *r, jval self, jval *a) {
    (void)a;
    if (r->call->n == 0)
        jrun_fail(r, "no items for cycling given");
    return r->call->v[self.loop->index0 % (size_t)r->call->n];
}

static jval o_changed(jrun *r, jval self, jval *a) {
    (void)a;
    jlist *now = jlist_new(r, (size_t)r->call->n);
    for (int i = 0; i < r->call->n; i++)
        jlist_push(r, now, r->call->v[i]);
    jval v = jv_tuple(now);
    bool changed = self.loop->changed.kind == J_MISSING || !jv_equal(r, self.loop->changed, v);
    self.loop->changed = v;
    return jv_bool(changed);
}

static const jrow loop_rows[] = {{"cycle", "*", 0, o_cycle}, {"changed", "*", 0, o_changed}};

static jval c_next(jrun *r, jval self, jval *a) {
    (void)r;
    (void)a;
    jcycler *c = self.cycler;
    jval v = c->v[c->at];
    c->at = (c->at + 1) % c->n;
    return v;
}

static jval c_reset(jrun *r, jval self, jval *a) {
    (void)r;
    (void)a;
    self.cycler->at = 0;
    return JV_NONE;
}

static const jrow cycler_rows[] = {{"next", "", 0, c_next}, {"reset", "", 0, c_reset}};

static const struct {
    const char *name;
    int64_t base, sign; /* base: 0 nothing, 1 length; then sign * index0, then plus */
    int64_t plus;
} loop_numbers[] = {
    {"index", 0, 1, 1},       {"index0", 0, 1, 0}, {"revindex", 1, -1, 0},
    {"revindex0", 1, -1, -1}, {"length", 1, 0, 0},
};

static bool loop_attr(jrun *r, const jloop *l, jval name, jval *out) {
    int64_t n = (int64_t)l->items->n, i = (int64_t)l->index0;
    for (size_t k = 0; k < sizeof loop_numbers / sizeof *loop_numbers; k++)
        if (jv_is_str(name, loop_numbers[k].name)) {
            *out = jv_int(loop_numbers[k].base * n + loop_numbers[k].sign * i +
                          loop_numbers[k].plus);
            return true;
        }
    if (jv_is_str(name, "first"))
        *out = jv_bool(i == 0);
    else if (jv_is_str(name, "last"))
        *out = jv_bool(i + 1 == n);
    else if (jv_is_str(name, "depth"))
        *out = jv_int(l->depth0 + 1);
    else if (jv_is_str(name, "depth0"))
        *out = jv_int(l->depth0);
    else if (jv_is_str(name, "previtem"))
        *out = i > 0 ? l->items->v[i - 1] : jv_undefined(r, "there is no previous item");
    else if (jv_is_str(name, "nextitem"))
        *out = i + 1 < n ? l->items->v[i + 1] : jv_undefined(r, "there is no next item");
    else
        return false;
    return true;
}

static bool macro_attr(jrun *r, const jmacro *m, jval name, jval *out) {
    static const char *const flags[] = {"catch_varargs", "catch_kwargs", "caller"};
    for (int i = 0; i < 3; i++)
        if (jv_is_str(name, flags[i])) {
            *out = jv_bool(m->node->flag >> i & 1);
            return true;
        }
    if (jv_is_str(name, "name")) {
        *out = m->name;
        return true;
    }
    if (!jv_is_str(name, "arguments"))
        return false;
    jlist *l = jlist_new(r, 0);
    for (const jnode *p = m->node->a; p; p = p->next)
        jlist_push(r, l, p->val);
    *out = jv_tuple(l);
    return true;
}

/* ---- Attributes of all kinds ---- */

const jrow *jobject_method(jkind kind, const char *name, size_t n) {
    static const struct {
        jkind kind;
        const jrow *rows;
        int n;
    } table[] = {
        {J_DICT, ROWS(dict_rows)},   {J_LIST, ROWS(list_rows)},   {J_TUPLE, ROWS(tuple_rows)},
        {J_RANGE, ROWS(tuple_rows)}, {J_FLOAT, ROWS(float_rows)}, {J_INT, ROWS(int_rows)},
        {J_BOOL, ROWS(int_rows)},    {J_LOOP, ROWS(loop_rows)},   {J_CYCLER, ROWS(cycler_rows)}};
    if (kind == J_STR)
        return jstr_method(name, n);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].kind == kind)
            return jrow_find(table[i].rows, table[i].n, name, n);
    return NULL;
}

static bool is_dict_function(jval obj) {
    return obj.kind == J_FUNC && strcmp(obj.fn->row->name, "dict") == 0;
}

bool jobject_attr(jrun *r, jval obj, jval name, jval *out) {
    const jrow *row = jobject_method(obj.kind, name.s->p, name.s->n);
    if (is_dict_function(obj) && jv_is_str(name, "fromkeys"))
        row = &dict_rows[5];
    if (row) {
        jfunc *f = JNEW(r, jfunc, 1);
        *f = (jfunc){row, obj};
        *out = (jval){.kind = J_FUNC, .fn = f};
        return true;
    }
    if (obj.kind == J_LOOP)
        return loop_attr(r, obj.loop, name, out);
    if (obj.kind == J_MACRO)
        return macro_attr(r, obj.m, name, out);
    if (obj.kind == J_CYCLER && jv_is_str(name, "current")) {
        *out = obj.cycler->v[obj.cycler->at];
        return true;
    }
    return false;
}

bool jobject_unsafe(jkind kind, const char *name, size_t n) {
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    static const char *const of_list[] = {"append", "clear", "pop",    "reverse",
                                          "insert", "sort",  "extend", "remove"};
    const char *const *names = kind == J_DICT ? of_dict : of_list;
    int count = kind == J_DICT ? 5 : kind == J_LIST ? 8 : 0;
    for (int i = 0; i < count; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return true;
    return false;
}

/* ---- Global functions ---- */

static jval g_range(jrun *r, jval self, jval *a) {
    (void)self;
    jrange *v = JNEW(r, jrange, 1);
    bool one = a[1].kind == J_MISSING;
    for (int i = 0; i < 3; i++)
        if (a[i].kind == J_NONE)
            jrun_fail(r, "range: 'NoneType' object cannot be interpreted as an integer");
    *v = (jrange){.start = one ? 0 : jarg_int(r, "range", a[0], 0),
                  .stop = jarg_int(r, "range", a[one ? 0 : 1], 0),
                  .step = jarg_int(r, "range", a[2], 1)};
    if (v->step == 0)
        jrun_fail(r, "range() arg 3 must not be zero");
    __int128 span = v->step > 0 ? (__int128)v->stop - v->start : (__int128)v->start - v->stop;
    __int128 step = v->step > 0 ? v->step : -(__int128)v->step;
    __int128 n = span <= 0 ? 0 : (span + step - 1) / step;
    if (n > JINJA_RANGE_MAX)
        jrun_fail(r, "range too big (limit %d elements)", JINJA_RANGE_MAX);
    v->n = (int64_t)n;
    return (jval){.kind = J_RANGE, .r = v};
}

/* dict(mapping or pairs, name=value...) */
static jdict *dict_of_call(jrun *r, const char *what) {
    jdict *d = jdict_new(r);
    const jargs *a = r->call;
    if (a->n && a->v[0].kind == J_UNDEFINED)
        jv_fail_undefined(r, a->v[0]);
    if (a->n > 1)
        jrun_fail(r, "%s expected at most 1 argument, got %d", what, a->n);
    if (a->n && (a->v[0].kind == J_DICT || a->v[0].kind == J_NAMESPACE)) {
        add_all(r, d, a->v[0].d);
    } else if (a->n) {
        jiter *it = jiter_open(r, a->v[0]);
        for (jval v; jiter_next(r, it, &v);) {
            const jlist *pair = jv_elements(r, v);
            if (pair->n != 2)
                jrun_fail(r, "%s: an element has length %zu; 2 is required", what, pair->n);
            jdict_set(r, d, pair->v[0], pair->v[1]);
        }
    }
    for (int i = 0; i < a->nk; i++)
        jdict_set(r, d, a->key[i], a->kv[i]);
    return d;
}

static jval g_dict(jrun *r, jval self, jval *a) {
    (void)self;
    (void)a;
    return (jval){.kind = J_DICT, .d = dict_of_call(r, "dict")};
}

static jval g_namespace(jrun *r, jval self, jval *a) {
    (void)self;
    (void)a;
    jdict *d = dict_of_call(r, "namespace");
    for (size_t i = 0; i < d->n; i++)
        if (d->e[i].k.kind == J_STR && d->e[i].k.s->n && d->e[i].k.s->p[0] == '_')
            jrun_fail(r, "a namespace has no names that begin with '_'");
    return (jval){.kind = J_NAMESPACE, .d = d};
}

static jval g_cycler(jrun *r, jval self, jval *a) {
    (void)self;
    (void)a;
    if (r->call->n == 0)
        jrun_fail(r, "at least one item has to be provided");
    jcycler *c = JNEW(r, jcycler, 1);
    *c = (jcycler){.v = r->call->v, .n = (size_t)r->call->n};
    return (jval){.kind = J_CYCLER, .cycler = c};
}

static jval g_joiner(jrun *r, jval self, jval *a) {
    (void)self;
    jjoiner *j = JNEW(r, jjoiner, 1);
    j->sep = a[0].kind == J_MISSING ? jv_text(r, ", ") : a[0];
    return (jval){.kind = J_JOINER, .joiner = j};
}

/* The message reaches the caller as it is; the error line has the place in front. */
static jval g_raise_exception(jrun *r, jval self, jval *a) {
    (void)self;
    jval v = jtext_of(r, a[0]);
    jinja_output *o = r->result;
    buf_add(&o->raised, v.s->p, v.s->n);
    o->did_raise = true;
    jrun_fail(r, "%.*s", v.s->n > 800 ? 800 : (int)v.s->n, v.s->p);
}

static jval g_strftime_now(jrun *r, jval self, jval *a) {
    (void)self;
    return jformat_time(r, jarg_str(r, "strftime_now", a[0]), r->now);
}

static jval g_lipsum(jrun *r, jval self, jval *a) {
    (void)self;
    (void)a;
    jrun_fail(r, "lipsum: a template's text is not random here");
}

static const jrow globals[] = {
    {"range", "start stop step", 1, g_range},
    {"dict", "*", 0, g_dict},
    {"namespace", "*", 0, g_namespace},
    {"cycler", "*", 0, g_cycler},
    {"joiner", "sep", 0, g_joiner},
    {"raise_exception", "message", 1, g_raise_exception},
    {"strftime_now", "format", 1, g_strftime_now},
    {"lipsum", "*", 0, g_lipsum},
};

const jrow *jglobal_find(const char *name, size_t n) {
    return jrow_find(ROWS(globals), name, n);
}
