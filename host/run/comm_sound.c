/* SPDX-License-Identifier: Apache-2.0
 * A rank whose numbers are NaN where those of the others are not: its memory or processor fails, or
 * its slice of the weights is damaged. Behind the next sum all would have them, and nobody could
 * tell whose they were. */
#include "host/base/err.h"
#include "host/run/comm.h"
#include "weft/step.h"
#include <string.h>

void comm_sound_rows(comm_link *l, int64_t tokens, int64_t bucket_rows, int64_t rows) {
    l->rows = (comm_true_rows){tokens, bucket_rows, rows};
}

static bool any_nan_f32(const void *p, int64_t n) {
    const uint32_t *x = p;
    uint32_t any = 0;
    for (int64_t i = 0; i < n; i++)
        any |= (x[i] & 0x7fffffff) > 0x7f800000;
    return any;
}

/* bf16 and fp16 by the bits of infinity. */
static bool any_nan_16(const void *p, int64_t n, uint16_t infinity) {
    const uint16_t *x = p;
    unsigned any = 0;
    for (int64_t i = 0; i < n; i++)
        any |= (x[i] & 0x7fffu) > infinity;
    return any;
}

static bool any_nan(int dtype, const void *p, int64_t n) {
    switch (dtype) {
    case WEFT_F32: return any_nan_f32(p, n);
    case WEFT_BF16: return any_nan_16(p, n, 0x7f80);
    case WEFT_F16: return any_nan_16(p, n, 0x7c00);
    default: return false;
    }
}

/* Rows are along the axis before the last one; those behind the true ones are what they are. */
static bool holds_nan(const weft_tensor *t, int64_t rows) {
    int axis = t->ndim - 2;
    int64_t n = rows < t->shape[axis] ? rows : t->shape[axis];
    int64_t planes = axis > 0 ? t->shape[0] : 1, width = t->shape[axis + 1];
    for (int64_t p = 0; p < planes; p++)
        for (int64_t r = 0; r < n; r++) {
            int64_t at = (axis > 0 ? p * t->stride[0] : 0) + r * t->stride[axis];
            if (any_nan(t->dtype, (const char *)t->data + weft_dtype_bytes(t->dtype, at), width))
                return true;
        }
    return false;
}

/* What a stream moves is not there yet, and in memory that is not the host's. */
static bool can_watch(const comm *c, const weft_tensor *t) {
    bool here = !c->link->transport->on_stream;
    return here && c->link->rows.tokens > 0 && t->ndim >= 2 && t->ndim <= 3 &&
           t->stride[t->ndim - 1] == 1;
}

static void blame(comm *c, const weft_step *s, uint64_t behind, int rank) {
    comm_link *l = c->link;
    int op = s->kernel->op == WEFT_OP_recv ? WEFT_OP_send : (int)s->kernel->op;
    weft_status st = weft_fail(
        WEFT_PEER,
        "rank %d sends NaN in %s %llu of %s, step %lld, %s; its memory, its processor or "
        "its weights are damaged",
        c->member[rank], weft_op_table[op].name, (unsigned long long)behind - 1,
        comm_group_name(c->group), (long long)l->step, s->tag);
    comm_abort(l, st);
}

void comm_sound_parts(comm *c, const weft_step *s, const weft_tensor *part, int n, int axis) {
    const comm_true_rows *w = &c->link->rows;
    int rows_axis = part->ndim - 2, bad = -1, sound = 0;
    if (!can_watch(c, part) || axis > rows_axis)
        return;
    int64_t step = axis == rows_axis ? part->shape[axis] : 0;
    int64_t total = step ? step * n : part->shape[rows_axis];
    int64_t rows = total == w->bucket_rows ? w->rows : w->tokens;
    for (int r = n; r-- > 0;) {
        bool nan = holds_nan(&part[r], rows - r * step);
        bad = nan ? r : bad;
        sound += !nan;
    }
    if (bad >= 0 && sound > 0)
        blame(c, s, c->sequence, bad);
}

/* Of every rank the rows that this one adds up. */
void comm_sound_addends(comm *c, const weft_step *s, const weft_tensor *part, int n, int axis) {
    const comm_true_rows *w = &c->link->rows;
    int rows_axis = part->ndim - 2, bad = -1, sound = 0;
    if (!can_watch(c, part) || axis != rows_axis)
        return;
    int64_t total = part->shape[axis] * n, first = part->shape[axis] * c->rank;
    int64_t rows = (total == w->bucket_rows ? w->rows : w->tokens) - first;
    for (int r = n; r-- > 0 && rows > 0;) {
        bool nan = holds_nan(&part[r], rows);
        bad = nan ? r : bad;
        sound += !nan;
    }
    if (bad >= 0 && sound > 0)
        blame(c, s, c->sequence, bad);
}

void comm_sound_from(comm *c, const weft_step *s, const weft_tensor *t, int rank) {
    const comm_true_rows *w = &c->link->rows;
    int64_t rows = t->shape[0] == w->bucket_rows ? w->rows : w->tokens;
    if (can_watch(c, t) && t->ndim == 2 && holds_nan(t, rows))
        blame(c, s, c->moved[1][rank], rank);
}
