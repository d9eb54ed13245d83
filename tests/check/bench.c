/* SPDX-License-Identifier: Apache-2.0
 * How fast each row is beside what this machine can do: a run's compulsory bytes at the read
 * bandwidth of a working set of that size, or its operations at the peak, whichever takes longer,
 * over the median of several runs. The rows of a shape take turns, so that noise meets them
 * alike. */
#include "host/base/clock.h"
#include "host/base/thread.h"
#include "host/run/ceiling.h"
#include "host/run/registry.h"
#include "tests/check/check.h"
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 16, ROUNDS = 7 };

typedef struct {
    check_state *k;
    check_backend *b; /* whose device and streams are used */
    weft_stream *stream;
    double fma, bf16;   /* operations per second */
    int64_t read_bytes; /* working set the last bandwidth was measured on */
    double read;
    bool json, first;
} bench;

typedef struct {
    const weft_kernel *row;
    weft_step step;
    double took[ROUNDS]; /* seconds a run */
    int n;
} contender;

/* All operands in device memory; every run uses the same. */
static char *place(bench *b, const check_set *s, size_t scratch, size_t *bytes, size_t *scratch_at,
                   size_t off[CHECK_OPERANDS]) {
    void *block;
    *bytes = 0;
    for (int i = 0; i < s->n; i++) {
        off[i] = *bytes;
        *bytes += (s->operand[i].bytes + 63) / 64 * 64;
    }
    *scratch_at = *bytes;
    *bytes += scratch + 64;
    if (b->b->device->alloc(b->b->device, *bytes, "bench", &block) != WEFT_OK)
        return NULL;
    for (int i = 0; i < s->n; i++)
        b->b->device->copy(b->b->device, b->stream, (char *)block + off[i], s->operand[i].image,
                           s->operand[i].bytes, DEVICE_TO);
    return block;
}

static void aim(contender *c, const check_set *s, char *block, const size_t *off, size_t scratch_at,
                arena *a) {
    c->step.kernel = c->row;
    c->step.args = s->args;
    c->step.scratch = block + scratch_at;
    c->step.state = c->row->state_bytes ? arena_alloc(a, c->row->state_bytes) : NULL;
    for (int i = 0; i < s->n; i++) {
        size_t at = (size_t)((char *)s->operand[i].at - (char *)&s->args);
        ((weft_tensor *)((char *)&c->step.args + at))->data = block + off[i] + s->operand[i].first;
    }
    weft_op_table[c->row->op].cost(&c->step.args, &c->step.bytes, &c->step.flops);
    if (c->row->bind)
        c->row->bind(&c->step, c->step.state);
}

