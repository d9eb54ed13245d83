/* SPDX-License-Identifier: Apache-2.0
 * The files of a source, cut into documents. */
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/train/doc.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool has_suffix(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n > k && strcmp(name + n - k, suffix) == 0;
}

static bool is_jsonl(const char *name) {
    return has_suffix(name, ".jsonl") || has_suffix(name, ".ndjson") || has_suffix(name, ".json");
}

/* ---- Which files ---- */

static int by_name(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static weft_status list_folder(doc_reader *r) {
    DIR *d = opendir(r->path);
    if (!d)
        return weft_fail(WEFT_BAD_FILE, "%s: cannot read the folder: %m", r->path);
    buf found; /* char * */
    buf_init(&found, SIZE_MAX);
    for (struct dirent *e; (e = readdir(d));) {
        if (!has_suffix(e->d_name, ".txt") && !has_suffix(e->d_name, ".jsonl"))
            continue;
        char *name = file_join(&r->names, r->path, e->d_name);
        buf_add(&found, &name, sizeof name);
    }
    closedir(d);
    r->n_file = found.len / sizeof *r->file;
    r->file = ARENA_NEW(&r->names, const char *, r->n_file + 1);
    if (r->n_file)
        memcpy(r->file, found.data, found.len);
    buf_fini(&found);
    qsort(r->file, r->n_file, sizeof *r->file, by_name);
    if (r->n_file == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: no .txt or .jsonl file in the folder", r->path);
    return WEFT_OK;
}

/* What a bar counts up to; a file that cannot be read fails when its turn comes. */
static void count_bytes(doc_reader *r) {
    struct stat st;
    for (size_t i = 0; i < r->n_file; i++)
        if (stat(r->file[i], &st) == 0)
            r->bytes += st.st_size;
}

weft_status doc_open(const char *path, doc_reader *r) {
    *r = (doc_reader){0};
    r->path = arena_copy(&r->names, path, strlen(path));
    weft_status s = WEFT_OK;
    if (file_is_dir(path)) {
        s = list_folder(r);
    } else {
        r->file = ARENA_NEW(&r->names, const char *, 1);
        r->file[0] = r->path;
        r->n_file = 1;
    }
    count_bytes(r);
    if (s != WEFT_OK)
        doc_close(r);
    return s;
}

void doc_close(doc_reader *r) {
    for (size_t i = 0; i < r->n_map; i++)
        file_map_close(&r->map[i]);
    mem_free(r->map);
    arena_fini(&r->names);
    *r = (doc_reader){0};
}

void doc_release(doc_reader *r) {
    size_t keep = r->at ? 1 : 0; /* the one being read is the last */
    for (size_t i = 0; i + keep < r->n_map; i++)
        file_map_close(&r->map[i]);
    if (keep && r->n_map)
        r->map[0] = r->map[r->n_map - 1];
    r->n_map = keep;
}

/* ---- Documents ---- */

static weft_status open_next(doc_reader *r) {
    const char *path = r->file[r->next++];
    if (r->n_map == r->cap_map) {
        r->cap_map = r->cap_map ? 2 * r->cap_map : 16;
        r->map = mem_grow(r->map, r->cap_map * sizeof *r->map);
    }
    file_map *m = &r->map[r->n_map];
    WEFT_TRY(file_map_open(path, m));
    r->n_map++;
    r->at = m->data;
    r->line = 0;
    return WEFT_OK;
}

static bool is_blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", s[i]) || !s[i])
            return false;
    return true;
}

/* The line's own keys say what it is. */
static weft_status kind_of_line(const doc *d, doc_kind *out) {
    arena a = {0};
    json j;
    doc_kind kind = DOC_NONE;
    json_init(&j, arena_printf(&a, "%s:%lld", d->path, (long long)d->line), d->s, d->n, &a);
    json_object(&j);
    for (json_str key; json_key(&j, &key); json_skip(&j))
        if (json_is(key, "input_ids"))
            kind = DOC_ROW;
        else if (json_is(key, "messages") && kind != DOC_ROW)
            kind = DOC_CHAT;
        else if (json_is(key, "text") && kind == DOC_NONE)
            kind = DOC_JSON_TEXT;
    weft_status s = json_done(&j);
    if (s == WEFT_OK && kind == DOC_NONE)
        s = weft_fail(WEFT_BAD_FILE,
                      "%s:%lld: no \"text\", \"messages\" or \"input_ids\" in the object", d->path,
                      (long long)d->line);
    arena_fini(&a);
    *out = kind;
    return s;
}

static weft_status take_line(doc_reader *r, const file_map *m, doc *d) {
    const char *end = m->data + m->size;
    const char *stop = memchr(r->at, '\n', (size_t)(end - r->at));
    const char *from = r->at;
    size_t n = (size_t)((stop ? stop : end) - from);
    r->at = stop ? stop + 1 : end;
    r->read += r->at - from;
    r->line++;
    if (is_blank(from, n))
        return WEFT_OK;
    *d = (doc){.s = from, .n = n, .path = r->file[r->next - 1], .line = r->line};
    if (r->jsonl == DOC_NONE)
        WEFT_TRY(kind_of_line(d, &r->jsonl));
    d->kind = r->jsonl;
    return WEFT_OK;
}

/* One document of the open file, or none if that is at its end. */
static weft_status take(doc_reader *r, doc *d) {
    const file_map *m = &r->map[r->n_map - 1];
    const char *path = r->file[r->next - 1];
    if (!is_jsonl(path)) {
        if (m->size)
            *d = (doc){.kind = DOC_TEXT, .s = m->data, .n = m->size, .path = path};
        r->at = NULL;
        r->read += (int64_t)m->size;
        return WEFT_OK;
    }
    while (d->kind == DOC_NONE && r->at < m->data + m->size)
        WEFT_TRY(take_line(r, m, d));
    if (d->kind == DOC_NONE)
        r->at = NULL;
    return WEFT_OK;
}

static bool is_text(doc_kind k) {
    return k == DOC_TEXT || k == DOC_JSON_TEXT;
}

weft_status doc_next(doc_reader *r, doc *d) {
    *d = (doc){.kind = DOC_NONE};
    while (d->kind == DOC_NONE) {
        if (!r->at) {
            if (r->next == r->n_file)
                return WEFT_OK;
            WEFT_TRY(open_next(r));
        }
        WEFT_TRY(take(r, d));
    }
    if (r->first == DOC_NONE)
        r->first = d->kind;
    if (d->kind != r->first && is_text(d->kind) + is_text(r->first) < 2)
        return weft_fail(WEFT_BAD_FILE, "%s: is not of the kind of %s; give each as its own source",
                         d->path, r->file[0]);
    return WEFT_OK;
}
