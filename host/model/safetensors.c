/* SPDX-License-Identifier: Apache-2.0
 * safetensors readers. A file is: u64 header length, JSON header, data. The header is parsed and
 * every range, shape and name checked before a tensor is shown; nothing is read or allocated from a
 * number that the file's real size does not back. We accept what the reference library accepts,
 * less: duplicate names, leading white space, more than 8 dimensions. */
#include "host/model/safetensors.h"
#include "host/base/err.h"
#include "host/base/json.h"
#include <inttypes.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HEADER_LIMIT = 100000000, /* the reference's own */
    TENSOR_LIMIT = 1 << 18,
    NAME_LIMIT = 1024,
    FILE_LIMIT = 65536,
    INDEX_LIMIT = 100000000
};

/* ---- Element types ---- */

static const struct {
    const char *name;
    int bits, dtype; /* dtype: weft_dtype or -1 */
} types[] = {
    {"F32", 32, WEFT_F32}, {"F16", 16, WEFT_F16},  {"BF16", 16, WEFT_BF16},   {"F64", 64, -1},
    {"I64", 64, WEFT_I64}, {"I32", 32, WEFT_I32},  {"I16", 16, -1},           {"I8", 8, WEFT_I8},
    {"U64", 64, -1},       {"U32", 32, -1},        {"U16", 16, -1},           {"U8", 8, -1},
    {"BOOL", 8, -1},       {"C64", 64, -1},        {"F8_E4M3", 8, WEFT_E4M3}, {"F8_E5M2", 8, -1},
    {"F8_E8M0", 8, -1},    {"F8_E4M3FNUZ", 8, -1}, {"F8_E5M2FNUZ", 8, -1},    {"F6_E2M3", 6, -1},
    {"F6_E3M2", 6, -1},    {"F4", 4, -1},
};
enum { TYPES = sizeof types / sizeof *types };

/* ---- One header ---- */

typedef struct {
    st_tensor t;
    uint64_t begin, end;
    int type;
} entry;

typedef struct {
    safetensors *set;
    json j;
    const char *path; /* for messages */
    const char *file;
    int file_index;
    const char *data; /* behind the header */
    uint64_t size;
    entry *entry;
    int n, cap;
    st_alias *meta; /* every pair of __metadata__ */
    int nmeta, cap_meta;
} header;

static void read_type(header *h, entry *e) {
    json_str s = json_string(&h->j);
    for (e->type = 0; e->type < TYPES; e->type++)
        if (json_is(s, types[e->type].name))
            break;
    if (e->type == TYPES && !json_failed(&h->j))
        json_fail(&h->j, "\"dtype\": unknown type \"%.*s\"", s.n > 40 ? 40 : (int)s.n, s.s);
}

static void read_shape(header *h, entry *e) {
    json_array(&h->j);
    e->t.ndim = 0;
    while (json_item(&h->j)) {
        int64_t n = json_int(&h->j, 0, INT64_MAX);
        if (e->t.ndim == 8)
            json_fail(&h->j, "\"shape\": more than 8 dimensions");
        else
            e->t.shape[e->t.ndim++] = n;
    }
}

static void read_offsets(header *h, entry *e) {
    uint64_t at[2] = {0, 0};
    int n = 0;
    json_array(&h->j);
    for (; json_item(&h->j); n++) {
        int64_t x = json_int(&h->j, 0, INT64_MAX);
        if (n < 2)
            at[n] = (uint64_t)x;
    }
    if (n != 2)
        json_fail(&h->j, "\"data_offsets\": two numbers are needed, not %d", n);
    else if (at[0] > at[1] || at[1] > h->size)
        json_fail(&h->j,
                  "\"data_offsets\": [%" PRIu64 ", %" PRIu64 "] (0 to the %" PRIu64
                  " bytes of data)",
                  at[0], at[1], h->size);
    e->begin = at[0];
    e->end = at[1];
}

/* Bytes of the shape in the type; false on overflow or a broken last byte. */
static bool shape_bytes(const entry *e, uint64_t *bytes) {
    uint64_t bits = (uint64_t)types[e->type].bits;
    for (int i = 0; i < e->t.ndim; i++)
        if (!mem_mul(bits, (uint64_t)e->t.shape[i], &bits))
            return false;
    *bytes = bits / 8;
    return bits % 8 == 0;
}

