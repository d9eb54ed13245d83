/* SPDX-License-Identifier: Apache-2.0
 * Ids to text: the decoder's rows as filters that pass on a token as soon as it can no longer
 * change. Decoding a list and decoding one id at a time are the same code. */
#include "host/model/tokenizer/tok.h"
#include <string.h>

typedef struct tok_stage {
    buf held;      /* bytes of a character, or a token that waits for its end */
    buf work;      /* a token being rewritten */
    uint32_t seen; /* something came before; Strip: characters stripped */
    bool flag;     /* SentencePiece: a leading space was dropped; Strip: past the start */
} tok_stage;

typedef struct {
    const tokenizer *t;
    tok_stage *stage;
    tok_match *match;
    buf *out;
} chain;

static weft_status send(const chain *c, int i, int32_t id, const char *s, size_t n);

static weft_status pass(const chain *c, int i, const char *s, size_t n) {
    return send(c, i + 1, -1, s, n);
}

/* Gives out whole characters, U+FFFD for each longest run of bytes that cannot become one. With
 * each_byte, as SentencePiece does it, every bad byte is one U+FFFD. */
static weft_status put_text(const chain *c, int i, bool each_byte, bool last) {
    buf *held = &c->stage[i].held;
    size_t at = 0, good = 0;
    while (at < held->len) {
        int k = tok_utf8_scan(held->data + at, held->len - at);
        if (k > 0) {
            at += (size_t)k;
            continue;
        }
        if (k == 0 && !last)
            break;
        WEFT_TRY(pass(c, i, held->data + good, at - good));
        WEFT_TRY(pass(c, i, TOK_REPLACEMENT, 3));
        at += each_byte ? 1 : k ? (size_t)-k : held->len - at;
        good = at;
    }
    if (at > good)
        WEFT_TRY(pass(c, i, held->data + good, at - good));
    memmove(held->data, held->data + at, held->len - at);
    held->len -= at;
    return WEFT_OK;
}

