/* SPDX-License-Identifier: Apache-2.0
 * Pre-tokenizers: each row cuts the pieces of a text into smaller ones, some rewrite them too. */
#include "host/model/tokenizer/tok.h"
#include <string.h>
#include <utf8proc.h>

void tok_pieces_init(tok_pieces *p) {
    memset(p, 0, sizeof *p);
    buf_init(&p->text, TOK_MAX_TEXT);
}

void tok_pieces_fini(tok_pieces *p) {
    buf_fini(&p->text);
    mem_free(p->span);
    memset(p, 0, sizeof *p);
}

void tok_pieces_add(tok_pieces *p, size_t off, size_t len) {
    if (!len)
        return;
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 64;
        p->span = mem_grow(p->span, p->cap * sizeof *p->span);
    }
    p->span[p->n++] = (tok_span){(uint32_t)off, (uint32_t)len};
}

/* ---- from matches to pieces ---- */

typedef struct {
    tok_pieces *out;
    tok_behavior behavior;
    bool invert, previous, open; /* open: out's last piece belongs to this text */
    size_t pend, pend_end;       /* MergedNext: a delimiter that waits for what follows */
    bool pending;
    size_t base; /* where this piece starts in the text */
} folder;

static void fold_new(folder *f, size_t begin, size_t end) {
    if (end > begin) {
        tok_pieces_add(f->out, f->base + begin, end - begin);
        f->open = true;
    }
}

static void fold_join(folder *f, size_t begin, size_t end) {
    if (f->open)
        f->out->span[f->out->n - 1].len += (uint32_t)(end - begin);
    else
        fold_new(f, begin, end);
}

static void fold_next(folder *f, size_t begin, size_t end, bool match) {
    size_t from = begin;
    if (f->pending && !match)
        from = f->pend;
    else if (f->pending)
        fold_new(f, f->pend, f->pend_end);
    f->pending = match;
    f->pend = begin;
    f->pend_end = end;
    if (!match)
        fold_new(f, from, end);
}

static void fold(folder *f, size_t begin, size_t end, bool match) {
    match ^= f->invert;
    switch (f->behavior) {
    case TOK_ISOLATED: fold_new(f, begin, end); break;
    case TOK_REMOVED:
        if (!match)
            fold_new(f, begin, end);
        break;
    case TOK_MERGED_PREVIOUS:
        if (match && !f->previous)
            fold_join(f, begin, end);
        else
            fold_new(f, begin, end);
        break;
    case TOK_MERGED_NEXT: fold_next(f, begin, end, match); break;
    case TOK_CONTIGUOUS:
        if (match == f->previous)
            fold_join(f, begin, end);
        else
            fold_new(f, begin, end);
        break;
    }
    f->previous = match;
}

static weft_status cut_regex(const tok_split *op, tok_match *m, folder *f, const char *s,
                             size_t n) {
    size_t done = 0, from = 0, begin, end;
    bool found;
    while (from <= n) {
        WEFT_TRY(tok_regex_next(op->re, m, s, n, from, &begin, &end, &found));
        if (!found)
            break;
        if (begin > done)
            fold(f, done, begin, false);
        if (end > begin || begin > done)
            fold(f, begin, end, true);
        done = from = end;
        if (end == begin) {
            const char *p = s + end;
            from += end < n ? (tok_utf8_get(&p), (size_t)(p - s) - end) : 1;
        }
    }
    if (done < n)
        fold(f, done, n, false);
    return WEFT_OK;
}

static void cut_chars(const tok_split *op, folder *f, const char *s, size_t n) {
    size_t done = 0;
    for (const char *p = s; p < s + n;) {
        size_t at = (size_t)(p - s);
        if (!op->is_delimiter(tok_utf8_get(&p), op->arg))
            continue;
        if (at > done)
            fold(f, done, at, false);
        done = (size_t)(p - s);
        fold(f, at, done, true);
    }
    if (done < n)
        fold(f, done, n, false);
}

static void cut_fixed(const tok_split *op, folder *f, const char *s, size_t n) {
    size_t start = 0;
    uint32_t chars = 0;
    for (const char *p = s; p < s + n;) {
        tok_utf8_get(&p);
        if (++chars == op->length || p == s + n) {
            fold_new(f, start, (size_t)(p - s));
            start = (size_t)(p - s);
            chars = 0;
        }
    }
}

