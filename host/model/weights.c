/* SPDX-License-Identifier: Apache-2.0
 * weights: from names in files to tensors a plan can use. Every slot is found, its shape held
 * against the config's, cut to the rank's slice, and either left where the file has it or put on a
 * list of pieces that are converted in parallel into one block. */
#include "host/model/weights.h"
#include "host/base/err.h"
#include "host/base/thread.h"
#include "host/model/weights_convert.h"
#include "host/run/upload.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Slots ---- */

typedef struct {
    int64_t rows, cols; /* cols 0: a vector */
    shard_kind shard;
    bool wanted;
} slot_shape;

#define SHAPE_(slot, r, k, s, when) \
    case WEIGHT_##slot: return (slot_shape){(r), (k), s, (when)};
static slot_shape shape_of(const model_config *c, int slot) {
    switch (slot) {
        WEIGHT_MODEL_SLOTS(SHAPE_)
        WEIGHT_LAYER_SLOTS(SHAPE_)
    }
    return (slot_shape){0};
}

#define NAME_(slot, r, k, s, when) [WEIGHT_##slot] = #slot,
const char *weights_slot_name(int slot) {
    static const char *const names[] = {WEIGHT_MODEL_SLOTS(NAME_) WEIGHT_LAYER_SLOTS(NAME_)};
    return names[slot];
}

int weights_scale_slot(int slot) {
    switch (slot) {
    case WEIGHT_Q: return WEIGHT_Q_SCALE;
    case WEIGHT_K: return WEIGHT_K_SCALE;
    case WEIGHT_V: return WEIGHT_V_SCALE;
    case WEIGHT_O: return WEIGHT_O_SCALE;
    case WEIGHT_GATE: return WEIGHT_GATE_SCALE;
    case WEIGHT_UP: return WEIGHT_UP_SCALE;
    case WEIGHT_DOWN: return WEIGHT_DOWN_SCALE;
    default: return -1;
    }
}

/* The matrix whose rows a slot of scales is for; -1: it is none. */
static int scaled_slot(int slot) {
    for (int i = 0; i < WEIGHT_SLOTS; i++)
        if (weights_scale_slot(i) == slot)
            return i;
    return -1;
}

static int dtype_of(const weights *w, int slot) {
    if (scaled_slot(slot) >= 0)
        return WEFT_F32;
    return w->config->quant.weights && weights_scale_slot(slot) >= 0 ? WEFT_I8 : w->dtype;
}

#define ONE_(slot, r, k, s, when) +1
enum { MODEL_SLOTS = 0 WEIGHT_MODEL_SLOTS(ONE_) };

static bool in_row(const model_config *c, int64_t row, int slot) {
    return (row == c->n_layers) == (slot < MODEL_SLOTS);
}

static uint64_t count_of(const slot_shape *s) {
    return (uint64_t)(s->rows * (s->cols ? s->cols : 1));
}

int64_t config_parameters(const model_config *c) {
    uint64_t n = 0;
    for (int slot = 0; slot < WEIGHT_SLOTS; slot++) {
        slot_shape s = shape_of(c, slot);
        if (s.wanted && scaled_slot(slot) < 0)
            n += count_of(&s) * (slot < MODEL_SLOTS ? 1 : (uint64_t)c->n_layers);
    }
    return (int64_t)n;
}

/* Whether the rank computes with that tensor. A tied head is the embedding once more. */
static bool is_owned(const model_config *c, const shard_part *p, int slot, int64_t layer) {
    bool is_first = p->first == 0, is_last = shard_ends(p);
    if (layer < c->n_layers)
        return shard_owns(p, layer);
    if (slot == WEIGHT_EMBED)
        return is_first || (is_last && c->tied);
    return slot == WEIGHT_POSITION ? is_first : is_last;
}

weft_status weights_stages(const model_config *c, int pp, arena *a, int64_t **first) {
    int64_t *cost = ARENA_NEW(a, int64_t, c->n_layers), head = c->vocab * c->d_model;
    int64_t layers = config_parameters(c) - head * (c->tied ? 1 : 2);
    for (int64_t i = 0; i < c->n_layers; i++)
        cost[i] = layers / c->n_layers;
    *first = ARENA_NEW(a, int64_t, (pp > 0 ? pp : 0) + 1);
    return shard_stages(c->n_layers, cost, c->d_model, head, pp, *first);
}

