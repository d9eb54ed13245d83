/* SPDX-License-Identifier: Apache-2.0
 * The methods of strings. Places are counted in code points, as Python does. */
#include "host/base/num.h"
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <limits.h>
#include <math.h>
#include <string.h>

static jval piece(jrun *r, const char *p, const char *end) {
    return jv_borrow(r, p, (size_t)(end - p));
}

static const char *end_of(jval s) {
    return s.s->p + s.s->n;
}

static const char *before(const char *begin, const char *p) {
    for (p--; p > begin && (*p & 0xc0) == 0x80;)
        p--;
    return p;
}

/* ---- Trimming ---- */

static bool in_set(const char *p, const char *end, jval chars) {
    if (chars.kind == J_MISSING || chars.kind == J_NONE)
        return jchar_space(p, end) > 0;
    uint32_t cp;
    size_t k = (size_t)utf8_next(p, end, &cp);
    return chars.s->n >= k && memmem(chars.s->p, chars.s->n, p, k) != NULL;
}

jval jstr_trim(jrun *r, jval s, jval chars, int sides) {
    const char *p = s.s->p, *end = end_of(s);
    uint32_t cp;
    if (chars.kind != J_NONE && chars.kind != J_MISSING)
        jarg_str(r, "strip", chars);
    while ((sides & 1) && p < end && in_set(p, end, chars)) {
        jrun_tick(r, 0);
        p += utf8_next(p, end, &cp);
    }
    while ((sides & 2) && p < end) {
        const char *c = before(p, end);
        jrun_tick(r, 0);
        if (!in_set(c, end, chars))
            break;
        end = c;
    }
    jval v = piece(r, p, end);
    v.safe = s.safe;
    return v;
}

static jval m_strip(jrun *r, jval s, jval *a) {
    return jstr_trim(r, s, a[0], 3);
}

static jval m_lstrip(jrun *r, jval s, jval *a) {
    return jstr_trim(r, s, a[0], 1);
}

static jval m_rstrip(jrun *r, jval s, jval *a) {
    return jstr_trim(r, s, a[0], 2);
}

static bool begins(jval s, jval part) {
    return part.s->n <= s.s->n && memcmp(s.s->p, part.s->p, part.s->n) == 0;
}

static bool ends(jval s, jval part) {
    return part.s->n <= s.s->n && memcmp(end_of(s) - part.s->n, part.s->p, part.s->n) == 0;
}

static jval m_removeprefix(jrun *r, jval s, jval *a) {
    jval part = jarg_str(r, "removeprefix", a[0]);
    return begins(s, part) ? piece(r, s.s->p + part.s->n, end_of(s)) : s;
}

static jval m_removesuffix(jrun *r, jval s, jval *a) {
    jval part = jarg_str(r, "removesuffix", a[0]);
    return ends(s, part) ? piece(r, s.s->p, end_of(s) - part.s->n) : s;
}

/* ---- Case and classes ---- */

static jval m_upper(jrun *r, jval s, jval *a) {
    (void)a;
    return jchar_map(r, s, JCASE_UPPER);
}

static jval m_lower(jrun *r, jval s, jval *a) {
    (void)a;
    return jchar_map(r, s, JCASE_LOWER);
}

static jval m_casefold(jrun *r, jval s, jval *a) {
    (void)a;
    return jchar_map(r, s, JCASE_FOLD);
}

static jval m_capitalize(jrun *r, jval s, jval *a) {
    (void)a;
    return jchar_capitalize(r, s);
}

/* One pass that may look at whether the character before was a letter. */
static jval m_title(jrun *r, jval s, jval *a) {
    (void)a;
    jbuf b = {0};
    bool inside = false, upper;
    uint32_t cp;
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        int k = utf8_next(p, end, &cp);
        jrun_tick(r, 0);
        jchar_case(r, &b, inside ? JCASE_LOWER : JCASE_TITLE, s.s->p, p, end);
        inside = jchar_cased(cp, &upper);
        p += k;
    }
    return jbuf_take(&b, r);
}

