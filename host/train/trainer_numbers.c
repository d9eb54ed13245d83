/* SPDX-License-Identifier: Apache-2.0
 * A parameter's numbers in and out of a trainer, whichever ranks hold them. */
#include "host/base/err.h"
#include "host/train/trainer.h"
#include <string.h>

/* A run of rows of a parameter, as one rank holds it: [rows, cols] in one piece. */
typedef struct {
    int rank;
    weight_window at; /* of param_whole */
} piece;

enum { MAX_PIECES = COMM_MAX_RANKS };

bool trainer_has(const trainer *t, const param *p, char what) {
    switch (what) {
    case 'm':
    case 'g': return p->trained;
    case 'v': return p->trained && t->g.v >= 0;
    case 'e': return p->trained && t->g.ema >= 0;
    default: return p->kind != PARAM_WEIGHT || t->o.lora_rank == 0;
    }
}

/* Whether each rank of dp answers for its own rows alone. */
static bool is_dealt(const trainer *t, const param *p, char what) {
    switch (what) {
    case 'p': return param_shares_master(&t->params, p) || (p->trained && t->g.dtype != WEFT_F32);
    case 'g': return t->params.share_grads;
    default: return true;
    }
}

static weight_window rows_of(const trainer *t, weight_window w, int keeper) {
    int64_t begin = shard_first_row(w.rows, t->params.ranks, keeper);
    w.rows = shard_first_row(w.rows, t->params.ranks, keeper + 1) - begin;
    w.row += begin;
    return w;
}

/* The pieces that make up all of p, in an order that every rank knows. */
static int list_pieces(const trainer *t, const param *p, char what, piece out[MAX_PIECES]) {
    const shard_mesh *size = &t->mesh.size;
    int keepers = is_dealt(t, p, what) ? t->params.ranks : 1, n = 0;
    for (int pp = 0; pp < size->pp; pp++)
        for (int tp = 0; tp < size->tp; tp++) {
            weight_window w;
            if (!param_counted(&t->params, p, tp, pp, &w))
                continue;
            for (int d = 0; d < keepers; d++) {
                weight_window part = keepers > 1 ? rows_of(t, w, d) : w;
                if (part.rows)
                    out[n++] = (piece){shard_rank(size, (shard_mesh){tp, pp, d}), part};
            }
        }
    return n;
}

/* Where this rank's part of a parameter's `what` begins on the device. */
static char *place_of(const trainer *t, const param *p, char what, const weight_window *at) {
    char *state = t->base[WEFT_SPACE_STATE];
    int64_t row = at->row - p->window.row;
    switch (what) {
    case 'm': return state + t->g.m + p->kept;
    case 'v': return state + t->g.v + p->kept;
    case 'e': return state + t->g.ema + p->kept;
    case 'g': return (char *)t->base[WEFT_SPACE_GRAD] + p->off;
    default:
        return (char *)p->p.data + (param_shares_master(&t->params, p) ? 0 : row * at->cols * 4);
    }
}

static uint64_t piece_bytes(const weight_window *at) {
    return sizeof(float) * (uint64_t)(at->rows * at->cols);
}

/* Between a piece and its place in the whole. */
static void put_piece(const param *p, const weight_window *at, const float *from, float *whole) {
    int64_t cols = param_whole(p).shape[1];
    for (int64_t r = 0; r < at->rows; r++)
        memcpy(whole + (at->row + r) * cols + at->col, from + r * at->cols,
               sizeof(float) * (size_t)at->cols);
}

static void pick_piece(const param *p, const weight_window *at, const float *whole, float *to) {
    int64_t cols = param_whole(p).shape[1];
    for (int64_t r = 0; r < at->rows; r++)
        memcpy(to + r * at->cols, whole + (at->row + r) * cols + at->col,
               sizeof(float) * (size_t)at->cols);
}

/* ---- Out ---- */

bool trainer_spread(const trainer *t) {
    return t->params.ranks > 1 || t->mesh.size.tp > 1 || t->mesh.size.pp > 1;
}

static weft_status fetch_piece(trainer *t, const param *p, char what, const weight_window *at,
                               float *to) {
    return t->dev->copy(t->dev, t->stream, to, place_of(t, p, what, at), piece_bytes(at),
                        DEVICE_FROM);
}

