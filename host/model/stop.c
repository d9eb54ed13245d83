/* SPDX-License-Identifier: Apache-2.0
 * Stop strings (Knuth, Morris, Pratt, "Fast pattern matching in strings", 1977). */
#include "host/model/stop.h"
#include "host/base/err.h"
#include "host/base/utf8.h"
#include <string.h>

static int advance(const stop_word *w, int matched, char c) {
    while (matched > 0 && (matched == w->n || w->s[matched] != c))
        matched = w->border[matched - 1];
    return matched + (w->s[matched] == c);
}

static weft_status check(const char *s, int index) {
    size_t n = s ? strlen(s) : 0;
    if (n == 0)
        return weft_fail(WEFT_USAGE, "stop string %d: is empty", index + 1);
    if (n > STOP_BYTES)
        return weft_fail(WEFT_USAGE, "stop string %d: has %zu bytes (at most %d)", index + 1, n,
                         STOP_BYTES);
    if (utf8_invalid_at(s, n) != n)
        return weft_fail(WEFT_USAGE, "stop string %d: is not UTF-8", index + 1);
    return WEFT_OK;
}

weft_status stop_init(stop_match *m, const char *const *words, int n) {
    *m = (stop_match){0};
    if (n < 0 || n > STOP_MAX)
        return weft_fail(WEFT_USAGE, "stop strings: %d given (at most %d)", n, STOP_MAX);
    for (int i = 0; i < n; i++)
        WEFT_TRY(check(words[i], i));
    for (int i = 0; i < n; i++) {
        stop_word *w = &m->word[m->n++];
        w->s = words[i];
        w->n = (int)strlen(words[i]);
        w->border = ARENA_NEW(&m->mem, int, w->n);
        for (int k = 1; k < w->n; k++)
            w->border[k] = advance(w, w->border[k - 1], w->s[k]);
    }
    return WEFT_OK;
}

void stop_fini(stop_match *m) {
    arena_fini(&m->mem);
    m->n = 0;
}

int stop_feed(stop_match *m, char c) {
    int longest = 0;
    for (int i = 0; i < m->n; i++) {
        stop_word *w = &m->word[i];
        w->matched = advance(w, w->matched, c);
        if (w->matched == w->n && w->n > longest)
            longest = w->n;
    }
    return longest;
}

int stop_partial(const stop_match *m) {
    int most = 0;
    for (int i = 0; i < m->n; i++)
        if (m->word[i].matched > most)
            most = m->word[i].matched;
    return most;
}
