/* SPDX-License-Identifier: Apache-2.0
 * What was measured is also right: some rows of a large result against the reference, which
 * computes those rows alone. */
#include "tests/check/bench.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_PICKED = 4 };
static const double most_flops = 3e9; /* of the reference */

typedef struct {
    const bench_memory *m;
    const check_set *s; /* as it is on the device */
    int64_t row[MOST_PICKED], n;
} picked;

/* First, last and two by the seed; fewer where the reference would take seconds. */
static void pick(picked *p, int64_t rows, double flops) {
    int64_t fit = flops > 0 ? (int64_t)(most_flops / (flops / (double)rows)) : MOST_PICKED;
    p->n = fit < 1 ? 1 : fit > MOST_PICKED ? MOST_PICKED : fit;
    p->n = p->n > rows ? rows : p->n;
    for (int64_t i = 0; i < p->n; i++)
        p->row[i] = i == 0   ? rows - 1
                    : i == 1 ? 0
                             : (int64_t)(check_hash(p->s->seed, (uint64_t)i) % (uint64_t)rows);
}

static bool fetch(const picked *p, const check_operand *from, size_t at, char *to, size_t bytes) {
    const bench_memory *m = p->m;
    const char *base = m->at + m->off[from - p->s->operand];
    return m->d->copy(m->d, m->stream, to, base + at, bytes, DEVICE_FROM) == WEFT_OK;
}

/* Rows are whole slices of the outermost axis. */
static bool fetch_rows(const picked *p, const check_operand *from, const check_operand *to,
                       char *image) {
    size_t size = (size_t)weft_dtype_bytes(from->spec.dtype, 1);
    size_t pitch = (size_t)from->at->stride[0] * size;
    for (int64_t i = 0; i < p->n; i++)
        if (!fetch(p, from, from->first + (size_t)p->row[i] * pitch,
                   image + to->first + (size_t)i * (size_t)to->at->stride[0] * size,
                   (size_t)to->at->stride[0] * size))
            return false;
    return true;
}

/* The picked rows as a set of the host's own, with what the device has as the candidate's. */
static bool bring(const picked *p, check_set *v, char *got[CHECK_OPERANDS]) {
    check_share(p->s, v);
    v->no_images = false;
    for (int i = 0; i < v->n; i++) {
        const check_operand *from = &p->s->operand[i];
        check_operand *o = &v->operand[i];
        bool rows = o->spec.row == 1;
        if (rows) {
            o->spec.dim[0] = p->n;
            check_image(v, o);
        } else if (!o->image) {
            o->image = arena_alloc(&v->mem, o->bytes);
        }
        got[i] = o->image;
        if (check_is_out(o)) {
            got[i] = arena_alloc(&v->mem, o->bytes);
            memcpy(got[i], o->image, o->bytes);
        }
        if (rows ? !fetch_rows(p, from, o, got[i]) : !fetch(p, from, 0, got[i], o->bytes))
            return false;
    }
    return true;
}

static bool can_pick(const check_set *s) {
    bool out = false;
    if (!(weft_op_table[s->c.op->op].flags & WEFT_ROWLOCAL) || s->rows >= 0)
        return false;
    for (int i = 0; i < s->n; i++) {
        const check_operand *o = &s->operand[i];
        if (o->role == 'A' || o->spec.row > 1 || (check_is_out(o) && !o->spec.row))
            return false;
        out |= check_is_out(o);
    }
    return out;
}

const char *bench_verify(check_state *k, const check_set *s, const bench_memory *m, double flops) {
    picked p = {.m = m, .s = s};
    check_set v;
    check_result truth;
    char *got[CHECK_OPERANDS];
    const weft_kernel *ref = check_reference(s->c.op->op);
    int64_t rows = 0;
    for (int i = 0; i < s->n; i++)
        if (check_is_out(&s->operand[i]) && s->operand[i].spec.row == 1)
            rows = s->operand[i].spec.dim[0];
    if (!can_pick(s) || rows < 1 || !ref)
        return "not compared";
    pick(&p, rows, flops);
    k->bad = false;
    k->row = ref;
    if (!bring(&p, &v, got)) {
        check_fail(k, "the results could not be read");
    } else if (!ref->ok || ref->ok(&v.args)) {
        check_exec(k, ref, &v, k->threads, false, &truth);
        check_compare(k, &v, &truth, got);
        check_result_fini(&truth);
    }
    check_set_fini(&v);
    return k->bad ? k->why : NULL;
}
