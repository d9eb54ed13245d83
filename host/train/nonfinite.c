/* SPDX-License-Identifier: Apache-2.0
 * Finding the first tensor of a step that is not finite. */
#include "host/train/nonfinite.h"
#include "host/base/err.h"
#include "host/run/ops.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PART_STEPS = 1 << 24 }; /* more than a plan has */

static bool is_finite_at(const char *data, int dtype, int64_t i) {
    float f;
    uint16_t h;
    if (dtype == WEFT_F32) {
        memcpy(&f, data + 4 * i, 4);
        return isfinite(f);
    }
    memcpy(&h, data + 2 * i, 2);
    return isfinite(dtype == WEFT_BF16 ? weft_bf16_to_f32(h) : weft_f16_to_f32(h));
}

static bool all_finite(const weft_tensor *x, const char *copy, int axis, int64_t at) {
    if (axis == x->ndim)
        return is_finite_at(copy, x->dtype, at);
    for (int64_t i = 0; i < x->shape[axis]; i++)
        if (!all_finite(x, copy, axis + 1, at + i * x->stride[axis]))
            return false;
    return true;
}

/* Between a result's rows may lie what is not written yet. -inf is what a log-sum-exp over nothing
 * is. */
static weft_status check_tensor(trainer *t, const weft_tensor *x, bool *bad) {
    if (x->dtype > WEFT_BF16 || weft_tensor_count(x) == 0)
        return WEFT_OK;
    uint64_t bytes = (uint64_t)weft_dtype_bytes(x->dtype, tensor_span(x));
    char *copy = malloc(bytes);
    if (!copy)
        return WEFT_OK;
    weft_status s = t->dev->copy(t->dev, t->stream, copy, x->data, bytes, DEVICE_FROM);
    *bad = s == WEFT_OK && !all_finite(x, copy, 0, 0);
    free(copy);
    return s;
}

static weft_status check_step(trainer *t, const weft_step *step, bool *bad) {
    const weft_op_info *info = &weft_op_table[step->kernel->op];
    for (int i = 0; i < info->nfield && !*bad; i++) {
        const weft_field *f = &info->field[i];
        if (f->type == 't' && (f->role == 'O' || f->role == 'A') &&
            weft_has(ops_ctensor(&step->args, f)) && strcmp(f->name, "lse") != 0)
            WEFT_TRY(check_tensor(t, ops_ctensor(&step->args, f), bad));
    }
    return WEFT_OK;
}

/* The first of all: of micro-batches in order, of stages as data goes through them, of steps. */
typedef struct {
    int64_t when; /* step of a part of a plan, as below; INT64_MAX: none */
    char where[64];
} finding;

/* Every step runs, whatever is found: other ranks wait for what it sends. */
static weft_status run_part(trainer *t, const weft_plan *p, int64_t when, finding *f) {
    for (int i = 0; i < p->nstep; i++) {
        bool bad = false;
        p->step[i].kernel->run(&p->step[i], t->stream);
        WEFT_TRY(trainer_settle(t, t->stream));
        if (t->link)
            WEFT_TRY(comm_status(t->link));
        if (f->when < INT64_MAX)
            continue;
        WEFT_TRY(check_step(t, &p->step[i], &bad));
        if (bad) {
            f->when = when * PART_STEPS + i;
            snprintf(f->where, sizeof f->where, "%s", p->step[i].tag);
        }
    }
    return WEFT_OK;
}

static weft_status run_parts(trainer *t, int chunk, pipe_kind first, int64_t when, finding *f) {
    const graph_micro *m = t->g.micro[chunk]; /* none that sums what others have */
    for (int k = 0; k < PIPE_KINDS / 2; k++)
        WEFT_TRY(run_part(t, m->part[first + (pipe_kind)k], when * PIPE_KINDS + k, f));
    return WEFT_OK;
}

/* One micro-batch forward through all stages and back. */
static weft_status find_in(trainer *t, int row, finding *f) {
    int left = t->o.batch - row, rows = t->g.shape.rows, stages = mesh_stages(&t->mesh);
    int64_t n = trainer_targets(t, t->o.batch), when = (int64_t)row * 2 * stages;
    float scale = n ? (float)(1.0 / (double)n) : 0;
    for (int c = 0; c < t->mesh.chunks; c++) {
        WEFT_TRY(trainer_fill(t, row, left < rows ? left : rows, scale, t->g.slot[c]));
        WEFT_TRY(run_parts(t, c, PIPE_TAKE, when + mesh_stage(&t->mesh, c), f));
    }
    for (int c = t->mesh.chunks - 1; c >= 0; c--)
        WEFT_TRY(
            run_parts(t, c, PIPE_TAKE_GRAD, when + 2 * stages - 1 - mesh_stage(&t->mesh, c), f));
    return WEFT_OK;
}

/* The gradients this leaves are of one micro-batch: whoever asks has given the step up. */
static weft_status find(trainer *t, char *where, size_t n) {
    finding own = {.when = INT64_MAX}, all[COMM_MAX_RANKS], *best = &own;
    WEFT_TRY(t->dev->zero(t->dev, t->stream, t->base[WEFT_SPACE_GRAD],
                          t->g.bytes[WEFT_SPACE_GRAD])); /* of the step as it was */
    for (int row = 0; row < t->o.batch; row += t->g.shape.rows)
        WEFT_TRY(find_in(t, row, &own));
    if (trainer_spread(t))
        WEFT_TRY(comm_collect(&t->end[WEFT_GROUP_WORLD], &own, all, sizeof own, "report"));
    for (int r = 0; trainer_spread(t) && r < t->mesh.ranks; r++)
        if (all[r].when < best->when)
            best = &all[r];
    snprintf(where, n, "%s", best->where);
    return WEFT_OK;
}

static void put_rows(const trainer *t, buf *b) {
    for (int r = 0; r < t->o.batch; r++) {
        buf_puts(b, r ? ",\n[" : "\n[");
        for (int i = 0; i < t->rows.len[r]; i++)
            buf_printf(b, "%s%d", i ? "," : "",
                       (int)t->rows.ids[(int64_t)r * t->g.shape.row_tokens + i]);
        buf_putc(b, ']');
    }
}

weft_status nonfinite_report(trainer *t, int64_t step, double loss, double grad_norm,
                             const char *path, char *where, size_t n) {
    buf b;
    *where = 0;
    WEFT_TRY(find(t, where, n));
    if (!path)
        return WEFT_OK;
    buf_init(&b, SIZE_MAX);
    buf_printf(&b, "{\"step\":%" PRId64 ",\"loss\":", step);
    buf_json_double(&b, loss);
    buf_puts(&b, ",\"grad_norm\":");
    buf_json_double(&b, grad_norm);
    buf_puts(&b, ",\"first\":");
    if (*where)
        buf_json_string(&b, where, strlen(where));
    else
        buf_puts(&b, "null");
    buf_puts(&b, ",\"rows\":[");
    put_rows(t, &b);
    buf_puts(&b, "]}\n");
    weft_status s = file_write_atomic(path, b.data, b.len);
    buf_fini(&b);
    return s;
}
