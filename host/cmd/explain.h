/* SPDX-License-Identifier: Apache-2.0
 * What the model thought of each token: text coloured by probability, a list of alternatives, and
 * both as one HTML file. On a terminal by colours, elsewhere by numbers in brackets. */
#pragma once
#include "host/base/buf.h"
#include "weft.h"

typedef enum { EXPLAIN_PLAIN, EXPLAIN_256, EXPLAIN_TRUE } explain_colours;

typedef struct {
    const weft_tokenizer *tokenizer; /* NULL: tokens are numbers */
    explain_colours colours;
    buf text, tokens, tops; /* of all tokens so far; entries of the two structs in explain.c */
} explain;

explain_colours explain_stdout(void); /* what standard output can show */
void explain_init(explain *e, const weft_tokenizer *t, explain_colours c);
void explain_fini(explain *e);
/* Keeps the token and appends its text as it is to be shown. */
void explain_token(explain *e, const weft_token *t, buf *out);
/* A line a token: its probability and what else was likely. `width` columns; 0: any. */
void explain_list(const explain *e, int width, buf *out);
/* The whole as a page that needs nothing else; prompt is text, settings one line. */
void explain_html(const explain *e, const char *prompt, size_t n_prompt, const char *settings,
                  buf *out);
