/* SPDX-License-Identifier: Apache-2.0
 * From tokens to the tree of an expression: one function a level of precedence, loosest first. */
#include "host/base/num.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <stdio.h>
#include <string.h>

static jnode *parse_primary(jparse *p, bool with_namespace);
static jnode *parse_unary(jparse *p, bool with_filter);

bool jparse_is_op(const jparse *p, int op) {
    return p->cur.kind == T_OP && p->cur.op == op;
}

bool jparse_is_name(const jparse *p, const char *name) {
    return p->cur.kind == T_NAME && p->cur.n == strlen(name) &&
           memcmp(p->cur.p, name, p->cur.n) == 0;
}

bool jparse_skip_op(jparse *p, int op) {
    bool is = jparse_is_op(p, op);
    if (is)
        jparse_step(p);
    return is;
}

bool jparse_skip_name(jparse *p, const char *name) {
    bool is = jparse_is_name(p, name);
    if (is)
        jparse_step(p);
    return is;
}

/* How a message shows a token. */
const char *jparse_shown(const jtoken *t, char out[48]) {
    static const char *const what[] = {
        "the end of the template", "text", "{{", "}}", "{%", "%}", "a string"};
    if (t->kind <= T_BLOCK_END)
        snprintf(out, 48, t->kind < T_VAR_BEGIN ? "%s" : "'%s'", what[t->kind]);
    else if (t->kind == T_STRING)
        snprintf(out, 48, "a string");
    else
        snprintf(out, 48, "'%.*s%s'", t->n > 32 ? 32 : (int)t->n, t->p, t->n > 32 ? "..." : "");
    return out;
}

void jparse_expect_op(jparse *p, int op) {
    char shown[48], want[3] = {(char)(op > 255 ? op >> 8 : op), (char)(op > 255 ? op & 255 : 0), 0};
    if (!jparse_skip_op(p, op))
        jparse_fail(p, &p->cur, "expected '%s', got %s", want, jparse_shown(&p->cur, shown));
}

void jparse_deeper(jparse *p, const jtoken *at) {
    if (++p->depth > 2 * JINJA_NESTING_MAX)
        jparse_fail(p, at, "nested too deeply (limit %d)", 2 * JINJA_NESTING_MAX);
}

static jnode *binary(jparse *p, jop op, const jtoken *at, jnode *a, jnode *b) {
    jnode *n = jparse_node(p, op, at);
    n->a = a;
    n->b = b;
    return n;
}

static jnode *constant(jparse *p, const jtoken *at, jval v) {
    jnode *n = jparse_node(p, N_CONST, at);
    n->val = v;
    return n;
}

/* ---- Literals ---- */

static int hex_digit(char c) {
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
}

typedef struct {
    jparse *p;
    const jtoken *t;
    const char *q, *end;
    char *out; /* never longer than the source: an escape is no shorter than what it spells */
} unescape;

static void put(unescape *u, uint32_t cp) {
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        jparse_fail(u->p, u->t, "this string's escape is no character (U+%X)", cp);
    u->out += utf8_put(u->out, cp);
}

static void hex_escape(unescape *u, int digits) {
    uint32_t cp = 0;
    for (int i = 0; i < digits; i++, u->q++) {
        int d = u->q < u->end ? hex_digit(*u->q) : -1;
        if (d < 0)
            jparse_fail(u->p, u->t,
                        "this string has a cut off escape (%d hexadecimal digits are due)", digits);
        cp = cp << 4 | (uint32_t)d;
    }
    put(u, cp);
}

static void octal_escape(unescape *u) {
    uint32_t cp = 0;
    for (int i = 0; i < 3 && u->q < u->end && *u->q >= '0' && *u->q <= '7'; i++)
        cp = cp << 3 | (uint32_t)(*u->q++ - '0');
    put(u, cp);
}

/* The escape whose backslash has just been read. */
static void one_escape(unescape *u) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = *u->q;
    const char *f = c ? strchr(from, c) : NULL;
    if (c >= '0' && c <= '7') {
        octal_escape(u);
        return;
    }
    if (c == 'N')
        jparse_fail(u->p, u->t,
                    "this string has a character by name (\\N); write \\u and its number");
    u->q++;
    if (f)
        *u->out++ = to[f - from];
    else if (c == 'x' || c == 'u' || c == 'U')
        hex_escape(u, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    else if (c != '\n') {
        *u->out++ = '\\';
        *u->out++ = c;
    }
}