/* ---- Where a slice comes from ---- */

/* A slice that must be written into the block, and where. `whole`: the same rows with all their
 * columns, where int8 and scales are made from floats; no data: nothing is to be made. */
typedef struct {
    weft_tensor *to;
    weight_source from, whole;
    uint64_t bytes, at;
} piece;

typedef struct {
    weights *w;
    const safetensors *st; /* NULL: shapes only */
    bool copy_all;
    piece *piece;
    int n, cap;
    bool *used; /* [ntensor] */
} loader;

static const weight_name *name_of(const weight_map *m, int slot) {
    for (int i = 0; i < m->n; i++)
        if (m->name[i].slot == slot)
            return &m->name[i];
    return NULL;
}

/* The format's only directive is %d, and it comes from our own table. */
void weights_spell(char out[WEIGHT_NAME_BYTES], const char *prefix, const char *format,
                   int64_t layer) {
    const char *d = strstr(format, "%d");
    if (d)
        snprintf(out, WEIGHT_NAME_BYTES, "%s%.*s%lld%s", prefix, (int)(d - format), format,
                 (long long)layer, d + 2);
    else
        snprintf(out, WEIGHT_NAME_BYTES, "%s%s", prefix, format);
}

static const st_tensor *find_tensor(const loader *l, const weight_name *n, int64_t layer,
                                    char name[WEIGHT_NAME_BYTES]) {
    const weight_map *m = l->w->config->weights;
    for (int i = 0; i < 4 && m->prefixes[i]; i++) {
        weights_spell(name, m->prefixes[i], n->name, layer);
        const st_tensor *t = safetensors_find(l->st, name);
        if (t)
            return t;
    }
    weights_spell(name, m->prefixes[0], n->name, layer);
    return NULL;
}

/* Tied matrices are stored once, under either name. */
static weft_status find_stored(const loader *l, int slot, int64_t layer, const weight_name **n,
                               const st_tensor **out) {
    char name[WEIGHT_NAME_BYTES], other[WEIGHT_NAME_BYTES];
    const weight_map *m = l->w->config->weights;
    *n = name_of(m, slot);
    if (!*n)
        return weft_fail(WEFT_UNSUPPORTED, "config.json: family %s keeps no %s",
                         l->w->config->family, weights_slot_name(slot));
    *out = find_tensor(l, *n, layer, name);
    if (!*out && slot == WEIGHT_EMBED && l->w->config->tied)
        *out = find_tensor(l, name_of(m, WEIGHT_HEAD), layer, other);
    if (*out)
        return WEFT_OK;
    return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" is missing; config.json asks for it",
                     l->st->path, name);
}

static void print_shape(char *out, size_t n, int ndim, const int64_t *shape) {
    size_t at = (size_t)snprintf(out, n, "[");
    for (int i = 0; i < ndim && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < n)
        snprintf(out + at, n - at, "]");
}

static weft_status check_shape(const loader *l, const st_tensor *t, const weight_name *n,
                               const slot_shape *s) {
    int64_t rows = s->rows * (n->parts > 1 ? n->parts : 1);
    int64_t want[2] = {n->transposed ? s->cols : rows, n->transposed ? rows : s->cols};
    int ndim = s->cols ? 2 : 1;
    bool column = ndim == 1 && scaled_slot(n->slot) >= 0 && t->ndim == 2 && t->shape[1] == 1;
    bool same = (t->ndim == ndim || column) && t->shape[0] == want[0] &&
                (ndim == 1 || t->shape[1] == want[1]);
    if (!same) {
        char has[192], wants[64];
        print_shape(has, sizeof has, t->ndim, t->shape);
        print_shape(wants, sizeof wants, ndim, want);
        return weft_fail(WEFT_BAD_FILE, "%s: tensor \"%s\" has shape %s; config.json says %s",
                         l->st->path, t->name, has, wants);
    }
    const quant_config *q = &l->w->config->quant;
    bool floats = t->dtype == WEFT_F32 || t->dtype == WEFT_F16 || t->dtype == WEFT_BF16;
    bool int8 = q->weights && !q->on_load && weights_scale_slot(n->slot) >= 0;
    if (int8 && t->dtype != WEFT_I8)
        return weft_fail(WEFT_BAD_FILE,
                         "%s: tensor \"%s\" is stored as %s; quantization_config of config.json "
                         "says I8",
                         l->st->path, t->name, t->dtype_name);
    if (int8 || floats)
        return WEFT_OK;
    return weft_fail(WEFT_UNSUPPORTED,
                     "%s: tensor \"%s\" is stored as %s (F32, F16 and BF16 are "
                     "supported)",
                     l->st->path, t->name, t->dtype_name);
}