static void fold_end(folder *f) {
    if (f->pending)
        fold_new(f, f->pend, f->pend_end);
}

static weft_status cut(const tok_split *op, tok_match *m, tok_behavior behavior, const char *text,
                       tok_span piece, tok_pieces *out) {
    folder f = {.out = out, .behavior = behavior, .invert = op->invert, .base = piece.off};
    weft_status st = WEFT_OK;
    const char *s = text + piece.off;
    if (op->re)
        st = cut_regex(op, m, &f, s, piece.len);
    else if (op->kind == TOK_SPLIT_FIXED)
        cut_fixed(op, &f, s, piece.len);
    else
        cut_chars(op, &f, s, piece.len);
    fold_end(&f);
    return st;
}

/* ---- rows that rewrite ---- */

static void put_visible(buf *out, const char *s, size_t n) {
    char chunk[256];
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t c = tok_byte_to_char[(unsigned char)s[i]];
        k += (size_t)utf8_put(chunk + k, c);
        if (k > sizeof chunk - 4) {
            buf_add(out, chunk, k);
            k = 0;
        }
    }
    buf_add(out, chunk, k);
}

/* A space in front where one is asked for; pieces then move to a text of their own. */
static void spaced(const tok_pieces *in, tok_pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        const char *s = in->text.data + in->span[i].off;
        size_t start = out->text.len;
        if (*s != ' ')
            buf_putc(&out->text, ' ');
        buf_add(&out->text, s, in->span[i].len);
        tok_pieces_add(out, start, out->text.len - start);
    }
}

static weft_status bytes_cut(const tok_split *op, tok_match *m, const tok_pieces *in,
                             tok_pieces *out) {
    tok_pieces mid;
    weft_status st = WEFT_OK;
    tok_pieces_init(&mid);
    for (size_t i = 0; i < in->n && st == WEFT_OK; i++) {
        if (op->re)
            st = cut(op, m, TOK_ISOLATED, in->text.data, in->span[i], &mid);
        else
            tok_pieces_add(&mid, in->span[i].off, in->span[i].len);
    }
    for (size_t i = 0; i < mid.n && st == WEFT_OK; i++) {
        size_t start = out->text.len;
        put_visible(&out->text, in->text.data + mid.span[i].off, mid.span[i].len);
        tok_pieces_add(out, start, out->text.len - start);
    }
    tok_pieces_fini(&mid);
    return st;
}

static weft_status split_bytes(const tok_split *op, tok_match *m, const tok_pieces *in,
                               tok_pieces *out) {
    if (!op->prefix_space)
        return bytes_cut(op, m, in, out);
    tok_pieces mid;
    tok_pieces_init(&mid);
    spaced(in, &mid);
    weft_status st = bytes_cut(op, m, &mid, out);
    tok_pieces_fini(&mid);
    return st;
}

static void put_marked(buf *out, json_str mark, const char *s, size_t n) {
    for (const char *end = s + n; s < end;) {
        const char *space = memchr(s, ' ', (size_t)(end - s));
        const char *stop = space ? space : end;
        buf_add(out, s, (size_t)(stop - s));
        if (space)
            buf_add(out, mark.s, mark.n);
        s = space ? space + 1 : end;
    }
}

static bool starts_with(const char *s, size_t n, json_str what) {
    return n >= what.n && !memcmp(s, what.s, what.n);
}

static void split_metaspace(const tok_split *op, bool first, const tok_pieces *in,
                            tok_pieces *out) {
    for (size_t i = 0; i < in->n; i++) {
        const char *s = in->text.data + in->span[i].off;
        size_t n = in->span[i].len, start = out->text.len;
        bool marked = *s == ' ' || starts_with(s, n, op->mark);
        bool wanted = op->prepend == TOK_PREPEND_ALWAYS ||
                      (op->prepend == TOK_PREPEND_FIRST && first && in->span[i].off == 0);
        if (wanted && !marked)
            buf_add(&out->text, op->mark.s, op->mark.n);
        put_marked(&out->text, op->mark, s, n);
        tok_span whole = {(uint32_t)start, (uint32_t)(out->text.len - start)};
        if (op->split && !out->text.failed)
            cut(op, NULL, TOK_MERGED_NEXT, out->text.data, whole, out);
        else
            tok_pieces_add(out, start, whole.len);
    }
}

