/* SPDX-License-Identifier: Apache-2.0
 * The transport of ranks that are threads of one process: a board with each rank's tensor, and a
 * barrier before it is read and after. */
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/comm.h"
#include "host/run/ops.h"
#include "weft/step.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

enum { SPINS = 2000 };

struct comm_group {
    int ranks;
    weft_tensor *board; /* [ranks]: what each rank offers in the collective under way */
    atomic_int waiting;
    atomic_uint generation;
    pthread_mutex_t lock;
    pthread_cond_t passed;
};

weft_status comm_local_open(int ranks, comm *ends, comm_group **out) {
    comm_group *g = mem_alloc(sizeof *g);
    g->ranks = ranks;
    g->board = mem_alloc(sizeof(weft_tensor) * (size_t)ranks);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->passed, NULL);
    for (int r = 0; r < ranks; r++)
        ends[r] = (comm){.group = g, .rank = r, .ranks = ranks};
    *out = g;
    return WEFT_OK;
}

void comm_local_close(comm_group *g) {
    if (!g)
        return;
    pthread_cond_destroy(&g->passed);
    pthread_mutex_destroy(&g->lock);
    mem_free(g->board);
    mem_free(g);
}

static void pass_barrier(comm_group *g) {
    pthread_mutex_lock(&g->lock);
    atomic_store(&g->waiting, 0);
    atomic_fetch_add(&g->generation, 1);
    pthread_cond_broadcast(&g->passed);
    pthread_mutex_unlock(&g->lock);
}

