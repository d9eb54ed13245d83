/* SPDX-License-Identifier: Apache-2.0
 * json: one pull reader for configs, safetensors headers, tokenizers, JSONL and HTTP bodies
 * (RFC 8259, UTF-8 checked, duplicate keys rejected, caps on depth, size and count), at memory
 * speed. The reader never builds a tree; the caller asks for what it expects:
 *
 *     json_object(j);
 *     for (json_str key; json_key(j, &key);)
 *         if (json_is(key, "vocab_size")) cfg->vocab = json_int(j, 1, INT32_MAX);
 *         else json_skip(j);
 *     return json_done(j);
 *
 * Failure is sticky: after the first error every call returns a neutral value and json_key and
 * json_item return false, so loops end; json_done reports it with file, line and column. A value
 * that was announced by json_key or json_item and not asked for is skipped, checked in full. */
#pragma once
#include "host/base/mem.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *s; /* not NUL-terminated; in the text, or in the arena if it had escapes */
    size_t n;
} json_str;

typedef enum {
    JSON_NONE, /* error or end of text */
    JSON_OBJECT,
    JSON_ARRAY,
    JSON_STRING,
    JSON_NUMBER,
    JSON_BOOL,
    JSON_NULL
} json_kind;

enum { JSON_DEPTH_LIMIT = 256 }; /* what max_depth may be raised to */

typedef struct {
    bool object;
    bool fresh;         /* nothing of it has been read yet */
    bool pending;       /* a value is due: json_key, json_item or the start of the text said so */
    uint32_t first_key; /* index of its first key in json_keys */
} json_frame;

/* The keys of all open objects, those of the innermost last. An object of more than a few keys is
 * looked up through `slot`, an open-addressed table of indices into `key`. A slot of a closed
 * object is harmless: its index is dead, or names a live key that is compared in full. */
typedef struct {
    struct json_seen *key;
    struct json_slot *slot;
    uint32_t n, cap;         /* keys */
    uint32_t filled, nslots; /* slots; nslots is 0 or a power of two */
} json_keys;

typedef struct json {
    const char *name; /* file or key, for messages */
    const char *begin, *p, *end;
    arena *arena;         /* unescaped strings and key sets; the caller's, outlives the strings */
    int depth, max_depth; /* default 64 */
    uint64_t count, max_count; /* values in all; default 20 million */
    weft_status status;
    bool lone_surrogates; /* \ud800 alone reads as U+FFFD; otherwise it is an error */
    json_str key;         /* last key read, for messages */
    json_keys keys;
    json_frame frame[JSON_DEPTH_LIMIT + 1]; /* [0]: the text itself, [depth]: the innermost */
} json;

/* `text` must stay valid while strings are used. A leading BOM, NUL bytes and invalid UTF-8 are
 * errors. No memory is taken in proportion to a number in the text, and all of it comes from the
 * arena: there is nothing to close. */
void json_init(json *j, const char *name, const char *text, size_t n, arena *a);

json_kind json_peek(json *j); /* kind of the next value, nothing consumed */

void json_object(json *j);             /* enters '{'; fails on any other kind */
bool json_key(json *j, json_str *key); /* next key; false at '}' (consumed) or on failure */
void json_array(json *j);              /* enters '[' */
bool json_item(json *j);               /* true if another item follows; false at ']' */

json_str json_string(json *j);
char *json_text(json *j); /* a string as a copy in the arena, NUL-terminated; a NUL
                             inside is an error; never NULL */
int64_t json_int(json *j, int64_t min, int64_t max); /* an integer literal (no '.', no exponent) */
double json_double(json *j);                         /* any finite number; locale-independent */
bool json_bool(json *j);
void json_null(json *j);
void json_skip(json *j);    /* any value, checked in full */
json_str json_raw(json *j); /* skips a value and returns its text */

/* Fails the reader at the current position with "<name>:<line>:<col>: <what>". */
void json_fail(json *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool json_failed(const json *j);
/* WEFT_OK if all went well and only white space is left. */
weft_status json_done(json *j);

bool json_is(json_str s, const char *word);
char *json_dup(arena *a, json_str s); /* NUL-terminated copy */
