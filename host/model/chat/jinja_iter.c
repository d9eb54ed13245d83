/* SPDX-License-Identifier: Apache-2.0
 * What can be iterated, and how. */
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <string.h>

bool jv_iterable(jval v) {
    switch (v.kind) {
    case J_UNDEFINED:
    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_RANGE:
    case J_ITER:
    case J_VIEW:
    case J_LOOP: return true;
    default: return false;
    }
}

/* i * step may lie past 64 bits where the element does not: unsigned, it wraps back. */
int64_t jrange_at(const jrange *v, int64_t i) {
    return (int64_t)((uint64_t)v->start + (uint64_t)i * (uint64_t)v->step);
}

static jval view_element(jrun *r, const jview *v, size_t i) {
    const jentry *e = &v->d->e[i];
    return v->what == JVIEW_KEYS ? e->k : v->what == JVIEW_VALUES ? e->v : jv_pair(r, e->k, e->v);
}

/* The element `at` of a container that can be counted. */
static bool next_counted(jrun *r, jiter *it, jval *out) {
    jval v = it->src;
    size_t i = it->at++;
    switch (v.kind) {
    case J_LIST:
    case J_TUPLE:
        if (i < v.l->n)
            *out = v.l->v[i];
        return i < v.l->n;
    case J_DICT:
        if (i < v.d->n)
            *out = v.d->e[i].k;
        return i < v.d->n;
    case J_VIEW:
        if (i < v.v->d->n)
            *out = view_element(r, v.v, i);
        return i < v.v->d->n;
    case J_RANGE:
        if ((int64_t)i < v.r->n)
            *out = jv_int(jrange_at(v.r, (int64_t)i));
        return (int64_t)i < v.r->n;
    default: return false;
    }
}

/* `at` counts bytes. */
static bool next_char(jrun *r, jiter *it, jval *out) {
    const jstr *s = it->src.s;
    uint32_t cp;
    if (it->at >= s->n)
        return false;
    int k = utf8_next(s->p + it->at, s->p + s->n, &cp);
    *out = jv_borrow(r, s->p + it->at, (size_t)k);
    it->at += (size_t)k;
    return true;
}

jiter *jiter_open(jrun *r, jval v) {
    if (v.kind == J_ITER)
        return v.it;
    if (!jv_iterable(v) || v.kind == J_LOOP)
        jrun_fail(r, "'%s' object is not iterable", jv_type(v));
    jiter *it = JNEW(r, jiter, 1);
    *it = (jiter){.next = v.kind == J_STR ? next_char : next_counted, .src = v};
    return it;
}

bool jiter_next(jrun *r, jiter *it, jval *out) {
    jrun_tick(r, 0);
    return it->next(r, it, out);
}

jlist *jv_elements(jrun *r, jval v) {
    if (v.kind == J_LIST || v.kind == J_TUPLE)
        return v.l;
    jiter *it = jiter_open(r, v);
    jlist *l = jlist_new(r, 0);
    for (jval x; jiter_next(r, it, &x);)
        jlist_push(r, l, x);
    return l;
}

jval jiter_of_list(jrun *r, jlist *l) {
    jiter *it = JNEW(r, jiter, 1);
    *it = (jiter){.next = next_counted, .src = jv_list(l)};
    return (jval){.kind = J_ITER, .it = it};
}

bool jv_length(jrun *r, jval v, int64_t *n) {
    switch (v.kind) {
    case J_UNDEFINED: *n = 0; return true;
    case J_STR:
        jrun_tick(r, v.s->chars == JTEXT_UNCOUNTED ? v.s->n : 0);
        *n = jv_chars(v);
        return true;
    case J_LIST:
    case J_TUPLE: *n = (int64_t)v.l->n; return true;
    case J_DICT: *n = (int64_t)v.d->n; return true;
    case J_VIEW: *n = (int64_t)v.v->d->n; return true;
    case J_RANGE: *n = v.r->n; return true;
    case J_LOOP: *n = (int64_t)v.loop->items->n; return true;
    default: return false;
    }
}
