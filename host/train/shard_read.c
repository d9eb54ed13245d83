/* SPDX-License-Identifier: Apache-2.0
 * Token shards, read: nothing of a file is believed before it is checked. */
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/base/json.h"
#include "host/train/shard.h"
#include <math.h>
#include <string.h>

static const char magic[8] = {'W', 'E', 'F', 'T', 'T', 'O', 'K', 'S'};
enum { MANIFEST_MAX = 256 << 20 };

/* ---- Tokenizers ---- */

uint64_t shard_tokenizer_hash(const tokenizer *t) {
    static const char probe[] =
        "It's 1234567 e\xcc\x81t\xc3\xa9s,  \t two  spaces\n\n\n<|endoftext|>"
        "</s> \xe4\xbd\xa0\xe5\xa5\xbd! CamelCase HTTPServer x=f(y);\r\n";
    hash_stream *h = hash_open();
    for (int32_t id = 0; id < tokenizer_vocab_size(t); id++) {
        uint64_t n;
        const char *s = tokenizer_piece(t, id, &n);
        uint64_t head = n << 2 | (uint64_t)(s != NULL) << 1 | tokenizer_is_special(t, id);
        hash_add(h, &head, sizeof head);
        hash_add(h, s, n);
    }
    tok_ids ids = {0};
    if (tokenizer_encode(t, probe, sizeof probe - 1, TOK_SPECIAL, &ids) == WEFT_OK)
        hash_add(h, ids.v, ids.n * sizeof *ids.v);
    tok_ids_fini(&ids);
    uint64_t v = hash_value(h);
    hash_close(h);
    return v;
}

/* ---- The manifest ---- */

bool shard_is_folder(const char *dir) {
    arena a = {0};
    bool is = file_is_dir(dir) && !file_exists(file_join(&a, dir, "config.json")) &&
              (file_exists(file_join(&a, dir, "manifest.json")) ||
               file_exists(file_join(&a, dir, "inputs.json")));
    arena_fini(&a);
    return is;
}

static uint64_t read_hash(json *j) {
    json_str s = json_string(j);
    uint64_t v = 0;
    bool ok = s.n == 16;
    for (size_t i = 0; ok && i < s.n; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *at = s.s[i] ? strchr(digits, s.s[i]) : NULL;
        ok = at != NULL;
        v = v << 4 | (at ? (uint64_t)(at - digits) : 0);
    }
    if (!ok && !json_failed(j))
        json_fail(j, "no hash of 16 hexadecimal digits");
    return v;
}

static char *read_name(json *j) {
    char *s = json_text(j);
    if (!json_failed(j) && (!*s || *s == '.' || strchr(s, '/')))
        json_fail(j, "\"%s\" is no file name of the folder", s);
    return s;
}

static void read_shard(json *j, buf *to) {
    shard_entry e = {.tokens = -1, .documents = -1, .bytes = -1};
    bool hashed = false;
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "file")) {
            e.file = read_name(j);
        } else if (json_is(key, "validation")) {
            e.validation = json_bool(j);
        } else if (json_is(key, "tokens")) {
            e.tokens = json_int(j, 1, INT64_MAX / 8);
        } else if (json_is(key, "documents")) {
            e.documents = json_int(j, 1, INT64_MAX / 16);
        } else if (json_is(key, "bytes")) {
            e.bytes = json_int(j, SHARD_HEADER, INT64_MAX);
        } else if (json_is(key, "xxh3")) {
            e.xxh3 = read_hash(j);
            hashed = true;
        } else {
            json_skip(j);
        }
    }
    if (!json_failed(j) && (!e.file || e.tokens < 0 || e.documents < 0 || e.bytes < 0 || !hashed))
        json_fail(j, "a shard lacks file, tokens, documents, bytes or xxh3");
    buf_add(to, &e, sizeof e);
}

static void *copy_out(arena *a, const buf *b) {
    void *p = arena_alloc(a, b->len + 1);
    if (b->len)
        memcpy(p, b->data, b->len);
    return p;
}

