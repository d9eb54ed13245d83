/* SPDX-License-Identifier: Apache-2.0
 * Stop expressions on PCRE2's hard partial matching: it says "perhaps" wherever the text to come
 * could change the answer, so a match is never announced too early and its beginning never given
 * away. An expression starts where it last said "perhaps" and moves on after STOP_REGEX_WINDOW
 * characters; steps of one attempt are bounded. So the work is linear in the text. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "host/model/stop_regex.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/base/utf8.h"
#include <pcre2.h>
#include <string.h>

enum { STEPS = 100000, HEAP_KIB = 4096, TEXT_BYTES = 8192 };

typedef struct {
    pcre2_code *code;
    size_t from; /* no match begins before this byte of the text */
} expression;

struct stop_regex {
    expression e[STOP_REGEX_MAX];
    int n;
    pcre2_match_data *data;
    pcre2_match_context *context;
    char text[TEXT_BYTES]; /* the end of the stream */
    size_t len;
    int missing;  /* bytes of the character that is coming in */
    bool trimmed; /* the text does not begin where the stream does */
};

static weft_status compile(expression *e, const char *pattern, int index) {
    size_t n = pattern ? strlen(pattern) : 0, at;
    char why[128];
    int error;
    if (n == 0)
        return weft_fail(WEFT_USAGE, "stop regex %d: is empty", index + 1);
    if (n > STOP_REGEX_BYTES)
        return weft_fail(WEFT_USAGE, "stop regex %d: has %zu bytes (at most %d)", index + 1, n,
                         STOP_REGEX_BYTES);
    if (utf8_invalid_at(pattern, n) != n)
        return weft_fail(WEFT_USAGE, "stop regex %d: is not UTF-8", index + 1);
    e->code = pcre2_compile((PCRE2_SPTR)pattern, n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                            &error, &at, NULL);
    if (e->code)
        return WEFT_OK;
    pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
    return weft_fail(WEFT_USAGE, "stop regex %d: %s at byte %zu", index + 1, why, at);
}

weft_status stop_regex_open(const char *const *patterns, int n, stop_regex **out) {
    if (n < 0 || n > STOP_REGEX_MAX)
        return weft_fail(WEFT_USAGE, "stop regexes: %d given (at most %d)", n, STOP_REGEX_MAX);
    *out = NULL;
    if (n == 0)
        return WEFT_OK;
    stop_regex *r = mem_alloc(sizeof *r);
    weft_status s = WEFT_OK;
    for (; r->n < n && s == WEFT_OK; r->n++)
        s = compile(&r->e[r->n], patterns[r->n], r->n);
    r->data = pcre2_match_data_create(1, NULL);
    r->context = pcre2_match_context_create(NULL);
    if (s == WEFT_OK && (!r->data || !r->context))
        s = weft_fail(WEFT_NO_MEMORY, "stop regex: no memory");
    if (s != WEFT_OK) {
        stop_regex_close(r);
        return s;
    }
    pcre2_set_match_limit(r->context, STEPS);
    pcre2_set_heap_limit(r->context, HEAP_KIB);
    *out = r;
    return WEFT_OK;
}

void stop_regex_close(stop_regex *r) {
    if (!r)
        return;
    for (int i = 0; i < r->n; i++)
        pcre2_code_free(r->e[i].code);
    pcre2_match_data_free(r->data);
    pcre2_match_context_free(r->context);
    mem_free(r);
}

static bool begins_character(char c) {
    return ((unsigned char)c & 0xc0) != 0x80;
}

static size_t characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += begins_character(s[i]);
    return count;
}

static weft_status failed(const stop_regex *r, const expression *e, int code) {
    char why[128];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return weft_fail(WEFT_USAGE, "stop regex %d: %s (%d steps at one place); make it simpler",
                     (int)(e - r->e) + 1, why, STEPS);
}

/* Beginning of the match in the text: where it is, or may be; the text's end if there is none. */
static weft_status search(stop_regex *r, expression *e, uint32_t options, int *code) {
    const char *text = r->text;
    options |= PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK | (r->trimmed ? PCRE2_NOTBOL : 0);
    *code = pcre2_match(e->code, (PCRE2_SPTR)text, r->len, e->from, options, r->data, r->context);
    if (*code < 0 && *code != PCRE2_ERROR_NOMATCH && *code != PCRE2_ERROR_PARTIAL)
        return failed(r, e, *code);
    size_t at = *code == PCRE2_ERROR_NOMATCH ? r->len : pcre2_get_ovector_pointer(r->data)[0];
    if (at > e->from) /* \K may put it anywhere */
        e->from = at < r->len ? at : r->len;
    return WEFT_OK;
}

static weft_status look(stop_regex *r, expression *e, uint32_t options, bool *found) {
    for (;;) {
        int code;
        WEFT_TRY(search(r, e, options, &code));
        *found = code >= 0;
        if (code != PCRE2_ERROR_PARTIAL ||
            characters(r->text + e->from, r->len - e->from) <= STOP_REGEX_WINDOW)
            return WEFT_OK;
        do
            e->from++; /* too long to wait for: the next beginning */
        while (e->from < r->len && !begins_character(r->text[e->from]));
    }
}

static weft_status look_all(stop_regex *r, uint32_t options, size_t *found) {
    *found = 0;
    for (int i = 0; i < r->n; i++) {
        bool here;
        WEFT_TRY(look(r, &r->e[i], options, &here));
        if (here && r->len - r->e[i].from > *found)
            *found = r->len - r->e[i].from;
    }
    return WEFT_OK;
}

size_t stop_regex_partial(const stop_regex *r) {
    size_t most = 0;
    for (int i = 0; r && i < r->n; i++)
        if (r->len - r->e[i].from > most)
            most = r->len - r->e[i].from;
    return most;
}

/* Forgets what nobody may look back at. */
static void trim(stop_regex *r) {
    size_t from = r->len - stop_regex_partial(r), seen = 0;
    while (from > 0 && seen < STOP_REGEX_WINDOW)
        seen += begins_character(r->text[--from]);
    memmove(r->text, r->text + from, r->len - from);
    r->len -= from;
    r->trimmed |= from > 0;
    for (int i = 0; i < r->n; i++)
        r->e[i].from -= from;
}

weft_status stop_regex_feed(stop_regex *r, char c, size_t *found) {
    unsigned char b = (unsigned char)c;
    *found = 0;
    if (!r)
        return WEFT_OK;
    if (r->len == TEXT_BYTES)
        trim(r);
    r->text[r->len++] = c;
    r->missing = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : b >= 0xc0 ? 1 : b >= 0x80 ? r->missing - 1 : 0;
    return r->missing > 0 ? WEFT_OK : look_all(r, PCRE2_PARTIAL_HARD, found);
}

weft_status stop_regex_finish(stop_regex *r, size_t *found) {
    *found = 0;
    return r ? look_all(r, 0, found) : WEFT_OK;
}
