/* SPDX-License-Identifier: Apache-2.0
 * Building and binding plans. */
#include "host/run/plan.h"
#include "host/base/err.h"
#include "host/run/ops.h"
#include "host/run/registry.h"
#include "host/run/shard.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void plan_begin(plan_builder *b, arena *mem, const device *dev, weft_phase phase, int rank,
                const int ranks[WEFT_GROUPS], int bucket_tokens, int bucket_rows) {
    *b = (plan_builder){.dev = dev, .mem = mem};
    weft_plan *p = b->plan = ARENA_NEW(mem, weft_plan, 1);
    p->phase = phase;
    p->rank = rank;
    for (int g = 0; g < WEFT_GROUPS; g++)
        p->group_ranks[g] = ranks ? ranks[g] : 1;
    p->bucket_tokens = bucket_tokens;
    p->bucket_rows = bucket_rows;
    b->cap_value = 64;
    p->value = ARENA_NEW(mem, weft_value, b->cap_value);
    p->nvalue = 1;
}

static void *grown(arena *mem, const void *old, int n, int *cap, size_t size) {
    *cap = *cap ? *cap * 2 : 64;
    void *p = arena_alloc(mem, (size_t)*cap * size);
    if (n)
        memcpy(p, old, (size_t)n * size);
    return p;
}

static uint32_t add_value(plan_builder *b, weft_value v) {
    weft_plan *p = b->plan;
    if (p->nvalue == b->cap_value)
        p->value = grown(b->mem, p->value, p->nvalue, &b->cap_value, sizeof *p->value);
    p->value[p->nvalue] = v;
    return (uint32_t)p->nvalue++;
}

weft_tensor plan_new(plan_builder *b, int dtype, int ndim, const int64_t *shape) {
    weft_tensor t = weft_tensor_make(dtype, ndim, shape);
    t.space = WEFT_SPACE_ACT;
    weft_value v = {.bytes = (uint64_t)weft_dtype_bytes(dtype, weft_tensor_count(&t)),
                    .off = -1,
                    .first = UINT32_MAX,
                    .space = WEFT_SPACE_ACT};
    t.id = add_value(b, v);
    return t;
}

weft_tensor plan_fixed(plan_builder *b, weft_space space, const char *name, int64_t off,
                       weft_tensor layout) {
    layout.space = (uint8_t)space;
    layout.data = NULL;
    weft_value v = {
        .bytes = (uint64_t)ops_bytes(&layout), .off = off, .space = (uint8_t)space, .name = name};
    layout.id = 1;
    v.bytes = (uint64_t)weft_dtype_bytes(layout.dtype, weft_tensor_count(&layout));
    layout.id = add_value(b, v);
    return layout;
}

weft_tensor plan_weight(plan_builder *b, const char *name, weft_tensor layout) {
    int64_t address = (int64_t)(uintptr_t)layout.data;
    return plan_fixed(b, WEFT_SPACE_WEIGHT, name, address, layout);
}

/* Marks what the step touches as live, and refuses a value that was never written. */
static void note_lifetimes(weft_plan *p, weft_op op, const weft_args *a) {
    const weft_op_info *info = &weft_op_table[op];
    uint32_t now = (uint32_t)p->nstep;
    for (int i = 0; i < info->nfield; i++) {
        if (info->field[i].type != 't')
            continue;
        const weft_tensor *t = ops_ctensor(a, &info->field[i]);
        if (!weft_has(t))
            continue;
        weft_value *v = &p->value[t->id];
        bool written = info->field[i].role == 'O' || info->field[i].role == 'A';
        WEFT_ASSERT(v->space != WEFT_SPACE_ACT || v->first != UINT32_MAX || written);
        v->lane = v->first == UINT32_MAX ? (uint8_t)p->step[now].lane : v->lane;
        v->comm = p->step[now].lane == WEFT_LANE_COMM ? now + 1 : v->comm;
        v->first = v->first < now ? v->first : now;
        v->last = v->last > now ? v->last : now;
    }
}

void plan_push(plan_builder *b, weft_op op, const weft_args *a, int layer, const char *tag, ...) {
    if (b->status != WEFT_OK)
        return;
    weft_plan *p = b->plan;
    if (p->nstep == b->cap_step)
        p->step = grown(b->mem, p->step, p->nstep, &b->cap_step, sizeof *p->step);
    weft_step *s = &p->step[p->nstep];
    memset(s, 0, sizeof *s);
    s->args = *a;
    s->layer = (uint16_t)layer;
    s->segment = b->segment;
    s->lane = (uint16_t)b->lane;
    va_list ap;
    va_start(ap, tag);
    vsnprintf(s->tag, sizeof s->tag, tag, ap);
    va_end(ap);
    b->status = registry_find(b->dev, op, a, &s->kernel);
    if (b->status != WEFT_OK) {
        err_prefix(b->status, "%s", s->tag);
        return;
    }
    weft_op_table[op].cost(a, &s->bytes, &s->flops);
    note_lifetimes(p, op, a);
    p->nstep++;
}

