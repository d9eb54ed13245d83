/* SPDX-License-Identifier: Apache-2.0
 * Documents to token ids: text and rows here, conversations in doc_chat.c. */
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/base/thread.h"
#include "host/base/utf8.h"
#include "host/train/data.h"
#include "host/train/doc.h"
#include <string.h>

/* Documents of one batch: enough for every thread, little enough to hold. */
enum { BATCH_DOCS = 4096, BATCH_BYTES = 32 << 20, PIECE_BYTES = 1 << 18 };

void doc_tokens_fini(doc_tokens *t) {
    tok_ids_fini(&t->ids);
    tok_ids_fini(&t->labels);
    mem_free(t->message);
    *t = (doc_tokens){0};
}

/* ---- Rows ---- */

static void row_ids(json *j, int64_t min, tok_ids *out) {
    json_array(j);
    while (json_item(j)) {
        int64_t v = json_int(j, min, INT32_MAX);
        if (v < 0 && v != DATA_IGNORED)
            json_fail(j, "label %lld is neither a token nor %d", (long long)v, DATA_IGNORED);
        tok_ids_add(out, (int32_t)v);
    }
}

/* Ones and then zeros: how many ones. */
static size_t row_length(json *j, size_t *places) {
    size_t ones = 0;
    *places = 0;
    json_array(j);
    while (json_item(j)) {
        int64_t v = json_int(j, 0, 1);
        if (v == 1 && ones != *places)
            json_fail(j, "a 1 behind a 0; only padding at the right is read");
        ones += v == 1;
        ++*places;
    }
    return ones;
}

weft_status doc_row(const doc *d, doc_tokens *out) {
    arena a = {0};
    json j;
    bool labels = false, mask = false;
    size_t ones = 0, places = 0;
    json_init(&j, arena_printf(&a, "%s:%lld", d->path, (long long)d->line), d->s, d->n, &a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);) {
        if (json_is(key, "input_ids")) {
            row_ids(&j, 0, &out->ids);
        } else if (json_is(key, "labels")) {
            row_ids(&j, DATA_IGNORED, &out->labels);
            labels = true;
        } else if (json_is(key, "attention_mask")) {
            ones = row_length(&j, &places);
            mask = true;
        } else {
            json_skip(&j);
        }
    }
    size_t n = out->ids.n;
    if (!json_failed(&j) && n == 0)
        json_fail(&j, "input_ids: missing or empty");
    if (!json_failed(&j) && labels && out->labels.n != n)
        json_fail(&j, "labels: %zu for %zu input_ids", out->labels.n, n);
    if (!json_failed(&j) && mask && (places != n || ones == 0))
        json_fail(&j, "attention_mask: %zu ones of %zu for %zu input_ids", ones, places, n);
    if (mask) {
        out->ids.n = ones;
        out->labels.n = labels ? ones : 0;
    }
    weft_status s = json_done(&j);
    arena_fini(&a);
    return s;
}

/* ---- Text ---- */

static weft_status line_text(const doc *d, arena *a, json_str *text) {
    json j;
    json_init(&j, arena_printf(a, "%s:%lld", d->path, (long long)d->line), d->s, d->n, a);
    json_object(&j);
    for (json_str key; json_key(&j, &key);)
        if (json_is(key, "text"))
            *text = json_string(&j);
        else
            json_skip(&j);
    if (!json_failed(&j) && !text->s)
        json_fail(&j, "no \"text\", which the first line has");
    return json_done(&j);
}

weft_status doc_text(const doc *d, arena *a, const char **s, size_t *n) {
    json_str text = {d->s, d->n};
    if (d->kind == DOC_JSON_TEXT) {
        text = (json_str){NULL, 0};
        WEFT_TRY(line_text(d, a, &text));
    } else if (d->kind != DOC_TEXT) {
        return weft_fail(WEFT_USAGE, "%s: is no text", d->path);
    }
    size_t bad = utf8_invalid_at(text.s, text.n);
    if (bad < text.n)
        return weft_fail(WEFT_BAD_FILE, "%s: not UTF-8 (byte %zu of the text)", d->path,
                         d->at + bad);
    *s = text.s;
    *n = text.n;
    return WEFT_OK;
}

static weft_status encode_text(const doc_encoder *e, const doc *d, doc_tokens *out) {
    arena a = {0};
    const char *text;
    size_t n;
    if (!e->tok)
        return weft_fail(WEFT_USAGE, "%s: is text; a model folder with a tokenizer is needed",
                         d->path);
    weft_status s = doc_text(d, &a, &text, &n);
    if (s == WEFT_OK)
        s = tokenizer_encode(e->tok, text, n, d->at ? 0 : TOK_SPECIAL, &out->ids);
    arena_fini(&a);
    int32_t eos = tokenizer_eos(e->tok);
    if (s == WEFT_OK && e->append_eos && !d->more &&
        (out->ids.n == 0 || out->ids.v[out->ids.n - 1] != eos))
        tok_ids_add(&out->ids, eos);
    return s;
}

/* ---- Any document ---- */

static weft_status check_ids(const doc_encoder *e, const doc *d, const tok_ids *ids) {
    for (size_t i = 0; i < ids->n; i++)
        if (ids->v[i] >= e->vocab)
            return weft_fail(WEFT_BAD_FILE, "%s:%lld: id %d at place %zu; the vocabulary has %d",
                             d->path, (long long)d->line, (int)ids->v[i], i, (int)e->vocab);
    return WEFT_OK;
}

