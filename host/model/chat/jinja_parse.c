/* SPDX-License-Identifier: Apache-2.0
 * From tokens to the tree of statements, and a template's life. */
#include "host/base/err.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <stdio.h>
#include <string.h>

static jnode *parse_body(jparse *p, const char *const *ends, const char *tag, const jtoken *at);

/* ---- Tokens and nodes ---- */

void jparse_step(jparse *p) {
    if (p->has_ahead)
        p->cur = p->ahead;
    else
        jlex_next(p, &p->cur);
    p->has_ahead = false;
}

const jtoken *jparse_look(jparse *p) {
    if (!p->has_ahead)
        jlex_next(p, &p->ahead);
    p->has_ahead = true;
    return &p->ahead;
}

jnode *jparse_node(jparse *p, jop op, const jtoken *at) {
    jnode *n = ARENA_NEW(p->mem, jnode, 1);
    n->op = (uint8_t)op;
    n->line = at->line;
    n->col = at->col;
    n->sym = -1;
    return n;
}

jval jparse_str(jparse *p, const char *s, size_t n) {
    jstr *str = ARENA_NEW(p->mem, jstr, 1);
    *str = (jstr){.p = s, .n = n, .fixed = true};
    for (size_t i = 0; i < n; i++)
        str->chars += (s[i] & 0xc0) != 0x80;
    return (jval){.kind = J_STR, .s = str};
}

static uint32_t hash_name(const char *s, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h;
}

static void grow_symbols(jparse *p) {
    jinja_template *t = p->t;
    p->sym_cap = p->sym_cap ? 2 * p->sym_cap : 32;
    jval *sym = ARENA_NEW(p->mem, jval, p->sym_cap);
    if (t->nsym)
        memcpy(sym, t->sym, (size_t)t->nsym * sizeof *sym);
    t->sym = sym;
    p->nslots = 4 * p->sym_cap;
    p->slot = ARENA_NEW(p->mem, int32_t, p->nslots);
    for (int32_t i = 0; i < t->nsym; i++) {
        uint32_t at = hash_name(sym[i].s->p, sym[i].s->n) & (uint32_t)(p->nslots - 1);
        while (p->slot[at])
            at = (at + 1) & (uint32_t)(p->nslots - 1);
        p->slot[at] = i + 1;
    }
}

int32_t jparse_sym(jparse *p, const char *s, size_t n) {
    jinja_template *t = p->t;
    if (t->nsym == p->sym_cap)
        grow_symbols(p);
    uint32_t at = hash_name(s, n) & (uint32_t)(p->nslots - 1);
    for (; p->slot[at]; at = (at + 1) & (uint32_t)(p->nslots - 1)) {
        const jstr *have = t->sym[p->slot[at] - 1].s;
        if (have->n == n && memcmp(have->p, s, n) == 0)
            break;
    }
    if (!p->slot[at]) {
        t->sym[t->nsym++] = jparse_str(p, s, n);
        p->slot[at] = t->nsym;
    }
    static const char *const special[] = {"varargs", "kwargs", "caller"};
    for (int i = 0; i < 3 && p->flags; i++)
        if (strlen(special[i]) == n && memcmp(special[i], s, n) == 0)
            *p->flags |= (uint8_t)(1 << i);
    return p->slot[at] - 1;
}

/* ---- Statements ---- */

/* Puts n at the end of a list; returns where the next one goes. */
static jnode **append(jnode **tail, jnode *n) {
    *tail = n;
    return &n->next;
}

static void expect_name(jparse *p, const char *name) {
    char shown[48];
    if (!jparse_skip_name(p, name))
        jparse_fail(p, &p->cur, "expected '%s', got %s", name, jparse_shown(&p->cur, shown));
}

static jtoken expect_any_name(jparse *p) {
    char shown[48];
    jtoken t = p->cur;
    if (t.kind != T_NAME)
        jparse_fail(p, &t, "expected a name, got %s", jparse_shown(&t, shown));
    jparse_step(p);
    return t;
}

static void expect_block_end(jparse *p) {
    char shown[48];
    if (p->cur.kind != T_BLOCK_END)
        jparse_fail(p, &p->cur, "expected '%%}', got %s", jparse_shown(&p->cur, shown));
    jparse_step(p);
}