static jval m_swapcase(jrun *r, jval s, jval *a) {
    (void)a;
    jbuf b = {0};
    bool upper;
    uint32_t cp;
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        int k = utf8_next(p, end, &cp);
        jrun_tick(r, 0);
        if (jchar_cased(cp, &upper))
            jchar_case(r, &b, upper ? JCASE_LOWER : JCASE_UPPER, s.s->p, p, end);
        else
            jbuf_add(r, &b, p, (size_t)k);
        p += k;
    }
    return jbuf_take(&b, r);
}

typedef bool class_fn(uint32_t cp);

static jval all_are(jrun *r, jval s, class_fn *is, bool if_empty) {
    uint32_t cp;
    jrun_tick(r, s.s->n * 4);
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        p += utf8_next(p, end, &cp);
        if (!is(cp))
            return jv_bool(false);
    }
    return jv_bool(s.s->n > 0 || if_empty);
}

static bool is_alpha(uint32_t cp) {
    return jchar_is(cp, "L");
}

static bool is_decimal(uint32_t cp) {
    return jchar_is(cp, "Nd");
}

static bool is_digit(uint32_t cp) {
    bool raised = cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || cp == 0x2070 ||
                  (cp >= 0x2074 && cp <= 0x2079);
    return raised || (cp >= 0x2080 && cp <= 0x2089) || (cp >= 0x2460 && cp <= 0x2468) ||
           is_decimal(cp);
}

static bool is_numeric(uint32_t cp) {
    return jchar_is(cp, "N");
}

static bool is_alnum(uint32_t cp) {
    return jchar_is(cp, "L N");
}

static bool is_ascii(uint32_t cp) {
    return cp < 0x80;
}

static bool is_space(uint32_t cp) {
    char c[4];
    int n = utf8_put(c, cp);
    return jchar_space(c, c + n) > 0;
}

#define CLASS_METHOD(name, fn, if_empty)                  \
    static jval m_##name(jrun *r, jval s, jval *a) {      \
        (void)a;                                          \
        return all_are(r, s, fn, if_empty);               \
    }
CLASS_METHOD(isalpha, is_alpha, false)
CLASS_METHOD(isalnum, is_alnum, false)
CLASS_METHOD(isdecimal, is_decimal, false)
CLASS_METHOD(isdigit, is_digit, false)
CLASS_METHOD(isnumeric, is_numeric, false)
CLASS_METHOD(isspace, is_space, false)
CLASS_METHOD(isascii, is_ascii, true)
CLASS_METHOD(isprintable, jchar_printable, true)

static jval m_isidentifier(jrun *r, jval s, jval *a) {
    (void)a;
    uint32_t cp;
    jrun_tick(r, s.s->n * 4);
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        bool first = p == s.s->p;
        p += utf8_next(p, end, &cp);
        if (cp != '_' && !jchar_is(cp, first ? "L Nl" : "L Nl Nd Mn Mc Pc"))
            return jv_bool(false);
    }
    return jv_bool(s.s->n > 0);
}

static jval one_case(jrun *r, jval s, bool want_upper) {
    bool any = false, upper;
    uint32_t cp;
    jrun_tick(r, s.s->n * 4);
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        p += utf8_next(p, end, &cp);
        if (!jchar_cased(cp, &upper))
            continue;
        if (upper != want_upper)
            return jv_bool(false);
        any = true;
    }
    return jv_bool(any);
}

static jval m_isupper(jrun *r, jval s, jval *a) {
    (void)a;
    return one_case(r, s, true);
}

static jval m_islower(jrun *r, jval s, jval *a) {
    (void)a;
    return one_case(r, s, false);
}

static jval m_istitle(jrun *r, jval s, jval *a) {
    (void)a;
    bool any = false, inside = false, upper;
    uint32_t cp;
    jrun_tick(r, s.s->n * 4);
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        p += utf8_next(p, end, &cp);
        bool cased = jchar_cased(cp, &upper);
        if (cased && upper == inside)
            return jv_bool(false);
        any = any || cased;
        inside = cased;
    }
    return jv_bool(any);
}

/* ---- Searching ---- */

