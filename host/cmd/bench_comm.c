/* SPDX-License-Identifier: Apache-2.0
 * `weft bench --comm`: how fast ranks talk, by the definitions of nccl-tests
 * (github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md): algbw is the operation's size over its time,
 * busbw what of it has to cross a link. all_reduce is weft's, in rank order; all_reduce_own the
 * transport's, in an order of its own, and `ratio` the time of the one over that of the other,
 * which take turns. */
#include "host/base/clock.h"
#include "host/base/err.h"
#include "host/base/mem.h"
#include "host/cmd/bench.h"
#include "host/cmd/cmd.h"
#include "host/run/comm_proc.h"
#include "host/run/ops.h"
#include "host/run/sched.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM = 2, ROUNDS = 21, MOVED_BYTES = 32 << 20, MOST_RUNS = 20 };

typedef enum { MOVES, ORDERED, OWN } kind;
static const struct {
    const char *name;
    weft_op op;
    kind kind;
} cases[] = {{"all_gather", WEFT_OP_all_gather, MOVES},
             {"reduce_scatter", WEFT_OP_reduce_scatter, MOVES},
             {"all_to_all", WEFT_OP_all_to_all, MOVES},
             {"broadcast", WEFT_OP_broadcast, MOVES},
             {"send", WEFT_OP_send, MOVES},
             {"all_reduce", WEFT_OP_reduce_scatter, ORDERED},
             {"all_reduce_own", WEFT_OP_reduce_scatter, OWN}};
enum { CASES = sizeof cases / sizeof *cases, FIRST_SUM = 5 };

typedef struct {
    int64_t bytes; /* of the whole operation */
    double seconds;
    uint64_t sent, formula; /* by rank 0 in one run; by the plan's formula */
} row;

typedef struct {
    int ranks, self; /* self -1: every rank is a thread */
    device *dev;     /* whose memory is moved; NULL: the host's */
    comm_link *link[COMM_MAX_RANKS];
    comm end[COMM_MAX_RANKS];
    int first, last; /* of `cases`, which take turns */
    int64_t bytes;
    int runs;
    row out[CASES];
    weft_status status[COMM_MAX_RANKS];
} bench;

/* What a rank works with. */
typedef struct {
    bench *b;
    comm *c;
    int rank, at; /* at: the case */
    float *x, *y, *scratch;
    weft_stream *stream;
    weft_step step;
} bench_rank;

/* ---- One operation ---- */

static weft_tensor floats(void *data, int64_t n) {
    weft_tensor t = weft_tensor_make(WEFT_F32, 1, (int64_t[]){n});
    t.data = data;
    t.id = 1;
    return t;
}

/* Rank 0 sends to rank 1, whatever the number of ranks. */
static weft_args args_of(const bench *b, weft_op op, int rank, float *x, float *y) {
    int64_t n = b->bytes / 4, part = n / b->ranks;
    weft_args a = {0};
    switch (op) {
    case WEFT_OP_all_gather:
        a.all_gather = (weft_all_gather_args){.x = floats(x, part), .y = floats(y, n)};
        break;
    case WEFT_OP_reduce_scatter:
        a.reduce_scatter = (weft_reduce_scatter_args){.x = floats(x, n), .y = floats(y, part)};
        break;
    case WEFT_OP_all_to_all:
        a.all_to_all = (weft_all_to_all_args){.x = floats(x, n), .y = floats(y, n)};
        break;
    case WEFT_OP_broadcast: a.broadcast = (weft_broadcast_args){.x = floats(x, n)}; break;
    default:
        if (rank == 0)
            a.send = (weft_send_args){.x = floats(x, n), .peer = 1};
        else
            a.recv = (weft_recv_args){.y = floats(y, n), .peer = 0};
    }
    return a;
}

static const weft_kernel *row_of(weft_op op) {
    for (const weft_kernel *k = comm_host_kernels; k->name; k++)
        if (k->op == op)
            return k;
    return NULL;
}

static comm_part part(int peer, float *at, int64_t n) {
    return (comm_part){.peer = peer, .t = floats(at, n)};
}

/* The ring that libraries use, each part summed along the way: for transports without one. */
static weft_status ring(bench_rank *r) {
    int n = r->b->ranks, next = (r->rank + 1) % n, before = (r->rank + n - 1) % n;
    int64_t each = r->b->bytes / 4 / n;
    for (int s = 0; s < 2 * (n - 1); s++) {
        bool sums = s < n - 1;
        int out = (r->rank - s + 2 * n) % n, in = (r->rank - s - 1 + 2 * n) % n;
        float *to = r->x + in * each, *from = sums ? r->scratch : to;
        if (!sums) {
            out = (r->rank + 1 - (s - n + 1) + 2 * n) % n;
            in = (r->rank - (s - n + 1) + 2 * n) % n;
            from = r->x + in * each;
        }
        comm_part send = part(next, r->x + out * each, each), recv = part(before, from, each);
        WEFT_TRY(comm_shift(r->c, &send, &recv, "ring"));
        const float *both[2] = {to, from};
        if (sums)
            comm_sum(to, both, 2, each);
    }
    return WEFT_OK;
}

