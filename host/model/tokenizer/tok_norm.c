/* SPDX-License-Identifier: Apache-2.0
 * Normalisers: each row takes a text and appends its normal form. */
#include "host/model/tokenizer/tok.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- Unicode normal forms ----
 * utf8proc's own map sorts marks by insertion, quadratic in a flood of marks; here a run of marks
 * goes through a stable counting of its few hundred classes. */

typedef struct {
    int32_t *v;
    size_t n, cap;
} code_points;

static void points_room(code_points *c, size_t more) {
    if (c->n + more <= c->cap)
        return;
    c->cap = 2 * (c->n + more);
    c->v = mem_grow(c->v, c->cap * sizeof *c->v);
}

static int combining_class(int32_t cp) {
    return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class;
}

static void sort_marks(int32_t *v, size_t n, code_points *spare) {
    size_t count[257] = {0};
    spare->n = 0;
    points_room(spare, n);
    for (size_t i = 0; i < n; i++)
        count[combining_class(v[i]) + 1]++;
    for (int c = 0; c < 256; c++)
        count[c + 1] += count[c];
    for (size_t i = 0; i < n; i++)
        spare->v[count[combining_class(v[i])]++] = v[i];
    memcpy(v, spare->v, n * sizeof *v);
}

static void canonical_order(code_points *c, code_points *spare) {
    for (size_t i = 0; i < c->n;) {
        size_t start = i;
        while (i < c->n && combining_class(c->v[i]))
            i++;
        if (i - start > 1)
            sort_marks(c->v + start, i - start, spare);
        i += i == start;
    }
}

enum {
    LONGEST_DECOMPOSITION = 64, /* U+FDFA has 18 */
    MOST_GROWTH = 64            /* of a text by all rows; no honest file comes near */
};

static void normalize_run(const tok_norm *op, const char *s, size_t n, code_points *work,
                          buf *out) {
    int options = UTF8PROC_STABLE | (op->right ? UTF8PROC_COMPAT : 0);
    code_points *c = &work[0];
    c->n = 0;
    for (const char *p = s; p < s + n;) {
        points_room(c, LONGEST_DECOMPOSITION);
        int last = 0;
        utf8proc_ssize_t k = utf8proc_decompose_char((int32_t)tok_utf8_get(&p), c->v + c->n,
                                                     LONGEST_DECOMPOSITION,
                                                     options | UTF8PROC_DECOMPOSE, &last);
        c->n += k > 0 && k <= LONGEST_DECOMPOSITION ? (size_t)k : 0;
    }
    canonical_order(c, &work[1]);
    if (op->left) {
        utf8proc_ssize_t k = utf8proc_normalize_utf32(c->v, (utf8proc_ssize_t)c->n,
                                                      options | UTF8PROC_COMPOSE);
        c->n = k > 0 ? (size_t)k : 0;
    }
    for (size_t i = 0; i < c->n; i++)
        tok_utf8_add(out, (uint32_t)c->v[i]);
}

/* left: compose; right: compatibility. ASCII is its own normal form and only the character in
 * front of others can take part in a composition. */
static weft_status norm_form(const tok_norm *op, tok_match *m, const char *s, size_t n, buf *out) {
    (void)m;
    code_points work[2] = {{0}, {0}};
    for (size_t i = 0; i < n;) {
        size_t start = i;
        while (i < n && (unsigned char)s[i] < 0x80)
            i++;
        if (i == n) {
            buf_add(out, s + start, n - start);
            break;
        }
        size_t run = i > start ? i - 1 : i;
        buf_add(out, s + start, run - start);
        while (i < n && (unsigned char)s[i] >= 0x80)
            i++;
        normalize_run(op, s + run, i - run, work, out);
    }
    mem_free(work[0].v);
    mem_free(work[1].v);
    return WEFT_OK;
}

/* ---- the smaller ones ---- */

static void put_lower(buf *out, uint32_t cp) {
    if (cp == 0x130) { /* the one unconditional special case: i and a dot above */
        buf_puts(out, "i\xcc\x87");
        return;
    }
    tok_utf8_add(out, (uint32_t)utf8proc_tolower((int32_t)cp));
}