/* A body that ends with one certain tag, which is skipped. */
static jnode *body_until(jparse *p, const char *end, const char *tag, const jtoken *at) {
    const char *const ends[] = {end, NULL};
    jnode *n = parse_body(p, ends, tag, at);
    jparse_step(p);
    return n;
}

static jnode *parse_if(jparse *p, const jtoken *at) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    jnode *first = NULL, **tail = &first;
    bool soft = p->soft;
    p->soft = true;
    for (;;) {
        jnode *n = *tail = jparse_node(p, N_IF, &p->cur);
        n->a = jparse_tuple(p, true, NULL);
        n->b = parse_body(p, ends, "if", at);
        tail = &n->c;
        if (!jparse_skip_name(p, "elif"))
            break;
    }
    if (jparse_skip_name(p, "else")) {
        *tail = jparse_node(p, N_ELSE, &p->cur);
        (*tail)->b = body_until(p, "endif", "if", at);
    } else {
        jparse_step(p);
    }
    p->soft = soft;
    return first;
}

static jnode *parse_for(jparse *p, const jtoken *at) {
    static const char *const ends[] = {"endfor", "else", NULL};
    jnode *n = jparse_node(p, N_FOR, at);
    bool soft = p->soft;
    n->sym = jparse_sym(p, "loop", 4);
    n->a = jparse_target(p, false, "in");
    expect_name(p, "in");
    n->b = jparse_tuple(p, true, "recursive");
    p->soft = false;
    if (jparse_skip_name(p, "if"))
        n->c = jparse_expr(p);
    n->flag = jparse_skip_name(p, "recursive");
    p->loops++;
    n->d = parse_body(p, ends, "for", at);
    p->loops--;
    p->soft = soft;
    if (jparse_skip_name(p, "else"))
        n->e = body_until(p, "endfor", "for", at);
    else
        jparse_step(p);
    return n;
}

static jnode *parse_set(jparse *p, const jtoken *at) {
    jnode *target = jparse_target(p, true, NULL);
    bool block = !jparse_skip_op(p, '=');
    jnode *n = jparse_node(p, block ? N_SETBLOCK : N_SET, at);
    n->a = target;
    if (!block) {
        n->b = jparse_tuple(p, false, NULL);
        return n;
    }
    n->b = jparse_filters(p, NULL, false);
    n->d = body_until(p, "endset", "set", at);
    return n;
}

static jnode *parse_with(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_WITH, at), **target = &n->a, **value = &n->b;
    for (bool first = true; p->cur.kind != T_BLOCK_END; first = false) {
        if (!first)
            jparse_expect_op(p, ',');
        target = append(target, jparse_target(p, false, NULL));
        jparse_expect_op(p, '=');
        value = append(value, jparse_expr(p));
    }
    n->d = body_until(p, "endwith", "with", at);
    return n;
}

static void parse_signature(jparse *p, jnode *n) {
    jnode **tail = &n->a;
    bool defaults = false;
    jparse_expect_op(p, '(');
    while (!jparse_is_op(p, ')')) {
        if (n->a)
            jparse_expect_op(p, ',');
        jtoken t = expect_any_name(p);
        jnode *arg = jparse_node(p, N_NAME, &t);
        arg->sym = jparse_sym(p, t.p, t.n);
        for (const jnode *k = n->a; k; k = k->next)
            if (k->sym == arg->sym)
                jparse_fail(p, &t, "this parameter is there twice");
        arg->val = p->t->sym[arg->sym];
        if (jparse_skip_op(p, '='))
            arg->a = jparse_expr(p);
        else if (defaults)
            jparse_fail(p, &t, "a parameter without default follows one with a default");
        defaults = arg->a != NULL;
        *tail = arg;
        tail = &arg->next;
    }
    jparse_expect_op(p, ')');
}

/* The body of a macro or call: its own loops, and which special names it uses. */
static void parse_macro_body(jparse *p, jnode *n, const char *end, const char *tag,
                             const jtoken *at) {
    uint8_t *flags = p->flags, mine = 0;
    int loops = p->loops;
    bool soft = p->soft;
    p->flags = &mine;
    p->loops = 0;
    p->soft = false;
    n->d = body_until(p, end, tag, at);
    n->flag = mine;
    p->soft = soft;
    p->loops = loops;
    p->flags = flags;
    if (flags)
        *flags |= mine;
}

