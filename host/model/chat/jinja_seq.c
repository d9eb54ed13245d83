/* SPDX-License-Identifier: Apache-2.0
 * Filters of sequences. Those that Python writes as generators are so here: elements are looked at
 * when somebody asks for them. */
#include "host/model/chat/jinja_core.h"
#include <string.h>

static jval q_length(jrun *r, jval v, jval *a) {
    (void)a;
    int64_t n;
    if (!jv_length(r, v, &n))
        jrun_fail(r, "object of type '%s' has no len()", jv_type(v));
    return jv_int(n);
}

static jval q_first(jrun *r, jval v, jval *a) {
    (void)a;
    jval x;
    return jiter_next(r, jiter_open(r, v), &x)
               ? x
               : jv_undefined(r, "no first item, sequence was empty");
}

static jval q_last(jrun *r, jval v, jval *a) {
    (void)a;
    if (v.kind == J_ITER)
        jrun_fail(r, "'generator' object is not reversible");
    jlist *l = jv_elements(r, v);
    return l->n ? l->v[l->n - 1] : jv_undefined(r, "no last item, sequence was empty");
}

static jval q_list(jrun *r, jval v, jval *a) {
    (void)a;
    return jv_list(jv_elements(r, v));
}

/* A generator written as a function that makes all of it: called when the first element is due. */
typedef struct {
    jlist *(*make)(jrun *r, jval v, jval *a);
    jval v, a[3];
} deferred;

static bool next_deferred(jrun *r, jiter *it, jval *out) {
    deferred *d = it->state;
    if (!it->inner)
        it->inner = jiter_of_list(r, d->make(r, d->v, d->a)).it;
    return jiter_next(r, it->inner, out);
}

static jval defer(jrun *r, jlist *(*make)(jrun *, jval, jval *), jval v, const jval *a) {
    deferred *d = JNEW(r, deferred, 1);
    *d = (deferred){make, v, {a[0], a[1], a[2]}};
    jiter *it = JNEW(r, jiter, 1);
    *it = (jiter){.next = next_deferred, .state = d};
    return (jval){.kind = J_ITER, .it = it};
}

static jlist *items_of(jrun *r, jval v, jval *a) {
    (void)a;
    jlist *l = jlist_new(r, 0);
    if (v.kind == J_UNDEFINED)
        return l;
    if (v.kind != J_DICT)
        jrun_fail(r, "can only get item pairs from a mapping");
    for (size_t i = 0; i < v.d->n; i++)
        jlist_push(r, l, jv_pair(r, v.d->e[i].k, v.d->e[i].v));
    return l;
}

static jval q_items(jrun *r, jval v, jval *a) {
    return defer(r, items_of, v, a);
}

static jval q_join(jrun *r, jval v, jval *a) {
    jbuf b = {0};
    jval sep = a[0].kind == J_MISSING ? jv_text(r, "") : jtext_of(r, a[0]), x;
    jiter *it = jiter_open(r, v);
    for (bool first = true; jiter_next(r, it, &x); first = false) {
        if (!first)
            jbuf_add(r, &b, sep.s->p, sep.s->n);
        jtext_str(r, &b, jop_path(r, x, a[1], JV_MISSING));
    }
    return jbuf_take(&b, r);
}

static jval q_reverse(jrun *r, jval v, jval *a) {
    (void)a;
    if (v.kind == J_STR)
        return jop_slice(r, v, JV_NONE, JV_NONE, jv_int(-1));
    jlist *l = jv_elements(r, v), *out = jlist_new(r, l->n);
    for (size_t i = l->n; i > 0; i--)
        jlist_push(r, out, l->v[i - 1]);
    return jiter_of_list(r, out);
}

/* ---- Order ---- */

static jval ignore_case(jrun *r, jval v, bool sensitive) {
    return v.kind == J_STR && !sensitive ? jchar_map(r, v, JCASE_LOWER) : v;
}

typedef struct {
    jval key, v;
} keyed;

/* A merge sort: stable, and a comparison that fails may leave it at any point. */
static void sort_keyed(jrun *r, keyed *e, keyed *tmp, size_t n, bool reverse) {
    if (n < 2)
        return;
    size_t mid = n / 2, i = 0, k = mid, at = 0;
    sort_keyed(r, e, tmp, mid, reverse);
    sort_keyed(r, e + mid, tmp, n - mid, reverse);
    while (i < mid && k < n) {
        int c = jv_compare(r, e[k].key, e[i].key, "<");
        bool right = c != 2 && (reverse ? c > 0 : c < 0);
        tmp[at++] = right ? e[k++] : e[i++];
    }
    while (i < mid)
        tmp[at++] = e[i++];
    while (k < n)
        tmp[at++] = e[k++];
    memcpy(e, tmp, n * sizeof *e);
}

