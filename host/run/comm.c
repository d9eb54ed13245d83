/* SPDX-License-Identifier: Apache-2.0
 * Collectives over exchanges: the rows for memory of the host, whatever the transport. */
#include "host/run/comm.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/run/comm_fault.h"
#include "host/run/ops.h"
#include "weft/step.h"
#include <stdio.h>
#include <string.h>

/* ---- Tensors ---- */

char *comm_element(const weft_tensor *t, const int64_t *index) {
    int64_t off = 0;
    for (int i = 0; i < WEFT_DIMS; i++)
        off += index[i] * t->stride[i];
    return (char *)t->data + weft_dtype_bytes(t->dtype, off);
}

int64_t comm_run(const weft_tensor *a, const weft_tensor *b, int *axis) {
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

/* Of the runs behind `axis` the next one. */
static void next_index(const weft_tensor *t, int axis, int64_t *index) {
    for (int i = axis; i >= 0; i--) {
        if (++index[i] < t->shape[i])
            return;
        index[i] = 0;
    }
}

bool comm_in_one_piece(const weft_tensor *t) {
    int axis;
    return comm_run(t, t, &axis) == weft_tensor_count(t);
}

void comm_copy(const weft_tensor *dst, const weft_tensor *src) {
    int axis;
    int64_t run = comm_run(dst, src, &axis), total = weft_tensor_count(dst) / (run ? run : 1);
    int64_t index[WEFT_DIMS] = {0};
    for (int64_t n = 0; n < total; n++) {
        memcpy(comm_element(dst, index), comm_element(src, index),
               (size_t)weft_dtype_bytes(dst->dtype, run));
        next_index(dst, axis, index);
    }
}

typedef float lanes __attribute__((vector_size(16), aligned(4), may_alias));
enum { LANES = 4, SUM_BLOCK = 1024 };

static const lanes *lanes_of(const float *p) {
    return (const lanes *)(const void *)p;
}

/* A vector at a time: of y, another rank may have the lines, and a quarter of the time is lost
 * where several are read before the first is written. */
static void add_run(float *y, const float *a, const float *b, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        *(lanes *)(void *)(y + i) = *lanes_of(a + i) + *lanes_of(b + i);
    for (; i < count; i++)
        y[i] = a[i] + b[i];
}

/* By blocks that stay in the nearest cache while rank after rank is added. */
void comm_sum(float *y, const float *const *x, int n, int64_t count) {
    float part[SUM_BLOCK]; /* y may be an x that is not read yet */
    for (int64_t i = 0; i < count; i += SUM_BLOCK) {
        int64_t k = count - i < SUM_BLOCK ? count - i : SUM_BLOCK;
        if (n == 1)
            memmove(y + i, x[0] + i, sizeof(float) * (size_t)k);
        for (int r = 1; r < n; r++)
            add_run(r == n - 1 ? y + i : part, r == 1 ? x[0] + i : part, x[r] + i, k);
    }
}

/* In the longest runs that all have in one piece. */
static void sum_tensors(const weft_tensor *y, const weft_tensor *x, int n) {
    int64_t index[WEFT_DIMS] = {0}, run = weft_tensor_count(y);
    const float *from[COMM_MAX_RANKS];
    int axis = -1, at;
    for (int r = 0; r < n; r++) {
        int64_t both = comm_run(y, &x[r], &at);
        run = both < run ? both : run;
        axis = at > axis ? at : axis;
    }
    for (int64_t left = run ? weft_tensor_count(y) / run : 0; left > 0; left--) {
        for (int r = 0; r < n; r++)
            from[r] = (const float *)(const void *)comm_element(&x[r], index);
        comm_sum((float *)(void *)comm_element(y, index), from, n, run);
        next_index(y, axis, index);
    }
}

static weft_tensor part_of(const weft_tensor *t, int axis, int64_t begin, int64_t n) {
    weft_tensor p = *t;
    p.data = (char *)t->data + weft_dtype_bytes(t->dtype, begin * t->stride[axis]);
    p.shape[axis] = n;
    return p;
}

uint64_t comm_part_bytes(const comm_part *p) {
    return (uint64_t)weft_dtype_bytes(p->t.dtype, weft_tensor_count(&p->t));
}

static weft_tensor bytes_at(void *data, uint64_t n) {
    weft_tensor t = weft_tensor_make(WEFT_I8, 1, (int64_t[]){(int64_t)n});
    t.data = data;
    return t;
}

/* ---- Links and groups ---- */

_Static_assert((int)FLIGHT_GROUPS == (int)WEFT_GROUPS, "a count each");

const char *comm_group_name(int group) {
    static const char *const names[WEFT_GROUPS] = {"tp", "pp", "dp", "world"};
    return group >= 0 && group < WEFT_GROUPS ? names[group] : "?";
}

comm comm_group(comm_link *l, int group, int ranks, const int *member) {
    comm c = {.link = l, .group = group, .ranks = ranks};
    WEFT_ASSERT(ranks <= COMM_MAX_RANKS);
    for (int i = 0; i < ranks; i++) {
        c.member[i] = member[i];
        c.rank = member[i] == l->rank ? i : c.rank;
    }
    return c;
}

/* The ranks that differ from `self` in the coordinate of the group alone. */
static int members(const shard_mesh *mesh, int self, int group, int *member) {
    shard_mesh me = shard_place(mesh, self);
    int n = 0;
    for (int i = 0; i < shard_ranks(mesh); i++) {
        shard_mesh p = shard_place(mesh, i);
        bool tp = p.tp == me.tp, pp = p.pp == me.pp, dp = p.dp == me.dp;
        if (group == WEFT_GROUP_WORLD || (group == WEFT_GROUP_TP && pp && dp) ||
            (group == WEFT_GROUP_PP && tp && dp) || (group == WEFT_GROUP_DP && tp && pp))
            member[n++] = i;
    }
    return n;
}

void comm_join(comm_link *l, const shard_mesh *mesh, int first, comm *end) {
    int member[SHARD_MAX_RANKS];
    for (int g = 0; g < WEFT_GROUPS; g++) {
        int n = members(mesh, l->rank - first, g, member);
        for (int i = 0; i < n; i++)
            member[i] += first;
        end[g] = comm_group(l, g, n, member);
    }
}

void comm_close(comm_link *l) {
    if (l)
        l->transport->close(l);
}

weft_status comm_status(comm_link *l) {
    return l->transport->status(l);
}

int comm_blamed(comm_link *l) {
    return l->transport->blamed ? l->transport->blamed(l) : -1;
}

void comm_abort(comm_link *l, weft_status code) {
    l->transport->abort(l, code);
}

void comm_done(comm_link *l) {
    if (l && l->transport->done)
        l->transport->done(l);
}

void comm_step(comm_link *l, int64_t step, double seconds) {
    l->step = step;
    l->expected = seconds;
}

static const char *op_name(int op) {
    return op >= 0 && op < WEFT_OP_COUNT ? weft_op_table[op].name : "?";
}

weft_status comm_check(const comm_link *l, int peer, const comm_head *want, const comm_head *got) {
    if (memcmp(want, got, sizeof *want) == 0)
        return WEFT_OK;
    return weft_fail(WEFT_PEER,
                     "rank %d and rank %d disagree at step %lld: rank %d is in %s %llu of %s (%s, "
                     "%llu bytes), rank %d in %s %llu of %s (%.*s, %llu bytes)",
                     l->rank, peer, (long long)l->step, l->rank, op_name(want->op),
                     (unsigned long long)want->sequence, comm_group_name(want->group), want->tag,
                     (unsigned long long)want->bytes, peer, op_name(got->op),
                     (unsigned long long)got->sequence, comm_group_name(got->group),
                     (int)sizeof got->tag - 1, got->tag, (unsigned long long)got->bytes);
}

weft_status comm_finish(comm_link *l) {
    const comm_stream_ops *o = l->transport->on_stream;
    return o ? o->finish(l) : WEFT_OK;
}

bool comm_on_stream(const comm_link *l) {
    return l && l->transport->on_stream;
}

weft_status comm_wait(comm_link *l, weft_stream *s) {
    return comm_on_stream(l) ? l->transport->on_stream->wait(l, s) : WEFT_OK;
}

weft_status comm_side(comm_link *l, const weft_stream *s) {
    return comm_on_stream(l) ? l->transport->on_stream->side(l, s) : WEFT_OK;
}

weft_status comm_attend(comm_link *l) {
    const comm_stream_ops *o = l ? l->transport->on_stream : NULL;
    return o ? o->attend(l) : WEFT_OK;
}

weft_status comm_memory(comm_link *l, void *p, uint64_t bytes) {
    const comm_stream_ops *o = l ? l->transport->on_stream : NULL;
    return o ? o->memory(l, p, bytes) : WEFT_OK;
}

void comm_enter(comm_link *l, const flight_place *p) {
    flight_note(l->flight, p, false);
}

void comm_leave(comm_link *l, flight_place *p) {
    p->inside = false;
    p->since = clock_seconds();
    flight_note(l->flight, p, true);
    if (p->op != WEFT_OP_send)
        atomic_store_explicit(&l->flight->left[p->group], p->sequence + 1, memory_order_relaxed);
}

/* What a stream's exchanges do besides moving is the stream's too. */
static const comm_stream_ops *stream_ops(const comm *c, const weft_stream *s) {
    return s ? c->link->transport->on_stream : NULL;
}

static void copy_in_order(const comm *c, weft_stream *s, const weft_tensor *dst,
                          const weft_tensor *src) {
    const comm_stream_ops *o = stream_ops(c, s);
    if (o)
        o->copy(c->link, s, dst, src);
    else
        comm_copy(dst, src);
}

void comm_accuse(comm_link *l, int rank) {
    if (l->transport->accuse)
        l->transport->accuse(l, rank);
    else
        l->transport->abort(l, WEFT_PEER);
}

/* ---- NaN ---- */

void comm_watch(comm_link *l) {
    l->watched = true;
    l->nan.from = -1;
}

void comm_head_text(const comm_head *h, char *out, size_t n) {
    snprintf(out, n, "%s %llu of %s, %.*s", op_name(h->op), (unsigned long long)h->sequence,
             comm_group_name(h->group), (int)sizeof h->tag - 1, h->tag);
}

static bool run_has_nan(const char *data, int dtype, int64_t n) {
    bool found = false;
    for (int64_t i = 0; dtype == WEFT_F32 && i < n; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, 4);
        found |= (bits & 0x7fffffffu) > 0x7f800000u;
    }
    for (int64_t i = 0; dtype == WEFT_BF16 && i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, 2);
        found |= (bits & 0x7fffu) > 0x7f80u;
    }
    return found;
}

