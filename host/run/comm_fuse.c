/* SPDX-License-Identifier: Apache-2.0
 * Three steps of a short sum over ranks as one. */
#include "host/run/comm.h"
#include "host/run/ops.h"
#include "weft/step.h"

static void rank_norm_run(const weft_step *s, weft_stream *stream) {
    weft_status st = comm_norm(s->state, s, stream);
    (void)st; /* the link's: whoever waits for the step asks for it */
}

static const weft_kernel row = {
    .op = WEFT_OP_rank_norm, .backend = "comm", .name = "peer", .run = rank_norm_run};

static bool overlaps(const weft_tensor *a, const weft_tensor *b) {
    const char *p = a->data, *q = b->data;
    return p < q + ops_bytes(b) && q < p + ops_bytes(a);
}

/* Whether s[0..3) are the three; *a: what they are together. */
static bool matches(const weft_plan *p, const weft_step *s, int at, weft_rank_norm_args *a) {
    const weft_all_gather_args *g = &s[0].args.all_gather;
    const weft_leaf_sum_args *l = &s[1].args.leaf_sum;
    const weft_rmsnorm_args *n = &s[2].args.rmsnorm;
    if (s[0].kernel->op != WEFT_OP_all_gather || s[1].kernel->op != WEFT_OP_leaf_sum ||
        s[2].kernel->op != WEFT_OP_rmsnorm)
        return false;
    if (g->axis != 0 || l->x.id != g->y.id || n->x.id != l->y.id || weft_has(&l->res) ||
        !weft_has(&n->res) || !weft_has(&n->r) || weft_has(&n->inv) || n->y.ndim != 2 ||
        l->rows.data != n->rows.data || l->y.dtype != n->y.dtype)
        return false;
    /* Nobody else reads the sum; what is left unread is not looked at by rows that are not true. */
    if (p->value[l->y.id].last != (uint32_t)at + 2 || p->value[g->y.id].last != (uint32_t)at + 1)
        return false;
    *a = (weft_rank_norm_args){.x = weft_tensor_make(WEFT_F32, 2, l->y.shape),
                               .res = n->res,
                               .g = n->g,
                               .bias = l->bias,
                               .rows = n->rows,
                               .y = n->y,
                               .r = n->r,
                               .eps = n->eps,
                               .offset = n->offset,
                               .ranks = (int32_t)l->x.shape[0],
                               .group = g->group};
    a->x.data = g->x.data;
    a->x.id = g->x.id;
    bool alone = a->x.shape[0] == 1; /* a row reads before it writes */
    return weft_tensor_count(&g->x) == weft_tensor_count(&a->x) &&
           (alone || (!overlaps(&a->x, &a->y) && !overlaps(&a->x, &a->r)));
}

static bool fuse_at(weft_plan *p, int at, comm *end) {
    weft_step *s = &p->step[at];
    weft_args a = {0};
    if (!matches(p, s, at, &a.rank_norm))
        return false;
    comm *c = &end[a.rank_norm.group];
    const comm_stream_ops *o = c->link ? c->link->transport->on_stream : NULL;
    a.rank_norm.rank = c->rank;
    if (!o || c->ranks != a.rank_norm.ranks || !o->can_norm(c, &a))
        return false;
    s->args = a;
    s->kernel = &row;
    s->state = c;
    s->bytes += s[2].bytes;
    s->flops = s[1].flops + s[2].flops;
    return true;
}

void comm_fuse(weft_plan *p, comm *end) {
    int out = 0;
    for (int i = 0; i < p->nstep; i++) {
        bool fused = end && i + 3 <= p->nstep && fuse_at(p, i, end);
        p->step[out++] = p->step[i];
        i += fused ? 2 : 0;
    }
    p->nstep = out;
}
