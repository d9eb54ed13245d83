/* SPDX-License-Identifier: Apache-2.0
 * Statements: what they write and what they bind. */
#include "host/model/chat/jinja_core.h"
#include <string.h>

typedef enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static flow exec_list(jrun *r, const jnode *n);

/* ---- Output ---- */

static void write_value(jrun *r, jval v) {
    if (r->autoescape && !v.safe)
        v = jtext_escaped(r, v);
    jtext_str(r, r->out, v);
}

static void exec_output(jrun *r, const jnode *n) {
    for (const jnode *k = n->a; k; k = k->next) {
        jval v = jeval(r, k);
        r->at = k;
        write_value(r, v);
    }
}

/* What a body writes, as a string, with names of its own. */
static jval captured(jrun *r, const jnode *body, jscope *scope) {
    jbuf text = {0}, *out = r->out;
    jscope *outer = r->scope;
    r->out = &text;
    r->scope = scope;
    exec_list(r, body);
    r->scope = outer;
    r->out = out;
    jval v = jbuf_take(&text, r);
    v.safe = r->autoescape;
    return v;
}

/* ---- Binding ---- */

static void assign(jrun *r, const jnode *target, jval v);

static void assign_namespace(jrun *r, const jnode *target, jval v) {
    const jnode name = {.op = N_NAME,
                        .sym = target->sym,
                        .val = r->t->sym[target->sym],
                        .line = target->line,
                        .col = target->col};
    jval ns = jeval(r, &name);
    r->at = target;
    if (ns.kind != J_NAMESPACE)
        jrun_fail(r, "cannot assign attribute on non-namespace object");
    if (target->val.s->p[0] == '_')
        jrun_fail(r, "a namespace has no names that begin with '_'");
    jdict_set(r, ns.d, target->val, v);
}

static void assign_elements(jrun *r, const jnode *target, jval v) {
    size_t want = 0, i = 0;
    for (const jnode *k = target->a; k; k = k->next)
        want++;
    r->at = target;
    const jlist *l = jv_elements(r, v);
    if (l->n != want)
        jrun_fail(r,
                  l->n < want ? "not enough values to unpack (expected %zu, got %zu)"
                              : "too many values to unpack (expected %zu, got %zu)",
                  want, l->n);
    for (const jnode *k = target->a; k; k = k->next)
        assign(r, k, l->v[i++]);
}

static void assign(jrun *r, const jnode *target, jval v) {
    if (target->op == N_NAME)
        jscope_set(r, r->scope, target->sym, v);
    else if (target->op == N_NSREF)
        assign_namespace(r, target, v);
    else
        assign_elements(r, target, v);
}

static void exec_set_block(jrun *r, const jnode *n) {
    jval v = captured(r, n->d, jscope_push(r, r->scope));
    assign(r, n->a, jeval_filters(r, n->b, v));
}

static flow exec_with(jrun *r, const jnode *n) {
    jscope *outer = r->scope, *mine = jscope_push(r, outer);
    for (const jnode *t = n->a, *v = n->b; t; t = t->next, v = v->next) {
        r->scope = outer;
        jval x = jeval(r, v);
        r->scope = mine;
        assign(r, t, x);
    }
    r->scope = mine;
    flow f = exec_list(r, n->d);
    r->scope = outer;
    return f;
}

static flow exec_scope(jrun *r, const jnode *n, jscope *scope) {
    jscope *outer = r->scope;
    r->scope = scope;
    flow f = exec_list(r, n->d);
    r->scope = outer;
    return f;
}

static flow exec_autoescape(jrun *r, const jnode *n) {
    bool outer = r->autoescape;
    jval v = jeval(r, n->a);
    r->autoescape = jv_truth(r, v);
    flow f = exec_scope(r, n, jscope_push(r, r->scope));
    r->autoescape = outer;
    return f;
}

/* ---- Loops ---- */

/* The elements that pass the loop's test, which sees the target and not `loop`. */
static jlist *filtered(jrun *r, const jnode *n, const jlist *items) {
    jlist *out = jlist_new(r, 0);
    jscope *outer = r->scope;
    r->scope = jscope_push(r, outer);
    jval none = jv_undefined_name(r, r->t->sym[n->sym]);
    for (size_t i = 0; i < items->n; i++) {
        r->scope->n = 0;
        jscope_set(r, r->scope, n->sym, none);
        assign(r, n->a, items->v[i]);
        if (jv_truth(r, jeval(r, n->c)))
            jlist_push(r, out, items->v[i]);
    }
    r->scope = outer;
    return out;
}

