/* SPDX-License-Identifier: Apache-2.0
 * Token shards, written: a shard is beside its name until all of it is on the disk. */
#include "host/base/err.h"
#include "host/base/hash.h"
#include "host/train/shard.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FLUSH_BYTES = 1 << 20 };

char *shard_name(arena *a, const shard_writer *w, int number) {
    return arena_printf(a, "%s-%s-%05d.bin", w->name, w->validation ? "val" : "train", number);
}

static char *path_of(arena *a, const shard_writer *w, int number) {
    return file_join(a, w->dir, shard_name(a, w, number));
}

/* ---- What is there ---- */

static weft_status check_mine(const char *path, const shard_writer *w, const shard_head *h) {
    if (h->tokenizer != w->tokenizer || h->vocab != w->vocab || h->width != w->width ||
        h->flags != w->flags || h->first_document < w->next_document ||
        h->next_document <= h->first_document)
        return weft_fail(WEFT_BAD_FILE, "%s: is of another run; remove it or give another folder",
                         path);
    return WEFT_OK;
}

static weft_status find_shard(shard_writer *w, const char *path) {
    file_map map;
    shard_head h;
    WEFT_TRY(file_map_open(path, &map));
    weft_status s = shard_head_read(path, &map, &h);
    if (s == WEFT_OK)
        s = check_mine(path, w, &h);
    file_map_close(&map);
    if (s == WEFT_OK) {
        w->next_document = h.next_document;
        w->n++;
    }
    return s;
}

weft_status shard_writer_open(shard_writer *w) {
    arena a = {0};
    weft_status s = WEFT_OK;
    buf_init(&w->out, SIZE_MAX);
    buf_init(&w->mask, SIZE_MAX);
    buf_init(&w->doc, SIZE_MAX);
    w->fd = -1;
    for (const char *path; s == WEFT_OK && file_exists(path = path_of(&a, w, w->n));)
        s = find_shard(w, path);
    arena_fini(&a);
    return s;
}

/* ---- One shard ---- */

static weft_status flush(shard_writer *w) {
    weft_status s = file_write_fd(w->fd, w->part, w->out.data, w->out.len);
    buf_clear(&w->out);
    return s;
}

static weft_status begin(shard_writer *w, int64_t number) {
    static const char zeros[SHARD_HEADER];
    arena a = {0};
    const char *path = path_of(&a, w, w->n);
    size_t n = strlen(path) + 1;
    uint64_t zero = 0;
    w->path = mem_alloc(n);
    w->part = mem_alloc(n + 5);
    memcpy(w->path, path, n);
    snprintf(w->part, n + 5, "%s.part", path);
    arena_fini(&a);
    w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return weft_fail(WEFT_IO, "%s: cannot create: %m", w->part);
    w->head = (shard_head){.version = SHARD_VERSION,
                           .width = w->width,
                           .vocab = w->vocab,
                           .tokenizer = w->tokenizer,
                           .first_document = (uint64_t)number,
                           .flags = w->flags};
    w->mask_bits = 0;
    buf_add(&w->out, zeros, sizeof zeros);
    buf_add(&w->doc, &zero, sizeof zero);
    return WEFT_OK;
}

static void pad(buf *b, uint64_t bytes) {
    static const char zeros[8];
    buf_add(b, zeros, (size_t)(-bytes & 7));
}

static void put64(char *p, uint64_t v) {
    for (int i = 0; i < 8; i++)
        p[i] = (char)(v >> 8 * i);
}

static weft_status write_head(shard_writer *w) {
    char head[SHARD_HEADER] = "WEFTTOKS";
    const shard_head *h = &w->head;
    put64(head + 8, h->version | (uint64_t)h->width << 32);
    put64(head + 16, h->vocab);
    put64(head + 24, h->tokenizer);
    put64(head + 32, h->tokens);
    put64(head + 40, h->documents);
    put64(head + 48, h->first_document);
    put64(head + 56, h->next_document);
    put64(head + 64, h->flags);
    if (lseek(w->fd, 0, SEEK_SET) != 0)
        return weft_fail(WEFT_IO, "%s: cannot seek: %m", w->part);
    return file_write_fd(w->fd, w->part, head, sizeof head);
}

static weft_status write_rest(shard_writer *w) {
    pad(&w->out, w->head.tokens * w->width);
    if (w->flags & SHARD_MASK) {
        buf_add(&w->out, w->mask.data, w->mask.len);
        pad(&w->out, w->mask.len);
    }
    buf_add(&w->out, w->doc.data, w->doc.len);
    WEFT_TRY(flush(w));
    WEFT_TRY(write_head(w));
    if (fsync(w->fd) != 0)
        return weft_fail(WEFT_IO, "%s: cannot write to disk: %m", w->part);
    return WEFT_OK;
}

static weft_status sync_folder(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return weft_fail(WEFT_IO, "%s: cannot open: %m", dir);
    bool bad = fsync(fd) != 0 && errno != EINVAL;
    close(fd);
    return bad ? weft_fail(WEFT_IO, "%s: cannot write the folder to disk: %m", dir) : WEFT_OK;
}

