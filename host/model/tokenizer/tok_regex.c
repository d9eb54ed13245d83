/* SPDX-License-Identifier: Apache-2.0
 * Regular expressions of tokenizers on PCRE2. The files are written for other engines (Oniguruma's
 * Ruby syntax in tokenizer.json, Rust's in tiktoken), so an expression is rewritten where the same
 * letters mean something else; time is bounded, because the file and the text are both input. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "host/base/clock.h"
#include "host/model/tokenizer/tok.h"
#include <pcre2.h>
#include <string.h>
#include <strings.h>

enum {
    PATTERN_BYTES = 1 << 16,
    MAX_GROUPS = 200,
    STEPS = 1000000, /* backtracking steps of one match, and per byte of the text: */
    STEPS_PER_BYTE = 64,
    HEAP_KIB = 256 << 10,
    JIT_STACK_BYTES = 8 << 20,
    CLOCK_EVERY = 16 /* matches */
};
#define SECONDS 2.0 /* of one text, plus SECONDS_PER_BYTE: far above any honest expression */
#define SECONDS_PER_BYTE 4e-6

struct tok_regex {
    pcre2_code *code;
    bool jit;
    char *name; /* for messages */
};

struct tok_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    double started;
    unsigned calls;
};

/* PCRE2's \s has U+180E, which is no White_Space; its \w lacks marks and connectors. */
#define SPACES \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
    "\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACES \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}" \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}" \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORDS \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}" \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

#define EDGE(w) "(?:(?<=[" w "])(?![" w "])|(?<![" w "])(?=[" w "]))"
#define NO_EDGE(w) "(?:(?<=[" w "])(?=[" w "])|(?<![" w "])(?![" w "]))"

typedef struct {
    const char *from;
    const char *alone, *in_class; /* NULL: leave it */
} escape_row;

/* Oniguruma counts the superscripts and fractions of Latin-1 as word characters. */
#define RUBY_WORDS WORDS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define RUST_WORDS WORDS "\\x{200c}\\x{200d}"

static const escape_row ruby_escapes[] = {
    {"s", "[" SPACES "]", SPACES},         {"S", "[^" SPACES "]", NOT_SPACES},
    {"w", "[" RUBY_WORDS "]", RUBY_WORDS}, {"W", "[^" RUBY_WORDS "]", NULL},
    {"b", EDGE(RUBY_WORDS), NULL},         {"B", NO_EDGE(RUBY_WORDS), NULL},
    {"h", "[0-9a-fA-F]", "0-9a-fA-F"},     {"H", "[^0-9a-fA-F]", NULL}};

static const escape_row rust_escapes[] = {
    {"s", "[" SPACES "]", SPACES},         {"S", "[^" SPACES "]", NOT_SPACES},
    {"w", "[" RUST_WORDS "]", RUST_WORDS}, {"W", "[^" RUST_WORDS "]", NULL},
    {"b", EDGE(RUST_WORDS), NULL},         {"B", NO_EDGE(RUST_WORDS), NULL}};

static const char *const long_categories[][2] = {{"Letter", "L"},
                                                 {"Mark", "M"},
                                                 {"Number", "N"},
                                                 {"Punctuation", "P"},
                                                 {"Symbol", "S"},
                                                 {"Separator", "Z"},
                                                 {"Other", "C"},
                                                 {"Uppercase_Letter", "Lu"},
                                                 {"Lowercase_Letter", "Ll"},
                                                 {"Titlecase_Letter", "Lt"},
                                                 {"Modifier_Letter", "Lm"},
                                                 {"Other_Letter", "Lo"},
                                                 {"Nonspacing_Mark", "Mn"},
                                                 {"Spacing_Mark", "Mc"},
                                                 {"Enclosing_Mark", "Me"},
                                                 {"Decimal_Number", "Nd"},
                                                 {"Letter_Number", "Nl"},
                                                 {"Other_Number", "No"},
                                                 {"Alphabetic", "Alphabetic"},
                                                 {"Lowercase", "Lowercase"},
                                                 {"Uppercase", "Uppercase"},
                                                 {"White_Space", "White_Space"},
                                                 {"Emoji", "Emoji"},
                                                 {"Any", "Any"},
                                                 {"Extended_Pictographic", "Extended_Pictographic"},
                                                 {"Ideographic", "Ideographic"}};

/* \p{Name}: long names of categories, and scripts without Script_Extensions, PCRE2's default. */
static void put_property(buf *out, const char *name, size_t n) {
    if (n && *name == '^') {
        buf_putc(out, '^');
        name++;
        n--;
    }
    for (size_t i = 0; i < sizeof long_categories / sizeof *long_categories; i++)
        if (strlen(long_categories[i][0]) == n && !strncasecmp(long_categories[i][0], name, n)) {
            buf_puts(out, long_categories[i][1]);
            return;
        }
    if (n > 2 && !memchr(name, ':', n) && !memchr(name, '=', n) && name[0] != 'X')
        buf_puts(out, "sc:");
    buf_add(out, name, n);
}

