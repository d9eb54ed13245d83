/* SPDX-License-Identifier: Apache-2.0
 * Conversations as the model's own template writes them, and which tokens of them the assistant
 * said. */
#include "host/base/err.h"
#include "host/train/data.h"
#include "host/train/doc.h"
#include <stdio.h>
#include <string.h>

/* What a template's clock shows, so that the same file is the same tokens on any day: the date that
 * Llama's templates fall back to, 2024-07-26. */
static const int64_t template_now = 1721952000;

/* Tokens that end at or before byte `at` of the text. The text is cut there and encoded again: up
 * to its last word it gives the same ids, and a token across the cut is not counted. */
static weft_status tokens_before(const doc_encoder *e, const chat_output *o, const tok_ids *whole,
                                 size_t at, size_t *count) {
    tok_ids part = {0};
    weft_status s = tokenizer_encode(e->tok, o->text.data, at, 0, &part);
    size_t n = part.n < whole->n ? part.n : whole->n, k = 0;
    while (k < n && part.v[k] == whole->v[k])
        k++;
    *count = k;
    tok_ids_fini(&part);
    return s;
}

static bool is_space(const tokenizer *t, int32_t id) {
    buf text;
    buf_init(&text, SIZE_MAX);
    bool space = tokenizer_decode(t, &id, 1, false, &text) == WEFT_OK;
    for (size_t i = 0; i < text.len; i++)
        space = space && text.data[i] && strchr(" \t\r\n", text.data[i]);
    buf_fini(&text);
    return space;
}

/* A turn ends with its end-of-turn token: the line break that many templates put behind it is the
 * template's. */
static size_t turn_end(const tokenizer *t, const tok_ids *ids, size_t begin, size_t end) {
    size_t k = end;
    while (k > begin && !tokenizer_is_special(t, ids->v[k - 1]) && is_space(t, ids->v[k - 1]))
        k--;
    return k > begin && tokenizer_is_special(t, ids->v[k - 1]) ? k : end;
}

static weft_status label_spans(const doc_encoder *e, const chat_output *o, doc_tokens *out) {
    for (size_t i = 0; i < out->ids.n; i++)
        tok_ids_add(&out->labels, DATA_IGNORED);
    for (size_t i = 0; i < o->nspan; i++) {
        size_t begin, end, bytes = o->span[i].end;
        WEFT_TRY(tokens_before(e, o, &out->ids, o->span[i].begin, &begin));
        end = out->ids.n;
        if (bytes < o->text.len)
            WEFT_TRY(tokens_before(e, o, &out->ids, bytes, &end));
        end = turn_end(e->tok, &out->ids, begin, end);
        for (size_t k = begin; k < end; k++)
            out->labels.v[k] = out->ids.v[k];
    }
    return WEFT_OK;
}

static weft_status check_spans(const doc *d, const chat_output *o) {
    if (o->spans == CHAT_SPANS_UNKNOWN)
        return weft_fail(WEFT_BAD_FILE,
                         "%s:%lld: the template does not say what the assistant wrote: the "
                         "conversation up to a turn is no beginning of the whole; mark its turns "
                         "with {%% generation %%}",
                         d->path, (long long)d->line);
    if (o->nspan == 0)
        return weft_fail(WEFT_BAD_FILE, "%s:%lld: no message of an assistant: nothing to learn",
                         d->path, (long long)d->line);
    return WEFT_OK;
}

static weft_status encode(const doc_encoder *e, const doc *d, chat_output *o, doc_tokens *out) {
    char name[512];
    snprintf(name, sizeof name, "%.480s:%lld", d->path, (long long)d->line);
    WEFT_TRY(chat_render(e->chat, name, d->s, d->n, template_now, o));
    WEFT_TRY(tokenizer_encode(e->tok, o->text.data, o->text.len, 0, &out->ids));
    if (!e->sft)
        return WEFT_OK;
    WEFT_TRY(check_spans(d, o));
    return label_spans(e, o, out);
}

weft_status doc_conversation(const doc_encoder *e, const doc *d, doc_tokens *out) {
    if (!e->tok || !e->chat)
        return weft_fail(WEFT_USAGE,
                         "%s: conversations; a model folder with a tokenizer and a chat template "
                         "is needed",
                         d->path);
    chat_output o;
    chat_output_init(&o);
    o.want_spans = e->sft;
    weft_status s = encode(e, d, &o, out);
    chat_output_fini(&o);
    return s;
}