/* The part of the slot's [rows, cols] that the rank's slice is. */
static weight_window window_of(const model_config *c, const shard_part *part, const slot_shape *s) {
    shard_dims d = config_shard_dims(c);
    bool whole = s->shard == SHARD_VOCAB && part->whole_vocab;
    shard_slice cut = shard_of(&d, whole ? SHARD_WHOLE : s->shard, part->tp, part->slice);
    weight_window v = {0, s->rows, 0, s->cols ? s->cols : 1};
    if (cut.axis == 0) {
        v.row = cut.begin;
        v.rows = cut.end - cut.begin;
    } else if (cut.axis == 1) {
        v.col = cut.begin;
        v.cols = cut.end - cut.begin;
    }
    return v;
}

bool weights_window(const model_config *c, const shard_part *part, int slot, int layer,
                    weight_window *out) {
    slot_shape s = shape_of(c, slot);
    *out = window_of(c, part, &s);
    return is_owned(c, part, slot, layer < 0 ? c->n_layers : layer);
}

/* Of the rows of v those the rank keeps; returns how many rows they take in memory. */
static int64_t keep_rows(const shard_part *part, const slot_shape *s, weight_window *v) {
    if (part->keepers < 2 || !s->cols)
        return v->rows;
    int64_t n = v->rows, begin = shard_first_row(n, part->keepers, part->keeper);
    v->row += begin;
    v->rows = shard_first_row(n, part->keepers, part->keeper + 1) - begin;
    return shard_first_row(n, part->keepers, 1);
}

static weight_source source_of(const st_tensor *t, const weight_name *n, const slot_shape *s,
                               weight_window v) {
    int64_t cols = s->cols ? s->cols : 1, parts = n->parts > 1 ? n->parts : 1;
    int64_t first = v.row + s->rows * n->part;
    weight_source f = {.data = t->data, .dtype = t->dtype, .rows = v.rows, .cols = v.cols};
    f.row = n->transposed ? 1 : cols;
    f.col = n->transposed ? s->rows * parts : 1;
    f.at = first * f.row + v.col * f.col;
    if (!s->cols) { /* a vector is one row */
        f.rows = 1;
        f.cols = v.rows;
    }
    return f;
}

/* ---- Views and pieces ---- */

static bool can_view(const loader *l, const weight_source *f, int dtype) {
    int64_t size = weft_dtype_bytes(f->dtype, 1);
    return !l->copy_all && f->dtype == dtype && f->col == 1 &&
           ((uintptr_t)f->data + (uintptr_t)(f->at * size)) % (uintptr_t)size == 0;
}

static void add_piece(loader *l, weft_tensor *to, const weight_source *f,
                      const weight_source *whole) {
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->piece = mem_grow(l->piece, (size_t)l->cap * sizeof *l->piece);
    }
    uint64_t bytes = (uint64_t)weft_dtype_bytes(to->dtype, weft_tensor_count(to));
    l->piece[l->n++] = (piece){.to = to, .from = *f, .whole = *whole, .bytes = bytes};
}

static weft_status check_stored(loader *l, int slot, int64_t layer, const slot_shape *s,
                                const weight_name **n, const st_tensor **t) {
    WEFT_TRY(find_stored(l, slot, layer, n, t));
    WEFT_TRY(check_shape(l, *t, *n, s));
    l->used[*t - l->st->tensor] = true;
    return WEFT_OK;
}