static void check_size(header *h, const entry *e) {
    uint64_t bytes;
    if (json_failed(&h->j))
        return;
    if (!shape_bytes(e, &bytes))
        json_fail(&h->j, "tensor \"%s\": the shape overflows or ends inside a byte", e->t.name);
    else if (bytes != e->end - e->begin)
        json_fail(&h->j,
                  "tensor \"%s\": shape and dtype need %" PRIu64 " bytes, data_offsets give "
                  "%" PRIu64,
                  e->t.name, bytes, e->end - e->begin);
}

static void read_tensor(header *h, entry *e) {
    enum { TYPE = 1, SHAPE = 2, OFFSETS = 4 };
    int seen = 0;
    json_object(&h->j);
    for (json_str key; json_key(&h->j, &key);) {
        if (json_is(key, "dtype")) {
            read_type(h, e);
            seen |= TYPE;
        } else if (json_is(key, "shape")) {
            read_shape(h, e);
            seen |= SHAPE;
        } else if (json_is(key, "data_offsets")) {
            read_offsets(h, e);
            seen |= OFFSETS;
        } else {
            json_fail(&h->j, "tensor \"%s\": unknown key \"%.*s\"", e->t.name,
                      key.n > 40 ? 40 : (int)key.n, key.s);
        }
    }
    if (seen != (TYPE | SHAPE | OFFSETS))
        json_fail(&h->j, "tensor \"%s\": dtype, shape and data_offsets are needed", e->t.name);
    check_size(h, e);
}

/* The reader checks what it skips; what it announces here is copied, so that names outlive the
 * map. */
static char *name_of(header *h, json_str s) {
    if (s.n == 0 || s.n > NAME_LIMIT || memchr(s.s, 0, s.n)) {
        json_fail(&h->j, "a name of %zu bytes (1 to %d, none of them NUL)", s.n, (int)NAME_LIMIT);
        return "";
    }
    return json_dup(&h->set->mem, s);
}

/* Values are free text: only short ones can name a tensor and are kept. */
static void read_metadata(header *h) {
    json_object(&h->j);
    for (json_str key; json_key(&h->j, &key);) {
        json_str value = json_string(&h->j);
        if (json_failed(&h->j) || key.n > NAME_LIMIT || value.n > NAME_LIMIT)
            continue;
        if (h->nmeta == TENSOR_LIMIT) {
            json_fail(&h->j, "\"__metadata__\": more than %d entries", (int)TENSOR_LIMIT);
            return;
        }
        if (h->nmeta == h->cap_meta) {
            h->cap_meta = h->cap_meta ? 2 * h->cap_meta : 16;
            h->meta = mem_grow(h->meta, (size_t)h->cap_meta * sizeof *h->meta);
        }
        h->meta[h->nmeta++] = (st_alias){json_dup(&h->set->mem, key),
                                         json_dup(&h->set->mem, value)};
    }
}

static void read_entries(header *h) {
    json_object(&h->j);
    for (json_str key; json_key(&h->j, &key);) {
        if (json_is(key, "__metadata__")) {
            read_metadata(h);
            continue;
        }
        if (h->n == TENSOR_LIMIT) {
            json_fail(&h->j, "more than %d tensors", (int)TENSOR_LIMIT);
            return;
        }
        if (h->n == h->cap) {
            h->cap = h->cap ? 2 * h->cap : 64;
            h->entry = mem_grow(h->entry, (size_t)h->cap * sizeof *h->entry);
        }
        entry *e = &h->entry[h->n++];
        *e = (entry){.t.name = name_of(h, key)};
        read_tensor(h, e);
    }
}

