/* SPDX-License-Identifier: Apache-2.0
 * Tokenizer files: the first byte chooses the format (0 tokenizer.json, 1 SentencePiece, 2 tiktoken
 * ranks), the rest is the file. What is accepted encodes and decodes a text and keeps its word:
 * ids of the vocabulary, valid UTF-8, one at a time the same as all at once. */
#include "host/base/err.h"
#include "host/base/utf8.h"
#include "host/model/tokenizer/tokenizer.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "Hello, W\xc3\xb6rld  123 it's\n\n \xe4\xb8\xad\xe6\x96\x87 e\xcc\x81"
                           "<s>ab</s>\xe2\x96\x81 \xf0\x9f\x98\x80\taaaaaaaa";

static void check_decoding(const tokenizer *t, const tok_ids *ids, bool skip) {
    buf whole, pieces;
    tok_stream s;
    buf_init(&whole, 1 << 24);
    buf_init(&pieces, 1 << 24);
    weft_status st = tokenizer_decode(t, ids->v, ids->n, skip, &whole);
    tok_stream_init(&s, t, skip);
    weft_status each = WEFT_OK;
    for (size_t i = 0; i < ids->n && each == WEFT_OK; i++) {
        each = tok_stream_push(&s, ids->v[i], &pieces);
        WEFT_ASSERT(utf8_invalid_at(pieces.data, pieces.len) == pieces.len);
    }
    if (each == WEFT_OK)
        each = tok_stream_flush(&s, &pieces);
    if (st == WEFT_OK && each == WEFT_OK && !pieces.failed) {
        WEFT_ASSERT(whole.len == pieces.len && !memcmp(whole.data, pieces.data, whole.len));
        WEFT_ASSERT(utf8_invalid_at(whole.data, whole.len) == whole.len);
    }
    tok_stream_fini(&s);
    buf_fini(&whole);
    buf_fini(&pieces);
}

static void check_promises(const tokenizer *t) {
    static const unsigned flags[] = {0, TOK_SPECIAL, TOK_PLAIN};
    WEFT_ASSERT(tokenizer_vocab_size(t) > 0 && tokenizer_bos(t) < tokenizer_vocab_size(t));
    for (int f = 0; f < 3; f++) {
        tok_ids ids = {0};
        if (tokenizer_encode(t, text, sizeof text - 1, flags[f], &ids) != WEFT_OK)
            WEFT_ASSERT(ids.n == 0 && *err_message());
        for (size_t i = 0; i < ids.n; i++) {
            size_t n;
            WEFT_ASSERT(tokenizer_piece(t, ids.v[i], &n));
        }
        check_decoding(t, &ids, f == 1);
        tok_ids_fini(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct {
        const char *name;
        tok_file kind;
    } rows[] = {{"tokenizer.json", TOK_FILE_JSON},
                {"tokenizer.model", TOK_FILE_SENTENCEPIECE},
                {"r50k_base.tiktoken", TOK_FILE_TIKTOKEN}};
    if (!size)
        return 0;
    int row = data[0] % 3;
    tokenizer *t = NULL;
    err_clear();
    weft_status s = tokenizer_open_memory(rows[row].name, rows[row].kind, (const char *)data + 1,
                                          size - 1, &t);
    if (s == WEFT_OK)
        check_promises(t);
    else
        WEFT_ASSERT(!t && strstr(err_message(), rows[row].name));
    tokenizer_close(t);
    return 0;
}
