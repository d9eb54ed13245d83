/* SPDX-License-Identifier: Apache-2.0
 * Arguments. Numbers are strict and the whole word: what atoi would guess at is an error here. */
#include "host/base/args.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/num.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const arg_spec *specs;
    int nspec, argc, at; /* at: the word being looked at */
    char **argv;
    void *into;
    bool *given; /* per spec */
} parser;

/* Numbers. */

/* [+-]digits and nothing else; false otherwise or where int64 ends. */
static bool strict_int(const char *text, size_t n, int64_t *out) {
    size_t i = n > 0 && (text[0] == '-' || text[0] == '+');
    bool minus = i && text[0] == '-';
    int64_t v = 0;
    if (i == n)
        return false;
    for (; i < n; i++) {
        int d = text[i] - '0';
        if (d < 0 || d > 9 || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, minus ? -d : d, &v))
            return false;
    }
    *out = v;
    return true;
}

static bool is_int(const char *text, size_t n) {
    size_t i = n > 0 && (text[0] == '-' || text[0] == '+');
    return i < n && strspn(text + i, "0123456789") >= n - i;
}

/* [+-]digits[.digits][e[+-]digits], with digits on at least one side of the point. */
static bool is_decimal(const char *text) {
    const char *p = text + (*text == '-' || *text == '+');
    size_t whole = strspn(p, "0123456789"), part = 0;
    p += whole;
    if (*p == '.') {
        part = strspn(p + 1, "0123456789");
        p += 1 + part;
    }
    if (whole + part == 0)
        return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t digits = strspn(p, "0123456789");
        if (digits == 0)
            return false;
        p += digits;
    }
    return *p == 0;
}

/* Nearest words. */

enum { WORD_MAX = 40 };

static int least3(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap neighbours) that turn a into b. */
static int distance(const char *a, int na, const char *b, int nb) {
    int row[3][WORD_MAX + 1];
    for (int j = 0; j <= nb; j++)
        row[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= nb; j++) {
            now[j] = least3(up[j] + 1, now[j - 1] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                up2[j - 2] + 1 < now[j])
                now[j] = up2[j - 2] + 1;
        }
    }
    return row[na % 3][nb];
}