static void forget(shard_writer *w) {
    mem_free(w->path);
    mem_free(w->part);
    w->path = w->part = NULL;
    w->fd = -1;
    buf_clear(&w->out);
    buf_clear(&w->mask);
    buf_clear(&w->doc);
}

weft_status shard_writer_finish(shard_writer *w) {
    if (w->fd < 0)
        return WEFT_OK;
    WEFT_TRY(write_rest(w));
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0)
        return weft_fail(WEFT_IO, "%s: cannot write: %m", w->part);
    if (rename(w->part, w->path) != 0)
        return weft_fail(WEFT_IO, "%s: cannot rename into place: %m", w->part);
    WEFT_TRY(sync_folder(w->dir));
    w->next_document = w->head.next_document;
    w->n++;
    forget(w);
    return WEFT_OK;
}

void shard_writer_fini(shard_writer *w) {
    if (w->fd >= 0)
        close(w->fd);
    if (w->part)
        unlink(w->part);
    forget(w);
    buf_fini(&w->out);
    buf_fini(&w->mask);
    buf_fini(&w->doc);
}

/* ---- Documents ---- */

static void add_mask(shard_writer *w, const int32_t *labels, size_t n) {
    for (size_t i = 0; i < n; i++, w->mask_bits++) {
        if (w->mask_bits % 8 == 0)
            buf_putc(&w->mask, 0);
        if (!labels || labels[i] != DATA_IGNORED)
            w->mask.data[w->mask_bits / 8] |= (char)(1 << w->mask_bits % 8);
    }
}

static void add_ids(shard_writer *w, const int32_t *ids, size_t n) {
    if (w->width == 4) {
        buf_add(&w->out, ids, n * sizeof *ids);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t id = (uint16_t)ids[i];
        buf_add(&w->out, &id, sizeof id);
    }
}

weft_status shard_writer_add(shard_writer *w, int64_t number, const int32_t *ids,
                             const int32_t *labels, size_t n) {
    if (n == 0 || (uint64_t)number < w->next_document)
        return WEFT_OK;
    if (w->fd < 0)
        WEFT_TRY(begin(w, number));
    add_ids(w, ids, n);
    if (w->flags & SHARD_MASK)
        add_mask(w, labels, n);
    w->head.tokens += n;
    w->head.documents++;
    w->head.next_document = (uint64_t)number + 1;
    buf_add(&w->doc, &w->head.tokens, sizeof w->head.tokens);
    if (w->out.len >= FLUSH_BYTES)
        WEFT_TRY(flush(w));
    return w->head.tokens >= w->limit ? shard_writer_finish(w) : WEFT_OK;
}

/* ---- The manifest ---- */

weft_status shard_entry_of(arena *a, const shard_writer *w, int number, shard_entry *out) {
    const char *path = path_of(a, w, number);
    file_map map;
    shard_head h;
    WEFT_TRY(file_map_open(path, &map));
    weft_status s = shard_head_read(path, &map, &h);
    if (s == WEFT_OK)
        *out = (shard_entry){.file = shard_name(a, w, number),
                             .validation = w->validation,
                             .tokens = (int64_t)h.tokens,
                             .documents = (int64_t)h.documents,
                             .bytes = (int64_t)map.size,
                             .xxh3 = hash_xxh3(map.data, map.size)};
    file_map_close(&map);
    return s;
}

static void put_entry(buf *b, const shard_entry *e) {
    buf_puts(b, "\n    {\"file\": ");
    buf_json_string(b, e->file, strlen(e->file));
    buf_printf(b,
               ", \"validation\": %s, \"tokens\": %lld, \"documents\": %lld, \"bytes\": %lld, "
               "\"xxh3\": \"%016llx\"}",
               e->validation ? "true" : "false", (long long)e->tokens, (long long)e->documents,
               (long long)e->bytes, (unsigned long long)e->xxh3);
}

weft_status shard_manifest_write(const char *dir, const shard_manifest *m) {
    arena a = {0};
    buf b;
    buf_init(&b, SIZE_MAX);
    buf_printf(&b,
               "{\"version\": %d, \"vocab_size\": %d, \"tokenizer\": \"%016llx\", \"rows\": %s,\n"
               " \"sources\": [",
               SHARD_VERSION, (int)m->vocab, (unsigned long long)m->tokenizer,
               m->own_rows ? "true" : "false");
    for (int i = 0; i < m->n; i++) {
        const shard_source *s = &m->source[i];
        buf_puts(&b, i ? ",\n  {\"name\": " : "\n  {\"name\": ");
        buf_json_string(&b, s->name, strlen(s->name));
        if (s->weight > 0) {
            buf_puts(&b, ", \"weight\": ");
            buf_json_double(&b, s->weight);
        }
        buf_puts(&b, ", \"shards\": [");
        for (int k = 0; k < s->n; k++) {
            buf_puts(&b, k ? "," : "");
            put_entry(&b, &s->shard[k]);
        }
        buf_puts(&b, "]}");
    }
    buf_puts(&b, "]}\n");
    weft_status s = file_write_atomic(file_join(&a, dir, "manifest.json"), b.data, b.len);
    buf_fini(&b);
    arena_fini(&a);
    return s;
}