static void read_source(json *j, buf *to) {
    shard_source s = {.name = NULL};
    buf shards;
    buf_init(&shards, SIZE_MAX);
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "name")) {
            s.name = json_text(j);
        } else if (json_is(key, "weight")) {
            s.weight = json_double(j);
            if (!json_failed(j) && !(s.weight > 0))
                json_fail(j, "weight: not above 0");
        } else if (json_is(key, "shards")) {
            json_array(j);
            while (json_item(j))
                read_shard(j, &shards);
        } else {
            json_skip(j);
        }
    }
    if (!json_failed(j) && !s.name)
        json_fail(j, "a source has no name");
    s.n = (int)(shards.len / sizeof *s.shard);
    s.shard = copy_out(j->arena, &shards);
    buf_fini(&shards);
    buf_add(to, &s, sizeof s);
}

static void read_manifest(json *j, shard_manifest *m) {
    buf sources;
    buf_init(&sources, SIZE_MAX);
    int64_t version = 0;
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        if (json_is(key, "version")) {
            version = json_int(j, 0, INT32_MAX);
            if (!json_failed(j) && version != SHARD_VERSION)
                json_fail(j, "version %lld; this weft reads %d", (long long)version, SHARD_VERSION);
        } else if (json_is(key, "vocab_size")) {
            m->vocab = (int32_t)json_int(j, 1, 1 << 30);
        } else if (json_is(key, "tokenizer")) {
            m->tokenizer = read_hash(j);
        } else if (json_is(key, "rows")) {
            m->own_rows = json_bool(j);
        } else if (json_is(key, "sources")) {
            json_array(j);
            while (json_item(j))
                read_source(j, &sources);
        } else {
            json_skip(j);
        }
    }
    if (!json_failed(j) && (!version || !m->vocab || !sources.len))
        json_fail(j, "no manifest of token shards (version, vocab_size and sources)");
    m->n = (int)(sources.len / sizeof *m->source);
    m->source = copy_out(j->arena, &sources);
    buf_fini(&sources);
}

weft_status shard_manifest_read(const char *dir, arena *a, shard_manifest *out) {
    const char *path = file_join(a, dir, "manifest.json"), *text;
    size_t n;
    json j;
    if (!file_exists(path))
        return weft_fail(WEFT_BAD_FILE,
                         "%s: its shards are not finished; run the same `weft data` again", dir);
    WEFT_TRY(file_read(path, MANIFEST_MAX, a, &text, &n));
    *out = (shard_manifest){0};
    json_init(&j, path, text, n, a);
    read_manifest(&j, out);
    return json_done(&j);
}

/* ---- A shard ---- */

typedef struct {
    uint64_t mask, doc, end; /* where the mask and the offsets begin, and the file's size */
} layout;

static uint64_t up8(uint64_t n) {
    return (n + 7) & ~(uint64_t)7;
}

/* Counts are below 2^60, so nothing overflows. */
static layout layout_of(const shard_head *h) {
    layout l;
    l.mask = SHARD_HEADER + up8(h->tokens * h->width);
    l.doc = l.mask + (h->flags & SHARD_MASK ? up8((h->tokens + 7) / 8) : 0);
    l.end = l.doc + 8 * (h->documents + 1);
    return l;
}

static uint64_t get64(const char *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | (unsigned char)p[i];
    return v;
}

weft_status shard_head_read(const char *path, const file_map *map, shard_head *h) {
    const char *p = map->data;
    if (map->size < SHARD_HEADER || memcmp(p, magic, sizeof magic) != 0)
        return weft_fail(WEFT_BAD_FILE, "%s: no token shard (its first bytes are not WEFTTOKS)",
                         path);
    *h = (shard_head){.version = (uint32_t)get64(p + 8),
                      .width = (uint32_t)(get64(p + 8) >> 32),
                      .vocab = get64(p + 16),
                      .tokenizer = get64(p + 24),
                      .tokens = get64(p + 32),
                      .documents = get64(p + 40),
                      .first_document = get64(p + 48),
                      .next_document = get64(p + 56),
                      .flags = get64(p + 64)};
    if (h->version != SHARD_VERSION)
        return weft_fail(WEFT_BAD_FILE, "%s: version %u; this weft reads %d", path, h->version,
                         SHARD_VERSION);
    if ((h->width != 2 && h->width != 4) || h->vocab == 0 || h->vocab >> 31 ||
        (h->width == 2 && h->vocab > 65536) || h->flags > SHARD_MASK)
        return weft_fail(WEFT_BAD_FILE, "%s: ids of %u bytes, vocabulary %llu, flags %llu", path,
                         h->width, (unsigned long long)h->vocab, (unsigned long long)h->flags);
    if (h->tokens >> 56 || h->documents >> 56 || layout_of(h).end != map->size)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: %zu bytes do not fit its %llu tokens and %llu documents; it is cut "
                         "off or damaged",
                         path, map->size, (unsigned long long)h->tokens,
                         (unsigned long long)h->documents);
    return WEFT_OK;
}