static weft_status place(loader *l, int slot, int64_t layer, weft_tensor *to) {
    weights *w = l->w;
    slot_shape s = shape_of(w->config, slot);
    if (!s.wanted)
        return WEFT_OK;
    weight_window v = window_of(w->config, &w->part, &s);
    bool owned = is_owned(w->config, &w->part, slot, layer);
    int64_t rows = keep_rows(&w->part, &s, &v);
    int dtype = dtype_of(w, slot), matrix = scaled_slot(slot);
    bool made = w->config->quant.on_load && (matrix >= 0 || dtype == WEFT_I8);
    const weight_name *n;
    const st_tensor *t;
    if (!owned)
        return !l->st || (made && matrix >= 0) ? WEFT_OK : check_stored(l, slot, layer, &s, &n, &t);
    *to = weft_tensor_make(dtype, s.cols ? 2 : 1, (int64_t[]){rows, v.cols});
    w->bytes += (uint64_t)weft_dtype_bytes(dtype, rows * v.cols);
    w->count += matrix < 0 ? (uint64_t)(v.rows * v.cols) : 0;
    if (!l->st)
        return WEFT_OK;
    if (made && matrix >= 0)
        s = shape_of(w->config, slot = matrix);
    WEFT_TRY(check_stored(l, slot, layer, &s, &n, &t));
    weight_source f = source_of(t, n, &s, v), whole = {0};
    if (made)
        whole = source_of(t, n, &s, (weight_window){v.row, v.rows, 0, s.cols});
    if (made || !can_view(l, &f, dtype)) {
        add_piece(l, to, &f, &whole);
        return WEFT_OK;
    }
    to->data = (void *)(uintptr_t)(f.data + weft_dtype_bytes(f.dtype, f.at));
    if (s.cols)
        to->stride[0] = f.row;
    return WEFT_OK;
}

static weft_status place_all(loader *l) {
    weights *w = l->w;
    for (int64_t row = 0; row <= w->config->n_layers; row++)
        for (int slot = 0; slot < WEIGHT_SLOTS; slot++)
            if (in_row(w->config, row, slot))
                WEFT_TRY(place(l, slot, row, &w->tensor[row * WEIGHT_SLOTS + slot]));
    return WEFT_OK;
}

/* ---- What a quantiser asks ---- */

static weft_status note_matrix(loader *l, int slot, int64_t layer, uint8_t *kind) {
    slot_shape s = shape_of(l->w->config, slot);
    const weight_name *n;
    const st_tensor *t;
    if (!s.wanted || !in_row(l->w->config, layer, slot))
        return WEFT_OK;
    WEFT_TRY(find_stored(l, slot, layer, &n, &t));
    WEFT_TRY(check_shape(l, t, n, &s));
    if (weights_scale_slot(slot) >= 0)
        kind[t - l->st->tensor] = n->transposed ? WEIGHTS_TRANSPOSED : WEIGHTS_MATRIX;
    return WEFT_OK;
}

weft_status weights_matrices(const model_config *c, const safetensors *st, uint8_t *kind) {
    weights w = {.config = c};
    loader l = {.w = &w, .st = st};
    memset(kind, WEIGHTS_OTHER, (size_t)st->ntensor);
    for (int64_t layer = 0; layer <= c->n_layers; layer++)
        for (int slot = 0; slot < WEIGHT_SLOTS; slot++)
            WEFT_TRY(note_matrix(&l, slot, layer, kind));
    return WEFT_OK;
}

/* ---- The block ---- */

/* 64 for whole cache lines, else what the elements need. */
static int alignment_of(const piece *p) {
    return p->bytes % 64 == 0 ? 64 : (int)weft_dtype_bytes(p->to->dtype, 1);
}

/* No padding, so that the block has exactly the planned size: pieces of whole cache lines first,
 * which keeps them aligned, the odd ones behind, those of wide elements before those of narrow
 * ones. */
static uint64_t lay_out(loader *l) {
    uint64_t at = 0;
    for (int align = 64; align > 0; align /= 2)
        for (int i = 0; i < l->n; i++)
            if (alignment_of(&l->piece[i]) == align) {
                l->piece[i].at = at;
                at += l->piece[i].bytes;
            }
    return at;
}

/* `rows` rows of a piece, from `row` on. */
static void convert(weft_stream *s, const piece *p, int64_t row, int64_t rows, char *to) {
    weight_source from = p->from, whole = p->whole;
    from.at += row * from.row;
    whole.at += row * whole.row;
    from.rows = whole.rows = rows;
    weight_convert(s, &from, &whole, p->to->dtype, to);
}

static weft_status fill_shared(loader *l, weft_stream *s) {
    for (int i = 0; i < l->n; i++)
        convert(s, &l->piece[i], 0, l->piece[i].from.rows, l->piece[i].to->data);
    return WEFT_OK;
}

enum { UPLOAD_BYTES = 32 << 20 }; /* long enough that starting a copy costs nothing */

static uint64_t row_bytes(const piece *p) {
    return p->bytes / (uint64_t)(p->to->ndim == 2 ? p->to->shape[0] : 1);
}