static bool has_nan(const weft_tensor *t) {
    int axis;
    int64_t run = comm_run(t, t, &axis), total = weft_tensor_count(t) / (run ? run : 1);
    int64_t index[WEFT_DIMS] = {0};
    for (int64_t k = 0; k < total; k++) {
        if (run_has_nan(comm_element(t, index), t->dtype, run))
            return true;
        next_index(t, axis, index);
    }
    return false;
}

static void count_sent(comm_link *l, const comm_call *c) {
    const comm_head *h = &c->head;
    if (l->nan.from >= 0)
        return;
    if (h->op != WEFT_OP_send)
        l->nan.done[h->group] = h->sequence + 1;
    else if (c->nsend)
        l->nan.sent[h->group][c->send[0].peer] = h->sequence + 1;
}

static void look_through(comm_link *l, const comm_call *c) {
    for (int i = 0; l->watched && l->nan.from < 0 && i < c->nrecv; i++)
        if (has_nan(&c->recv[i].t)) {
            l->nan.head = c->head;
            l->nan.from = c->recv[i].peer;
        }
}

bool comm_nan_was_first(const comm_nan *x, int sent_to, const comm_nan *sender) {
    const comm_head *h = &x->head;
    return sender->from < 0 ||
           h->sequence <
               (h->op == WEFT_OP_send ? sender->sent[h->group][sent_to] : sender->done[h->group]);
}