/* The part of s from code point a[0] to a[1]; false if it begins behind the end. */
static bool part_of(jrun *r, jval s, const jval *a, const char **from, const char **to) {
    int64_t n = jv_chars(s), lo = jarg_int(r, "start", a[0], 0), hi = jarg_int(r, "end", a[1], n);
    lo = lo < 0 ? (lo + n < 0 ? 0 : lo + n) : lo;
    hi = hi < 0 ? (hi + n < 0 ? 0 : hi + n) : hi > n ? n : hi;
    if (lo > n || lo > hi)
        return false;
    jrun_tick(r, s.s->n);
    *from = jchar_at(r, s, lo);
    *to = jchar_at(r, s, hi);
    return true;
}

static const char *last_of(jrun *r, const char *from, const char *to, const jstr *sub) {
    if ((size_t)(to - from) < sub->n)
        return NULL;
    for (const char *p = to - sub->n;; p--) {
        bool maybe = sub->n == 0 || *p == sub->p[0];
        if (maybe)
            jrun_tick(r, sub->n);
        if (maybe && memcmp(p, sub->p, sub->n) == 0)
            return p;
        if (p == from)
            return NULL;
    }
}

static int64_t find(jrun *r, jval s, jval *a, bool last) {
    jval sub = jarg_str(r, "find", a[0]);
    const char *from, *to;
    if (!part_of(r, s, a + 1, &from, &to))
        return -1;
    const char *hit = last ? last_of(r, from, to, sub.s)
                           : memmem(from, (size_t)(to - from), sub.s->p, sub.s->n);
    if (!hit)
        return -1;
    return jv_chars(piece(r, s.s->p, hit));
}

static jval found(jrun *r, int64_t at, bool must) {
    if (must && at < 0)
        jrun_fail(r, "substring not found");
    return jv_int(at);
}

static jval m_find(jrun *r, jval s, jval *a) {
    return found(r, find(r, s, a, false), false);
}

static jval m_rfind(jrun *r, jval s, jval *a) {
    return found(r, find(r, s, a, true), false);
}

static jval m_index(jrun *r, jval s, jval *a) {
    return found(r, find(r, s, a, false), true);
}

static jval m_rindex(jrun *r, jval s, jval *a) {
    return found(r, find(r, s, a, true), true);
}

static jval m_count(jrun *r, jval s, jval *a) {
    jval sub = jarg_str(r, "count", a[0]);
    const char *p, *to;
    int64_t n = 0;
    if (!part_of(r, s, a + 1, &p, &to))
        return jv_int(0);
    if (sub.s->n == 0)
        return jv_int(jv_chars(piece(r, p, to)) + 1);
    for (; (p = memmem(p, (size_t)(to - p), sub.s->p, sub.s->n)); p += sub.s->n)
        n++;
    return jv_int(n);
}

typedef bool ends_fn(jval s, jval part);

static jval has_end(jrun *r, jval s, jval *a, ends_fn *has, const char *what) {
    const char *from, *to;
    if (!part_of(r, s, a + 1, &from, &to))
        return jv_bool(false);
    jval part = piece(r, from, to);
    if (a[0].kind != J_TUPLE)
        return jv_bool(has(part, jarg_str(r, what, a[0])));
    for (size_t i = 0; i < a[0].l->n; i++)
        if (has(part, jarg_str(r, what, a[0].l->v[i])))
            return jv_bool(true);
    return jv_bool(false);
}

static jval m_startswith(jrun *r, jval s, jval *a) {
    return has_end(r, s, a, begins, "startswith");
}

static jval m_endswith(jrun *r, jval s, jval *a) {
    return has_end(r, s, a, ends, "endswith");
}

/* ---- Splitting ---- */

static int64_t most_splits(jrun *r, jval v) {
    int64_t n = jarg_int(r, "maxsplit", v, -1);
    return n < 0 ? INT64_MAX : n;
}

static jval separator(jrun *r, jval v) {
    jarg_str(r, "split", v);
    if (v.s->n == 0)
        jrun_fail(r, "empty separator");
    return v;
}

static const char *skip_spaces(const char *p, const char *end) {
    for (size_t k; (k = jchar_space(p, end)) > 0;)
        p += k;
    return p;
}

static jval split_spaces(jrun *r, jval s, int64_t most) {
    jlist *l = jlist_new(r, 0);
    const char *end = end_of(s), *p = skip_spaces(s.s->p, end);
    jrun_tick(r, s.s->n);
    for (uint32_t cp; p < end; p = skip_spaces(p, end)) {
        if (most-- == 0) {
            jlist_push(r, l, piece(r, p, end));
            break;
        }
        const char *q = p;
        while (q < end && jchar_space(q, end) == 0)
            q += utf8_next(q, end, &cp);
        jlist_push(r, l, piece(r, p, q));
        p = q;
    }
    return jv_list(l);
}

