/* SPDX-License-Identifier: Apache-2.0
 * Token shards and rows of a JSONL. A shard that is accepted has only ids below its vocabulary, in
 * documents that follow one another inside it; a row that is accepted reads back as itself. */
#include "host/base/err.h"
#include "host/train/data.h"
#include "host/train/doc.h"
#include "host/train/shard.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t id_at(const data_part *p, uint64_t i) {
    return p->width == 2 ? ((const uint16_t *)p->ids)[i] : ((const uint32_t *)p->ids)[i];
}

static void check_shard(const shard_head *h, const data_part *p) {
    uint64_t at = 0;
    for (int64_t d = 0; d < p->n_doc; d++) {
        WEFT_ASSERT(p->doc[d] == at && p->doc[d + 1] > at);
        for (; at < p->doc[d + 1]; at++)
            WEFT_ASSERT(id_at(p, at) < h->vocab && (!p->mask || p->mask[at / 8] <= 255));
    }
    WEFT_ASSERT(at == h->tokens);
}

static void try_shard(const uint8_t *data, size_t size) {
    uint64_t *copy = mem_alloc(size + 8); /* aligned, as a mapping is */
    memcpy(copy, data, size);
    file_map map = {.data = (const char *)copy, .size = size};
    shard_head h;
    data_part p;
    if (shard_parse("fuzz", &map, &h, &p) == WEFT_OK)
        check_shard(&h, &p);
    else
        WEFT_ASSERT(strncmp(err_message(), "fuzz:", 5) == 0);
    mem_free(copy);
}

static void put_ids(buf *b, const char *key, const tok_ids *ids) {
    buf_printf(b, "\"%s\": [", key);
    for (size_t i = 0; i < ids->n; i++)
        buf_printf(b, "%s%d", i ? "," : "", (int)ids->v[i]);
    buf_putc(b, ']');
}

static void expect_same(const tok_ids *a, const tok_ids *b) {
    WEFT_ASSERT(a->n == b->n && (a->n == 0 || memcmp(a->v, b->v, a->n * sizeof *a->v) == 0));
}

static void read_again(const doc_tokens *t) {
    buf b;
    doc_tokens again = {0};
    buf_init(&b, SIZE_MAX);
    buf_putc(&b, '{');
    put_ids(&b, "input_ids", &t->ids);
    if (t->labels.n) {
        buf_putc(&b, ',');
        put_ids(&b, "labels", &t->labels);
    }
    buf_putc(&b, '}');
    doc d = {.kind = DOC_ROW, .s = b.data, .n = b.len, .path = "again", .line = 1};
    WEFT_ASSERT(doc_row(&d, &again) == WEFT_OK);
    expect_same(&t->ids, &again.ids);
    expect_same(&t->labels, &again.labels);
    doc_tokens_fini(&again);
    buf_fini(&b);
}

static void try_row(const uint8_t *data, size_t size) {
    doc d = {.kind = DOC_ROW, .s = (const char *)data, .n = size, .path = "fuzz", .line = 1};
    doc_tokens t = {0};
    if (doc_row(&d, &t) == WEFT_OK) {
        WEFT_ASSERT(t.ids.n > 0 && (t.labels.n == 0 || t.labels.n == t.ids.n));
        for (size_t i = 0; i < t.ids.n; i++)
            WEFT_ASSERT(t.ids.v[i] >= 0);
        for (size_t i = 0; i < t.labels.n; i++)
            WEFT_ASSERT(t.labels.v[i] >= 0 || t.labels.v[i] == DATA_IGNORED);
        read_again(&t);
    } else {
        WEFT_ASSERT(strncmp(err_message(), "fuzz:", 5) == 0);
    }
    doc_tokens_fini(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    err_clear();
    if (size > 4 && memcmp(data, "WEFT", 4) == 0)
        try_shard(data, size);
    else
        try_row(data, size);
    return 0;
}