/* Yields for a while, since ranks may outnumber cores, then sleeps. */
void comm_local_barrier(comm *c) {
    comm_group *g = c->group;
    unsigned mine = atomic_load(&g->generation);
    if (atomic_fetch_add(&g->waiting, 1) + 1 == g->ranks) {
        pass_barrier(g);
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&g->generation) != mine)
            return;
        sched_yield();
    }
    pthread_mutex_lock(&g->lock);
    while (atomic_load(&g->generation) == mine)
        pthread_cond_wait(&g->passed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static char *element(const weft_tensor *t, const int64_t *index) {
    int64_t off = 0;
    for (int i = 0; i < WEFT_DIMS; i++)
        off += index[i] * t->stride[i];
    return (char *)t->data + weft_dtype_bytes(t->dtype, off);
}

static int64_t contiguous_from(const weft_tensor *a, const weft_tensor *b, int *axis) {
    int64_t run = 1;
    int i = WEFT_DIMS - 1;
    for (; i >= 0; i--) {
        bool dense = a->shape[i] == 1 || (a->stride[i] == run && b->stride[i] == run);
        if (!dense)
            break;
        run *= a->shape[i];
    }
    *axis = i;
    return run;
}

/* dst = src element by element, equal shapes, in the longest runs both have in one piece. */
static void copy_tensor(const weft_tensor *dst, const weft_tensor *src) {
    int axis;
    int64_t run = contiguous_from(dst, src, &axis),
            total = weft_tensor_count(dst) / (run ? run : 1);
    int64_t index[WEFT_DIMS] = {0};
    for (int64_t n = 0; n < total; n++) {
        memcpy(element(dst, index), element(src, index), (size_t)weft_dtype_bytes(dst->dtype, run));
        for (int i = axis; i >= 0; i--) {
            if (++index[i] < dst->shape[i])
                break;
            index[i] = 0;
        }
    }
}

static weft_tensor part_of(const weft_tensor *t, int axis, int64_t begin, int64_t n) {
    weft_tensor p = *t;
    p.data = (char *)t->data + weft_dtype_bytes(t->dtype, begin * t->stride[axis]);
    p.shape[axis] = n;
    return p;
}

static comm *end_of(const weft_step *s) {
    return s->state;
}

/* Shows every rank's tensor to every rank; the caller closes with the second barrier. */
static void offer(comm *c, const weft_tensor *t) {
    c->group->board[c->rank] = *t;
    comm_local_barrier(c);
}

static void leave(comm *c, const weft_step *s) {
    c->sequence++;
    c->sent += (uint64_t)comm_sent_bytes(s->kernel->op, &s->args, c->ranks);
    comm_local_barrier(c);
}

static void all_gather_run(const weft_step *s, weft_stream *stream) {
    (void)stream;
    const weft_all_gather_args *a = &s->args.all_gather;
    comm *c = end_of(s);
    offer(c, &a->x);
    int64_t part = a->x.shape[a->axis];
    for (int r = 0; r < c->ranks; r++) {
        weft_tensor to = part_of(&a->y, a->axis, r * part, part);
        copy_tensor(&to, &c->group->board[r]);
    }
    leave(c, s);
}

static void add_into(const weft_tensor *y, const weft_tensor *x) {
    int64_t n = weft_tensor_count(y), index[WEFT_DIMS] = {0};
    for (int64_t k = 0; k < n; k++) {
        *(float *)element(y, index) += *(const float *)element(x, index);
        for (int i = WEFT_DIMS - 1; i >= 0; i--) {
            if (++index[i] < y->shape[i])
                break;
            index[i] = 0;
        }
    }
}

static void reduce_scatter_run(const weft_step *s, weft_stream *stream) {
    (void)stream;
    const weft_reduce_scatter_args *a = &s->args.reduce_scatter;
    comm *c = end_of(s);
    offer(c, &a->x);
    int64_t part = a->y.shape[a->axis];
    for (int r = 0; r < c->ranks; r++) {
        weft_tensor from = part_of(&c->group->board[r], a->axis, c->rank * part, part);
        if (r == 0)
            copy_tensor(&a->y, &from);
        else
            add_into(&a->y, &from);
    }
    leave(c, s);
}

static void all_to_all_run(const weft_step *s, weft_stream *stream) {
    (void)stream;
    const weft_all_to_all_args *a = &s->args.all_to_all;
    comm *c = end_of(s);
    offer(c, &a->x);
    int64_t part = a->x.shape[0] / c->ranks;
    for (int r = 0; r < c->ranks; r++) {
        weft_tensor from = part_of(&c->group->board[r], 0, c->rank * part, part);
        weft_tensor to = part_of(&a->y, 0, r * part, part);
        copy_tensor(&to, &from);
    }
    leave(c, s);
}

static void broadcast_run(const weft_step *s, weft_stream *stream) {
    (void)stream;
    const weft_broadcast_args *a = &s->args.broadcast;
    comm *c = end_of(s);
    offer(c, &a->x);
    if (c->rank != a->peer)
        copy_tensor(&a->x, &c->group->board[a->peer]);
    leave(c, s);
}

static int all_gather_ok(const weft_args *a) {
    const weft_all_gather_args *g = &a->all_gather;
    return g->axis >= 0 && g->axis < WEFT_DIMS && g->x.dtype == g->y.dtype;
}

static int reduce_scatter_ok(const weft_args *a) {
    const weft_reduce_scatter_args *g = &a->reduce_scatter;
    return g->axis >= 0 && g->axis < WEFT_DIMS && g->x.dtype == WEFT_F32 && g->y.dtype == WEFT_F32;
}

#define ROW(o, ok_) \
    {.op = WEFT_OP_##o, .backend = "local", .name = "local", .ok = ok_, .run = o##_run}
const weft_kernel comm_local_kernels[] = {
    ROW(all_gather, all_gather_ok),
    ROW(reduce_scatter, reduce_scatter_ok),
    ROW(all_to_all, NULL),
    ROW(broadcast, NULL),
    {.name = NULL},
};

int64_t comm_sent_bytes(weft_op op, const weft_args *a, int ranks) {
    switch (op) {
    case WEFT_OP_all_gather: return ops_bytes(&a->all_gather.x) * (ranks - 1);
    case WEFT_OP_reduce_scatter: return ops_bytes(&a->reduce_scatter.x) / ranks * (ranks - 1);
    case WEFT_OP_all_to_all: return ops_bytes(&a->all_to_all.x) / ranks * (ranks - 1);
    case WEFT_OP_broadcast: return ops_bytes(&a->broadcast.x) * (ranks - 1);
    default: return 0;
    }
}