static jnode *parse_macro(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_MACRO, at);
    jtoken name = expect_any_name(p);
    n->sym = jparse_sym(p, name.p, name.n);
    n->val = p->t->sym[n->sym];
    parse_signature(p, n);
    parse_macro_body(p, n, "endmacro", "macro", at);
    return n;
}

static jnode *parse_call(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_CALLBLOCK, at);
    n->val = jparse_str(p, "caller", 6);
    if (jparse_is_op(p, '('))
        parse_signature(p, n);
    n->b = jparse_expr(p);
    if (n->b->op != N_CALL)
        jparse_fail(p, at, "expected a call, as in {%% call name() %%}");
    parse_macro_body(p, n, "endcall", "call", at);
    return n;
}

static jnode *parse_filter(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_FILTERBLOCK, at);
    n->b = jparse_filters(p, NULL, true);
    n->d = body_until(p, "endfilter", "filter", at);
    return n;
}

static jnode *parse_print(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_OUTPUT, at), **tail = &n->a;
    for (bool first = true; p->cur.kind != T_BLOCK_END; first = false) {
        if (!first)
            jparse_expect_op(p, ',');
        tail = append(tail, jparse_expr(p));
    }
    return n;
}

static jnode *parse_block(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_SCOPE, at);
    jtoken name = expect_any_name(p);
    while (jparse_skip_name(p, "scoped") || jparse_skip_name(p, "required"))
        ;
    if (jparse_is_op(p, '-'))
        jparse_fail(p, &p->cur, "the name of a block has no '-'; use '_'");
    n->d = body_until(p, "endblock", "block", at);
    if (p->cur.kind == T_NAME && p->cur.n == name.n && memcmp(p->cur.p, name.p, name.n) == 0)
        jparse_step(p);
    return n;
}

static jnode *parse_autoescape(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_AUTOESCAPE, at);
    n->a = jparse_expr(p);
    n->d = body_until(p, "endautoescape", "autoescape", at);
    return n;
}

static jnode *parse_generation(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_GENERATION, at);
    p->t->has_generation = true;
    parse_macro_body(p, n, "endgeneration", "generation", at);
    return n;
}

static jnode *parse_jump(jparse *p, const jtoken *at) {
    bool leave = at->n == 5;
    if (p->loops == 0)
        jparse_fail(p, at, "'%s' outside of a loop", leave ? "break" : "continue");
    return jparse_node(p, leave ? N_BREAK : N_CONTINUE, at);
}

/* Other templates cannot be reached, which is a failure only when such a tag is met. */
static jnode *parse_other_template(jparse *p, const jtoken *at) {
    jnode *n = jparse_node(p, N_NOLOADER, at);
    n->val = jparse_str(p, at->p, at->n);
    jparse_expr(p);
    while (p->cur.kind == T_NAME || jparse_is_op(p, ','))
        jparse_step(p);
    return n;
}

static const struct {
    const char *name;
    jnode *(*parse)(jparse *p, const jtoken *at);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"with", parse_with},
    {"macro", parse_macro},
    {"call", parse_call},
    {"filter", parse_filter},
    {"print", parse_print},
    {"block", parse_block},
    {"autoescape", parse_autoescape},
    {"generation", parse_generation},
    {"break", parse_jump},
    {"continue", parse_jump},
    {"include", parse_other_template},
    {"import", parse_other_template},
    {"from", parse_other_template},
    {"extends", parse_other_template},
};

static jnode *parse_statement(jparse *p, const char *const *ends, const char *tag) {
    jtoken at = p->cur;
    if (at.kind != T_NAME)
        jparse_fail(p, &at, "expected the name of a tag");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (jparse_is_name(p, statements[i].name)) {
            jparse_step(p);
            return statements[i].parse(p, &at);
        }
    char shown[48];
    if (!ends)
        jparse_fail(p, &at, "unknown tag %s", jparse_shown(&at, shown));
    int last = 0;
    while (ends[last + 1])
        last++;
    jparse_fail(p, &at, "unknown tag %s; inside {%% %s %%}, which '%s' closes",
                jparse_shown(&at, shown), tag,
                ends[ends[0][0] == 'e' && ends[0][1] == 'n' ? 0 : last]);
}