/* The sort key of x: one value, or a list of several for "a,b". */
static jval sort_key(jrun *r, jval x, jval attribute, bool sensitive) {
    jlist *key = jlist_new(r, 1);
    if (attribute.kind != J_STR) {
        jlist_push(r, key, ignore_case(r, jop_path(r, x, attribute, JV_MISSING), sensitive));
        return jv_list(key);
    }
    const char *p = attribute.s->p, *end = p + attribute.s->n;
    for (bool more = true; more;) {
        const char *comma = memchr(p, ',', (size_t)(end - p)), *q = comma ? comma : end;
        jval path = jv_borrow(r, p, (size_t)(q - p));
        jlist_push(r, key, ignore_case(r, jop_path(r, x, path, JV_MISSING), sensitive));
        more = comma != NULL;
        p = comma ? comma + 1 : end;
    }
    return jv_list(key);
}

static jlist *sorted(jrun *r, keyed *e, size_t n, bool reverse) {
    sort_keyed(r, e, JNEW(r, keyed, n + 1), n, reverse);
    jlist *out = jlist_new(r, n);
    for (size_t i = 0; i < n; i++)
        jlist_push(r, out, e[i].v);
    return out;
}

static jval q_sort(jrun *r, jval v, jval *a) {
    bool reverse = jarg_bool(r, a[0], false), sensitive = jarg_bool(r, a[1], false);
    jlist *l = jv_elements(r, v);
    keyed *e = JNEW(r, keyed, l->n + 1);
    for (size_t i = 0; i < l->n; i++)
        e[i] = (keyed){sort_key(r, l->v[i], a[2], sensitive), l->v[i]};
    return jv_list(sorted(r, e, l->n, reverse));
}

static jval q_dictsort(jrun *r, jval v, jval *a) {
    bool sensitive = jarg_bool(r, a[0], false), reverse = jarg_bool(r, a[2], false);
    bool by_value = a[1].kind != J_MISSING && jv_is_str(a[1], "value");
    if (a[1].kind != J_MISSING && !by_value && !jv_is_str(a[1], "key"))
        jrun_fail(r, "you can only sort by either \"key\" or \"value\"");
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (v.kind != J_DICT)
        jrun_fail(r, "'%s' object has no attribute 'items'", jv_type(v));
    keyed *e = JNEW(r, keyed, v.d->n + 1);
    for (size_t i = 0; i < v.d->n; i++) {
        const jentry *x = &v.d->e[i];
        e[i] = (keyed){ignore_case(r, by_value ? x->v : x->k, sensitive), jv_pair(r, x->k, x->v)};
    }
    return jv_list(sorted(r, e, v.d->n, reverse));
}

static jval extreme(jrun *r, jval v, jval *a, bool largest) {
    jval best, key, x;
    bool sensitive = jarg_bool(r, a[0], false);
    jiter *it = jiter_open(r, v);
    if (!jiter_next(r, it, &best))
        return jv_undefined(r, "no aggregated item, sequence was empty");
    key = ignore_case(r, jop_path(r, best, a[1], JV_MISSING), sensitive);
    while (jiter_next(r, it, &x)) {
        jval k = ignore_case(r, jop_path(r, x, a[1], JV_MISSING), sensitive);
        int c = jv_compare(r, k, key, largest ? ">" : "<");
        if (c != 2 && (largest ? c > 0 : c < 0)) {
            best = x;
            key = k;
        }
    }
    return best;
}

static jval q_min(jrun *r, jval v, jval *a) {
    return extreme(r, v, a, false);
}

static jval q_max(jrun *r, jval v, jval *a) {
    return extreme(r, v, a, true);
}

static jval q_sum(jrun *r, jval v, jval *a) {
    jval total = a[1].kind == J_MISSING ? jv_int(0) : a[1], x;
    jiter *it = jiter_open(r, v);
    while (jiter_next(r, it, &x))
        total = jop_binary(r, N_ADD, total, jop_path(r, x, a[0], JV_MISSING));
    return total;
}