static flow run_loop(jrun *r, const jnode *n, jval items, int64_t depth0) {
    jscope *outer = r->scope;
    r->at = n;
    jlist *l = jv_elements(r, items);
    if (n->c)
        l = filtered(r, n, l);
    jloop *loop = JNEW(r, jloop, 1);
    *loop = (jloop){.items = l, .depth0 = depth0, .node = n, .scope = outer};
    jscope *scope = r->scope = jscope_push(r, outer);
    bool completed = false; /* a body that ran to its end keeps `else` from running */
    for (flow f = FLOW_ON; f != FLOW_BREAK && loop->index0 < l->n; loop->index0++) {
        jrun_tick(r, 0);
        scope->n = 0;
        jscope_set(r, scope, n->sym, (jval){.kind = J_LOOP, .loop = loop});
        assign(r, n->a, l->v[loop->index0]);
        f = exec_list(r, n->d);
        completed = completed || f == FLOW_ON;
        if (f == FLOW_BREAK)
            break;
    }
    r->scope = outer;
    return n->e && !completed ? exec_scope(r, &(jnode){.d = n->e}, jscope_push(r, outer)) : FLOW_ON;
}

static flow exec_for(jrun *r, const jnode *n) {
    return run_loop(r, n, jeval(r, n->b), 0);
}

jval jexec_loop_again(jrun *r, jloop *loop, jval items) {
    if (!loop->node->flag)
        jrun_fail(r, "the loop must have the 'recursive' marker to be called");
    jbuf text = {0}, *out = r->out;
    jscope *outer = r->scope;
    jrun_enter(r);
    r->out = &text;
    r->scope = loop->scope;
    run_loop(r, loop->node, items, loop->depth0 + 1);
    r->scope = outer;
    r->out = out;
    r->depth--;
    return jbuf_take(&text, r);
}

/* ---- Macros ---- */

typedef struct {
    const jargs *given;
    bool *used; /* of the keywords */
} macro_call;

static bool take_keyword(const macro_call *c, const jstr *name, jval *out) {
    for (int i = 0; i < c->given->nk; i++) {
        const jstr *k = c->given->key[i].s;
        if (!c->used[i] && k->n == name->n && memcmp(k->p, name->p, k->n) == 0) {
            c->used[i] = true;
            *out = c->given->kv[i];
            return true;
        }
    }
    return false;
}

static jval parameter_preset(jrun *r, const jnode *param) {
    if (param->a)
        return jeval(r, param->a);
    jbuf b = {0};
    jbuf_puts(r, &b, "parameter ");
    jtext_repr(r, &b, param->val);
    jbuf_puts(r, &b, " was not provided");
    jbuf_putc(r, &b, 0);
    return jv_undefined(r, b.p);
}

/* Binds the parameters in r->scope, the macro's own; returns how many there are. Presets come last:
 * they see every argument, and the presets before them. */
static int bind_parameters(jrun *r, const jnode *n, const macro_call *c) {
    int count = 0;
    for (const jnode *p = n->a; p; p = p->next, count++) {
        jval v = JV_MISSING;
        if (count < c->given->n)
            v = c->given->v[count];
        else
            take_keyword(c, p->val.s, &v);
        jscope_set(r, r->scope, p->sym, v);
    }
    for (const jnode *p = n->a; p; p = p->next)
        for (int i = 0; i < r->scope->n; i++)
            if (r->scope->v[i].sym == p->sym && r->scope->v[i].v.kind == J_MISSING) {
                r->scope->v[i].v = jv_undefined_name(r, p->val);
                jval v = parameter_preset(r, p);
                jscope_set(r, r->scope, p->sym, v);
            }
    return count;
}

static int32_t symbol(const jrun *r, const char *name) {
    for (int32_t i = 0; i < r->t->nsym; i++)
        if (jv_is_str(r->t->sym[i], name))
            return i;
    return -1;
}

static bool has_parameter(const jnode *n, const char *name) {
    for (const jnode *p = n->a; p; p = p->next)
        if (jv_is_str(p->val, name))
            return true;
    return false;
}

static void bind_caller(jrun *r, const jnode *n, const macro_call *c) {
    jstr name = {.p = "caller", .n = 6};
    jval v = jv_undefined(r, "no caller defined");
    if (!(n->flag & JMACRO_CALLER) || has_parameter(n, "caller"))
        return;
    take_keyword(c, &name, &v);
    jscope_set(r, r->scope, symbol(r, "caller"), v);
}

static void bind_rest(jrun *r, const jmacro *m, const macro_call *c, int count) {
    const jnode *n = m->node;
    jdict *kwargs = jdict_new(r);
    jlist *varargs = jlist_new(r, 0);
    for (int i = 0; i < c->given->nk; i++)
        if (!c->used[i])
            jdict_set(r, kwargs, c->given->key[i], c->given->kv[i]);
    for (int i = count; i < c->given->n; i++)
        jlist_push(r, varargs, c->given->v[i]);
    int shown = m->name.s->n > 64 ? 64 : (int)m->name.s->n;
    if (n->flag & JMACRO_KWARGS)
        jscope_set(r, r->scope, symbol(r, "kwargs"), (jval){.kind = J_DICT, .d = kwargs});
    else if (kwargs->n)
        jrun_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", shown, m->name.s->p,
                  (int)(kwargs->e[0].k.s->n > 64 ? 64 : kwargs->e[0].k.s->n), kwargs->e[0].k.s->p);
    if (n->flag & JMACRO_VARARGS)
        jscope_set(r, r->scope, symbol(r, "varargs"), jv_tuple(varargs));
    else if (varargs->n)
        jrun_fail(r, "macro '%.*s' takes not more than %d argument(s)", shown, m->name.s->p, count);
}