static int by_offset(const void *pa, const void *pb) {
    const entry *a = pa, *b = pb;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

/* The data is covered once and whole: no overlap, no hole, nothing behind the last tensor. */
static weft_status check_layout(header *h) {
    uint64_t at = 0;
    if (h->n)
        qsort(h->entry, (size_t)h->n, sizeof *h->entry, by_offset);
    for (int i = 0; i < h->n; i++) {
        const entry *e = &h->entry[i];
        if (e->begin != at)
            return weft_fail(WEFT_BAD_FILE,
                             "%s: tensor \"%s\" begins at byte %" PRIu64 " of the data; %" PRIu64
                             " expected (%s)",
                             h->path, e->t.name, e->begin, at, e->begin < at ? "overlap" : "hole");
        at = e->end;
    }
    if (at != h->size)
        return weft_fail(WEFT_BAD_FILE, "%s: %" PRIu64 " bytes behind the last tensor", h->path,
                         h->size - at);
    return WEFT_OK;
}

/* ---- Names of a set ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const st_tensor *)a)->name, ((const st_tensor *)b)->name);
}

static const st_tensor *stored(const safetensors *s, const char *name) {
    st_tensor key = {.name = name};
    return s->ntensor ? bsearch(&key, s->tensor, (size_t)s->ntensor, sizeof *s->tensor, by_name)
                      : NULL;
}

static int by_from(const void *a, const void *b) {
    return strcmp(((const st_alias *)a)->from, ((const st_alias *)b)->from);
}

const st_tensor *safetensors_find(const safetensors *s, const char *name) {
    const st_tensor *t = stored(s, name);
    if (t || !s->nalias)
        return t;
    st_alias key = {name, NULL};
    const st_alias *a = bsearch(&key, s->alias, (size_t)s->nalias, sizeof *s->alias, by_from);
    return a ? stored(s, a->to) : NULL;
}

typedef struct {
    st_tensor *tensor;
    int n, cap;
    st_alias *meta;
    int nmeta, cap_meta;
} gathered;

static void gather_metadata(gathered *g, const header *h) {
    for (int i = 0; i < h->nmeta; i++) {
        if (g->nmeta == g->cap_meta) {
            g->cap_meta = g->cap_meta ? 2 * g->cap_meta : 16;
            g->meta = mem_grow(g->meta, (size_t)g->cap_meta * sizeof *g->meta);
        }
        g->meta[g->nmeta++] = h->meta[i];
    }
}

static void gather(gathered *g, const header *h) {
    if (g->n + h->n > g->cap) {
        g->cap = g->cap > h->n ? 2 * g->cap : g->n + h->n;
        g->tensor = mem_grow(g->tensor, (size_t)g->cap * sizeof *g->tensor);
    }
    for (int i = 0; i < h->n; i++) {
        const entry *e = &h->entry[i];
        st_tensor *t = &g->tensor[g->n++];
        *t = e->t;
        t->file = h->file;
        t->file_index = h->file_index;
        t->dtype = types[e->type].dtype;
        t->dtype_name = types[e->type].name;
        t->bytes = e->end - e->begin;
        t->data = h->data + e->begin;
    }
    gather_metadata(g, h);
}

/* save_model writes {"dropped name": "kept name"} for tensors that share memory. */
static void keep_aliases(safetensors *s, const gathered *g) {
    s->alias = ARENA_NEW(&s->mem, st_alias, g->nmeta + 1);
    for (int i = 0; i < g->nmeta; i++) {
        bool from = stored(s, g->meta[i].from), to = stored(s, g->meta[i].to);
        if (to && !from)
            s->alias[s->nalias++] = g->meta[i];
        else if (from && !to)
            s->alias[s->nalias++] = (st_alias){g->meta[i].to, g->meta[i].from};
    }
    if (s->nalias)
        qsort(s->alias, (size_t)s->nalias, sizeof *s->alias, by_from);
}

static weft_status settle(safetensors *s, gathered *g) {
    s->tensor = ARENA_NEW(&s->mem, st_tensor, g->n + 1);
    if (g->n)
        memcpy(s->tensor, g->tensor, (size_t)g->n * sizeof *g->tensor);
    s->ntensor = g->n;
    if (g->n)
        qsort(s->tensor, (size_t)g->n, sizeof *s->tensor, by_name);
    for (int i = 1; i < s->ntensor; i++)
        if (strcmp(s->tensor[i - 1].name, s->tensor[i].name) == 0)
            return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" is in two shards (%s, %s)", s->path,
                             s->tensor[i].name, s->tensor[i - 1].file, s->tensor[i].file);
    keep_aliases(s, g);
    return WEFT_OK;
}

/* ---- Files ---- */

static weft_status header_size(const char *path, const char *bytes, size_t n, uint64_t *out) {
    if (n < 8)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: too short: %zu bytes (a safetensors file has at least "
                         "10)",
                         path, n);
    uint64_t size = 0;
    for (int i = 7; i >= 0; i--)
        size = size << 8 | (unsigned char)bytes[i];
    if (size > HEADER_LIMIT)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: a header of %" PRIu64 " bytes (limit %d); is it a safetensors file?",
                         path, size, (int)HEADER_LIMIT);
    if (size > n - 8)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: a header of %" PRIu64 " bytes in a file of %zu; it is "
                         "cut short",
                         path, size, n);
    if (size < 2 || bytes[8] != '{')
        return weft_fail(WEFT_BAD_FILE, "%s: the header is no JSON object", path);
    *out = size;
    return WEFT_OK;
}

