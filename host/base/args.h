/* SPDX-License-Identifier: Apache-2.0
 * Command-line arguments as a table: one row an option drives parsing, --help, the man page and
 * shell completion alike. */
#pragma once
#include "host/base/buf.h"
#include "weft/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { ARG_FLAG, ARG_INT, ARG_FLOAT, ARG_STRING, ARG_LIST, ARG_CHOICE } arg_kind;

typedef struct {
    const char *name;  /* "ctx-size": given as --ctx-size V or --ctx-size=V */
    const char *brief; /* "c", "ub", "" : given as -c V, -ub V */
    const char *alias; /* another long name users know, or NULL */
    arg_kind kind;
    const char *value;  /* name in help: "N", "FILE"; for ARG_CHOICE "auto|ref|cpu" */
    double min, max;    /* inclusive, for ARG_INT and ARG_FLOAT */
    const char *preset; /* default as written in help, parsed like a value; NULL: none */
    const char *help;   /* one sentence */
    size_t offset;      /* into the command's struct: bool, int64_t, double, const char *,
                           arg_list, const char * (choice) */
} arg_spec;

typedef struct {
    const char **item;
    int n;
} arg_list; /* ARG_LIST may be repeated; free item with mem_free, also after a failure */

/* Fills `into` from the presets and argv[0..argc). Options and positionals mix; "--" ends options.
 * Unknown options name the nearest one; a repeated single option, a missing value, a value out of
 * range and one positional too many are WEFT_USAGE. positional[i] gets at most max_positional. */
weft_status args_parse(const arg_spec *specs, int nspec, int argc, char **argv, void *into,
                       const char **positional, int max_positional, int *npositional);
void args_help(buf *out, const arg_spec *specs, int nspec, int width); /* aligned columns */
/* Strict "1,2,3": every number an int64 in [min, max]; the message names `key`. */
weft_status args_int_list(const char *key, const char *text, int64_t min, int64_t max,
                          int64_t **out, int64_t *n);
/* Nearest of words by edit distance, NULL if none is near. */
const char *args_nearest(const char *word, const char *const *words, int n);