jval jexec_macro(jrun *r, const jmacro *m, const jargs *given) {
    jscope *outer = r->scope;
    macro_call c = {given, given->nk ? JNEW(r, bool, given->nk) : NULL};
    jrun_enter(r);
    jscope *mine = r->scope = jscope_push(r, m->scope);
    int count = bind_parameters(r, m->node, &c);
    bind_caller(r, m->node, &c);
    bind_rest(r, m, &c, count);
    jval v = captured(r, m->node->d, mine);
    r->scope = outer;
    r->depth--;
    return v;
}

static jval macro_value(jrun *r, const jnode *n) {
    jmacro *m = JNEW(r, jmacro, 1);
    *m = (jmacro){n, r->scope, n->val};
    return (jval){.kind = J_MACRO, .m = m};
}

static void exec_call_block(jrun *r, const jnode *n) {
    const jnode *call = n->b;
    jval f = jeval(r, call->a);
    jargs a, with;
    jeval_args(r, call->b, &a);
    with = a;
    with.nk = a.nk + 1;
    with.key = JNEW(r, jval, with.nk);
    with.kv = JNEW(r, jval, with.nk);
    for (int i = 0; i < a.nk; i++) {
        with.key[i] = a.key[i];
        with.kv[i] = a.kv[i];
    }
    with.key[a.nk] = n->val;
    with.kv[a.nk] = macro_value(r, n);
    r->at = call;
    write_value(r, jeval_call(r, f, &with));
}

/* ---- Spans ---- */

static void add_span(jinja_output *o, size_t begin, size_t end) {
    if (o->nspan == o->span_cap) {
        o->span_cap = o->span_cap ? 2 * o->span_cap : 8;
        o->span = mem_grow(o->span, o->span_cap * sizeof *o->span);
    }
    o->span[o->nspan++] = (jinja_span){begin, end};
}

static void exec_generation(jrun *r, const jnode *n) {
    jval v = captured(r, n->d, jscope_push(r, r->scope));
    size_t begin = r->out->n;
    write_value(r, v);
    if (r->out != &r->top)
        r->result->spans_lost = true;
    else if (r->out->n > begin)
        add_span(r->result, begin, r->out->n);
}

/* ---- Everything ---- */

static flow exec_if(jrun *r, const jnode *n) {
    for (; n; n = n->c)
        if (n->op == N_ELSE || jv_truth(r, jeval(r, n->a)))
            return exec_list(r, n->b);
    return FLOW_ON;
}

static jscope *outermost(jscope *s) {
    while (s->up)
        s = s->up;
    return s;
}

static void exec_filter_block(jrun *r, const jnode *n) {
    jval v = captured(r, n->d, jscope_push(r, r->scope));
    write_value(r, jeval_filters(r, n->b, v));
}

static flow exec_one(jrun *r, const jnode *n) {
    switch (n->op) {
    case N_DATA: jbuf_add(r, r->out, n->val.s->p, n->val.s->n); return FLOW_ON;
    case N_OUTPUT: exec_output(r, n); return FLOW_ON;
    case N_FOR: return exec_for(r, n);
    case N_IF: return exec_if(r, n);
    case N_SET: assign(r, n->a, jeval(r, n->b)); return FLOW_ON;
    case N_SETBLOCK: exec_set_block(r, n); return FLOW_ON;
    case N_WITH: return exec_with(r, n);
    case N_MACRO: jscope_set(r, r->scope, n->sym, macro_value(r, n)); return FLOW_ON;
    case N_CALLBLOCK: exec_call_block(r, n); return FLOW_ON;
    case N_FILTERBLOCK: exec_filter_block(r, n); return FLOW_ON;
    case N_SCOPE: return exec_scope(r, n, jscope_push(r, outermost(r->scope)));
    case N_AUTOESCAPE: return exec_autoescape(r, n);
    case N_GENERATION: exec_generation(r, n); return FLOW_ON;
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default:
        jrun_fail(r, "'%.*s': a template cannot reach another one", (int)n->val.s->n, n->val.s->p);
    }
}

static flow exec_list(jrun *r, const jnode *n) {
    flow f = FLOW_ON;
    jrun_enter(r);
    for (; n && f == FLOW_ON; n = n->next) {
        r->at = n;
        jrun_tick(r, 0);
        f = exec_one(r, n);
    }
    r->depth--;
    return f;
}

void jexec_template(jrun *r) {
    r->scope = jscope_push(r, NULL);
    exec_list(r, r->t->body);
}