static jlist *unique_of(jrun *r, jval v, jval *a) {
    bool sensitive = jarg_bool(r, a[0], false);
    jdict *seen = jdict_new(r);
    jlist *out = jlist_new(r, 0);
    jiter *it = jiter_open(r, v);
    for (jval x; jiter_next(r, it, &x);) {
        jval key = ignore_case(r, jop_path(r, x, a[1], JV_MISSING), sensitive);
        if (jdict_get(r, seen, key))
            continue;
        jdict_set(r, seen, key, JV_NONE);
        jlist_push(r, out, x);
    }
    return out;
}

static jval q_unique(jrun *r, jval v, jval *a) {
    return defer(r, unique_of, v, a);
}

/* ---- Groups ---- */

static jlist *batch_of(jrun *r, jval v, jval *a) {
    int64_t n = jarg_int(r, "linecount", a[0], 0);
    jlist *out = jlist_new(r, 0), *row = jlist_new(r, 0);
    jiter *it = jiter_open(r, v);
    for (jval x; jiter_next(r, it, &x);) {
        if ((int64_t)row->n == n) {
            jlist_push(r, out, jv_list(row));
            row = jlist_new(r, 0);
        }
        jlist_push(r, row, x);
    }
    if (row->n && a[1].kind != J_MISSING && a[1].kind != J_NONE)
        while ((int64_t)row->n < n)
            jlist_push(r, row, a[1]);
    if (row->n)
        jlist_push(r, out, jv_list(row));
    return out;
}

static jval q_batch(jrun *r, jval v, jval *a) {
    return defer(r, batch_of, v, a);
}

static jlist *slice_of(jrun *r, jval v, jval *a) {
    jlist *l = jv_elements(r, v), *out = jlist_new(r, 0);
    int64_t slices = jarg_int(r, "slices", a[0], 0), n = (int64_t)l->n, at = 0;
    bool fill = a[1].kind != J_MISSING && a[1].kind != J_NONE;
    if (slices == 0)
        jrun_fail(r, "division by zero");
    for (int64_t i = 0; i < slices; i++) {
        int64_t count = n / slices + (i < n % slices);
        jlist *row = jlist_new(r, 0);
        for (int64_t k = 0; k < count; k++)
            jlist_push(r, row, l->v[at++]);
        if (fill && i >= n % slices)
            jlist_push(r, row, a[1]);
        jlist_push(r, out, jv_list(row));
    }
    return out;
}

static jval q_slice(jrun *r, jval v, jval *a) {
    return defer(r, slice_of, v, a);
}

static jval q_groupby(jrun *r, jval v, jval *a) {
    bool sensitive = jarg_bool(r, a[2], false);
    jlist *l = jv_elements(r, v), *out = jlist_new(r, 0), *group = NULL;
    keyed *e = JNEW(r, keyed, l->n + 1);
    for (size_t i = 0; i < l->n; i++)
        e[i] = (keyed){ignore_case(r, jop_path(r, l->v[i], a[0], a[1]), sensitive), l->v[i]};
    sort_keyed(r, e, JNEW(r, keyed, l->n + 1), l->n, false);
    for (size_t i = 0; i < l->n; i++) {
        if (!group || !jv_equal(r, e[i].key, e[i - 1].key)) {
            group = jlist_new(r, 0);
            jval key = sensitive ? e[i].key : jop_path(r, e[i].v, a[0], a[1]);
            jval pair = jv_pair(r, key, jv_list(group));
            jlist_push(r, out, pair);
        }
        jlist_push(r, group, e[i].v);
    }
    return jv_list(out);
}

/* ---- map, select, reject ---- */

typedef struct {
    const jrow *row; /* what is applied; NULL: truth, or nothing for map */
    jargs args;      /* of the row */
    jval path, preset;
    bool want; /* of select: the outcome that passes */
} pick;

static bool next_mapped(jrun *r, jiter *it, jval *out) {
    const pick *p = it->state;
    if (!jiter_next(r, it->inner, out))
        return false;
    *out = p->row ? jeval_row(r, p->row, *out, &p->args) : jop_path(r, *out, p->path, p->preset);
    return true;
}

static bool next_picked(jrun *r, jiter *it, jval *out) {
    const pick *p = it->state;
    while (jiter_next(r, it->inner, out)) {
        jval x = jop_path(r, *out, p->path, JV_MISSING);
        if (p->row)
            x = jeval_row(r, p->row, x, &p->args);
        if (jv_truth(r, x) == p->want)
            return true;
    }
    return false;
}

