/* SPDX-License-Identifier: Apache-2.0
 * The rows of an evaluation file (JSONL), with every complaint naming file and line, and the few
 * string functions of Python that published preprocessing is written in. */
#pragma once
#include "host/base/buf.h"
#include "host/base/json.h"
#include "host/base/mem.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

enum { ROW_MAX_FIELDS = 64 }; /* those behind are not looked at */

typedef struct {
    json_str key, raw; /* raw: the value's text */
    json_kind kind;
} row_field;

typedef struct {
    const char *file;
    const char *at, *end; /* what is left of the text */
    int64_t line;         /* of the row last read, from 1 */
    arena *a;
    row_field field[ROW_MAX_FIELDS];
} row_reader;

typedef struct {
    const char *file;
    int64_t line;
    arena *a;
    row_field *field;
    int n;
} row;

/* A string by its parts; not NUL-terminated. */
typedef json_str text;

/* Whole file (or "-") in the arena; WEFT_BAD_FILE if it has no bytes but white space, or is not
 * UTF-8. */
weft_status rows_open(const char *file, arena *a, row_reader *out);
/* The next line that is not blank; false at the end. */
bool rows_line(row_reader *r, text *line);
/* The next row, whose fields are gone with the row after it; *more is false at the end.
 * WEFT_BAD_FILE: not a JSON object. */
weft_status rows_next(row_reader *r, row *out, bool *more);

weft_status row_fail(const row *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const row_field *row_find(const row *r, const char *key); /* NULL: it has none */
/* Fields that must be there: a string; an array of strings (1 to max of them); an integer in
 * [0, limit), which may be written as a string or a boolean. */
weft_status row_text(const row *r, const char *key, text *out);
weft_status row_texts(const row *r, const char *key, int max, text *out, int *n);
weft_status row_index(const row *r, const char *key, int limit, int *out);

text text_of(const char *s);
text text_join(arena *a, const text *part, int n);
#define TEXT_JOIN(a, ...) \
    text_join((a), (const text[]){__VA_ARGS__}, (int)(sizeof((text[]){__VA_ARGS__}) / sizeof(text)))
int64_t text_chars(text t); /* code points */
int64_t text_words(text t); /* len(re.split(r"\s+", text)) */
/* The next word of str.split(), taken off the front; false if there is none. */
bool text_word(text *left, text *word);
text text_strip(text t);                /* str.strip() */
text text_rstrip(text t);               /* str.rstrip() */
text text_lower(arena *a, text t);      /* str.lower(), one character at a time */
text text_capitalize(arena *a, text t); /* str.capitalize(), likewise */
text text_replace(arena *a, text t, const char *from, const char *to); /* str.replace() */