static weft_status norm_lowercase(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                  buf *out) {
    (void)op;
    (void)m;
    for (const char *p = s; p < s + n;)
        put_lower(out, tok_utf8_get(&p));
    return WEFT_OK;
}

static weft_status norm_strip_accents(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                      buf *out) {
    (void)op;
    (void)m;
    for (const char *p = s; p < s + n;) {
        uint32_t cp = tok_utf8_get(&p);
        int c = utf8proc_category((int32_t)cp);
        if (c < UTF8PROC_CATEGORY_MN || c > UTF8PROC_CATEGORY_ME)
            tok_utf8_add(out, cp);
    }
    return WEFT_OK;
}

static weft_status norm_strip(const tok_norm *op, tok_match *m, const char *s, size_t n, buf *out) {
    (void)m;
    const char *from = s, *to = s, *end = s + n;
    while (op->left && from < end) {
        const char *p = from;
        if (!tok_is_space(tok_utf8_get(&p)))
            break;
        from = p;
    }
    to = op->right ? from : end;
    for (const char *p = from; op->right && p < end;)
        if (!tok_is_space(tok_utf8_get(&p)))
            to = p;
    buf_add(out, from, (size_t)(to - from));
    return WEFT_OK;
}

static weft_status norm_prepend(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                buf *out) {
    (void)m;
    if (n)
        buf_add(out, op->to.s, op->to.n);
    buf_add(out, s, n);
    return WEFT_OK;
}

static weft_status norm_replace(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                buf *out) {
    (void)m;
    const char *end = s + n;
    while (s < end) {
        const char *hit = memmem(s, (size_t)(end - s), op->from.s, op->from.n);
        if (!hit)
            break;
        buf_add(out, s, (size_t)(hit - s));
        buf_add(out, op->to.s, op->to.n);
        s = hit + op->from.n;
    }
    buf_add(out, s, (size_t)(end - s));
    return WEFT_OK;
}

static weft_status norm_replace_regex(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                      buf *out) {
    size_t done = 0, from = 0, begin, end;
    bool found;
    while (from <= n && !out->failed) {
        WEFT_TRY(tok_regex_next(op->re, m, s, n, from, &begin, &end, &found));
        if (!found)
            break;
        buf_add(out, s + done, begin - done);
        buf_add(out, op->to.s, op->to.n);
        done = from = end;
        if (end == begin) { /* an empty match: go on behind the next character */
            const char *p = s + end;
            from += end < n ? (tok_utf8_get(&p), (size_t)(p - s) - end) : 1;
        }
    }
    buf_add(out, s + done, n - done);
    return WEFT_OK;
}

static weft_status norm_bytelevel(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                  buf *out) {
    (void)op;
    (void)m;
    for (size_t i = 0; i < n; i++)
        tok_utf8_add(out, tok_byte_to_char[(unsigned char)s[i]]);
    return WEFT_OK;
}