static weft_status run_sum(bench_rank *r) {
    const comm_transport *t = r->c->link->transport;
    int64_t n = r->b->bytes / 4;
    if (cases[r->at].kind == ORDERED)
        return comm_all_reduce(r->c, r->stream, r->x, n, r->scratch, "bench");
    if (t->on_stream)
        return t->on_stream->all_reduce(r->c->link, r->stream, r->x, (uint64_t)n);
    return t->all_reduce ? t->all_reduce(r->c->link, r->x, (uint64_t)n) : ring(r);
}

static void run_once(bench_rank *r) {
    bool idle = cases[r->at].op == WEFT_OP_send && r->rank > 1;
    if (cases[r->at].kind != MOVES)
        r->b->status[r->rank] = run_sum(r);
    else if (!idle)
        r->step.kernel->run(&r->step, r->stream);
}

/* Seconds of one run of the case; *sent: bytes of it. */
static double timed(bench_rank *r, int runs, uint64_t *sent) {
    comm_barrier(r->c, "bench");
    uint64_t before = r->c->sent;
    double begin = clock_seconds();
    for (int i = 0; i < runs; i++)
        run_once(r);
    comm_finish(r->c->link);
    *sent = (r->c->sent - before) / (uint64_t)runs;
    comm_barrier(r->c, "bench");
    return (clock_seconds() - begin) / runs;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static uint64_t formula_of(const bench_rank *r) {
    int64_t n = r->b->ranks, each = r->b->bytes / n;
    return cases[r->at].kind == MOVES
               ? (uint64_t)comm_sent_bytes(r->step.kernel->op, &r->step.args, r->b->ranks, r->rank)
               : (uint64_t)(2 * (n - 1) * each);
}

static void prepare(bench_rank *r, int at) {
    weft_op op = cases[at].op == WEFT_OP_send && r->rank > 0 ? WEFT_OP_recv : cases[at].op;
    r->at = at;
    r->step = (weft_step){.kernel = row_of(op), .state = r->c, .scratch = r->scratch};
    r->step.args = args_of(r->b, cases[at].op, r->rank, r->x, r->y);
    snprintf(r->step.tag, sizeof r->step.tag, "bench");
}

/* The cases take turns, so that what else the machine does meets all of them. */
static void take_turns(bench_rank *r) {
    bench *b = r->b;
    double seconds[CASES][ROUNDS];
    uint64_t sent;
    for (int round = -1; round < ROUNDS; round++)
        for (int i = b->first; i <= b->last; i++) {
            prepare(r, i);
            double t = timed(r, round < 0 ? WARM : b->runs, &sent);
            if (round >= 0)
                seconds[i][round] = t;
            if (r->rank == 0)
                b->out[i] = (row){b->bytes, 0, sent, formula_of(r)};
        }
    for (int i = b->first; r->rank == 0 && i <= b->last; i++) {
        qsort(seconds[i], ROUNDS, sizeof seconds[i][0], by_value);
        b->out[i].seconds = seconds[i][ROUNDS / 2];
    }
}

/* Written once: pages that are not are all one page, which is read at the speed of a cache. */
static weft_status take(device *d, uint64_t bytes, float **out) {
    void *p = NULL;
    if (!d) {
        *out = mem_alloc(bytes);
        memset(*out, 0, bytes);
        return WEFT_OK;
    }
    WEFT_TRY(d->alloc(d, bytes, "bench", &p));
    *out = p;
    return d->zero(d, NULL, p, bytes);
}

static void give(device *d, float *p, uint64_t bytes) {
    if (d)
        d->release(d, p, bytes);
    else
        mem_free(p);
}

static void run_rank(void *ctx, int thread) {
    bench *b = ctx;
    int rank = b->self < 0 ? thread : b->self;
    bench_rank r = {.b = b, .c = &b->end[rank], .rank = rank};
    uint64_t n = (uint64_t)b->bytes, room = comm_all_reduce_scratch(b->bytes / 4, b->ranks);
    weft_status s = comm_attend(r.c->link);
    s = s == WEFT_OK ? take(b->dev, n, &r.x) : s;
    s = s == WEFT_OK ? take(b->dev, n, &r.y) : s;
    s = s == WEFT_OK ? take(b->dev, room, &r.scratch) : s;
    if (s == WEFT_OK && b->dev)
        s = b->dev->stream_open(b->dev, 1, &r.stream);
    if (s == WEFT_OK)
        take_turns(&r);
    else
        comm_abort(r.c->link, s);
    b->status[rank] = comm_status(r.c->link);
    if (r.stream)
        b->dev->stream_close(b->dev, r.stream);
    give(b->dev, r.scratch, room);
    give(b->dev, r.y, n);
    give(b->dev, r.x, n);
}

/* ---- The table ---- */

static double bus_share(int at, int ranks) {
    weft_op op = cases[at].op;
    double share = (double)(ranks - 1) / ranks;
    return op == WEFT_OP_broadcast || op == WEFT_OP_send ? 1
           : cases[at].kind == MOVES                     ? share
                                                         : 2 * share;
}

static void print_row(const bench *b, int at, bool json, bool first, buf *out) {
    const row *r = &b->out[at];
    double algbw = (double)r->bytes / r->seconds / 1e9, busbw = algbw * bus_share(at, b->ranks);
    const char *over = b->link[b->self < 0 ? 0 : b->self]->transport->name;
    char ratio[32] = "";
    if (cases[at].kind == ORDERED)
        snprintf(ratio, sizeof ratio, json ? ",\"ratio\":%.4f" : " %8.2f",
                 r->seconds / b->out[at + 1].seconds);
    if (json)
        buf_printf(
            out,
            "%s{\"op\":\"%s\",\"transport\":\"%s\",\"ranks\":%d,\"bytes\":%" PRId64
            ",\"seconds\":%.9g,\"algbw_gb_s\":%.4f,\"busbw_gb_s\":%.4f,\"sent_bytes\":%" PRIu64
            ",\"planned_bytes\":%" PRIu64 "%s}",
            first ? "" : ",\n ", cases[at].name, over, b->ranks, r->bytes, r->seconds, algbw, busbw,
            r->sent, r->formula, ratio);
    else
        buf_printf(out, "%-16s %-6s %6d %12" PRId64 " %12.2f %10.3f %10.3f %12" PRIu64 "%s\n",
                   cases[at].name, over, b->ranks, r->bytes, r->seconds * 1e6, algbw, busbw,
                   r->sent, ratio);
}

static weft_status measure(bench *b, sched_team *team, int first, int last, int64_t bytes) {
    int64_t runs = MOVED_BYTES / ROUNDS / bytes;
    b->first = first;
    b->last = last;
    b->bytes = bytes / (4 * b->ranks) * (4 * b->ranks);
    b->runs = (int)(runs < 1 ? 1 : runs > MOST_RUNS ? MOST_RUNS : runs);
    for (int r = 0; r < b->ranks; r++)
        if (b->link[r])
            comm_step(b->link[r], 0, (double)bytes * b->runs / 1e7);
    sched_team_run(team, run_rank, b);
    return comm_status(b->link[b->self < 0 ? 0 : b->self]);
}

static weft_status measure_all(bench *b, sched_team *team, const bench_comm_args *a, buf *out) {
    bool first = true;
    if (a->json)
        buf_puts(out, "[");
    else
        buf_printf(out, "%-16s %-6s %6s %12s %12s %10s %10s %12s %8s\n", "op", "over", "ranks",
                   "bytes", "us", "algbw GB/s", "busbw GB/s", "sent", "ratio");
    for (int i = 0; i <= FIRST_SUM; i++)
        for (int64_t n = a->least; n <= a->most; n *= 4) {
            int last = i < FIRST_SUM ? i : CASES - 1;
            WEFT_TRY(measure(b, team, i, last, n));
            for (int k = i; k <= last; k++, first = false)
                print_row(b, k, a->json, first, out);
        }
    buf_puts(out, a->json ? "]\n" : "");
    return WEFT_OK;
}

weft_status bench_comm(const bench_comm_args *a) {
    bench *b = mem_alloc(sizeof *b);
    sched_team *team = NULL;
    buf out;
    int all[COMM_MAX_RANKS];
    b->self = -1;
    b->ranks = a->ranks;
    weft_status s = a->device ? device_open(a->device, NULL, &b->dev) : WEFT_OK;
    if (b->dev && b->dev->host_memory) {
        device_close(b->dev);
        b->dev = NULL;
    }
    if (s == WEFT_OK)
        s = comm_open(b->dev, a->comm, "--tp", a->ranks, a->timeout, b->link, &b->self);
    for (int r = 0; r < a->ranks; r++)
        all[r] = r;
    for (int r = 0; s == WEFT_OK && r < a->ranks; r++)
        if (b->link[r])
            b->end[r] = comm_group(b->link[r], WEFT_GROUP_WORLD, a->ranks, all);
    if (s == WEFT_OK)
        s = sched_team_open(b->self < 0 ? a->ranks : 1, &team);
    buf_init(&out, SIZE_MAX);
    if (s == WEFT_OK)
        s = measure_all(b, team, a, &out);
    if (s == WEFT_OK)
        s = cmd_flush(&out);
    buf_fini(&out);
    sched_team_close(team);
    for (int r = 0; r < a->ranks; r++)
        comm_close(b->link[r]);
    device_close(b->dev);
    mem_free(b);
    return s;
}