static bool at_end(const jparse *p, const char *const *ends) {
    for (int i = 0; ends && ends[i]; i++)
        if (jparse_is_name(p, ends[i]))
            return true;
    return false;
}

static jnode *data_node(jparse *p) {
    jnode *n = jparse_node(p, N_DATA, &p->cur);
    n->val = jparse_str(p, p->cur.p, p->cur.n);
    jparse_step(p);
    return n;
}

static jnode *output_node(jparse *p) {
    char shown[48];
    jnode *n = jparse_node(p, N_OUTPUT, &p->cur);
    jparse_step(p);
    n->a = jparse_tuple(p, false, NULL);
    if (p->cur.kind != T_VAR_END)
        jparse_fail(p, &p->cur, "expected '}}', got %s", jparse_shown(&p->cur, shown));
    jparse_step(p);
    return n;
}

/* Up to one of the tags in `ends`, whose name is then the current token; NULL: to the end. */
static jnode *parse_until(jparse *p, const char *const *ends, const char *tag, const jtoken *at) {
    jnode *first = NULL, **tail = &first;
    for (;; tail = &(*tail)->next) {
        if (p->cur.kind == T_EOF) {
            if (ends)
                jparse_fail(p, at, "the tag '%s' is never closed", tag);
            return first;
        }
        if (p->cur.kind == T_DATA) {
            *tail = data_node(p);
        } else if (p->cur.kind == T_VAR_BEGIN) {
            *tail = output_node(p);
        } else {
            jparse_step(p);
            if (at_end(p, ends))
                return first;
            *tail = parse_statement(p, ends, tag);
            expect_block_end(p);
        }
    }
}

static jnode *parse_body(jparse *p, const char *const *ends, const char *tag, const jtoken *at) {
    jparse_skip_op(p, ':');
    expect_block_end(p);
    jparse_deeper(p, at);
    jnode *n = parse_until(p, ends, tag, at);
    p->depth--;
    return n;
}

/* ---- A template's life ---- */

/* One kind of newline, and none at the very end. */
static size_t normalize(char *to, const char *from, size_t n) {
    char *begin = to;
    for (size_t i = 0; i < n; i++) {
        if (from[i] == '\r' && i + 1 < n && from[i + 1] == '\n')
            continue;
        *to++ = from[i] == '\r' ? '\n' : from[i];
    }
    if (to > begin && to[-1] == '\n')
        to--;
    return (size_t)(to - begin);
}

static bool parse(jparse *p) {
    if (setjmp(p->fail) != 0)
        return false;
    jparse_step(p);
    p->t->body = parse_until(p, NULL, NULL, NULL);
    return true;
}

static weft_status check_source(const char *name, const char *text, size_t n) {
    if (n > JINJA_SOURCE_MAX)
        return weft_fail(WEFT_BAD_FILE, "%s: %zu bytes are too many for a template (limit %d)",
                         name, n, JINJA_SOURCE_MAX);
    size_t bad = utf8_invalid_at(text, n), line = 1;
    for (size_t i = 0; i < bad; i++)
        line += text[i] == '\n';
    return bad == n ? WEFT_OK : weft_fail(WEFT_BAD_FILE, "%s:%zu: invalid UTF-8", name, line);
}

weft_status jinja_compile(const char *name, const char *text, size_t n, jinja_template **out) {
    WEFT_TRY(check_source(name, text, n));
    arena mem = {0};
    jinja_template *t = ARENA_NEW(&mem, jinja_template, 1);
    jparse *p = mem_alloc(sizeof *p);
    t->name = arena_copy(&mem, name, strlen(name));
    char *src = arena_alloc(&mem, n + 1);
    p->src = p->p = p->counted = src;
    p->end = src + normalize(src, text, n);
    p->line = p->col = 1;
    p->t = t;
    p->mem = &mem;
    bool ok = parse(p);
    weft_status st = ok ? WEFT_OK : weft_fail(WEFT_BAD_FILE, "%s:%s", name, p->message);
    mem_free(p);
    t->mem = mem;
    if (ok)
        *out = t;
    else
        jinja_free(t);
    return st;
}

void jinja_free(jinja_template *t) {
    if (!t)
        return;
    arena mem = t->mem; /* the template lies in it */
    arena_fini(&mem);
}

bool jinja_has_generation(const jinja_template *t) {
    return t->has_generation;
}
