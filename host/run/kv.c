/* SPDX-License-Identifier: Apache-2.0
 * The page table of the KV cache. */
#include "host/run/kv.h"
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/base/mem.h"
#include <string.h>

static int32_t pages_for(int64_t tokens) {
    return (int32_t)((tokens + KV_PAGE - 1) / KV_PAGE);
}

static int32_t *row_of(const kv_pool *kv, int32_t slot) {
    return kv->table + (int64_t)slot * kv->slot_pages;
}

/* ---- Available pages ---- */

static void link_behind(kv_pool *kv, int32_t p, int32_t before) {
    int32_t after = kv->page[before].after;
    kv->page[p].before = before;
    kv->page[p].after = after;
    kv->page[before].after = p;
    kv->page[after].before = p;
    kv->free_count++;
}

static void detach(kv_pool *kv, int32_t p) {
    kv->page[kv->page[p].before].after = kv->page[p].after;
    kv->page[kv->page[p].after].before = kv->page[p].before;
    kv->free_count--;
}

void kv_init(kv_pool *kv, int32_t pages, int32_t slots, int32_t slot_pages, bool share) {
    *kv = (kv_pool){.pages = pages,
                    .slots = slots,
                    .slot_pages = slot_pages,
                    .share = share,
                    .buckets = share ? 16 : 1};
    while (share && kv->buckets < (uint32_t)pages)
        kv->buckets *= 2;
    kv->page = mem_alloc(sizeof(kv_page) * ((size_t)pages + 1));
    kv->table = mem_alloc(sizeof(int32_t) * (size_t)slots * (size_t)slot_pages);
    kv->held = mem_alloc(sizeof(int32_t) * (size_t)slots);
    kv->bucket = mem_alloc(sizeof(int32_t) * kv->buckets);
    memset(kv->bucket, 0xff, sizeof(int32_t) * kv->buckets);
    kv->page[pages].before = kv->page[pages].after = pages;
    for (int32_t i = 0; i < pages; i++)
        link_behind(kv, i, kv->page[pages].before);
}

void kv_fini(kv_pool *kv) {
    mem_free(kv->page);
    mem_free(kv->table);
    mem_free(kv->held);
    mem_free(kv->bucket);
}

/* ---- Published pages ---- */

static uint32_t bucket_of(const kv_pool *kv, uint64_t parent, const int32_t *token) {
    char key[sizeof parent + sizeof(int32_t) * KV_PAGE];
    memcpy(key, &parent, sizeof parent);
    memcpy(key + sizeof parent, token, sizeof(int32_t) * KV_PAGE);
    return (uint32_t)hash_xxh3(key, sizeof key) & (kv->buckets - 1);
}

static int32_t find(const kv_pool *kv, uint64_t parent, const int32_t *token) {
    int32_t p = kv->bucket[bucket_of(kv, parent, token)];
    while (p >= 0 && (kv->page[p].parent != parent ||
                      memcmp(kv->page[p].token, token, sizeof kv->page[p].token) != 0))
        p = kv->page[p].same;
    return p;
}

static void publish(kv_pool *kv, int32_t p, uint64_t parent, const int32_t *token) {
    kv_page *page = &kv->page[p];
    int32_t *first = &kv->bucket[bucket_of(kv, parent, token)];
    page->serial = ++kv->serials;
    page->parent = parent;
    memcpy(page->token, token, sizeof page->token);
    page->same = *first;
    *first = p;
}

static void withdraw(kv_pool *kv, int32_t p) {
    kv_page *page = &kv->page[p];
    int32_t *at = &kv->bucket[bucket_of(kv, page->parent, page->token)];
    while (*at != p)
        at = &kv->page[*at].same;
    *at = page->same;
    page->serial = 0;
}

/* ---- Who holds what ---- */

static int32_t take(kv_pool *kv) {
    int32_t p = kv->page[kv->pages].after;
    detach(kv, p);
    if (kv->page[p].serial)
        withdraw(kv, p);
    kv->page[p].refs = 1;
    return p;
}

static void hold(kv_pool *kv, int32_t p) {
    if (kv->page[p].refs++ == 0)
        detach(kv, p);
}

static void let_go(kv_pool *kv, int32_t p) {
    kv_page *page = &kv->page[p];
    if (--page->refs == 0)
        link_behind(kv, p, page->serial ? kv->page[kv->pages].before : kv->pages);
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
    int32_t *row = row_of(kv, slot);
    while (need-- > 0)
        row[kv->held[slot]++] = take(kv);
    return WEFT_OK;
}

/* The last page first, so that the one used least recently is never a parent of another. */
int32_t kv_truncate(kv_pool *kv, int32_t slot, int32_t tokens) {
    int32_t keep = pages_for(tokens);
    const int32_t *row = row_of(kv, slot);
    while (kv->held[slot] > keep)
        let_go(kv, row[--kv->held[slot]]);
    int32_t last = keep > 0 && kv->held[slot] == keep ? row[keep - 1] : -1;
    if (tokens % KV_PAGE == 0 || last < 0 || !kv->page[last].serial)
        return tokens;
    if (kv->page[last].refs == 1) {
        withdraw(kv, last); /* to be written to again */
        return tokens;
    }
    let_go(kv, row[--kv->held[slot]]);
    return (keep - 1) * KV_PAGE;
}

int32_t kv_place(const kv_pool *kv, int32_t slot, int64_t pos) {
    int32_t page = row_of(kv, slot)[pos / KV_PAGE];
    return page * KV_PAGE + (int32_t)(pos % KV_PAGE);
}

/* ---- Sharing ---- */

static uint64_t serial_before(const kv_pool *kv, const int32_t *row, int32_t i) {
    return i > 0 ? kv->page[row[i - 1]].serial : 0;
}

int32_t kv_reuse(kv_pool *kv, int32_t slot, const int32_t *token, int32_t computed, int32_t n) {
    int32_t *row = row_of(kv, slot), i = computed / KV_PAGE;
    bool whole = computed % KV_PAGE == 0 && kv->held[slot] == i;
    if (!kv->share || !whole || (i > 0 && !serial_before(kv, row, i)))
        return computed;
    for (; (i + 1) * KV_PAGE <= n; i++) {
        int32_t p = find(kv, serial_before(kv, row, i), token + (int64_t)i * KV_PAGE);
        if (p < 0)
            break;
        hold(kv, p);
        row[kv->held[slot]++] = p;
    }
    return i * KV_PAGE;
}

void kv_publish(kv_pool *kv, int32_t slot, const int32_t *token, int32_t computed) {
    int32_t *row = row_of(kv, slot), full = computed / KV_PAGE, i = full;
    while (i > 0 && !kv->page[row[i - 1]].serial)
        i--;
    for (; kv->share && i < full; i++) {
        const int32_t *words = token + (int64_t)i * KV_PAGE;
        uint64_t parent = serial_before(kv, row, i);
        int32_t p = find(kv, parent, words);
        if (p < 0) {
            publish(kv, row[i], parent, words);
        } else {
            hold(kv, p);
            let_go(kv, row[i]);
            row[i] = p;
        }
    }
}
