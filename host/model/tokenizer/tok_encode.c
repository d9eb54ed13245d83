/* SPDX-License-Identifier: Apache-2.0
 * Text to ids: added tokens are found, what is between them is normalised, split and given to the
 * model. */
#include "host/model/tokenizer/tok.h"
#include <string.h>

typedef struct {
    const tokenizer *t;
    unsigned flags;
    tok_match *match;
    tok_bpe *bpe;
    tok_pieces pieces[2]; /* before and behind a split row */
    buf normal;
    tok_ids *out;
} encoder;

/* ---- added tokens in a text ---- */

typedef struct {
    const encoder *e;
    const tok_set *set;
    const char *s;
    size_t n, at, done;   /* searched up to `at`, given out up to `done` */
    const tok_added *hit; /* found, to be given out behind the text in front of it */
    size_t hit_begin, hit_end;
} walker;

static bool word_before(const char *s, size_t at) {
    if (at == 0)
        return false;
    const char *p = s + at - 1;
    while (p > s && (*p & 0xc0) == 0x80)
        p--;
    return tok_is_word(tok_utf8_get(&p));
}

static bool word_behind(const char *s, size_t n, size_t at) {
    const char *p = s + at;
    return at < n && tok_is_word(tok_utf8_get(&p));
}

static bool wanted(const walker *w, const tok_added *x, size_t begin, size_t end) {
    unsigned flags = w->e->flags;
    bool plain = flags & TOK_PLAIN || (w->e->t->added_need_special && !(flags & TOK_SPECIAL));
    if (x->special && plain)
        return false;
    return !x->single_word || (!word_before(w->s, begin) && !word_behind(w->s, w->n, end));
}

static size_t spaces_before(const char *s, size_t at, size_t least) {
    while (at > least) {
        size_t k = at - 1;
        while (k > least && (s[k] & 0xc0) == 0x80)
            k--;
        const char *p = s + k;
        if (!tok_is_space(tok_utf8_get(&p)))
            break;
        at = k;
    }
    return at;
}

static size_t spaces_behind(const char *s, size_t n, size_t at) {
    while (at < n) {
        const char *p = s + at;
        if (!tok_is_space(tok_utf8_get(&p)))
            break;
        at = (size_t)(p - s);
    }
    return at;
}

/* Next added token at or behind w->at; its begin, or n. */
static size_t find_added(walker *w) {
    const uint32_t *first = w->set->first;
    for (size_t i = w->at; i < w->n; i++) {
        unsigned char c = (unsigned char)w->s[i];
        if (first[c] == first[c + 1])
            continue;
        int64_t k = tok_set_longest(w->set, w->s + i, w->n - i);
        if (k < 0)
            continue;
        const tok_word *word = &w->set->word[k];
        size_t end = i + word->s.n;
        const tok_added *x = &w->e->t->added[word->id];
        w->at = end;
        size_t begin = x->lstrip ? spaces_before(w->s, i, w->done) : i;
        size_t last = x->rstrip ? spaces_behind(w->s, w->n, end) : end;
        if (x->lstrip && begin < w->done)
            begin = w->done;
        if (begin < last && wanted(w, x, i, end)) {
            w->hit = x;
            w->hit_end = last;
            return begin;
        }
        i = end - 1; /* not that one: go on behind it */
    }
    w->at = w->n;
    return w->n;
}

/* Next stretch: ordinary text (id -1) or an added token. A token that takes the spaces behind it
 * does not hide one that is made of these spaces: both are given, as their library does. */
static bool walk(walker *w, size_t *begin, size_t *end, int32_t *id) {
    *id = -1;
    if (!w->hit && w->at < w->n)
        w->hit_begin = w->set->n ? find_added(w) : (w->at = w->n);
    *begin = w->done;
    *end = w->hit ? w->hit_begin : w->n;
    if (*end > w->done) {
        w->done = *end;
        return true;
    }
    if (!w->hit)
        return false;
    *id = w->hit->id;
    w->done = w->hit_end;
    w->hit = NULL;
    return true;
}

/* ---- text between them ---- */

