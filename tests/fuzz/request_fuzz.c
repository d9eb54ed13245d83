/* SPDX-License-Identifier: Apache-2.0
 * Requests: a line as `weft batch` and the body of a POST. Whatever comes is refused with a message
 * or becomes a request that the scheduler takes or refuses; ids are in the vocabulary, and nothing
 * is left behind. The model is the shipped one, with a template. */
#include "host/base/err.h"
#include "host/serve/api.h"
#include "host/serve/batch.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static weft_engine *engine;
static weft_sampling sampling;
static weft_request preset;
static api shared;

static void open_once(void) {
    weft_engine_options o = {.ctx_size = 64, .max_seqs = 2, .threads = 1};
    if (engine)
        return;
    if (weft_engine_open("bench/models/demo", &o, &engine) != WEFT_OK) {
        fprintf(stderr, "request_fuzz: %s\n", weft_error());
        exit(1);
    }
    sampling = weft_sampling_greedy();
    preset.sampling = &sampling;
    api_init(&shared, engine, "bench/models/demo", "chatml", &preset);
}

static void check(const api_request *r) {
    WEFT_ASSERT(r->chat || r->has_prompt);
    WEFT_ASSERT(r->req.n_ids == r->ids.n && r->req.sampling == &r->sampling);
    for (size_t i = 0; i < r->ids.n; i++)
        WEFT_ASSERT(r->ids.v[i] >= 0 && r->ids.v[i] < shared.info.vocab);
}

static void submit(const api_request *r) {
    batch *b = batch_open(engine, &(batch_options){0});
    batch_job *job;
    api_answer answer;
    api_answer_init(&answer, &shared, r);
    batch_call call = {.request = &r->req, .on_token = api_answer_token, .user = &answer};
    weft_status s = batch_submit(b, &call, &job);
    WEFT_ASSERT(s == WEFT_OK || weft_error()[0]);
    batch_close(b);
    api_answer_fini(&answer);
}

static void read_as(weft_status (*read)(api *, const char *, const char *, size_t, api_request *),
                    const uint8_t *data, size_t size) {
    api_request r;
    err_clear();
    weft_status s = read(&shared, "line", (const char *)data, size, &r);
    WEFT_ASSERT(s == WEFT_OK || weft_error()[0]);
    if (s == WEFT_OK) {
        check(&r);
        submit(&r);
    }
    api_request_fini(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_once();
    read_as(api_read_line, data, size);
    read_as(api_read_body, data, size);
    return 0;
}