/* One exchange with its place in the flight record around it; *sequence counts those before. */
static weft_status counted(comm *c, int op, uint64_t *sequence, const char *tag,
                           weft_stream *stream, const comm_part *send, int nsend,
                           const comm_part *recv, int nrecv, const weft_step *norm) {
    comm_link *l = c->link;
    double now = clock_seconds();
    bool enqueued = stream_ops(c, stream) != NULL;
    comm_call call = {.send = send, .recv = recv, .nsend = nsend, .nrecv = nrecv};
    call.stream = enqueued ? stream : NULL;
    call.norm = norm;
    call.head = (comm_head){.op = op, .group = c->group, .sequence = *sequence};
    snprintf(call.head.tag, sizeof call.head.tag, "%s", tag);
    call.deadline = now + l->timeout + l->expected;
    flight_place p = {.step = l->step,
                      .sequence = *sequence,
                      .op = op,
                      .group = c->group,
                      .inside = true,
                      .receives = op == WEFT_OP_send && nsend == 0,
                      .since = now};
    memcpy(p.tag, call.head.tag, sizeof p.tag);
    for (int i = 0; i < nsend; i++)
        p.bytes += comm_part_bytes(&send[i]);
    c->sent += p.bytes;
    for (int i = 0; i < nrecv; i++)
        p.bytes += comm_part_bytes(&recv[i]);
    call.place = p;
    if (!enqueued)
        comm_enter(l, &p);
    comm_part struck[COMM_MAX_RANKS];
    if (comm_fault_wanted()) {
        for (int i = 0; i < nsend; i++)
            struck[i] = send[i];
        call.send = struck;
        comm_fault_strike(l, !enqueued, &call.head, struck, &call.nsend);
    }
    l->calls++;
    count_sent(l, &call);
    weft_status s = l->transport->exchange(l, &call);
    ++*sequence;
    if (s != WEFT_OK || enqueued) /* a failed rank stays where it failed, for who reads it */
        return s;
    look_through(l, &call);
    comm_leave(l, &p);
    if (op == WEFT_OP_send && nsend > 0)
        flight_sent(l->flight, send->peer, *sequence);
    return s;
}

