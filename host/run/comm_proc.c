/* SPDX-License-Identifier: Apache-2.0
 * The exchange between processes: tensors that are not in one piece are packed, then the wire moves
 * messages until all have arrived, the deadline is past or the job has failed. */
#include "host/run/comm_proc.h"
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/run/device_gpu.h"
#include <stdio.h>
#include <string.h>

#define STOPPED_SECONDS 1.0

typedef struct {
    comm_link link;
    boot *boot;
    comm_wire *wire;
    char *stage; /* room for packed tensors; grows to the largest exchange, then stays */
    uint64_t staged;
} proc_link;

static proc_link *own(comm_link *l) {
    return (proc_link *)(void *)l;
}

static weft_status proc_status(comm_link *l) {
    return boot_status(own(l)->boot);
}

static void proc_abort(comm_link *l, weft_status code) {
    boot_fail(own(l)->boot, code);
}

static weft_status proc_late(comm_link *l) {
    return boot_late(own(l)->boot);
}

static weft_tensor packed(const weft_tensor *t, void *at) {
    weft_tensor p = weft_tensor_make(t->dtype, t->ndim, t->shape);
    p.data = at;
    return p;
}

static uint64_t stage_bytes(const comm_part *p, int n) {
    uint64_t need = 0;
    for (int i = 0; i < n; i++)
        need += comm_in_one_piece(&p[i].t) ? 0 : (comm_part_bytes(&p[i]) + 63) / 64 * 64;
    return need;
}

static void make_room(proc_link *l, uint64_t need) {
    if (need <= l->staged)
        return;
    mem_free(l->stage);
    l->stage = mem_alloc(need);
    l->staged = need;
}

static wire_part message(const comm_call *c, const comm_part *p, bool out, char **stage) {
    wire_part w = {.peer = p->peer, .out = out, .bytes = comm_part_bytes(p), .data = p->t.data};
    if (out) {
        w.head = c->head;
        w.head.bytes = w.bytes;
    }
    if (comm_in_one_piece(&p->t))
        return w;
    w.data = *stage;
    *stage += (w.bytes + 63) / 64 * 64;
    weft_tensor to = packed(&p->t, w.data);
    if (out)
        comm_copy(&to, &p->t);
    return w;
}

static void unpack(const comm_part *p, const wire_part *w) {
    if (w->data == p->t.data)
        return;
    weft_tensor from = packed(&p->t, w->data);
    comm_copy(&p->t, &from);
}

static uint64_t waiting_for(const wire_part *w, int n) {
    uint64_t waits = 0;
    for (int i = 0; i < n; i++)
        waits |= (uint64_t)!w[i].done << w[i].peer;
    return waits;
}

static weft_status check_heads(const proc_link *l, const comm_call *c, wire_part *w) {
    for (int i = 0; i < c->nrecv; i++) {
        comm_head want = c->head;
        want.bytes = w[i].bytes;
        if (w[i].head_done)
            WEFT_TRY(comm_check(&l->link, w[i].peer, &want, &w[i].head));
    }
    return WEFT_OK;
}

static weft_status fail_here(proc_link *l, weft_status s) {
    boot_fail(l->boot, s);
    return boot_status(l->boot);
}

static weft_status move_all(proc_link *l, const comm_call *c, wire_part *w, int n) {
    enum { SLICE_MS = 20 };
    double deadline = c->deadline, last = clock_seconds();
    for (;;) {
        int lost = -1;
        weft_status s = l->wire->kind->move(l->wire, w, n, SLICE_MS / 1000.0, &lost);
        if (s != WEFT_OK)
            return lost >= 0 ? boot_lost(l->boot, lost) : fail_here(l, s);
        s = check_heads(l, c, w);
        if (s != WEFT_OK)
            return fail_here(l, s);
        uint64_t waits = waiting_for(w, n);
        atomic_store_explicit(&l->link.flight->waits, waits, memory_order_relaxed);
        if (!waits)
            return WEFT_OK;
        WEFT_TRY(boot_status(l->boot));
        double now = clock_seconds(), gap = now - last;
        deadline += gap > STOPPED_SECONDS ? gap
                                          : 0; /* this process was stopped: no fault of others */
        last = now;
        if (now > deadline)
            return boot_late(l->boot);
    }
}