weft_status tok_split_apply(const tok_split *op, tok_match *m, bool first, const tok_pieces *in,
                            tok_pieces *out) {
    weft_status st = WEFT_OK;
    if (op->kind == TOK_SPLIT_BYTES) {
        st = split_bytes(op, m, in, out);
    } else if (op->kind == TOK_SPLIT_METASPACE) {
        split_metaspace(op, first, in, out);
    } else {
        buf_add(&out->text, in->text.data, in->text.len);
        for (size_t i = 0; i < in->n && st == WEFT_OK; i++)
            st = cut(op, m, op->behavior, in->text.data, in->span[i], out);
    }
    if (st == WEFT_OK && out->text.failed)
        return weft_fail(WEFT_BAD_FILE, "pre-tokenizer: the text is larger than 2 GiB");
    return st;
}

/* ---- delimiters ---- */

static bool is_numeric(uint32_t c, uint32_t arg) {
    (void)arg;
    int k = utf8proc_category((int32_t)c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

static bool is_punctuation(uint32_t c, uint32_t arg) {
    (void)arg;
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
               (c >= 123 && c <= 126);
    int k = utf8proc_category((int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static bool is_white(uint32_t c, uint32_t arg) {
    (void)arg;
    return tok_is_space(c);
}

static bool is_char(uint32_t c, uint32_t arg) {
    return c == arg;
}

/* ---- reading ---- */

typedef struct { /* the union of what pre-tokenizers have */
    json_str type, behavior, replacement, delimiter, scheme, literal;
    tok_regex *re;
    bool prefix_space, prefix_given, use_regex, invert, individual, split, split_given, has_pattern;
    int64_t length;
} split_fields;

#define GPT2_PATTERN \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static weft_status read_field(tokenizer *t, json *j, json_str key, split_fields *f) {
    struct {
        const char *name;
        json_str *s;
        bool *b;
    } rows[] = {{"type", &f->type, NULL},
                {"behavior", &f->behavior, NULL},
                {"replacement", &f->replacement, NULL},
                {"delimiter", &f->delimiter, NULL},
                {"prepend_scheme", &f->scheme, NULL},
                {"use_regex", NULL, &f->use_regex},
                {"invert", NULL, &f->invert},
                {"individual_digits", NULL, &f->individual}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (json_is(key, rows[i].name)) {
            if (rows[i].s)
                *rows[i].s = json_string(j);
            else if (rows[i].b)
                *rows[i].b = json_bool(j);
            return WEFT_OK;
        }
    if (json_is(key, "pretokenizers")) {
        json_array(j);
        while (json_item(j))
            WEFT_TRY(tok_split_parse(t, j));
    } else if (json_is(key, "pattern")) {
        f->has_pattern = true;
        return tok_regex_parse(j, TOK_RUBY, &f->literal, &f->re);
    } else if (json_is(key, "add_prefix_space")) {
        f->prefix_space = json_bool(j);
        f->prefix_given = true;
    } else if (json_is(key, "split")) {
        f->split = json_bool(j);
        f->split_given = true;
    } else if (json_is(key, "length")) {
        f->length = json_int(j, 1, INT32_MAX);
    } else if (json_is(key, "trim_offsets") || json_is(key, "str_rep")) {
        json_skip(j); /* offsets are not given out; str_rep repeats `replacement` */
    } else {
        json_fail(j, "pre_tokenizer: unknown key \"%.*s\"", (int)(key.n < 40 ? key.n : 40), key.s);
    }
    return WEFT_OK;
}

static weft_status bad(const json *j, const char *what) {
    return weft_fail(WEFT_BAD_FILE, "%s: pre_tokenizer: %s", j->name, what);
}

static weft_status one_char(const json *j, json_str s, uint32_t *cp) {
    return s.n && utf8_next(s.s, s.s + s.n, cp) == (int)s.n ? WEFT_OK
                                                            : bad(j, "one character is expected");
}

static weft_status make_bytelevel(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    (void)t;
    op->kind = TOK_SPLIT_BYTES;
    op->prefix_space = f->prefix_given ? f->prefix_space : true;
    if (!f->use_regex)
        return WEFT_OK;
    return tok_regex_open(j->name, (json_str){GPT2_PATTERN, strlen(GPT2_PATTERN)}, TOK_RUST,
                          &op->re);
}

static weft_status parse_behavior(const json *j, json_str name, tok_behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    if (!name.s)
        return WEFT_OK;
    for (int i = 0; i < 5; i++)
        if (json_is(name, names[i])) {
            *out = (tok_behavior)i;
            return WEFT_OK;
        }
    return weft_fail(WEFT_UNSUPPORTED, "%s: pre_tokenizer behavior \"%.*s\" is not supported",
                     j->name, (int)(name.n < 40 ? name.n : 40), name.s);
}

static weft_status make_split(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    (void)t;
    if (!f->has_pattern || (!f->re && !f->literal.n))
        return bad(j, "Split without a pattern");
    if (!f->behavior.s)
        return bad(j, "Split without a behavior");
    op->kind = TOK_SPLIT_REGEX;
    op->invert = f->invert;
    op->re = f->re;
    f->re = NULL;
    if (op->re)
        return WEFT_OK;
    buf quoted; /* a string is an expression that matches itself */
    buf_init(&quoted, 4 * TOK_MAX_PIECE_BYTES);
    for (size_t i = 0; i < f->literal.n; i++) {
        unsigned char c = (unsigned char)f->literal.s[i];
        if (c < 0x80)
            buf_printf(&quoted, "\\x{%x}", c);
        else
            buf_putc(&quoted, (char)c);
    }
    weft_status s = quoted.failed ? bad(j, "pattern is too long")
                                  : tok_regex_open(j->name, (json_str){quoted.data, quoted.len},
                                                   TOK_RUST, &op->re);
    buf_fini(&quoted);
    return s;
}

static weft_status make_metaspace(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    static const char *const schemes[] = {"always", "first", "never"};
    op->kind = TOK_SPLIT_METASPACE;
    op->split = f->split_given ? f->split : true;
    op->is_delimiter = is_char;
    WEFT_TRY(one_char(j, f->replacement, &op->arg));
    op->mark = (json_str){arena_copy(&t->arena, f->replacement.s, f->replacement.n),
                          f->replacement.n};
    op->prepend = f->prefix_given && !f->prefix_space ? TOK_PREPEND_NEVER : TOK_PREPEND_ALWAYS;
    if (!f->scheme.s)
        return WEFT_OK;
    for (int i = 0; i < 3; i++)
        if (json_is(f->scheme, schemes[i])) {
            if (op->prepend == TOK_PREPEND_NEVER && i != TOK_PREPEND_NEVER)
                return bad(j, "add_prefix_space contradicts prepend_scheme");
            op->prepend = (tok_prepend)i;
            return WEFT_OK;
        }
    return bad(j, "prepend_scheme is not always, first or never");
}

static weft_status make_digits(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    (void)t;
    (void)j;
    op->is_delimiter = is_numeric;
    op->behavior = f->individual ? TOK_ISOLATED : TOK_CONTIGUOUS;
    return WEFT_OK;
}

static weft_status make_punctuation(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    (void)t;
    (void)j;
    (void)f;
    op->is_delimiter = is_punctuation;
    return WEFT_OK;
}

static weft_status make_whitespace(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    static const char words[] = "\\w+|[^\\w\\s]+";
    (void)t;
    (void)f;
    op->kind = TOK_SPLIT_REGEX;
    op->behavior = TOK_REMOVED;
    op->invert = true;
    return tok_regex_open(j->name, (json_str){words, sizeof words - 1}, TOK_RUST, &op->re);
}

static weft_status make_whitespace_split(tokenizer *t, const json *j, split_fields *f,
                                         tok_split *op) {
    (void)t;
    (void)j;
    (void)f;
    op->is_delimiter = is_white;
    op->behavior = TOK_REMOVED;
    return WEFT_OK;
}

static weft_status make_char(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    (void)t;
    op->is_delimiter = is_char;
    op->behavior = TOK_REMOVED;
    return one_char(j, f->delimiter, &op->arg);
}

/* White space goes, every punctuation character stands alone: two rows in one. */
static weft_status make_bert(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    WEFT_TRY(make_whitespace_split(t, j, f, op));
    if (t->nsplit + 1 == TOK_MAX_ROWS)
        return bad(j, "too many rows");
    t->split[t->nsplit++] = *op;
    *op = (tok_split){.kind = TOK_SPLIT_CHARS, .is_delimiter = is_punctuation};
    return WEFT_OK;
}

static weft_status make_fixed(tokenizer *t, const json *j, split_fields *f, tok_split *op) {
    (void)t;
    (void)j;
    op->kind = TOK_SPLIT_FIXED;
    op->length = f->length ? (uint32_t)f->length : 5; /* the library's default */
    return WEFT_OK;
}

static const struct {
    const char *type;
    weft_status (*make)(tokenizer *t, const json *j, split_fields *f, tok_split *op);
} split_rows[] = {{"ByteLevel", make_bytelevel},
                  {"Split", make_split},
                  {"Metaspace", make_metaspace},
                  {"Digits", make_digits},
                  {"Punctuation", make_punctuation},
                  {"Whitespace", make_whitespace},
                  {"WhitespaceSplit", make_whitespace_split},
                  {"CharDelimiterSplit", make_char},
                  {"BertPreTokenizer", make_bert},
                  {"FixedLength", make_fixed}};

static weft_status split_add(tokenizer *t, json *j, split_fields *f) {
    size_t row = 0, rows = sizeof split_rows / sizeof *split_rows;
    while (row < rows && !json_is(f->type, split_rows[row].type))
        row++;
    if (row == rows)
        return weft_fail(WEFT_UNSUPPORTED, "%s: pre_tokenizer \"%.*s\" is not supported", j->name,
                         (int)(f->type.n < 40 ? f->type.n : 40), f->type.s ? f->type.s : "");
    tok_split op = {.kind = TOK_SPLIT_CHARS};
    WEFT_TRY(parse_behavior(j, f->behavior, &op.behavior));
    WEFT_TRY(split_rows[row].make(t, j, f, &op));
    if (t->nsplit == TOK_MAX_ROWS) {
        tok_regex_close(op.re);
        return bad(j, "too many rows");
    }
    t->split[t->nsplit++] = op;
    return WEFT_OK;
}

weft_status tok_split_parse(tokenizer *t, json *j) {
    if (json_peek(j) == JSON_NULL) {
        json_null(j);
        return WEFT_OK;
    }
    split_fields f = {.use_regex = true};
    weft_status s = WEFT_OK;
    json_str key;
    json_object(j);
    while (s == WEFT_OK && json_key(j, &key))
        s = read_field(t, j, key, &f);
    if (s == WEFT_OK && json_failed(j))
        s = json_done(j);
    if (s == WEFT_OK && !json_is(f.type, "Sequence"))
        s = split_add(t, j, &f);
    tok_regex_close(f.re);
    return s;
}

/* {"String": s} or {"Regex": r}. */
weft_status tok_regex_parse(json *j, tok_dialect dialect, json_str *literal, tok_regex **re) {
    json_str key;
    json_object(j);
    while (json_key(j, &key)) {
        if (json_is(key, "String")) {
            *literal = json_string(j);
        } else if (json_is(key, "Regex") && !*re) {
            json_str text = json_string(j);
            if (!json_failed(j))
                WEFT_TRY(tok_regex_open(j->name, text, dialect, re));
        } else {
            json_fail(j, "pattern: unknown key \"%.*s\"", (int)(key.n < 40 ? key.n : 40), key.s);
        }
    }
    return WEFT_OK;
}

weft_status tok_split_bytelevel(tokenizer *t, const char *key, bool prefix_space, bool use_regex) {
    tok_split op = {.kind = TOK_SPLIT_BYTES, .prefix_space = prefix_space};
    if (use_regex)
        WEFT_TRY(
            tok_regex_open(key, (json_str){GPT2_PATTERN, strlen(GPT2_PATTERN)}, TOK_RUST, &op.re));
    t->split[t->nsplit++] = op;
    return WEFT_OK;
}

weft_status tok_split_pattern(tokenizer *t, const char *key, json_str pattern,
                              tok_dialect dialect) {
    tok_split op = {.kind = TOK_SPLIT_REGEX, .behavior = TOK_ISOLATED};
    WEFT_TRY(tok_regex_open(key, pattern, dialect, &op.re));
    t->split[t->nsplit++] = op;
    return WEFT_OK;
}
