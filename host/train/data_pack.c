/* SPDX-License-Identifier: Apache-2.0
 * Pieces of documents placed whole in rows: best fit of the longest first (Johnson, "Near-optimal
 * bin packing algorithms", 1973), or next fit where the order of the file is to be kept. */
#include "host/base/mem.h"
#include "host/train/data_source.h"
#include <string.h>

/* Stable and linear: pieces by length, the longest first. */
static void sort_pieces(data_source *s) {
    int64_t n = s->n_row;
    uint64_t *at = mem_alloc(((size_t)s->T + 2) * sizeof *at);
    data_piece *sorted = mem_alloc((size_t)n * sizeof *sorted + 1);
    for (int64_t i = 0; i < n; i++)
        at[(uint32_t)s->T - s->piece[i].n + 1]++;
    for (int k = 0; k < s->T; k++)
        at[k + 1] += at[k];
    for (int64_t i = 0; i < n; i++)
        sorted[at[(uint32_t)s->T - s->piece[i].n]++] = s->piece[i];
    mem_free(s->piece);
    mem_free(at);
    s->piece = sorted;
}

/* Rows by the room they have left: a list for each room from 0 to T, and over these a tree of
 * "some list below is not empty". */
typedef struct {
    int leaves;    /* a power of two above T */
    uint8_t *some; /* 2 * leaves */
    int64_t *head; /* by room, -1: none */
    int64_t *next; /* by row */
} rooms;

static void mark(rooms *r, int room, bool some) {
    for (int k = room + r->leaves; k; k /= 2)
        r->some[k] = k >= r->leaves ? some : r->some[2 * k] || r->some[2 * k + 1];
}

static void put_row(rooms *r, int64_t row, int room) {
    r->next[row] = r->head[room];
    r->head[room] = row;
    mark(r, room, true);
}

/* The smallest room of at least `least` that a row has, or -1. */
static int find_room(const rooms *r, int least) {
    int k = least + r->leaves;
    while (!r->some[k]) {
        while (k & 1)
            k /= 2;
        if (k == 0)
            return -1;
        k++;
    }
    while (k < r->leaves)
        k = r->some[2 * k] ? 2 * k : 2 * k + 1;
    return k - r->leaves;
}

static int64_t take_row(rooms *r, int room) {
    int64_t row = r->head[room];
    r->head[room] = r->next[row];
    if (r->head[room] < 0)
        mark(r, room, false);
    return row;
}

static int64_t best_fit(const data_source *s, int64_t *row_of) {
    rooms r = {.leaves = 1};
    int64_t rows = 0;
    while (r.leaves <= s->T)
        r.leaves *= 2;
    r.some = mem_alloc(2 * (size_t)r.leaves);
    r.head = mem_alloc(((size_t)s->T + 1) * sizeof *r.head);
    r.next = mem_alloc((size_t)s->n_row * sizeof *r.next + 1);
    for (int k = 0; k <= s->T; k++)
        r.head[k] = -1;
    for (int64_t i = 0; i < s->n_row; i++) {
        int n = (int)s->piece[i].n, room = find_room(&r, n);
        row_of[i] = room < 0 ? rows++ : take_row(&r, room);
        put_row(&r, row_of[i], (room < 0 ? s->T : room) - n);
    }
    mem_free(r.some);
    mem_free(r.head);
    mem_free(r.next);
    return rows;
}

static int64_t next_fit(const data_source *s, int64_t *row_of) {
    int64_t rows = 0, used = s->T;
    for (int64_t i = 0; i < s->n_row; i++) {
        if (used + s->piece[i].n > s->T) {
            rows++;
            used = 0;
        }
        used += s->piece[i].n;
        row_of[i] = rows - 1;
    }
    return rows;
}

void source_pack(data_source *s, bool file_order) {
    int64_t n = s->n_row, *row_of = mem_alloc((size_t)n * sizeof *row_of + 1);
    data_piece *placed = mem_alloc((size_t)n * sizeof *placed + 1);
    if (!file_order)
        sort_pieces(s);
    s->n_row = (file_order ? next_fit : best_fit)(s, row_of);
    s->row = mem_alloc(((size_t)s->n_row + 2) * sizeof *s->row);
    for (int64_t i = 0; i < n; i++)
        s->row[row_of[i] + 2]++;
    for (int64_t r = 0; r < s->n_row; r++)
        s->row[r + 2] += s->row[r + 1];
    for (int64_t i = 0; i < n; i++)
        placed[s->row[row_of[i] + 1]++] = s->piece[i];
    mem_free(s->piece);
    mem_free(row_of);
    s->piece = placed;
}
