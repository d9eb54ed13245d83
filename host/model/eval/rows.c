/* SPDX-License-Identifier: Apache-2.0
 * Rows of JSONL as tables of raw fields: a task asks for those it knows. */
#include "host/model/eval/rows.h"
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/utf8.h"
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

enum { FILE_MAX = 1 << 30 };

/* ---- Lines and rows ---- */

static bool is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

weft_status rows_open(const char *file, arena *a, row_reader *out) {
    const char *data, *shown = strcmp(file, "-") == 0 ? "standard input" : file;
    size_t n;
    WEFT_TRY(file_read(file, FILE_MAX, a, &data, &n));
    size_t bad = utf8_invalid_at(data, n);
    if (bad < n) {
        int64_t line = 1;
        for (size_t i = 0; i < bad; i++)
            line += data[i] == '\n';
        return weft_fail(WEFT_BAD_FILE, "%s:%lld: not UTF-8", shown, (long long)line);
    }
    if (text_strip((text){data, n}).n == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: is empty", shown);
    *out = (row_reader){.file = shown, .at = data, .end = data + n, .a = a};
    return WEFT_OK;
}

bool rows_line(row_reader *r, text *line) {
    while (r->at < r->end) {
        const char *from = r->at, *stop = memchr(from, '\n', (size_t)(r->end - from));
        size_t n = (size_t)((stop ? stop : r->end) - from);
        r->at += n + (stop != NULL);
        r->line++;
        n -= n > 0 && from[n - 1] == '\r';
        *line = (text){from, n};
        if (text_strip(*line).n)
            return true;
    }
    return false;
}

/* The reader says NAME:1:COLUMN: WHAT of a line it saw alone. */
static weft_status at_line(const row_reader *r) {
    char what[1024];
    int column = 0, from = 0;
    snprintf(what, sizeof what, "%s", err_message());
    if (sscanf(what, "row:1:%d: %n", &column, &from) != 1 || from == 0)
        return weft_fail(WEFT_BAD_FILE, "%s:%lld: %s", r->file, (long long)r->line, what);
    return weft_fail(WEFT_BAD_FILE, "%s:%lld:%d: %s", r->file, (long long)r->line, column,
                     what + from);
}

weft_status rows_next(row_reader *r, row *out, bool *more) {
    text line;
    json j;
    *more = rows_line(r, &line);
    if (!*more)
        return WEFT_OK;
    *out = (row){.file = r->file, .line = r->line, .a = r->a, .field = r->field};
    json_init(&j, "row", line.s, line.n, r->a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        json_kind kind = json_peek(&j);
        json_str raw = json_raw(&j);
        if (out->n < ROW_MAX_FIELDS)
            out->field[out->n++] = (row_field){key, raw, kind};
    }
    return json_done(&j) == WEFT_OK ? WEFT_OK : at_line(r);
}

/* ---- Fields ---- */

weft_status row_fail(const row *r, const char *fmt, ...) {
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return weft_fail(WEFT_BAD_FILE, "%s:%lld: %s", r->file, (long long)r->line, what);
}

const row_field *row_find(const row *r, const char *key) {
    for (int i = 0; i < r->n; i++)
        if (json_is(r->field[i].key, key))
            return &r->field[i];
    return NULL;
}

static weft_status find(const row *r, const char *key, json_kind kind, const char *what, json *j) {
    const row_field *f = row_find(r, key);
    if (!f)
        return row_fail(r, "has no \"%s\"", key);
    if (f->kind != kind)
        return row_fail(r, "\"%s\" is not %s", key, what);
    json_init(j, key, f->raw.s, f->raw.n, r->a);
    return WEFT_OK;
}

weft_status row_text(const row *r, const char *key, text *out) {
    json j;
    WEFT_TRY(find(r, key, JSON_STRING, "a string", &j));
    *out = json_string(&j);
    return WEFT_OK;
}

weft_status row_texts(const row *r, const char *key, int max, text *out, int *n) {
    json j;
    WEFT_TRY(find(r, key, JSON_ARRAY, "an array of strings", &j));
    json_array(&j);
    for (*n = 0; json_item(&j); (*n)++) {
        if (json_peek(&j) != JSON_STRING)
            return row_fail(r, "\"%s\" is not an array of strings", key);
        if (*n == max)
            return row_fail(r, "\"%s\" has more than %d strings", key, max);
        out[*n] = json_string(&j);
    }
    return *n ? WEFT_OK : row_fail(r, "\"%s\" is empty", key);
}

weft_status row_index(const row *r, const char *key, int limit, int *out) {
    const row_field *f = row_find(r, key);
    if (!f)
        return row_fail(r, "has no \"%s\"", key);
    text t = f->raw;
    if (f->kind == JSON_STRING)
        WEFT_TRY(row_text(r, key, &t));
    if (f->kind == JSON_BOOL)
        t = text_of(t.s[0] == 't' ? "1" : "0");
    *out = 0;
    for (size_t i = 0; i < t.n; i++) {
        if (t.s[i] < '0' || t.s[i] > '9')
            return row_fail(r, "\"%s\" is %.*s, not a whole number", key, t.n > 40 ? 40 : (int)t.n,
                            t.s);
        *out = *out < limit ? 10 * *out + (t.s[i] - '0') : *out;
    }
    if (t.n == 0)
        return row_fail(r, "\"%s\" is empty", key);
    if (*out >= limit)
        return row_fail(r, "\"%s\" is out of range (0 to %d)", key, limit - 1);
    return WEFT_OK;
}

/* ---- Python's strings ---- */

text text_of(const char *s) {
    return (text){s, strlen(s)};
}

text text_join(arena *a, const text *part, int n) {
    size_t size = 0;
    for (int i = 0; i < n; i++)
        size += part[i].n;
    char *out = arena_alloc(a, size + 1), *to = out;
    for (int i = 0; i < n; to += part[i++].n)
        memcpy(to, part[i].s, part[i].n);
    return (text){out, size};
}

int64_t text_chars(text t) {
    int64_t n = 0;
    for (size_t i = 0; i < t.n; i++)
        n += (t.s[i] & 0xc0) != 0x80;
    return n;
}

int64_t text_words(text t) {
    int64_t n = 1;
    bool space = false;
    const char *p = t.s, *end = t.s + t.n;
    for (uint32_t cp; p < end;) {
        p += utf8_next(p, end, &cp);
        n += is_space(cp) && !space;
        space = is_space(cp);
    }
    return n;
}

text text_rstrip(text t) {
    while (t.n > 0) {
        size_t at = t.n - 1;
        uint32_t cp;
        while (at > 0 && (t.s[at] & 0xc0) == 0x80)
            at--;
        utf8_next(t.s + at, t.s + t.n, &cp);
        if (!is_space(cp))
            break;
        t.n = at;
    }
    return t;
}

text text_strip(text t) {
    uint32_t cp;
    t = text_rstrip(t);
    for (int k; t.n > 0 && (k = utf8_next(t.s, t.s + t.n, &cp)) > 0 && is_space(cp);) {
        t.s += k;
        t.n -= (size_t)k;
    }
    return t;
}

bool text_word(text *left, text *word) {
    const char *p, *end = left->s + left->n;
    uint32_t cp;
    int k = 0;
    for (p = left->s; p < end && (k = utf8_next(p, end, &cp)) > 0 && is_space(cp);)
        p += k;
    word->s = p;
    while (p < end && (k = utf8_next(p, end, &cp)) > 0 && !is_space(cp))
        p += k;
    word->n = (size_t)(p - word->s);
    *left = (text){p, (size_t)(end - p)};
    return word->n > 0;
}

/* At most four bytes become at most four, but for U+0130, whose lower case is two characters. */
static text mapped(arena *a, text t, bool capital) {
    char *out = arena_alloc(a, 4 * t.n + 1);
    size_t n = 0;
    const char *p = t.s, *end = t.s + t.n;
    for (uint32_t cp; p < end; capital = false) {
        p += utf8_next(p, end, &cp);
        utf8proc_int32_t c = (utf8proc_int32_t)cp;
        c = capital ? utf8proc_totitle(c) : cp == 0x130 ? 'i' : utf8proc_tolower(c);
        n += (size_t)utf8_put(out + n, (uint32_t)c);
        if (cp == 0x130 && !capital)
            n += (size_t)utf8_put(out + n, 0x307);
    }
    return (text){out, n};
}

text text_lower(arena *a, text t) {
    return mapped(a, t, false);
}

text text_capitalize(arena *a, text t) {
    return mapped(a, t, true);
}

text text_replace(arena *a, text t, const char *from, const char *to) {
    size_t k = strlen(from), m = strlen(to), n = 0;
    char *out = arena_alloc(a, t.n * (m / k + 1) + 1);
    for (size_t i = 0; i < t.n;) {
        bool hit = t.n - i >= k && memcmp(t.s + i, from, k) == 0;
        memcpy(out + n, hit ? to : t.s + i, hit ? m : 1);
        n += hit ? m : 1;
        i += hit ? k : 1;
    }
    return (text){out, n};
}