static jval m_split(jrun *r, jval s, jval *a) {
    int64_t most = most_splits(r, a[1]);
    if (a[0].kind == J_MISSING || a[0].kind == J_NONE)
        return split_spaces(r, s, most);
    jval sep = separator(r, a[0]);
    jlist *l = jlist_new(r, 0);
    const char *p = s.s->p, *end = end_of(s), *q;
    jrun_tick(r, s.s->n);
    for (; most > 0 && (q = memmem(p, (size_t)(end - p), sep.s->p, sep.s->n)); most--) {
        jlist_push(r, l, piece(r, p, q));
        p = q + sep.s->n;
    }
    jlist_push(r, l, piece(r, p, end));
    return jv_list(l);
}

static jval reversed(jrun *r, jlist *l) {
    jlist *out = jlist_new(r, l->n);
    for (size_t i = l->n; i > 0; i--)
        jlist_push(r, out, l->v[i - 1]);
    return jv_list(out);
}

static jval rsplit_spaces(jrun *r, jval s, int64_t most) {
    jlist *l = jlist_new(r, 0);
    jval rest = jstr_trim(r, s, JV_NONE, 2);
    while (rest.s->n > 0 && most-- > 0) {
        const char *p = end_of(rest);
        while (p > rest.s->p && jchar_space(before(rest.s->p, p), p) == 0)
            p = before(rest.s->p, p);
        jlist_push(r, l, piece(r, p, end_of(rest)));
        rest = jstr_trim(r, piece(r, rest.s->p, p), JV_NONE, 2);
    }
    if (jstr_trim(r, rest, JV_NONE, 1).s->n > 0)
        jlist_push(r, l, rest);
    return reversed(r, l);
}

static jval m_rsplit(jrun *r, jval s, jval *a) {
    int64_t most = most_splits(r, a[1]);
    if (a[0].kind == J_MISSING || a[0].kind == J_NONE)
        return rsplit_spaces(r, s, most);
    jval sep = separator(r, a[0]);
    jlist *l = jlist_new(r, 0);
    const char *end = end_of(s), *q;
    jrun_tick(r, s.s->n);
    for (; most > 0 && (q = last_of(r, s.s->p, end, sep.s)); most--) {
        jlist_push(r, l, piece(r, q + sep.s->n, end));
        end = q;
    }
    jlist_push(r, l, piece(r, s.s->p, end));
    return reversed(r, l);
}

jlist *jstr_lines(jrun *r, jval s, bool keep) {
    jlist *l = jlist_new(r, 0);
    jrun_tick(r, s.s->n);
    for (const char *p = s.s->p, *end = end_of(s); p < end;) {
        size_t newline, n = jchar_line(p, end, &newline);
        jlist_push(r, l, piece(r, p, p + n + (keep ? newline : 0)));
        p += n + newline;
    }
    return l;
}

static jval m_splitlines(jrun *r, jval s, jval *a) {
    return jv_list(jstr_lines(r, s, jarg_bool(r, a[0], false)));
}

static jval triple(jrun *r, jval a, jval b, jval c) {
    jlist *l = jlist_new(r, 3);
    jlist_push(r, l, a);
    jlist_push(r, l, b);
    jlist_push(r, l, c);
    return jv_tuple(l);
}

static jval partition(jrun *r, jval s, jval sep, bool last) {
    separator(r, sep);
    jrun_tick(r, s.s->n);
    const char *hit = last ? last_of(r, s.s->p, end_of(s), sep.s)
                           : memmem(s.s->p, s.s->n, sep.s->p, sep.s->n);
    jval empty = jv_text(r, "");
    if (!hit)
        return last ? triple(r, empty, empty, s) : triple(r, s, empty, empty);
    return triple(r, piece(r, s.s->p, hit), sep, piece(r, hit + sep.s->n, end_of(s)));
}

static jval m_partition(jrun *r, jval s, jval *a) {
    return partition(r, s, a[0], false);
}