static jval string_value(jparse *p, const jtoken *t) {
    if (!memchr(t->p, '\\', t->n))
        return jparse_str(p, t->p + 1, t->n - 2);
    unescape u = {p, t, t->p + 1, t->p + t->n - 1, arena_alloc(p->mem, t->n)};
    char *begin = u.out;
    while (u.q < u.end) {
        if (*u.q != '\\' || u.q + 1 == u.end) {
            *u.out++ = *u.q++;
            continue;
        }
        u.q++;
        one_escape(&u);
    }
    return jparse_str(p, begin, (size_t)(u.out - begin));
}

static jnode *string_node(jparse *p) {
    jtoken first = p->cur;
    jval v = string_value(p, &p->cur);
    jparse_step(p);
    if (p->cur.kind != T_STRING)
        return constant(p, &first, v);
    size_t n = v.s->n, cap = 2 * n + 64;
    char *text = memcpy(arena_alloc(p->mem, cap), v.s->p, n);
    for (; p->cur.kind == T_STRING; jparse_step(p)) {
        jval w = string_value(p, &p->cur);
        if (w.s->n > cap - n) {
            cap = 2 * (n + w.s->n);
            text = memcpy(arena_alloc(p->mem, cap), text, n);
        }
        memcpy(text + n, w.s->p, w.s->n);
        n += w.s->n;
    }
    return constant(p, &first, jparse_str(p, text, n));
}

static char *without_underscores(jparse *p, const jtoken *t) {
    char *s = arena_alloc(p->mem, t->n + 1), *to = s;
    for (size_t i = 0; i < t->n; i++)
        if (t->p[i] != '_')
            *to++ = t->p[i];
    *to = 0;
    return s;
}

static jval integer_value(jparse *p, const jtoken *t) {
    const char *s = without_underscores(p, t);
    int mark = s[0] == '0' ? s[1] | 0x20 : 0;
    int base = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
    int64_t v = 0;
    for (const char *q = s + (base == 10 ? 0 : 2); *q; q++)
        if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, hex_digit(*q), &v)) {
            if (base != 10)
                jparse_fail(p, t, "this integer is too large (64 bits)");
            jval big = jparse_str(p, s, strlen(s));
            big.kind = J_BIG;
            return big;
        }
    return jv_int(v);
}

static jnode *number_node(jparse *p) {
    jtoken t = p->cur;
    jval v = t.kind == T_FLOAT ? jv_float(num_double(without_underscores(p, &t)))
                               : integer_value(p, &t);
    jparse_step(p);
    return constant(p, &t, v);
}

static jnode *name_node(jparse *p, bool with_namespace) {
    static const struct {
        const char *name;
        jval v;
    } word[] = {{"true", {.kind = J_BOOL, .b = true}},
                {"True", {.kind = J_BOOL, .b = true}},
                {"false", {.kind = J_BOOL, .b = false}},
                {"False", {.kind = J_BOOL, .b = false}},
                {"none", {.kind = J_NONE}},
                {"None", {.kind = J_NONE}}};
    jtoken t = p->cur;
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        if (jparse_skip_name(p, word[i].name))
            return constant(p, &t, word[i].v);
    jparse_step(p);
    bool attr = with_namespace && jparse_is_op(p, '.');
    jnode *n = jparse_node(p, attr ? N_NSREF : N_NAME, &t);
    n->sym = jparse_sym(p, t.p, t.n);
    n->val = p->t->sym[n->sym];
    if (attr) {
        char shown[48];
        jparse_step(p);
        if (p->cur.kind != T_NAME)
            jparse_fail(p, &p->cur, "expected a name, got %s", jparse_shown(&p->cur, shown));
        n->val = jparse_str(p, p->cur.p, p->cur.n);
        jparse_step(p);
    }
    return n;
}