static weft_status encode_word(encoder *e, const char *s, size_t n) {
    return e->t->model == TOK_MODEL_UNIGRAM ? tok_unigram_word(e->t, s, n, e->out)
                                            : tok_bpe_word(e->bpe, s, n, e->out);
}

static weft_status encode_normal(encoder *e, bool first, const char *s, size_t n) {
    const tokenizer *t = e->t;
    if (!t->nsplit)
        return n ? encode_word(e, s, n) : WEFT_OK;
    tok_pieces *in = &e->pieces[0], *out = &e->pieces[1];
    buf_clear(&in->text);
    in->n = 0;
    buf_add(&in->text, s, n);
    tok_pieces_add(in, 0, n);
    for (int i = 0; i < t->nsplit; i++) {
        buf_clear(&out->text);
        out->n = 0;
        WEFT_TRY(tok_split_apply(&t->split[i], e->match, first, in, out));
        tok_pieces *swap = in;
        in = out;
        out = swap;
    }
    for (size_t i = 0; i < in->n; i++)
        WEFT_TRY(encode_word(e, in->text.data + in->span[i].off, in->span[i].len));
    return WEFT_OK;
}

static weft_status encode_text(encoder *e, bool first, const char *s, size_t n) {
    const tokenizer *t = e->t;
    bool moved = false;
    buf_clear(&e->normal);
    if (t->spm)
        WEFT_TRY(tok_spm_normalize(t, first, s, n, &e->normal));
    else if (t->nnorm)
        WEFT_TRY(tok_norm_apply(t, e->match, s, n, &e->normal, &moved));
    if (e->normal.failed)
        return weft_fail(WEFT_BAD_FILE, "text: the normal form is larger than 2 GiB");
    if (t->spm || t->nnorm) {
        s = e->normal.data;
        n = e->normal.len;
    }
    walker w = {.e = e, .set = &t->normalized, .s = s, .n = n};
    size_t begin, end;
    int32_t id;
    while (walk(&w, &begin, &end, &id)) {
        if (id >= 0)
            tok_ids_add(e->out, id);
        else
            WEFT_TRY(encode_normal(e, first && !moved && begin == 0, s + begin, end - begin));
    }
    return WEFT_OK;
}

static weft_status encode_all(encoder *e, const char *s, size_t n) {
    walker w = {.e = e, .set = &e->t->raw, .s = s, .n = n};
    size_t begin, end;
    int32_t id;
    while (walk(&w, &begin, &end, &id)) {
        if (id >= 0)
            tok_ids_add(e->out, id);
        else
            WEFT_TRY(encode_text(e, begin == 0, s + begin, end - begin));
    }
    return WEFT_OK;
}

static void add_all(tok_ids *out, const int32_t *ids, int n) {
    for (int i = 0; i < n; i++)
        tok_ids_add(out, ids[i]);
}

weft_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags,
                             tok_ids *out) {
    if (n >= TOK_MAX_TEXT / 4)
        return weft_fail(WEFT_BAD_FILE, "text: %zu bytes (less than %zu)", n, TOK_MAX_TEXT / 4);
    size_t bad = utf8_invalid_at(text, n), start = out->n;
    if (bad != n)
        return weft_fail(WEFT_BAD_FILE, "text: byte %zu: invalid UTF-8", bad);
    encoder e = {.t = t, .flags = flags, .out = out, .match = tok_match_open()};
    e.bpe = t->model == TOK_MODEL_BPE ? tok_bpe_open(t, n) : NULL;
    tok_pieces_init(&e.pieces[0]);
    tok_pieces_init(&e.pieces[1]);
    buf_init(&e.normal, TOK_MAX_TEXT);
    if (flags & TOK_SPECIAL)
        add_all(out, t->prefix, t->nprefix);
    weft_status st = encode_all(&e, text, n);
    if (flags & TOK_SPECIAL)
        add_all(out, t->suffix, t->nsuffix);
    buf_fini(&e.normal);
    tok_pieces_fini(&e.pieces[0]);
    tok_pieces_fini(&e.pieces[1]);
    if (e.bpe)
        tok_bpe_close(e.bpe);
    tok_match_close(e.match);
    out->n = st == WEFT_OK ? out->n : start;
    return st;
}
