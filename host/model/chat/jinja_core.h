/* SPDX-License-Identifier: Apache-2.0
 * What the files of the template interpreter share: values, the tree, the state of a rendering.
 *
 * Everything a rendering makes lies in its arena and is freed whole, so a failure anywhere is one
 * longjmp to jinja_render (jinja_compile for the parser) and no function between has an error path.
 * Nothing there may hold other resources. */
#pragma once
#include "host/base/mem.h"
#include "host/model/chat/jinja.h"
#include <setjmp.h>

/* ---- Values ---- */

typedef enum {
    J_MISSING, /* not a value: an argument that was not given */
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_BIG, /* an integer past 64 bits: read and printed as its digits, no arithmetic */
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_DICT,
    J_RANGE,
    J_ITER, /* a generator: read once */
    J_VIEW, /* keys, values or items of a dict */
    J_NAMESPACE,
    J_MACRO,
    J_FUNC, /* a global function, or a method with its object */
    J_LOOP,
    J_CYCLER,
    J_JOINER,
    J_KINDS
} jkind;

typedef struct jstr jstr;
typedef struct jlist jlist;
typedef struct jdict jdict;
typedef struct jundef jundef;
typedef struct jrange jrange;
typedef struct jiter jiter;
typedef struct jview jview;
typedef struct jmacro jmacro;
typedef struct jfunc jfunc;
typedef struct jloop jloop;
typedef struct jcycler jcycler;
typedef struct jjoiner jjoiner;
typedef struct jnode jnode;
typedef struct jscope jscope;
typedef struct jrun jrun;

typedef struct {
    jkind kind;
    bool safe; /* of J_STR: marked as HTML, what concatenation then escapes the other side for */
    union {
        bool b;
        int64_t i;
        double f;
        jstr *s;  /* also J_BIG */
        jlist *l; /* also J_TUPLE */
        jdict *d; /* also J_NAMESPACE */
        const jundef *u;
        const jrange *r;
        jiter *it;
        const jview *v;
        const jmacro *m;
        const jfunc *fn;
        jloop *loop;
        jcycler *cycler;
        jjoiner *joiner;
    };
} jval;

enum { JTEXT_UNCOUNTED = -1, JINDEX_STRIDE = 64 };

/* Free space behind a string: `a + b` appends in place when a ends where the room is filled to. */
typedef struct {
    char *p;
    size_t n, cap;
} jroom;

struct jstr {
    const char *p;
    size_t n;
    int64_t chars; /* code points; JTEXT_UNCOUNTED until asked for (never so in a template) */
    jroom *room;
    uint32_t *index; /* where every JINDEX_STRIDE-th code point begins; made when asked for */
    bool fixed;      /* lies in a template: other threads read it too */
};

struct jlist {
    jval *v; /* never written once the list is a value: slices share it */
    size_t n, cap;
};

typedef struct {
    jval k, v;
    uint32_t hash;
} jentry;

struct jdict {
    jentry *e; /* in the order of insertion */
    size_t n, cap;
    uint32_t *slot; /* index + 1, open addressing; NULL while small */
    size_t nslots;
};

struct jundef {
    const char *hint; /* the whole message, or NULL */
    jval obj;         /* J_MISSING: a variable */
    jval name;
};

struct jrange {
    int64_t start, stop, step, n;
};

struct jview {
    jdict *d;
    enum { JVIEW_KEYS, JVIEW_VALUES, JVIEW_ITEMS } what;
};

struct jiter {
    bool (*next)(jrun *r, jiter *it, jval *out);
    jval src; /* what it reads: any iterable */
    size_t at;
    jiter *inner;
    void *state;
};

struct jmacro {
    const jnode *node; /* N_MACRO or N_CALLBLOCK */
    jscope *scope;     /* where it was defined */
    jval name;
};

/* A row of a table of functions. `params` are names in order, `need` of them required; "*" hands
 * the arguments over as they are, in r->call. */