static jnode *list_node(jparse *p, jop op, char close) {
    jnode *n = jparse_node(p, op, &p->cur), **tail = &n->a;
    jparse_step(p);
    for (bool first = true; !jparse_is_op(p, close); first = false) {
        if (!first)
            jparse_expect_op(p, ',');
        if (jparse_is_op(p, close))
            break;
        *tail = jparse_expr(p);
        tail = &(*tail)->next;
        if (op != N_DICT)
            continue;
        jparse_expect_op(p, ':');
        *tail = jparse_expr(p);
        tail = &(*tail)->next;
    }
    jparse_expect_op(p, close);
    return n;
}

static jnode *parse_primary(jparse *p, bool with_namespace) {
    char shown[48];
    switch (p->cur.kind) {
    case T_NAME: return name_node(p, with_namespace);
    case T_STRING: return string_node(p);
    case T_INTEGER:
    case T_FLOAT: return number_node(p);
    default: break;
    }
    if (jparse_is_op(p, '['))
        return list_node(p, N_LIST, ']');
    if (jparse_is_op(p, '{'))
        return list_node(p, N_DICT, '}');
    if (!jparse_is_op(p, '('))
        jparse_fail(p, &p->cur, "expected an expression, got %s", jparse_shown(&p->cur, shown));
    jparse_step(p);
    jnode *n = jparse_tuple(p, false, "(");
    jparse_expect_op(p, ')');
    return n;
}

/* ---- Subscripts, calls, filters, tests ---- */

static jnode *part_of_slice(jparse *p) {
    bool none = jparse_is_op(p, ':') || jparse_is_op(p, ']') || jparse_is_op(p, ',');
    return none ? NULL : jparse_expr(p);
}

static jnode *subscribed(jparse *p, const jtoken *at) {
    jnode *from = jparse_is_op(p, ':') ? NULL : jparse_expr(p);
    if (!jparse_skip_op(p, ':'))
        return from;
    jnode *n = jparse_node(p, N_SLICE, at);
    n->b = from;
    n->c = part_of_slice(p);
    if (jparse_skip_op(p, ':'))
        n->d = part_of_slice(p);
    return n;
}

static jnode *bracket(jparse *p, jnode *node) {
    jtoken at = p->cur;
    jparse_step(p);
    jnode *first = NULL, **tail = &first;
    int n = 0;
    for (; !jparse_is_op(p, ']'); n++) {
        if (n)
            jparse_expect_op(p, ',');
        *tail = subscribed(p, &at);
        if (n && ((*tail)->op == N_SLICE || first->op == N_SLICE))
            jparse_fail(p, &at, "a slice stands alone in its brackets");
        tail = &(*tail)->next;
    }
    jparse_expect_op(p, ']');
    if (n == 1 && first->op == N_SLICE && !first->a) {
        first->a = node;
        return first;
    }
    jnode *key = first;
    if (n != 1) {
        key = jparse_node(p, N_TUPLE, &at);
        key->a = first;
    }
    return binary(p, N_ITEM, &at, node, key);
}

static jnode *dotted(jparse *p, jnode *node) {
    char shown[48];
    jtoken at = p->cur;
    jparse_step(p);
    if (p->cur.kind == T_INTEGER)
        return binary(p, N_ITEM, &at, node, number_node(p));
    if (p->cur.kind != T_NAME)
        jparse_fail(p, &p->cur, "expected a name or number behind '.', got %s",
                    jparse_shown(&p->cur, shown));
    jnode *n = jparse_node(p, N_ATTR, &at);
    n->a = node;
    n->val = jparse_str(p, p->cur.p, p->cur.n);
    jparse_step(p);
    return n;
}

