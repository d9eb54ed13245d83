/* SPDX-License-Identifier: Apache-2.0
 * Where the lanes of a plan wait for each other. Addresses decide, whatever the layout: two steps
 * that touch the same bytes keep the plan's order unless both only read. */
#include "host/run/ops.h"
#include "host/run/plan.h"

typedef struct {
    uintptr_t begin, end;
} span;

static span span_of(const weft_tensor *t) {
    uintptr_t begin = (uintptr_t)t->data;
    return (span){begin, begin + (uintptr_t)weft_dtype_bytes(t->dtype, tensor_span(t))};
}

static bool writes(const weft_field *f) {
    return f->role == 'O' || f->role == 'A';
}

static bool meets(const weft_step *s, const weft_tensor *t, bool written) {
    const weft_op_info *info = &weft_op_table[s->kernel->op];
    span a = span_of(t);
    for (int i = 0; i < info->nfield; i++) {
        const weft_field *f = &info->field[i];
        if (f->type != 't' || !weft_has(ops_ctensor(&s->args, f)) || !(written || writes(f)))
            continue;
        span b = span_of(ops_ctensor(&s->args, f));
        if (a.begin < b.end && b.begin < a.end)
            return true;
    }
    return false;
}

static bool in_order(const weft_step *s, const weft_step *before) {
    const weft_op_info *info = &weft_op_table[s->kernel->op];
    for (int i = 0; i < info->nfield; i++) {
        const weft_field *f = &info->field[i];
        if (f->type == 't' && weft_has(ops_ctensor(&s->args, f)) &&
            meets(before, ops_ctensor(&s->args, f), writes(f)))
            return true;
    }
    return false;
}

/* The last of the other lane's steps that step i has to wait for, from `first` on; -1: none. */
static int last_before(const weft_plan *p, int i, int first) {
    for (int k = i - 1; k >= first; k--)
        if (p->step[k].lane != p->step[i].lane && in_order(&p->step[i], &p->step[k]))
            return k;
    return -1;
}

/* In turns, so that one that is used again belongs to a step that was waited for, or is far
 * back. */
static void number_marks(weft_plan *p) {
    int n[WEFT_LANES] = {0};
    for (int i = 0; i < p->nstep; i++) {
        weft_step *s = &p->step[i];
        if (s->awaited)
            s->awaited = (uint8_t)(1 + n[s->lane]++ % PLAN_MARKS);
    }
}

void plan_lanes(weft_plan *p) {
    int known[WEFT_LANES] = {0}; /* what lies before it in the other lane is done */
    bool both = false;
    for (int i = 0; i < p->nstep; i++)
        both |= p->step[i].lane != WEFT_LANE_COMPUTE;
    for (int i = 0; both && i < p->nstep; i++) {
        weft_step *s = &p->step[i];
        int k = last_before(p, i, known[s->lane]);
        if (k < 0)
            continue;
        s->wait = (uint32_t)(i - k);
        p->step[k].awaited = 1;
        known[s->lane] = k + 1;
    }
    number_marks(p);
}