typedef struct {
    const char *name, *params;
    int need;
    jval (*fn)(jrun *r, jval self, jval *a);
} jrow;

struct jfunc {
    const jrow *row;
    jval self;
};

struct jloop {
    jlist *items;
    size_t index0;
    int64_t depth0;
    jval changed; /* J_MISSING before the first call */
    const jnode *node;
    jscope *scope; /* around the loop */
};

struct jcycler {
    jval *v;
    size_t n, at;
};

struct jjoiner {
    jval sep;
    bool used;
};

typedef struct {
    jval *v;
    int n;
    jval *key, *kv; /* keyword arguments */
    int nk;
} jargs;

enum { JPARAMS_MAX = 8 };

/* ---- The tree ---- */

typedef enum {
    N_CONST,
    N_NAME,
    N_TUPLE, /* a: elements */
    N_LIST,
    N_DICT, /* a: key, value, key, value */
    N_OR,
    N_AND,
    N_NOT,
    N_COND,    /* a if b else c (c may be NULL) */
    N_COMPARE, /* a; b: operands, each with its operator in flag */
    N_OPERAND,
    N_ADD,
    N_SUB,
    N_MUL,
    N_DIV,
    N_FLOORDIV,
    N_MOD,
    N_POW,
    N_NEG,
    N_POS,
    N_CONCAT, /* a: parts */
    N_ATTR,   /* a.val */
    N_ITEM,   /* a[b] */
    N_SLICE,  /* a[b:c:d] */
    N_CALL,   /* a(b...) */
    N_FILTER, /* a | row(b...); a may be NULL: the text of a block */
    N_TEST,   /* a is row(b...) */
    N_ARG,    /* a; flag: jarg_kind; val: the keyword */
    /* statements */
    N_DATA,
    N_OUTPUT,      /* a: expressions */
    N_FOR,         /* a target, b iterable, c test, d body, e else; flag: recursive */
    N_IF,          /* a test, b body, c the next N_IF or N_ELSE */
    N_ELSE,        /* b body */
    N_SET,         /* a target, b value */
    N_SETBLOCK,    /* a target, b filters, d body */
    N_NSREF,       /* a namespace's attribute as a target: sym, val */
    N_WITH,        /* a targets, b values, d body */
    N_MACRO,       /* sym, val name; a parameters (N_NAME with default in a), d body */
    N_CALLBLOCK,   /* as N_MACRO; b the call */
    N_FILTERBLOCK, /* b filters, d body */
    N_SCOPE,       /* d body */
    N_AUTOESCAPE,  /* a expression, d body */
    N_GENERATION,  /* d body */
    N_BREAK,
    N_CONTINUE,
    N_NOLOADER, /* include, import, extends: val names the tag */
} jop;

typedef enum { JARG_POSITION, JARG_KEYWORD, JARG_STAR, JARG_STARSTAR } jarg_kind;
typedef enum { JCMP_EQ, JCMP_NE, JCMP_LT, JCMP_LE, JCMP_GT, JCMP_GE, JCMP_IN, JCMP_NOTIN } jcompare;

enum { JMACRO_VARARGS = 1, JMACRO_KWARGS = 2, JMACRO_CALLER = 4 }; /* names a macro's body uses */

struct jnode {
    uint8_t op, flag;
    int32_t sym;
    uint32_t line, col;
    jval val;
    const jrow *row; /* of a filter or test; NULL: no such name */
    jnode *a, *b, *c, *d, *e;
    jnode *next; /* of the list it is in */
};

struct jinja_template {
    arena mem;
    const char *name;
    jnode *body;
    jval *sym; /* the identifiers, as strings */
    int32_t nsym;
    bool has_generation;
};

/* ---- Names of a place ---- */

typedef struct {
    int32_t sym;
    jval v;
} jbind;

struct jscope {
    jscope *up;
    jbind *v;
    int n, cap;
};

