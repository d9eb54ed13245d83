/* SPDX-License-Identifier: Apache-2.0
 * From template text to tokens. White space is decided here, as trim_blocks and lstrip_blocks have
 * it: the newline behind a block or comment goes, and so does the blank before one on its line. */
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Line and column of `at`, which never lies before the place asked for last. */
static void locate(jparse *p, const char *at, uint32_t *line, uint32_t *col) {
    for (; p->counted < at; p->counted++) {
        if (*p->counted == '\n') {
            p->line++;
            p->col = 1;
        } else {
            p->col += (*p->counted & 0xc0) != 0x80;
        }
    }
    *line = p->line;
    *col = p->col;
}

_Noreturn void jparse_fail(jparse *p, const jtoken *at, const char *fmt, ...) {
    int n = snprintf(p->message, sizeof p->message, "%u:%u: ", at->line, at->col);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->message + n, sizeof p->message - (size_t)n, fmt, ap);
    va_end(ap);
    longjmp(p->fail, 1);
}

static jtoken token_at(jparse *p, jtoken_kind kind, const char *at) {
    jtoken t = {.kind = kind, .p = at};
    locate(p, at, &t.line, &t.col);
    return t;
}

static bool has(const jparse *p, const char *at, const char *word) {
    size_t n = strlen(word);
    return (size_t)(p->end - at) >= n && memcmp(at, word, n) == 0;
}

static const char *skip_space(const char *at, const char *end) {
    for (size_t k; (k = jchar_space(at, end)) > 0;)
        at += k;
    return at;
}

/* ---- Ends of tags ---- */

/* Behind a closing tag at `at` ("%}", "#}"), with what its sign and trim_blocks take along; NULL if
 * there is none. `*from` is where it begins, its sign included. */
static const char *close_of(const jparse *p, const char *at, const char *tag) {
    char sign = at < p->end && (*at == '+' || *at == '-') ? *at : 0;
    const char *t = at + (sign != 0);
    if (!has(p, t, tag))
        return NULL;
    t += 2;
    if (sign == '-')
        return skip_space(t, p->end);
    return sign == 0 && t < p->end && *t == '\n' ? t + 1 : t;
}

static const char *variable_close(const jparse *p, const char *at) {
    if (has(p, at, "-}}"))
        return skip_space(at + 3, p->end);
    return has(p, at, "}}") ? at + 2 : NULL;
}

/* "{% raw %}" at `at`: behind it, else NULL. */
static const char *raw_open(const jparse *p, const char *at) {
    const char *t = at + 2;
    t += t < p->end && (*t == '-' || *t == '+');
    t = skip_space(t, p->end);
    if (!has(p, t, "raw"))
        return NULL;
    t = skip_space(t + 3, p->end);
    if (has(p, t, "-%}"))
        return skip_space(t + 3, p->end);
    return has(p, t, "%}") ? t + 2 : NULL;
}

static const char *raw_close(const jparse *p, const char *at) {
    const char *t = at + 2;
    t += t < p->end && (*t == '-' || *t == '+');
    t = skip_space(t, p->end);
    return has(p, t, "endraw") ? close_of(p, skip_space(t + 6, p->end), "%}") : NULL;
}

/* ---- Text between tags ---- */

static const char *strip_right(const char *from, const char *to) {
    while (to > from) {
        const char *c = to - 1;
        while (c > from && (*c & 0xc0) == 0x80)
            c--;
        if (jchar_space(c, to) != (size_t)(to - c))
            break;
        to = c;
    }
    return to;
}

/* Where the text before a tag ends; `sign` is the tag's, `strips` false for {{. */
static const char *text_end(const jparse *p, const char *from, const char *to, char sign,
                            bool strips) {
    if (sign == '-')
        return strip_right(from, to);
    if (sign == '+' || !strips)
        return to;
    const char *line = to;
    while (line > from && line[-1] != '\n')
        line--;
    if (line == from && from > p->src && from[-1] != '\n')
        return to;
    return skip_space(line, to) == to ? line : to;
}

static char sign_of(const jparse *p, const char *at) {
    return at < p->end && (*at == '-' || *at == '+') ? *at : 0;
}

