/* SPDX-License-Identifier: Apache-2.0
 * kv: which pages of the KV cache belong to which sequence. Pages are the same on every rank, so
 * one table serves all; the bytes themselves are values of space KV. */
#pragma once
#include "weft/status.h"
#include <stdint.h>

enum { KV_PAGE = 16 }; /* tokens of a page; divides every kernel's key block */

typedef struct {
    int32_t pages, free_count;
    int32_t *free_list;        /* [pages], a stack */
    int32_t slots, slot_pages; /* sequences; most pages of one */
    int32_t *table;            /* [slots, slot_pages]: physical pages in order */
    int32_t *held;             /* [slots] pages held */
} kv_pool;

/* A pool of `pages` pages for `slots` sequences of at most slot_pages each. */
void kv_init(kv_pool *kv, int32_t pages, int32_t slots, int32_t slot_pages);
void kv_fini(kv_pool *kv);
/* Pages more that `slot` needs to hold `tokens` tokens. */
int32_t kv_missing(const kv_pool *kv, int32_t slot, int64_t tokens);
/* Takes them; WEFT_AGAIN without any change if the pool has too few. */
weft_status kv_reserve(kv_pool *kv, int32_t slot, int64_t tokens);
/* Gives back the pages past `tokens`. */
void kv_truncate(kv_pool *kv, int32_t slot, int64_t tokens);
/* Where token `pos` of the slot is kept: page * KV_PAGE + place. */
int32_t kv_place(const kv_pool *kv, int32_t slot, int64_t pos);