static bool is_chinese(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static bool is_other(uint32_t c) { /* category C, without the white space that is in Cc */
    int k = utf8proc_category((int32_t)c);
    return c != '\t' && c != '\n' && c != '\r' &&
           (k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO);
}

static void bert_clean(const tok_norm *op, const char *s, size_t n, buf *out) {
    for (const char *p = s; p < s + n;) {
        uint32_t c = tok_utf8_get(&p);
        if (op->clean && (c == 0 || c == 0xfffd || is_other(c)))
            continue;
        c = op->clean && tok_is_space(c) ? ' ' : c;
        bool apart = op->chinese && is_chinese(c);
        if (apart)
            buf_putc(out, ' ');
        tok_utf8_add(out, c);
        if (apart)
            buf_putc(out, ' ');
    }
}

static void bert_fold(const tok_norm *op, const char *s, size_t n, buf *out) {
    for (const char *p = s; p < s + n;) {
        uint32_t c = tok_utf8_get(&p);
        if (op->strip_accents && utf8proc_category((int32_t)c) == UTF8PROC_CATEGORY_MN)
            continue;
        if (op->lowercase)
            put_lower(out, c);
        else
            tok_utf8_add(out, c);
    }
}

static weft_status norm_bert(const tok_norm *op, tok_match *m, const char *s, size_t n, buf *out) {
    static const tok_norm nfd = {.left = false, .right = false};
    buf a, b;
    buf_init(&a, TOK_MAX_TEXT);
    buf_init(&b, TOK_MAX_TEXT);
    bert_clean(op, s, n, &a);
    weft_status st = WEFT_OK;
    if (op->strip_accents)
        st = norm_form(&nfd, m, a.data, a.len, &b);
    const buf *last = op->strip_accents ? &b : &a;
    bert_fold(op, last->data, last->len, out);
    out->failed |= a.failed || b.failed;
    buf_fini(&a);
    buf_fini(&b);
    return st;
}

/* ---- Precompiled: SentencePiece's charsmap ---- */

/* Length of each key of the double array that s starts with goes to the shortest or the longest. */
static size_t charsmap_find(const tok_norm *op, const char *s, size_t n, bool longest,
                            uint32_t *value) {
    uint32_t node = 0, unit = op->unit[0];
    size_t found = 0;
#define OFFSET(u) (((u) >> 10) << (((u)&0x200) >> 6))
    node ^= OFFSET(unit);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        node ^= c;
        if (!c || node >= op->units)
            break;
        unit = op->unit[node];
        if ((unit & 0x800000ffu) != c)
            break;
        node ^= OFFSET(unit);
        if (node >= op->units)
            break;
        if (unit & 0x100) {
            found = i + 1;
            *value = op->unit[node] & 0x7fffffffu;
            if (!longest)
                break;
        }
    }
#undef OFFSET
    return found;
}

size_t tok_charsmap_longest(const tok_norm *op, const char *s, size_t n, const char **to) {
    uint32_t value = 0;
    size_t k = charsmap_find(op, s, n, true, &value);
    if (k && value >= op->text_bytes)
        return 0;
    *to = op->text + value;
    return k;
}

static bool charsmap_put(const tok_norm *op, const char *s, size_t n, buf *out) {
    uint32_t value = 0;
    if (!charsmap_find(op, s, n, false, &value) || value >= op->text_bytes)
        return false;
    buf_puts(out, op->text + value);
    return true;
}

/* The library behind tokenizer.json looks up a whole grapheme first, then its characters. */
static weft_status norm_charsmap(const tok_norm *op, tok_match *m, const char *s, size_t n,
                                 buf *out) {
    (void)m;
    const char *end = s + n;
    while (s < end) {
        int32_t state = 0;
        const char *p = s, *next = s;
        uint32_t cp = tok_utf8_get(&next), following;
        while (next < end) {
            p = next;
            following = tok_utf8_get(&p);
            if (utf8proc_grapheme_break_stateful((int32_t)cp, (int32_t)following, &state))
                break;
            cp = following;
            next = p;
        }
        if (next - s >= 6 || !charsmap_put(op, s, (size_t)(next - s), out))
            for (p = s; p < next;) {
                const char *c = p;
                tok_utf8_get(&p);
                if (!charsmap_put(op, c, (size_t)(p - c), out))
                    buf_add(out, c, (size_t)(p - c));
            }
        s = next;
    }
    return WEFT_OK;
}

/* data: u32 size of the double array, the array, then NUL-terminated replacements. */
weft_status tok_charsmap_open(tok_norm *op, arena *a, const char *key, const char *data, size_t n) {
    uint32_t bytes = 0;
    if (n >= 4)
        memcpy(&bytes, data, 4);
    if (n < 4 || bytes < 4 || bytes % 4 || bytes > n - 4)
        return weft_fail(WEFT_BAD_FILE, "%s: bad charsmap (%zu bytes)", key, n);
    uint32_t *unit = arena_alloc(a, bytes);
    memcpy(unit, data + 4, bytes);
    *op = (tok_norm){.apply = norm_charsmap, .unit = unit, .units = bytes / 4};
    op->text_bytes = n - 4 - bytes;
    op->text = arena_copy(a, data + 4 + bytes, op->text_bytes);
    for (const char *p = op->text, *end = p + op->text_bytes; p < end; p += strlen(p) + 1) {
        size_t k = strlen(p);
        if (utf8_invalid_at(p, k) != k)
            return weft_fail(WEFT_BAD_FILE, "%s: charsmap with invalid UTF-8", key);
    }
    return WEFT_OK;
}