/* One escape at p ('\\'); returns what is behind it. */
static const char *put_escape(buf *out, const char *p, const char *end, tok_dialect d,
                              bool in_class) {
    const escape_row *rows = d == TOK_RUBY ? ruby_escapes : rust_escapes;
    size_t nrows = d == TOK_RUBY ? sizeof ruby_escapes / sizeof *rows
                                 : sizeof rust_escapes / sizeof *rows;
    if (p + 1 == end) {
        buf_putc(out, '\\');
        return end;
    }
    for (size_t i = 0; i < nrows; i++) {
        const char *to = in_class ? rows[i].in_class : rows[i].alone;
        if (p[1] == rows[i].from[0] && to) {
            buf_puts(out, to);
            return p + 2;
        }
    }
    if ((p[1] == 'p' || p[1] == 'P') && p + 2 < end && p[2] == '{') {
        const char *close = memchr(p, '}', (size_t)(end - p));
        if (close) {
            buf_add(out, p, 3);
            put_property(out, p + 3, (size_t)(close - p - 3));
            buf_putc(out, '}');
            return close + 1;
        }
    }
    if (p[1] == 'u' && end - p >= 6) { /* \uHHHH */
        buf_printf(out, "\\x{%.4s}", p + 2);
        return p + 6;
    }
    buf_add(out, p, 2);
    return p + 2;
}

typedef struct {
    const char *p, *end;
    buf *out;
    tok_dialect dialect;
    bool in_class, nested; /* nested: set operations, which PCRE2 does not have */
    size_t atom;           /* where in `out` the last atom starts */
    size_t open[MAX_GROUPS];
    int depth;
} rewriter;

/* In Ruby `x{1,3}+` is not possessive: it repeats the repeat. */
static void put_braces(rewriter *r) {
    const char *close = memchr(r->p, '}', (size_t)(r->end - r->p));
    if (r->dialect != TOK_RUBY || !close || close + 1 == r->end || close[1] != '+') {
        buf_putc(r->out, *r->p++);
        return;
    }
    buf *out = r->out;
    buf_puts(out, "(?:");
    if (out->failed)
        return;
    memmove(out->data + r->atom + 3, out->data + r->atom, out->len - 3 - r->atom);
    memcpy(out->data + r->atom, "(?:", 3);
    buf_add(out, r->p, (size_t)(close + 1 - r->p));
    buf_puts(out, ")+");
    r->p = close + 2;
}

static void put_class_start(rewriter *r) {
    r->atom = r->out->len;
    r->in_class = true;
    buf_putc(r->out, *r->p++);
    if (r->p < r->end && *r->p == '^')
        buf_putc(r->out, *r->p++);
    if (r->p < r->end && *r->p == ']')
        buf_putc(r->out, *r->p++);
}

static void put_in_class(rewriter *r) {
    bool two = r->p + 1 < r->end;
    if (*r->p == '[' && two && r->p[1] == ':') { /* its ']' does not close the class */
        const char *close = memchr(r->p, ']', (size_t)(r->end - r->p));
        close = close ? close + 1 : r->end;
        buf_add(r->out, r->p, (size_t)(close - r->p));
        r->p = close;
        return;
    }
    r->nested |= *r->p == '[' || (*r->p == '&' && two && r->p[1] == '&');
    r->in_class = *r->p != ']';
    buf_putc(r->out, *r->p++);
}

static void put_plain(rewriter *r) {
    char c = *r->p;
    if (c == '(') {
        r->nested |= r->depth == MAX_GROUPS;
        if (r->depth < MAX_GROUPS)
            r->open[r->depth++] = r->out->len;
    } else if (c == ')') {
        r->atom = r->depth ? r->open[--r->depth] : r->out->len;
    } else if (!strchr("*+?|", c) && (c & 0xc0) != 0x80) {
        r->atom = r->out->len;
    }
    buf_putc(r->out, c);
    r->p++;
}

static bool translate(buf *out, json_str pattern, tok_dialect d) {
    rewriter r = {.p = pattern.s, .end = pattern.s + pattern.n, .out = out, .dialect = d};
    while (r.p < r.end && !out->failed) {
        if (*r.p == '\\') {
            r.atom = r.in_class ? r.atom : out->len;
            r.p = put_escape(out, r.p, r.end, d, r.in_class);
        } else if (r.in_class) {
            put_in_class(&r);
        } else if (*r.p == '{') {
            put_braces(&r);
        } else if (*r.p == '[') {
            put_class_start(&r);
        } else {
            put_plain(&r);
        }
    }
    return !r.nested && !out->failed;
}

