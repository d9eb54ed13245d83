/* SPDX-License-Identifier: Apache-2.0
 * The page table of the KV cache. */
#include "host/run/kv.h"
#include "host/base/err.h"
#include "host/base/mem.h"

static int32_t pages_for(int64_t tokens) {
    return (int32_t)((tokens + KV_PAGE - 1) / KV_PAGE);
}

void kv_init(kv_pool *kv, int32_t pages, int32_t slots, int32_t slot_pages) {
    *kv = (kv_pool){.pages = pages, .free_count = pages, .slots = slots, .slot_pages = slot_pages};
    kv->free_list = mem_alloc(sizeof(int32_t) * (size_t)pages);
    kv->table = mem_alloc(sizeof(int32_t) * (size_t)slots * (size_t)slot_pages);
    kv->held = mem_alloc(sizeof(int32_t) * (size_t)slots);
    for (int32_t i = 0; i < pages; i++)
        kv->free_list[i] = pages - 1 - i;
}

void kv_fini(kv_pool *kv) {
    mem_free(kv->free_list);
    mem_free(kv->table);
    mem_free(kv->held);
}

int32_t kv_missing(const kv_pool *kv, int32_t slot, int64_t tokens) {
    int32_t need = pages_for(tokens) - kv->held[slot];
    return need > 0 ? need : 0;
}

weft_status kv_reserve(kv_pool *kv, int32_t slot, int64_t tokens) {
    int32_t need = kv_missing(kv, slot, tokens);
    WEFT_ASSERT(pages_for(tokens) <= kv->slot_pages);
    if (need > kv->free_count)
        return weft_fail(WEFT_AGAIN,
                         "kv cache: %d pages needed, %d free; close or truncate a sequence", need,
                         kv->free_count);
    int32_t *row = kv->table + (int64_t)slot * kv->slot_pages;
    while (need-- > 0)
        row[kv->held[slot]++] = kv->free_list[--kv->free_count];
    return WEFT_OK;
}

void kv_truncate(kv_pool *kv, int32_t slot, int64_t tokens) {
    int32_t keep = pages_for(tokens);
    const int32_t *row = kv->table + (int64_t)slot * kv->slot_pages;
    while (kv->held[slot] > keep)
        kv->free_list[kv->free_count++] = row[--kv->held[slot]];
}

int32_t kv_place(const kv_pool *kv, int32_t slot, int64_t pos) {
    int32_t page = kv->table[(int64_t)slot * kv->slot_pages + pos / KV_PAGE];
    return page * KV_PAGE + (int32_t)(pos % KV_PAGE);
}