static jval m_rpartition(jrun *r, jval s, jval *a) {
    return partition(r, s, a[0], true);
}

/* ---- Putting together ---- */

jval jstr_join(jrun *r, jval sep, jval items) {
    jbuf b = {0};
    jiter *it = jiter_open(r, items);
    int64_t i = 0;
    for (jval v; jiter_next(r, it, &v); i++) {
        if (v.kind != J_STR)
            jrun_fail(r, "sequence item %lld: expected str instance, %s found", (long long)i,
                      jv_type(v));
        if (i)
            jbuf_add(r, &b, sep.s->p, sep.s->n);
        v = sep.safe ? jtext_escaped(r, v) : v;
        jbuf_add(r, &b, v.s->p, v.s->n);
    }
    return jbuf_take(&b, r);
}

static jval m_join(jrun *r, jval s, jval *a) {
    return jstr_join(r, s, a[0]);
}

static jval replace_nothing(jrun *r, jval s, jval to, int64_t count) {
    jbuf b = {0};
    uint32_t cp;
    for (const char *p = s.s->p, *end = end_of(s); count-- > 0;) {
        jbuf_add(r, &b, to.s->p, to.s->n);
        if (p == end)
            return jbuf_take(&b, r);
        int k = utf8_next(p, end, &cp);
        jbuf_add(r, &b, p, (size_t)k);
        p += k;
        if (count == 0)
            jbuf_add(r, &b, p, (size_t)(end - p));
    }
    return jbuf_take(&b, r);
}

jval jstr_replace(jrun *r, jval s, jval from, jval to, int64_t count) {
    jbuf b = {0};
    count = count < 0 ? INT64_MAX : count;
    if (count == 0)
        return s;
    if (from.s->n == 0)
        return replace_nothing(r, s, to, count);
    const char *p = s.s->p, *end = end_of(s), *q;
    jrun_tick(r, s.s->n);
    for (; count > 0 && (q = memmem(p, (size_t)(end - p), from.s->p, from.s->n)); count--) {
        jbuf_add(r, &b, p, (size_t)(q - p));
        jbuf_add(r, &b, to.s->p, to.s->n);
        p = q + from.s->n;
    }
    if (p == s.s->p)
        return s;
    jbuf_add(r, &b, p, (size_t)(end - p));
    return jbuf_take(&b, r);
}

static jval m_replace(jrun *r, jval s, jval *a) {
    jval to = jarg_str(r, "replace", a[1]);
    return jstr_replace(r, s, jarg_str(r, "replace", a[0]), s.safe ? jtext_escaped(r, to) : to,
                        jarg_int(r, "count", a[2], -1));
}

static uint32_t fill_char(jrun *r, jval v) {
    uint32_t cp = ' ';
    if (v.kind == J_MISSING)
        return cp;
    if (jv_chars(jarg_str(r, "fillchar", v)) != 1)
        jrun_fail(r, "the fill character must be exactly one character long");
    utf8_next(v.s->p, end_of(v), &cp);
    return cp;
}

static jval padded(jrun *r, jval s, int64_t left, int64_t right, uint32_t fill) {
    jbuf b = {0};
    jbuf_fill(r, &b, fill, left);
    jbuf_add(r, &b, s.s->p, s.s->n);
    jbuf_fill(r, &b, fill, right);
    return jbuf_take(&b, r);
}

static int64_t padding(jrun *r, jval s, jval width) {
    int64_t w = jarg_int(r, "width", width, 0);
    if (w > JINJA_OUTPUT_MAX)
        jrun_fail(r, "a string of %lld characters (limit %d)", (long long)w, JINJA_OUTPUT_MAX);
    return w > jv_chars(s) ? w - jv_chars(s) : 0;
}

static jval m_ljust(jrun *r, jval s, jval *a) {
    return padded(r, s, 0, padding(r, s, a[0]), fill_char(r, a[1]));
}

static jval m_rjust(jrun *r, jval s, jval *a) {
    return padded(r, s, padding(r, s, a[0]), 0, fill_char(r, a[1]));
}

jval jstr_center(jrun *r, jval s, int64_t width, uint32_t fill) {
    int64_t pad = padding(r, s, jv_int(width)), left = pad / 2 + (pad & width & 1);
    return padded(r, s, left, pad - left, fill);
}