/* The holder sends its piece to rank 0, which puts it in its place; called by these two. */
static weft_status move_piece(trainer *t, const param *p, char what, const piece *x, float *whole) {
    int self = t->mesh.rank;
    float *buffer = mem_alloc((size_t)piece_bytes(&x->at));
    weft_status s = x->rank == self ? fetch_piece(t, p, what, &x->at, buffer) : WEFT_OK;
    if (s == WEFT_OK && x->rank != 0)
        s = comm_pass(&t->end[WEFT_GROUP_WORLD], x->rank, 0, buffer, x->at.rows * x->at.cols,
                      p->name);
    if (s == WEFT_OK && self == 0)
        put_piece(p, &x->at, buffer, whole);
    mem_free(buffer);
    return s;
}

weft_status trainer_read(trainer *t, int index, char what, float *out) {
    const param *p = &t->params.param[index];
    int self = t->mesh.rank;
    piece x[MAX_PIECES];
    int n = list_pieces(t, p, what, x);
    if (n == 1 && x[0].rank == 0) /* all of it, as it lies */
        return self == 0 ? fetch_piece(t, p, what, &x[0].at, out) : WEFT_OK;
    for (int i = 0; i < n; i++)
        if (self == 0 || x[i].rank == self)
            WEFT_TRY(move_piece(t, p, what, &x[i], out));
    return WEFT_OK;
}

weft_status trainer_give(trainer *t, char what) {
    for (int i = 0; i < t->params.n; i++)
        if (trainer_has(t, &t->params.param[i], what))
            WEFT_TRY(trainer_read(t, i, what, NULL));
    return WEFT_OK;
}

/* ---- In ---- */

/* What the model computes with follows where no plan makes it from the fp32 numbers. */
static weft_status write_copy(trainer *t, const param *p, const weight_window *rows,
                              const float *x) {
    int64_t n = rows->rows * rows->cols;
    uint16_t *h = mem_alloc(sizeof *h * (size_t)n);
    for (int64_t i = 0; i < n; i++)
        h[i] = weft_f32_to_bf16(x[i]);
    weft_status s = t->dev->copy(t->dev, t->stream, p->w.data, h, sizeof *h * (uint64_t)n,
                                 DEVICE_TO);
    if (s == WEFT_OK)
        s = t->dev->sync(t->dev, t->stream);
    mem_free(h);
    return s;
}

static weft_status write_piece(trainer *t, const param *p, char what, const weight_window *at,
                               const float *in, float *buffer) {
    if (at->rows == 0)
        return WEFT_OK;
    pick_piece(p, at, in, buffer);
    WEFT_TRY(t->dev->copy(t->dev, t->stream, place_of(t, p, what, at), buffer, piece_bytes(at),
                          DEVICE_TO));
    return t->dev->sync(t->dev, t->stream);
}

weft_status trainer_write(trainer *t, int index, char what, const float *in) {
    const param *p = &t->params.param[index];
    if (!p->here)
        return WEFT_OK;
    bool part = t->params.ranks > 1 &&
                (what == 'p' ? param_shares_master(&t->params, p) : is_dealt(t, p, what));
    weight_window own = part ? rows_of(t, p->window, t->params.rank) : p->window;
    float *buffer = mem_alloc(sizeof(float) * (size_t)(p->window.rows * p->window.cols));
    weft_status s = write_piece(t, p, what, &own, in, buffer);
    if (s == WEFT_OK && what == 'p' && t->g.dtype != WEFT_F32 &&
        param_shares_master(&t->params, p)) {
        weight_window w = param_shares_weight(&t->params, p) ? own : p->window;
        pick_piece(p, &w, in, buffer);
        s = write_copy(t, p, &w, buffer);
    }
    mem_free(buffer);
    return s;
}

weft_status trainer_refresh(trainer *t) {
    if (!t->g.refresh)
        return WEFT_OK;
    WEFT_TRY(sched_replay(t->dev, t->g.refresh, t->stream, NULL));
    return t->dev->sync(t->dev, t->stream);
}
