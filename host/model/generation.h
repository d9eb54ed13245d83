/* SPDX-License-Identifier: Apache-2.0
 * One request on its way from a prompt to its text. Whoever runs the steps (weft_generate, the
 * batch scheduler) hands in each sampled token; this decides what text is certain and where it
 * ends. */
#pragma once
#include "host/base/buf.h"
#include "host/model/stop.h"
#include "host/model/stop_regex.h"
#include "host/model/tokenizer/tokenizer.h"
#include "weft.h"

typedef struct {
    weft_engine *engine;
    const weft_request *req; /* borrowed, with all it points to */
    weft_engine_info info;
    weft_sampling sampling;
    weft_seq *seq;        /* NULL until generation_begin */
    int32_t *ids;         /* the prompt's, until generation_begin */
    size_t n_ids;         /* 0 where the request has a sequence */
    const tokenizer *tok; /* NULL: ids only */
    tok_stream stream;
    stop_match stop;
    stop_regex *regex; /* NULL: none */
    buf text;          /* decoded, not given out */
    size_t seen;       /* of which the stop strings and expressions have seen this much */
    int32_t min;       /* tokens whose text they do not see */
    int32_t limit;     /* most tokens to generate */
    weft_token_fn *fn;
    void *user;
    weft_result result; /* all but the times, which are its caller's */
    bool done;          /* nothing more is to be sampled */
} generation;

/* Checks the request and tokenizes its prompt; a sequence is taken later. After a failure too,
 * generation_fini frees what there is and closes the sequence unless it is the caller's. */
weft_status generation_init(generation *g, weft_engine *e, const weft_request *req,
                            weft_token_fn *fn, void *user);
void generation_fini(generation *g);
/* Opens the sequence, or sets the request's own, and appends the prompt. WEFT_AGAIN if all are
 * open; it may be tried again then. */
weft_status generation_begin(generation *g);
/* The next token of its sequence. */
weft_status generation_take(generation *g, const weft_sampled *s);
/* Ends it before its time. */
weft_status generation_cancel(generation *g);
