/* SPDX-License-Identifier: Apache-2.0
 * What a micro-batch's plans are told: tokens, targets, sequences, the order of ids. */
#include "host/train/trainer.h"
#include <stdlib.h>
#include <string.h>

/* A micro-batch: rows [begin, begin + n) of the batch; the rest of the plan's rows are empty. */
typedef struct {
    trainer *t;
    int begin, n;
    int seqs;
} micro;

static int32_t *words(const trainer *t, const decoder_place *p) {
    return (int32_t *)(void *)(t->feed + p->off);
}

/* transformers shifts labels: a place is to predict the label of the next one, if that continues
 * the same document. */
static int32_t target_of(const trainer *t, int row, int i) {
    int64_t at = (int64_t)row * t->g.shape.row_tokens + i;
    if (i + 1 >= t->rows.len[row] || t->rows.pos[at + 1] == 0)
        return -1;
    int32_t label = t->rows.labels[at + 1];
    return label < 0 ? -1 : label;
}

static void feed_row(const micro *m, int r) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    int row = m->begin + r, stride = g->shape.stride, len = r < m->n ? t->rows.len[row] : 0;
    int64_t to = (int64_t)r * stride, from = (int64_t)row * g->shape.row_tokens;
    int32_t *ids = words(t, &g->io.ids), *pos = words(t, &g->io.pos);
    int32_t *target = words(t, &g->train.target), *place = words(t, &g->training.place);
    for (int i = 0; i < stride; i++) {
        bool real = i < len;
        ids[to + i] = real ? t->rows.ids[from + i] : 0;
        pos[to + i] = real ? t->rows.pos[from + i] : i - len;
        target[to + i] = real ? target_of(t, row, i) : -1;
        place[to + i] = (int32_t)(from + i);
    }
}

static void begin_seq(micro *m, int at) {
    const trainer *t = m->t;
    words(t, &t->g.io.qstart)[m->seqs] = at;
    words(t, &t->g.io.qpos)[m->seqs++] = 0;
}

/* A sequence for every document, and one for what a row does not fill. */
static void feed_seqs(micro *m) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    const int32_t *pos = words(t, &g->io.pos);
    int tokens = g->shape.tokens, stride = g->shape.stride;
    int32_t *qstart = words(t, &g->io.qstart), *kvlen = words(t, &g->io.kvlen);
    m->seqs = 0;
    for (int i = 0; i < tokens; i++)
        if (pos[i] == 0 || i % stride == 0)
            begin_seq(m, i);
    for (int i = m->seqs; i <= tokens; i++)
        qstart[i] = tokens;
    for (int i = 0; i < tokens; i++)
        kvlen[i] = qstart[i + 1] - qstart[i];
}

static void feed_work(const micro *m) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    const int32_t *qstart = words(t, &g->io.qstart);
    int32_t *work = words(t, &g->io.work), n = 0, tile = g->shape.query_tile;
    for (int s = 0; s < m->seqs; s++) {
        int32_t len = qstart[s + 1] - qstart[s];
        for (int32_t q = 0; q < len; q += tile)
            for (int32_t h = 0; h < g->shape.kv_heads; h++, n++)
                memcpy(work + 4 * (int64_t)n,
                       (int32_t[4]){s, q, len - q < tile ? len - q : tile, h}, 16);
    }
    *words(t, &g->io.nwork) = n;
}

typedef struct {
    int32_t id, row;
} ranked;

static int by_id(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static void feed_order(const trainer *t, const int32_t *ids, int32_t *order) {
    int n = t->g.shape.tokens;
    ranked *r = mem_alloc(sizeof *r * (size_t)n);
    for (int i = 0; i < n; i++)
        r[i] = (ranked){ids[i], i};
    qsort(r, (size_t)n, sizeof *r, by_id);
    for (int i = 0; i < n; i++)
        order[i] = r[i].row;
    mem_free(r);
}

weft_status trainer_send_feed(const trainer *t, int slot) {
    uint64_t bytes = t->g.bytes[WEFT_SPACE_FEED];
    char *to = (char *)t->base[WEFT_SPACE_FEED] + (uint64_t)slot * bytes;
    return t->dev->copy(t->dev, t->stream, to, t->feed, bytes, DEVICE_TO);
}

/* Dropout draws by (seed, step): a key of its own for each step. */
static void feed_key(const trainer *t) {
    uint64_t key = t->o.seed ^ ((uint64_t)t->done + 1) * 0x9E3779B97F4A7C15u;
    words(t, &t->g.training.key)[0] = (int32_t)(uint32_t)key;
    words(t, &t->g.training.key)[1] = (int32_t)(uint32_t)(key >> 32);
}

static void fill_feed(micro *m, float scale) {
    const trainer *t = m->t;
    const graph *g = &t->g;
    for (int r = 0; r < g->shape.rows; r++)
        feed_row(m, r);
    feed_seqs(m);
    feed_work(m);
    feed_order(t, words(t, &g->io.ids), words(t, &g->train.order));
    feed_order(t, words(t, &g->io.pos), words(t, &g->train.by_place));
    memcpy(t->feed + g->train.scale.off, &scale, sizeof scale);
    feed_key(t);
}

int64_t trainer_targets(const trainer *t, int rows) {
    int64_t n = 0;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < t->rows.len[r]; i++)
            n += target_of(t, r, i) >= 0;
    return n;
}

weft_status trainer_fill(trainer *t, int begin, int n, float scale, int slot) {
    micro m = {.t = t, .begin = begin, .n = n};
    fill_feed(&m, scale);
    return trainer_send_feed(t, slot);
}