static void time_round(bench *b, contender *c, int64_t runs) {
    double from = clock_seconds();
    for (int64_t i = 0; i < runs; i++)
        c->row->run(&c->step, b->stream);
    b->b->device->sync(b->b->device, b->stream);
    c->took[c->n++] = (clock_seconds() - from) / (double)runs;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Read bandwidth for about that many bytes; sets of nearly the same size share one measurement. */
static double read_ceiling(bench *b, int64_t bytes) {
    if (bytes > b->read_bytes * 5 / 4 || bytes < b->read_bytes * 4 / 5 || b->read_bytes == 0) {
        b->read = ceiling_read(b->stream, b->b->device->level, bytes, 0.15);
        b->read_bytes = bytes;
    }
    return b->read;
}

static void print_row(bench *b, const check_case *c, contender *t) {
    buf shape;
    buf_init(&shape, 4096);
    check_case_print(&shape, c);
    qsort(t->took, (size_t)t->n, sizeof *t->took, ascending);
    double s = t->took[t->n / 2], bw = read_ceiling(b, t->step.bytes);
    double peak = t->row->arith == WEFT_ARITH_BF16DOT && b->bf16 > b->fma ? b->bf16 : b->fma;
    double by_bytes = bw > 0 ? (double)t->step.bytes / bw : 0,
           by_flops = (double)t->step.flops / peak;
    double share = 100 * (by_bytes > by_flops ? by_bytes : by_flops) / s;
    const char *numbers = strchr(strchr(shape.data, ':') + 1, ':') + 1;
    if (b->json)
        printf("%s{\"op\":\"%s\",\"shape\":\"%s,row=%s\",\"dtype\":\"%s\",\"us\":%.3f,\"tflop_s\":%"
               ".5f,"
               "\"gb_s\":%.3f,\"share\":%.4f,\"ratio_to_vendor\":null}",
               b->first ? "[" : ",\n ", weft_op_table[c->op->op].name, numbers, t->row->name,
               weft_dtype_name(c->dtype), s * 1e6, (double)t->step.flops / s * 1e-12,
               (double)t->step.bytes / s * 1e-9, share / 100);
    else
        printf("%-13s %s,row=%s %s %.1f %.4f %.2f %.1f -\n", weft_op_table[c->op->op].name, numbers,
               t->row->name, weft_dtype_name(c->dtype), s * 1e6, (double)t->step.flops / s * 1e-12,
               (double)t->step.bytes / s * 1e-9, share);
    b->first = false;
    fflush(stdout);
    buf_fini(&shape);
}

static int contenders(const bench *b, const check_set *s, const char *glob, contender *c,
                      size_t *scratch) {
    int n = 0;
    *scratch = 0;
    for (int t = 0; registry_tables[t]; t++)
        for (const weft_kernel *r = registry_tables[t]; r->name; r++) {
            bool ours = strcmp(r->backend, b->b->name) == 0 ||
                        (strcmp(r->backend, "ref") == 0 && strcmp(glob, "*") != 0);
            bool rescue = ours && strcmp(r->backend, "cpu") == 0 && r->cap == WEFT_CPU_PORTABLE &&
                          b->b->device->level > WEFT_CPU_PORTABLE; /* emulates fma: takes minutes */
            if (r->op != s->c.op->op || !ours || rescue || fnmatch(glob, r->backend, 0) ||
                n == MOST_ROWS || !weft_kernel_fits(r, b->b->device->level) ||
                (r->ok && !r->ok(&s->args)))
                continue;
            size_t need = r->scratch ? r->scratch(&s->args) : 0;
            *scratch = need > *scratch ? need : *scratch;
            c[n++] = (contender){.row = r};
        }
    return n;
}

static void bench_case(bench *b, const check_case *c, const char *glob) {
    contender *t = mem_alloc(MOST_ROWS * sizeof *t);
    check_set s;
    size_t scratch, bytes, scratch_at, off[CHECK_OPERANDS] = {0};
    check_set_init(&s, c, 1);
    s.aligned = true;
    c->op->build(&s);
    int n = contenders(b, &s, glob, t, &scratch);
    char *block = n ? place(b, &s, scratch, &bytes, &scratch_at, off) : NULL;
    int64_t runs[MOST_ROWS];
    for (int i = 0; block && i < n; i++) {
        aim(&t[i], &s, block, off, scratch_at, &s.mem);
        time_round(b, &t[i], 1); /* warm up */
        t[i].n = 0;
        time_round(b, &t[i], 1);
        runs[i] = t[i].took[0] > 0.01 ? 1 : (int64_t)(0.01 / (t[i].took[0] + 1e-7)) + 1;
    }
    for (int round = 1; block && round < ROUNDS; round++)
        for (int i = 0; i < n; i++)
            if (t[i].took[0] < 0.3 || round < 2)
                time_round(b, &t[i], runs[i]);
    for (int i = 0; block && i < n; i++)
        print_row(b, c, &t[i]);
    if (block)
        b->b->device->release(b->b->device, block, bytes);
    check_set_fini(&s);
    mem_free(t);
}

int check_bench(check_state *k, const char *op_glob, const char *backend_glob, bool json) {
    bench b = {.k = k, .b = &k->backends[1], .json = json, .first = true};
    device *d = b.b->device;
    if (d->stream_open(d, thread_cores(), &b.stream) != WEFT_OK)
        return 4;
    b.fma = ceiling_fma(b.stream, d->level, 0.3);
    b.bf16 = ceiling_bf16(b.stream, d->level, 0.3);
    if (!json)
        printf("op shape dtype us TFLOP/s GB/s %%ceiling ratio-to-vendor\n");
    for (int i = 0; check_ops[i]; i++) {
        const char *const *text = check_ops[i]->bench;
        if (!text || fnmatch(op_glob, weft_op_table[check_ops[i]->op].name, 0))
            continue;
        for (; *text; text++) {
            check_case c;
            if (check_case_parse(check_ops[i], *text, &c, NULL))
                bench_case(&b, &c, backend_glob);
        }
    }
    if (json)
        printf("%s]\n", b.first ? "[" : "");
    fprintf(stderr,
            "ceilings here, %d threads, level %s: %.1f GFLOP/s fp32, %.1f GFLOP/s bf16 pairs, "
            "%.1f GB/s read from 256 MiB\n",
            b.stream->threads, device_cpu_level_name(d->level), b.fma * 1e-9, b.bf16 * 1e-9,
            ceiling_read(b.stream, d->level, 256 << 20, 0.3) * 1e-9);
    d->stream_close(d, b.stream);
    return 0;
}
