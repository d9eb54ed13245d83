/* SPDX-License-Identifier: Apache-2.0
 * Expressions: a walk over the tree, calls, and how arguments meet parameters. */
#include "host/model/chat/jinja_core.h"
#include <math.h>
#include <string.h>

/* ---- Names ---- */

jscope *jscope_push(jrun *r, jscope *up) {
    jscope *s = JNEW(r, jscope, 1);
    s->up = up;
    return s;
}

void jscope_set(jrun *r, jscope *s, int32_t sym, jval v) {
    for (int i = 0; i < s->n; i++)
        if (s->v[i].sym == sym) {
            s->v[i].v = v;
            return;
        }
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 4;
        jbind *grown = JNEW(r, jbind, cap);
        if (s->n)
            memcpy(grown, s->v, (size_t)s->n * sizeof *grown);
        s->v = grown;
        s->cap = cap;
    }
    s->v[s->n++] = (jbind){sym, v};
}

static jval name_value(jrun *r, const jnode *n) {
    for (const jscope *s = r->scope; s; s = s->up)
        for (int i = 0; i < s->n; i++)
            if (s->v[i].sym == n->sym)
                return s->v[i].v;
    jval v = r->global[n->sym];
    return v.kind == J_MISSING ? jv_undefined_name(r, n->val) : v;
}

/* ---- Arguments ---- */

int64_t jarg_int(jrun *r, const char *what, jval v, int64_t preset) {
    int64_t i;
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return preset;
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (!jv_integer(v, &i))
        jrun_fail(r, "%s: '%s' object cannot be interpreted as an integer", what, jv_type(v));
    return i;
}

bool jarg_bool(jrun *r, jval v, bool preset) {
    return v.kind == J_MISSING ? preset : jv_truth(r, v);
}

jval jarg_str(jrun *r, const char *what, jval v) {
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (v.kind != J_STR)
        jrun_fail(r, "%s: must be str, not %s", what, jv_type(v));
    return v;
}

typedef struct {
    jlist *pos, *key, *val;
} gathered;

static void gather_keyword(jrun *r, gathered *g, jval key, jval v) {
    for (size_t i = 0; i < g->key->n; i++)
        if (jv_equal(r, g->key->v[i], key))
            jrun_fail(r, "got multiple values for keyword argument '%.*s'",
                      (int)(key.s->n > 64 ? 64 : key.s->n), key.s->p);
    jlist_push(r, g->key, key);
    jlist_push(r, g->val, v);
}

static void gather_mapping(jrun *r, gathered *g, jval v) {
    if (v.kind == J_UNDEFINED)
        jv_fail_undefined(r, v);
    if (v.kind != J_DICT)
        jrun_fail(r, "argument after ** must be a mapping, not %s", jv_type(v));
    for (size_t i = 0; i < v.d->n; i++) {
        if (v.d->e[i].k.kind != J_STR)
            jrun_fail(r, "keywords must be strings");
        gather_keyword(r, g, v.d->e[i].k, v.d->e[i].v);
    }
}

static void gather_elements(jrun *r, gathered *g, jval v) {
    const jlist *l = jv_elements(r, v);
    for (size_t i = 0; i < l->n; i++)
        jlist_push(r, g->pos, l->v[i]);
}

void jeval_args(jrun *r, const jnode *list, jargs *out) {
    *out = (jargs){0};
    if (!list)
        return;
    gathered g = {jlist_new(r, 0), jlist_new(r, 0), jlist_new(r, 0)};
    for (const jnode *n = list; n; n = n->next) {
        jval v = jeval(r, n->a);
        switch (n->flag) {
        case JARG_KEYWORD: gather_keyword(r, &g, n->val, v); break;
        case JARG_STAR: gather_elements(r, &g, v); break;
        case JARG_STARSTAR: gather_mapping(r, &g, v); break;
        default: jlist_push(r, g.pos, v); break;
        }
    }
    *out = (jargs){g.pos->v, (int)g.pos->n, g.key->v, g.val->v, (int)g.key->n};
}

/* Index of a word in "old new count"; -1: none. */
static int param_index(const char *params, const jstr *name) {
    int i = 0;
    for (const char *p = params; *p; i++) {
        size_t n = strcspn(p, " ");
        if (n == name->n && memcmp(p, name->p, n) == 0)
            return i;
        p += n + (p[n] == ' ');
    }
    return -1;
}