static weft_status proc_exchange(comm_link *link, const comm_call *c) {
    proc_link *l = own(link);
    wire_part w[2 * COMM_MAX_RANKS];
    WEFT_TRY(boot_status(l->boot));
    if (c->nrecv + c->nsend == 0)
        return WEFT_OK; /* a group of one: nothing would ever be ready */
    boot_expect(l->boot, link->timeout + link->expected);
    make_room(l, stage_bytes(c->send, c->nsend) + stage_bytes(c->recv, c->nrecv));
    char *stage = l->stage;
    for (int i = 0; i < c->nrecv; i++)
        w[i] = message(c, &c->recv[i], false, &stage);
    for (int i = 0; i < c->nsend; i++)
        w[c->nrecv + i] = message(c, &c->send[i], true, &stage);
    WEFT_TRY(move_all(l, c, w, c->nrecv + c->nsend));
    for (int i = 0; i < c->nrecv; i++)
        unpack(&c->recv[i], &w[i]);
    return WEFT_OK;
}

static int proc_blamed(comm_link *link) {
    return boot_blamed(own(link)->boot);
}

static void proc_accuse(comm_link *link, int rank) {
    boot_accuse(own(link)->boot, rank);
}

static void proc_close(comm_link *link) {
    proc_link *l = own(link);
    bool failed = boot_status(l->boot) != WEFT_OK;
    boot_close(l->boot);
    if (l->wire)
        l->wire->kind->close(l->wire, failed);
    mem_free(l->stage);
    mem_free(l);
}

static weft_status proc_all_reduce(comm_link *link, float *x, uint64_t n) {
    proc_link *l = own(link);
    return l->wire->kind->all_reduce(l->wire, x, n);
}

static const comm_transport tcp_transport = {
    .name = "tcp",
    .exchange = proc_exchange,
    .abort = proc_abort,
    .status = proc_status,
    .blamed = proc_blamed,
    .late = proc_late,
    .accuse = proc_accuse,
    .close = proc_close,
};
static const comm_transport mpi_transport = {
    .name = "mpi",
    .exchange = proc_exchange,
    .abort = proc_abort,
    .status = proc_status,
    .blamed = proc_blamed,
    .late = proc_late,
    .accuse = proc_accuse,
    .close = proc_close,
    .all_reduce = proc_all_reduce,
};

boot *comm_proc_boot(const comm_link *l) {
    l = l->base ? l->base : l;
    bool ours = l->transport->exchange == proc_exchange;
    return ours ? ((const proc_link *)(const void *)l)->boot : NULL;
}

const char *comm_proc_job(const comm_link *l) {
    const boot *b = comm_proc_boot(l);
    return b ? boot_job(b) : "";
}

const uint8_t *comm_proc_cookie(const comm_link *l) {
    const boot *b = comm_proc_boot(l);
    return b ? boot_cookie(b) : NULL;
}

weft_status comm_proc_open(const launch *l, const char *kind, double timeout, comm_link **out) {
    launch at = *l;
    boot *b = NULL;
    comm_wire *wire = NULL;
    bool mpi = strcmp(kind, "mpi") == 0;
    timeout = timeout > 0 ? timeout : COMM_TIMEOUT_SECONDS;
    WEFT_TRY(mpi ? comm_mpi_open(&at, timeout, &b, &wire) : comm_tcp_open(&at, timeout, &b, &wire));
    proc_link *p = mem_alloc(sizeof *p);
    p->link = (comm_link){.transport = mpi ? &mpi_transport : &tcp_transport,
                          .rank = at.rank,
                          .ranks = at.ranks,
                          .timeout = timeout,
                          .flight = boot_flight(b)};
    p->boot = b;
    p->wire = wire;
    *out = &p->link;
    return WEFT_OK;
}

weft_status comm_proc_regroup(comm_link **link, const boot_rules *rules, int *rank, int *ranks) {
    proc_link *p = own(*link);
    boot_expect(p->boot, p->link.timeout + p->link.expected);
    if (p->wire)
        p->wire->kind->close(p->wire, true);
    p->wire = NULL;
    weft_status s = comm_tcp_again(&p->boot, p->link.timeout, rules, rank, ranks, &p->wire);
    if (!p->boot) {
        mem_free(p->stage);
        mem_free(p);
        *link = NULL;
        return s;
    }
    p->link.rank = *rank;
    p->link.ranks = *ranks;
    p->link.epoch = boot_epoch(p->boot);
    p->link.calls = 0;
    p->link.flight = boot_flight(p->boot);
    return WEFT_OK;
}