static weft_status check_ids(const char *path, const shard_head *h, const data_part *p) {
    uint32_t vocab = (uint32_t)h->vocab;
    for (uint64_t i = 0; i < h->tokens; i++) {
        uint32_t id = h->width == 2 ? ((const uint16_t *)p->ids)[i] : ((const uint32_t *)p->ids)[i];
        if (id >= vocab)
            return weft_fail(WEFT_BAD_FILE, "%s: id %u at token %llu; the vocabulary has %u", path,
                             id, (unsigned long long)i, vocab);
    }
    return WEFT_OK;
}

static weft_status check_documents(const char *path, const shard_head *h, const uint64_t *doc) {
    bool ok = doc[0] == 0 && doc[h->documents] == h->tokens;
    for (uint64_t i = 0; ok && i < h->documents; i++)
        ok = doc[i] < doc[i + 1];
    return ok ? WEFT_OK
              : weft_fail(WEFT_BAD_FILE, "%s: the offsets of its documents do not ascend", path);
}

static weft_status check_entry(const char *path, const shard_manifest *m, const shard_entry *e,
                               const shard_head *h) {
    if (h->vocab != (uint64_t)m->vocab || h->tokenizer != m->tokenizer)
        return weft_fail(WEFT_BAD_FILE, "%s: made with another tokenizer than the manifest's",
                         path);
    if (h->tokens != (uint64_t)e->tokens || h->documents != (uint64_t)e->documents)
        return weft_fail(WEFT_BAD_FILE, "%s: its counts are not the manifest's", path);
    return WEFT_OK;
}

weft_status shard_parse(const char *path, const file_map *map, shard_head *h, data_part *out) {
    WEFT_TRY(shard_head_read(path, map, h));
    layout l = layout_of(h);
    *out = (data_part){.ids = map->data + SHARD_HEADER,
                       .mask = h->flags & SHARD_MASK ? (const uint8_t *)map->data + l.mask : NULL,
                       .doc = (const uint64_t *)(const void *)(map->data + l.doc),
                       .n_doc = (int64_t)h->documents,
                       .n = (int64_t)h->tokens,
                       .width = (int)h->width};
    WEFT_TRY(check_documents(path, h, out->doc));
    return check_ids(path, h, out);
}

static weft_status check_shard(const char *path, const shard_manifest *m, const shard_entry *e,
                               const file_map *map, data_part *out) {
    shard_head h;
    if (map->size != (uint64_t)e->bytes)
        return weft_fail(WEFT_BAD_FILE, "%s: %zu bytes; the manifest says %lld", path, map->size,
                         (long long)e->bytes);
    if (hash_xxh3(map->data, map->size) != e->xxh3)
        return weft_fail(WEFT_BAD_FILE, "%s: its hash is not the manifest's; it is damaged", path);
    WEFT_TRY(shard_parse(path, map, &h, out));
    return check_entry(path, m, e, &h);
}

weft_status shard_map(const char *dir, const shard_manifest *m, const shard_entry *e, file_map *map,
                      data_part *out) {
    arena a = {0};
    const char *path = file_join(&a, dir, e->file);
    weft_status s = file_map_open(path, map);
    if (s == WEFT_OK) {
        s = check_shard(path, m, e, map, out);
        if (s != WEFT_OK)
            file_map_close(map);
    }
    arena_fini(&a);
    return s;
}