static int param_count(const char *params) {
    int n = *params != 0;
    for (const char *p = params; *p; p++)
        n += *p == ' ';
    return n;
}

static void bind(jrun *r, const jrow *row, const jargs *given, jval *a) {
    int most = param_count(row->params), have = given->n;
    if (given->n > most)
        jrun_fail(r, "%s takes at most %d argument%s (%d given)", row->name, most,
                  most == 1 ? "" : "s", given->n);
    for (int i = 0; i < given->n; i++)
        a[i] = given->v[i];
    for (int i = 0; i < given->nk; i++) {
        int at = param_index(row->params, given->key[i].s);
        if (at < 0)
            jrun_fail(r, "%s got an unexpected keyword argument '%.*s'", row->name,
                      (int)(given->key[i].s->n > 64 ? 64 : given->key[i].s->n), given->key[i].s->p);
        if (a[at].kind != J_MISSING)
            jrun_fail(r, "%s got two values for an argument", row->name);
        a[at] = given->kv[i];
        have++;
    }
    for (int i = 0; i < row->need; i++)
        if (a[i].kind == J_MISSING)
            jrun_fail(r, "%s needs %d argument%s (%d given)", row->name, row->need,
                      row->need == 1 ? "" : "s", have);
}

jval jeval_row(jrun *r, const jrow *row, jval self, const jargs *given) {
    jval a[JPARAMS_MAX] = {JV_MISSING};
    const jargs *outer = r->call;
    jrun_enter(r);
    if (row->params[0] != '*')
        bind(r, row, given, a);
    r->call = given;
    jval v = row->fn(r, self, a);
    r->call = outer;
    r->depth--;
    return v;
}

static jval call_joiner(jrun *r, jjoiner *j) {
    bool used = j->used;
    j->used = true;
    return used ? j->sep : jv_text(r, "");
}

static jval call_loop(jrun *r, jloop *loop, const jargs *a) {
    if (a->n != 1 || a->nk)
        jrun_fail(r, "loop takes one argument");
    return jexec_loop_again(r, loop, a->v[0]);
}

/* What a method of a string that is marked as HTML gives is marked too. */
static jval marked(jrun *r, jval v) {
    if (v.kind == J_LIST || v.kind == J_TUPLE) {
        jlist *l = jlist_new(r, v.l->n);
        for (size_t i = 0; i < v.l->n; i++)
            jlist_push(r, l, marked(r, v.l->v[i]));
        v.l = l;
    }
    v.safe = v.kind == J_STR;
    return v;
}

static jval call_function(jrun *r, const jfunc *f, const jargs *a) {
    jval v = jeval_row(r, f->row, f->self, a);
    return f->self.kind == J_STR && f->self.safe ? marked(r, v) : v;
}

jval jeval_call(jrun *r, jval f, const jargs *a) {
    switch (f.kind) {
    case J_UNDEFINED: jv_fail_undefined(r, f);
    case J_FUNC: return call_function(r, f.fn, a);
    case J_MACRO: return jexec_macro(r, f.m, a);
    case J_LOOP: return call_loop(r, f.loop, a);
    case J_JOINER: return call_joiner(r, f.joiner);
    default: jrun_fail(r, "'%s' object is not callable", jv_type(f));
    }
}

/* ---- Nodes ---- */

static jval eval_call(jrun *r, const jnode *n) {
    jargs a;
    jval f = jeval(r, n->a);
    jeval_args(r, n->b, &a);
    r->at = n;
    return jeval_call(r, f, &a);
}

static jval apply_row(jrun *r, const jnode *n, jval v) {
    jargs a;
    jeval_args(r, n->b, &a);
    r->at = n;
    if (!n->row)
        jrun_fail(r, "no %s is named '%.*s'", n->op == N_TEST ? "test" : "filter",
                  (int)(n->val.s->n > 64 ? 64 : n->val.s->n), n->val.s->p);
    return jeval_row(r, n->row, v, &a);
}

jval jeval_filters(jrun *r, const jnode *chain, jval v) {
    if (!chain)
        return v;
    jrun_enter(r);
    v = apply_row(r, chain, jeval_filters(r, chain->a, v));
    r->depth--;
    return v;
}

static jval eval_list(jrun *r, const jnode *n) {
    jlist *l = jlist_new(r, 0);
    for (const jnode *k = n->a; k; k = k->next)
        jlist_push(r, l, jeval(r, k));
    return (jval){.kind = n->op == N_LIST ? J_LIST : J_TUPLE, .l = l};
}