/* In portions of at most `most` rows. */
static weft_status send_piece(weft_stream *s, upload *u, const piece *p, int64_t most) {
    uint64_t each = row_bytes(p);
    for (int64_t row = 0; row < p->from.rows; row += most) {
        int64_t left = p->from.rows - row, rows = left < most ? left : most;
        char *buffer;
        WEFT_TRY(upload_buffer(u, &buffer));
        convert(s, p, row, rows, buffer);
        WEFT_TRY(upload_send(u, (char *)p->to->data + (uint64_t)row * each, (uint64_t)rows * each));
    }
    return WEFT_OK;
}

/* A buffer holds at least one row of every piece, and no more than the largest piece. */
static uint64_t upload_bytes(const loader *l) {
    uint64_t row = 0, most = 0;
    for (int i = 0; i < l->n; i++) {
        const piece *p = &l->piece[i];
        most = p->bytes > most ? p->bytes : most;
        if (p->bytes > 0)
            row = row_bytes(p) > row ? row_bytes(p) : row;
    }
    most = most < UPLOAD_BYTES ? most : UPLOAD_BYTES;
    return row > most ? row : most;
}

static weft_status send_pieces(loader *l, weft_stream *s, upload *u, uint64_t bytes) {
    for (int i = 0; i < l->n; i++) {
        const piece *p = &l->piece[i];
        if (p->bytes > 0)
            WEFT_TRY(send_piece(s, u, p, (int64_t)(bytes / row_bytes(p))));
    }
    return upload_wait(u);
}

static weft_status fill_apart(loader *l, weft_stream *s) {
    upload u;
    uint64_t bytes = upload_bytes(l);
    weft_status st = upload_open(&u, l->w->dev, bytes);
    if (st == WEFT_OK)
        st = send_pieces(l, s, &u, bytes);
    upload_close(&u);
    return st;
}

static weft_status load_pieces(loader *l) {
    weights *w = l->w;
    weft_stream *s;
    uint64_t bytes = lay_out(l);
    if (bytes == 0)
        return WEFT_OK;
    WEFT_TRY(w->dev->alloc(w->dev, bytes, "weights", &w->block));
    w->owned = bytes;
    WEFT_TRY(thread_pool_open(thread_cores(), &s));
    for (int i = 0; i < l->n; i++)
        l->piece[i].to->data = (char *)w->block + l->piece[i].at;
    weft_status st = w->dev->host_memory ? fill_shared(l, s) : fill_apart(l, s);
    thread_pool_close(s);
    return st;
}

/* ---- Opening ---- */

static bool is_ignored(const model_config *c, const char *name) {
    size_t n = strlen(name);
    for (int i = 0; i < 8 && c->weights->ignored[i]; i++) {
        size_t k = strlen(c->weights->ignored[i]);
        if (n >= k && strcmp(name + n - k, c->weights->ignored[i]) == 0)
            return true;
    }
    const weight_name *head = name_of(c->weights, WEIGHT_HEAD);
    return c->tied && head && strcmp(name, head->name) == 0;
}

static void count_unused(loader *l) {
    weights *w = l->w;
    for (int i = 0; i < l->st->ntensor; i++) {
        const char *name = l->st->tensor[i].name;
        if (l->used[i] || is_ignored(w->config, name))
            continue;
        if (w->n_unused++ == 0)
            w->unused = arena_copy(&w->mem, name, strlen(name));
    }
}

static weft_status prepare(const model_config *c, device *dev, int dtype, const shard_part *part,
                           weights *w) {
    shard_dims d = config_shard_dims(c);
    shard_part all = shard_whole(c->n_layers);
    part = part ? part : &all;
    WEFT_TRY(shard_check(&d, part->tp));
    WEFT_ASSERT(part->slice >= 0 && part->slice < part->tp && part->layers == c->n_layers);
    WEFT_ASSERT(part->keepers < 2 || (part->keeper >= 0 && part->keeper < part->keepers));
    *w = (weights){.config = c, .part = *part, .dtype = dtype, .dev = dev};
    w->tensor = ARENA_NEW(&w->mem, weft_tensor, (c->n_layers + 1) * WEIGHT_SLOTS);
    return WEFT_OK;
}

