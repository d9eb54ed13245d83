/* SPDX-License-Identifier: Apache-2.0
 * plan: steps are pushed by a model's builder, memory is laid out (plan_mem.c), addresses are
 * bound, and the whole is replayed by sched.c. Plans are SSA: every output is a new value, views
 * share their base's id, only accumulate-role operands are written in place. */
#pragma once
#include "host/base/buf.h"
#include "host/base/mem.h"
#include "host/run/comm.h"
#include "host/run/device.h"
#include "weft/step.h"

typedef struct {
    weft_plan *plan;
    const device *dev;
    arena *mem; /* steps, values and names live here */
    int cap_step, cap_value;
    uint32_t segment;   /* of the steps pushed next: what recompute repeats as one */
    weft_lane lane;     /* of the steps pushed next */
    weft_status status; /* sticky: the first failure of a push; later calls do nothing */
} plan_builder;

/* An empty plan in `mem`, which owns everything of it. `rank` of the world; ranks: of every
 * group; NULL: one. */
void plan_begin(plan_builder *b, arena *mem, const device *dev, weft_phase phase, int rank,
                const int ranks[WEFT_GROUPS], int bucket_tokens, int bucket_rows);
/* A new activation. */
weft_tensor plan_new(plan_builder *b, int dtype, int ndim, const int64_t *shape);
/* A value whose place is known: `off` inside the arena of `space`, the same in every plan. */
weft_tensor plan_fixed(plan_builder *b, weft_space space, const char *name, int64_t off,
                       weft_tensor layout);
/* A weight at its address (NULL in a dry plan). */
weft_tensor plan_weight(plan_builder *b, const char *name, weft_tensor layout);
/* Appends a step: finds its row, adds up its cost. tag is printf style, cut at WEFT_TAG_BYTES. */
void plan_push(plan_builder *b, weft_op op, const weft_args *a, int layer, const char *tag, ...)
    __attribute__((format(printf, 5, 6)));
/* Lays out activations and scratch by lifetime; afterwards space_bytes holds each arena's size. */
weft_status plan_end(plan_builder *b);

/* Replaces offsets by addresses: base[space] is the arena of that space. Runs the rows' bind hooks;
 * collectives get their group's comm of end[WEFT_GROUPS] as their state. */
weft_status plan_bind(weft_plan *p, void *const base[WEFT_SPACES], comm *end, arena *mem);

/* plan_mem.c: offsets for every value of space ACT, lifetimes disjoint or bytes disjoint. What lane
 * COMM uses stays until it has begun twice more, or to the end: so long it has for it. */
void plan_mem_layout(weft_plan *p);
/* plan_lanes.c: which steps of a bound plan wait for the other lane, by the bytes they touch. The
 * device's last mark is left to others. */
enum { PLAN_MARKS = DEVICE_MARKS - 1 };
void plan_lanes(weft_plan *p);

/* Sums over the steps: compulsory bytes and flops, bytes sent to other ranks; of these, by lane
 * COMM before and behind the last step that computes. */
typedef struct {
    int64_t bytes, flops, sent, beside, behind;
} plan_cost;
plan_cost plan_total(const weft_plan *p);

/* EXPLAIN: one line a step; JSON: an array of objects. */
void plan_print(const weft_plan *p, buf *out);
void plan_print_json(const weft_plan *p, buf *out);

/* Views. `axis` slices keep the strides; reshape needs a tensor in one piece. */
weft_tensor tensor_slice(weft_tensor t, int axis, int64_t begin, int64_t end);
weft_tensor tensor_reshape(weft_tensor t, int ndim, const int64_t *shape);
/* Elements from the first to behind the last, with whatever the strides leave out. */
int64_t tensor_span(const weft_tensor *t);