static weft_status exchange(comm *c, int op, const char *tag, weft_stream *stream,
                            const comm_part *send, int nsend, const comm_part *recv, int nrecv) {
    return counted(c, op, &c->sequence, tag, stream, send, nsend, recv, nrecv, NULL);
}

static comm_part part_for(const comm *c, int rank, weft_tensor t) {
    return (comm_part){.peer = c->member[rank], .t = t};
}

weft_status comm_broadcast(comm *c, int root, void *data, uint64_t n, const char *what) {
    comm_part parts[COMM_MAX_RANKS];
    int np = 0;
    weft_tensor t = bytes_at(data, n);
    for (int r = 0; r < c->ranks; r++)
        if (c->rank == root ? r != root : r == root && c->rank != r)
            parts[np++] = part_for(c, r, t);
    if (c->rank == root)
        return exchange(c, WEFT_OP_broadcast, what, NULL, parts, np, NULL, 0);
    return exchange(c, WEFT_OP_broadcast, what, NULL, NULL, 0, parts, np);
}

weft_status comm_collect(comm *c, void *mine, void *all, uint64_t n, const char *what) {
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    int np = 0;
    for (int r = 0; r < c->ranks; r++) {
        char *to = (char *)all + (uint64_t)r * n;
        if (r == c->rank) {
            memcpy(to, mine, n);
        } else {
            send[np] = part_for(c, r, bytes_at(mine, n));
            recv[np++] = part_for(c, r, bytes_at(to, n));
        }
    }
    return exchange(c, WEFT_OP_all_gather, what, NULL, send, np, recv, np);
}

weft_status comm_pass(comm *c, int from, int to, float *x, int64_t n, const char *what) {
    weft_tensor t = weft_tensor_make(WEFT_F32, 1, &n);
    t.data = x;
    comm_part p = part_for(c, c->rank == from ? to : from, t);
    if (c->rank == from)
        return counted(c, WEFT_OP_send, &c->moved[0][to], what, NULL, &p, 1, NULL, 0, NULL);
    return counted(c, WEFT_OP_send, &c->moved[1][from], what, NULL, NULL, 0, &p, 1, NULL);
}

/* As the all-gather that it stands for. */
weft_status comm_norm(comm *c, const weft_step *s, weft_stream *stream) {
    comm_part part[COMM_MAX_RANKS];
    int n = 0;
    for (int r = 0; r < c->ranks; r++)
        if (r != c->rank)
            part[n++] = part_for(c, r, s->args.rank_norm.x);
    return counted(c, WEFT_OP_rank_norm, &c->sequence, s->tag, stream, part, n, part, n, s);
}

weft_status comm_barrier(comm *c, const char *what) {
    char mine = 0, all[COMM_MAX_RANKS];
    return comm_collect(c, &mine, all, 1, what);
}

/* ---- Rows ---- */

static comm *end_of(const weft_step *s) {
    return s->state;
}

static void all_gather_run(const weft_step *s, weft_stream *stream) {
    const weft_all_gather_args *a = &s->args.all_gather;
    comm *c = end_of(s);
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    int64_t part = a->x.shape[a->axis];
    int n = 0;
    for (int r = 0; r < c->ranks; r++) {
        weft_tensor to = part_of(&a->y, a->axis, r * part, part);
        if (r == c->rank) {
            copy_in_order(c, stream, &to, &a->x);
        } else {
            send[n] = part_for(c, r, a->x);
            recv[n++] = part_for(c, r, to);
        }
    }
    if (exchange(c, WEFT_OP_all_gather, s->tag, stream, send, n, recv, n) != WEFT_OK ||
        stream_ops(c, stream))
        return;
    weft_tensor from[COMM_MAX_RANKS];
    for (int r = 0; r < c->ranks; r++)
        from[r] = part_of(&a->y, a->axis, r * part, part);
    comm_sound_parts(c, s, from, c->ranks, a->axis);
}