static jval m_center(jrun *r, jval s, jval *a) {
    return jstr_center(r, s, jarg_int(r, "width", a[0], 0), fill_char(r, a[1]));
}

static jval m_zfill(jrun *r, jval s, jval *a) {
    jbuf b = {0};
    int64_t pad = padding(r, s, a[0]);
    bool sign = s.s->n > 0 && (s.s->p[0] == '-' || s.s->p[0] == '+');
    jbuf_add(r, &b, s.s->p, sign);
    jbuf_fill(r, &b, '0', pad);
    jbuf_add(r, &b, s.s->p + sign, s.s->n - sign);
    return jbuf_take(&b, r);
}

static jval m_expandtabs(jrun *r, jval s, jval *a) {
    jbuf b = {0};
    int64_t size = jarg_int(r, "tabsize", a[0], 8), col = 0;
    jrun_tick(r, s.s->n);
    for (size_t i = 0; i < s.s->n; i++) {
        char c = s.s->p[i];
        int64_t n = c == '\t' && size > 0 ? size - col % size : 0;
        if (c != '\t')
            jbuf_putc(r, &b, c);
        jbuf_fill(r, &b, ' ', n);
        col = c == '\n' || c == '\r' ? 0 : col + (c == '\t' ? n : (c & 0xc0) != 0x80);
    }
    return jbuf_take(&b, r);
}

static jval m_format(jrun *r, jval s, jval *a) {
    (void)a;
    return jformat_braces(r, s, r->call);
}

static jval m_format_map(jrun *r, jval s, jval *a) {
    jargs given = {0};
    if (a[0].kind != J_DICT)
        jrun_fail(r, "format_map needs a mapping");
    given.nk = (int)a[0].d->n;
    given.key = JNEW(r, jval, given.nk);
    given.kv = JNEW(r, jval, given.nk);
    for (int i = 0; i < given.nk; i++) {
        given.key[i] = jtext_of(r, a[0].d->e[i].k);
        given.kv[i] = a[0].d->e[i].v;
    }
    return jformat_braces(r, s, &given);
}

static const jrow rows[] = {
    {"capitalize", "", 0, m_capitalize},
    {"casefold", "", 0, m_casefold},
    {"center", "width fillchar", 1, m_center},
    {"count", "sub start end", 1, m_count},
    {"endswith", "suffix start end", 1, m_endswith},
    {"expandtabs", "tabsize", 0, m_expandtabs},
    {"find", "sub start end", 1, m_find},
    {"format", "*", 0, m_format},
    {"format_map", "mapping", 1, m_format_map},
    {"index", "sub start end", 1, m_index},
    {"isalnum", "", 0, m_isalnum},
    {"isalpha", "", 0, m_isalpha},
    {"isascii", "", 0, m_isascii},
    {"isdecimal", "", 0, m_isdecimal},
    {"isdigit", "", 0, m_isdigit},
    {"isidentifier", "", 0, m_isidentifier},
    {"islower", "", 0, m_islower},
    {"isnumeric", "", 0, m_isnumeric},
    {"isprintable", "", 0, m_isprintable},
    {"isspace", "", 0, m_isspace},
    {"istitle", "", 0, m_istitle},
    {"isupper", "", 0, m_isupper},
    {"join", "iterable", 1, m_join},
    {"ljust", "width fillchar", 1, m_ljust},
    {"lower", "", 0, m_lower},
    {"lstrip", "chars", 0, m_lstrip},
    {"partition", "sep", 1, m_partition},
    {"removeprefix", "prefix", 1, m_removeprefix},
    {"removesuffix", "suffix", 1, m_removesuffix},
    {"replace", "old new count", 2, m_replace},
    {"rfind", "sub start end", 1, m_rfind},
    {"rindex", "sub start end", 1, m_rindex},
    {"rjust", "width fillchar", 1, m_rjust},
    {"rpartition", "sep", 1, m_rpartition},
    {"rsplit", "sep maxsplit", 0, m_rsplit},
    {"rstrip", "chars", 0, m_rstrip},
    {"split", "sep maxsplit", 0, m_split},
    {"splitlines", "keepends", 0, m_splitlines},
    {"startswith", "prefix start end", 1, m_startswith},
    {"strip", "chars", 0, m_strip},
    {"swapcase", "", 0, m_swapcase},
    {"title", "", 0, m_title},
    {"upper", "", 0, m_upper},
    {"zfill", "width", 1, m_zfill},
};