const char *args_nearest(const char *word, const char *const *words, int n) {
    size_t len = strlen(word), dashes = strspn(word, "-");
    const char *best = NULL;
    int least = INT32_MAX;
    if (len == 0 || len > WORD_MAX)
        return NULL;
    for (int i = 0; i < n; i++) {
        size_t k = strlen(words[i]);
        if (k > WORD_MAX)
            continue;
        int d = distance(word, (int)len, words[i], (int)k);
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    /* half of what carries meaning may be wrong, and never more than three letters */
    int letters = (int)(len - dashes), most = letters / 2 > 3 ? 3 : letters / 2;
    return least <= most ? best : NULL;
}

static weft_status unknown_option(const parser *p, const char *word, size_t n) {
    arena a = {0};
    const char **words = ARENA_NEW(&a, const char *, 3 * p->nspec + 1);
    int count = 0;
    for (int i = 0; i < p->nspec; i++) {
        const arg_spec *s = &p->specs[i];
        words[count++] = arena_printf(&a, "--%s", s->name);
        if (s->alias)
            words[count++] = arena_printf(&a, "--%s", s->alias);
        if (s->brief && *s->brief)
            words[count++] = arena_printf(&a, "-%s", s->brief);
    }
    const char *typed = arena_copy(&a, word, n), *near = args_nearest(typed, words, count);
    weft_status s = weft_fail(WEFT_USAGE, "%.200s: unknown option%s%s%s", typed,
                              near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    arena_fini(&a);
    return s;
}

/* Values. `shown` is the option as it was typed. */

typedef weft_status set_fn(const arg_spec *s, const char *shown, const char *text, void *field);

static weft_status set_int(const arg_spec *s, const char *shown, const char *text, void *field) {
    int64_t v;
    size_t n = strlen(text);
    if (!is_int(text, n))
        return weft_fail(WEFT_USAGE, "%s: \"%.100s\" is not an integer", shown, text);
    if (!strict_int(text, n, &v) || (double)v < s->min || (double)v > s->max)
        return weft_fail(WEFT_USAGE, "%s: %.100s is out of range (%.0f to %.0f)", shown, text,
                         s->min, s->max);
    memcpy(field, &v, sizeof v);
    return WEFT_OK;
}

static weft_status set_float(const arg_spec *s, const char *shown, const char *text, void *field) {
    if (!is_decimal(text))
        return weft_fail(WEFT_USAGE, "%s: \"%.100s\" is not a number", shown, text);
    double v = num_double(text);
    if (!isfinite(v) || v < s->min || v > s->max)
        return weft_fail(WEFT_USAGE, "%s: %.100s is out of range (%g to %g)", shown, text, s->min,
                         s->max);
    memcpy(field, &v, sizeof v);
    return WEFT_OK;
}

static weft_status set_string(const arg_spec *s, const char *shown, const char *text, void *field) {
    (void)s;
    (void)shown;
    memcpy(field, &text, sizeof text);
    return WEFT_OK;
}

static weft_status set_list(const arg_spec *s, const char *shown, const char *text, void *field) {
    (void)s;
    (void)shown;
    arg_list l;
    memcpy(&l, field, sizeof l);
    if ((l.n & (l.n - 1)) == 0) /* full at every power of two */
        l.item = mem_grow(l.item, sizeof *l.item * (size_t)(l.n ? 2 * l.n : 1));
    l.item[l.n++] = text;
    memcpy(field, &l, sizeof l);
    return WEFT_OK;
}

static weft_status set_choice(const arg_spec *s, const char *shown, const char *text, void *field) {
    size_t n = strlen(text);
    for (const char *c = s->value; n > 0;) {
        size_t k = strcspn(c, "|");
        if (k == n && memcmp(c, text, n) == 0)
            return set_string(s, shown, text, field);
        if (c[k] == 0)
            break;
        c += k + 1;
    }
    return weft_fail(WEFT_USAGE, "%s: \"%.100s\" is not a choice; one of %s", shown, text,
                     s->value);
}

static set_fn *const setters[] = {
    [ARG_INT] = set_int,   [ARG_FLOAT] = set_float,   [ARG_STRING] = set_string,
    [ARG_LIST] = set_list, [ARG_CHOICE] = set_choice,
};

static void *field_of(const parser *p, const arg_spec *s) {
    return (char *)p->into + s->offset;
}

static void set_presets(const parser *p) {
    for (int i = 0; i < p->nspec; i++) {
        const arg_spec *s = &p->specs[i];
        if (s->preset && s->kind != ARG_FLAG)
            WEFT_ASSERT(setters[s->kind](s, s->name, s->preset, field_of(p, s)) == WEFT_OK);
    }
}

/* Options. */

/* The row of the first n bytes of `word`, dashes included; NULL if it names none. */
static const arg_spec *find_spec(const parser *p, const char *word, size_t n) {
    bool long_name = n > 2 && word[1] == '-';
    const char *name = word + (long_name ? 2 : 1);
    size_t k = n - (long_name ? 2 : 1);
    for (int i = 0; i < p->nspec; i++) {
        const arg_spec *s = &p->specs[i];
        const char *names[2] = {long_name ? s->name : s->brief, long_name ? s->alias : NULL};
        for (int m = 0; m < 2; m++)
            if (names[m] && strlen(names[m]) == k && k > 0 && memcmp(names[m], name, k) == 0)
                return s;
    }
    return NULL;
}

static bool is_option(const char *word) {
    return word[0] == '-' && word[1] != 0;
}

/* The value behind an option. Text may start with a dash, but the name of another option means
 * that the value was forgotten. */
static weft_status next_value(parser *p, const arg_spec *s, const char *shown, const char **out) {
    const char *hint = s->value ? s->value : "VALUE";
    if (p->at + 1 >= p->argc)
        return weft_fail(WEFT_USAGE, "%s: needs a value; give %s %s", shown, shown, hint);
    const char *word = p->argv[p->at + 1];
    if (is_option(word) && find_spec(p, word, strlen(word)))
        return weft_fail(WEFT_USAGE,
                         "%s: needs a value, not another option; to mean it, write "
                         "--%s=%.100s",
                         shown, s->name, word);
    p->at++;
    *out = word;
    return WEFT_OK;
}

static weft_status parse_option(parser *p) {
    const char *word = p->argv[p->at], *value = NULL;
    size_t n = strlen(word);
    if (word[1] == '-' && strchr(word, '=')) {
        value = strchr(word, '=') + 1;
        n = (size_t)(value - 1 - word);
    }
    const arg_spec *s = find_spec(p, word, n);
    if (!s)
        return unknown_option(p, word, n);
    char shown[64];
    size_t keep = n < sizeof shown ? n : sizeof shown - 1;
    memcpy(shown, word, keep);
    shown[keep] = 0;
    bool *given = &p->given[s - p->specs];
    if (*given && s->kind != ARG_LIST)
        return weft_fail(WEFT_USAGE, "%s: is given twice; give it once", shown);
    if (s->kind == ARG_FLAG) {
        if (value)
            return weft_fail(WEFT_USAGE, "%s: takes no value", shown);
        memcpy(field_of(p, s), &(bool){true}, sizeof(bool));
        *given = true;
        return WEFT_OK;
    }
    if (!value)
        WEFT_TRY(next_value(p, s, shown, &value));
    if (s->kind == ARG_LIST && !*given)
        ((arg_list *)field_of(p, s))->n = 0; /* what is given replaces the preset */
    *given = true;
    return setters[s->kind](s, shown, value, field_of(p, s));
}

static weft_status parse_words(parser *p, const char **positional, int max, int *n) {
    bool options = true;
    for (; p->at < p->argc; p->at++) {
        const char *word = p->argv[p->at];
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && is_option(word)) {
            WEFT_TRY(parse_option(p));
        } else if (*n >= max) {
            return weft_fail(WEFT_USAGE,
                             "%.200s: one argument too many (limit %d); quote text "
                             "that has spaces",
                             word, max);
        } else {
            positional[(*n)++] = word;
        }
    }
    return WEFT_OK;
}

weft_status args_parse(const arg_spec *specs, int nspec, int argc, char **argv, void *into,
                       const char **positional, int max_positional, int *npositional) {
    parser p = {.specs = specs, .nspec = nspec, .argc = argc, .argv = argv, .into = into};
    p.given = mem_alloc(sizeof *p.given * (size_t)nspec);
    *npositional = 0;
    set_presets(&p);
    weft_status s = parse_words(&p, positional, max_positional, npositional);
    mem_free(p.given);
    return s;
}

/* Help. */

static void option_column(buf *out, const arg_spec *s) {
    if (s->brief && *s->brief)
        buf_printf(out, "  -%s, --%s", s->brief, s->name);
    else
        buf_printf(out, "      --%s", s->name);
    if (s->kind != ARG_FLAG)
        buf_printf(out, " %s", s->value ? s->value : "VALUE");
}

static void pad_to(buf *out, size_t line, int column) {
    while (!out->failed && out->len - line < (size_t)column)
        buf_putc(out, ' ');
}

/* Words of `text` from `column` on, broken before `width`. `line`: offset where the line began. */
static void wrap(buf *out, const char *text, size_t line, int column, int width) {
    bool first = true;
    while (*text && !out->failed) {
        size_t n = strcspn(text, " ");
        if (!first && out->len - line + 1 + n > (size_t)width) {
            buf_putc(out, '\n');
            line = out->len;
            pad_to(out, line, column);
            first = true;
        }
        if (!first)
            buf_putc(out, ' ');
        buf_add(out, text, n);
        first = false;
        text += n + strspn(text + n, " ");
    }
    buf_putc(out, '\n');
}

/* Breaks the line from `line` on behind '|' where it is wider than `width`. */
static void fold(buf *out, size_t line, int width) {
    enum { INDENT = 10 };
    while (!out->failed && out->len - line > (size_t)width) {
        size_t cut = line + (size_t)width;
        while (cut > line && out->data[cut - 1] != '|')
            cut--;
        if (cut <= line + INDENT)
            return;
        char *rest = mem_alloc(out->len - cut + 1);
        memcpy(rest, out->data + cut, out->len - cut + 1);
        out->len = cut;
        buf_putc(out, '\n');
        line = out->len;
        pad_to(out, line, INDENT);
        buf_puts(out, rest);
        mem_free(rest);
    }
}

void args_help(buf *out, const arg_spec *specs, int nspec, int width) {
    enum { WIDEST = 32, GUTTER = 2 };
    buf cell;
    buf_init(&cell, 1024);
    int column = 0;
    for (int i = 0; i < nspec; i++) {
        buf_clear(&cell);
        option_column(&cell, &specs[i]);
        if (cell.len <= WIDEST && (int)cell.len + GUTTER > column)
            column = (int)cell.len + GUTTER;
    }
    for (int i = 0; i < nspec; i++) {
        const arg_spec *s = &specs[i];
        size_t line = out->len;
        option_column(out, s);
        if (out->len - line + GUTTER > (size_t)column) {
            fold(out, line, width);
            buf_putc(out, '\n');
            line = out->len;
        }
        pad_to(out, line, column);
        buf_clear(&cell);
        buf_puts(&cell, s->help);
        if (s->preset && *s->preset)
            buf_printf(&cell, " (default: %s)", s->preset);
        wrap(out, cell.data, line, column, width);
    }
    buf_fini(&cell);
}

/* Lists of integers. */

weft_status args_int_list(const char *key, const char *text, int64_t min, int64_t max,
                          int64_t **out, int64_t *n) {
    size_t count = 1;
    for (const char *c = text; (c = strchr(c, ',')); c++)
        count++;
    int64_t *list = mem_alloc(sizeof *list * count);
    const char *at = text;
    weft_status s = WEFT_OK;
    for (size_t i = 0; i < count && s == WEFT_OK; i++) {
        size_t k = strcspn(at, ",");
        int shown = k > 40 ? 40 : (int)k;
        if (!is_int(at, k))
            s = weft_fail(WEFT_USAGE,
                          "%s: \"%.*s\" (item %zu) is not an integer; give numbers "
                          "with commas between, like 1,2,3",
                          key, shown, at, i + 1);
        else if (!strict_int(at, k, &list[i]) || list[i] < min || list[i] > max)
            s = weft_fail(WEFT_USAGE,
                          "%s: %.*s (item %zu) is out of range (%" PRId64 " to %" PRId64 ")", key,
                          shown, at, i + 1, min, max);
        at += k + 1;
    }
    if (s != WEFT_OK) {
        mem_free(list);
        return s;
    }
    *out = list;
    *n = (int64_t)count;
    return WEFT_OK;
}