static weft_status parse_charsmap(tokenizer *t, tok_norm *op, json *j, json_str text) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    buf bytes;
    uint32_t bits = 0;
    int have = 0;
    buf_init(&bytes, text.n + 1);
    for (size_t i = 0; i < text.n && text.s[i] != '='; i++) {
        const char *d = text.s[i] ? strchr(digits, text.s[i]) : NULL;
        if (!d) {
            buf_fini(&bytes);
            json_fail(j, "precompiled_charsmap is not base64");
            return WEFT_BAD_FILE;
        }
        bits = bits << 6 | (uint32_t)(d - digits);
        have += 6;
        if (have >= 8) {
            have -= 8;
            buf_putc(&bytes, (char)(bits >> have));
        }
    }
    weft_status s = tok_charsmap_open(op, &t->arena, j->name, bytes.data, bytes.len);
    buf_fini(&bytes);
    return s;
}

/* ---- reading ---- */

typedef struct { /* the union of what normalisers have */
    json_str type, content, prepend, charsmap, literal;
    tok_regex *re;
    bool left, right, clean, chinese, lowercase, has_pattern, has_map;
    int strip_accents; /* -1: null */
} norm_fields;

static weft_status read_field(tokenizer *t, json *j, json_str key, norm_fields *f) {
    struct {
        const char *name;
        json_str *s;
        bool *b;
    } rows[] = {{"type", &f->type, NULL},
                {"content", &f->content, NULL},
                {"prepend", &f->prepend, NULL},
                {"strip_left", NULL, &f->left},
                {"strip_right", NULL, &f->right},
                {"clean_text", NULL, &f->clean},
                {"handle_chinese_chars", NULL, &f->chinese},
                {"lowercase", NULL, &f->lowercase}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (json_is(key, rows[i].name)) {
            if (rows[i].s)
                *rows[i].s = json_string(j);
            else if (rows[i].b)
                *rows[i].b = json_bool(j);
            return WEFT_OK;
        }
    if (json_is(key, "normalizers")) {
        json_array(j);
        while (json_item(j))
            WEFT_TRY(tok_norm_parse(t, j));
    } else if (json_is(key, "pattern")) {
        f->has_pattern = true;
        return tok_regex_parse(j, TOK_RUBY, &f->literal, &f->re);
    } else if (json_is(key, "strip_accents")) {
        f->strip_accents = json_peek(j) == JSON_NULL ? (json_null(j), -1) : json_bool(j);
    } else if (json_is(key, "precompiled_charsmap")) {
        f->has_map = json_peek(j) == JSON_STRING;
        if (f->has_map)
            f->charsmap = json_string(j);
        else
            json_null(j);
    } else {
        json_fail(j, "normalizer: unknown key \"%.*s\"", (int)(key.n < 40 ? key.n : 40), key.s);
    }
    return WEFT_OK;
}

static const struct {
    const char *type;
    tok_norm_fn *apply;
    bool left, right;
} norm_rows[] = {{"NFD", norm_form, false, false},
                 {"NFC", norm_form, true, false},
                 {"NFKD", norm_form, false, true},
                 {"NFKC", norm_form, true, true},
                 {"Lowercase", norm_lowercase, false, false},
                 {"StripAccents", norm_strip_accents, false, false},
                 {"Strip", norm_strip, false, false},
                 {"Prepend", norm_prepend, false, false},
                 {"Replace", norm_replace, false, false},
                 {"BertNormalizer", norm_bert, false, false},
                 {"Precompiled", norm_charsmap, false, false},
                 {"ByteLevel", norm_bytelevel, false, false}};

static json_str keep(tokenizer *t, json_str s) {
    return (json_str){arena_copy(&t->arena, s.s ? s.s : "", s.n), s.n};
}

static weft_status norm_add(tokenizer *t, json *j, norm_fields *f) {
    size_t row = 0, rows = sizeof norm_rows / sizeof *norm_rows;
    while (row < rows && !json_is(f->type, norm_rows[row].type))
        row++;
    if (row == rows)
        return weft_fail(WEFT_UNSUPPORTED, "%s: normalizer \"%.*s\" is not supported", j->name,
                         (int)(f->type.n < 40 ? f->type.n : 40), f->type.s ? f->type.s : "");
    if (t->nnorm == TOK_MAX_ROWS)
        return weft_fail(WEFT_BAD_FILE, "%s: more than %d normalizers", j->name, TOK_MAX_ROWS);
    tok_norm *op = &t->norm[t->nnorm];
    bool strip = norm_rows[row].apply == norm_strip;
    *op = (tok_norm){.apply = norm_rows[row].apply,
                     .left = strip ? f->left : norm_rows[row].left,
                     .right = strip ? f->right : norm_rows[row].right};
    if (op->apply == norm_charsmap) {
        if (!f->has_map) /* null: it does nothing */
            return WEFT_OK;
        WEFT_TRY(parse_charsmap(t, op, j, f->charsmap));
    } else if (op->apply == norm_replace) {
        if (!f->has_pattern || (!f->re && !f->literal.n))
            return weft_fail(WEFT_BAD_FILE, "%s: Replace without a pattern", j->name);
        op->from = keep(t, f->literal);
        op->to = keep(t, f->content);
        op->re = f->re;
        f->re = NULL;
        op->apply = op->re ? norm_replace_regex : norm_replace;
    } else if (op->apply == norm_prepend) {
        op->to = keep(t, f->prepend);
    } else if (op->apply == norm_bert) {
        op->clean = f->clean;
        op->chinese = f->chinese;
        op->lowercase = f->lowercase;
        op->strip_accents = f->strip_accents < 0 ? f->lowercase : f->strip_accents;
    }
    t->nnorm++;
    return WEFT_OK;
}

weft_status tok_norm_parse(tokenizer *t, json *j) {
    if (json_peek(j) == JSON_NULL) {
        json_null(j);
        return WEFT_OK;
    }
    norm_fields f = {.left = true,
                     .right = true,
                     .clean = true,
                     .chinese = true,
                     .lowercase = true,
                     .strip_accents = -1};
    weft_status s = WEFT_OK;
    json_str key;
    json_object(j);
    while (s == WEFT_OK && json_key(j, &key))
        s = read_field(t, j, key, &f);
    if (s == WEFT_OK && json_failed(j))
        s = json_done(j);
    if (s == WEFT_OK && !json_is(f.type, "Sequence"))
        s = norm_add(t, j, &f);
    tok_regex_close(f.re);
    return s;
}

void tok_norm_form(tokenizer *t, const char *form) {
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(norm_rows[i].type, form))
            t->norm[t->nnorm++] = (tok_norm){
                .apply = norm_form, .left = norm_rows[i].left, .right = norm_rows[i].right};
}

weft_status tok_norm_apply(const tokenizer *t, tok_match *m, const char *s, size_t n, buf *out,
                           bool *moved) {
    buf a, b;
    weft_status st = WEFT_OK;
    size_t most = MOST_GROWTH * n + (64 << 10);
    buf_init(&a, most < TOK_MAX_TEXT ? most : TOK_MAX_TEXT);
    buf_init(&b, a.max);
    buf *from = &a, *to = &b;
    buf_add(from, s, n);
    for (int i = 0; i < t->nnorm && st == WEFT_OK; i++) {
        const char *p = from->data;
        buf_clear(to);
        if (moved && t->norm[i].apply == norm_strip && t->norm[i].left && from->len)
            *moved |= tok_is_space(tok_utf8_get(&p));
        st = t->norm[i].apply(&t->norm[i], m, from->data, from->len, to);
        if (st == WEFT_OK && to->failed)
            st = weft_fail(WEFT_BAD_FILE, "normalizer: the text grows more than %d times",
                           MOST_GROWTH);
        buf *swap = from;
        from = to;
        to = swap;
    }
    if (st == WEFT_OK)
        buf_add(out, from->data, from->len);
    buf_fini(&a);
    buf_fini(&b);
    return st;
}
