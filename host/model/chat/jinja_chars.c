/* SPDX-License-Identifier: Apache-2.0
 * Code points as Python's str sees them: white space, classes, case. */
#include "host/base/utf8.h"
#include "host/model/chat/jinja_core.h"
#include <string.h>
#include <utf8proc.h>

/* ---- White space ---- */

static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

size_t jchar_space(const char *p, const char *end) {
    uint32_t cp;
    int k = utf8_next(p, end, &cp);
    return k > 0 && is_space(cp) ? (size_t)k : 0;
}

static bool is_newline(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

size_t jchar_line(const char *p, const char *end, size_t *newline) {
    const char *q = p;
    for (*newline = 0; q < end;) {
        uint32_t cp;
        int k = utf8_next(q, end, &cp);
        if (is_newline(cp)) {
            *newline = (size_t)k + (cp == '\r' && q + 1 < end && q[1] == '\n');
            break;
        }
        q += k;
    }
    return (size_t)(q - p);
}

/* ---- Classes ---- */

bool jchar_is(uint32_t cp, const char *classes) {
    const char *have = utf8proc_category_string((utf8proc_int32_t)cp);
    for (const char *c = classes; *c;) {
        size_t n = strcspn(c, " ");
        if (memcmp(have, c, n) == 0)
            return true;
        c += n + (c[n] == ' ');
    }
    return false;
}

bool jchar_printable(uint32_t cp) {
    return cp == ' ' || (cp < 0x7f ? cp > 0x20 : !jchar_is(cp, "C Z"));
}

bool jchar_cased(uint32_t cp, bool *upper) {
    *upper = jchar_is(cp, "Lu Lt");
    return *upper || jchar_is(cp, "Ll");
}

static void make_index(jrun *r, jval s) {
    int64_t i = 0;
    s.s->index = JNEW(r, uint32_t, jv_chars(s) / JINDEX_STRIDE + 1);
    jrun_tick(r, s.s->n);
    for (size_t at = 0; at < s.s->n; at++)
        if ((s.s->p[at] & 0xc0) != 0x80 && i++ % JINDEX_STRIDE == 0)
            s.s->index[(i - 1) / JINDEX_STRIDE] = (uint32_t)at;
}

const char *jchar_at(jrun *r, jval s, int64_t i) {
    const char *p = s.s->p, *end = p + s.s->n;
    int64_t n = jv_chars(s);
    if (n == (int64_t)s.s->n)
        return p + i;
    if (i == n)
        return end;
    if (!s.s->index && !s.s->fixed && i > JINDEX_STRIDE)
        make_index(r, s);
    if (s.s->index) {
        p += s.s->index[i / JINDEX_STRIDE];
        i %= JINDEX_STRIDE;
    }
    jrun_tick(r, (size_t)i);
    for (uint32_t cp; i > 0; i--)
        p += utf8_next(p, end, &cp);
    return p;
}

/* ---- Case ---- */

/* Unicode's SpecialCasing without conditions: upper and title case of more than one character. */
static const struct {
    uint32_t cp;
    uint16_t upper[3], title[3];
} special[] = {
    {0xdf, {0x53, 0x53}, {0x53, 0x73}},
    {0x149, {0x2bc, 0x4e}, {0x2bc, 0x4e}},
    {0x1f0, {0x4a, 0x30c}, {0x4a, 0x30c}},
    {0x390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x3b0, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}},
    {0x587, {0x535, 0x552}, {0x535, 0x582}},
    {0x1e96, {0x48, 0x331}, {0x48, 0x331}},
    {0x1e97, {0x54, 0x308}, {0x54, 0x308}},
    {0x1e98, {0x57, 0x30a}, {0x57, 0x30a}},
    {0x1e99, {0x59, 0x30a}, {0x59, 0x30a}},
    {0x1e9a, {0x41, 0x2be}, {0x41, 0x2be}},
    {0x1f50, {0x3a5, 0x313}, {0x3a5, 0x313}},
    {0x1f52, {0x3a5, 0x313, 0x300}, {0x3a5, 0x313, 0x300}},
    {0x1f54, {0x3a5, 0x313, 0x301}, {0x3a5, 0x313, 0x301}},
    {0x1f56, {0x3a5, 0x313, 0x342}, {0x3a5, 0x313, 0x342}},
    {0x1f80, {0x1f08, 0x399}, {0x1f88}},
    {0x1f81, {0x1f09, 0x399}, {0x1f89}},
    {0x1f82, {0x1f0a, 0x399}, {0x1f8a}},
    {0x1f83, {0x1f0b, 0x399}, {0x1f8b}},
    {0x1f84, {0x1f0c, 0x399}, {0x1f8c}},
    {0x1f85, {0x1f0d, 0x399}, {0x1f8d}},
    {0x1f86, {0x1f0e, 0x399}, {0x1f8e}},
    {0x1f87, {0x1f0f, 0x399}, {0x1f8f}},
    {0x1f88, {0x1f08, 0x399}, {0x1f88}},
    {0x1f89, {0x1f09, 0x399}, {0x1f89}},
    {0x1f8a, {0x1f0a, 0x399}, {0x1f8a}},
    {0x1f8b, {0x1f0b, 0x399}, {0x1f8b}},
    {0x1f8c, {0x1f0c, 0x399}, {0x1f8c}},
    {0x1f8d, {0x1f0d, 0x399}, {0x1f8d}},
    {0x1f8e, {0x1f0e, 0x399}, {0x1f8e}},
    {0x1f8f, {0x1f0f, 0x399}, {0x1f8f}},
    {0x1f90, {0x1f28, 0x399}, {0x1f98}},
    {0x1f91, {0x1f29, 0x399}, {0x1f99}},
    {0x1f92, {0x1f2a, 0x399}, {0x1f9a}},
    {0x1f93, {0x1f2b, 0x399}, {0x1f9b}},
    {0x1f94, {0x1f2c, 0x399}, {0x1f9c}},
    {0x1f95, {0x1f2d, 0x399}, {0x1f9d}},
    {0x1f96, {0x1f2e, 0x399}, {0x1f9e}},
    {0x1f97, {0x1f2f, 0x399}, {0x1f9f}},
    {0x1f98, {0x1f28, 0x399}, {0x1f98}},
    {0x1f99, {0x1f29, 0x399}, {0x1f99}},
    {0x1f9a, {0x1f2a, 0x399}, {0x1f9a}},
    {0x1f9b, {0x1f2b, 0x399}, {0x1f9b}},
    {0x1f9c, {0x1f2c, 0x399}, {0x1f9c}},
    {0x1f9d, {0x1f2d, 0x399}, {0x1f9d}},
    {0x1f9e, {0x1f2e, 0x399}, {0x1f9e}},
    {0x1f9f, {0x1f2f, 0x399}, {0x1f9f}},
    {0x1fa0, {0x1f68, 0x399}, {0x1fa8}},
    {0x1fa1, {0x1f69, 0x399}, {0x1fa9}},
    {0x1fa2, {0x1f6a, 0x399}, {0x1faa}},
    {0x1fa3, {0x1f6b, 0x399}, {0x1fab}},
    {0x1fa4, {0x1f6c, 0x399}, {0x1fac}},
    {0x1fa5, {0x1f6d, 0x399}, {0x1fad}},
    {0x1fa6, {0x1f6e, 0x399}, {0x1fae}},
    {0x1fa7, {0x1f6f, 0x399}, {0x1faf}},
    {0x1fa8, {0x1f68, 0x399}, {0x1fa8}},
    {0x1fa9, {0x1f69, 0x399}, {0x1fa9}},
    {0x1faa, {0x1f6a, 0x399}, {0x1faa}},
    {0x1fab, {0x1f6b, 0x399}, {0x1fab}},
    {0x1fac, {0x1f6c, 0x399}, {0x1fac}},
    {0x1fad, {0x1f6d, 0x399}, {0x1fad}},
    {0x1fae, {0x1f6e, 0x399}, {0x1fae}},
    {0x1faf, {0x1f6f, 0x399}, {0x1faf}},
    {0x1fb2, {0x1fba, 0x399}, {0x1fba, 0x345}},
    {0x1fb3, {0x391, 0x399}, {0x1fbc}},
    {0x1fb4, {0x386, 0x399}, {0x386, 0x345}},
    {0x1fb6, {0x391, 0x342}, {0x391, 0x342}},
    {0x1fb7, {0x391, 0x342, 0x399}, {0x391, 0x342, 0x345}},
    {0x1fbc, {0x391, 0x399}, {0x1fbc}},
    {0x1fc2, {0x1fca, 0x399}, {0x1fca, 0x345}},
    {0x1fc3, {0x397, 0x399}, {0x1fcc}},
    {0x1fc4, {0x389, 0x399}, {0x389, 0x345}},
    {0x1fc6, {0x397, 0x342}, {0x397, 0x342}},
    {0x1fc7, {0x397, 0x342, 0x399}, {0x397, 0x342, 0x345}},
    {0x1fcc, {0x397, 0x399}, {0x1fcc}},
    {0x1fd2, {0x399, 0x308, 0x300}, {0x399, 0x308, 0x300}},
    {0x1fd3, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x1fd6, {0x399, 0x342}, {0x399, 0x342}},
    {0x1fd7, {0x399, 0x308, 0x342}, {0x399, 0x308, 0x342}},
    {0x1fe2, {0x3a5, 0x308, 0x300}, {0x3a5, 0x308, 0x300}},
    {0x1fe3, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}},
    {0x1fe4, {0x3a1, 0x313}, {0x3a1, 0x313}},
    {0x1fe6, {0x3a5, 0x342}, {0x3a5, 0x342}},
    {0x1fe7, {0x3a5, 0x308, 0x342}, {0x3a5, 0x308, 0x342}},
    {0x1ff2, {0x1ffa, 0x399}, {0x1ffa, 0x345}},
    {0x1ff3, {0x3a9, 0x399}, {0x1ffc}},
    {0x1ff4, {0x38f, 0x399}, {0x38f, 0x345}},
    {0x1ff6, {0x3a9, 0x342}, {0x3a9, 0x342}},
    {0x1ff7, {0x3a9, 0x342, 0x399}, {0x3a9, 0x342, 0x345}},
    {0x1ffc, {0x3a9, 0x399}, {0x1ffc}},
    {0xfb00, {0x46, 0x46}, {0x46, 0x66}},
    {0xfb01, {0x46, 0x49}, {0x46, 0x69}},
    {0xfb02, {0x46, 0x4c}, {0x46, 0x6c}},
    {0xfb03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
    {0xfb04, {0x46, 0x46, 0x4c}, {0x46, 0x66, 0x6c}},
    {0xfb05, {0x53, 0x54}, {0x53, 0x74}},
    {0xfb06, {0x53, 0x54}, {0x53, 0x74}},
    {0xfb13, {0x544, 0x546}, {0x544, 0x576}},
    {0xfb14, {0x544, 0x535}, {0x544, 0x565}},
    {0xfb15, {0x544, 0x53b}, {0x544, 0x56b}},
    {0xfb16, {0x54e, 0x546}, {0x54e, 0x576}},
    {0xfb17, {0x544, 0x53d}, {0x544, 0x56d}},
};

