/* SPDX-License-Identifier: Apache-2.0
 * `weft bench --collectives`: how fast ranks talk, by the definitions of nccl-tests
 * (github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md): algbw is the operation's size over its time,
 * busbw what of it has to cross a link. */
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
#include <string.h>

enum { SIZES = 16, WARM = 2, MOVED_BYTES = 32 << 20, MOST_RUNS = 500, LEAST_RUNS = 5 };

static const weft_op ops[] = {WEFT_OP_all_gather, WEFT_OP_reduce_scatter, WEFT_OP_all_to_all,
                              WEFT_OP_broadcast, WEFT_OP_send};

typedef struct {
    int64_t bytes; /* of the whole operation */
    double seconds;
    uint64_t sent, formula; /* by rank 0 in one run; by the plan's formula */
} row;

typedef struct {
    int ranks, self; /* self -1: every rank is a thread */
    comm_link *link[COMM_MAX_RANKS];
    comm end[COMM_MAX_RANKS];
    weft_op op;
    int64_t bytes;
    int runs;
    row out;
    weft_status status[COMM_MAX_RANKS];
    char message[512];
} bench;

/* ---- One operation ---- */

static weft_tensor floats(void *data, int64_t n) {
    weft_tensor t = weft_tensor_make(WEFT_F32, 1, (int64_t[]){n});
    t.data = data;
    t.id = 1;
    return t;
}

/* Rank 0 sends to rank 1, whatever the number of ranks. */
static weft_args args_of(const bench *b, int rank, float *x, float *y) {
    int64_t n = b->bytes / 4, part = n / b->ranks;
    weft_args a = {0};
    switch (b->op) {
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

static void run_rank(void *ctx, int thread) {
    bench *b = ctx;
    int rank = b->self < 0 ? thread : b->self;
    comm *c = &b->end[rank];
    size_t n = (size_t)b->bytes;
    float *x = mem_alloc(n), *y = mem_alloc(n), *scratch = mem_alloc(n);
    weft_op op = b->op == WEFT_OP_send && rank > 0 ? WEFT_OP_recv : b->op;
    weft_step s = {.kernel = row_of(op), .state = c, .scratch = scratch, .tag = "bench"};
    s.args = args_of(b, rank, x, y);
    bool idle = b->op == WEFT_OP_send && rank > 1;
    double begin = 0;
    uint64_t sent = 0;
    for (int i = -WARM; i < b->runs; i++) {
        if (i == 0) {
            comm_barrier(c, "bench");
            begin = clock_seconds();
            sent = c->sent;
        }
        if (!idle)
            s.kernel->run(&s, NULL);
    }
    uint64_t moved = c->sent - sent;
    comm_barrier(c, "bench");
    if (rank == 0)
        b->out = (row){b->bytes, (clock_seconds() - begin) / b->runs, moved / (uint64_t)b->runs,
                       (uint64_t)comm_sent_bytes(op, &s.args, b->ranks)};
    b->status[rank] = comm_status(c->link);
    mem_free(scratch);
    mem_free(y);
    mem_free(x);
}

/* ---- The table ---- */

static double bus_share(weft_op op, int ranks) {
    return op == WEFT_OP_broadcast || op == WEFT_OP_send ? 1 : (double)(ranks - 1) / ranks;
}

static void print_row(const bench *b, bool json, bool first, buf *out) {
    const row *r = &b->out;
    double algbw = (double)r->bytes / r->seconds / 1e9, busbw = algbw * bus_share(b->op, b->ranks);
    const char *name = weft_op_table[b->op].name,
               *over = b->link[b->self < 0 ? 0 : b->self]->transport->name;
    if (json)
        buf_printf(
            out,
            "%s{\"op\":\"%s\",\"transport\":\"%s\",\"ranks\":%d,\"bytes\":%" PRId64
            ",\"seconds\":%.9f,\"algbw_gb_s\":%.4f,\"busbw_gb_s\":%.4f,\"sent_bytes\":%" PRIu64
            ",\"planned_bytes\":%" PRIu64 "}",
            first ? "" : ",\n ", name, over, b->ranks, r->bytes, r->seconds, algbw, busbw, r->sent,
            r->formula);
    else
        buf_printf(out, "%-16s %-6s %6d %12" PRId64 " %12.2f %10.3f %10.3f %12" PRIu64 "\n", name,
                   over, b->ranks, r->bytes, r->seconds * 1e6, algbw, busbw, r->sent);
}

static weft_status measure(bench *b, sched_team *team, weft_op op, int64_t bytes) {
    int64_t runs = MOVED_BYTES / bytes;
    b->op = op;
    b->bytes = bytes / (4 * b->ranks) * (4 * b->ranks);
    b->runs = (int)(runs < LEAST_RUNS ? LEAST_RUNS : runs > MOST_RUNS ? MOST_RUNS : runs);
    int self = b->self < 0 ? 0 : b->self;
    comm_step(b->link[self], 0, (double)bytes * b->runs / 1e7);
    sched_team_run(team, run_rank, b);
    return comm_status(b->link[self]);
}

static weft_status measure_all(bench *b, sched_team *team, const bench_comm_args *a, buf *out) {
    bool first = true;
    if (a->json)
        buf_puts(out, "[");
    else
        buf_printf(out, "%-16s %-6s %6s %12s %12s %10s %10s %12s\n", "op", "over", "ranks", "bytes",
                   "us", "algbw GB/s", "busbw GB/s", "sent");
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        for (int64_t n = a->least; n <= a->most; n *= 4, first = false) {
            WEFT_TRY(measure(b, team, ops[i], n));
            print_row(b, a->json, first, out);
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
    weft_status s = comm_open(NULL, a->comm, "--tp", a->ranks, a->timeout, b->link, &b->self);
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
    mem_free(b);
    return s;
}
