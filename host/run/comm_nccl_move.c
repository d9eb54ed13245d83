/* SPDX-License-Identifier: Apache-2.0
 * What NCCL's transport enqueues: copies, sums, exchanges, each on the stream it is given. Compiled
 * twice, as comm_nccl.c is. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/comm_nccl_link.h"
#include "host/run/registry.h"
#include "weft/step.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Tensors on a stream ---- */

/* Rows of the longest runs both have in one piece. */
static cudaError_t copy_rows(cudaStream_t q, const weft_tensor *dst, const weft_tensor *src) {
    int axis;
    int64_t run = comm_run(dst, src, &axis), rows = axis >= 0 ? dst->shape[axis] : 1;
    int64_t index[WEFT_DIMS] = {0}, each = run * rows;
    int dtype = dst->dtype;
    size_t width = (size_t)weft_dtype_bytes(dtype, run);
    size_t to = axis >= 0 ? (size_t)weft_dtype_bytes(dtype, dst->stride[axis]) : width;
    size_t from = axis >= 0 ? (size_t)weft_dtype_bytes(dtype, src->stride[axis]) : width;
    cudaError_t e = cudaSuccess;
    for (int64_t n = each ? weft_tensor_count(dst) / each : 0; n > 0 && e == cudaSuccess; n--) {
        char *d = comm_element(dst, index), *s = comm_element(src, index);
        e = rows == 1 ? cudaMemcpyAsync(d, s, width, cudaMemcpyDeviceToDevice, q)
                      : cudaMemcpy2DAsync(d, to, s, from, width, (size_t)rows,
                                          cudaMemcpyDeviceToDevice, q);
        for (int i = axis - 1; i >= 0; i--) {
            if (++index[i] < dst->shape[i])
                break;
            index[i] = 0;
        }
    }
    return e;
}

void nccl_copy(comm_link *link, weft_stream *s, const weft_tensor *dst, const weft_tensor *src) {
    cudaError_t e = copy_rows(queue_of(s), dst, src);
    if (e != cudaSuccess)
        nccl_cuda_fault(own(link), e, "copy");
}

/* The plan's memory for this is the row's x; only its last operands are kept, for whom a stream's
 * error names its step to. */
void nccl_sum(comm_link *link, weft_stream *s, const weft_tensor *y, const void *x, int n) {
    nccl_link *l = own(link);
    weft_rank_sum_args *a = &l->sum.args.rank_sum;
    bool flat = comm_in_one_piece(y);
    int64_t count = weft_tensor_count(y), width = flat ? count : y->shape[y->ndim - 1];
    WEFT_ASSERT(flat || y->ndim == 2);
    int64_t shape[3] = {n, width ? count / width : 0, width};
    *a = (weft_rank_sum_args){.x = weft_tensor_make(WEFT_F32, 3, shape),
                              .y = weft_tensor_make(WEFT_F32, 2, shape + 1)};
    a->y.stride[0] = flat ? width : y->stride[0];
    a->x.data = (void *)(uintptr_t)x;
    a->y.data = y->data;
    a->x.id = a->y.id = 1;
    snprintf(l->sum.tag, sizeof l->sum.tag, "sum over ranks");
    if (!l->sum.kernel &&
        registry_find(l->world->dev, WEFT_OP_rank_sum, &l->sum.args, &l->sum.kernel) != WEFT_OK)
        nccl_fail_here(l, WEFT_UNSUPPORTED);
    else
        l->sum.kernel->run(&l->sum, s);
}