static jnode *one_argument(jparse *p, int *stage) {
    jnode *n = jparse_node(p, N_ARG, &p->cur);
    const jtoken at = p->cur, *ahead = jparse_look(p);
    if (jparse_skip_op(p, '*'))
        n->flag = JARG_STAR;
    else if (jparse_skip_op(p, JOP2('*', '*')))
        n->flag = JARG_STARSTAR;
    else if (at.kind == T_NAME && ahead->kind == T_OP && ahead->op == '=')
        n->flag = JARG_KEYWORD;
    if (n->flag == JARG_KEYWORD) {
        n->val = jparse_str(p, at.p, at.n);
        jparse_step(p);
        jparse_step(p);
    }
    /* positions, then keywords and *args, then **kwargs */
    static const int8_t most[] = {0, 2, 1, 2}, next[] = {0, 1, 2, 3};
    if (*stage > most[n->flag])
        jparse_fail(p, &at, "arguments come in the order: positions, keywords, *args, **kwargs");
    *stage = next[n->flag] > *stage ? next[n->flag] : *stage;
    n->a = jparse_expr(p);
    return n;
}

static jnode *arguments(jparse *p) {
    jnode *first = NULL, **tail = &first;
    int stage = 0;
    jparse_expect_op(p, '(');
    for (bool comma = false; !jparse_is_op(p, ')'); comma = true) {
        if (comma)
            jparse_expect_op(p, ',');
        if (jparse_is_op(p, ')'))
            break;
        *tail = one_argument(p, &stage);
        tail = &(*tail)->next;
    }
    jparse_expect_op(p, ')');
    return first;
}

static jnode *call_of(jparse *p, jnode *node) {
    jtoken at = p->cur;
    jnode *args = arguments(p);
    return binary(p, N_CALL, &at, node, args);
}

static jnode *parse_postfix(jparse *p, jnode *node) {
    for (;;) {
        if (jparse_is_op(p, '.'))
            node = dotted(p, node);
        else if (jparse_is_op(p, '['))
            node = bracket(p, node);
        else if (jparse_is_op(p, '('))
            node = call_of(p, node);
        else
            return node;
    }
}

/* The name of a filter or test; extensions may have dots in theirs, so those are no syntax
 * error. */
static jtoken row_name(jparse *p) {
    char shown[48];
    jtoken t = p->cur;
    if (t.kind != T_NAME)
        jparse_fail(p, &t, "expected a name, got %s", jparse_shown(&t, shown));
    jparse_step(p);
    while (jparse_skip_op(p, '.')) {
        t.n = (size_t)(p->cur.p + p->cur.n - t.p);
        if (p->cur.kind != T_NAME)
            jparse_fail(p, &p->cur, "expected a name, got %s", jparse_shown(&p->cur, shown));
        jparse_step(p);
    }
    return t;
}

static jnode *row_node(jparse *p, jop op, const jtoken *name, jnode *operand) {
    jnode *n = jparse_node(p, op, name);
    n->a = operand;
    n->val = jparse_str(p, name->p, name->n);
    n->row = op == N_TEST ? jtest_find(name->p, name->n) : jfilter_find(name->p, name->n);
    if (!n->row && !p->soft)
        jparse_fail(p, name, "no %s is named '%.*s'", op == N_TEST ? "test" : "filter",
                    name->n > 64 ? 64 : (int)name->n, name->p);
    return n;
}

jnode *jparse_filters(jparse *p, jnode *node, bool inline_start) {
    while (inline_start || jparse_is_op(p, '|')) {
        if (!inline_start)
            jparse_step(p);
        inline_start = false;
        jtoken name = row_name(p);
        node = row_node(p, N_FILTER, &name, node);
        if (jparse_is_op(p, '('))
            node->b = arguments(p);
    }
    return node;
}

/* `is divisibleby 3`: one operand may stand without parentheses. */
static jnode *bare_argument(jparse *p) {
    static const char *const ends[] = {"else", "or", "and"};
    bool operand = p->cur.kind >= T_NAME && p->cur.kind <= T_FLOAT;
    operand = operand || jparse_is_op(p, '[') || jparse_is_op(p, '{');
    for (int i = 0; i < 3; i++)
        operand = operand && !jparse_is_name(p, ends[i]);
    if (!operand)
        return NULL;
    if (jparse_is_name(p, "is"))
        jparse_fail(p, &p->cur, "tests with 'is' cannot be chained");
    jnode *n = jparse_node(p, N_ARG, &p->cur);
    n->a = parse_postfix(p, parse_primary(p, false));
    return n;
}