const jrow *jrow_find(const jrow *table, int n, const char *name, size_t len) {
    for (int i = 0; i < n; i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0)
            return &table[i];
    return NULL;
}

const jrow *jstr_method(const char *name, size_t n) {
    return jrow_find(rows, (int)(sizeof rows / sizeof *rows), name, n);
}

/* ---- Numbers in text ---- */

static int digit_value(char c) {
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                    : 99;
}

/* Behind a prefix 0x, 0o, 0b that the base allows; base 0 becomes what the prefix says. */
static const char *skip_prefix(const char *p, const char *end, int64_t *base) {
    static const char mark[] = "xob";
    static const int of[] = {16, 8, 2};
    const char *m = end - p > 2 && *p == '0' ? strchr(mark, p[1] | 0x20) : NULL;
    if (m && *m && (*base == 0 || *base == of[m - mark])) {
        *base = of[m - mark];
        return p + 2 + (p[2] == '_');
    }
    if (*base == 0)
        *base = 10;
    return p;
}

jval jstr_int(jrun *r, jval s, int64_t base) {
    s = jstr_trim(r, s, JV_NONE, 3);
    const char *p = s.s->p, *end = end_of(s);
    bool negative = p < end && *p == '-', big = false;
    p += p < end && (*p == '-' || *p == '+');
    p = skip_prefix(p, end, &base);
    jbuf digits = {0};
    int64_t v = 0;
    jbuf_puts(r, &digits, negative ? "-" : "");
    for (const char *q = p; q < end; q++) {
        bool gap = *q == '_' && q > p && q + 1 < end && q[-1] != '_';
        int d = digit_value(*q);
        if (gap)
            continue;
        if (d >= base)
            return JV_MISSING;
        big = big || __builtin_mul_overflow(v, base, &v) || __builtin_sub_overflow(v, d, &v);
        if (digits.n > (size_t)negative || d)
            jbuf_putc(r, &digits, *q);
    }
    if (p == end)
        return JV_MISSING;
    if (!big && (negative || v != INT64_MIN))
        return jv_int(negative ? v : -v);
    if (base != 10 || digits.n > 4300)
        jrun_fail(r, "this integer is too large (64 bits)");
    jval out = jbuf_take(&digits, r);
    out.kind = J_BIG;
    return out;
}

static size_t run_of_digits(const char *p) {
    return strspn(p, "0123456789");
}

static bool float_grammar(const char *p) {
    p += *p == '-' || *p == '+';
    size_t n = run_of_digits(p), m = 0;
    p += n;
    if (*p == '.') {
        m = run_of_digits(p + 1);
        p += 1 + m;
    }
    if (n + m == 0)
        return false;
    if ((*p | 0x20) == 'e') {
        p++;
        p += *p == '-' || *p == '+';
        n = run_of_digits(p);
        p += n;
        if (n == 0)
            return false;
    }
    return *p == 0;
}

static bool special_float(const char *p, double *f) {
    double sign = *p == '-' ? -1 : 1;
    p += *p == '-' || *p == '+';
    bool inf = strcasecmp(p, "inf") == 0 || strcasecmp(p, "infinity") == 0;
    *f = inf ? sign * (double)INFINITY : (double)NAN;
    return inf || strcasecmp(p, "nan") == 0;
}

jval jstr_float(jrun *r, jval s) {
    s = jstr_trim(r, s, JV_NONE, 3);
    jbuf b = {0};
    double f;
    for (size_t i = 0; i < s.s->n; i++) {
        const char *q = s.s->p + i;
        bool gap = *q == '_' && i > 0 && i + 1 < s.s->n && digit_value(q[-1]) < 10 &&
                   digit_value(q[1]) < 10;
        if (*q == 0)
            return JV_MISSING;
        if (!gap)
            jbuf_putc(r, &b, *q);
    }
    jbuf_putc(r, &b, 0);
    if (special_float(b.p, &f))
        return jv_float(f);
    return float_grammar(b.p) ? jv_float(num_double(b.p)) : JV_MISSING;
}
