/* SPDX-License-Identifier: Apache-2.0
 * Tokens laid out in rows. */
#include "host/train/data_source.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include <string.h>

void source_fini(data_source *s) {
    buf_fini(&s->ids);
    buf_fini(&s->labels);
    buf_fini(&s->doc);
    for (int i = 0; s->map && i < s->n_part; i++)
        file_map_close(&s->map[i]);
    mem_free(s->map);
    mem_free(s->name);
    mem_free(s->part);
    mem_free(s->first);
    mem_free(s->piece);
    mem_free(s->row);
    *s = (data_source){0};
}

int64_t source_tokens(const data_source *s) {
    return (int64_t)s->first[s->n_part];
}

int64_t source_longest(const data_source *s) {
    int64_t most = 0;
    for (int p = 0; p < s->n_part; p++)
        for (int64_t i = 0; i < s->part[p].n_doc; i++) {
            int64_t n = (int64_t)(s->part[p].doc[i + 1] - s->part[p].doc[i]);
            most = n > most ? n : most;
        }
    return most;
}

/* ---- Tokens by their place in the source ---- */

static int part_at(const data_source *s, uint64_t at) {
    int lo = 0, hi = s->n_part;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (s->first[mid] <= at)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static bool has_loss(const data_part *p, uint64_t i) {
    if (p->labels)
        return p->labels[i] != DATA_IGNORED;
    return !p->mask || p->mask[i / 8] >> i % 8 & 1;
}

static void part_copy(const data_part *p, uint64_t at, uint64_t n, int32_t *ids, int32_t *labels) {
    if (p->width == 4)
        memcpy(ids, (const char *)p->ids + 4 * at, 4 * n);
    else
        for (uint64_t i = 0; i < n; i++)
            ids[i] = ((const uint16_t *)p->ids)[at + i];
    memcpy(labels, p->labels ? p->labels + at : ids, 4 * n);
    for (uint64_t i = 0; p->mask && i < n; i++)
        if (!has_loss(p, at + i))
            labels[i] = DATA_IGNORED;
}

static void copy_piece(const data_source *s, data_piece piece, int32_t *ids, int32_t *labels) {
    int p = part_at(s, piece.at);
    for (uint64_t done = 0; done < piece.n; p++) {
        uint64_t at = piece.at + done, left = s->first[p + 1] - at, n = piece.n - done;
        n = n < left ? n : left;
        part_copy(&s->part[p], at - s->first[p], n, ids + done, labels + done);
        done += n;
    }
}

static data_piece stream_piece(const data_source *s, int64_t r) {
    uint64_t at = (uint64_t)r * (uint64_t)s->T, left = s->first[s->n_part] - at;
    return (data_piece){.at = at, .n = left < (uint64_t)s->T ? (uint32_t)left : (uint32_t)s->T};
}

void source_row(const data_source *s, int64_t r, int32_t *ids, int32_t *labels, int32_t *pos,
                int32_t *len) {
    data_piece stream;
    const data_piece *piece = s->piece;
    uint64_t n = 1;
    int at = 0;
    if (!piece) {
        stream = stream_piece(s, r);
        piece = &stream;
    } else if (s->row) {
        piece += s->row[r];
        n = s->row[r + 1] - s->row[r];
    } else {
        piece += r;
    }
    for (uint64_t i = 0; i < n; i++) {
        copy_piece(s, piece[i], ids + at, labels + at);
        labels[at] = DATA_IGNORED;
        for (int k = 0; k < (int)piece[i].n; k++)
            pos[at + k] = k;
        at += (int)piece[i].n;
    }
    *len = at;
    for (; at < s->T; at++) {
        ids[at] = pos[at] = 0;
        labels[at] = DATA_IGNORED;
    }
}

/* ---- Layouts ---- */

/* Does a run have a loss? The first place has none. */
static bool teaches(const data_part *p, uint64_t at, uint64_t n) {
    uint64_t i = 1;
    while (i < n && !has_loss(p, at + i))
        i++;
    return i < n;
}

static void add_piece(data_source *s, buf *to, const data_part *p, uint64_t at, uint64_t n) {
    if (!teaches(p, at, n)) {
        s->left_out++;
        return;
    }
    data_piece piece = {.at = s->first[p - s->part] + at, .n = (uint32_t)n};
    buf_add(to, &piece, sizeof piece);
}

/* Documents no longer than a row: rows of their own lose their end, text goes on in a new piece. */
static void add_document(data_source *s, buf *to, const data_part *p, int64_t i) {
    uint64_t at = p->doc[i], end = p->doc[i + 1], T = (uint64_t)s->T;
    s->cut += end - at > T;
    if (s->own_rows && end - at > T)
        end = at + T;
    for (; at < end; at += T)
        add_piece(s, to, p, at, end - at < T ? end - at : T);
}

static void add_documents(data_source *s) {
    buf all; /* data_piece */
    buf_init(&all, SIZE_MAX);
    for (int p = 0; p < s->n_part; p++)
        for (int64_t i = 0; i < s->part[p].n_doc; i++)
            add_document(s, &all, &s->part[p], i);
    s->n_row = (int64_t)(all.len / sizeof *s->piece);
    s->piece = mem_alloc(all.len + 1);
    if (all.len)
        memcpy(s->piece, all.data, all.len);
    buf_fini(&all);
}

weft_status source_layout(data_source *s, int T, bool pack, bool file_order) {
    s->T = T;
    if (s->own_rows || pack) {
        add_documents(s);
        if (pack)
            source_pack(s, file_order);
    } else {
        int64_t n = source_tokens(s);
        if (n < T)
            return weft_fail(WEFT_BAD_FILE,
                             "%s: %lld tokens, less than one row of %d; lower --seq-len or use "
                             "--pack",
                             s->name, (long long)n, T);
        s->n_row = n / T + (n % T > 1);
    }
    if (s->n_row == 0)
        return weft_fail(WEFT_BAD_FILE, "%s: no row with a token to predict", s->name);
    return WEFT_OK;
}