static jval eval_dict(jrun *r, const jnode *n) {
    jdict *d = jdict_new(r);
    for (const jnode *k = n->a; k; k = k->next->next) {
        jval key = jeval(r, k), v = jeval(r, k->next);
        r->at = n;
        jdict_set(r, d, key, v);
    }
    return (jval){.kind = J_DICT, .d = d};
}

static jval eval_compare(jrun *r, const jnode *n) {
    jval left = jeval(r, n->a);
    for (const jnode *o = n->b; o; o = o->next) {
        jval right = jeval(r, o->a);
        r->at = o;
        if (!jop_compare(r, (jcompare)o->flag, left, right))
            return jv_bool(false);
        left = right;
    }
    return jv_bool(true);
}

static jval eval_concat(jrun *r, const jnode *n) {
    jval v = jtext_of(r, jeval(r, n->a));
    for (const jnode *k = n->a->next; k; k = k->next) {
        jval right = jtext_of(r, jeval(r, k));
        r->at = n;
        v = jv_concat(r, v, right);
    }
    return v;
}

static jval eval_optional(jrun *r, const jnode *n) {
    return n ? jeval(r, n) : JV_MISSING;
}

static jval eval_slice(jrun *r, const jnode *n) {
    jval obj = jeval(r, n->a), from = eval_optional(r, n->b), to = eval_optional(r, n->c);
    jval step = eval_optional(r, n->d);
    r->at = n;
    if (n->a->op == N_CONST && obj.kind != J_STR) /* jinja2 evaluates constants more leniently */
        return jv_undefined_in(r, obj, JV_NONE);
    return jop_slice(r, obj, from, to, step);
}

static jval eval_condition(jrun *r, const jnode *n) {
    if (jv_truth(r, jeval(r, n->b)))
        return jeval(r, n->a);
    return n->c ? jeval(r, n->c)
                : jv_undefined(r, "the inline if-expression was false and no else was given");
}

static jval eval_junction(jrun *r, const jnode *n) {
    jval left = jeval(r, n->a);
    return jv_truth(r, left) == (n->op == N_OR) ? left : jeval(r, n->b);
}

static jval eval_binary(jrun *r, const jnode *n) {
    jval a = jeval(r, n->a), b = jeval(r, n->b);
    r->at = n;
    return jop_binary(r, (jop)n->op, a, b);
}

static jval eval_attr(jrun *r, const jnode *n) {
    jval obj = jeval(r, n->a);
    r->at = n;
    return jop_attr(r, obj, n->val);
}

static jval eval_item(jrun *r, const jnode *n) {
    jval obj = jeval(r, n->a), key = jeval(r, n->b);
    r->at = n;
    return jop_item(r, obj, key);
}

static jval eval_sign(jrun *r, const jnode *n) {
    jval v = jeval(r, n->a);
    r->at = n;
    return jop_negate(r, v, n->op == N_NEG);
}

static jval eval_applied(jrun *r, const jnode *n) {
    return apply_row(r, n, jeval(r, n->a));
}

static jval eval_node(jrun *r, const jnode *n) {
    switch (n->op) {
    case N_CONST: return n->val;
    case N_NAME: return name_value(r, n);
    case N_TUPLE:
    case N_LIST: return eval_list(r, n);
    case N_DICT: return eval_dict(r, n);
    case N_OR:
    case N_AND: return eval_junction(r, n);
    case N_NOT: return jv_bool(!jv_truth(r, jeval(r, n->a)));
    case N_COND: return eval_condition(r, n);
    case N_COMPARE: return eval_compare(r, n);
    case N_NEG:
    case N_POS: return eval_sign(r, n);
    case N_CONCAT: return eval_concat(r, n);
    case N_ATTR: return eval_attr(r, n);
    case N_ITEM: return eval_item(r, n);
    case N_SLICE: return eval_slice(r, n);
    case N_CALL: return eval_call(r, n);
    case N_FILTER:
    case N_TEST: return eval_applied(r, n);
    default: return eval_binary(r, n);
    }
}

jval jeval(jrun *r, const jnode *n) {
    r->at = n;
    jrun_tick(r, 0);
    jrun_enter(r);
    jval v = eval_node(r, n);
    r->depth--;
    return v;
}
