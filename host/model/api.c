/* SPDX-License-Identifier: Apache-2.0
 * The public face of the tokenizer and of errors: names and types of weft.h over the internal
 * ones. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/model/tokenizer/tokenizer.h"
#include "weft.h"

const char *weft_error(void) {
    return err_message();
}

int weft_exit_code(weft_status s) {
    return (unsigned)s < WEFT_STATUS_COUNT ? err_exit_code(s) : 2;
}

const char *weft_version(void) {
    return "0.1.0";
}

void weft_free(void *p) {
    mem_free(p);
}

/* weft_tokenizer is the public name of tokenizer: neither is defined where the other is seen. */
static const tokenizer *inner(const weft_tokenizer *t) {
    return (const tokenizer *)t;
}

weft_status weft_tokenizer_open(const char *path, weft_tokenizer **out) {
    tokenizer *t = NULL;
    WEFT_TRY(tokenizer_open(path, &t));
    *out = (weft_tokenizer *)t;
    return WEFT_OK;
}

void weft_tokenizer_close(weft_tokenizer *t) {
    tokenizer_close((tokenizer *)t);
}

int32_t weft_tokenizer_vocab(const weft_tokenizer *t) {
    return tokenizer_vocab_size(inner(t));
}

weft_status weft_tokenize(const weft_tokenizer *t, const char *text, size_t n, bool special,
                          int32_t **ids, size_t *n_ids) {
    tok_ids found = {0};
    weft_status s = tokenizer_encode(inner(t), text, n, special ? TOK_SPECIAL : 0, &found);
    if (s != WEFT_OK) {
        tok_ids_fini(&found);
        return s;
    }
    *ids = found.v ? found.v : mem_alloc(sizeof **ids); /* never NULL: no text has no ids */
    *n_ids = found.n;
    return WEFT_OK;
}

weft_status weft_detokenize(const weft_tokenizer *t, const int32_t *ids, size_t n,
                            bool skip_special, char **text, size_t *n_text) {
    buf out;
    buf_init(&out, SIZE_MAX);
    weft_status s = tokenizer_decode(inner(t), ids, n, skip_special, &out);
    if (s != WEFT_OK) {
        buf_fini(&out);
        return s;
    }
    *text = out.cap ? out.data : mem_alloc(1);
    *n_text = out.len;
    return WEFT_OK;
}