/* The rest of this call's arguments, without the first `skip`. */
static jargs rest_of(jrun *r, int skip) {
    jargs a = *r->call;
    a.v += a.n ? skip : 0;
    a.n -= skip;
    return a;
}

static const jrow *row_of(jrun *r, jval name, bool test) {
    jarg_str(r, test ? "test" : "filter", name);
    const jrow *row = test ? jtest_find(name.s->p, name.s->n) : jfilter_find(name.s->p, name.s->n);
    if (!row)
        jrun_fail(r, "no %s is named '%.*s'", test ? "test" : "filter",
                  (int)(name.s->n > 64 ? 64 : name.s->n), name.s->p);
    return row;
}

static jval lazily(jrun *r, jval v, pick *p, bool (*next)(jrun *, jiter *, jval *)) {
    if (!jv_truth(r, v))
        return jiter_of_list(r, jlist_new(r, 0));
    jiter *it = JNEW(r, jiter, 1);
    *it = (jiter){.next = next, .inner = jiter_open(r, v), .state = p};
    return (jval){.kind = J_ITER, .it = it};
}

static jval q_map(jrun *r, jval v, jval *a) {
    (void)a;
    const jargs *c = r->call;
    pick *p = JNEW(r, pick, 1);
    if (c->n) {
        p->row = row_of(r, c->v[0], false);
        p->args = rest_of(r, 1);
        return lazily(r, v, p, next_mapped);
    }
    for (int i = 0; i < c->nk; i++) {
        if (jv_is_str(c->key[i], "attribute"))
            p->path = c->kv[i];
        else if (jv_is_str(c->key[i], "default"))
            p->preset = c->kv[i];
        else
            jrun_fail(r, "map got an unexpected keyword argument");
    }
    if (p->path.kind == J_MISSING)
        jrun_fail(r, "map requires a filter argument");
    return lazily(r, v, p, next_mapped);
}

static jval pick_from(jrun *r, jval v, bool attr, bool want) {
    pick *p = JNEW(r, pick, 1);
    p->want = want;
    if (attr && r->call->n == 0)
        jrun_fail(r, "missing parameter for attribute name");
    if (attr)
        p->path = r->call->v[0];
    if (r->call->n > attr) {
        p->row = row_of(r, r->call->v[attr], true);
        p->args = rest_of(r, attr + 1);
    }
    return lazily(r, v, p, next_picked);
}

static jval q_select(jrun *r, jval v, jval *a) {
    (void)a;
    return pick_from(r, v, false, true);
}

static jval q_reject(jrun *r, jval v, jval *a) {
    (void)a;
    return pick_from(r, v, false, false);
}

static jval q_selectattr(jrun *r, jval v, jval *a) {
    (void)a;
    return pick_from(r, v, true, true);
}

static jval q_rejectattr(jrun *r, jval v, jval *a) {
    (void)a;
    return pick_from(r, v, true, false);
}

static const jrow rows[] = {
    {"batch", "linecount fill_with", 1, q_batch},
    {"count", "", 0, q_length},
    {"dictsort", "case_sensitive by reverse", 0, q_dictsort},
    {"first", "", 0, q_first},
    {"groupby", "attribute default case_sensitive", 1, q_groupby},
    {"items", "", 0, q_items},
    {"join", "d attribute", 0, q_join},
    {"last", "", 0, q_last},
    {"length", "", 0, q_length},
    {"list", "", 0, q_list},
    {"map", "*", 0, q_map},
    {"max", "case_sensitive attribute", 0, q_max},
    {"min", "case_sensitive attribute", 0, q_min},
    {"reject", "*", 0, q_reject},
    {"rejectattr", "*", 0, q_rejectattr},
    {"reverse", "", 0, q_reverse},
    {"select", "*", 0, q_select},
    {"selectattr", "*", 0, q_selectattr},
    {"slice", "slices fill_with", 1, q_slice},
    {"sort", "reverse case_sensitive attribute", 0, q_sort},
    {"sum", "attribute start", 0, q_sum},
    {"unique", "case_sensitive attribute", 0, q_unique},
};

const jrow *jseq_find(const char *name, size_t n) {
    return jrow_find(rows, (int)(sizeof rows / sizeof *rows), name, n);
}