static bool special_case(jrun *r, jbuf *b, jcase c, uint32_t cp) {
    size_t lo = 0, hi = sizeof special / sizeof *special;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (special[mid].cp < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == sizeof special / sizeof *special || special[lo].cp != cp)
        return false;
    const uint16_t *to = c == JCASE_UPPER ? special[lo].upper : special[lo].title;
    for (int i = 0; i < 3 && to[i]; i++)
        jbuf_char(r, b, to[i]);
    return true;
}

static bool letter_before(const char *begin, const char *p) {
    bool upper;
    uint32_t cp = 0;
    if (p == begin)
        return false;
    const char *q = p - 1;
    while (q > begin && (*q & 0xc0) == 0x80)
        q--;
    utf8_next(q, p, &cp);
    return jchar_cased(cp, &upper);
}

/* Sigma at the end of a word has a form of its own; `p` is behind it. */
static bool letter_after(const char *p, const char *end) {
    uint32_t cp;
    bool upper;
    return utf8_next(p, end, &cp) > 0 && jchar_cased(cp, &upper);
}

static void fold(jrun *r, jbuf *b, uint32_t cp) {
    utf8proc_int32_t to[8];
    int last = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, to, 8, UTF8PROC_CASEFOLD,
                                                 &last);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; i++)
        jbuf_char(r, b, (uint32_t)to[i]);
}