static const char *find_open(const jparse *p, const char *at) {
    for (; (at = memchr(at, '{', (size_t)(p->end - at))); at++)
        if (at + 1 < p->end && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
            return at;
    return p->end;
}

static void skip_comment(jparse *p, const char *open) {
    const char *at = open + 2;
    at += sign_of(p, at) != 0;
    for (const char *q = at; q < p->end; q++) {
        const char *behind = *q == '#' || *q == '+' || *q == '-' ? close_of(p, q, "#}") : NULL;
        if (behind) {
            p->p = behind;
            return;
        }
    }
    jtoken t = token_at(p, T_EOF, open);
    jparse_fail(p, &t, "this comment has no end; close it with #}");
}

/* The text up to the tag at `to` as a token; the tag follows as the next one if it is one. */
static bool text_token(jparse *p, jtoken *t, const char *from, const char *to) {
    bool tag = to < p->end;
    const char *end = tag ? text_end(p, from, to, sign_of(p, to + 2), to[1] != '{') : to;
    *t = token_at(p, T_DATA, from);
    t->n = (size_t)(end - from);
    return t->n > 0;
}

/* Enters the tag at `at`; false if it was a comment or the start of raw text. */
static bool open_tag(jparse *p, const char *at, jtoken *t) {
    if (at[1] == '#') {
        skip_comment(p, at);
        return false;
    }
    const char *raw = at[1] == '%' ? raw_open(p, at) : NULL;
    if (raw) {
        p->state = JLEX_RAW;
        p->p = raw;
        return false;
    }
    *t = token_at(p, at[1] == '%' ? T_BLOCK_BEGIN : T_VAR_BEGIN, at);
    p->state = at[1] == '%' ? JLEX_BLOCK : JLEX_VAR;
    p->p = at + 2;
    p->p += sign_of(p, p->p) != 0;
    p->nopen = 0;
    return true;
}

static bool root_token(jparse *p, jtoken *t) {
    const char *from = p->p, *at = find_open(p, from);
    bool text = text_token(p, t, from, at);
    p->pending = T_EOF;
    if (at == p->end) {
        p->p = at;
        return text;
    }
    jtoken tag;
    bool opened = open_tag(p, at, text ? &p->pending_tag : &tag);
    if (text)
        p->pending = opened ? p->pending_tag.kind : T_EOF;
    else if (opened)
        *t = tag;
    return text || opened;
}

static bool raw_token(jparse *p, jtoken *t) {
    const char *from = p->p;
    for (const char *at = from; (at = memchr(at, '{', (size_t)(p->end - at))); at++) {
        const char *behind = has(p, at, "{%") ? raw_close(p, at) : NULL;
        if (!behind)
            continue;
        bool text = text_token(p, t, from, at);
        p->state = JLEX_ROOT;
        p->p = behind;
        return text;
    }
    *t = token_at(p, T_EOF, from);
    jparse_fail(p, t, "raw text has no end; close it with {%% endraw %%}");
}

/* ---- Inside a tag ---- */

static size_t digits_of(const char *at, const char *end, const char *set) {
    const char *q = at;
    while (q < end && *q &&
           (strchr(set, *q) ||
            (*q == '_' && q + 1 < end && q > at && q[-1] != '_' && q[1] && strchr(set, q[1]))))
        q++;
    return (size_t)(q - at);
}

#define DECIMAL "0123456789"

/* Bytes of a float at `at`, 0 if it is none: digits with a fraction, an exponent, or both. */
static size_t float_length(const jparse *p, const char *at) {
    if (at > p->src && at[-1] == '.')
        return 0;
    const char *q = at + digits_of(at, p->end, DECIMAL);
    bool is_float = false;
    if (q < p->end && *q == '.' && digits_of(q + 1, p->end, DECIMAL)) {
        q += 1 + digits_of(q + 1, p->end, DECIMAL);
        is_float = true;
    }
    if (q < p->end && (*q | 0x20) == 'e') {
        const char *e = q + 1;
        e += e < p->end && (*e == '+' || *e == '-');
        size_t n = digits_of(e, p->end, DECIMAL);
        if (n) {
            q = e + n;
            is_float = true;
        }
    }
    return is_float ? (size_t)(q - at) : 0;
}

static size_t integer_length(const jparse *p, const char *at) {
    static const struct {
        char mark;
        const char *digits;
    } base[] = {{'b', "01"}, {'o', "01234567"}, {'x', "0123456789abcdefABCDEF"}};
    if (*at != '0')
        return digits_of(at, p->end, DECIMAL);
    for (int i = 0; i < 3 && at + 1 < p->end; i++)
        if ((at[1] | 0x20) == base[i].mark) {
            const char *q = at + 2;
            q += q + 1 < p->end && *q == '_';
            size_t n = digits_of(q, p->end, base[i].digits);
            if (n)
                return (size_t)(q - at) + n;
        }
    return digits_of(at, p->end, "0");
}

static size_t name_length(const jparse *p, const char *at) {
    const char *q = at;
    while (q < p->end) {
        uint32_t cp = 0;
        int k = utf8_next(q, p->end, &cp);
        bool word = cp == '_' || (cp < 0x80 ? ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z') ||
                                                  (cp >= '0' && cp <= '9')
                                            : jchar_is(cp, "L N M"));
        if (!word)
            break;
        q += k;
    }
    return (size_t)(q - at);
}

static size_t string_length(const jparse *p, const char *at) {
    for (const char *q = at + 1; q < p->end; q++) {
        if (*q == *at)
            return (size_t)(q - at) + 1;
        q += *q == '\\';
    }
    return 0;
}

static size_t operator_length(const jparse *p, const char *at) {
    static const char two[] = "//**==!=>=<=";
    for (const char *q = two; *q; q += 2)
        if (at + 1 < p->end && at[0] == q[0] && at[1] == q[1])
            return 2;
    return *at && strchr("+-/*%~[](){}><=.:|,;", *at) ? 1 : 0;
}

static void balance(jparse *p, const jtoken *t) {
    static const char open[] = "([{", close[] = ")]}";
    const char *o = strchr(open, t->op), *c = strchr(close, t->op);
    if (o) {
        if (p->nopen == JINJA_NESTING_MAX)
            jparse_fail(p, t, "brackets are nested too deeply (limit %d)", JINJA_NESTING_MAX);
        p->open[p->nopen++] = close[o - open];
    } else if (c) {
        if (p->nopen == 0)
            jparse_fail(p, t, "unexpected '%c'", t->op);
        if (p->open[--p->nopen] != t->op)
            jparse_fail(p, t, "unexpected '%c', expected '%c'", t->op, p->open[p->nopen]);
    }
}

static void plain_token(jparse *p, jtoken *t) {
    const char *at = p->p;
    char c = *at;
    if (c >= '0' && c <= '9') {
        t->n = float_length(p, at);
        t->kind = t->n ? T_FLOAT : T_INTEGER;
        t->n = t->n ? t->n : integer_length(p, at);
    } else if (c == '"' || c == '\'') {
        t->kind = T_STRING;
        t->n = string_length(p, at);
        if (!t->n)
            jparse_fail(p, t, "this string has no end; close it with %c", c);
    } else if ((t->n = name_length(p, at)) > 0) {
        t->kind = T_NAME;
    } else if ((t->n = operator_length(p, at)) > 0) {
        t->kind = T_OP;
        t->op = t->n == 2 ? JOP2(at[0], at[1]) : at[0];
        if (t->n == 1)
            balance(p, t);
    } else {
        int k = 1;
        uint32_t cp = (unsigned char)c;
        if (c < 0)
            k = utf8_next(at, p->end, &cp);
        jparse_fail(p, t, "unexpected character '%.*s'", k, at);
    }
    p->p = at + t->n;
}

static void tag_token(jparse *p, jtoken *t) {
    p->p = skip_space(p->p, p->end);
    *t = token_at(p, T_EOF, p->p);
    if (p->p == p->end)
        return;
    const char *behind = p->nopen                 ? NULL
                         : p->state == JLEX_BLOCK ? close_of(p, p->p, "%}")
                                                  : variable_close(p, p->p);
    if (!behind) {
        plain_token(p, t);
        return;
    }
    t->kind = p->state == JLEX_BLOCK ? T_BLOCK_END : T_VAR_END;
    p->state = JLEX_ROOT;
    p->p = behind;
}

void jlex_next(jparse *p, jtoken *t) {
    if (p->pending != T_EOF) {
        *t = p->pending_tag;
        p->pending = T_EOF;
        return;
    }
    if (p->state == JLEX_BLOCK || p->state == JLEX_VAR) {
        tag_token(p, t);
        return;
    }
    for (;;) {
        if (p->state == JLEX_ROOT && p->p == p->end) {
            *t = token_at(p, T_EOF, p->end);
            return;
        }
        if (p->state == JLEX_ROOT ? root_token(p, t) : raw_token(p, t))
            return;
    }
}