/* In rank order, whoever was first. */
static void sum_in_order(const comm *c, weft_stream *s, const weft_tensor *y,
                         const weft_tensor *from, const void *planes) {
    const comm_stream_ops *o = stream_ops(c, s);
    if (o) {
        weft_tensor own = weft_tensor_make(WEFT_F32, y->ndim, y->shape);
        own.data = (char *)planes + c->rank * ops_bytes(y);
        o->copy(c->link, s, &own, &from[c->rank]);
        o->sum(c->link, s, y, planes, c->ranks);
        return;
    }
    sum_tensors(y, from, c->ranks);
}

/* The others' parts come into scratch, a plane each. */
static void reduce_scatter_run(const weft_step *s, weft_stream *stream) {
    const weft_reduce_scatter_args *a = &s->args.reduce_scatter;
    comm *c = end_of(s);
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    weft_tensor from[COMM_MAX_RANKS];
    int64_t part = a->y.shape[a->axis], bytes = ops_bytes(&a->y);
    int n = 0;
    for (int r = 0; r < c->ranks; r++) {
        weft_tensor mine = part_of(&a->x, a->axis, r * part, part);
        from[r] = weft_tensor_make(WEFT_F32, a->y.ndim, a->y.shape);
        from[r].data = (char *)s->scratch + r * bytes;
        if (r == c->rank) {
            from[r] = mine;
        } else {
            send[n] = part_for(c, r, mine);
            recv[n++] = part_for(c, r, from[r]);
        }
    }
    if (exchange(c, WEFT_OP_reduce_scatter, s->tag, stream, send, n, recv, n) != WEFT_OK)
        return;
    if (!stream_ops(c, stream))
        comm_sound_addends(c, s, from, c->ranks, a->axis);
    sum_in_order(c, stream, &a->y, from, s->scratch);
}

static int64_t share_of(int64_t n, int ranks) {
    return (n + ranks - 1) / ranks;
}

uint64_t comm_all_reduce_scratch(int64_t n, int ranks) {
    return sizeof(float) * (uint64_t)(share_of(n, ranks) * ranks);
}

/* A rank's elements of x, the last ones perhaps fewer. */
static weft_tensor share(float *x, int64_t n, int ranks, int rank) {
    int64_t each = share_of(n, ranks), begin = each * rank, left = n - begin;
    int64_t count = left < 0 ? 0 : left < each ? left : each;
    weft_tensor t = weft_tensor_make(WEFT_F32, 1, &count);
    t.data = x + (count ? begin : 0);
    t.id = 1;
    return t;
}

static weft_status gather_shares(comm *c, weft_stream *s, float *x, int64_t n, const char *what) {
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    int np = 0;
    for (int r = 0; r < c->ranks; r++)
        if (r != c->rank) {
            send[np] = part_for(c, r, share(x, n, c->ranks, c->rank));
            recv[np++] = part_for(c, r, share(x, n, c->ranks, r));
        }
    return exchange(c, WEFT_OP_all_gather, what, s, send, np, recv, np);
}

weft_status comm_all_reduce(comm *c, weft_stream *s, float *x, int64_t n, void *scratch,
                            const char *what) {
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    weft_tensor from[COMM_MAX_RANKS], mine = share(x, n, c->ranks, c->rank);
    int np = 0;
    for (int r = 0; r < c->ranks; r++) {
        from[r] = mine;
        if (r == c->rank)
            continue;
        from[r].data = (float *)scratch + r * weft_tensor_count(&mine);
        send[np] = part_for(c, r, share(x, n, c->ranks, r));
        recv[np++] = part_for(c, r, from[r]);
    }
    WEFT_TRY(exchange(c, WEFT_OP_reduce_scatter, what, s, send, np, recv, np));
    sum_in_order(c, s, &mine, from, scratch);
    return gather_shares(c, s, x, n, what);
}

weft_status comm_shift(comm *c, const comm_part *send, const comm_part *recv, const char *what) {
    return exchange(c, WEFT_OP_reduce_scatter, what, NULL, send, 1, recv, 1);
}

static size_t reduce_scatter_scratch(const weft_args *a) {
    return (size_t)ops_bytes(&a->reduce_scatter.x);
}