static uint64_t rounded(uint64_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static uint64_t stage_bytes(const comm_part *p, int n) {
    uint64_t need = 0;
    for (int i = 0; i < n; i++)
        need += comm_in_one_piece(&p[i].t) ? 0 : rounded(comm_part_bytes(&p[i]));
    return need;
}

void nccl_free_stage(const nccl_link *l, way *w) {
    const nccl_library *n = l->world->nccl;
    if (w->stage && n->memory_free)
        n->memory_free(w->stage);
    else if (w->stage && cudaFree(w->stage) != cudaSuccess)
        cudaGetLastError();
    w->stage = NULL;
    w->staged = 0;
}

/* NCCL's own allocator, where there is one, gives memory that peers can reach without a copy. */
static weft_status make_room(nccl_link *l, way *w, uint64_t need) {
    const nccl_library *n = l->world->nccl;
    void *p = NULL;
    if (need <= w->staged)
        return WEFT_OK;
    WEFT_TRY(nccl_drain(l, w, 0)); /* what is on its way may be in the old one */
    nccl_free_stage(l, w);
    if (n->memory_alloc && n->memory_free) {
        nccl_result r = n->memory_alloc(&p, need);
        if (r != NCCL_SUCCESS)
            return nccl_fault(l, w->comm, r, "memory for exchanges");
    } else {
        GPU_TRY(l, cudaMalloc(&p, need), "memory for exchanges");
    }
    w->stage = p;
    w->staged = need;
    return WEFT_OK;
}

/* Where a part travels: in place, or in the stage. */
static void *travels_at(const comm_part *p, char **stage) {
    char *at = *stage;
    if (comm_in_one_piece(&p->t))
        return p->t.data;
    *stage += rounded(comm_part_bytes(p));
    return at;
}

static weft_tensor packed(const comm_part *p, void *at) {
    weft_tensor t = weft_tensor_make(p->t.dtype, p->t.ndim, p->t.shape);
    t.data = at;
    return t;
}

/* ---- Heads ---- */

static bool is_check_due(const nccl_link *l, const comm_call *c) {
    const nccl_world *w = l->world;
    return c->head.sequence < w->first || (w->every && c->head.sequence % w->every == 0);
}

static comm_part number_part(int peer, uint64_t *n) {
    int64_t bytes = sizeof *n;
    comm_part p = {.peer = peer, .t = weft_tensor_make(WEFT_I8, 1, &bytes)};
    p.t.data = n;
    return p;
}

/* The other links compare where both are; how much comes is what they carry here. */
static weft_status check_heads(nccl_link *l, const comm_call *c) {
    uint64_t out[COMM_MAX_RANKS], in[COMM_MAX_RANKS];
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    comm_call call = *c;
    for (int i = 0; i < c->nsend; i++) {
        out[i] = comm_part_bytes(&c->send[i]);
        send[i] = number_part(c->send[i].peer, &out[i]);
    }
    for (int i = 0; i < c->nrecv; i++)
        recv[i] = number_part(c->recv[i].peer, &in[i]);
    call.send = send;
    call.recv = recv;
    call.stream = NULL;
    to_base(l);
    WEFT_TRY(l->link.base->transport->exchange(l->link.base, &call));
    for (int i = 0; i < c->nrecv; i++) {
        comm_head want = c->head, got = c->head;
        want.bytes = comm_part_bytes(&c->recv[i]);
        got.bytes = in[i];
        weft_status s = comm_check(&l->link, c->recv[i].peer, &want, &got);
        if (s != WEFT_OK)
            return nccl_fail_here(l, s);
    }
    return WEFT_OK;
}

/* ---- The exchange ---- */

static uint64_t peers_of(const comm_call *c) {
    uint64_t peers = 0;
    for (int i = 0; i < c->nsend; i++)
        peers |= (uint64_t)1 << c->send[i].peer;
    for (int i = 0; i < c->nrecv; i++)
        peers |= (uint64_t)1 << c->recv[i].peer;
    return peers;
}

static weft_status begin(nccl_link *l, way *w, cudaStream_t q, pending **out) {
    pending *p = &w->at[w->enqueued % WINDOW];
    if (!p->begun) {
        GPU_TRY(l, cudaEventCreateWithFlags(&p->begun, cudaEventDisableTiming), "event");
        GPU_TRY(l, cudaEventCreateWithFlags(&p->done, cudaEventDisableTiming), "event");
    }
    GPU_TRY(l, cudaEventRecord(p->begun, q), "event");
    *out = p;
    return WEFT_OK;
}

static weft_status end(nccl_link *l, way *w, cudaStream_t q, pending *p) {
    GPU_TRY(l, cudaEventRecord(p->done, q), "event");
    w->enqueued++;
    nccl_show(l);
    return l->world->at_once && w == l->way ? nccl_drain(l, w, 0) : nccl_advance(l);
}

static nccl_result call_group(const nccl_library *n, const way *w, const comm_call *c,
                              cudaStream_t q) {
    char *stage = w->stage;
    nccl_result r = n->group_start();
    if (r != NCCL_SUCCESS)
        return r;
    for (int i = 0; i < c->nsend; i++) {
        void *at = travels_at(&c->send[i], &stage);
        uint64_t bytes = comm_part_bytes(&c->send[i]);
        if (bytes)
            keep(&r, n->send(at, bytes, NCCL_INT8, c->send[i].peer, w->comm, q));
    }
    for (int i = 0; i < c->nrecv; i++) {
        void *at = travels_at(&c->recv[i], &stage);
        uint64_t bytes = comm_part_bytes(&c->recv[i]);
        if (bytes)
            keep(&r, n->recv(at, bytes, NCCL_INT8, c->recv[i].peer, w->comm, q));
    }
    nccl_result ended = n->group_end();
    return r == NCCL_SUCCESS ? ended : r;
}

static weft_status pack_all(nccl_link *l, const way *w, const comm_call *c, cudaStream_t q) {
    char *stage = w->stage;
    for (int i = 0; i < c->nsend; i++) {
        weft_tensor to = packed(&c->send[i], travels_at(&c->send[i], &stage));
        if (to.data != c->send[i].t.data)
            GPU_TRY(l, copy_rows(q, &to, &c->send[i].t), "copy");
    }
    return WEFT_OK;
}

static weft_status unpack_all(nccl_link *l, const way *w, const comm_call *c, cudaStream_t q) {
    char *stage = w->stage + stage_bytes(c->send, c->nsend);
    for (int i = 0; i < c->nrecv; i++) {
        weft_tensor from = packed(&c->recv[i], travels_at(&c->recv[i], &stage));
        if (from.data != c->recv[i].t.data)
            GPU_TRY(l, copy_rows(q, &c->recv[i].t, &from), "copy");
    }
    return WEFT_OK;
}

/* Which row does it, and through which windows; all ranks of the group have to be of this
 * process. */
bool nccl_can_norm(comm *c, weft_args *a) {
    nccl_link *l = own(c->link);
    int64_t ranks = c->ranks;
    void *table = NULL;
    if (!l->world->peers || comm_peers_table(l->world->peers, l->link.rank, c->group, c->ranks,
                                             c->member, &table) != WEFT_OK)
        return false;
    a->rank_norm.windows = weft_tensor_make(WEFT_I64, 1, &ranks);
    a->rank_norm.windows.data = table;
    a->rank_norm.windows.id = 1;
    return registry_find(l->world->dev, WEFT_OP_rank_norm, a, &l->norm) == WEFT_OK;
}

/* Peers' kernels wait for this one, so every rank is to have come this far: where streams hold up
 * their callers, before it starts. */
static weft_status run_norm(nccl_link *l, const comm_call *c, bool entered) {
    cudaStream_t q = queue_of(c->stream);
    way *w = l->way;
    pending *p;
    WEFT_TRY(nccl_drain(l, w, WINDOW - 1));
    WEFT_TRY(begin(l, w, q, &p));
    p->place = c->place;
    p->peers = peers_of(c);
    p->entered = entered;
    l->shown = entered ? p : l->shown; /* an emulated stream waits for nobody before it has begun */
    l->norm->run(c->norm, c->stream);
    return end(l, w, q, p);
}

static weft_status move_parts(nccl_link *l, way *w, const comm_call *c, bool entered) {
    cudaStream_t q = queue_of(c->stream);
    pending *p;
    WEFT_TRY(nccl_drain(l, w, WINDOW - 1));
    WEFT_TRY(make_room(l, w, stage_bytes(c->send, c->nsend) + stage_bytes(c->recv, c->nrecv)));
    WEFT_TRY(pack_all(l, w, c, q));
    WEFT_TRY(begin(l, w, q, &p));
    p->place = c->place;
    p->peers = peers_of(c);
    p->entered = entered;
    nccl_result r = call_group(l->world->nccl, w, c, q);
    cudaError_t e = cudaSuccess;
    bool next = nccl_on_their_way(l, NULL) == 0;
    if (next && (p->entered || r == NCCL_IN_PROGRESS || nccl_has_come(p->begun, &e)))
        nccl_enter_alone(l, p);
    WEFT_TRY(nccl_settle(l, w, r, "NCCL", c->deadline));
    WEFT_TRY(unpack_all(l, w, c, q));
    return end(l, w, q, p);
}

weft_status nccl_exchange(comm_link *link, const comm_call *c) {
    nccl_link *l = own(link);
    if (!c->stream) {
        to_base(l);
        return l->link.base->transport->exchange(l->link.base, c);
    }
    way *w = &l->way[c->stream == l->side];
    WEFT_TRY(nccl_alive(l));
    bool check = is_check_due(l, c) || (c->norm && l->world->at_once);
    if (check) {
        WEFT_TRY(nccl_drain(l, NULL, 0));
        comm_enter(link, &c->place);
        WEFT_TRY(check_heads(l, c));
    }
    return c->norm ? run_norm(l, c, check) : move_parts(l, w, c, check);
}

weft_status nccl_all_reduce(comm_link *link, weft_stream *s, float *x, uint64_t n) {
    nccl_link *l = own(link);
    cudaStream_t q = queue_of(s);
    way *w = l->way;
    pending *p;
    WEFT_TRY(nccl_drain(l, w, WINDOW - 1));
    WEFT_TRY(begin(l, w, q, &p));
    p->place = (flight_place){.op = WEFT_OP_reduce_scatter,
                              .group = WEFT_GROUP_WORLD,
                              .bytes = n * sizeof(float),
                              .inside = true,
                              .tag = "ncclAllReduce"};
    p->peers = 0;
    p->entered = false;
    nccl_result r = l->world->nccl->all_reduce(x, x, n, NCCL_FLOAT32, NCCL_SUM, w->comm, q);
    WEFT_TRY(nccl_settle(l, w, r, "NCCL", clock_seconds() + link->timeout + link->expected));
    return end(l, w, q, p);
}