/* "<0x41>" -> 0x41, else -1. */
static int byte_token(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        int c = (unsigned char)s[i];
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 87
                                                     : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* ---- rows: `s` is a token, or a fragment of the one token where `fused` ---- */

static weft_status on_bytelevel(const chain *c, int i, int32_t id, const char *s, size_t n) {
    buf *held = &c->stage[i].held;
    (void)id;
    if (c->t->dec[i].fused) {
        buf_add(held, s, n);
        return WEFT_OK;
    }
    if (!tok_bytes_of(s, n, held))
        buf_add(held, s, n);
    return put_text(c, i, false, false);
}

static weft_status end_bytelevel(const chain *c, int i) {
    buf *held = &c->stage[i].held;
    if (c->t->dec[i].fused) {
        buf bytes;
        buf_init(&bytes, held->max);
        if (tok_bytes_of(held->data, held->len, &bytes)) {
            buf_clear(held);
            buf_add(held, bytes.data, bytes.len);
        }
        buf_fini(&bytes);
    }
    return put_text(c, i, false, true);
}

static weft_status on_raw(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    buf_add(&c->stage[i].held, s, n);
    return put_text(c, i, false, false);
}

static weft_status end_raw(const chain *c, int i) {
    return put_text(c, i, false, true);
}

static weft_status put_unmarked(const chain *c, int i, json_str mark, const char *s, size_t n) {
    for (const char *end = s + n; s < end;) {
        const char *hit = memmem(s, (size_t)(end - s), mark.s, mark.n);
        WEFT_TRY(pass(c, i, s, hit ? (size_t)(hit - s) : (size_t)(end - s)));
        if (!hit)
            break;
        WEFT_TRY(pass(c, i, " ", 1));
        s = hit + mark.n;
    }
    return WEFT_OK;
}

/* SentencePiece's own rule for the space that its normaliser puts in front of a text. */
static weft_status on_sentencepiece(const chain *c, int i, int32_t id, const char *s, size_t n) {
    static const json_str mark = {TOK_SPACE, 3};
    const tokenizer *t = c->t;
    tok_stage *g = &c->stage[i];
    int type = t->vocab.type[id];
    if (type == TOK_BYTE) {
        buf_putc(&g->held, (char)byte_token(s, n));
        g->seen = 1;
        return put_text(c, i, true, false);
    }
    WEFT_TRY(put_text(c, i, true, true));
    g->seen |= g->flag;
    g->flag = false;
    bool leading = !g->seen;
    if (type == TOK_CONTROL)
        return WEFT_OK;
    if (type == TOK_UNKNOWN) {
        s = t->sp.unk_surface.s;
        n = t->sp.unk_surface.n;
        g->seen |= n > 0;
        return pass(c, i, s, n);
    }
    if (leading && (t->sp.dummy_prefix || t->sp.remove_extra) && n >= 3 && !memcmp(s, mark.s, 3)) {
        s += 3;
        n -= 3;
        g->flag = !t->sp.remove_extra;
    }
    g->seen |= n > 0;
    return put_unmarked(c, i, mark, s, n);
}

static weft_status end_sentencepiece(const chain *c, int i) {
    return put_text(c, i, true, true);
}

/* A run of byte tokens is text if all of it is valid, else one U+FFFD a byte: only the end of the
 * run tells. */
static weft_status end_run(const chain *c, int i) {
    buf *held = &c->stage[i].held;
    if (!held->len)
        return WEFT_OK;
    bool valid = utf8_invalid_at(held->data, held->len) == held->len;
    weft_status st = valid ? pass(c, i, held->data, held->len) : WEFT_OK;
    for (size_t k = 0; !valid && st == WEFT_OK && k < held->len; k++)
        st = pass(c, i, TOK_REPLACEMENT, 3);
    buf_clear(held);
    return st;
}

static weft_status on_fallback(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    buf *held = &c->stage[i].held;
    int byte = c->t->dec[i].fused ? -1 : byte_token(s, n);
    if (byte >= 0) {
        buf_putc(held, (char)byte);
        return WEFT_OK;
    }
    WEFT_TRY(end_run(c, i));
    return pass(c, i, s, n);
}

static weft_status on_fuse(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    return pass(c, i, s, n);
}

static weft_status end_nothing(const chain *c, int i) {
    (void)c;
    (void)i;
    return WEFT_OK;
}

static weft_status replace_regex(const chain *c, int i, const char *s, size_t n, buf *text) {
    const tok_dec *op = &c->t->dec[i];
    size_t done = 0, from = 0, begin, end;
    bool found;
    while (from <= n) {
        WEFT_TRY(tok_regex_next(op->re, c->match, s, n, from, &begin, &end, &found));
        if (!found)
            break;
        buf_add(text, s + done, begin - done);
        buf_add(text, op->to.s, op->to.n);
        done = end;
        const char *p = s + end;
        from = end > begin ? end : end < n ? (tok_utf8_get(&p), (size_t)(p - s)) : n + 1;
    }
    buf_add(text, s + done, n - done);
    return WEFT_OK;
}

static void replace_string(const tok_dec *op, const char *s, size_t n, buf *text) {
    for (const char *hit; (hit = memmem(s, n, op->from.s, op->from.n));) {
        buf_add(text, s, (size_t)(hit - s));
        buf_add(text, op->to.s, op->to.n);
        n -= (size_t)(hit - s) + op->from.n;
        s = hit + op->from.n;
    }
    buf_add(text, s, n);
}

static weft_status replace(const chain *c, int i, const char *s, size_t n) {
    const tok_dec *op = &c->t->dec[i];
    buf *text = &c->stage[i].work;
    buf_clear(text);
    if (op->re)
        WEFT_TRY(replace_regex(c, i, s, n, text));
    else
        replace_string(op, s, n, text);
    return pass(c, i, text->data, text->len);
}

static bool one_char(json_str s) {
    uint32_t cp;
    return utf8_next(s.s, s.s + s.n, &cp) == (int)s.n;
}

static weft_status on_replace(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    const tok_dec *op = &c->t->dec[i];
    if (!op->fused || (!op->re && one_char(op->from)))
        return replace(c, i, s, n);
    buf_add(&c->stage[i].held, s, n);
    return WEFT_OK;
}

static weft_status end_replace(const chain *c, int i) {
    buf *held = &c->stage[i].held;
    if (!held->len)
        return WEFT_OK;
    weft_status st = replace(c, i, held->data, held->len);
    buf_clear(held);
    return st;
}

static bool has_prefix(const char *s, size_t n, json_str what) {
    return what.n && n >= what.n && !memcmp(s, what.s, what.n);
}

static weft_status strip_end(const chain *c, int i, const char *s, size_t n) {
    const tok_dec *op = &c->t->dec[i];
    for (uint32_t k = 0; k < op->stop && n >= op->from.n; k++) {
        if (!has_prefix(s + n - op->from.n, op->from.n, op->from))
            break;
        n -= op->from.n;
    }
    return pass(c, i, s, n);
}

static weft_status on_strip(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    const tok_dec *op = &c->t->dec[i];
    tok_stage *g = &c->stage[i];
    if (!op->fused) {
        g->seen = 0;
        g->flag = false;
    }
    for (; !g->flag && g->seen < op->start && has_prefix(s, n, op->from); g->seen++) {
        s += op->from.n;
        n -= op->from.n;
    }
    g->flag |= n > 0;
    if (!op->fused || !op->stop)
        return strip_end(c, i, s, n);
    buf_add(&g->held, s, n);
    return WEFT_OK;
}

static weft_status end_strip(const chain *c, int i) {
    buf *held = &c->stage[i].held;
    if (!held->len)
        return WEFT_OK;
    weft_status st = strip_end(c, i, held->data, held->len);
    buf_clear(held);
    return st;
}

static weft_status on_metaspace(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    const tok_dec *op = &c->t->dec[i];
    bool drop = op->flag && (op->fused || c->stage[i].seen == 0);
    buf *text = &c->stage[i].work;
    c->stage[i].seen = 1;
    buf_clear(text);
    for (const char *end = s + n; s < end;) {
        if (has_prefix(s, (size_t)(end - s), op->from)) {
            if (!drop)
                buf_putc(text, ' ');
            s += op->from.n;
        } else {
            buf_putc(text, *s++);
        }
    }
    return pass(c, i, text->data, text->len);
}

static void clean_up(buf *text) {
    static const char *const rows[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                          {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                          {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                          {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        size_t from = strlen(rows[r][0]), to = strlen(rows[r][1]), at = 0;
        for (char *hit; (hit = memmem(text->data + at, text->len - at, rows[r][0], from));) {
            at = (size_t)(hit - text->data);
            memmove(hit + to, hit + from, text->len - at - from);
            memcpy(hit, rows[r][1], to);
            text->len -= from - to;
            at += to;
        }
    }
}

static weft_status on_wordpiece(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    const tok_dec *op = &c->t->dec[i];
    buf *text = &c->stage[i].work;
    bool inner = c->stage[i].seen && has_prefix(s, n, op->from);
    buf_clear(text);
    if (c->stage[i].seen && !inner)
        buf_putc(text, ' ');
    c->stage[i].seen |= !op->fused;
    buf_add(text, inner ? s + op->from.n : s, inner ? n - op->from.n : n);
    if (op->flag)
        clean_up(text);
    return pass(c, i, text->data, text->len);
}

/* The suffix of a word becomes a space, but not behind the last one. */
static weft_status put_suffixed(const chain *c, int i, const char *space) {
    buf *held = &c->stage[i].held;
    json_str suffix = c->t->dec[i].from;
    const char *s = held->data, *end = s + held->len;
    while (s < end && suffix.n) {
        const char *hit = memmem(s, (size_t)(end - s), suffix.s, suffix.n);
        if (!hit)
            break;
        WEFT_TRY(pass(c, i, s, (size_t)(hit - s)));
        WEFT_TRY(pass(c, i, space, strlen(space)));
        s = hit + suffix.n;
    }
    WEFT_TRY(pass(c, i, s, (size_t)(end - s)));
    buf_clear(held);
    return WEFT_OK;
}

static weft_status on_bpe(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    if (!c->t->dec[i].fused)
        WEFT_TRY(put_suffixed(c, i, " "));
    buf_add(&c->stage[i].held, s, n);
    return WEFT_OK;
}

static weft_status end_bpe(const chain *c, int i) {
    return put_suffixed(c, i, "");
}

static weft_status on_join(const chain *c, int i, int32_t id, const char *s, size_t n) {
    (void)id;
    if (c->stage[i].seen)
        WEFT_TRY(pass(c, i, " ", 1));
    c->stage[i].seen = 1;
    return pass(c, i, s, n);
}

static const struct {
    weft_status (*on)(const chain *c, int i, int32_t id, const char *s, size_t n);
    weft_status (*end)(const chain *c, int i);
} rows[] = {[TOK_DEC_BYTELEVEL] = {on_bytelevel, end_bytelevel},
            [TOK_DEC_RAW] = {on_raw, end_raw},
            [TOK_DEC_SENTENCEPIECE] = {on_sentencepiece, end_sentencepiece},
            [TOK_DEC_BYTE_FALLBACK] = {on_fallback, end_run},
            [TOK_DEC_FUSE] = {on_fuse, end_nothing},
            [TOK_DEC_REPLACE] = {on_replace, end_replace},
            [TOK_DEC_STRIP] = {on_strip, end_strip},
            [TOK_DEC_METASPACE] = {on_metaspace, end_nothing},
            [TOK_DEC_WORDPIECE] = {on_wordpiece, end_nothing},
            [TOK_DEC_BPE] = {on_bpe, end_bpe},
            [TOK_DEC_JOIN] = {on_join, end_nothing}};

static weft_status send(const chain *c, int i, int32_t id, const char *s, size_t n) {
    if (i < c->t->ndec)
        return rows[c->t->dec[i].kind].on(c, i, id, s, n);
    buf_add(c->out, s, n);
    return WEFT_OK;
}

/* ---- the two ways in ---- */

static weft_status push(const chain *c, int32_t id, bool skip_special) {
    const tokenizer *t = c->t;
    if (id < 0 || id >= t->vocab.n || !t->vocab.piece[id].s)
        return weft_fail(WEFT_USAGE, "token id %d is not in the vocabulary (0 to %d)", id,
                         t->vocab.n - 1);
    if (skip_special && t->special[id])
        return WEFT_OK;
    return send(c, 0, id, t->vocab.piece[id].s, t->vocab.piece[id].n);
}

static weft_status flush(const chain *c) {
    weft_status st = WEFT_OK;
    for (int i = 0; i < c->t->ndec; i++) {
        if (st == WEFT_OK)
            st = rows[c->t->dec[i].kind].end(c, i);
        buf_clear(&c->stage[i].held);
        c->stage[i].seen = 0;
        c->stage[i].flag = false;
    }
    return st;
}

static bool needs_match(const tokenizer *t) {
    for (int i = 0; i < t->ndec; i++)
        if (t->dec[i].re)
            return true;
    return false;
}

/* Memory now, so that pushing tokens of usual length asks for none. */
static void buf_reserve(buf *b) {
    static const char zeros[256];
    buf_init(b, TOK_MAX_TEXT);
    buf_add(b, zeros, sizeof zeros);
    buf_clear(b);
}

void tok_stream_init(tok_stream *s, const tokenizer *t, bool skip_special) {
    *s = (tok_stream){.t = t, .skip_special = skip_special};
    s->stage = mem_alloc((size_t)(t->ndec + 1) * sizeof *s->stage);
    for (int i = 0; i < t->ndec; i++) {
        buf_reserve(&s->stage[i].held);
        buf_reserve(&s->stage[i].work);
    }
}

weft_status tok_stream_push(tok_stream *s, int32_t id, buf *out) {
    chain c = {s->t, s->stage, NULL, out};
    if (needs_match(s->t))
        c.match = tok_match_open();
    weft_status st = push(&c, id, s->skip_special);
    if (c.match)
        tok_match_close(c.match);
    return st;
}

weft_status tok_stream_flush(tok_stream *s, buf *out) {
    chain c = {s->t, s->stage, NULL, out};
    if (needs_match(s->t))
        c.match = tok_match_open();
    weft_status st = flush(&c);
    if (c.match)
        tok_match_close(c.match);
    return st;
}

void tok_stream_fini(tok_stream *s) {
    for (int i = 0; s->stage && i < s->t->ndec; i++) {
        buf_fini(&s->stage[i].held);
        buf_fini(&s->stage[i].work);
    }
    mem_free(s->stage);
    s->stage = NULL;
}

weft_status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                             buf *out) {
    tok_stream s;
    weft_status st = WEFT_OK;
    tok_stream_init(&s, t, skip_special);
    chain c = {t, s.stage, needs_match(t) ? tok_match_open() : NULL, out};
    for (size_t i = 0; i < n && st == WEFT_OK; i++)
        st = push(&c, ids[i], skip_special);
    if (st == WEFT_OK)
        st = flush(&c);
    if (st == WEFT_OK && out->failed)
        st = weft_fail(WEFT_BAD_FILE, "the decoded text is larger than %zu bytes", out->max);
    if (c.match)
        tok_match_close(c.match);
    tok_stream_fini(&s);
    return st;
}

/* ---- reading ---- */

typedef struct { /* the union of what decoders have */
    json_str type, content, replacement, prefix, suffix, scheme, literal;
    tok_regex *re;
    bool prefix_space, cleanup;
    int64_t start, stop;
} dec_fields;

static weft_status read_field(tokenizer *t, json *j, json_str key, dec_fields *f) {
    struct {
        const char *name;
        json_str *s;
        bool *b;
        int64_t *n;
    } fields[] = {{"type", &f->type, NULL, NULL},
                  {"content", &f->content, NULL, NULL},
                  {"replacement", &f->replacement, NULL, NULL},
                  {"prefix", &f->prefix, NULL, NULL},
                  {"suffix", &f->suffix, NULL, NULL},
                  {"prepend_scheme", &f->scheme, NULL, NULL},
                  {"add_prefix_space", NULL, &f->prefix_space, NULL},
                  {"cleanup", NULL, &f->cleanup, NULL},
                  {"start", NULL, NULL, &f->start},
                  {"stop", NULL, NULL, &f->stop}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (json_is(key, fields[i].name)) {
            if (fields[i].s)
                *fields[i].s = json_string(j);
            else if (fields[i].b)
                *fields[i].b = json_bool(j);
            else if (fields[i].n)
                *fields[i].n = json_int(j, 0, INT32_MAX);
            return WEFT_OK;
        }
    if (json_is(key, "decoders")) {
        json_array(j);
        while (json_item(j))
            WEFT_TRY(tok_dec_parse(t, j));
    } else if (json_is(key, "pattern")) {
        return tok_regex_parse(j, TOK_RUBY, &f->literal, &f->re);
    } else if (json_is(key, "trim_offsets") || json_is(key, "use_regex") ||
               json_is(key, "str_rep") || json_is(key, "split")) {
        json_skip(j); /* they say something about encoding only */
    } else {
        json_fail(j, "decoder: unknown key \"%.*s\"", (int)(key.n < 40 ? key.n : 40), key.s);
    }
    return WEFT_OK;
}

static const struct {
    const char *type;
    tok_dec_kind kind;
    bool needs_from;
} dec_rows[] = {
    {"ByteLevel", TOK_DEC_BYTELEVEL, false}, {"ByteFallback", TOK_DEC_BYTE_FALLBACK, false},
    {"Fuse", TOK_DEC_FUSE, false},           {"Replace", TOK_DEC_REPLACE, true},
    {"Strip", TOK_DEC_STRIP, true},          {"Metaspace", TOK_DEC_METASPACE, true},
    {"WordPiece", TOK_DEC_WORDPIECE, false}, {"BPEDecoder", TOK_DEC_BPE, false}};

static json_str keep(tokenizer *t, json_str s) {
    return (json_str){arena_copy(&t->arena, s.s ? s.s : "", s.n), s.n};
}

weft_status tok_dec_add(tokenizer *t, const char *name, tok_dec op) {
    if (t->ndec == TOK_MAX_ROWS) {
        tok_regex_close(op.re);
        return weft_fail(WEFT_BAD_FILE, "%s: decoder: more than %d rows", name, TOK_MAX_ROWS);
    }
    for (int i = 0; i < t->ndec; i++)
        op.fused |= t->dec[i].kind == TOK_DEC_FUSE || t->dec[i].kind == TOK_DEC_BYTELEVEL;
    t->dec[t->ndec++] = op;
    return WEFT_OK;
}

static weft_status dec_add(tokenizer *t, const json *j, dec_fields *f) {
    size_t row = 0, nrows = sizeof dec_rows / sizeof *dec_rows;
    while (row < nrows && !json_is(f->type, dec_rows[row].type))
        row++;
    if (row == nrows)
        return weft_fail(WEFT_UNSUPPORTED, "%s: decoder \"%.*s\" is not supported", j->name,
                         (int)(f->type.n < 40 ? f->type.n : 40), f->type.s ? f->type.s : "");
    tok_dec op = {.kind = dec_rows[row].kind,
                  .start = (uint32_t)f->start,
                  .stop = (uint32_t)f->stop,
                  .to = keep(t, f->content)};
    json_str from[] = {[TOK_DEC_REPLACE] = f->literal,
                       [TOK_DEC_STRIP] = f->content,
                       [TOK_DEC_METASPACE] = f->replacement,
                       [TOK_DEC_WORDPIECE] = f->prefix,
                       [TOK_DEC_BPE] = f->suffix,
                       [TOK_DEC_JOIN] = {NULL, 0}};
    op.from = keep(t, from[op.kind]);
    op.flag = op.kind == TOK_DEC_WORDPIECE ? f->cleanup
                                           : f->prefix_space && !json_is(f->scheme, "never");
    op.re = f->re;
    f->re = NULL;
    if (dec_rows[row].needs_from && !op.re && !op.from.n) {
        return weft_fail(WEFT_BAD_FILE, "%s: decoder %s lacks what to look for", j->name,
                         dec_rows[row].type);
    }
    return tok_dec_add(t, j->name, op);
}

weft_status tok_dec_parse(tokenizer *t, json *j) {
    if (json_peek(j) == JSON_NULL) {
        json_null(j);
        return WEFT_OK;
    }
    dec_fields f = {
        .prefix_space = true, .cleanup = true, .prefix = {"##", 2}, .suffix = {"</w>", 4}};
    weft_status s = WEFT_OK;
    json_str key;
    json_object(j);
    while (s == WEFT_OK && json_key(j, &key))
        s = read_field(t, j, key, &f);
    if (s == WEFT_OK && json_failed(j))
        s = json_done(j);
    if (s == WEFT_OK && !json_is(f.type, "Sequence"))
        s = dec_add(t, j, &f);
    tok_regex_close(f.re);
    return s;
}