static void all_to_all_run(const weft_step *s, weft_stream *stream) {
    const weft_all_to_all_args *a = &s->args.all_to_all;
    comm *c = end_of(s);
    comm_part send[COMM_MAX_RANKS], recv[COMM_MAX_RANKS];
    int64_t part = a->x.shape[0] / c->ranks;
    int n = 0;
    for (int r = 0; r < c->ranks; r++) {
        weft_tensor from = part_of(&a->x, 0, r * part, part);
        weft_tensor to = part_of(&a->y, 0, r * part, part);
        if (r == c->rank) {
            copy_in_order(c, stream, &to, &from);
        } else {
            send[n] = part_for(c, r, from);
            recv[n++] = part_for(c, r, to);
        }
    }
    exchange(c, WEFT_OP_all_to_all, s->tag, stream, send, n, recv, n);
}

static void broadcast_run(const weft_step *s, weft_stream *stream) {
    const weft_broadcast_args *a = &s->args.broadcast;
    comm *c = end_of(s);
    comm_part parts[COMM_MAX_RANKS];
    int n = 0;
    if (c->rank != a->peer) {
        parts[0] = part_for(c, a->peer, a->x);
        exchange(c, WEFT_OP_broadcast, s->tag, stream, NULL, 0, parts, 1);
        return;
    }
    for (int r = 0; r < c->ranks; r++)
        if (r != c->rank)
            parts[n++] = part_for(c, r, a->x);
    exchange(c, WEFT_OP_broadcast, s->tag, stream, parts, n, NULL, 0);
}

static void send_run(const weft_step *s, weft_stream *stream) {
    comm *c = end_of(s);
    comm_part p = part_for(c, s->args.send.peer, s->args.send.x);
    counted(c, WEFT_OP_send, &c->moved[0][s->args.send.peer], s->tag, stream, &p, 1, NULL, 0, NULL);
}

/* The message carries the sender's op. */
static void recv_run(const weft_step *s, weft_stream *stream) {
    comm *c = end_of(s);
    comm_part p = part_for(c, s->args.recv.peer, s->args.recv.y);
    weft_status st = counted(c, WEFT_OP_send, &c->moved[1][s->args.recv.peer], s->tag, stream, NULL,
                             0, &p, 1, NULL);
    if (st == WEFT_OK && !stream_ops(c, stream))
        comm_sound_from(c, s, &p.t, s->args.recv.peer);
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
    { .op = WEFT_OP_##o, .backend = "comm", .name = "host", .ok = ok_, .run = o##_run }
const weft_kernel comm_host_kernels[] = {
    ROW(all_gather, all_gather_ok),
    {.op = WEFT_OP_reduce_scatter,
     .backend = "comm",
     .name = "host",
     .ok = reduce_scatter_ok,
     .scratch = reduce_scatter_scratch,
     .run = reduce_scatter_run},
    ROW(all_to_all, NULL),
    ROW(broadcast, NULL),
    ROW(send, NULL),
    ROW(recv, NULL),
    {.op = WEFT_OP_sample_sharded,
     .backend = "comm",
     .name = "host",
     .arith = WEFT_ARITH_REF,
     .ok = comm_sample_ok,
     .scratch = comm_sample_scratch,
     .run = comm_sample_run},
    {.name = NULL},
};

int comm_group_of(weft_op op, const weft_args *a) {
    /* attention has a group of heads */
    const weft_field *f = weft_op_table[op].flags & WEFT_COMM ? ops_field(op, "group") : NULL;
    return f ? ops_int(a, f) : WEFT_GROUP_TP;
}

int64_t comm_sent_bytes(weft_op op, const weft_args *a, int ranks, int rank) {
    switch (op) {
    case WEFT_OP_all_gather: return ops_bytes(&a->all_gather.x) * (ranks - 1);
    case WEFT_OP_reduce_scatter: return ops_bytes(&a->reduce_scatter.x) / ranks * (ranks - 1);
    case WEFT_OP_all_to_all: return ops_bytes(&a->all_to_all.x) / ranks * (ranks - 1);
    case WEFT_OP_broadcast:
        return rank == a->broadcast.peer ? ops_bytes(&a->broadcast.x) * (ranks - 1) : 0;
    case WEFT_OP_send: return ops_bytes(&a->send.x);
    case WEFT_OP_rank_norm: return ops_bytes(&a->rank_norm.x) * (ranks - 1);
    case WEFT_OP_sample_sharded: return comm_sample_sent(a, ranks);
    default: return 0;
    }
}