/* ---- Text being made, in the arena ---- */

typedef struct {
    char *p;
    size_t n, cap;
} jbuf;

/* ---- A rendering ---- */

struct jrun {
    jmp_buf fail;
    const jinja_template *t;
    arena mem;
    size_t mem_max; /* of mem */
    int64_t steps;  /* left */
    int depth;
    const jnode *at; /* for messages */
    jscope *scope;
    jval *global; /* by symbol: arguments and the language's own names; J_MISSING: none */
    jbuf *out, top;
    const jargs *call; /* of the row that runs with params "*" */
    bool autoescape;
    int64_t now;
    jinja_output *result;
};

_Noreturn void jrun_fail(jrun *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void jrun_tick(jrun *r, size_t work); /* one step, and one more for each 32 of work */
void jrun_enter(jrun *r);             /* one level deeper; leave with r->depth-- */
void *jrun_alloc(jrun *r, size_t n);  /* within the memory limit */
#define JNEW(r, type, n) ((type *)jrun_alloc((r), sizeof(type) * (size_t)(n)))

void jbuf_add(jrun *r, jbuf *b, const char *p, size_t n);
void jbuf_puts(jrun *r, jbuf *b, const char *s);
void jbuf_putc(jrun *r, jbuf *b, char c);
void jbuf_char(jrun *r, jbuf *b, uint32_t cp);
void jbuf_fill(jrun *r, jbuf *b, uint32_t cp, int64_t n); /* n times cp; n may be negative */
jval jbuf_take(jbuf *b, jrun *r);                         /* as a string; b is empty again */

/* jinja_value.c */
#define JV_NONE ((jval){.kind = J_NONE})
#define JV_MISSING ((jval){.kind = J_MISSING})
jval jv_bool(bool b);
jval jv_int(int64_t i);
jval jv_float(double f);
jval jv_str(jrun *r, const char *p, size_t n); /* copies */
jval jv_text(jrun *r, const char *s);
jval jv_borrow(jrun *r, const char *p, size_t n); /* bytes that live as long as the rendering */
jval jv_concat(jrun *r, jval a, jval b);          /* of two strings */
int64_t jv_chars(jval s);
jval jv_undefined(jrun *r, const char *hint);
jval jv_undefined_name(jrun *r, jval name);
jval jv_undefined_in(jrun *r, jval obj, jval name);
_Noreturn void jv_fail_undefined(jrun *r, jval v);
jlist *jlist_new(jrun *r, size_t cap);
void jlist_push(jrun *r, jlist *l, jval v);
jval jv_list(jlist *l);
jval jv_tuple(jlist *l);
jval jv_pair(jrun *r, jval a, jval b); /* a tuple */
jdict *jdict_new(jrun *r);
void jdict_set(jrun *r, jdict *d, jval k, jval v);
jval *jdict_get(jrun *r, const jdict *d, jval k); /* NULL: absent; fails on what has no hash */
jval *jdict_find(const jdict *d, const char *key, size_t n);
bool jv_is_str(jval v, const char *s);
bool jv_truth(jrun *r, jval v);
bool jv_equal(jrun *r, jval a, jval b);
bool jv_same(jval a, jval b);                            /* `is` */
int jv_compare(jrun *r, jval a, jval b, const char *op); /* <0, 0, >0 (2: unordered); fails */
bool jv_number(jval v, double *f);                       /* bool, int, big or float */
bool jv_integer(jval v, int64_t *i);                     /* bool or int */
const char *jv_type(jval v);                             /* Python's name: "str" */
void jv_object_name(jval v, jbuf *b, jrun *r);           /* "dict object", "None" */

/* jinja_iter.c */
bool jv_iterable(jval v);
jiter *jiter_open(jrun *r, jval v); /* fails: "'int' object is not iterable" */
bool jiter_next(jrun *r, jiter *it, jval *out);
jlist *jv_elements(jrun *r, jval v); /* all of it; shares a list's own */
jval jiter_of_list(jrun *r, jlist *l);
int64_t jrange_at(const jrange *v, int64_t i); /* element i */
bool jv_length(jrun *r, jval v, int64_t *n);   /* false: has none */

/* jinja_text.c */
void jtext_str(jrun *r, jbuf *b, jval v);  /* str(v) */
void jtext_repr(jrun *r, jbuf *b, jval v); /* repr(v) */
jval jtext_of(jrun *r, jval v);            /* str(v) as a value; a string is itself, unmarked */
jval jtext_soft(jrun *r, jval v);          /* the same, but marks stay */
void jtext_float(jrun *r, jbuf *b, double f);
void jtext_escape(jrun *r, jbuf *b, const char *p, size_t n); /* HTML */
jval jtext_escaped(jrun *r, jval v);                          /* escape(v): marked */

/* jinja_json.c */
jval json_to_value(jrun *r, const char *name, const char *text, size_t n);
jval json_of_value(jrun *r, jval v, jval *a); /* ensure_ascii, indent, separators, sort_keys */

/* jinja_ops.c */
jval jop_binary(jrun *r, jop op, jval a, jval b);
jval jop_negate(jrun *r, jval v, bool negative);
bool jop_contains(jrun *r, jval needle, jval hay);
bool jop_compare(jrun *r, jcompare op, jval a, jval b);
jval jop_attr(jrun *r, jval obj, jval name);
jval jop_item(jrun *r, jval obj, jval key);
jval jop_slice(jrun *r, jval obj, jval from, jval to, jval step);
jval jop_path(jrun *r, jval obj, jval path, jval preset); /* "a.b.0" as filters take it */

/* jinja_chars.c: code points */
size_t jchar_space(const char *p, const char *end); /* bytes of the white space at p; 0: none */
bool jchar_is(uint32_t cp, const char *classes);    /* any of "L", "Lu", ... */
typedef enum { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE, JCASE_FOLD } jcase;
/* The character at p, of a text that begins at `begin`. */
void jchar_case(jrun *r, jbuf *b, jcase c, const char *begin, const char *p, const char *end);
bool jchar_cased(uint32_t cp, bool *upper);
bool jchar_printable(uint32_t cp);
jval jchar_map(jrun *r, jval s, jcase c);
jval jchar_capitalize(jrun *r, jval s);
const char *jchar_at(jrun *r, jval s, int64_t i); /* the address of a code point; i in 0..chars */
size_t jchar_line(const char *p, const char *end, size_t *newline); /* bytes of the line at p */

/* jinja_str.c, jinja_object.c, jinja_filter.c, jinja_seq.c, jinja_is.c: tables of rows, by name */
const jrow *jrow_find(const jrow *rows, int n, const char *name, size_t len);
const jrow *jstr_method(const char *name, size_t n);
const jrow *jobject_method(jkind kind, const char *name, size_t n);
bool jobject_attr(jrun *r, jval obj, jval name, jval *out);
bool jobject_unsafe(jkind kind, const char *name, size_t n); /* would change a list or dict */
const jrow *jglobal_find(const char *name, size_t n);
const jrow *jfilter_find(const char *name, size_t n);
const jrow *jseq_find(const char *name, size_t n);
const jrow *jtest_find(const char *name, size_t n);
jval jstr_trim(jrun *r, jval s, jval chars, int sides); /* 1 left, 2 right, 3 both */
jval jstr_replace(jrun *r, jval s, jval from, jval to, int64_t count);
jlist *jstr_lines(jrun *r, jval s, bool keep);
jval jstr_center(jrun *r, jval s, int64_t width, uint32_t fill);
jval jstr_join(jrun *r, jval sep, jval items);
jval jstr_int(jrun *r, jval s, int64_t base); /* int("..."); J_MISSING if it is none */
jval jstr_float(jrun *r, jval s);             /* float("..."); J_MISSING if it is none */

/* jinja_format.c */
jval jformat_percent(jrun *r, jval format, jval args);
jval jformat_braces(jrun *r, jval format, const jargs *a);
jval jformat_time(jrun *r, jval format, int64_t now);

/* jinja_eval.c */
jval jeval(jrun *r, const jnode *n);
jval jeval_call(jrun *r, jval f, const jargs *a);
jval jeval_row(jrun *r, const jrow *row, jval self, const jargs *a);
jval jeval_filters(jrun *r, const jnode *chain,
                   jval v); /* a chain whose innermost has no operand */
void jeval_args(jrun *r, const jnode *list, jargs *out);
jscope *jscope_push(jrun *r, jscope *up);
void jscope_set(jrun *r, jscope *s, int32_t sym, jval v);
int64_t jarg_int(jrun *r, const char *what, jval v, int64_t preset); /* preset if missing or none */
bool jarg_bool(jrun *r, jval v, bool preset);
jval jarg_str(jrun *r, const char *what, jval v); /* fails on another type */

/* jinja_exec.c */
void jexec_template(jrun *r);
jval jexec_macro(jrun *r, const jmacro *m, const jargs *a);
jval jexec_loop_again(jrun *r, jloop *loop, jval items);

/* ---- The parser ---- */

typedef enum {
    T_EOF,
    T_DATA,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INTEGER,
    T_FLOAT,
    T_OP
} jtoken_kind;

typedef struct {
    jtoken_kind kind;
    int op; /* of T_OP: its characters, the first in the highest byte: '+', '=' << 8 | '=' */
    const char *p;
    size_t n;
    uint32_t line, col;
} jtoken;

#define JOP2(a, b) ((a) << 8 | (b))

typedef struct {
    jmp_buf fail;
    jinja_template *t;
    arena *mem;
    const char *src, *p, *end;
    const char *counted; /* line and col are those of this place */
    uint32_t line, col;
    enum { JLEX_ROOT, JLEX_RAW, JLEX_BLOCK, JLEX_VAR } state;
    jtoken_kind pending; /* the tag behind the data just given; T_EOF: none */
    jtoken pending_tag;
    char open[JINJA_NESTING_MAX + 1]; /* closing brackets due */
    int nopen;
    jtoken cur, ahead;
    bool has_ahead;
    int depth, loops;
    bool soft;      /* inside an if: an unknown filter is a failure only when met */
    uint8_t *flags; /* of the macro being parsed: JMACRO_* */
    int32_t sym_cap, *slot, nslots;
    char message[512];
} jparse;

_Noreturn void jparse_fail(jparse *p, const jtoken *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void jlex_next(jparse *p, jtoken *t); /* the token at p->p */
void jparse_step(jparse *p);          /* cur = the next */
const jtoken *jparse_look(jparse *p); /* the one after cur */
bool jparse_is_op(const jparse *p, int op);
bool jparse_is_name(const jparse *p, const char *name);
bool jparse_skip_name(jparse *p, const char *name);
bool jparse_skip_op(jparse *p, int op);
void jparse_expect_op(jparse *p, int op);
jnode *jparse_node(jparse *p, jop op, const jtoken *at);
int32_t jparse_sym(jparse *p, const char *s, size_t n);
jval jparse_str(jparse *p, const char *s, size_t n);
void jparse_deeper(jparse *p, const jtoken *at);
const char *jparse_shown(const jtoken *t, char out[48]); /* "'endif'" */
jnode *jparse_expr(jparse *p);
jnode *jparse_expr_plain(jparse *p); /* without `x if y else z` */
jnode *jparse_tuple(jparse *p, bool plain, const char *end_name);
jnode *jparse_target(jparse *p, bool with_namespace, const char *end_name);
jnode *jparse_filters(jparse *p, jnode *node, bool inline_start);
jnode *jparse_string_escapes(jparse *p, const jtoken *t);
