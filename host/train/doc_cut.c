/* SPDX-License-Identifier: Apache-2.0
 * Long texts in pieces, so that threads share them. A cut is at the start of a line, where the
 * tokenizer is seen to cut as well: what is around it gives the same ids whole and in two. That
 * holds of tokenizers that take a text word by word; one that does not is never seen to, and its
 * texts stay whole. */
#include "host/model/tokenizer/tok.h"
#include "host/train/doc.h"

enum { AROUND = 256, LONGEST_AROUND = 4096, TRIES = 16 };

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

size_t doc_line_cut(const char *s, size_t n, size_t from) {
    for (size_t at = from < 2 ? 2 : from; at < n; at++) {
        const char *end = memchr(s + at - 1, '\n', n - at);
        if (!end)
            return n;
        at = (size_t)(end - s) + 1;
        if (s[at - 2] > ' ' && s[at - 2] < 127 && is_letter(s[at]))
            return at;
    }
    return n;
}

/* Whole lines of at least AROUND bytes before and behind the cut. */
static bool find_window(const char *s, size_t n, size_t at, size_t *begin, size_t *end) {
    size_t least = at > LONGEST_AROUND ? at - LONGEST_AROUND : 0;
    size_t most = n - at > LONGEST_AROUND ? at + LONGEST_AROUND : n;
    size_t b = at > AROUND ? at - AROUND : 0, e = n - at > AROUND ? at + AROUND : n;
    while (b > least && s[b - 1] != '\n')
        b--;
    while (e < most && s[e - 1] != '\n')
        e++;
    *begin = b;
    *end = e;
    return (b == 0 || s[b - 1] == '\n') && (e == n || s[e - 1] == '\n');
}

static bool cuts_here(const tokenizer *t, const char *s, size_t n, size_t at) {
    size_t begin, end;
    if (!find_window(s, n, at, &begin, &end))
        return false;
    tok_ids whole = {0}, two = {0};
    bool same = tokenizer_encode(t, s + begin, end - begin, 0, &whole) == WEFT_OK &&
                tokenizer_encode(t, s + begin, at - begin, 0, &two) == WEFT_OK &&
                tokenizer_encode(t, s + at, end - at, 0, &two) == WEFT_OK && whole.n == two.n &&
                memcmp(whole.v, two.v, two.n * sizeof *two.v) == 0;
    tok_ids_fini(&whole);
    tok_ids_fini(&two);
    err_clear(); /* text that cannot be encoded fails where it is encoded in full */
    return same;
}

size_t doc_cut(const tokenizer *t, const char *s, size_t n, size_t from) {
    if (t->nsuffix) /* what is added behind a text would be added to each piece */
        return n;
    for (int i = 0; i < TRIES && from < n; i++) {
        size_t at = doc_line_cut(s, n, from);
        if (at < n && cuts_here(t, s, n, at))
            return at;
        from = at + 1;
    }
    return n;
}