static weft_status read_header(header *h, const char *bytes, size_t n) {
    uint64_t size = 0;
    arena scratch = {0}; /* the reader's key sets: not needed after */
    WEFT_TRY(header_size(h->path, bytes, n, &size));
    h->data = bytes + 8 + size;
    h->size = n - 8 - size;
    json_init(&h->j, h->path, bytes + 8, (size_t)size, &scratch);
    read_entries(h);
    weft_status s = json_done(&h->j);
    if (s == WEFT_OK)
        s = check_layout(h);
    arena_fini(&scratch);
    return s;
}

static weft_status add_file(safetensors *s, gathered *g, const char *path, const char *file,
                            int index, const char *bytes, size_t n) {
    header h = {.set = s, .path = path, .file = file, .file_index = index};
    weft_status st = read_header(&h, bytes, n);
    if (st == WEFT_OK)
        gather(g, &h);
    mem_free(h.entry);
    mem_free(h.meta);
    return st;
}

static weft_status finish(safetensors *s, gathered *g, weft_status st, safetensors *out) {
    if (st == WEFT_OK)
        st = settle(s, g);
    mem_free(g->tensor);
    mem_free(g->meta);
    if (st == WEFT_OK)
        *out = *s;
    else
        safetensors_close(s);
    return st;
}

weft_status safetensors_open_memory(const char *name, const void *data, size_t n,
                                    safetensors *out) {
    safetensors s = {0};
    gathered g = {0};
    s.path = arena_copy(&s.mem, name, strlen(name));
    s.nfile = 1;
    return finish(&s, &g, add_file(&s, &g, s.path, s.path, 0, data, n), out);
}

static weft_status map_file(safetensors *s, gathered *g, const char *path, const char *file) {
    file_map *m = &s->map[s->nfile];
    WEFT_TRY(file_map_open(path, m));
    s->nfile++;
    return add_file(s, g, path, file, s->nfile - 1, m->data, m->size);
}

static weft_status open_single(const char *path, safetensors *out) {
    safetensors s = {0};
    gathered g = {0};
    s.path = arena_copy(&s.mem, path, strlen(path));
    const char *slash = strrchr(s.path, '/');
    s.map = ARENA_NEW(&s.mem, file_map, 1);
    return finish(&s, &g, map_file(&s, &g, s.path, slash ? slash + 1 : s.path), out);
}

/* ---- Sharded sets ---- */

typedef struct {
    const char *tensor, *file;
} placement;

typedef struct {
    placement *v;
    int n, cap;
} index_map;

static bool plain_name(json_str s) {
    return s.n > 0 && s.n < 256 && s.s[0] != '.' && !memchr(s.s, '/', s.n) && !memchr(s.s, 0, s.n);
}

static void read_weight_map(json *j, arena *a, index_map *m) {
    json_object(j);
    for (json_str key; json_key(j, &key);) {
        json_str file = json_string(j);
        if (json_failed(j))
            return;
        if (!plain_name(file)) {
            json_fail(j, "\"%.*s\": \"%.*s\" is not a file name in this folder",
                      key.n > 80 ? 80 : (int)key.n, key.s, file.n > 80 ? 80 : (int)file.n, file.s);
            return;
        }
        if (key.n > NAME_LIMIT || memchr(key.s, 0, key.n) || m->n == TENSOR_LIMIT) {
            json_fail(j, "too many tensors, or too long a name");
            return;
        }
        if (m->n == m->cap) {
            m->cap = m->cap ? 2 * m->cap : 256;
            m->v = mem_grow(m->v, (size_t)m->cap * sizeof *m->v);
        }
        m->v[m->n++] = (placement){json_dup(a, key), json_dup(a, file)};
    }
}