static weft_status encode(const doc_encoder *e, const doc *d, doc_tokens *out) {
    switch (d->kind) {
    case DOC_ROW: WEFT_TRY(doc_row(d, out)); break;
    case DOC_CHAT: WEFT_TRY(doc_conversation(e, d, out)); break;
    default: WEFT_TRY(encode_text(e, d, out));
    }
    if (e->vocab) {
        WEFT_TRY(check_ids(e, d, &out->ids));
        WEFT_TRY(check_ids(e, d, &out->labels));
    }
    return WEFT_OK;
}

void doc_encode(const doc_encoder *e, const doc *d, doc_tokens *out) {
    out->status = encode(e, d, out);
    if (out->status == WEFT_OK)
        return;
    size_t n = strlen(err_message()) + 1;
    out->message = mem_alloc(n);
    memcpy(out->message, err_message(), n);
}

/* ---- Many, in order ---- */

typedef struct {
    const doc_encoder *e;
    doc_reader *r;
    doc_skip_fn *skip;
    doc_take_fn *take;
    void *ctx;
    doc *d;
    doc_tokens *t;
    bool *skipped;
    int n;
    doc rest;            /* of a long text, not yet in a batch */
    bool skip_rest;      /* it belongs to a document that is passed over */
    int64_t read, taken; /* documents begun, and handed over */
    tok_ids joined;      /* of the pieces so far */
} batch;

static void encode_range(const void *ctx, int64_t begin, int64_t end, int worker) {
    const batch *b = ctx;
    (void)worker;
    for (int64_t i = begin; i < end; i++)
        if (!b->skipped[i])
            doc_encode(b->e, &b->d[i], &b->t[i]);
}

/* The next document, or the next piece of a long text. */
static weft_status next_piece(batch *b, doc *d) {
    if (b->rest.kind == DOC_NONE) {
        WEFT_TRY(doc_next(b->r, &b->rest));
        b->skip_rest = b->rest.kind != DOC_NONE && b->skip && b->skip(b->ctx, b->read, &b->rest);
        b->read++;
    }
    *d = b->rest;
    b->rest.kind = DOC_NONE;
    if (d->kind != DOC_TEXT || d->n < 2 * PIECE_BYTES || b->skip_rest || !b->e->tok)
        return WEFT_OK;
    size_t cut = doc_cut(b->e->tok, d->s, d->n, PIECE_BYTES);
    if (cut == d->n)
        return WEFT_OK;
    b->rest = *d;
    b->rest.s += cut;
    b->rest.n -= cut;
    b->rest.at += cut;
    d->n = cut;
    d->more = true;
    return WEFT_OK;
}

static weft_status fill(batch *b) {
    size_t bytes = 0;
    for (b->n = 0; b->n < BATCH_DOCS && bytes < BATCH_BYTES; b->n++) {
        doc *d = &b->d[b->n];
        WEFT_TRY(next_piece(b, d));
        if (d->kind == DOC_NONE)
            break;
        b->t[b->n] = (doc_tokens){0};
        b->skipped[b->n] = b->skip_rest;
        bytes += b->skip_rest ? 0 : d->n;
    }
    return WEFT_OK;
}

/* A document whole: the pieces before the last wait in `joined`. */
static weft_status hand_over(batch *b, int i) {
    doc_tokens *t = &b->t[i];
    if (b->d[i].more || b->joined.n) {
        for (size_t k = 0; k < t->ids.n; k++)
            tok_ids_add(&b->joined, t->ids.v[k]);
        if (b->d[i].more)
            return WEFT_OK;
        tok_ids_fini(&t->ids);
        t->ids = b->joined;
        b->joined = (tok_ids){0};
    }
    int64_t number = b->taken++;
    return b->skipped[i] ? WEFT_OK : b->take(b->ctx, number, &b->d[i], t);
}

static weft_status hand_over_all(batch *b) {
    weft_status s = WEFT_OK;
    for (int i = 0; i < b->n; i++) {
        if (s == WEFT_OK && b->t[i].status != WEFT_OK) {
            err_set_message(b->t[i].message);
            s = b->t[i].status;
        }
        if (s == WEFT_OK)
            s = hand_over(b, i);
        doc_tokens_fini(&b->t[i]);
    }
    return s;
}

static weft_status run_batches(batch *b, weft_stream *pool) {
    do {
        WEFT_TRY(fill(b));
        weft_parallel(pool, b->n, 1, encode_range, b);
        WEFT_TRY(hand_over_all(b));
        if (b->rest.kind == DOC_NONE)
            doc_release(b->r);
    } while (b->n > 0);
    return WEFT_OK;
}

weft_status doc_run(doc_reader *r, const doc_encoder *e, int threads, doc_skip_fn *skip,
                    doc_take_fn *take, void *ctx) {
    weft_stream *pool;
    int cores = thread_cores();
    WEFT_TRY(thread_pool_open(threads                    ? threads
                              : cores > WEFT_MAX_THREADS ? WEFT_MAX_THREADS
                                                         : cores,
                              &pool));
    arena a = {0};
    batch b = {.e = e, .r = r, .skip = skip, .take = take, .ctx = ctx};
    b.d = ARENA_NEW(&a, doc, BATCH_DOCS);
    b.t = ARENA_NEW(&a, doc_tokens, BATCH_DOCS);
    b.skipped = ARENA_NEW(&a, bool, BATCH_DOCS);
    weft_status s = run_batches(&b, pool);
    tok_ids_fini(&b.joined);
    arena_fini(&a);
    thread_pool_close(pool);
    return s;
}