static bool is_kind(const char *kind, const char *what) {
    return strcmp(kind, what) == 0;
}

/* Links over memory of the host. */
static weft_status open_host(const launch *l, const char *kind, const char *flags, int ranks,
                             double timeout, comm_link **link, int *self) {
    *self = -1;
    if (is_kind(kind, "auto"))
        kind = l->ranks == 1 ? "local" : is_kind(l->by, "mpirun") ? "mpi" : "tcp";
    if (is_kind(kind, "local"))
        return comm_local_open(ranks, timeout, link);
    if (!l->by)
        return weft_fail(WEFT_USAGE,
                         "--comm %s: this process was not started by mpirun, srun or "
                         "torchrun, and RANK and WORLD_SIZE are not set",
                         kind);
    if (launch_refused())
        return weft_fail(WEFT_USAGE,
                         "weft %s: its ranks are threads of one process; start it once, or give "
                         "--comm local",
                         launch_refused());
    if (l->ranks != ranks)
        return weft_fail(WEFT_USAGE, "%s: %d ranks, but %s started %d processes", flags, ranks,
                         l->by, l->ranks);
    *self = l->rank;
    return comm_proc_open(l, kind, timeout, &link[l->rank]);
}

/* A process of a rank takes the GPU of its place on its host, or the only one it is shown. */
static weft_status open_nccl(device *d, const launch *l, const char *flags, int ranks,
                             double timeout, comm_link **link, int *self) {
    comm_link *base[COMM_MAX_RANKS] = {NULL};
    int gpu[COMM_MAX_RANKS];
    if (l->ranks == 1 && ranks > d->gpus)
        return weft_fail(WEFT_USAGE, "%s: %d ranks, but %d GPU%s here; a rank needs its own", flags,
                         ranks, d->gpus, d->gpus == 1 ? "" : "s");
    WEFT_TRY(open_host(l, "auto", flags, ranks, timeout, base, self));
    for (int r = 0; r < ranks; r++)
        gpu[r] = *self < 0 ? r : d->gpus == 1 ? 0 : l->local_rank;
    if (*self >= 0) {
        weft_status s = d->use(d, gpu[*self], true);
        if (s != WEFT_OK) {
            comm_abort(base[*self], s);
            comm_close(base[*self]);
            return s;
        }
    }
    return is_kind(d->backend, "emu") ? device_emu_nccl(d, base, ranks, gpu, link)
                                      : device_cuda_nccl(d, base, ranks, gpu, link);
}

static weft_status check_kind(const device *d, const char *kind) {
    bool gpu = d && d->gpus > 0, nccl = is_kind(kind, "nccl");
    if (nccl && !gpu)
        return weft_fail(WEFT_USAGE,
                         "--comm nccl: moves memory of GPUs, and this is the %s's; "
                         "--comm local, tcp or mpi does that",
                         d ? d->backend : "host");
    if (!nccl && !is_kind(kind, "auto") && gpu && is_kind(d->backend, "cuda"))
        return weft_fail(WEFT_USAGE,
                         "--comm %s: moves memory of the host; ranks on GPUs take "
                         "--comm nccl",
                         kind);
    return WEFT_OK;
}

weft_status comm_open(device *d, const char *kind, const char *flags, int ranks, double timeout,
                      comm_link **link, int *self) {
    launch l;
    kind = kind ? kind : "auto";
    WEFT_TRY(launch_read(&l));
    bool alone = ranks == 1 && (l.ranks == 1 || is_kind(kind, "local"));
    if (!alone)
        WEFT_TRY(check_kind(d, kind));
    if (!alone && (is_kind(kind, "nccl") || (d && is_kind(d->backend, "cuda"))))
        return open_nccl(d, &l, flags, ranks, timeout, link, self);
    return open_host(&l, alone && is_kind(kind, "nccl") ? "local" : kind, flags, ranks, timeout,
                     link, self);
}