static weft_status compile(tok_regex *re, const char *key, const buf *text, tok_dialect d) {
    int error;
    size_t at;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK |
                       (d == TOK_RUBY ? PCRE2_MULTILINE : PCRE2_DOLLAR_ENDONLY);
    re->code = pcre2_compile((PCRE2_SPTR)text->data, text->len, options, &error, &at, NULL);
    if (!re->code) {
        PCRE2_UCHAR words[128];
        pcre2_get_error_message(error, words, sizeof words);
        return weft_fail(WEFT_BAD_FILE, "%s: regular expression: %s", key, (const char *)words);
    }
    re->jit = pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) == 0;
    return WEFT_OK;
}

weft_status tok_regex_open(const char *key, json_str pattern, tok_dialect dialect,
                           tok_regex **out) {
    buf text;
    if (pattern.n > PATTERN_BYTES)
        return weft_fail(WEFT_BAD_FILE, "%s: regular expression of %zu bytes (at most %d)", key,
                         pattern.n, PATTERN_BYTES);
    tok_regex *re = mem_alloc(sizeof *re);
    re->name = mem_alloc(strlen(key) + 1);
    memcpy(re->name, key, strlen(key));
    buf_init(&text, 64 * PATTERN_BYTES);
    weft_status s = translate(&text, pattern, dialect)
                        ? compile(re, key, &text, dialect)
                        : weft_fail(WEFT_UNSUPPORTED,
                                    "%s: regular expression with nested classes or groups that "
                                    "are too deep",
                                    key);
    buf_fini(&text);
    if (s != WEFT_OK) {
        tok_regex_close(re);
        return s;
    }
    *out = re;
    return WEFT_OK;
}

void tok_regex_close(tok_regex *re) {
    if (!re)
        return;
    pcre2_code_free(re->code);
    mem_free(re->name);
    mem_free(re);
}

tok_match *tok_match_open(void) {
    tok_match *m = mem_alloc(sizeof *m);
    m->started = clock_seconds();
    return m;
}

void tok_match_close(tok_match *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    mem_free(m);
}

static weft_status match_prepare(tok_match *m, size_t n) {
    if (!m->data) {
        m->data = pcre2_match_data_create(1, NULL);
        m->context = pcre2_match_context_create(NULL);
    }
    if (!m->data || !m->context)
        return weft_fail(WEFT_NO_MEMORY, "regular expression: no memory");
    uint64_t steps = STEPS + (uint64_t)STEPS_PER_BYTE * n;
    pcre2_set_match_limit(m->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    pcre2_set_heap_limit(m->context, HEAP_KIB);
    return WEFT_OK;
}

/* JIT first; its stack is fixed, so a text that needs more goes to the interpreter. */
static int match_once(const tok_regex *re, tok_match *m, const char *s, size_t n, size_t from) {
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (re->jit)
        rc = pcre2_jit_match(re->code, (PCRE2_SPTR)s, n, from, 0, m->data, m->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && re->jit && !m->stack) {
        m->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL);
        pcre2_jit_stack_assign(m->context, NULL, m->stack);
        rc = pcre2_jit_match(re->code, (PCRE2_SPTR)s, n, from, 0, m->data, m->context);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(re->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         m->data, m->context);
    return rc;
}

static weft_status too_long(const tok_regex *re, size_t at) {
    return weft_fail(WEFT_BAD_FILE,
                     "%s: regular expression takes too long on this text (near byte %zu)", re->name,
                     at);
}

weft_status tok_regex_next(const tok_regex *re, tok_match *m, const char *s, size_t n, size_t from,
                           size_t *begin, size_t *end, bool *found) {
    if (m->calls % CLOCK_EVERY == 0) {
        WEFT_TRY(match_prepare(m, n));
        if (clock_seconds() - m->started > SECONDS + SECONDS_PER_BYTE * (double)n)
            return too_long(re, from);
    }
    m->calls++;
    int rc = match_once(re, m, s, n, from);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH)
        return WEFT_OK;
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT)
        return too_long(re, from);
    if (rc < 0)
        return weft_fail(WEFT_BAD_FILE, "%s: regular expression fails on this text (code %d)",
                         re->name, rc);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(m->data);
    *begin = at[0];
    *end = at[1];
    if (*end < *begin) /* \K behind the end */
        *begin = *end;
    return *begin < from ? weft_fail(WEFT_BAD_FILE, "%s: a match starts before its place", re->name)
                         : WEFT_OK;
}