weft_status weights_describe(const model_config *c, int dtype, const shard_part *part,
                             weights *out) {
    weights w;
    WEFT_TRY(prepare(c, NULL, dtype, part, &w));
    loader l = {.w = &w};
    weft_status s = place_all(&l);
    if (s == WEFT_OK)
        *out = w;
    else
        weights_close(&w);
    return s;
}

weft_status weights_open(const model_config *c, const safetensors *st, device *dev, int dtype,
                         const shard_part *part, bool no_mmap, weights *out) {
    weights w;
    WEFT_TRY(prepare(c, dev, dtype, part, &w));
    loader l = {.w = &w, .st = st, .copy_all = no_mmap || !dev->host_memory || w.part.keepers > 1};
    l.used = mem_alloc((size_t)st->ntensor + 1);
    weft_status s = place_all(&l);
    if (s == WEFT_OK)
        s = load_pieces(&l);
    if (s == WEFT_OK)
        count_unused(&l);
    mem_free(l.used);
    mem_free(l.piece);
    if (s == WEFT_OK)
        *out = w;
    else
        weights_close(&w);
    return s;
}

/* Whole cache lines, so that every tensor begins on one. */
static uint64_t blank_bytes(const weft_tensor *t) {
    return ((uint64_t)weft_dtype_bytes(t->dtype, weft_tensor_count(t)) + 63) / 64 * 64;
}

uint64_t weights_blank_bytes(const weights *w) {
    uint64_t n = 0;
    for (int64_t i = 0; i < (w->config->n_layers + 1) * WEIGHT_SLOTS; i++)
        n += w->tensor[i].ndim ? blank_bytes(&w->tensor[i]) : 0;
    return n;
}

weft_status weights_blank(const model_config *c, device *dev, int dtype, const shard_part *part,
                          weights *out) {
    weights w;
    WEFT_TRY(weights_describe(c, dtype, part, &w));
    int64_t n = (c->n_layers + 1) * WEIGHT_SLOTS;
    uint64_t at = weights_blank_bytes(&w);
    w.dev = dev;
    weft_status s = dev->alloc(dev, at, "weights", &w.block);
    if (s != WEFT_OK) {
        weights_close(&w);
        return s;
    }
    w.owned = at;
    char *to = w.block;
    for (int64_t i = 0; i < n; i++)
        if (w.tensor[i].ndim) {
            w.tensor[i].data = to;
            to += blank_bytes(&w.tensor[i]);
        }
    *out = w;
    return WEFT_OK;
}

void weights_close(weights *w) {
    if (w->block)
        w->dev->release(w->dev, w->block, w->owned);
    arena_fini(&w->mem);
    *w = (weights){0};
}

weft_tensor weights_get(const weights *w, int slot, int layer) {
    if (slot == WEIGHT_HEAD && w->config->tied)
        slot = WEIGHT_EMBED;
    int64_t row = layer < 0 ? w->config->n_layers : layer;
    return w->tensor[row * WEIGHT_SLOTS + slot];
}

/* ---- --dtype ---- */

static int stored_most(const safetensors *st) {
    uint64_t bytes[WEFT_DTYPES] = {0};
    int best = WEFT_F32;
    for (int i = 0; i < st->ntensor; i++)
        if (st->tensor[i].dtype >= 0)
            bytes[st->tensor[i].dtype] += st->tensor[i].bytes;
    if (bytes[WEFT_BF16] > bytes[best])
        best = WEFT_BF16;
    return bytes[WEFT_F16] > bytes[best] ? WEFT_F16 : best;
}

weft_status weights_dtype(const model_config *c, const safetensors *st, const char *name,
                          int *out) {
    static const struct {
        const char *name;
        int dtype;
    } names[] = {
        {"fp32", WEFT_F32},    {"float32", WEFT_F32},   {"f32", WEFT_F32},
        {"bf16", WEFT_BF16},   {"bfloat16", WEFT_BF16}, {"fp16", WEFT_F16},
        {"float16", WEFT_F16}, {"f16", WEFT_F16},       {"half", WEFT_F16},
    };
    if (!name || strcmp(name, "auto") == 0 || strcmp(name, "int8") == 0) {
        *out = st ? stored_most(st) : c->dtype >= 0 ? c->dtype : WEFT_F32;
        return WEFT_OK;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].dtype;
            return WEFT_OK;
        }
    return weft_fail(WEFT_USAGE, "--dtype: \"%s\" (auto, fp32, bf16, fp16, int8)", name);
}