weft_status plan_end(plan_builder *b) {
    if (b->status != WEFT_OK)
        return b->status;
    weft_plan *p = b->plan;
    plan_mem_layout(p);
    uint64_t most[WEFT_LANES] = {0};
    for (int i = 0; i < p->nstep; i++) {
        const weft_step *s = &p->step[i];
        uint64_t need = s->kernel->scratch ? s->kernel->scratch(&s->args) : 0;
        most[s->lane] = need > most[s->lane] ? need : most[s->lane];
    }
    p->comm_scratch = (most[WEFT_LANE_COMPUTE] + 63) / 64 * 64;
    p->space_bytes[WEFT_SPACE_SCRATCH] = most[WEFT_LANE_COMM]
                                             ? p->comm_scratch + most[WEFT_LANE_COMM]
                                             : most[WEFT_LANE_COMPUTE];
    return WEFT_OK;
}

static void bind_tensor(const weft_plan *p, weft_tensor *t, void *const base[WEFT_SPACES]) {
    if (!weft_has(t))
        return;
    const weft_value *v = &p->value[t->id];
    uintptr_t start = v->space == WEFT_SPACE_WEIGHT ? 0 : (uintptr_t)base[v->space];
    t->data = (void *)(start + (uintptr_t)v->off + (uintptr_t)t->data);
}

static void *scratch_of(const weft_plan *p, const weft_step *s, void *base) {
    return s->lane == WEFT_LANE_COMM && base ? (char *)base + p->comm_scratch : base;
}

weft_status plan_bind(weft_plan *p, void *const base[WEFT_SPACES], comm *end, arena *mem) {
    for (int i = 0; i < p->nstep; i++) {
        weft_step *s = &p->step[i];
        const weft_op_info *info = &weft_op_table[s->kernel->op];
        for (int f = 0; f < info->nfield; f++)
            if (info->field[f].type == 't')
                bind_tensor(p, ops_tensor(&s->args, &info->field[f]), base);
        s->scratch = scratch_of(p, s, base[WEFT_SPACE_SCRATCH]);
        if (info->flags & WEFT_COMM)
            s->state = &end[comm_group_of(s->kernel->op, &s->args)];
        else if (s->kernel->state_bytes)
            s->state = arena_alloc(mem, s->kernel->state_bytes);
        if (s->kernel->bind && s->kernel->bind(s, s->state))
            return weft_fail(WEFT_DEVICE, "%s: row %s could not be bound", s->tag, s->kernel->name);
    }
    comm_fuse(p, end);
    plan_lanes(p);
    return WEFT_OK;
}

static int place_in(const weft_plan *p, int group) {
    const int *n = p->group_ranks;
    shard_mesh mesh = {n[WEFT_GROUP_TP], n[WEFT_GROUP_PP], n[WEFT_GROUP_DP]};
    shard_mesh at = shard_place(&mesh, p->rank);
    const int place[WEFT_GROUPS] = {at.tp, at.pp, at.dp, p->rank};
    return place[group];
}

static int last_that_computes(const weft_plan *p) {
    int i = p->nstep - 1;
    for (; i >= 0; i--)
        if (p->step[i].lane == WEFT_LANE_COMPUTE &&
            !(weft_op_table[p->step[i].kernel->op].flags & WEFT_COMM))
            break;
    return i;
}

plan_cost plan_total(const weft_plan *p) {
    plan_cost c = {.bytes = 0};
    int last = last_that_computes(p);
    for (int i = 0; i < p->nstep; i++) {
        const weft_step *s = &p->step[i];
        c.bytes += s->bytes;
        c.flops += s->flops;
        int group = comm_group_of(s->kernel->op, &s->args);
        int64_t sent = comm_sent_bytes(s->kernel->op, &s->args, p->group_ranks[group],
                                       place_in(p, group));
        c.sent += sent;
        if (s->lane == WEFT_LANE_COMM)
            *(i < last ? &c.beside : &c.behind) += sent;
    }
    return c;
}

weft_tensor tensor_slice(weft_tensor t, int axis, int64_t begin, int64_t end) {
    t.data = (char *)t.data + weft_dtype_bytes(t.dtype, begin * t.stride[axis]);
    t.shape[axis] = end - begin;
    return t;
}

weft_tensor tensor_reshape(weft_tensor t, int ndim, const int64_t *shape) {
    weft_tensor r = weft_tensor_make(t.dtype, ndim, shape);
    WEFT_ASSERT(weft_tensor_count(&r) == weft_tensor_count(&t));
    r.data = t.data;
    r.id = t.id;
    r.space = t.space;
    return r;
}

int64_t tensor_span(const weft_tensor *t) {
    int64_t last = 0;
    for (int i = 0; i < t->ndim; i++)
        last += t->shape[i] > 0 ? (t->shape[i] - 1) * t->stride[i] : 0;
    return last + 1;
}