static jnode *parse_test(jparse *p, jnode *node) {
    jtoken at = p->cur;
    jparse_step(p);
    bool negated = jparse_skip_name(p, "not");
    jtoken name = row_name(p);
    jnode *n = row_node(p, N_TEST, &name, node);
    n->b = jparse_is_op(p, '(') ? arguments(p) : bare_argument(p);
    return negated ? binary(p, N_NOT, &at, n, NULL) : n;
}

static jnode *parse_filter_expr(jparse *p, jnode *node) {
    for (;;) {
        if (jparse_is_op(p, '|'))
            node = jparse_filters(p, node, false);
        else if (jparse_is_name(p, "is"))
            node = parse_test(p, node);
        else if (jparse_is_op(p, '('))
            node = call_of(p, node);
        else
            return node;
    }
}

/* ---- Operators ---- */

static jnode *parse_unary(jparse *p, bool with_filter) {
    jtoken at = p->cur;
    jnode *n;
    jparse_deeper(p, &at);
    if (jparse_skip_op(p, '-'))
        n = binary(p, N_NEG, &at, parse_unary(p, false), NULL);
    else if (jparse_skip_op(p, '+'))
        n = binary(p, N_POS, &at, parse_unary(p, false), NULL);
    else
        n = parse_primary(p, false);
    n = parse_postfix(p, n);
    p->depth--;
    return with_filter ? parse_filter_expr(p, n) : n;
}

static jnode *parse_pow(jparse *p) {
    jnode *n = parse_unary(p, true);
    for (jtoken at = p->cur; jparse_skip_op(p, JOP2('*', '*')); at = p->cur)
        n = binary(p, N_POW, &at, n, parse_unary(p, true));
    return n;
}

static jnode *parse_product(jparse *p) {
    static const struct {
        int op;
        jop node;
    } row[] = {{'*', N_MUL}, {'/', N_DIV}, {JOP2('/', '/'), N_FLOORDIV}, {'%', N_MOD}};
    jnode *n = parse_pow(p);
    for (int i = 0; i < 4; i++) {
        jtoken at = p->cur;
        if (!jparse_skip_op(p, row[i].op))
            continue;
        n = binary(p, row[i].node, &at, n, parse_pow(p));
        i = -1;
    }
    return n;
}

static jnode *parse_concat(jparse *p) {
    jnode *first = parse_product(p);
    if (!jparse_is_op(p, '~'))
        return first;
    jnode *n = jparse_node(p, N_CONCAT, &p->cur), **tail = &first->next;
    n->a = first;
    while (jparse_skip_op(p, '~')) {
        *tail = parse_product(p);
        tail = &(*tail)->next;
    }
    return n;
}

static jnode *parse_sum(jparse *p) {
    jnode *n = parse_concat(p);
    while (jparse_is_op(p, '+') || jparse_is_op(p, '-')) {
        jtoken at = p->cur;
        jparse_step(p);
        n = binary(p, at.op == '+' ? N_ADD : N_SUB, &at, n, parse_concat(p));
    }
    return n;
}

/* The comparison at cur, skipped; -1 if it is none. */
static int comparison(jparse *p) {
    static const int op[] = {JOP2('=', '='), JOP2('!', '='), '<', JOP2('<', '='), '>',
                             JOP2('>', '=')};
    for (int i = 0; i < 6; i++)
        if (jparse_skip_op(p, op[i]))
            return JCMP_EQ + i;
    if (jparse_skip_name(p, "in"))
        return JCMP_IN;
    if (!jparse_is_name(p, "not"))
        return -1;
    const jtoken *ahead = jparse_look(p);
    if (ahead->kind != T_NAME || ahead->n != 2 || memcmp(ahead->p, "in", 2) != 0)
        return -1;
    jparse_step(p);
    jparse_step(p);
    return JCMP_NOTIN;
}

static jnode *parse_compare(jparse *p) {
    jnode *left = parse_sum(p), *n = NULL, **tail = NULL;
    for (;;) {
        jtoken at = p->cur;
        int op = comparison(p);
        if (op < 0)
            return n ? n : left;
        if (!n) {
            n = binary(p, N_COMPARE, &at, left, NULL);
            tail = &n->b;
        }
        *tail = binary(p, N_OPERAND, &at, parse_sum(p), NULL);
        (*tail)->flag = (uint8_t)op;
        tail = &(*tail)->next;
    }
}

