/* SPDX-License-Identifier: Apache-2.0
 * Jinja templates as chat models use them: the language of jinja2 3.1 in its immutable sandbox,
 * with trim_blocks, lstrip_blocks, loop controls and {% generation %}. What a template may do is
 * bounded: it reads its arguments, writes text, and ends. No files, no other templates, no clock
 * but the one it is given. docs/TEMPLATES.md lists the language. */
#pragma once
#include "host/base/buf.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JINJA_SOURCE_MAX = 1 << 20,   /* bytes of a template */
    JINJA_OUTPUT_MAX = 16 << 20,  /* bytes of a rendering, and of any string on the way */
    JINJA_MEMORY_MAX = 256 << 20, /* bytes a rendering may hold beside its arguments */
    JINJA_STEPS_MAX = 10000000,   /* nodes evaluated, plus bytes and elements touched / 32 */
    JINJA_DEPTH_MAX = 1500,       /* nested evaluations; a macro's call takes about four */
    JINJA_NESTING_MAX = 100,      /* brackets, and blocks, inside each other in the source */
    JINJA_RANGE_MAX = 100000      /* elements of a range() */
};

/* A compiled template; immutable, so any number of threads may render with it. */
typedef struct jinja_template jinja_template;

/* `name` is for messages; it and the text are copied. WEFT_BAD_FILE "name:line:column: what". */
weft_status jinja_compile(const char *name, const char *text, size_t n, jinja_template **out);
void jinja_free(jinja_template *t);
bool jinja_has_generation(const jinja_template *t); /* there is a {% generation %} in it */

/* Text the template gave to the generation tag, as bytes of the output. */
typedef struct {
    size_t begin, end;
} jinja_span;

typedef struct {
    buf text;         /* valid UTF-8 */
    jinja_span *span; /* mem_alloc'ed; in the order they were written */
    size_t nspan, span_cap;
    bool spans_lost; /* a generation tag wrote into a macro's or block's text: its place is
                      * unknown */
    buf raised;      /* after a failure by raise_exception: its text */
    bool did_raise;
} jinja_output;

void jinja_output_init(jinja_output *o);
void jinja_output_fini(jinja_output *o);

/* Renders with `args`, the text of one JSON object (name: for messages); a name that is also in
 * `base`, another such object or NULL, is taken from args. `now`: seconds of the wall clock. On
 * failure WEFT_BAD_FILE "name:line:column: what", and the text is empty. */
weft_status jinja_render(const jinja_template *t, const char *name, const char *args, size_t n,
                         const char *base, int64_t now, jinja_output *o);