static weft_status read_index(const char *path, arena *a, index_map *m) {
    const char *text;
    size_t n;
    bool seen = false;
    arena scratch = {0};
    weft_status s = file_read(path, INDEX_LIMIT, &scratch, &text, &n);
    if (s == WEFT_OK) {
        json j;
        json_init(&j, path, text, n, &scratch);
        json_object(&j);
        for (json_str key; json_key(&j, &key);)
            if (json_is(key, "weight_map")) {
                seen = true;
                read_weight_map(&j, a, m);
            } else {
                json_skip(&j);
            }
        s = json_done(&j);
    }
    arena_fini(&scratch);
    if (s == WEFT_OK && (!seen || m->n == 0))
        s = weft_fail(WEFT_BAD_FILE, "%s: weight_map is missing or empty", path);
    return s;
}

static int by_file(const void *a, const void *b) {
    return strcmp(((const placement *)a)->file, ((const placement *)b)->file);
}

static bool inside(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/';
}

/* A folder ".../snapshots/REVISION" of the hub's cache links to ".../blobs". */
static bool in_hub_blobs(arena *a, const char *real, const char *folder) {
    char *snapshots = dirname(arena_copy(a, folder, strlen(folder)));
    if (strcmp(strrchr(snapshots, '/') ? strrchr(snapshots, '/') + 1 : snapshots, "snapshots") != 0)
        return false;
    return inside(real, file_join(a, dirname(snapshots), "blobs"));
}

static weft_status check_inside(arena *a, const char *dir, const char *path) {
    char *folder = realpath(dir, NULL), *real = realpath(path, NULL);
    /* a file that is not there is reported when it is opened */
    bool ok = !folder || !real || inside(real, folder) || in_hub_blobs(a, real, folder);
    free(folder);
    free(real);
    return ok ? WEFT_OK : weft_fail(WEFT_BAD_FILE, "%s: links out of the model's folder", path);
}

static weft_status open_shards(safetensors *s, gathered *g, const char *dir, const index_map *m) {
    int nfile = 1;
    for (int i = 1; i < m->n; i++)
        nfile += strcmp(m->v[i - 1].file, m->v[i].file) != 0;
    if (nfile > FILE_LIMIT)
        return weft_fail(WEFT_BAD_FILE, "%s: %d shards (limit %d)", s->path, nfile,
                         (int)FILE_LIMIT);
    s->map = ARENA_NEW(&s->mem, file_map, nfile);
    for (int i = 0; i < m->n; i++) {
        if (i && strcmp(m->v[i - 1].file, m->v[i].file) == 0)
            continue;
        const char *path = file_join(&s->mem, dir, m->v[i].file);
        WEFT_TRY(check_inside(&s->mem, dir, path));
        WEFT_TRY(map_file(s, g, path, m->v[i].file));
    }
    return WEFT_OK;
}

static weft_status check_index(const safetensors *s, const index_map *m) {
    for (int i = 0; i < m->n; i++) {
        const st_tensor *t = stored(s, m->v[i].tensor);
        if (!t || strcmp(t->file, m->v[i].file) != 0)
            return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" is not in %s", s->path,
                             m->v[i].tensor, m->v[i].file);
    }
    return WEFT_OK;
}

static weft_status open_sharded(const char *dir, const char *path, safetensors *out) {
    safetensors s = {0};
    gathered g = {0};
    index_map m = {0};
    s.path = arena_copy(&s.mem, path, strlen(path));
    weft_status st = read_index(path, &s.mem, &m);
    if (st == WEFT_OK) {
        qsort(m.v, (size_t)m.n, sizeof *m.v, by_file);
        st = open_shards(&s, &g, dir, &m);
    }
    st = finish(&s, &g, st, out);
    if (st == WEFT_OK && (st = check_index(out, &m)) != WEFT_OK)
        safetensors_close(out);
    mem_free(m.v);
    return st;
}

weft_status safetensors_open(const char *path, safetensors *out) {
    if (!file_is_dir(path))
        return open_single(path, out);
    arena a = {0};
    const char *single = file_join(&a, path, "model.safetensors");
    const char *index = file_join(&a, path, "model.safetensors.index.json");
    weft_status s;
    if (file_exists(single))
        s = open_single(single, out);
    else if (file_exists(index))
        s = open_sharded(path, index, out);
    else
        s = weft_fail(WEFT_BAD_FILE,
                      "%s: no model.safetensors and no model.safetensors.index.json; weft reads "
                      "safetensors only",
                      path);
    arena_fini(&a);
    return s;
}

void safetensors_close(safetensors *s) {
    for (int i = 0; s->map && i < s->nfile; i++)
        file_map_close(&s->map[i]);
    arena_fini(&s->mem);
    *s = (safetensors){0};
}
