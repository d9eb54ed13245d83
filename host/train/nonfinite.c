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

/* Results are whole values or runs of their rows, so one copy brings them. -inf is what a
 * log-sum-exp over nothing is. */
static weft_status check_tensor(trainer *t, const weft_tensor *x, bool *bad) {
    int64_t n = weft_tensor_count(x);
    uint64_t bytes = (uint64_t)weft_dtype_bytes(x->dtype, n);
    if (x->dtype > WEFT_BF16 || n == 0)
        return WEFT_OK;
    char *copy = malloc(bytes);
    if (!copy)
        return WEFT_OK;
    weft_status s = t->dev->copy(t->dev, t->stream, copy, x->data, bytes, DEVICE_FROM);
    for (int64_t i = 0; s == WEFT_OK && i < n && !*bad; i++)
        *bad = !is_finite_at(copy, x->dtype, i);
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

/* The gradients this leaves are of one micro-batch: whoever asks has given the step up. */
static weft_status find(trainer *t, char *where, size_t n) {
    for (int row = 0; row < t->o.batch; row += t->g.shape.rows) {
        const weft_plan *p = t->g.micro[0];
        WEFT_TRY(trainer_feed(t, row));
        for (int i = 0; i < p->nstep; i++) {
            bool bad = false;
            p->step[i].kernel->run(&p->step[i], t->stream);
            WEFT_TRY(t->dev->sync(t->dev, t->stream));
            WEFT_TRY(check_step(t, &p->step[i], &bad));
            if (bad) {
                snprintf(where, n, "%s", p->step[i].tag);
                return WEFT_OK;
            }
        }
    }
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
