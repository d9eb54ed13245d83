/* SPDX-License-Identifier: Apache-2.0
 * A model's tensors as its files keep them: the slots' names, fused and transposed as the family
 * does it. What writes a model walks this list. */
#include "host/base/err.h"
#include "host/model/weights.h"
#include <string.h>

/* The name st has it by; transformers puts its first prefix before all but the head. */
static void stored_name(const model_config *c, const safetensors *st, const weight_name *n,
                        int layer, char name[WEIGHT_NAME_BYTES]) {
    const weight_map *m = c->weights;
    for (int i = 0; st && i < 4 && m->prefixes[i]; i++) {
        weights_spell(name, m->prefixes[i], n->name, layer);
        if (safetensors_find(st, name))
            return;
    }
    weights_spell(name, n->slot == WEIGHT_HEAD ? "" : m->prefixes[0], n->name, layer);
}

static bool is_wanted(const weights *w, int slot, int layer) {
    int64_t row = layer < 0 ? w->config->n_layers : layer;
    return w->tensor[row * WEIGHT_SLOTS + slot].ndim != 0;
}

static bool is_scale(int slot) {
    for (int s = 0; s < WEIGHT_SLOTS; s++)
        if (weights_scale_slot(s) == slot)
            return true;
    return false;
}

static void find_parts(const weight_map *m, const weight_name *first, weight_stored *out) {
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->name[i].name, first->name) == 0)
            out->slot[m->name[i].part] = m->name[i].slot;
}

static weight_stored describe(const weights *w, const safetensors *st, const weight_name *n,
                              int layer, arena *a) {
    char name[WEIGHT_NAME_BYTES];
    weft_tensor t = weights_get(w, n->slot, layer);
    weight_stored s = {.layer = layer,
                       .parts = n->parts > 1 ? n->parts : 1,
                       .transposed = n->transposed,
                       .ndim = t.ndim};
    find_parts(w->config->weights, n, &s);
    stored_name(w->config, st, n, layer, name);
    s.name = arena_copy(a, name, strlen(name));
    s.shape[0] = t.shape[0] * s.parts;
    s.shape[1] = t.shape[1];
    if (n->transposed) {
        s.shape[0] = t.shape[1];
        s.shape[1] = t.shape[0] * s.parts;
    }
    return s;
}

int weights_stored(const model_config *c, const safetensors *st, arena *a, weight_stored **out) {
    weights w;
    const weight_map *m = c->weights;
    int n = 0;
    if (weights_describe(c, WEFT_F32, NULL, &w) != WEFT_OK)
        return 0;
    *out = ARENA_NEW(a, weight_stored, (c->n_layers + 1) * m->n);
    for (int layer = -1; layer < c->n_layers; layer++)
        for (int i = 0; i < m->n; i++)
            if (m->name[i].part == 0 && !is_scale(m->name[i].slot) &&
                is_wanted(&w, m->name[i].slot, layer))
                (*out)[n++] = describe(&w, st, &m->name[i], layer, a);
    weights_close(&w);
    return n;
}

/* Element (row, col) of a part, counted in the stored tensor. */
typedef struct {
    int64_t rows, cols, row, col, at;
} part_place;

static part_place place_of(const weight_stored *t, int part) {
    int64_t cols = t->ndim == 2 ? t->shape[1] : 1;
    if (t->transposed) {
        int64_t rows = t->shape[1] / t->parts;
        return (part_place){rows, t->shape[0], 1, t->shape[1], rows * part};
    }
    int64_t rows = t->shape[0] / t->parts;
    return (part_place){rows, cols, cols, 1, rows * part * cols};
}

static void copy_rows(const part_place *p, int size, const char *slot, char *stored, bool store) {
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t c = 0; c < p->cols; c++) {
            char *a = stored + (p->at + r * p->row + c * p->col) * size;
            char *b = (char *)(uintptr_t)slot + (r * p->cols + c) * size;
            memcpy(store ? a : b, store ? b : a, (size_t)size);
        }
}

void weights_store_part(const weight_stored *t, int part, int size, const void *slot,
                        void *stored) {
    part_place p = place_of(t, part);
    if (p.col == 1)
        memcpy((char *)stored + p.at * size, slot, (size_t)(p.rows * p.cols * size));
    else
        copy_rows(&p, size, slot, stored, true);
}

void weights_load_part(const weight_stored *t, int part, int size, void *slot, const void *stored) {
    part_place p = place_of(t, part);
    if (p.col == 1)
        memcpy(slot, (const char *)stored + p.at * size, (size_t)(p.rows * p.cols * size));
    else
        copy_rows(&p, size, slot, (char *)(uintptr_t)stored, false);
}
