/* SPDX-License-Identifier: Apache-2.0
 * DRY's breakers as tokens. A text is rarely a token: it may lie inside of one, or begin at the end
 * of one and go on in others. Both are found by looking at every token of the vocabulary once. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include "host/model/sampling.h"
#include <string.h>

typedef struct {
    const char *s;
    size_t n;
    tok_ids rest[SAMPLING_BREAKER_BYTES]; /* tokens of s + i, once known */
    bool known[SAMPLING_BREAKER_BYTES];
} breaker;

typedef struct {
    const tokenizer *t;
    int64_t vocab;
    int32_t *words, n;
    buf text; /* of the token at hand */
} breaker_list;

int64_t sampling_breaker_words(int64_t vocab) {
    return (vocab + 31) / 32 + SAMPLING_BREAKER_WORDS;
}

static bool listed(const int32_t *list, int32_t n, const int32_t *ids, int32_t nids) {
    for (int32_t at = 0; at < n; at += 1 + list[at])
        if (list[at] == nids && memcmp(list + at + 1, ids, sizeof *ids * (size_t)nids) == 0)
            return true;
    return false;
}

weft_status sampling_breaker_add(int64_t vocab, const int32_t *ids, int32_t nids, int32_t *words,
                                 int32_t *n) {
    int32_t *list = words + (vocab + 31) / 32;
    if (nids == 1) {
        uint32_t bit = 1u << (ids[0] & 31), word = (uint32_t)words[ids[0] / 32] | bit;
        memcpy(&words[ids[0] / 32], &word, sizeof word);
        return WEFT_OK;
    }
    if (listed(list, *n, ids, nids))
        return WEFT_OK;
    if (nids + 1 > SAMPLING_BREAKER_WORDS - *n)
        return weft_fail(WEFT_USAGE,
                         "dry breakers: they are too many sequences of tokens (%d words); give "
                         "fewer or shorter ones",
                         SAMPLING_BREAKER_WORDS);
    list[*n] = nids;
    memcpy(list + *n + 1, ids, sizeof *ids * (size_t)nids);
    *n += nids + 1;
    return WEFT_OK;
}

/* The token's text; SentencePiece spells a space U+2581. */
static bool token_text(breaker_list *l, int32_t id) {
    size_t n;
    const char *p = tokenizer_piece(l->t, id, &n);
    buf_clear(&l->text);
    for (size_t i = 0; p && i < n; i++) {
        bool space = n - i >= 3 && memcmp(p + i, "\xe2\x96\x81", 3) == 0;
        buf_putc(&l->text, space ? ' ' : p[i]);
        i += space ? 2 : 0;
    }
    return p && l->text.len > 0;
}

static weft_status add_overlap(breaker_list *l, breaker *b, int32_t id, size_t inside) {
    int32_t ids[SAMPLING_BREAKER_TOKENS] = {id}, n = 1;
    if (!b->known[inside])
        WEFT_TRY(tokenizer_encode(l->t, b->s + inside, b->n - inside, TOK_PLAIN, &b->rest[inside]));
    b->known[inside] = true;
    for (size_t i = 0; i < b->rest[inside].n && n < SAMPLING_BREAKER_TOKENS; i++)
        ids[n++] = b->rest[inside].v[i];
    return sampling_breaker_add(l->vocab, ids, n, l->words, &l->n);
}

/* The rest of a text that is cut in a character cannot be tokenized. */
static bool utf8_inside(char c) {
    return ((unsigned char)c & 0xc0) == 0x80;
}

static weft_status add_token(breaker_list *l, breaker *b, int32_t id) {
    const char *text = l->text.data;
    size_t n = l->text.len;
    if (memmem(text, n, b->s, b->n))
        return sampling_breaker_add(l->vocab, &id, 1, l->words, &l->n);
    for (size_t inside = b->n - 1; inside > 0; inside--)
        if (inside <= n && !utf8_inside(b->s[inside]) &&
            memcmp(text + n - inside, b->s, inside) == 0)
            WEFT_TRY(add_overlap(l, b, id, inside));
    return WEFT_OK;
}

static weft_status check_text(const char *s, int i) {
    size_t n = s ? strlen(s) : 0;
    if (n == 0)
        return weft_fail(WEFT_USAGE, "dry breaker %d: is empty", i + 1);
    if (n > SAMPLING_BREAKER_BYTES)
        return weft_fail(WEFT_USAGE, "dry breaker %d: has %zu bytes (at most %d)", i + 1, n,
                         SAMPLING_BREAKER_BYTES);
    if (utf8_invalid_at(s, n) != n)
        return weft_fail(WEFT_USAGE, "dry breaker %d: is not UTF-8", i + 1);
    return WEFT_OK;
}

static weft_status add_all(breaker_list *l, breaker *b, int n) {
    int64_t ids = tokenizer_vocab_size(l->t);
    for (int32_t id = 0; id < ids && id < l->vocab; id++) {
        if (!token_text(l, id))
            continue;
        for (int i = 0; i < n; i++)
            WEFT_TRY(add_token(l, &b[i], id));
    }
    return WEFT_OK;
}

weft_status sampling_breakers(const tokenizer *t, int64_t vocab, const char *const *text, int ntext,
                              int32_t *words, int32_t *n) {
    if (ntext < 0 || ntext > WEFT_MAX_BREAKERS)
        return weft_fail(WEFT_USAGE, "dry breakers: %d given (at most %d)", ntext,
                         WEFT_MAX_BREAKERS);
    for (int i = 0; i < ntext; i++)
        WEFT_TRY(check_text(text[i], i));
    breaker_list l = {.t = t, .vocab = vocab, .words = words};
    breaker *b = mem_alloc(sizeof *b * (size_t)(ntext + 1));
    for (int i = 0; i < ntext; i++) {
        b[i].s = text[i];
        b[i].n = strlen(text[i]);
    }
    buf_init(&l.text, SIZE_MAX);
    weft_status s = add_all(&l, b, ntext);
    for (int i = 0; i < ntext; i++)
        for (int k = 0; k < SAMPLING_BREAKER_BYTES; k++)
            tok_ids_fini(&b[i].rest[k]);
    buf_fini(&l.text);
    mem_free(b);
    *n = l.n;
    return s;
}
