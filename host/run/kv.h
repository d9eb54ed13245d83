/* SPDX-License-Identifier: Apache-2.0
 * kv: which pages of the KV cache belong to which sequence. Pages are the same on every rank, so
 * one table serves all; the bytes themselves are values of space KV.
 *
 * Where prefixes are shared, a full page is published under (the published page before it, its
 * tokens), which names every token up to its end: a chain of blocks, as in vLLM's prefix cache
 * (github.com/vllm-project/vllm, docs/design/prefix_caching.md), but compared in full, so that a
 * collision of hashes is nothing. K and V are a function of these tokens alone, so a sequence that
 * takes a published page has the bits it would have computed. Nobody writes to a published page. */
#pragma once
#include "weft/status.h"
#include <stdbool.h>
#include <stdint.h>

enum { KV_PAGE = 16 }; /* tokens of a page; divides every kernel's key block */

typedef struct {
    int32_t refs;            /* sequences that hold it */
    int32_t before, after;   /* neighbours among the available ones; refs is 0 */
    int32_t same;            /* the next page in its bucket, -1: none */
    uint64_t serial, parent; /* 0: not published; parent 0: the first page of a sequence */
    int32_t token[KV_PAGE];
} kv_page;

typedef struct {
    int32_t pages, free_count; /* free_count: available, published ones included */
    /* [pages + 1], the last being the end of the ring of available ones. The first in it is taken
     * next; published ones stand behind the others, the one used least recently first. */
    kv_page *page;
    int32_t slots, slot_pages; /* sequences; most pages of one */
    int32_t *table;            /* [slots, slot_pages]: physical pages in order */
    int32_t *held;             /* [slots] pages held */
    bool share;
    uint64_t serials; /* given out so far */
    int32_t *bucket;  /* [buckets] first page, -1: none; a power of two */
    uint32_t buckets;
} kv_pool;

/* A pool of `pages` pages for `slots` sequences of at most slot_pages each. */
void kv_init(kv_pool *kv, int32_t pages, int32_t slots, int32_t slot_pages, bool share);
void kv_fini(kv_pool *kv);
/* Pages more that `slot` needs to hold `tokens` tokens. */
int32_t kv_missing(const kv_pool *kv, int32_t slot, int64_t tokens);
/* Takes them; WEFT_AGAIN without any change if the pool has too few. */
weft_status kv_reserve(kv_pool *kv, int32_t slot, int64_t tokens);
/* Gives back the pages past `tokens`, and one that `tokens` ends within if others share it. Returns
 * how many tokens the pages left hold: `tokens`, or fewer. */
int32_t kv_truncate(kv_pool *kv, int32_t slot, int32_t tokens);
/* Where token `pos` of the slot is kept: page * KV_PAGE + place. */
int32_t kv_place(const kv_pool *kv, int32_t slot, int64_t pos);

/* A slot of which `computed` of token[0..n) are there takes the published pages that go on from
 * there. Returns how many tokens are there now. */
int32_t kv_reuse(kv_pool *kv, int32_t slot, const int32_t *token, int32_t computed, int32_t n);
/* Full pages of the slot's first `computed` tokens become others' to take. A page that another
 * sequence published first takes the place of the slot's own. */
void kv_publish(kv_pool *kv, int32_t slot, const int32_t *token, int32_t computed);