static void case_of(jrun *r, jbuf *b, jcase c, uint32_t cp) {
    utf8proc_int32_t k = (utf8proc_int32_t)cp;
    if (cp < 0x80) {
        bool lower = cp >= 'a' && cp <= 'z', upper = cp >= 'A' && cp <= 'Z';
        bool up = c == JCASE_UPPER || c == JCASE_TITLE;
        jbuf_putc(r, b, (char)((up && lower) || (!up && upper) ? cp ^ 0x20 : cp));
    } else if (c == JCASE_FOLD) {
        fold(r, b, cp);
    } else if (c == JCASE_LOWER && cp == 0x130) {
        jbuf_puts(r, b, "i\xcc\x87");
    } else if (c == JCASE_LOWER) {
        jbuf_char(r, b, (uint32_t)utf8proc_tolower(k));
    } else if (!special_case(r, b, c, cp)) {
        k = c == JCASE_UPPER ? utf8proc_toupper(k) : utf8proc_totitle(k);
        jbuf_char(r, b, (uint32_t)k);
    }
}

/* One character; sigma's lower case depends on what stands around it. */
void jchar_case(jrun *r, jbuf *b, jcase c, const char *begin, const char *p, const char *end) {
    uint32_t cp;
    int k = utf8_next(p, end, &cp);
    if (c == JCASE_LOWER && cp == 0x3a3 && letter_before(begin, p) && !letter_after(p + k, end))
        jbuf_char(r, b, 0x3c2);
    else
        case_of(r, b, c, cp);
}

static void map_range(jrun *r, jbuf *b, jcase c, const char *begin, const char *p,
                      const char *end) {
    uint32_t cp;
    for (; p < end; p += utf8_next(p, end, &cp))
        jchar_case(r, b, c, begin, p, end);
}

jval jchar_map(jrun *r, jval s, jcase c) {
    jbuf b = {0};
    jrun_tick(r, s.s->n);
    map_range(r, &b, c, s.s->p, s.s->p, s.s->p + s.s->n);
    jval v = jbuf_take(&b, r);
    v.safe = s.safe;
    return v;
}

jval jchar_capitalize(jrun *r, jval s) {
    jbuf b = {0};
    uint32_t cp;
    const char *end = s.s->p + s.s->n;
    int k = utf8_next(s.s->p, end, &cp);
    jrun_tick(r, s.s->n);
    if (k > 0)
        case_of(r, &b, JCASE_TITLE, cp);
    map_range(r, &b, JCASE_LOWER, s.s->p, s.s->p + k, end);
    jval v = jbuf_take(&b, r);
    v.safe = s.safe;
    return v;
}
