/* SPDX-License-Identifier: Apache-2.0
 * What a sequence samples by, from the public struct to the words and tables the kernel reads. */
#pragma once
#include "host/model/tokenizer/tokenizer.h"
#include "weft.h"
#include "weft/ops.h"

enum {
    SAMPLING_HELD = WEFT_MAX_HELD + 8, /* behind the logit bias: stop tokens and the model's own */
    SAMPLING_BREAKER_WORDS = 4096,     /* for DRY's breakers of several tokens */
    SAMPLING_BREAKER_BYTES = 40,
    SAMPLING_BREAKER_TOKENS = 20 /* of a breaker; the rest of its text does not count */
};

weft_status sampling_check(const weft_engine *e, const weft_sampling *s);
weft_sample_params sampling_params(const weft_engine *e, const weft_sampling *s, int slot);
/* Writes the slot's bias list and breakers on every rank; p->n_breaker is set. */
weft_status sampling_send(weft_engine *e, const weft_sampling *s, weft_sample_params *p);

/* "penalties;dry;...": names as in llama.cpp, each at most once. WEFT_USAGE names the word. */
weft_status sampling_order(const char *key, const char *text, uint8_t order[WEFT_ORDER_BYTES]);

/* Words of one slot's `breaker`: the bits, then the list. */
int64_t sampling_breaker_words(int64_t vocab);
/* Fills zeroed words: a breaker is every token whose text holds it, and every token whose end
 * begins it, with the tokens of the rest. *n counts the words of the list. */
weft_status sampling_breakers(const tokenizer *t, int64_t vocab, const char *const *text, int ntext,
                              int32_t *words, int32_t *n);
/* Adds one breaker given as tokens; they come ascending by the first. WEFT_USAGE without room. */
weft_status sampling_breaker_add(int64_t vocab, const int32_t *ids, int32_t nids, int32_t *words,
                                 int32_t *n);