static jnode *parse_not(jparse *p) {
    jtoken at = p->cur;
    if (!jparse_skip_name(p, "not"))
        return parse_compare(p);
    jparse_deeper(p, &at);
    jnode *n = binary(p, N_NOT, &at, parse_not(p), NULL);
    p->depth--;
    return n;
}

static jnode *parse_and(jparse *p) {
    jnode *n = parse_not(p);
    for (jtoken at = p->cur; jparse_skip_name(p, "and"); at = p->cur)
        n = binary(p, N_AND, &at, n, parse_not(p));
    return n;
}

jnode *jparse_expr_plain(jparse *p) {
    jnode *n = parse_and(p);
    for (jtoken at = p->cur; jparse_skip_name(p, "or"); at = p->cur)
        n = binary(p, N_OR, &at, n, parse_and(p));
    return n;
}

jnode *jparse_expr(jparse *p) {
    jtoken at = p->cur;
    bool soft = p->soft;
    jparse_deeper(p, &at);
    jnode *n = jparse_expr_plain(p);
    for (; jparse_is_name(p, "if"); p->soft = soft) {
        jnode *c = jparse_node(p, N_COND, &p->cur);
        p->soft = true;
        jparse_step(p);
        c->a = n;
        c->b = jparse_expr_plain(p);
        if (jparse_skip_name(p, "else"))
            c->c = jparse_expr(p);
        n = c;
    }
    p->depth--;
    return n;
}

/* ---- Tuples and targets ---- */

static bool tuple_ends(const jparse *p, const char *end_name) {
    return p->cur.kind == T_VAR_END || p->cur.kind == T_BLOCK_END || jparse_is_op(p, ')') ||
           (end_name && jparse_is_name(p, end_name));
}

typedef enum { ITEM_EXPR, ITEM_PLAIN, ITEM_TARGET, ITEM_NAMESPACE } item_kind;

static jnode *tuple_item(jparse *p, item_kind kind) {
    return kind == ITEM_EXPR    ? jparse_expr(p)
           : kind == ITEM_PLAIN ? jparse_expr_plain(p)
                                : parse_primary(p, kind == ITEM_NAMESPACE);
}

static jnode *tuple_of(jparse *p, item_kind kind, const char *end_name, bool may_be_empty) {
    jtoken at = p->cur;
    jnode *first = NULL, **tail = &first;
    bool is_tuple = false;
    while (!tuple_ends(p, end_name)) {
        *tail = tuple_item(p, kind);
        tail = &(*tail)->next;
        if (!jparse_skip_op(p, ','))
            break;
        is_tuple = true;
    }
    if (!is_tuple && first)
        return first;
    char shown[48];
    if (!is_tuple && !may_be_empty)
        jparse_fail(p, &p->cur, "expected an expression, got %s", jparse_shown(&p->cur, shown));
    jnode *n = jparse_node(p, N_TUPLE, &at);
    n->a = first;
    return n;
}

/* `end_name` "(": inside parentheses, where nothing at all is an empty tuple. */
jnode *jparse_tuple(jparse *p, bool plain, const char *end_name) {
    bool parens = end_name && *end_name == '(';
    return tuple_of(p, plain ? ITEM_PLAIN : ITEM_EXPR, parens ? NULL : end_name, parens);
}

static void check_target(jparse *p, const jtoken *at, const jnode *n) {
    bool reserved = n->op == N_CONST;
    if (n->op == N_NAME || n->op == N_NSREF)
        return;
    if (n->op != N_TUPLE)
        jparse_fail(p, at, "%s cannot be assigned to", reserved ? "a constant" : "an expression");
    for (const jnode *k = n->a; k; k = k->next)
        check_target(p, at, k);
}

jnode *jparse_target(jparse *p, bool with_namespace, const char *end_name) {
    jtoken at = p->cur;
    jnode *n = tuple_of(p, with_namespace ? ITEM_NAMESPACE : ITEM_TARGET, end_name, false);
    check_target(p, &at, n);
    return n;
}
